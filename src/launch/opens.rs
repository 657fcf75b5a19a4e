//! Descriptors that the parent opens before the clone: the child finds each one at a known position.

use std::ffi::CString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::steps::Slot;
use crate::linux::id_map::IdMaps;

/// A descriptor that the parent opens, or receives from its caller, before the clone.
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
        /// Whether the mounts below it are copied too.
        recursive: bool,
        /// The propagation type of the copy (`MS_*`), so that mounts in it do not propagate to the host.
        propagation: u64,
        /// Id maps, and whether they apply to all mounts below too.
        #[serde(skip)]
        idmap: Option<(IdMaps, bool)>,
    },
    /// A directory of the host.
    Directory(#[serde(skip)] PathBuf),
    /// The root filesystem: a detached mount, or for an exec the root directory of the container's first process.
    Root,
    /// The socket that receives the terminal.
    Console,
    /// The listening socket on which `start` arrives.
    StartSocket,
    /// The pidfd of the process whose namespaces are joined.
    Process,
    /// A file that holds the container's state for hooks that the child runs.
    HookState,
    /// A detached procfs of the PID namespace in another slot.
    Proc {
        /// The slot.
        namespace: Slot,
        /// Parameters for fsconfig(2), in order.
        parameters: Vec<(CString, Option<CString>)>,
    },
}

/// The list of descriptors; a [`Slot`] is a position in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opens(pub Vec<Open>);

impl Opens {
    /// Adds a descriptor and returns its slot.
    pub fn push(&mut self, open: Open) -> Slot {
        self.0.push(open);
        Slot(self.0.len() - 1)
    }
}
