//! One value for one file of a cgroup, and carrying out a list of them.

use std::borrow::Cow;
use std::io;

use super::dir::Dir;
use crate::error::{Cause, Error, Kind, Result};

/// What to do where the file does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// The spec asked for something that this host cannot do.
    Refuse,
    /// Nothing is lost without it.
    Skip,
    /// Another file means the same in another scale.
    Instead {
        /// Its name.
        file: &'static str,
        /// The value in its scale.
        value: String,
    },
}

/// A value that goes into a file of the cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The field of the spec that asks for it, such as `linux.resources.memory.limit`.
    pub field: Cow<'static, str>,
    /// The controller that owns the file, as v1 names its hierarchy and v2 its controller.
    pub controller: Cow<'static, str>,
    /// The file.
    pub file: Cow<'static, str>,
    /// What is written, in one write(2).
    pub value: String,
    /// What to do where the file does not exist.
    pub missing: Missing,
    /// Files that bound each other (quota and period, memory and memory+swap) refuse with `EINVAL` while the other
    /// still has its old value. Such a write is tried again after all the others, which makes the order right
    /// whether the limits go up or down.
    pub again: bool,
}

impl Write {
    /// A write that must succeed.
    pub(crate) fn new(
        field: &'static str,
        controller: &'static str,
        file: impl Into<Cow<'static, str>>,
        value: impl ToString,
    ) -> Self {
        Self {
            field: Cow::Borrowed(field),
            controller: Cow::Borrowed(controller),
            file: file.into(),
            value: value.to_string(),
            missing: Missing::Refuse,
            again: false,
        }
    }

    pub(crate) fn or_skip(mut self) -> Self {
        self.missing = Missing::Skip;
        self
    }

    pub(crate) fn or_instead(mut self, file: &'static str, value: impl ToString) -> Self {
        self.missing = Missing::Instead { file, value: value.to_string() };
        self
    }

    pub(crate) fn and_again(mut self) -> Self {
        self.again = true;
        self
    }

    /// `Ok(false)`: refused for now, to be tried again.
    fn to(&self, dir: &Dir, last: bool) -> Result<bool> {
        match self.attempt(dir) {
            Ok(()) => Ok(true),
            Err(error) if self.again && !last && error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            Err(error) => Err(self.explain(dir, error)),
        }
    }

    fn attempt(&self, dir: &Dir) -> io::Result<()> {
        let result = dir.write(&self.file, &self.value);
        match (&result, &self.missing) {
            (Err(error), Missing::Skip) if is_missing(error) => Ok(()),
            (Err(error), Missing::Instead { file, value }) if is_missing(error) => dir.write(file, value),
            _ => result,
        }
    }

    fn explain(&self, dir: &Dir, error: io::Error) -> Error {
        if is_missing(&error) && !dir.has_controller(&self.controller) {
            return missing_controller(&self.field, &self.controller).because(error);
        }
        let busy = error.raw_os_error() == Some(libc::EBUSY);
        let doing =
            format!("{}: write {:?} to {}", self.field, self.value, dir.path().join(&*self.file).display());
        let error = Error::new(Cause::kind(&error), doing).because(error);
        match dir.read("memory.usage_in_bytes") {
            Ok(usage) if busy => error.hint(format!("the cgroup uses {} bytes now", usage.trim())),
            _ => error,
        }
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT))
}

/// The spec asks for a limit whose controller this host does not have.
pub(crate) fn missing_controller(field: &str, controller: &str) -> Error {
    let error =
        Error::new(Kind::Unsupported, format!("{field}: this cgroup has no {controller:?} controller"));
    match controller {
        // The kernels of the Raspberry Pi switch it off unless told.
        "memory" => error.hint("enable it on the kernel command line: cgroup_enable=memory"),
        _ => error
            .hint("see cgroup.controllers of the parent cgroup, /proc/cgroups, and the kernel command line"),
    }
}

/// Writes all of them; `dir_of` finds the directory of a controller.
///
/// # Errors
/// Names the field of the spec whose write failed. What was written before stays written.
pub(crate) fn write_all<'d>(writes: &[Write], dir_of: impl Fn(&str) -> Option<&'d Dir>) -> Result<()> {
    let mut again = Vec::new();
    for write in writes {
        match dir_of(&write.controller) {
            Some(dir) if write.to(dir, false)? => {}
            Some(dir) => again.push((write, dir)),
            None if write.missing == Missing::Skip => {}
            None => return Err(missing_controller(&write.field, &write.controller)),
        }
    }
    again.iter().try_for_each(|(write, dir)| write.to(dir, true).map(drop))
}

/// The controllers that the writes need; `cgroup.*` files need none.
pub(crate) fn controllers(writes: &[Write]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for write in writes {
        if write.controller != "cgroup" && !names.iter().any(|name| *name == write.controller) {
            names.push(write.controller.clone().into_owned());
        }
    }
    names
}
