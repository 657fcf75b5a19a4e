//! Images: from a reference or an archive to layers that the store can keep.

pub mod digest;
pub mod layer;
pub mod tar;
