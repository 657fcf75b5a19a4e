//! The network of pods: namespaces pinned as files, and the CNI plugins that connect them.

pub mod cni;
pub mod namespace;
