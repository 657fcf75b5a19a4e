//! What the parent opens before the clone: the child finds each thing at a known position.

use std::ffi::CString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::steps::Slot;
use crate::linux::id_map::IdMaps;

/// Something that the parent opens, or is handed, before the clone, so that the child finds it at a known number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Open {
    /// A namespace file.
    Namespace {
        /// Where.
        #[serde(skip)]
        path: PathBuf,
        /// Its `CLONE_NEW*`, checked when it is opened.
        kind: i32,
    },
    /// A detached copy of a host tree.
    Tree {
        /// Where.
        #[serde(skip)]
        path: PathBuf,
        /// With the mounts below it.
        recursive: bool,
        /// `MS_*` for the copy, so that it does not spread to the host.
        propagation: u64,
        /// Id maps, with whether they hold for all mounts below too.
        #[serde(skip)]
        idmap: Option<(IdMaps, bool)>,
    },
    /// A directory of the host.
    Directory(#[serde(skip)] PathBuf),
    /// The root filesystem: mounted and attached nowhere yet, or for a further process the root directory of the first.
    Root,
    /// The socket that receives the terminal.
    Console,
    /// The listening socket on which `start` arrives.
    StartSocket,
    /// The pidfd of the process whose namespaces are joined.
    Process,
    /// A file that holds the container's state for hooks that the child runs.
    HookState,
    /// A procfs of the PID namespace in another slot, attached nowhere.
    Proc {
        /// The slot.
        namespace: Slot,
        /// For fsconfig(2), in order.
        parameters: Vec<(CString, Option<CString>)>,
    },
}

/// The list of what is opened; its positions are the [`Slot`]s.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opens(pub Vec<Open>);

impl Opens {
    /// Adds one and says where it will be.
    pub fn push(&mut self, open: Open) -> Slot {
        self.0.push(open);
        Slot(self.0.len() - 1)
    }
}
