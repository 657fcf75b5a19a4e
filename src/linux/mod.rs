//! Typed facts of the kernel that stand above system calls.

pub mod id_map;
pub mod ids;
pub mod private;
pub mod proc_stat;
pub mod user_namespace;
