//! Images for machines without a network: archives in a directory, as in K3s (`agent/images`). Each archive is imported
//! once it is complete, also while the daemon runs, and its images are pinned as long as the archive exists.

mod directory;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::Config;
use super::progress::LogProgress;
use crate::digest::Digest;
use crate::error::{Doing, Error, Kind, Result};
use crate::image::import::{ImportOptions, Source, import};
use crate::image::pull::pull;
use crate::linux::private;
use crate::pod::one_line;
use crate::record::format::{ARCHIVES, Unreadable};
use crate::store::reference::Reference;
use crate::store::{ImageRecord, Store};
use directory::{Identity, Listing, Stamp};

pub(super) use watch::Watch;

/// An archive that was imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    size: u64,
    /// Its mtime, in nanoseconds since 1970.
    mtime: i128,
    /// `None` from a release that did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity: Option<Identity>,
    /// The ids of its images.
    images: BTreeSet<Digest>,
}

impl Known {
    fn new(stamp: Stamp, images: BTreeSet<Digest>) -> Self {
        Self { size: stamp.size, mtime: stamp.mtime, identity: Some(stamp.identity), images }
    }

    fn is(&self, stamp: Stamp) -> bool {
        let is_identical = self.identity.is_none_or(|identity| identity == stamp.identity);
        self.size == stamp.size && self.mtime == stamp.mtime && is_identical
    }
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
    /// The versions of archives that this process has dealt with, including those that could not be imported.
    seen: BTreeMap<PathBuf, Stamp>,
    /// Entries of the directories that were reported as no archives.
    reported: BTreeSet<PathBuf>,
    phase: Phase,
    /// `known` has what an older release had not recorded.
    is_unsaved: bool,
}

/// One thread at a time imports, so that no archive is imported twice at once.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Idle,
    Importing,
    /// Something has changed since the import began: it looks again before it ends.
    ImportingThenAgain,
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
        let state = State { known, ..State::default() };
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
        if state.phase == Phase::Idle {
            return Ok(false);
        }
        let waited = self.done.wait_timeout_while(state, limit, |state| state.phase != Phase::Idle);
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

/// Whether archives that could not be imported are tried again although they have not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// At a start or reload, which an administrator may have requested for this.
    All,
    /// After a change in the directories.
    Changed,
}

/// What happened to this version of an archive.
enum Version {
    New,
    /// It gave these images.
    Imported(BTreeSet<Digest>),
    /// It could not be imported, or a list not wholly.
    Refused,
}

/// The one import under way, until dropped.
#[derive(Debug)]
pub(super) struct Importing {
    archives: Arc<Archives>,
    has_ended: bool,
}

impl Drop for Importing {
    fn drop(&mut self) {
        if !self.has_ended {
            self.archives.state().phase = Phase::Idle;
            self.archives.done.notify_all();
        }
    }
}

impl Importing {
    /// Begins an import. `None` if one is under way, which then looks at the directories once more.
    pub(super) fn begin(archives: &Arc<Archives>, retry: Retry) -> Option<Self> {
        let mut state = archives.state();
        if retry == Retry::All {
            state.seen.clear();
            state.reported.clear();
        }
        match state.phase {
            Phase::Idle => {
                state.phase = Phase::Importing;
                Some(Self { archives: Arc::clone(archives), has_ended: false })
            }
            Phase::Importing | Phase::ImportingThenAgain => {
                state.phase = Phase::ImportingThenAgain;
                None
            }
        }
    }

    /// Imports archives that are new or have changed, until nothing changes any more. An error is logged and does not stop
    /// the other imports.
    pub(super) fn run(mut self, store: &Store, config: impl Fn() -> Arc<Config>) {
        while !self.has_ended {
            self.scan(store, &config());
            let mut state = self.archives.state();
            match state.phase {
                Phase::ImportingThenAgain => state.phase = Phase::Importing,
                Phase::Importing | Phase::Idle => {
                    state.phase = Phase::Idle;
                    drop(state);
                    self.has_ended = true;
                }
            }
        }
        self.archives.done.notify_all();
    }

    fn scan(&self, store: &Store, config: &Config) {
        let listing = Listing::of(&config.images.import_dirs);
        self.report(&listing);
        let archives: BTreeSet<&Path> = listing.archives.iter().map(PathBuf::as_path).collect();
        let may_exist = |path: &Path| archives.contains(path) || listing.is_unreadable(path);
        self.update(|state| {
            state.seen.retain(|path, _| may_exist(path));
            let before = state.known.len();
            state.known.retain(|path, _| may_exist(path));
            state.known.len() != before
        });
        // Read once: a store may have as many images as there are archives.
        let mut here: BTreeSet<Digest> = match store.images() {
            Ok(images) => images.iter().map(|image| image.id).collect(),
            Err(error) => return crate::log::warning(&one_line(&error.doing("import archives"))),
        };
        for path in &listing.archives {
            if let Err(error) = self.bring_in(store, config, path, &mut here) {
                crate::log::warning(&one_line(&error.doing(format!("import {}", path.display()))));
            }
        }
        self.update(|state| std::mem::take(&mut state.is_unsaved));
    }

    /// Logs once what is not imported.
    fn report(&self, listing: &Listing) {
        for (dir, error) in &listing.unreadable {
            crate::log::warning(&format!("search {} for archives: {error}", dir.display()));
        }
        let mut state = self.archives.state();
        let skipped: BTreeSet<&Path> = listing.skipped.iter().map(|(path, _)| path.as_path()).collect();
        state.reported.retain(|path| skipped.contains(path.as_path()));
        for (path, reason) in &listing.skipped {
            // What is being written may get another name when it is complete.
            let is_being_written = directory::open(path)
                .is_ok_and(|opened| opened.is_some_and(|(file, _)| directory::is_being_written(&file)));
            if !is_being_written && state.reported.insert(path.clone()) {
                crate::log::warning(&format!("{} is not imported: {reason}", path.display()));
            }
        }
    }

    /// Imports an archive unless it was imported already, or is still being written: its end is reported, too. `here` has the
    /// images of the store.
    fn bring_in(
        &self,
        store: &Store,
        config: &Config,
        path: &Path,
        here: &mut BTreeSet<Digest>,
    ) -> Result<()> {
        // If it is gone, its removal is reported, too.
        let Some((file, stamp)) = directory::open(path)? else { return Ok(()) };
        let is_due = match self.progress(path, stamp) {
            Version::New if directory::is_being_written(&file) => {
                self.imported(path, stamp).is_some_and(|images| !images.is_subset(here))
            }
            Version::New => true,
            Version::Refused => false,
            // Some may have been removed by hand.
            Version::Imported(images) => !images.is_subset(here),
        };
        if !is_due {
            return Ok(());
        }
        // Noted first: if it cannot be imported, only a change or a reload makes it worth another attempt.
        self.archives.state().seen.insert(path.to_owned(), stamp);
        let (images, is_complete) = match directory::is_list(path) {
            true => pull_list(store, config, path, file)?,
            false => {
                (import(store, Source::file(file, path), &ImportOptions::default(), &LogProgress)?, true)
            }
        };
        let images: BTreeSet<Digest> = images.into_iter().map(|image| image.id).collect();
        here.extend(&images);
        // An incomplete list is worked through again at the next start.
        let mtime = if is_complete { stamp.mtime } else { UNKNOWN };
        let known = Known { mtime, ..Known::new(stamp, images) };
        self.update(|state| state.known.insert(path.to_owned(), known.clone()) != Some(known));
        Ok(())
    }

    fn progress(&self, path: &Path, stamp: Stamp) -> Version {
        let state = &mut *self.archives.state();
        let seen = state.seen.get(path).copied();
        if seen.is_some_and(|seen| seen != stamp) {
            return Version::New;
        }
        match state.known.get_mut(path).filter(|known| known.is(stamp)) {
            Some(known) => {
                state.is_unsaved |= known.identity.replace(stamp.identity).is_none();
                state.seen.insert(path.to_owned(), stamp);
                Version::Imported(known.images.clone())
            }
            None if seen.is_some() => Version::Refused,
            None => Version::New,
        }
    }

    /// The images of an archive that is open for writing, and of which nothing differs yet from what was imported but the
    /// ctime or the inode: until its writer closes it, it counts as imported.
    fn imported(&self, path: &Path, stamp: Stamp) -> Option<BTreeSet<Digest>> {
        let state = self.archives.state();
        let known = state.known.get(path)?;
        (known.size == stamp.size && known.mtime == stamp.mtime).then(|| known.images.clone())
    }

    /// Changes the list of imported archives, and its file if `change` returns that it differs then.
    fn update(&self, change: impl FnOnce(&mut State) -> bool) {
        let has_changed = change(&mut self.archives.state());
        if let Some(error) = has_changed.then(|| self.archives.save()).and_then(Result::err) {
            crate::log::warning(&one_line(&error));
        }
    }
}

/// The longest list that is read, in bytes.
const LONGEST_LIST: u64 = 1 << 20;

/// The mtime of a list whose images could not all be pulled.
const UNKNOWN: i128 = -1;

/// Pulls the images of a list; one that cannot be pulled does not stop the others. Also returns whether all were.
fn pull_list(store: &Store, config: &Config, path: &Path, file: File) -> Result<(Vec<ImageRecord>, bool)> {
    let text = std::io::read_to_string(file.take(LONGEST_LIST)).doing(|| "read it")?;
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
        let known = |identity| {
            let images = BTreeSet::from([Digest::of(b"x")]);
            let known = Known { size: 7, mtime: 1_767_225_600_000_000_000, identity, images };
            BTreeMap::from([(PathBuf::from("/images/a.tar"), known)])
        };
        let latest = known(Some(Identity { inode: 42, ctime: 1_767_225_600_000_000_001 }));
        let written = write_known(&latest).unwrap();
        golden::check("src/serve/golden", "archives", ARCHIVES, &[("one", written)]);
        for (version, expected) in [(1, known(None)), (2, known(None)), (3, latest)] {
            for (_, text) in golden::samples("src/serve/golden", "archives", version) {
                assert_eq!(read_known(&text), Ok(expected.clone()), "version {version}");
            }
        }
    }

    #[test]
    fn an_archive_is_known_by_its_identity_too_unless_an_older_release_recorded_it() {
        let identity = Identity { inode: 1, ctime: 2 };
        let stamp = Stamp { size: 7, mtime: 8, identity };
        let known = Known::new(stamp, BTreeSet::new());
        let others = [
            Stamp { size: 6, ..stamp },
            Stamp { mtime: 6, ..stamp },
            Stamp { identity: Identity { inode: 6, ..identity }, ..stamp },
            Stamp { identity: Identity { ctime: 6, ..identity }, ..stamp },
        ];
        assert!(known.is(stamp));
        assert!(others.iter().all(|other| !known.is(*other)));
        let old = Known { identity: None, ..known };
        assert_eq!(others.map(|other| old.is(other)), [false, false, true, true]);
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
