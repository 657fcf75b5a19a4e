//! The images in containerd's store that kubelet would have to pull again.

use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::image::containerd::{Availability, Containerd, Image};
use crate::image::progress::Progress;
use crate::pod::one_line;
use crate::store::Store;

/// What can be done with an image.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Present,
    Importable,
    /// It cannot be imported, and why.
    Lost(String),
}

/// containerd's images.
#[derive(Debug)]
pub struct Images {
    containerd: Option<Containerd>,
    all: Vec<(Image, State)>,
}

/// The result of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// The image.
    pub name: String,
    /// Why it was not imported, if it was not.
    pub error: Option<String>,
}

impl Images {
    pub(super) fn read(root: &Path, store: &Path) -> Result<Self> {
        let Some(containerd) = Containerd::open(root)? else {
            return Ok(Self { containerd: None, all: Vec::new() });
        };
        let store = Store::open_to_read(store)?;
        let state = |image: &Image| match containerd.availability(image, store.as_ref()) {
            Ok(Availability::Present) => State::Present,
            Ok(Availability::Importable) => State::Importable,
            Ok(Availability::Incomplete(count)) => {
                State::Lost(format!("containerd has discarded {count} of its layers"))
            }
            Err(error) => State::Lost(one_line(&error)),
        };
        let all = containerd.images().iter().map(|image| (image.clone(), state(image))).collect();
        Ok(Self { containerd: Some(containerd), all })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The images that cannot be imported, and why.
    pub fn lost(&self) -> impl Iterator<Item = (String, &str)> {
        self.all.iter().filter_map(|(image, state)| match state {
            State::Lost(why) => Some((name(image), why.as_str())),
            State::Present | State::Importable => None,
        })
    }

    /// The images that can be imported.
    pub fn importable(&self) -> impl Iterator<Item = String> {
        self.all.iter().filter(|(_, state)| *state == State::Importable).map(|(image, _)| name(image))
    }

    /// Refuses to lose an image: containerd's store has the only copy of those that Coracle does not have.
    ///
    /// # Errors
    /// `WrongState` with the names of these images.
    pub fn all_imported(&self) -> Result<()> {
        let only = self.all.iter().filter_map(|(image, state)| match state {
            State::Present => None,
            State::Importable => Some(name(image)),
            State::Lost(why) => Some(format!("{} ({why})", name(image))),
        });
        let only: Vec<String> = only.collect();
        match only.is_empty() {
            true => Ok(()),
            false => Err(Error::new(
                Kind::WrongState,
                format!("containerd's data is kept: Coracle does not have {}", only.join(", ")),
            )),
        }
    }

    /// How many there are, in words.
    pub fn summary(&self) -> String {
        let count = |wanted: fn(&State) -> bool| self.all.iter().filter(|(_, state)| wanted(state)).count();
        format!(
            "{} in containerd's store: {} can be imported, Coracle has {} already, {} cannot be imported",
            self.all.len(),
            count(|state| matches!(state, State::Importable)),
            count(|state| matches!(state, State::Present)),
            count(|state| matches!(state, State::Lost(_)))
        )
    }

    /// Imports all that can be. One that fails does not keep the others from their turn.
    ///
    /// # Errors
    /// The store cannot be opened.
    pub fn import(&self, store: &Path, progress: &dyn Progress) -> Result<Vec<Carried>> {
        let Some(containerd) = self.containerd.as_ref().filter(|_| self.importable().next().is_some()) else {
            return Ok(Vec::new());
        };
        let store = Store::open(store)?;
        let importable = self.all.iter().filter(|(_, state)| *state == State::Importable);
        let carry = |(image, _): &(Image, State)| {
            let error = containerd.import(image, &store, progress).err().map(|error| one_line(&error));
            Carried { name: name(image), error }
        };
        Ok(importable.map(carry).collect())
    }
}

fn name(image: &Image) -> String {
    image.names.first().cloned().unwrap_or_else(|| image.target.to_string())
}
