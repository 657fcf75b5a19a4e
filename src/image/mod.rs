//! Images: importing, pulling, exporting and unpacking them.

mod archive;
pub mod containerd;
mod docker;
mod document;
pub mod export;
pub mod import;
mod inherit_dir_attrs;
mod job;
pub mod layer;
mod layout;
mod member_cache;
mod names;
pub mod platform;
pub mod policy;
pub mod progress;
pub mod pull;
mod question;
pub mod registry;
mod registry_source;
pub mod repair;
mod resolve;
pub mod rootfs;
mod sandbox;
mod source;
pub mod tar;
mod unpack;

pub use crate::digest;
pub use crate::store::reference;
