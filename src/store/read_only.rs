//! Stores that are only read: nothing is made, swept or corrected.

use std::path::Path;

use super::{Contents, Journal, Mutex, OverlayLayers, Store, Trash, View, prepare};
use crate::error::{Doing, Result};

impl Store {
    /// Checks that the journal can be read and that the directories of content are there.
    ///
    /// # Errors
    /// What is missing or cannot be read.
    pub fn check_access(&self) -> Result<()> {
        self.refresh()?;
        for name in ["layers", "blobs/sha256"] {
            let path = self.root.join(name);
            let doing = || format!("search {}", path.display());
            std::fs::read_dir(&path).doing(doing)?;
        }
        Ok(())
    }

    /// Opens a store to read it, and writes nothing; `None` if there is none yet.
    ///
    /// # Errors
    /// Those of [`Store::open`]; `Corrupt` for a store without its layers.
    pub fn open_to_read(root: &Path) -> Result<Option<Self>> {
        if !prepare::is_there(root).map_err(|e| e.doing(format!("open the store at {}", root.display())))? {
            return Ok(None);
        }
        let store = Self::unread(root);
        store.refresh()?;
        Ok(Some(store))
    }

    /// Whether the journal has lost records.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn has_lost_records(&self) -> Result<bool> {
        Ok(self.refresh()?.damaged)
    }

    /// The store at `root`, whose journal was not read yet.
    pub(super) fn unread(root: &Path) -> Self {
        let trash = Trash::new(root.join("trash"));
        let view = View { journal: Journal::new(root.join("journal")), contents: Contents::default() };
        Self {
            layers: OverlayLayers::new(root.join("layers"), trash.clone()),
            trash,
            root: root.to_owned(),
            view: Mutex::new(view),
            hook: None,
        }
    }
}
