//! Opens paths inside a layer's tree, never outside it and never through a symbolic link.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// The longest path passed to one system call; longer ones are walked in pieces (PATH_MAX is 4096).
const LONGEST_STEP: usize = 4000;

const STEP: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens `path`, which is canonical, of any length and relative to the directory `root`.
pub(crate) fn beneath(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let mut from: Option<OwnedFd> = None;
    let mut rest = if path.is_empty() { &b"."[..] } else { path };
    while rest.len() > LONGEST_STEP {
        let cut = rest[..LONGEST_STEP].iter().rposition(|b| *b == b'/').ok_or(Errno::NAMETOOLONG)?;
        from = Some(step(from.as_ref().map_or(root, |fd| fd.as_fd()), &rest[..cut], STEP)?);
        rest = &rest[cut + 1..];
    }
    step(from.as_ref().map_or(root, |fd| fd.as_fd()), rest, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC)
}

/// openat2(2) where the kernel has it. KERNEL(5.6)
fn step(from: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    match rustix::fs::openat2(from, path, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS) => step_by_parts(from, path, flags),
        result => result,
    }
}

fn step_by_parts(from: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let (parent, last) = split(path);
    let mut held: Option<OwnedFd> = None;
    for part in parent.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
        let here = held.as_ref().map_or(from, |fd| fd.as_fd());
        held = Some(rustix::fs::openat(here, part, STEP, Mode::empty())?);
    }
    rustix::fs::openat(held.as_ref().map_or(from, |fd| fd.as_fd()), last, flags, Mode::empty())
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// A layer's tree, for reading. It keeps the last directory open, because records are in the order of a tar.
#[derive(Debug)]
pub(crate) struct Tree<'a> {
    root: BorrowedFd<'a>,
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl<'a> Tree<'a> {
    /// The tree below `root`.
    pub(crate) fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, last: None }
    }

    /// The open directory that contains `path`, and the name in it.
    pub(crate) fn at<'p>(&mut self, path: &'p [u8]) -> rustix::io::Result<(BorrowedFd<'_>, &'p [u8])> {
        let (parent, name) = split(path);
        if self.last.as_ref().is_none_or(|(known, _)| known != parent) {
            let fd = beneath(self.root, parent, OFlags::PATH | OFlags::DIRECTORY)?;
            self.last = Some((parent.to_vec(), fd));
        }
        let fd = self.last.as_ref().map_or(self.root, |(_, fd)| fd.as_fd());
        Ok((fd, if name.is_empty() { b"." } else { name }))
    }

    /// Opens the regular file `path`.
    pub(crate) fn open_file(&mut self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let (dir, name) = self.at(path)?;
        // NONBLOCK: a pipe in the place of a file must not block us.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::openat(dir, name, flags, Mode::empty())
    }
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
        for open in [step, step_by_parts] {
            assert!(open(root.as_fd(), b"a/b/c", flags).is_ok());
            assert!(open(root.as_fd(), b".", flags).is_ok());
            for bad in [&b"a/out"[..], b"a/in", b"a/in/c", b"a/out/ssl"] {
                assert!(open(root.as_fd(), bad, flags).is_err(), "{}", bad.escape_ascii());
            }
        }
    }
}
