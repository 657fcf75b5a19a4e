//! Writes of values to cgroup files.

use std::borrow::Cow;
use std::io;

use super::dir::Dir;
use crate::error::{Cause, Error, Kind, Result};

/// The action when the file does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// Refuse: the host cannot do what the spec requires.
    Refuse,
    /// Ignore the write: the limit has no effect without the file.
    Skip,
    /// Write another file, which sets the same limit in another unit.
    Instead {
        /// The other file's name.
        file: &'static str,
        /// The value in its unit.
        value: String,
    },
}

/// A value for a file of the cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The field of the spec that requires it, such as `linux.resources.memory.limit`.
    pub field: Cow<'static, str>,
    /// The controller that owns the file: v1 has a hierarchy of this name.
    pub controller: Cow<'static, str>,
    /// The file's name.
    pub file: Cow<'static, str>,
    /// The value, written in one write(2).
    pub value: String,
    /// The action when the file does not exist.
    pub missing: Missing,
    /// Without its controller or file there is nothing to limit, so the write is left out whatever `missing` says.
    pub optional: bool,
    /// Files that bound each other (quota and period, memory and memory+swap) refuse with `EINVAL` while the other
    /// still has its old value. Such a write is retried after all others, so that the order is right whether limits go
    /// up or down.
    pub retry: bool,
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
            optional: false,
            retry: false,
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

    pub(crate) fn or_retry(mut self) -> Self {
        self.retry = true;
        self
    }

    /// `Ok(false)`: refused for now, to be retried.
    fn to(&self, dir: &Dir, last: bool) -> Result<bool> {
        match self.attempt(dir) {
            Ok(()) => Ok(true),
            Err(error) if self.retry && !last && error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            Err(error) => Err(self.explain(dir, error)),
        }
    }

    fn attempt(&self, dir: &Dir) -> io::Result<()> {
        let result = match (dir.write(&self.file, &self.value), &self.missing) {
            (Err(error), Missing::Skip) if is_missing(&error) => Ok(()),
            (Err(error), Missing::Instead { file, value }) if is_missing(&error) => dir.write(file, value),
            (result, _) => result,
        };
        match result {
            Err(error) if self.optional && is_missing(&error) => Ok(()),
            other => other,
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

/// The error for a limit whose controller this host does not have.
pub(crate) fn missing_controller(field: &str, controller: &str) -> Error {
    let error =
        Error::new(Kind::Unsupported, format!("{field}: this cgroup has no {controller:?} controller"));
    match controller {
        // The kernels of the Raspberry Pi disable it by default.
        "memory" => error.hint("enable it on the kernel command line: cgroup_enable=memory"),
        _ => error
            .hint("see cgroup.controllers of the parent cgroup, /proc/cgroups, and the kernel command line"),
    }
}

/// Writes all values; `dir_of` returns the directory of a controller.
///
/// # Errors
/// Those of the writes, naming the field of the spec. Earlier writes stay in effect.
pub(crate) fn write_all<'d>(writes: &[Write], dir_of: impl Fn(&str) -> Option<&'d Dir>) -> Result<()> {
    let mut retries = Vec::new();
    for write in writes {
        match dir_of(&write.controller) {
            Some(dir) if write.to(dir, false)? => {}
            Some(dir) => retries.push((write, dir)),
            None if write.missing == Missing::Skip || write.optional => {}
            None => return Err(missing_controller(&write.field, &write.controller)),
        }
    }
    retries.iter().try_for_each(|(write, dir)| write.to(dir, true).map(drop))
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
