//! Partial downloads that can be resumed after a restart: `partial/<hex>`, the first bytes of a compressed blob.
//!
//! The content of such a file is not trusted: after a power cut it may be anything. A pull that resumes one hashes all
//! of it and starts over when the digest is wrong. Only the holder of the blob's claim writes and removes it.

use std::fs::File;
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;

use crate::digest::Digest;
use crate::error::{Doing, Result};
use crate::linux::private;

use super::Store;

/// The most bytes of a download that a power cut may lose.
const SYNC_EVERY: u64 = 8 << 20;

/// The beginning of a blob on disk. It stays when this is dropped.
#[derive(Debug)]
pub struct Partial {
    file: File,
    path: PathBuf,
    length: u64,
    unsynced: u64,
}

impl Store {
    /// The partial download of `blob` from an earlier attempt; it may be empty, as a mark that there was one.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn partial(&self, blob: &Digest) -> Result<Option<Partial>> {
        let path = self.partial_path(blob);
        match private::open(&path, OFlags::RDWR | OFlags::APPEND) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            other => {
                let doing = || format!("open {}", path.display());
                let file = other.doing(doing)?;
                let length = file.metadata().doing(doing)?.len();
                Ok(Some(Partial { file, path, length, unsynced: 0 }))
            }
        }
    }

    /// Creates the file for an attempt to download `blob`, so that the next attempt keeps its bytes.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn begin_partial(&self, blob: &Digest) -> Result<Partial> {
        let path = self.partial_path(blob);
        let doing = || format!("make {}", path.display());
        let file = private::append(&path, private::FILE).doing(doing)?;
        file.set_len(0).doing(doing)?;
        Ok(Partial { file, path, length: 0, unsynced: 0 })
    }

    /// Removes the partial download of `blob`: it is complete in the store, or useless.
    ///
    /// # Errors
    /// When it cannot be removed; a missing one is no error.
    pub fn end_partial(&self, blob: &Digest) -> Result<()> {
        let path = self.partial_path(blob);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).doing(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Removes files that were not written for longer than `older_than`.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn sweep_partials(&self, older_than: Duration) -> Result<()> {
        let dir = self.path("partial");
        let doing = || format!("list {}", dir.display());
        let now = SystemTime::now();
        for entry in std::fs::read_dir(&dir).doing(doing)? {
            let entry = entry.doing(doing)?;
            let changed = entry.metadata().and_then(|meta| meta.modified());
            // If the clock was set back, no file counts as old.
            if changed.is_ok_and(|changed| now.duration_since(changed).is_ok_and(|age| age > older_than)) {
                // Another process may have removed it first.
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    fn partial_path(&self, blob: &Digest) -> PathBuf {
        self.path("partial").join(blob.hex())
    }
}

impl Partial {
    /// The length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads the bytes that were there when it was opened, from the first one.
    ///
    /// # Errors
    /// When the file cannot be opened again.
    pub fn reader(&self) -> Result<File> {
        let doing = || format!("read {}", self.path.display());
        let mut file = File::open(&self.path).doing(doing)?;
        file.seek(SeekFrom::Start(0)).doing(doing)?;
        Ok(file)
    }

    /// Appends the next bytes.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let doing = || format!("write {}", self.path.display());
        self.file.write_all(bytes).doing(doing)?;
        self.length += bytes.len() as u64;
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC_EVERY {
            self.unsynced = 0;
            self.file.sync_data().doing(doing)?;
            // These bytes are read again only if this process dies.
            let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_partial_grows_is_found_again_and_is_removed_with_age() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let blob = Digest::of(b"x");
        assert!(store.partial(&blob).unwrap().is_none());
        store.begin_partial(&blob).unwrap().append(b"one ").unwrap();
        let mut partial = Store::open(dir.path()).unwrap().partial(&blob).unwrap().unwrap();
        partial.append(b"two").unwrap();
        let mut text = String::new();
        partial.reader().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), partial.length()), ("one two", 7));
        store.sweep_partials(Duration::from_secs(3600)).unwrap();
        assert!(store.partial(&blob).unwrap().is_some());
        store.sweep_partials(Duration::ZERO).unwrap();
        assert!(store.partial(&blob).unwrap().is_none());
        store.end_partial(&blob).unwrap();
    }
}
