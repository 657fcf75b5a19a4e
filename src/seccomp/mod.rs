//! Placeholder while the module is written.
use std::path::PathBuf;
#[derive(Debug)] pub struct Program { pub instructions: Vec<libc::sock_filter>, pub flags: u32, pub listener: Option<Listener> }
#[derive(Debug, Clone, PartialEq)] pub struct Listener { pub path: PathBuf, pub metadata: String }
