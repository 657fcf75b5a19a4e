//! The restrictions of the unpacking process.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use caps::{CapSet, Capability, CapsHashSet};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction as Action, LinuxSyscall};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount, open_tree,
    unmount,
};

use super::super::layer;
use crate::error::{Doing, Error, Kind, Result};
use crate::seccomp::{self, Program};
use crate::sys::process::{close_all_but, close_inherited, dup_onto, unshare};
use crate::sys::seccomp::install;

/// The system calls that unpacking needs: files beneath the root, reading and writing, memory, and exit.
const CALLS: &str = "read readv write writev pread64 pwrite64 lseek _llseek close openat openat2 fstat fstat64 \
    newfstatat fstatat64 statx getdents64 readlinkat mkdirat mknodat symlinkat linkat unlinkat ftruncate ftruncate64 \
    fchmod fchmodat fchown fchown32 fchownat utimensat utimensat_time64 fsetxattr fgetxattr flistxattr fremovexattr \
    lsetxattr fadvise64 fadvise64_64 arm_fadvise64_64 fchdir umask brk mmap mmap2 mremap munmap madvise mprotect futex \
    futex_time64 getrandom sched_yield clock_gettime clock_gettime64 rt_sigaction rt_sigprocmask rt_sigreturn \
    sigreturn sigaltstack restart_syscall gettid getpid tgkill fcntl fcntl64 dup exit exit_group";

/// Owners, modes, devices, file capabilities; and `trusted.` attributes, which overlayfs needs: the filter leaves
/// nothing else of CAP_SYS_ADMIN.
const KEPT: [Capability; 8] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_MKNOD,
    Capability::CAP_SETFCAP,
    Capability::CAP_SYS_ADMIN,
];

/// Everything that is prepared before the fork.
#[derive(Debug)]
pub(super) struct Cage<'a> {
    root: BorrowedFd<'a>,
    program: &'static Program,
    kept: CapsHashSet,
    /// True if new namespaces can be created. Without CAP_SYS_ADMIN, for example inside a container, they cannot.
    spaces: bool,
}

impl<'a> Cage<'a> {
    pub(super) fn prepare(root: BorrowedFd<'a>) -> Result<Self> {
        layer::cache_user_namespace();
        let have = caps::read(None, CapSet::Effective)
            .map_err(|error| Error::new(Kind::System, "read the capabilities").because(error))?;
        let spaces = have.contains(&Capability::CAP_SYS_ADMIN);
        let kept = KEPT.into_iter().filter(|capability| have.contains(capability)).collect();
        Ok(Self { root, program: program()?, kept, spaces })
    }

    /// A warning if the restrictions are weaker than possible.
    pub(super) fn weakness(&self) -> Option<String> {
        let weak = "unpacked without its own namespaces, which need CAP_SYS_ADMIN";
        (!self.spaces).then(|| weak.to_owned())
    }

    /// Restricts this process to the descriptors in `keep` and one of the layer's root, which it returns.
    pub(super) fn enter(&self, keep: [i32; 3]) -> Result<OwnedFd> {
        let kill = Some(rustix::process::Signal::KILL);
        rustix::process::set_parent_process_death_signal(kill).doing(|| "ask to die with the parent")?;
        // Stray output must not be written to a file of the layer that got the number 1 or 2.
        let null = File::options().read(true).write(true).open("/dev/null").doing(|| "open /dev/null")?;
        for number in 0..=2 {
            dup_onto(null.as_fd(), number).doing(|| "close the standard streams")?;
        }
        let mut stay = [keep[0], keep[1], keep[2], self.root.as_raw_fd()];
        stay.sort_unstable();
        // Before 5.9 they stay open.
        let _ = close_all_but(3, &stay);
        std::mem::forget(null);
        let root = if self.spaces { self.isolate()? } else { reopen(self.root)? };
        // From this descriptor, `..` leads to the host.
        close_inherited(self.root.as_raw_fd());
        self.drop_capabilities()?;
        rustix::thread::set_no_new_privs(true).doing(|| "give up new privileges")?;
        layer::work_alone();
        install(self.program.flags, &self.program.instructions).doing(|| "filter system calls")?;
        Ok(root)
    }

    /// Creates new namespaces, with the layer's directory as the root of everything reachable.
    fn isolate(&self) -> Result<OwnedFd> {
        let doing = |what: &'static str| move || format!("isolate the unpacking process: {what}");
        let flags = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC;
        // A descriptor keeps the mounts of its old namespace; the working directory moves to the new one.
        rustix::process::fchdir(self.root).doing(doing("fchdir"))?;
        unshare(flags).doing(doing("unshare"))?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).doing(doing("make mounts private"))?;
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, ".", clone).doing(doing("open_tree"))?;
        move_mount(&tree, "", CWD, ".", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .doing(doing("move_mount"))?;
        rustix::process::fchdir(&tree).doing(doing("fchdir"))?;
        rustix::process::pivot_root(".", ".").doing(doing("pivot_root"))?;
        unmount(".", UnmountFlags::DETACH).doing(doing("umount"))?;
        rustix::process::chdir("/").doing(doing("chdir"))?;
        reopen_path("/").doing(doing("open the new root"))
    }

    fn drop_capabilities(&self) -> Result<()> {
        let set = |which, set: &CapsHashSet| {
            caps::set(None, which, set)
                .map_err(|error| Error::new(Kind::System, "give up capabilities").because(error))
        };
        set(CapSet::Inheritable, &CapsHashSet::new())?;
        set(CapSet::Effective, &self.kept)?;
        set(CapSet::Permitted, &self.kept)
    }
}

fn reopen(root: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(root, ".", flags, Mode::empty()).doing(|| "open the layer's directory")
}

fn reopen_path(path: &str) -> std::result::Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// The filter, compiled once.
fn program() -> Result<&'static Program> {
    static PROGRAM: OnceLock<Program> = OnceLock::new();
    if let Some(program) = PROGRAM.get() {
        return Ok(program);
    }
    let mut allowed = LinuxSyscall::default();
    allowed.set_names(CALLS.split_ascii_whitespace().map(str::to_owned).collect());
    allowed.set_action(Action::ScmpActAllow);
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(Action::ScmpActErrno);
    profile.set_default_errno_ret(u32::try_from(libc::EPERM).ok());
    profile.set_syscalls(Some(vec![allowed]));
    let compiled = seccomp::compile(&profile)?
        .ok_or_else(|| Error::new(Kind::Bug, "the filter of the unpacking process filters nothing"))?;
    Ok(PROGRAM.get_or_init(|| compiled))
}
