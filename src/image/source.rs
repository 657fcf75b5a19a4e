//! The source of an import: an OCI layout in a directory, or an archive in a file or a pipe.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;

use super::layout::Layout;
use super::names;
use crate::error::{Doing, Error, Result};

/// The source of an import.
pub enum Source {
    /// An OCI layout in a directory.
    Dir(Layout),
    /// An archive, compressed or not.
    Stream(Stream),
}

/// An archive that is read once, from beginning to end.
pub struct Stream {
    pub(super) reader: Box<dyn Read>,
    /// The name of the source, for images that have only a tag.
    pub(super) label: Option<String>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dir(layout) => f.debug_tuple("Dir").field(layout).finish(),
            Self::Stream(stream) => f.debug_tuple("Stream").field(stream).finish(),
        }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("label", &self.label).finish_non_exhaustive()
    }
}

impl Source {
    /// An archive from any reader, named `label`.
    pub fn stream(reader: impl Read + 'static, label: Option<String>) -> Self {
        Self::Stream(Stream { reader: Box::new(reader), label })
    }

    /// An archive in an open file; `path` gives names to images that have only a tag.
    pub fn file(file: File, path: &Path) -> Self {
        Self::stream(file, names::label_of(path))
    }
}

/// Opens `path`: a layout directory, an archive, or standard input for `-`.
///
/// # Errors
/// `NotFound` when the path does not exist, `Invalid` when a directory is not a layout or standard input is a terminal.
pub fn open_source(path: &Path) -> Result<Source> {
    if path == Path::new("-") {
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            return Err(Error::invalid("standard input is a terminal, not an archive")
                .hint("pipe an archive in, or name a file or directory"));
        }
        return Ok(Source::stream(stdin, None));
    }
    if path.metadata().doing(|| format!("open {}", path.display()))?.is_dir() {
        return Layout::open(path).map(Source::Dir);
    }
    let file = File::open(path).doing(|| format!("open {}", path.display()))?;
    Ok(Source::file(file, path))
}
