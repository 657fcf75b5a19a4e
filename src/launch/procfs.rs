//! A procfs of a PID namespace that the calling process is not in.
//!
//! A procfs shows the PID namespace of the process that creates it. Since Linux 6.17 another one can be named. Before
//! that, a child has to enter the namespace, where the processes inside can see it: it keeps nothing but the right to
//! mount and a socket.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{DumpableBehavior, Signal, WaitOptions, set_dumpable_behavior, waitpid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use super::deadline::{Deadline, SET_UP_LIMIT};
use super::wire;
use crate::error::{Doing, Result};
use crate::sys;

/// Filesystem parameters, as for fsconfig(2).
type Parameters = [(CString, Option<CString>)];

/// Creates a detached procfs of the PID namespace.
///
/// # Errors
/// The kernel refuses the namespace or a parameter.
pub(super) fn of_namespace(namespace: BorrowedFd<'_>, parameters: &Parameters) -> Result<OwnedFd> {
    match make(Some(namespace), parameters) {
        // KERNEL(6.17): older kernels do not know the parameter.
        Err(Errno::INVAL) => by_child(namespace, parameters),
        other => other,
    }
    .doing(|| "make a procfs of the PID namespace")
}

/// Child-safe.
fn make(namespace: Option<BorrowedFd<'_>>, parameters: &Parameters) -> std::result::Result<OwnedFd, Errno> {
    let context = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    if let Some(namespace) = namespace {
        fsconfig_set_fd(&context, c"pidns", namespace)?;
    }
    for (key, value) in parameters {
        match value {
            Some(value) => fsconfig_set_string(&context, key, value)?,
            None => fsconfig_set_flag(&context, key)?,
        }
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

fn by_child(namespace: BorrowedFd<'_>, parameters: &Parameters) -> std::result::Result<OwnedFd, Errno> {
    // Before the clone, because processes inside see the copies from their first moment.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let mut keep = [namespace.as_raw_fd(), theirs.as_raw_fd()];
    keep.sort_unstable();
    let child = || enter_and_make(namespace, parameters, theirs.as_fd(), &keep);
    let child = sys::process::spawn(0, None, child)?;
    drop(theirs);
    let deadline = Deadline::after(SET_UP_LIMIT);
    let made = wire::receive_fd(ours.as_fd(), &deadline);
    // The child exits by itself when its own child inside is gone, unless a process there has stopped that one.
    let _ = deadline.wait_readable(child.pidfd.as_fd());
    let _ = rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL);
    let _ = waitpid(rustix::process::Pid::from_raw(child.pid), WaitOptions::empty());
    made
}

/// Runs in the child and forks a child of its own inside: entering a PID namespace takes effect only for children.
fn enter_and_make(
    namespace: BorrowedFd<'_>,
    parameters: &Parameters,
    to: BorrowedFd<'_>,
    keep: &[i32],
) -> Infallible {
    let kill = || rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let inside = || -> Infallible {
        if kill().is_ok()
            && let Ok(tree) = make(None, parameters)
        {
            let _ = wire::send_fd(to, b"proc", tree.as_fd());
        }
        sys::process::exit_now(0)
    };
    let made = || -> std::result::Result<(), Errno> {
        kill()?;
        sys::process::close_all_but(3, keep)?;
        leave_root()?;
        sys::process::setns(namespace, libc::CLONE_NEWPID)?;
        let mount = CapabilitySet::SYS_ADMIN;
        let inheritable = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: mount, permitted: mount, inheritable })?;
        let child = sys::process::spawn(0, None, inside)?;
        waitpid(rustix::process::Pid::from_raw(child.pid), WaitOptions::empty()).map(drop)
    };
    sys::process::exit_now(i32::from(made().is_err()))
}

/// Leaves the host's mount namespace and makes an empty, detached filesystem the root: not even `..` leads from there
/// to the host's. Child-safe.
fn leave_root() -> std::result::Result<(), Errno> {
    sys::process::unshare(libc::CLONE_NEWNS)?;
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let empty = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    rustix::process::fchdir(&empty)?;
    rustix::process::chroot(c".")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PID namespace with one process in it, which is killed on drop.
    struct Inhabited(sys::process::Spawned);

    impl Inhabited {
        fn new() -> Option<Self> {
            let flags = libc::CLONE_NEWPID as u64;
            sys::process::spawn(flags, None, || sys::process::wait_for_signal()).ok().map(Self)
        }

        fn namespace(&self) -> OwnedFd {
            std::fs::File::open(format!("/proc/{}/ns/pid", self.0.pid)).unwrap().into()
        }
    }

    impl Drop for Inhabited {
        fn drop(&mut self) {
            let _ = rustix::process::pidfd_send_signal(&self.0.pidfd, Signal::KILL);
            let _ = waitpid(rustix::process::Pid::from_raw(self.0.pid), WaitOptions::empty());
        }
    }

    fn pids(procfs: &OwnedFd) -> Vec<String> {
        let path = format!("/proc/self/fd/{}", procfs.as_raw_fd());
        let names = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.parse::<u32>().is_ok()).collect()
    }

    #[test]
    fn a_procfs_shows_the_namespace_that_was_named() {
        let Some(inhabited) = Inhabited::new() else { return eprintln!("SKIP: needs root") };
        let options = [(c"hidepid".to_owned(), Some(c"1".to_owned()))];
        let made = of_namespace(inhabited.namespace().as_fd(), &options).unwrap();
        assert_eq!(pids(&made), ["1"]);
    }

    #[test]
    fn where_no_namespace_can_be_named_a_child_makes_it() {
        let Some(inhabited) = Inhabited::new() else { return eprintln!("SKIP: needs root") };
        let made = by_child(inhabited.namespace().as_fd(), &[]).unwrap();
        assert_eq!(pids(&made), ["1"]);
        let unknown = [(c"nosuch".to_owned(), None)];
        assert!(by_child(inhabited.namespace().as_fd(), &unknown).is_err());
    }
}
