//! Stores that are only read: nothing is made, swept or corrected.

use std::path::Path;

use super::{Contents, Journal, Mutex, OverlayLayers, Store, Trash, View, prepare};
use crate::error::Result;

impl Store {
    /// What a store has below its root.
    pub const PARTS: [&'static str; 8] =
        ["VERSION", "journal", "blobs/sha256", "partial", "layers", "containers", "tmp", "trash"];

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
