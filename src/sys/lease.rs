//! File leases of fcntl(2), which tell whether a file is open for writing.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::process::last_errno;

/// `F_SETSIG` of asm-generic/fcntl.h, which the libc crate does not have for Linux.
const F_SETSIG: libc::c_int = 10;

/// Whether any process has the file open for writing, or mapped for it. `file` must be open for reading only.
///
/// # Errors
/// `EINVAL` where the file system has no leases; `EACCES` for another user's file without CAP_LEASE.
pub fn is_open_for_writing(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    // Until the lease is given back, a process that opens the file sends its signal. That of the default, SIGIO, would end
    // this process; SIGURG is ignored by default.
    set(file, F_SETSIG, libc::SIGURG)?;
    match set(file, libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => set(file, libc::F_SETLEASE, libc::F_UNLCK).map(|()| false),
        Err(Errno::AGAIN) => Ok(true),
        Err(errno) => Err(errno),
    }
}

fn set(file: BorrowedFd<'_>, command: libc::c_int, value: libc::c_int) -> Result<(), Errno> {
    // SAFETY: these commands take a number; the descriptor is open as long as it is borrowed.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, value) } {
        -1 => Err(last_errno()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_writer_is_found_and_a_reader_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let writer = std::fs::File::create(&path).unwrap();
        let (reader, _other) = (std::fs::File::open(&path).unwrap(), std::fs::File::open(&path).unwrap());
        assert_eq!(is_open_for_writing(reader.as_fd()), Ok(true));
        drop(writer);
        assert_eq!(is_open_for_writing(reader.as_fd()), Ok(false));
        // No lease stays that would make a writer wait.
        drop(std::fs::File::options().append(true).open(&path).unwrap());
    }
}
