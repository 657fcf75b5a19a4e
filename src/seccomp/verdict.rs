//! The kernel's `SECCOMP_RET_*` values for the actions of a profile.

use oci_spec::runtime::LinuxSeccompAction as Action;

use crate::error::{Error, Result};

/// The greatest errno that the kernel passes on; it cuts greater ones to this (`MAX_ERRNO`).
const MAX_ERRNO: u32 = 4095;

/// The verdict that makes a call look like one that this kernel does not have.
pub(super) const NO_SUCH_CALL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// The return value of a filter for `action`. `errno` is `errnoRet`: the errno of ERRNO and the message of TRACE, EPERM
/// when absent; the other actions ignore it, as in runc.
///
/// # Errors
/// `Invalid` when `errno` is beyond the kernel's range.
pub(super) fn of(action: Action, errno: Option<u32>) -> Result<u32> {
    Ok(match action {
        Action::ScmpActKill | Action::ScmpActKillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Action::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        Action::ScmpActErrno => libc::SECCOMP_RET_ERRNO | bounded(errno, MAX_ERRNO, action)?,
        Action::ScmpActTrace => libc::SECCOMP_RET_TRACE | bounded(errno, libc::SECCOMP_RET_DATA, action)?,
        Action::ScmpActNotify => libc::SECCOMP_RET_USER_NOTIF,
        Action::ScmpActLog => libc::SECCOMP_RET_LOG,
        Action::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
    })
}

fn bounded(errno: Option<u32>, most: u32, action: Action) -> Result<u32> {
    match errno.unwrap_or(libc::EPERM as u32) {
        errno if errno <= most => Ok(errno),
        errno => Err(Error::invalid(format!("seccomp action {action} with errnoRet {errno}"))
            .hint(format!("errnoRet is at most {most}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_is_eperm_unless_named() {
        assert_eq!(of(Action::ScmpActErrno, None).unwrap(), 0x0005_0001);
        assert_eq!(of(Action::ScmpActErrno, Some(38)).unwrap(), NO_SUCH_CALL);
        assert_eq!(of(Action::ScmpActTrace, Some(7)).unwrap(), 0x7ff0_0007);
        assert_eq!(of(Action::ScmpActAllow, Some(7)).unwrap(), 0x7fff_0000);
    }

    #[test]
    fn an_errno_the_kernel_would_cut_is_refused() {
        let error = of(Action::ScmpActErrno, Some(4096)).unwrap_err();
        assert!(error.chain().contains("SCMP_ACT_ERRNO with errnoRet 4096"), "{error:?}");
        assert!(of(Action::ScmpActTrace, Some(0x1_0000)).is_err());
    }
}
