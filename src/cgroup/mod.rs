//! cgroup
pub mod devices;
pub(crate) mod dir;
pub mod filter;
pub mod limits;
mod limits_v1;
mod limits_v2;
pub mod place;
mod scale;
pub mod write;
/// Mode
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// 1
    V1,
    /// 2
    V2,
}
/// Driver
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// 1
    Cgroupfs,
    /// 2
    Systemd,
}
