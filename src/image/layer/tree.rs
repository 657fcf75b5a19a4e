//! The directory that becomes the layer: finds parents in it, and records facts about its directories.
//!
//! Every path passed to the kernel is canonical: symlinks are resolved here, part by part and inside the root, so that
//! each open can use RESOLVE_NO_SYMLINKS and a link planted by the layer leads nowhere (CVE-2026-33056 and similar
//! ones).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::log::Log;
use super::lookup::{At, Existing, lookup, system};
use super::name::{join, split};
use crate::error::{Error, Kind, Result};
use crate::image::tar::{Mtime, shown};
use crate::store::index::{Record, beneath};

/// The most symlinks followed for one path, as in path_resolution(7).
const MAX_LINKS: u32 = 40;
/// The most bytes of the targets of symlinks for one path, so that a short name does not lead through thousands of
/// directories again and again: as many as the path itself may have (PATH_MAX).
const MAX_TARGET_BYTES: usize = 4096;

const OPEN: &str = "open a directory of the layer";

/// The layer's directory while it is being filled.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    /// Every directory of the layer by canonical path; the root is the empty one.
    pub(super) dirs: BTreeMap<Vec<u8>, Dir>,
    held_bytes: u64,
    most_bytes: u64,
    last: Option<Rc<Parent>>,
    log: Log,
}

/// Facts about a directory.
#[derive(Debug, Default)]
pub(super) struct Dir {
    /// The attributes of its own member; `None` when only something below it has a member.
    pub(super) described: Option<DirAttributes>,
    /// It hides the content of lower layers.
    pub(super) opaque: bool,
    /// It or a directory above it is opaque: nothing below it needs to be hidden any more.
    pub(super) is_covered: bool,
    /// It was created only to hold whiteouts.
    pub(super) only_hides: bool,
}

/// Attributes that are set when the directory is complete.
#[derive(Debug, Default)]
pub(super) struct DirAttributes {
    pub(super) mode: u32,
    pub(super) mtime: Mtime,
    pub(super) owner: (u32, u32),
    /// Set already; kept for the record only.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) late_xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An open directory that members are put into.
#[derive(Debug)]
pub(super) struct Parent {
    asked: Vec<u8>,
    /// Its canonical path.
    pub(super) path: Vec<u8>,
    pub(super) fd: OwnedFd,
    real: bool,
}

impl Parent {
    /// The name `name` in this directory.
    pub(super) fn at<'a>(&'a self, name: &'a [u8]) -> At<'a> {
        At { dir: self.fd.as_fd(), name }
    }
}

/// The purpose of looking for a parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// To put a member into it: missing directories are created.
    Member,
    /// To put a whiteout into it: missing directories are created, unless they are hidden already.
    Whiteout,
    /// To find something in it.
    Lookup,
}

impl Tree {
    /// Uses the empty directory `root`.
    ///
    /// # Errors
    /// `Exists` when it is not empty; else the kernel's error.
    pub(super) fn new(root: BorrowedFd<'_>, most_bytes: u64, log: Log) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = system("open the layer's directory", rustix::fs::openat(root, ".", flags, Mode::empty()))?;
        for entry in system("list the layer's directory", rustix::fs::Dir::read_from(&root))? {
            let entry = system("list the layer's directory", entry)?;
            if ![&b"."[..], b".."].contains(&entry.file_name().to_bytes()) {
                return Err(Error::new(Kind::Exists, "the directory for the layer is not empty"));
            }
        }
        // The root has no setgid bit that could be inherited while the layer is written.
        system("chmod the layer's directory", rustix::fs::fchmod(&root, Mode::RWXU))?;
        let dirs = BTreeMap::from([(Vec::new(), Dir::default())]);
        Ok(Self { root, dirs, held_bytes: 0, most_bytes, last: None, log })
    }

    /// The directory `path`, clean but possibly through symlinks of this layer. `None` where there is none: always
    /// possible for a lookup, for a whiteout when `path` is hidden already, never for a member.
    ///
    /// # Errors
    /// `Invalid` when a part of the path is not a directory or there is a symlink loop.
    pub(super) fn parent(&mut self, path: &[u8], purpose: For) -> Result<Option<Rc<Parent>>> {
        if let Some(last) = &self.last
            && last.asked == path
            && (last.real || purpose != For::Member)
        {
            return Ok(Some(Rc::clone(last)));
        }
        let (canonical, fd) = match self.open(path, OFlags::PATH) {
            Ok(fd) => (path.to_vec(), fd),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => match self.walk(path, purpose)? {
                Some(canonical) => {
                    let fd = system(OPEN, self.open(&canonical, OFlags::PATH))?;
                    (canonical, fd)
                }
                None => return Ok(None),
            },
            Err(error) => return system(OPEN, Err(error)),
        };
        let real = purpose == For::Member;
        if real {
            self.make_real(&canonical);
        }
        let parent = Rc::new(Parent { asked: path.to_vec(), path: canonical, fd, real });
        self.last = Some(Rc::clone(&parent));
        Ok(Some(parent))
    }

    /// Drops the cached parent: something on the way to it may be gone.
    pub(super) fn forget_parent(&mut self) {
        self.last = None;
    }

    /// Opens the directory with this canonical path; no symlink is followed, nothing outside is reached.
    pub(super) fn open(&self, path: &[u8], access: OFlags) -> rustix::io::Result<OwnedFd> {
        beneath(self.root.as_fd(), path, access | OFlags::DIRECTORY)
    }

    /// Follows `path` part by part, creating missing directories as `purpose` allows; returns the canonical path.
    fn walk(&mut self, path: &[u8], purpose: For) -> Result<Option<Vec<u8>>> {
        let (known, rest) = path.split_at(self.known_prefix(path));
        let mut done = known.to_vec();
        let mut here = system(OPEN, self.open(&done, OFlags::PATH))?;
        let mut todo = parts_reversed(rest);
        let (mut links, mut target_bytes) = (0, 0);
        while let Some(part) = todo.pop() {
            if part.is_empty() || part == b"." {
                continue;
            }
            if part == b".." {
                done = split(&done).0.to_vec();
                here = system(OPEN, self.open(&done, OFlags::PATH))?;
                continue;
            }
            let at = At { dir: here.as_fd(), name: &part };
            if lookup(at)? == Existing::Link {
                let target = system("read a symlink", rustix::fs::readlinkat(at.dir, at.name, Vec::new()))?;
                let target = target.into_bytes();
                (links, target_bytes) = (links + 1, target_bytes + target.len());
                if links > MAX_LINKS || target_bytes > MAX_TARGET_BYTES {
                    return not_a_directory(path, "goes through too many symlinks");
                }
                if target.starts_with(b"/") {
                    done.clear();
                    here = system(OPEN, self.open(&done, OFlags::PATH))?;
                }
                todo.extend(parts_reversed(&target));
                continue;
            }
            let below = join(&done, &part);
            if !self.step(at, &done, &below, purpose)? {
                if purpose == For::Member {
                    return not_a_directory(path, "goes through a file that is not a directory");
                }
                return Ok(None);
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            here = system(OPEN, rustix::fs::openat(at.dir, at.name, flags, Mode::empty()))?;
            done = below;
        }
        Ok(Some(done))
    }

    /// The length of the longest prefix of the clean `path` that is a canonical path of a directory. Each prefix of one is
    /// one too, so bisection finds it: a step from the root for each part would make deep layers take quadratic time.
    fn known_prefix(&self, path: &[u8]) -> usize {
        let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        let ends: Vec<usize> = std::iter::once(0).chain(slashes).chain([path.len()]).collect();
        let known = ends.partition_point(|end| self.dirs.contains_key(&path[..*end]));
        known.checked_sub(1).and_then(|last| ends.get(last).copied()).unwrap_or(0)
    }

    /// Ensures that there is a directory at `at`, which is no symlink; returns false when none may be created.
    fn step(&mut self, at: At<'_>, parent: &[u8], path: &[u8], purpose: For) -> Result<bool> {
        match (lookup(at)?, purpose) {
            (Existing::Dir, _) => {}
            (Existing::Nothing, For::Whiteout) if self.in_opaque(parent) => return Ok(false),
            (Existing::Nothing, For::Member | For::Whiteout) => {
                let only_hides = purpose == For::Whiteout;
                self.make_dir(at, path, Dir { only_hides, ..Dir::default() })?;
            }
            (Existing::Whiteout, For::Member) => {
                system("remove a whiteout", rustix::fs::unlinkat(at.dir, at.name, AtFlags::empty()))?;
                self.note_gone(path)?;
                self.make_dir(at, path, Dir::default())?;
                self.make_opaque(path)?;
            }
            (Existing::Nothing | Existing::Whiteout | Existing::Other | Existing::Link, _) => {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Creates a directory that no member has described so far; its attributes are set at the end.
    pub(super) fn make_dir(&mut self, at: At<'_>, path: &[u8], dir: Dir) -> Result<()> {
        system("make a directory", rustix::fs::mkdirat(at.dir, at.name, Mode::RWXU))?;
        self.note_dir(path, dir)
    }

    /// Records a directory that was just created.
    pub(super) fn note_dir(&mut self, path: &[u8], mut dir: Dir) -> Result<()> {
        self.held_bytes += path.len() as u64 + 128;
        if self.held_bytes > self.most_bytes {
            return Err(Error::invalid("the layer has more directories than allowed"));
        }
        if !dir.only_hides {
            self.make_real(split(path).0);
        }
        dir.is_covered = self.in_opaque(split(path).0);
        self.dirs.insert(path.to_vec(), dir);
        Ok(())
    }

    /// Records that `path` and everything below it was removed.
    pub(super) fn note_gone(&self, path: &[u8]) -> Result<()> {
        self.log.put(&Record::Gone { path })
    }

    /// Records the whiteout that hides `path` of the layers below.
    pub(super) fn note_whiteout(&self, path: &[u8]) -> Result<()> {
        self.log.put(&Record::Whiteout { path })
    }

    /// The paths of directories strictly below the directory `path`.
    pub(super) fn below(&self, path: &[u8]) -> Vec<Vec<u8>> {
        if path.is_empty() {
            return self.dirs.keys().filter(|key| !key.is_empty()).cloned().collect();
        }
        let (from, to) = ([path, b"/"].concat(), [path, b"0"].concat());
        let range = (Bound::Excluded(from), Bound::Excluded(to));
        self.dirs.range::<Vec<u8>, _>(range).map(|(key, _)| key.clone()).collect()
    }

    /// The paths of directories strictly below the directory `path` that may have something to hide in them: all but
    /// those in directories that are opaque already. Without this, a chain of directories that become opaque one after
    /// the other, the deepest first, would take quadratic time.
    pub(super) fn uncovered_below(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let (mut from, to) = if path.is_empty() {
            (Bound::Excluded(Vec::new()), Bound::Unbounded)
        } else {
            (Bound::Excluded([path, b"/"].concat()), Bound::Excluded([path, b"0"].concat()))
        };
        while let Some((key, _)) = self.dirs.range((from, to.clone())).next() {
            let parent = split(key).0;
            // The first key in a directory is one directly in it, and `0` is the byte after the slash.
            from = if parent != path && self.in_opaque(parent) {
                Bound::Included([parent, b"0"].concat())
            } else {
                found.push(key.clone());
                Bound::Excluded(key.clone())
            };
        }
        found
    }

    /// Returns whether the directory `path` or one above it hides everything below it in lower layers.
    pub(super) fn in_opaque(&self, path: &[u8]) -> bool {
        self.dirs.get(path).is_some_and(|dir| dir.is_covered)
    }

    /// Records that a member is in `path`: it and the directories above exist for more than whiteouts.
    fn make_real(&mut self, mut path: &[u8]) {
        while let Some(dir) = self.dirs.get_mut(path)
            && dir.only_hides
        {
            dir.only_hides = false;
            path = split(path).0;
        }
    }
}

fn parts_reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|b| *b == b'/').rev().map(<[u8]>::to_vec).collect()
}

fn not_a_directory<T>(path: &[u8], why: &str) -> Result<T> {
    Err(Error::invalid(format!("the path \"{}\" {why}", shown(path))))
}

/// Returns whether a stat result is overlayfs' whiteout: a character device 0:0.
pub(super) fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}
