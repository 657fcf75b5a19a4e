//! Images for machines without a link: archives in a directory, as K3s has it (`agent/images`). Each is imported once,
//! and its images are pinned as long as it is there.

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
use crate::store::reference::Reference;
use crate::store::{ImageRecord, Store};

/// How the names of archives end.
const ENDINGS: [&str; 6] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.zstd"];
/// A list of names of images to pull, one a line.
const LIST: &str = ".txt";

/// What is known of an archive that was imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    size: u64,
    /// When it was written, in nanoseconds since the epoch.
    mtime: i128,
    /// The ids of its images.
    images: BTreeSet<Digest>,
}

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<PathBuf, Known>,
    /// How many look through the directories just now.
    importing: u32,
}

/// All archives that were imported; kept in a file of the store.
#[derive(Debug)]
pub(super) struct Archives {
    file: PathBuf,
    state: Mutex<State>,
    done: Condvar,
}

impl Archives {
    /// What was imported into the store at `root`. When that cannot be read, the archives are imported again, which
    /// costs time and nothing else.
    pub(super) fn open(root: &Path) -> Self {
        let file = root.join("archives.json");
        let known = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let state = State { known: known.unwrap_or_default(), importing: 0 };
        Self { file, state: Mutex::new(state), done: Condvar::new() }
    }

    /// The ids of images that archives brought.
    pub(super) fn pinned(&self) -> BTreeSet<Digest> {
        self.state().known.values().flat_map(|known| &known.images).copied().collect()
    }

    /// Waits while archives are being imported, and says whether any were.
    ///
    /// # Errors
    /// `Busy` when it takes longer than `limit`.
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
        let doing = || format!("write {}", self.file.display());
        let text = serde_json::to_vec(&self.state().known).doing(doing)?;
        let new = self.file.with_extension("new");
        private::create(&new, private::FILE)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
            .doing(doing)?;
        std::fs::rename(&new, &self.file).doing(doing)
    }
}

/// An import that is under way, until it is dropped.
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

    /// Imports what is new or has changed. A failure is told, and ends nothing else.
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
        let meta = path.metadata().doing(|| "look at it")?;
        let mtime = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        let before = self.0.state().known.get(path).cloned();
        if let Some(known) = before.filter(|known| (known.size, known.mtime) == (meta.size(), mtime)) {
            let here: BTreeSet<Digest> = store.images()?.iter().map(|image| image.id).collect();
            if known.images.is_subset(&here) {
                return Ok(known);
            }
        }
        let images = match path.to_string_lossy().ends_with(LIST) {
            true => pull_list(store, config, path)?,
            false => import(store, open_source(path)?, &ImportOptions::default(), &LogProgress)?,
        };
        let images = images.into_iter().map(|image| image.id).collect();
        Ok(Known { size: meta.size(), mtime, images })
    }
}

/// The archives and lists in a directory, in the order of their names; one that cannot be read has none.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            crate::log::warning(&format!("look for archives in {}: {error}", dir.display()));
            return Vec::new();
        }
        Ok(entries) => entries,
    };
    let is_one = |path: &PathBuf| {
        let name = path.to_string_lossy();
        path.is_file() && ENDINGS.iter().chain([&LIST]).any(|ending| name.ends_with(ending))
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_one).collect();
    files.sort();
    files
}

fn pull_list(store: &Store, config: &Config, path: &Path) -> Result<Vec<ImageRecord>> {
    let text = std::fs::read_to_string(path).doing(|| "read it")?;
    let names = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let options = config.pull_options();
    let pull_one = |name| Ok(pull(store, &Reference::parse(name)?, &options, &LogProgress)?.images);
    Ok(names.map(pull_one).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}
