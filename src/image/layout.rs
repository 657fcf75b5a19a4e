//! An OCI image layout in a directory.
//!
//! SPEC(image 1.1 image-layout.md)

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::Deserialize;

use super::document::{Blobs, Opened, read_within};
use crate::digest::Digest;
use crate::error::{Doing, Error, Kind, Result};

/// An open layout directory. Nothing outside it is reached, whatever links it contains.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    dir: OwnedFd,
    /// Used instead of `index.json`.
    index: Option<Vec<u8>>,
}

#[derive(Deserialize)]
struct Version {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

impl Layout {
    /// Opens the layout at `path`.
    ///
    /// # Errors
    /// `Invalid` when the directory is not a layout, `Unsupported` for a version after 1.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let layout = Self::new(path, None)?;
        match layout.file("oci-layout")? {
            Some(file) => check_version(&read_within(file, "oci-layout")?)?,
            None if layout.file("index.json")?.is_some() => {}
            None => {
                let doing = format!(
                    "{} is not an OCI image layout: it has neither oci-layout nor index.json",
                    path.display()
                );
                return Err(Error::invalid(doing)
                    .hint("name an OCI layout, or an archive of `docker save` as a file"));
            }
        }
        Ok(layout)
    }

    /// Opens a directory that has blobs, with an index of the caller's.
    ///
    /// # Errors
    /// Those of open(2).
    pub(super) fn with_index(path: &Path, index: Vec<u8>) -> Result<Self> {
        Self::new(path, Some(index))
    }

    fn new(path: &Path, index: Option<Vec<u8>>) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir =
            rustix::fs::open(path, flags, Mode::empty()).doing(|| format!("open {}", path.display()))?;
        Ok(Self { path: path.to_owned(), dir, index })
    }

    /// The layout's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads `index.json`, within the limit for documents.
    pub(super) fn index(&self) -> Result<Vec<u8>> {
        if let Some(index) = &self.index {
            return Ok(index.clone());
        }
        let file = self.file("index.json")?.ok_or_else(|| {
            Error::invalid(format!("{} has no index.json", self.path.display()))
                .hint("the layout is incomplete; write it again")
        })?;
        read_within(file, "index.json")
    }

    /// Opens a regular file beneath the directory; `None` when it does not exist.
    fn file(&self, name: &str) -> Result<Option<File>> {
        // NONBLOCK: a pipe in the place of a blob must not block us.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let doing = || format!("open {}", self.path.join(name).display());
        let fd = match rustix::fs::openat2(&self.dir, name, flags, Mode::empty(), beneath) {
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::XDEV) => {
                let doing = format!("{} leads out of the layout", self.path.join(name).display());
                return Err(
                    Error::new(Kind::Denied, doing).hint("copy the layout with its links resolved: cp -rL")
                );
            }
            other => other.doing(doing)?,
        };
        let file = File::from(fd);
        if !file.metadata().doing(doing)?.is_file() {
            return Err(Error::invalid(format!("{} is not a regular file", self.path.join(name).display())));
        }
        Ok(Some(file))
    }
}

/// Checks the content of the file `oci-layout`.
pub(super) fn check_version(bytes: &[u8]) -> Result<()> {
    let version: Version = serde_json::from_slice(bytes).doing(|| "read oci-layout")?;
    if version.version.starts_with("1.") {
        return Ok(());
    }
    let short: String = version.version.chars().take(20).collect();
    Err(Error::new(Kind::Unsupported, format!("the layout has version {short:?}; this program supports 1.x")))
}

impl Blobs for Layout {
    fn open(&self, digest: &Digest) -> Result<Option<Opened<'_>>> {
        let Some(file) = self.file(&format!("blobs/sha256/{}", digest.hex()))? else { return Ok(None) };
        let size = file.metadata().doing(|| format!("open blob {digest}"))?.len();
        // Read once only: the page cache should keep other files.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        Ok(Some(Opened { reader: Box::new(file), size }))
    }
}
