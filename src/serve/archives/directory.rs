//! What lies in a directory of archives.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, Result};

/// The suffixes of archive names, in any case: those of K3s, and the usual others. The compression is found from the bytes.
const ENDINGS: [&str; 14] = [
    ".tar",
    ".tar.gz",
    ".tgz",
    ".tar.zst",
    ".tzst",
    ".tar.zstd",
    ".tar.bz2",
    ".tbz",
    ".tbz2",
    ".tar.lz4",
    ".tlz4",
    ".tar.xz",
    ".txz",
    ".oci",
];
/// The suffix of lists of images to pull, one reference per line.
const LIST: &str = ".txt";

/// The entries of all directories.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Archives and lists by name, archives first: a list may take long without a network.
    pub(super) archives: Vec<PathBuf>,
    /// What is not imported, and why: a misspelt ending must not look like an imported archive.
    pub(super) skipped: Vec<(PathBuf, String)>,
    /// Directories that exist and cannot be read: their archives are not known to be gone.
    pub(super) unreadable: Vec<(PathBuf, std::io::Error)>,
}

impl Listing {
    pub(super) fn of(dirs: &[PathBuf]) -> Self {
        let mut listing = Self::default();
        for dir in dirs {
            match entries(dir) {
                Ok(paths) => listing.sort_in(paths),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(error) => listing.unreadable.push((dir.clone(), error)),
            }
        }
        listing.archives.sort_by_key(|path| is_list(path));
        listing
    }

    fn sort_in(&mut self, paths: Vec<PathBuf>) {
        for path in paths {
            // It may have been removed since the directory was read. A link that leads nowhere is still there.
            if path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
                continue;
            }
            match skipped(&path) {
                None => self.archives.push(path),
                // Transfers write to hidden files, and K3s keeps its `.cache.json` here.
                Some(_) if is_hidden(&path) => {}
                Some(reason) => self.skipped.push((path, reason)),
            }
        }
    }

    /// Whether the archive at `path` is in a directory that cannot be read.
    pub(super) fn is_unreadable(&self, path: &Path) -> bool {
        self.unreadable.iter().any(|(dir, _)| path.parent() == Some(dir))
    }
}

fn entries(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = entries.collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Whether it is a list of images to pull.
pub(super) fn is_list(path: &Path) -> bool {
    ends_with(path, LIST)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn ends_with(path: &Path, ending: &str) -> bool {
    path.to_string_lossy().to_ascii_lowercase().ends_with(ending)
}

/// Why an entry of the directory is not imported.
fn skipped(path: &Path) -> Option<String> {
    match path.metadata() {
        Err(error) => Some(error.to_string()),
        Ok(meta) if meta.is_dir() => Some("it is a directory".to_owned()),
        Ok(meta) if !meta.is_file() => Some("it is not a regular file".to_owned()),
        Ok(_) if ENDINGS.iter().chain([&LIST]).any(|ending| ends_with(path, ending)) => None,
        Ok(_) => Some(format!("its name ends in none of {} and {LIST}", ENDINGS.join(", "))),
    }
}

/// Tells versions of a file apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    /// In nanoseconds since 1970.
    pub(super) mtime: i128,
    pub(super) identity: Identity,
}

/// Tells files of the same size and mtime apart: one may have been moved here, or copied with its mtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// 0 on file systems that number inodes anew at each mount.
    pub(super) inode: u64,
    /// In nanoseconds since 1970.
    pub(super) ctime: i128,
}

/// Opens a regular file, which may be a link to one; `None` if it is gone.
///
/// # Errors
/// Those of open(2) and fstat(2); `Invalid` when it has become something else than a regular file.
pub(super) fn open(path: &Path) -> Result<Option<(File, Stamp)>> {
    // O_PATH first: to open a FIFO wakes the process at its other end, and to open a device may start something.
    let place = match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        place => File::from(place.doing(|| "open it")?),
    };
    let meta = place.metadata().doing(|| "read its metadata")?;
    if !meta.is_file() {
        return Err(Error::invalid("it is not a regular file"));
    }
    // By the descriptor, because the path may lead to something else by now.
    let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd())).doing(|| "open it")?;
    let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    let inode = if has_lasting_inodes(&file) { meta.ino() } else { 0 };
    let identity = Identity { inode, ctime: nanoseconds(meta.ctime(), meta.ctime_nsec()) };
    let mtime = nanoseconds(meta.mtime(), meta.mtime_nsec());
    Ok(Some((file, Stamp { size: meta.size(), mtime, identity })))
}

/// How long the kernel may take from the report that a file is closed to its release.
const PAUSE: Duration = Duration::from_millis(20);

fn has_lasting_inodes(file: &File) -> bool {
    /// FAT, exFAT, FUSE, SMB and CIFS.
    const NUMBERED_ANEW: [u32; 5] = [0x4d44, 0x2011_bab0, 0x6573_5546, 0xfe53_4d42, 0xff53_4d42];
    rustix::fs::fstatfs(file).is_ok_and(|stat| !NUMBERED_ANEW.contains(&(stat.f_type as u32)))
}

/// Whether a process is still writing the file. A file system that cannot tell, such as one on a network, has none.
pub(super) fn is_being_written(file: &File) -> bool {
    /// NFS, SMB and CIFS grant leases only as their server permits, and 9P none: the answer says nothing about writers.
    const OF_NETWORKS: [u32; 4] = [0x6969, 0xfe53_4d42, 0xff53_4d42, 0x0102_1997];
    let is_local = rustix::fs::fstatfs(file).is_ok_and(|stat| !OF_NETWORKS.contains(&(stat.f_type as u32)));
    let is_open = || crate::sys::lease::is_open_for_writing(file.as_fd()).unwrap_or(false);
    // inotify reports the end of a write a moment before the kernel counts the writer out, and only once.
    let pause = || std::thread::sleep(PAUSE);
    is_local && is_open() && {
        pause();
        is_open()
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::inotify::{CreateFlags, WatchFlags};

    use super::*;

    #[test]
    fn archives_are_known_by_their_ending_in_any_case_and_all_else_is_skipped_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| std::fs::write(dir.path().join(name), "").unwrap();
        let taken = [
            "B.TAR",
            "a.tar",
            "c.tar.gz",
            "d.Tgz",
            "e.tar.zst",
            "f.tzst",
            "g.tar.bz2",
            "h.tbz",
            "i.tar.lz4",
            "j.tar.xz",
            "l.oci",
            // Lists come last.
            "A.TXT",
        ];
        taken.iter().for_each(|name| make(name));
        for other in ["m.zip", "n", "o.tar.sha256", "p.tar.gz.part", ".cache.json", ".app.tar.Xc4", "q.tar7"]
        {
            make(other);
            let why = skipped(&dir.path().join(other)).unwrap();
            assert!(why.contains("none of .tar"), "{other}: {why}");
        }
        std::fs::create_dir(dir.path().join("r.tar")).unwrap();
        assert_eq!(skipped(&dir.path().join("r.tar")).unwrap(), "it is a directory");
        std::os::unix::fs::symlink("gone", dir.path().join("s.tar")).unwrap();
        assert!(skipped(&dir.path().join("s.tar")).unwrap().contains("No such file"));
        let listing = Listing::of(&[dir.path().to_owned()]);
        let names = |paths: &[&PathBuf]| {
            paths
                .iter()
                .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&listing.archives.iter().collect::<Vec<_>>()), taken);
        let skipped: Vec<_> = listing.skipped.iter().map(|(path, _)| path).collect();
        assert_eq!(
            names(&skipped),
            ["m.zip", "n", "o.tar.sha256", "p.tar.gz.part", "q.tar7", "r.tar", "s.tar"]
        );
    }

    #[test]
    fn archives_of_a_directory_that_cannot_be_read_are_not_gone() {
        let dir = tempfile::tempdir().unwrap();
        // A loop of links: neither there nor known to be missing.
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        let (missing, looped) = (dir.path().join("missing"), dir.path().join("loop"));
        let listing = Listing::of(&[missing.clone(), looped.clone()]);
        assert!(!listing.is_unreadable(&missing.join("a.tar")));
        assert!(listing.is_unreadable(&looped.join("a.tar")));
    }

    #[test]
    fn a_file_that_is_being_written_is_known_and_one_that_is_gone_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let writer = File::create(&path).unwrap();
        assert!(is_being_written(&open(&path).unwrap().unwrap().0));
        drop(writer);
        assert!(!is_being_written(&open(&path).unwrap().unwrap().0));
        std::fs::remove_file(&path).unwrap();
        assert!(open(&path).unwrap().is_none());
        assert!(open(&path.join("below")).unwrap().is_none());
        let mut listing = Listing::default();
        listing.sort_in(vec![path]);
        assert!(listing.archives.is_empty() && listing.skipped.is_empty(), "{listing:?}");
    }

    #[test]
    fn fifos_and_sockets_are_not_opened_by_their_name_nor_by_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("b.tar");
        crate::linux::private::fifo(&fifo, 0o600).unwrap();
        std::os::unix::fs::symlink(&fifo, dir.path().join("c.tar")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("d.tar")).unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join("e.tar")).unwrap();
        let inotify = rustix::fs::inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        rustix::fs::inotify::add_watch(&inotify, &fifo, WatchFlags::OPEN).unwrap();
        for name in ["b.tar", "c.tar", "d.tar", "e.tar"] {
            let error = open(&dir.path().join(name)).unwrap_err();
            assert!(error.to_string().contains("not a regular file"), "{name}: {error}");
        }
        let opened = rustix::io::read(&inotify, &mut [0; 4096]);
        assert_eq!(opened.unwrap_err(), Errno::AGAIN, "the FIFO was opened");
    }
}
