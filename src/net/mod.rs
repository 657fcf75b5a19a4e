//! The network of pods: namespaces that live without a process, and the plugins that connect them.

pub mod cni;
pub mod namespace;
