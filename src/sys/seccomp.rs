use std::os::fd::OwnedFd;
pub fn install(_: u32, _: &[libc::sock_filter]) -> Result<Option<OwnedFd>, rustix::io::Errno> { Ok(None) }
