//! Creates what dangling symbolic links of an image or a volume lead to, such as /etc/resolv.conf ->
//! ../run/systemd/resolve/stub-resolv.conf: a mount on the link is meant for its target.
//!
//! Runs in the child of a process with threads, so it allocates nothing. The kernel resolves each path with the root as `/`
//! (openat2(2)); only single names, of a directory that is held by a descriptor, are read and created here.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, ResolveFlags, readlinkat_raw};
use rustix::io::Errno;

use super::beneath::{make_file, make_one, open};
use super::{At, Outcome};
use crate::launch::wire::Op;

/// PATH_MAX.
const LONGEST: usize = 4096;

/// As many links as the kernel follows in one lookup.
const MOST_LINKS: usize = 40;

/// A path that changes as links in it are replaced by what they contain.
struct Buffer {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Buffer {
    fn of(path: &[u8]) -> Outcome<Self> {
        let mut this = Self { bytes: [0; LONGEST], length: 0 };
        this.push(path)?;
        Ok(this)
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Appends; there is always room for the final NUL.
    fn push(&mut self, part: &[u8]) -> Outcome {
        let end = self.length + part.len();
        if end >= LONGEST {
            return Err((Op::Open, Errno::NAMETOOLONG));
        }
        self.bytes[self.length..end].copy_from_slice(part);
        self.bytes[end] = 0;
        self.length = end;
        Ok(())
    }
}

/// Creates the directory or the empty file at the end of a path, with the directories on the way, through links.
pub(super) fn make(root: BorrowedFd<'_>, path: &CStr, kind: FileType) -> Outcome {
    let mut path = Buffer::of(path.to_bytes())?;
    for _ in 0..=MOST_LINKS {
        match walk(root, &path, kind)? {
            Some(next) => path = next,
            None => return Ok(()),
        }
    }
    Err((Op::Open, Errno::LOOP))
}

/// Creates what is missing up to the first link that dangles; returns the path without that link, or none at the end.
fn walk(root: BorrowedFd<'_>, path: &Buffer, kind: FileType) -> Outcome<Option<Buffer>> {
    let bytes = path.as_bytes();
    let mut start = 0;
    while start < bytes.len() {
        let end = bytes[start..].iter().position(|byte| *byte == b'/').map_or(bytes.len(), |at| start + at);
        let name = &bytes[start..end];
        if !matches!(name, b"" | b"." | b"..") && !exists(root, &bytes[..end])? {
            let parent = directory(root, &bytes[..start])?;
            if let Some(next) = without_link(&parent, &bytes[..start], name, &bytes[end..])? {
                return Ok(Some(next));
            }
            let name = Buffer::of(name)?;
            match kind {
                FileType::RegularFile if end == bytes.len() => make_file(&parent, as_c_str(&name))?,
                _ => make_one(&parent, as_c_str(&name))?,
            }
        }
        start = end + 1;
    }
    Ok(None)
}

/// The path in which the link `name` is replaced by what it contains; none when it is no link.
fn without_link(parent: &OwnedFd, before: &[u8], name: &[u8], after: &[u8]) -> Outcome<Option<Buffer>> {
    let mut target = [0; LONGEST];
    let name = Buffer::of(name)?;
    let length = match readlinkat_raw(parent, as_c_str(&name), &mut target[..]) {
        Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
        other => other.at(Op::Link)?,
    };
    let target = &target[..length];
    let mut next = Buffer::of(if target.starts_with(b"/") { b"" } else { before })?;
    // Relative to the root's descriptor, also when the link is absolute.
    next.push(without_slashes(target))?;
    next.push(after)?;
    Ok(Some(next))
}

fn without_slashes(path: &[u8]) -> &[u8] {
    let slashes = path.iter().take_while(|byte| **byte == b'/').count();
    &path[slashes..]
}

fn exists(root: BorrowedFd<'_>, path: &[u8]) -> Outcome<bool> {
    let path = Buffer::of(path)?;
    match open(root, as_c_str(&path), OFlags::empty(), ResolveFlags::empty()) {
        Err(Errno::NOENT) => Ok(false),
        other => other.at(Op::Open).map(|_| true),
    }
}

fn directory(root: BorrowedFd<'_>, path: &[u8]) -> Outcome<OwnedFd> {
    let path = Buffer::of(if path.is_empty() { b"." } else { path })?;
    open(root.as_fd(), as_c_str(&path), OFlags::DIRECTORY, ResolveFlags::empty()).at(Op::Open)
}

fn as_c_str(buffer: &Buffer) -> &CStr {
    CStr::from_bytes_until_nul(&buffer.bytes).unwrap_or(c"")
}
