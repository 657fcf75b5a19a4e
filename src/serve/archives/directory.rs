//! What lies in a directory of archives.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

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
            match skipped(&path) {
                None => self.archives.push(path),
                // Transfers write to hidden files, and K3s keeps its `.cache.json` here.
                Some(_) if is_hidden(&path) => {}
                Some(reason) => self.skipped.push((path, reason)),
            }
        }
    }

    /// Whether the archive at `path` may still exist.
    pub(super) fn may_have(&self, path: &Path) -> bool {
        self.archives.iter().any(|archive| archive == path)
            || self.unreadable.iter().any(|(dir, _)| path.parent() == Some(dir))
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
    /// A file that was moved here may have the size and the mtime of the one before.
    inode: u64,
}

/// Opens a regular file, which may be a link to one.
///
/// # Errors
/// Those of open(2) and fstat(2); `Invalid` when it has become something else than a regular file.
pub(super) fn open(path: &Path) -> Result<(File, Stamp)> {
    // NONBLOCK: a FIFO that has replaced the file must not block.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).doing(|| "open it")?);
    let meta = file.metadata().doing(|| "read its metadata")?;
    if !meta.is_file() {
        return Err(Error::invalid("it is not a regular file"));
    }
    let mtime = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    Ok((file, Stamp { size: meta.size(), mtime, inode: meta.ino() }))
}

/// Whether a process is still writing the file. A file system that cannot tell, such as one on a network, has none.
pub(super) fn is_being_written(file: &File) -> bool {
    /// NFS, SMB and CIFS grant leases only as their server permits, and 9P none: the answer says nothing about writers.
    const OF_NETWORKS: [u32; 4] = [0x6969, 0xfe53_4d42, 0xff53_4d42, 0x0102_1997];
    let is_local = rustix::fs::fstatfs(file).is_ok_and(|stat| !OF_NETWORKS.contains(&(stat.f_type as u32)));
    is_local && crate::sys::lease::is_open_for_writing(file.as_fd()).unwrap_or(false)
}

#[cfg(test)]
mod tests {
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
        assert!(!listing.may_have(&missing.join("a.tar")));
        assert!(listing.may_have(&looped.join("a.tar")));
    }

    #[test]
    fn a_file_that_is_being_written_is_known_and_a_fifo_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let writer = File::create(&path).unwrap();
        assert!(is_being_written(&open(&path).unwrap().0));
        drop(writer);
        assert!(!is_being_written(&open(&path).unwrap().0));
        crate::linux::private::fifo(&dir.path().join("b.tar"), 0o600).unwrap();
        assert!(open(&dir.path().join("b.tar")).is_err());
    }
}
