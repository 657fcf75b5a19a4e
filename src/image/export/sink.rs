//! The target of an export: a directory, an archive, or standard output.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;

const BLOCK: usize = 512;

/// The place to write to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A directory that does not exist yet, or is empty.
    Dir(PathBuf),
    /// A tar; an existing file is replaced once the new one is complete.
    Archive(PathBuf),
    /// A tar on standard output.
    Stdout,
}

/// Writes the files of an export.
pub(super) struct Sink {
    form: Form,
    /// The temporary path, and the final one.
    aside: Option<(PathBuf, PathBuf)>,
}

enum Form {
    Dir(PathBuf),
    Tar(BufWriter<Box<dyn Write>>),
}

impl Target {
    pub(super) fn open(self) -> Result<Sink> {
        match self {
            Self::Stdout if std::io::stdout().is_terminal() => {
                Err(Error::invalid("standard output is a terminal, but an archive is binary")
                    .hint("name a file with --output, or use a pipe"))
            }
            Self::Stdout => Ok(Sink { form: Form::tar(std::io::stdout()), aside: None }),
            Self::Archive(path) => {
                if path.is_dir() {
                    let doing = format!("{} is a directory", path.display());
                    return Err(Error::new(Kind::Exists, doing).hint("use --format oci-dir, or name a file"));
                }
                let aside = aside(&path)?;
                // Private, as with docker save: an image may contain secrets.
                let file = private::create_new(&aside, private::FILE)
                    .doing(|| format!("make {}", aside.display()))?;
                Ok(Sink { form: Form::tar(file), aside: Some((aside, path)) })
            }
            Self::Dir(path) => {
                if path.exists() && !is_empty_dir(&path)? {
                    let doing = format!("{} exists and is not an empty directory", path.display());
                    return Err(Error::new(Kind::Exists, doing).hint("name another one"));
                }
                let aside = aside(&path)?;
                let blobs = aside.join("blobs/sha256");
                private::make_dirs(&blobs, private::DIR).doing(|| format!("make {}", blobs.display()))?;
                Ok(Sink { form: Form::Dir(aside.clone()), aside: Some((aside, path)) })
            }
        }
    }
}

/// A temporary name beside `path`, so that one rename can move it there.
fn aside(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| Error::invalid(format!("{} names no file", path.display())))?;
    Ok(path.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), std::process::id())))
}

fn is_empty_dir(path: &Path) -> Result<bool> {
    let doing = || format!("inspect {}", path.display());
    Ok(path.is_dir() && std::fs::read_dir(path).doing(doing)?.next().is_none())
}

impl Form {
    fn tar(out: impl Write + 'static) -> Self {
        Self::Tar(BufWriter::with_capacity(64 << 10, Box::new(out)))
    }
}

impl Sink {
    pub(super) fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let doing = || format!("write {name}");
        self.file(name, bytes.len() as u64, &mut |out: &mut dyn Write| out.write_all(bytes).doing(doing))
    }

    /// Writes one file of exactly `size` bytes, which `fill` writes.
    pub(super) fn file(
        &mut self,
        name: &str,
        size: u64,
        fill: &mut dyn FnMut(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        let doing = || format!("write {name}");
        match &mut self.form {
            Form::Dir(dir) => {
                let file = private::create(&dir.join(name), private::FILE).doing(doing)?;
                let mut out = Counted { inner: BufWriter::with_capacity(64 << 10, file), count: 0 };
                fill(&mut out)?;
                out.check(name, size)?;
                let file = out.inner.into_inner().map_err(|error| error.into_error()).doing(doing)?;
                file.sync_all().doing(doing)
            }
            Form::Tar(tar) => {
                tar.write_all(&header(name, size)).doing(doing)?;
                let mut out = Counted { inner: &mut *tar, count: 0 };
                fill(&mut out)?;
                out.check(name, size)?;
                let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
                tar.write_all(&[0; BLOCK][..(BLOCK - over) % BLOCK]).doing(doing)
            }
        }
    }

    /// Ends the archive and renames it to its final name.
    pub(super) fn finish(mut self) -> Result<()> {
        if let Form::Tar(tar) = &mut self.form {
            tar.write_all(&[0; 2 * BLOCK]).and_then(|()| tar.flush()).doing(|| "write the archive")?;
        }
        let Some((aside, path)) = &self.aside else { return Ok(()) };
        let doing = || format!("write {}", path.display());
        File::open(aside).and_then(|file| file.sync_all()).doing(doing)?;
        std::fs::rename(aside, path).doing(doing)?;
        self.aside = None;
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let Some((aside, _)) = &self.aside else { return };
        // Best effort: the error that led here is the one to report.
        let _ = if aside.is_dir() { std::fs::remove_dir_all(aside) } else { std::fs::remove_file(aside) };
    }
}

struct Counted<W> {
    inner: W,
    count: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl<W> Counted<W> {
    fn check(&self, name: &str, size: u64) -> Result<()> {
        if self.count == size {
            return Ok(());
        }
        Err(Error::new(Kind::Corrupt, format!("{name} has {} bytes instead of {size}", self.count)))
    }
}

/// A ustar header that depends only on name and size.
fn header(name: &str, size: u64) -> [u8; BLOCK] {
    let mut block = [0u8; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000644\x000000000\x000000000\x00");
    if size < 1 << 33 {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        // The size in GNU's binary form, which every reader supports.
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000\x00        0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
