//! Images: from a reference or an archive to layers that the store can keep.

mod archive;
mod docker;
mod document;
pub mod export;
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
pub mod repair;
mod resolve;
pub mod rootfs;
mod sandbox;
mod shelf;
pub mod tar;
mod unpack;

pub use crate::digest;
pub use crate::store::reference;
