//! Files that a switch writes, and their way back.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::check::Tree;
use crate::digest::Digest;
use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;

/// The most that is read of a file, in bytes.
const MOST: u64 = 1 << 20;
const BY: &str = "# Written by `coracle ";
const DIRECTORIES: &str = "# Directories made for it: ";
const DIGEST: &str = "# Digest of the lines below: ";

/// A change of one file of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The file, as the machine names it.
    pub path: PathBuf,
    before: Option<String>,
    after: Option<String>,
    /// Directories that were made for a file that is removed.
    made: Vec<PathBuf>,
}

/// Reads a file; `None` if there is none.
///
/// # Errors
/// Those of reading, `Invalid` for bytes that are no text.
pub(super) fn read(tree: &Tree, path: &Path) -> Result<Option<String>> {
    let doing = || format!("read {}", path.display());
    match tree.path(path).and_then(|path| private::read_named(&path, MOST)) {
        Ok(bytes) => String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| Error::invalid(format!("{} is not a text", path.display()))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error).doing(doing),
    }
}

impl Change {
    /// Writes a file that belongs to `coracle <verb>` alone; `None` if it is there already.
    ///
    /// # Errors
    /// `Exists` for a file of the user's, or one that the user has changed.
    pub(super) fn write(tree: &Tree, path: &Path, verb: &str, body: &str) -> Result<Option<Self>> {
        let before = read(tree, path)?;
        let made = match before.as_deref().map(Own::parse) {
            None => missing_directories(tree, path),
            Some(Some(own)) if own.is_intact && own.body == body => return Ok(None),
            Some(Some(own)) if own.is_intact => own.made,
            Some(_) => return Err(foreign(path)),
        };
        let after = Some(text(verb, &made, body));
        Ok(Some(Self { path: path.to_owned(), before, after, made: Vec::new() }))
    }

    /// Removes a file that [`Change::write`] has written; `None` if there is none, or the file is the user's.
    ///
    /// # Errors
    /// `Exists` for one that the user has changed since.
    pub(super) fn remove(tree: &Tree, path: &Path) -> Result<Option<Self>> {
        let Some(before) = read(tree, path)? else { return Ok(None) };
        match Own::parse(&before) {
            None => Ok(None),
            Some(own) if own.is_intact => {
                Ok(Some(Self { path: path.to_owned(), made: own.made, before: Some(before), after: None }))
            }
            Some(_) => Err(foreign(path)),
        }
    }

    /// Replaces the text of a file of the user's; `None` if it stays the same.
    pub(super) fn edit(path: &Path, before: String, after: String) -> Option<Self> {
        (before != after).then(|| Self {
            path: path.to_owned(),
            before: Some(before),
            after: Some(after),
            made: Vec::new(),
        })
    }

    /// What it does, for people.
    pub fn shown(&self) -> String {
        let path = self.path.display();
        match (&self.before, &self.after) {
            (_, None) => format!("remove {path}"),
            (None, Some(_)) => format!("write {path}"),
            (Some(_), Some(_)) => format!("change {path}"),
        }
    }

    /// The lines that it adds, without comments.
    pub fn added(&self) -> Vec<&str> {
        let before: Vec<&str> = self.before.iter().flat_map(|text| text.lines()).collect();
        let after = self.after.iter().flat_map(|text| text.lines());
        after.filter(|line| !line.starts_with('#') && !before.contains(line)).collect()
    }

    /// Makes all changes, or none.
    ///
    /// # Errors
    /// Those of the first change that cannot be made; `Busy` if a file was changed since it was read.
    pub fn apply_all(changes: &[Self], tree: &Tree) -> Result<()> {
        for (index, change) in changes.iter().enumerate() {
            if let Err(error) = change.apply(tree) {
                for done in changes[..index].iter().rev() {
                    // The first error is the one to report.
                    let _ = done.reverse().apply(tree);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn reverse(&self) -> Self {
        let made = self.after.as_deref().and_then(Own::parse).map(|own| own.made).unwrap_or_default();
        Self { path: self.path.clone(), before: self.after.clone(), after: self.before.clone(), made }
    }

    fn apply(&self, tree: &Tree) -> Result<()> {
        if read(tree, &self.path)? != self.before {
            let doing = format!("{} was changed meanwhile", self.path.display());
            return Err(Error::new(Kind::Busy, doing).hint("try again"));
        }
        // A link is kept, and what it leads to is replaced.
        let named = tree.path(&self.path).doing(|| self.shown())?;
        let path = match tree.is_this_machine() {
            true => named.canonicalize().unwrap_or(named),
            false => named,
        };
        match &self.after {
            Some(text) => self.replace(&path, text).doing(|| self.shown()),
            None => {
                std::fs::remove_file(&path).doing(|| self.shown())?;
                for directory in &self.made {
                    // One that has got other files stays.
                    let _ = tree.path(directory).and_then(std::fs::remove_dir);
                }
                Ok(())
            }
        }
    }

    fn replace(&self, path: &Path, text: &str) -> std::io::Result<()> {
        let old = path.metadata().ok();
        let mode = old.as_ref().map_or(0o644, |old| old.mode() & 0o777);
        if let Some(directory) = path.parent() {
            private::make_dirs(directory, private::SHARED_DIR)?;
        }
        private::replace(path, &path.with_extension("coracle-new"), text, mode)?;
        if let Some(old) = old {
            // MicroK8s's group may write its arguments.
            std::os::unix::fs::chown(path, Some(old.uid()), Some(old.gid()))?;
        }
        // A power cut must not leave an empty file in the place of kubelet's arguments.
        std::fs::File::open(path)?.sync_all()?;
        path.parent().map_or(Ok(()), |directory| std::fs::File::open(directory)?.sync_all())
    }
}

fn foreign(path: &Path) -> Error {
    Error::new(Kind::Exists, format!("{} is not as Coracle wrote it", path.display()))
        .hint("move it away, or restore it, and try again")
}

fn text(verb: &str, made: &[PathBuf], body: &str) -> String {
    let made: Vec<String> = made.iter().map(|path| path.display().to_string()).collect();
    let made = if made.is_empty() { "none".to_owned() } else { made.join(" ") };
    let digest = Digest::of(body.as_bytes());
    format!(
        "{BY}{verb} enable`; `coracle {verb} disable` removes it.\n{DIRECTORIES}{made}\n{DIGEST}{digest}\n{body}"
    )
}

/// The directories above a file that do not exist yet, the innermost first.
fn missing_directories(tree: &Tree, path: &Path) -> Vec<PathBuf> {
    path.ancestors().skip(1).take_while(|directory| !tree.has(directory)).map(Path::to_owned).collect()
}

/// A file that Coracle has written.
struct Own<'a> {
    made: Vec<PathBuf>,
    body: &'a str,
    is_intact: bool,
}

impl<'a> Own<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (by, rest) = text.split_once('\n')?;
        by.strip_prefix(BY)?;
        let is_broken = Self { made: Vec::new(), body: "", is_intact: false };
        let Some((made, rest)) = rest.split_once('\n') else { return Some(is_broken) };
        let Some((digest, body)) = rest.split_once('\n') else { return Some(is_broken) };
        let (Some(made), Some(digest)) = (made.strip_prefix(DIRECTORIES), digest.strip_prefix(DIGEST)) else {
            return Some(is_broken);
        };
        let made = made.split(' ').filter(|path| path.starts_with('/')).map(PathBuf::from).collect();
        Some(Self { made, body, is_intact: Digest::of(body.as_bytes()).to_string() == digest })
    }
}
