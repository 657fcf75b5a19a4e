//! The directory that becomes the layer: finding parents in it, and what is known of its directories.
//!
//! Every path that reaches the kernel is canonical: symlinks were followed here, part by part and inside the root, so
//! that each open may say RESOLVE_NO_SYMLINKS and a link planted by the layer leads nowhere (CVE-2026-33056 and kin).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::name::{join, split};
use super::place::{At, Was, look, system};
use crate::error::{Error, Kind, Result};
use crate::image::tar::{Mtime, shown};

/// Symlinks followed for one path, as path_resolution(7) has it.
const MOST_LINKS: u32 = 40;

/// Longest path given to one system call; longer ones are walked in pieces (PATH_MAX is 4096).
const LONGEST_STEP: usize = 4000;

/// The layer's directory while it is being filled.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    /// Every directory of the layer by canonical path; the root is the empty one.
    pub(super) dirs: BTreeMap<Vec<u8>, Dir>,
    held_bytes: u64,
    most_bytes: u64,
    last: Option<Rc<Parent>>,
}

/// What is known of a directory.
#[derive(Debug, Default)]
pub(super) struct Dir {
    /// What its own member said; none when only something below it was named.
    pub(super) said: Option<Said>,
    /// It hides what lower layers have in it.
    pub(super) opaque: bool,
    /// It was made only so that whiteouts can stand in it.
    pub(super) only_hides: bool,
}

/// Attributes that must wait until nothing more is put into the directory.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) mode: u32,
    pub(super) mtime: Mtime,
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
    /// The place `name` in this directory.
    pub(super) fn at<'a>(&'a self, name: &'a [u8]) -> At<'a> {
        At { dir: self.fd.as_fd(), name }
    }
}

/// Why a parent is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// To put a member into it: it is made where missing.
    Member,
    /// To put a whiteout into it: made where missing, but not where it is hidden already.
    Whiteout,
    /// To find something in it.
    Lookup,
}

impl Tree {
    /// Takes over the empty directory `root`.
    ///
    /// # Errors
    /// `Exists` when it is not empty; else what the kernel answers.
    pub(super) fn new(root: BorrowedFd<'_>, most_bytes: u64) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = system("open the layer's directory", rustix::fs::openat(root, ".", flags, Mode::empty()))?;
        for entry in system("list the layer's directory", rustix::fs::Dir::read_from(&root))? {
            let entry = system("list the layer's directory", entry)?;
            if ![&b"."[..], b".."].contains(&entry.file_name().to_bytes()) {
                return Err(Error::new(Kind::Exists, "the directory for the layer is not empty"));
            }
        }
        // No setgid bit may be inherited from here while the layer is written.
        system("chmod the layer's directory", rustix::fs::fchmod(&root, Mode::RWXU))?;
        let dirs = BTreeMap::from([(Vec::new(), Dir::default())]);
        Ok(Self { root, dirs, held_bytes: 0, most_bytes, last: None })
    }

    /// The directory `path`, clean but possibly through symlinks of this layer. `None` where there is none to be had:
    /// always possible for a lookup, for a whiteout when `path` is hidden already, never for a member.
    ///
    /// # Errors
    /// `Invalid` when something on the way is no directory or links go in circles.
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
                    let fd = system("open a directory of the layer", self.open(&canonical, OFlags::PATH))?;
                    (canonical, fd)
                }
                None => return Ok(None),
            },
            Err(error) => return system("open a directory of the layer", Err(error)),
        };
        let real = purpose == For::Member;
        if real {
            self.make_real(&canonical);
        }
        let parent = Rc::new(Parent { asked: path.to_vec(), path: canonical, fd, real });
        self.last = Some(Rc::clone(&parent));
        Ok(Some(parent))
    }

    /// Forgets the cached parent: something on the way to it may be gone.
    pub(super) fn forget_parent(&mut self) {
        self.last = None;
    }

    /// Opens the directory with this canonical path; no symlink is followed, nothing outside reached.
    pub(super) fn open(&self, path: &[u8], access: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut from: Option<OwnedFd> = None;
        let mut rest = if path.is_empty() { &b"."[..] } else { path };
        while rest.len() > LONGEST_STEP {
            let cut = rest[..LONGEST_STEP].iter().rposition(|b| *b == b'/').ok_or(Errno::NAMETOOLONG)?;
            let here = from.as_ref().unwrap_or(&self.root).as_fd();
            let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            from = Some(beneath(here, &rest[..cut], step)?);
            rest = &rest[cut + 1..];
        }
        beneath(from.as_ref().unwrap_or(&self.root).as_fd(), rest, flags)
    }

    /// Follows `path` part by part, making what is missing as `purpose` allows; the canonical path.
    fn walk(&mut self, path: &[u8], purpose: For) -> Result<Option<Vec<u8>>> {
        let mut done: Vec<u8> = Vec::new();
        let mut todo: Vec<Vec<u8>> = path.split(|b| *b == b'/').rev().map(<[u8]>::to_vec).collect();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            match &part[..] {
                b"" | b"." => continue,
                b".." => {
                    done = split(&done).0.to_vec();
                    continue;
                }
                _ => {}
            }
            let here = system("open a directory of the layer", self.open(&done, OFlags::PATH))?;
            let at = At { dir: here.as_fd(), name: &part };
            match look(at)? {
                Was::Dir => done = join(&done, &part),
                Was::Link => {
                    links += 1;
                    let target =
                        system("read a symlink", rustix::fs::readlinkat(at.dir, at.name, Vec::new()))?;
                    let target = target.into_bytes();
                    if links > MOST_LINKS {
                        return not_a_directory(path, "goes through too many symlinks");
                    }
                    if target.starts_with(b"/") {
                        done.clear();
                    }
                    todo.extend(target.split(|b| *b == b'/').rev().map(<[u8]>::to_vec));
                }
                Was::Nothing if purpose == For::Lookup => return Ok(None),
                Was::Nothing if purpose == For::Whiteout && self.in_opaque(&done) => return Ok(None),
                Was::Nothing => {
                    done = join(&done, &part);
                    self.make_dir(at, &done, Dir { only_hides: purpose == For::Whiteout, ..Dir::default() })?;
                }
                Was::Whiteout if purpose == For::Member => {
                    system("remove a whiteout", rustix::fs::unlinkat(at.dir, at.name, AtFlags::empty()))?;
                    done = join(&done, &part);
                    self.make_dir(at, &done, Dir::default())?;
                    self.make_opaque(&done)?;
                }
                Was::Whiteout | Was::Other if purpose != For::Member => return Ok(None),
                Was::Whiteout | Was::Other => {
                    return not_a_directory(path, "goes through something that is no directory");
                }
            }
        }
        Ok(Some(done))
    }

    /// Makes a directory that no member has described so far; its attributes come at the end.
    pub(super) fn make_dir(&mut self, at: At<'_>, path: &[u8], dir: Dir) -> Result<()> {
        system("make a directory", rustix::fs::mkdirat(at.dir, at.name, Mode::RWXU))?;
        self.know_dir(path, dir)
    }

    /// Notes a directory that was just made.
    pub(super) fn know_dir(&mut self, path: &[u8], dir: Dir) -> Result<()> {
        self.held_bytes += path.len() as u64 + 128;
        if self.held_bytes > self.most_bytes {
            return Err(Error::invalid("the layer has more directories than allowed"));
        }
        if !dir.only_hides {
            self.make_real(split(path).0);
        }
        self.dirs.insert(path.to_vec(), dir);
        Ok(())
    }

    /// The paths strictly below the directory `path`, of directories only.
    pub(super) fn below(&self, path: &[u8]) -> Vec<Vec<u8>> {
        if path.is_empty() {
            return self.dirs.keys().filter(|key| !key.is_empty()).cloned().collect();
        }
        let (from, to) = ([path, b"/"].concat(), [path, b"0"].concat());
        let range = (Bound::Excluded(from), Bound::Excluded(to));
        self.dirs.range::<Vec<u8>, _>(range).map(|(key, _)| key.clone()).collect()
    }

    /// Whether `path` or a directory above it hides everything below it in lower layers.
    pub(super) fn in_opaque(&self, mut path: &[u8]) -> bool {
        loop {
            if self.dirs.get(path).is_some_and(|dir| dir.opaque) {
                return true;
            }
            if path.is_empty() {
                return false;
            }
            path = split(path).0;
        }
    }

    /// A member stands in `path`: it and what is above it exist for more than whiteouts.
    fn make_real(&mut self, mut path: &[u8]) {
        while let Some(dir) = self.dirs.get_mut(path)
            && dir.only_hides
        {
            dir.only_hides = false;
            path = split(path).0;
        }
    }
}

fn not_a_directory<T>(path: &[u8], why: &str) -> Result<T> {
    Err(Error::invalid(format!("the path \"{}\" {why}", shown(path))))
}

/// KERNEL(5.6) openat2, else a walk that is as strict: canonical paths need no more.
fn beneath(from: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    match rustix::fs::openat2(from, path, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS) => beneath_by_parts(from, path, flags),
        result => result,
    }
}

fn beneath_by_parts(from: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let (parent, last) = split(path);
    let mut held: Option<OwnedFd> = None;
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for part in parent.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
        let here = held.as_ref().map_or(from, |fd| fd.as_fd());
        held = Some(rustix::fs::openat(here, part, step, Mode::empty())?);
    }
    rustix::fs::openat(held.as_ref().map_or(from, |fd| fd.as_fd()), last, flags, Mode::empty())
}

/// Whether a stat result is overlayfs' mark for "hidden": a character device 0:0.
pub(super) fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_without_openat2_follows_no_link_either() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("a/out")).unwrap();
        std::os::unix::fs::symlink("b", dir.path().join("a/in")).unwrap();
        let root = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        for open in [beneath, beneath_by_parts] {
            assert!(open(root.as_fd(), b"a/b/c", flags).is_ok());
            assert!(open(root.as_fd(), b".", flags).is_ok());
            for bad in [&b"a/out"[..], b"a/in", b"a/in/c", b"a/out/ssl"] {
                assert!(open(root.as_fd(), bad, flags).is_err(), "{}", bad.escape_ascii());
            }
        }
    }
}
