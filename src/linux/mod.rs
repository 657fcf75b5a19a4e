//! Linux facilities as typed functions, one step above the system calls of `sys`.

pub mod child;
pub mod id_map;
pub mod ids;
pub mod private;
pub mod proc_stat;
pub mod user_namespace;
