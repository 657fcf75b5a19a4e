//! Images for machines without a network: archives in a directory, as in K3s (`agent/images`). Each archive is imported
//! once, and its images are pinned as long as the archive exists.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::Config;
use super::images::{Images, LogProgress};
use crate::digest::Digest;
use crate::error::{Doing, Error, Kind, Result};
use crate::image::import::{ImportOptions, import, open_source};
use crate::image::pull::pull;
use crate::linux::private;
use crate::pod::one_line;
use crate::record::format::{ARCHIVES, Unreadable};
use crate::store::reference::Reference;
use crate::store::{ImageRecord, Store};

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
/// What K3s itself keeps in its directory.
const OF_K3S: &str = ".cache.json";

/// An archive that was imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    size: u64,
    /// Its mtime, in nanoseconds since 1970.
    mtime: i128,
    /// The ids of its images.
    images: BTreeSet<Digest>,
}

/// The file format.
#[derive(Serialize, Deserialize)]
struct List<A> {
    archives: A,
}

fn write_known(known: &BTreeMap<PathBuf, Known>) -> Result<Vec<u8>, Unreadable> {
    ARCHIVES.to_json(&List { archives: known })
}

fn read_known(text: &[u8]) -> Result<BTreeMap<PathBuf, Known>, Unreadable> {
    match ARCHIVES.json_version(text)? {
        // Version 1 was the list without an envelope.
        1 => ARCHIVES.from_json(text),
        _ => ARCHIVES.from_json::<List<_>>(text).map(|list| list.archives),
    }
}

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<PathBuf, Known>,
    /// How many imports are under way.
    importing: u32,
}

/// The archives that were imported, also recorded in a file of the store.
#[derive(Debug)]
pub(super) struct Archives {
    file: PathBuf,
    /// Another release wrote the file: it is not overwritten.
    is_foreign: bool,
    state: Mutex<State>,
    done: Condvar,
}

impl Archives {
    /// Loads what was imported into the store at `root`. If the file cannot be read, the archives are imported again, which
    /// only costs time.
    pub(super) fn open(root: &Path) -> Self {
        let file = root.join("archives.json");
        let known = std::fs::read(&file).ok().map(|text| read_known(&text));
        let is_foreign = matches!(&known, Some(Err(error)) if error.is_of_another_release());
        if let Some(Err(error)) = &known {
            crate::log::warning(&format!("read {}: {error}", file.display()));
        }
        let known = known.and_then(Result::ok).unwrap_or_default();
        let state = State { known, importing: 0 };
        Self { file, is_foreign, state: Mutex::new(state), done: Condvar::new() }
    }

    /// The ids of the images that were imported from archives.
    pub(super) fn pinned(&self) -> BTreeSet<Digest> {
        self.state().known.values().flat_map(|known| &known.images).copied().collect()
    }

    /// Waits until no import is under way; returns whether one was.
    ///
    /// # Errors
    /// `Busy` when the import takes longer than `limit`.
    pub(super) fn wait(&self, limit: Duration) -> Result<bool> {
        let state = self.state();
        if state.importing == 0 {
            return Ok(false);
        }
        let waited = self.done.wait_timeout_while(state, limit, |state| state.importing > 0);
        match waited.unwrap_or_else(PoisonError::into_inner).1.timed_out() {
            true => {
                Err(Error::new(Kind::Busy, "archives of images are still being imported").hint("ask again"))
            }
            false => Ok(true),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save(&self) -> Result<()> {
        if self.is_foreign {
            return Ok(());
        }
        let doing = || format!("write {}", self.file.display());
        let text = write_known(&self.state().known).map_err(|error| error.while_doing(doing()))?;
        let new = self.file.with_extension("new");
        private::create(&new, private::FILE)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
            .doing(doing)?;
        std::fs::rename(&new, &self.file).doing(doing)
    }
}

/// An import under way, until dropped.
#[derive(Debug)]
pub(super) struct Importing(Arc<Archives>);

impl Drop for Importing {
    fn drop(&mut self) {
        self.0.state().importing -= 1;
        self.0.done.notify_all();
    }
}

impl Importing {
    pub(super) fn begin(archives: &Arc<Archives>) -> Self {
        archives.state().importing += 1;
        Self(Arc::clone(archives))
    }

    /// Imports archives that are new or have changed. An error is logged and does not stop the other imports.
    pub(super) fn run(self, images: &Images, config: &Config) {
        let mut found = BTreeMap::new();
        for path in config.images.import_dirs.iter().flat_map(|dir| files(dir)) {
            match self.bring_in(images.store(), config, &path) {
                Ok(known) => drop(found.insert(path, known)),
                Err(error) => {
                    crate::log::warning(&one_line(&error.doing(format!("import {}", path.display()))));
                }
            }
        }
        let has_changed = std::mem::replace(&mut self.0.state().known, found.clone()) != found;
        if let Some(error) = has_changed.then(|| self.0.save()).and_then(Result::err) {
            crate::log::warning(&one_line(&error));
        }
    }

    fn bring_in(&self, store: &Store, config: &Config, path: &Path) -> Result<Known> {
        let meta = path.metadata().doing(|| "read its metadata")?;
        let mtime = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        let before = self.0.state().known.get(path).cloned();
        if let Some(known) = before.filter(|known| (known.size, known.mtime) == (meta.size(), mtime)) {
            let here: BTreeSet<Digest> = store.images()?.iter().map(|image| image.id).collect();
            if known.images.is_subset(&here) {
                return Ok(known);
            }
        }
        let (images, is_complete) = match ends_with(path, LIST) {
            true => pull_list(store, config, path)?,
            false => (import(store, open_source(path)?, &ImportOptions::default(), &LogProgress)?, true),
        };
        let images = images.into_iter().map(|image| image.id).collect();
        // An incomplete list is worked through again the next time.
        let mtime = if is_complete { mtime } else { UNKNOWN };
        Ok(Known { size: meta.size(), mtime, images })
    }
}

/// The mtime of a list whose images could not all be pulled.
const UNKNOWN: i128 = -1;

fn ends_with(path: &Path, ending: &str) -> bool {
    path.to_string_lossy().to_ascii_lowercase().ends_with(ending)
}

/// The archives and lists in a directory, by name; none if the directory cannot be read. What else it has is named in a
/// warning: a misspelt ending must not look like an imported archive.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            crate::log::warning(&format!("search {} for archives: {error}", dir.display()));
            return Vec::new();
        }
        Ok(entries) => entries,
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.retain(|path| match skipped(path) {
        None => true,
        Some(why) => {
            if path.file_name().is_none_or(|name| name != OF_K3S) {
                crate::log::warning(&format!("{} is not imported: {why}", path.display()));
            }
            false
        }
    });
    paths
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

/// Pulls the images of a list; one that cannot be pulled does not stop the others. Also returns whether all were.
fn pull_list(store: &Store, config: &Config, path: &Path) -> Result<(Vec<ImageRecord>, bool)> {
    let text = std::fs::read_to_string(path).doing(|| "read it")?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let names = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let options = config.pull_options();
    let (mut images, mut is_complete) = (Vec::new(), true);
    for name in names {
        let pulled =
            Reference::parse(name).and_then(|reference| pull(store, &reference, &options, &LogProgress));
        match pulled {
            Ok(pulled) => images.extend(pulled.images),
            Err(error) => {
                is_complete = false;
                crate::log::warning(&one_line(&error.doing(format!("work through {}", path.display()))));
            }
        }
    }
    Ok((images, is_complete))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::golden;

    #[test]
    fn golden_lists() {
        let known =
            Known { size: 7, mtime: 1_767_225_600_000_000_000, images: BTreeSet::from([Digest::of(b"x")]) };
        let known = BTreeMap::from([(PathBuf::from("/images/a.tar"), known)]);
        let written = write_known(&known).unwrap();
        golden::check("src/serve/golden", "archives", ARCHIVES, &[("one", written)]);
        for version in [1, 2] {
            for (_, text) in golden::samples("src/serve/golden", "archives", version) {
                assert_eq!(read_known(&text), Ok(known.clone()), "version {version}");
            }
        }
    }

    #[test]
    fn archives_are_known_by_their_ending_in_any_case_and_all_else_is_skipped_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| std::fs::write(dir.path().join(name), "").unwrap();
        let taken = [
            "a.tar",
            "B.TAR",
            "c.tar.gz",
            "d.Tgz",
            "e.tar.zst",
            "f.tzst",
            "g.tar.bz2",
            "h.tbz",
            "i.tar.lz4",
            "j.tar.xz",
            "k.TXT",
            "l.oci",
        ];
        taken.iter().for_each(|name| make(name));
        for other in ["m.zip", "n", "o.tar.sha256", "p.tar.gz.part", ".cache.json", "q.tar7"] {
            make(other);
            let why = skipped(&dir.path().join(other)).unwrap();
            assert!(why.contains("none of .tar"), "{other}: {why}");
        }
        std::fs::create_dir(dir.path().join("r.tar")).unwrap();
        assert_eq!(skipped(&dir.path().join("r.tar")).unwrap(), "it is a directory");
        std::os::unix::fs::symlink("gone", dir.path().join("s.tar")).unwrap();
        assert!(skipped(&dir.path().join("s.tar")).unwrap().contains("No such file"));
        let found = files(dir.path());
        let found: Vec<&str> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        let mut expected = taken.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_list_of_another_release_is_left_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("archives.json");
        for (text, stays) in [(r#"{"version":9}"#, true), ("{", false), ("{}", false)] {
            std::fs::write(&file, text).unwrap();
            Archives::open(root.path()).save().unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap() == text, stays, "{text}");
        }
    }
}
