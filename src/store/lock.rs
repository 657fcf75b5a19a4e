//! Advisory locks between processes: whole-file flock(2), and claims on single contents.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::digest::Digest;
use crate::error::{Doing, Result};
use crate::linux::private;

/// A lock that is released when this is dropped, or when the process dies.
#[derive(Debug)]
pub(crate) struct Locked(#[expect(dead_code, reason = "held only to be dropped")] OwnedFd);

/// How to lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Exclusive: waits for all other holders.
    Exclusive,
    /// Shared with other `Shared` holders; waits for an exclusive one.
    Shared,
}

/// Locks the file or directory at `path`, waiting as long as needed; a missing file is created.
pub(crate) fn lock(path: &Path, how: How) -> Result<Locked> {
    let fd = open(path)?;
    let operation = match how {
        How::Exclusive => FlockOperation::LockExclusive,
        How::Shared => FlockOperation::LockShared,
    };
    retry(|| rustix::fs::flock(&fd, operation)).doing(|| format!("lock {}", path.display()))?;
    Ok(Locked(fd))
}

/// Locks `path` exclusively, or returns `None` at once when another holds it.
pub(crate) fn try_lock(path: &Path) -> Result<Option<Locked>> {
    let fd = open(path)?;
    match retry(|| rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => Ok(Some(Locked(fd))),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(errno).doing(|| format!("lock {}", path.display())),
    }
}

/// Claims the right to import `content`, waiting for the current holder.
///
/// A claim is one byte of the lock file, chosen by the digest, under an open-file-description lock (fcntl(2)), so
/// nothing has to be cleaned up and the flock(2) on the same file is not affected. Two contents with the same byte only
/// wait needlessly. A caller that needs several claims uses [`claim_all`], so there is no deadlock.
pub(crate) fn claim(path: &Path, content: &Digest) -> Result<Locked> {
    claim_byte(path, byte_of(content)).map_err(|e| e.doing(format!("claim {content}")))
}

/// Claims several contents, in the order of their bytes and each byte once.
pub(crate) fn claim_all(path: &Path, contents: &[Digest]) -> Result<Vec<Locked>> {
    let bytes: BTreeSet<i32> = contents.iter().map(byte_of).collect();
    bytes.into_iter().map(|byte| claim_byte(path, byte)).collect()
}

fn byte_of(content: &Digest) -> i32 {
    let bytes = content.as_bytes();
    // 30 bits: off_t is 32 bits wide on armv7.
    i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3] & 0x3f])
}

fn claim_byte(path: &Path, byte: i32) -> Result<Locked> {
    let fd = open(path)?;
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte.into(),
        l_len: 1,
        l_pid: 0,
    };
    loop {
        match fcntl(&fd, FcntlArg::F_OFD_SETLKW(&whole)) {
            Err(nix::Error::EINTR) => {}
            done => {
                return done
                    .map(|_| Locked(fd))
                    .doing(|| format!("wait for byte {byte} of {}", path.display()));
            }
        }
    }
}

/// Opens for locking: directories cannot be opened for writing, missing lock files are created.
fn open(path: &Path) -> Result<OwnedFd> {
    match private::open_or_create(path, private::FILE) {
        Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            rustix::fs::open(path, flags, Mode::empty()).map_err(Into::into)
        }
        other => other.map(OwnedFd::from),
    }
    .doing(|| format!("open {} to lock it", path.display()))
}

fn retry(mut call: impl FnMut() -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exclusive_holder_keeps_others_out_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = lock(&path, How::Exclusive).unwrap();
        assert!(try_lock(&path).unwrap().is_none());
        drop(held);
        assert!(try_lock(&path).unwrap().is_some());
        assert!(try_lock(dir.path()).unwrap().is_some(), "a directory can be locked too");
    }

    #[test]
    fn a_claim_waits_for_the_same_content_and_ignores_the_file_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let _file = lock(&path, How::Exclusive).unwrap();
        let first = claim(&path, &Digest::of(b"a")).unwrap();
        let _other = claim(&path, &Digest::of(b"b")).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| claim(&path, &Digest::of(b"a")).map(drop));
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!waiter.is_finished());
            drop(first);
            waiter.join().unwrap().unwrap();
        });
    }
}
