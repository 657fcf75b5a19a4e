//! Images: from a reference or an archive to layers that the store can keep.

pub mod tar;

pub use crate::digest;
