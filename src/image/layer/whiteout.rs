//! Whiteouts and opaque directories in overlayfs form, independent of their order in the layer.
//!
//! A whiteout hides lower layers only. Where the layer itself has something of that name, a file hides the path below
//! simply by existing, and a directory is made opaque. Inside an opaque directory nothing needs hiding, and overlayfs
//! would even list whiteouts there, so they are removed from it.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::lookup::{At, Existing, lookup, system};
use super::name::{join, split};
use super::tree::{For, Tree, is_whiteout};
use crate::error::Result;

/// The mark of an opaque directory (overlayfs documentation, "whiteouts and opaque directories").
const OPAQUE: &str = "trusted.overlay.opaque";
/// The same for mounts in a user namespace, with the option `userxattr`.
const USER_OPAQUE: &str = "user.overlay.opaque";

impl Tree {
    /// Applies the whiteout of `path`.
    ///
    /// # Errors
    /// The kernel's error.
    pub(super) fn hide(&mut self, path: &[u8]) -> Result<()> {
        let (parent, name) = split(path);
        let Some(parent) = self.parent(parent, For::Whiteout)? else { return Ok(()) };
        if self.in_opaque(&parent.path) {
            return Ok(());
        }
        let at = parent.at(name);
        let path = join(&parent.path, name);
        match lookup(at)? {
            Existing::Whiteout | Existing::Link | Existing::Other => return Ok(()),
            Existing::Dir if !self.dirs.get(&path).is_some_and(|dir| dir.only_hides) => {
                return self.make_opaque(&path);
            }
            Existing::Dir => self.remove(at, &path)?,
            Existing::Nothing => {}
        }
        let made = rustix::fs::mknodat(at.dir, at.name, FileType::CharacterDevice, Mode::empty(), 0);
        system("make a whiteout, which needs CAP_MKNOD or kernel 5.8 in a user namespace", made)?;
        self.note_whiteout(&path)
    }

    /// Applies the opaque marker in the directory `path`.
    ///
    /// # Errors
    /// The kernel's error.
    pub(super) fn hide_all_in(&mut self, path: &[u8]) -> Result<()> {
        let Some(parent) = self.parent(path, For::Member)? else { return Ok(()) };
        self.make_opaque(&parent.path)
    }

    /// Marks the directory with this canonical path, and removes whiteouts and marks that become unnecessary.
    pub(super) fn make_opaque(&mut self, path: &[u8]) -> Result<()> {
        if self.in_opaque(path) {
            return Ok(());
        }
        let fd = system("open a directory of the layer", self.open(path, OFlags::RDONLY))?;
        let marked = match rustix::fs::fsetxattr(&fd, OPAQUE, b"y", XattrFlags::empty()) {
            Err(Errno::PERM) => rustix::fs::fsetxattr(&fd, USER_OPAQUE, b"y", XattrFlags::empty()),
            result => result,
        };
        system("mark a directory as opaque", marked)?;
        drop(fd);
        let below = self.uncovered_below(path);
        if let Some(dir) = self.dirs.get_mut(path) {
            (dir.opaque, dir.is_covered) = (true, true);
        }
        self.drop_marks(path, below)
    }

    /// Removes the whiteouts and marks in `path` and in the directories `below` it.
    fn drop_marks(&mut self, path: &[u8], below: Vec<Vec<u8>>) -> Result<()> {
        for below in below.into_iter().rev() {
            let Some(dir) = self.dirs.get_mut(&below) else { continue };
            let (only_hides, was_opaque) = (dir.only_hides, std::mem::take(&mut dir.opaque));
            let was_covered = std::mem::replace(&mut dir.is_covered, true);
            if only_hides {
                let (parent, name) = split(&below);
                let fd = system("open a directory of the layer", self.open(parent, OFlags::PATH))?;
                self.remove(At { dir: fd.as_fd(), name }, &below)?;
                continue;
            }
            if was_opaque {
                let fd = system("open a directory of the layer", self.open(&below, OFlags::RDONLY))?;
                for name in [OPAQUE, USER_OPAQUE] {
                    match rustix::fs::fremovexattr(&fd, name) {
                        Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                        result => system("unmark a directory", result)?,
                    }
                }
            }
            if !was_covered {
                self.empty(&below, true)?;
            }
        }
        self.empty(path, true)
    }

    /// Removes the file at `at`, with everything in it; `path` is its canonical path.
    ///
    /// # Errors
    /// The kernel's error.
    pub(super) fn remove(&mut self, at: At<'_>, path: &[u8]) -> Result<()> {
        self.forget_parent();
        let was = lookup(at)?;
        if was == Existing::Nothing {
            return Ok(());
        }
        self.note_gone(path)?;
        match was {
            Existing::Dir => {}
            _ => {
                return system(
                    "replace an existing file",
                    rustix::fs::unlinkat(at.dir, at.name, AtFlags::empty()),
                );
            }
        }
        // The deepest first: when a directory's turn comes, those in it are empty. No recursion, one open file.
        for below in self.below(path).into_iter().rev() {
            self.empty(&below, false)?;
            self.dirs.remove(&below);
        }
        self.empty(path, false)?;
        self.dirs.remove(path);
        system("replace a directory", rustix::fs::unlinkat(at.dir, at.name, AtFlags::REMOVEDIR))
    }

    /// Removes all files and empty directories in a directory, or only its whiteouts.
    fn empty(&self, path: &[u8], only_whiteouts: bool) -> Result<()> {
        let fd = system("open a directory of the layer", self.open(path, OFlags::RDONLY))?;
        loop {
            let mut removed = false;
            for entry in system("list a directory", rustix::fs::Dir::read_from(&fd))? {
                let entry = system("list a directory", entry)?;
                let name = entry.file_name();
                if [&b"."[..], b".."].contains(&name.to_bytes()) {
                    continue;
                }
                if only_whiteouts {
                    let maybe = matches!(entry.file_type(), FileType::CharacterDevice | FileType::Unknown);
                    let stat = || rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW);
                    if !maybe || !is_whiteout(&system("stat an existing file", stat())?) {
                        continue;
                    }
                }
                let flags = if entry.file_type() == FileType::Directory {
                    AtFlags::REMOVEDIR
                } else {
                    AtFlags::empty()
                };
                let gone = match rustix::fs::unlinkat(&fd, name, flags) {
                    // A file system that does not list types.
                    Err(Errno::ISDIR) => rustix::fs::unlinkat(&fd, name, AtFlags::REMOVEDIR),
                    result => result,
                };
                system("remove a replaced file", gone)?;
                if only_whiteouts {
                    self.note_gone(&join(path, name.to_bytes()))?;
                }
                removed = true;
            }
            if !removed {
                return Ok(());
            }
        }
    }
}
