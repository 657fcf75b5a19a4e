//! Images: from a reference or an archive to layers that the store can keep.

mod archive;
mod docker;
mod document;
pub mod import;
pub mod layer;
mod layout;
mod names;
mod parents;
pub mod platform;
pub mod progress;
pub mod pull;
pub mod registry;
mod remote;
mod resolve;
pub mod rootfs;
mod shelf;
pub mod tar;
mod unpack;

pub use crate::digest;
pub use crate::store::reference;
