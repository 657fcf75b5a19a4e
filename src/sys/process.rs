//! Creating processes: clone3(2), execve(2) and the calls between them.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sched::CloneFlags;
use nix::sys::personality::Persona;
use nix::sys::signal::SigSet;
use rustix::io::Errno;

use super::errno;

/// The fields of `struct clone_args` of clone3(2) that are used here.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// clone3(2): start the child in the cgroup of the given directory. KERNEL(5.7)
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A new child process.
#[derive(Debug)]
pub struct Spawned {
    /// Its pid in the caller's PID namespace.
    pub pid: i32,
    /// A pidfd of it, close-on-exec.
    pub pidfd: OwnedFd,
}

/// Ends the process if the child's closure unwinds: the stack frames below belong to the parent and must not run twice.
struct NoReturn;

impl Drop for NoReturn {
    fn drop(&mut self) {
        exit_now(101);
    }
}

/// clone3(2) with `CLONE_PIDFD`, `SIGCHLD` and fork semantics, in new namespaces (`CLONE_NEW*` in `flags`) and, if one
/// is given, directly in a cgroup v2 directory; the new process runs `child`. With `CLONE_PARENT` in `flags` it is a
/// child of the caller's parent.
///
/// `child` may call only functions marked child-safe: if another thread of the caller holds a lock at this moment, the
/// copy of that lock stays held forever in the new process, and an allocation could wait for it.
///
/// # Errors
/// The errno of clone3: `ENOSYS` where it does not exist, `EINVAL` or `E2BIG` before 5.7 when a cgroup is given.
pub fn spawn(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> std::convert::Infallible,
) -> Result<Spawned, Errno> {
    let mut pidfd: i32 = -1;
    let args = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64 | cgroup.map_or(0, |_| CLONE_INTO_CGROUP),
        pidfd: std::ptr::from_mut(&mut pidfd) as usize as u64,
        // CLONE_PARENT inherits the caller's exit signal; clone3 refuses another one.
        exit_signal: if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 },
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
        ..CloneArgs::default()
    };
    // SAFETY: args is a live clone_args of the size given; no stack and no CLONE_VM, so the child runs on its own copy
    // of this frame and never leaves it (NoReturn); pidfd points to a live i32 that the kernel fills in the parent.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match result {
        -1 => Err(last_errno()),
        0 => {
            let _stay = NoReturn;
            child();
            #[expect(
                unreachable_code,
                reason = "the closure does not return; the compiler wants a value all the same"
            )]
            exit_now(101)
        }
        // SAFETY: with CLONE_PIDFD the kernel stored a new descriptor there, which nothing else owns.
        pid => Ok(Spawned { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// clone3(2) with `CLONE_PARENT`: a copy of this process, child-safe. The copy is a sibling of the caller: the caller's
/// parent gets SIGCHLD for both. Returns `None` in the copy and the copy's pid in the caller.
///
/// # Errors
/// The errno of clone3.
pub fn spawn_sibling() -> Result<Option<i32>, Errno> {
    // CLONE_PARENT inherits the caller's exit signal; clone3 refuses another one.
    let args = CloneArgs { flags: libc::CLONE_PARENT as u64, ..CloneArgs::default() };
    // SAFETY: args is a live clone_args of the size given; no stack and no CLONE_VM, so the copy runs on its own memory.
    // The callers are children of `spawn`, which leave by execve or _exit only: no destructor runs twice.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match result {
        -1 => Err(last_errno()),
        0 => Ok(None),
        pid => Ok(Some(pid as i32)),
    }
}

/// The errno of this thread's last failed libc call.
pub(super) fn last_errno() -> Errno {
    // SAFETY: __errno_location returns the address of this thread's errno, valid for its life.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

/// Strings with a null-terminated array of pointers to them, as execve(2) needs; built before the clone.
pub struct StringArray {
    strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl StringArray {
    /// Keeps the order of the strings.
    pub fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Self { strings, pointers }
    }

    /// The strings in order, without the terminating null.
    pub fn strings(&self) -> &[CString] {
        &self.strings
    }
}

impl std::fmt::Debug for StringArray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.strings).finish()
    }
}

impl Clone for StringArray {
    fn clone(&self) -> Self {
        Self::new(self.strings.clone())
    }
}

impl PartialEq for StringArray {
    fn eq(&self, other: &Self) -> bool {
        self.strings == other.strings
    }
}

/// execve(2), child-safe. Returns only on failure.
pub fn execve(path: &CStr, argv: &StringArray, envp: &StringArray) -> Errno {
    // SAFETY: both arrays end in null and point to strings that StringArray owns; path is a C string.
    unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), envp.pointers.as_ptr()) };
    last_errno()
}

/// execveat(2) of the file open as `fd`. Returns only on failure.
pub fn execve_fd(fd: BorrowedFd<'_>, argv: &StringArray, envp: &StringArray) -> Errno {
    // SAFETY: as in `execve`; the path is empty, so AT_EMPTY_PATH names the file of the descriptor.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            argv.pointers.as_ptr(),
            envp.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    last_errno()
}

/// The pid of a child that has ended and that nobody has reaped yet. The child stays as it is: waitid(2), WNOWAIT.
pub fn ended_child() -> Option<i32> {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: a zeroed siginfo_t is valid, the kernel writes to that live local only, and si_pid is the field of waitid.
    let pid = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        match libc::waitid(libc::P_ALL, 0, &raw mut info, options) {
            0 => info.si_pid(),
            _ => 0,
        }
    };
    (pid > 0).then_some(pid)
}

/// _exit(2), child-safe: runs no destructor and no atexit handler, and flushes no buffer twice.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes any number and does not return.
    unsafe { libc::_exit(code) }
}

/// unshare(2) of namespaces, child-safe.
///
/// # Errors
/// The errno of unshare.
pub fn unshare(flags: i32) -> Result<(), Errno> {
    nix::sched::unshare(CloneFlags::from_bits_retain(flags)).map_err(errno)
}

/// setns(2), child-safe.
///
/// # Errors
/// The errno of setns.
pub fn setns(fd: BorrowedFd<'_>, flags: i32) -> Result<(), Errno> {
    nix::sched::setns(fd, CloneFlags::from_bits_retain(flags)).map_err(errno)
}

/// Resets SIGPIPE to its default action and unblocks all signals, as a payload expects; child-safe. Rust ignores
/// SIGPIPE and a parent that waits on a signalfd has blocked the rest; both settings would survive execve.
pub fn reset_signals() {
    // SAFETY: a zeroed sigaction is SIG_DFL with an empty mask; the only pointer is to a live local.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGPIPE, &raw const default, std::ptr::null_mut());
    }
    let _ = SigSet::empty().thread_set_mask();
}

/// Resets every ignored signal but SIGPIPE to its default action: a daemon that a script started in the background
/// would pass an ignored SIGINT on to all its children.
pub fn reset_ignored_signals() {
    for number in (1..32).filter(|number| *number != libc::SIGPIPE) {
        // SAFETY: a zeroed sigaction is SIG_DFL with an empty mask; both pointers are to live locals. No handler is
        // removed: only an action that is SIG_IGN changes.
        unsafe {
            let default: libc::sigaction = std::mem::zeroed();
            let mut now: libc::sigaction = std::mem::zeroed();
            let known = libc::sigaction(number, std::ptr::null(), &raw mut now) == 0;
            if known && now.sa_sigaction == libc::SIG_IGN {
                libc::sigaction(number, &raw const default, std::ptr::null_mut());
            }
        }
    }
}

/// Returns whether the working directory is inside the root, child-safe: getcwd(2) returns a path that does not start
/// with `/` when it is not (CVE-2024-21626).
///
/// # Errors
/// The errno of getcwd: `ENOENT` when the directory was removed.
pub fn cwd_is_inside_root() -> Result<bool, Errno> {
    let mut path = [0_u8; 4096];
    // SAFETY: the kernel writes at most path.len() bytes to the array.
    let length = unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) };
    if length < 0 { Err(last_errno()) } else { Ok(path[0] == b'/') }
}

/// Joins a new session keyring named `name` (keyctl(2) KEYCTL_JOIN_SESSION_KEYRING), child-safe: without it a container
/// would see the keys of the user who started it.
///
/// # Errors
/// `ENOSYS` where the kernel has no keys; `EDQUOT` when the user's quota is used up.
pub fn join_session_keyring(name: &CStr) -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: the kernel reads a C string.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

/// personality(2), child-safe.
///
/// # Errors
/// The errno of personality.
pub fn set_personality(persona: u64) -> Result<(), Errno> {
    let persona = i32::try_from(persona).map_err(|_| Errno::INVAL)?;
    nix::sys::personality::set(Persona::from_bits_retain(persona)).map(drop).map_err(errno)
}

/// ioprio_set(2) for the calling thread, child-safe. `value` is class << 13 | priority.
///
/// # Errors
/// The errno of ioprio_set.
pub fn set_io_priority(value: i32) -> Result<(), Errno> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: plain numbers.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

/// `struct sched_attr` of sched_setattr(2), version 0.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedAttr {
    /// Size of this struct: 48.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value for SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// Static priority for SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// SCHED_DEADLINE, nanoseconds.
    pub runtime: u64,
    /// SCHED_DEADLINE, nanoseconds.
    pub deadline: u64,
    /// SCHED_DEADLINE, nanoseconds.
    pub period: u64,
}

/// sched_setattr(2) for the calling thread, child-safe.
///
/// # Errors
/// The errno of sched_setattr.
pub fn set_scheduler(attr: &SchedAttr) -> Result<(), Errno> {
    // SAFETY: attr is a live sched_attr whose size field says how much of it the kernel may read.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(attr), 0) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

/// close_range(2): closes every descriptor from `first` on except those in `keep`, which is sorted. Child-safe.
///
/// # Errors
/// `ENOSYS` before 5.9: nothing is closed then.
pub fn close_all_but(first: i32, keep: &[i32]) -> Result<(), Errno> {
    let mut from = first.cast_unsigned();
    let last = keep.iter().map(|fd| fd.cast_unsigned()).chain([u32::MAX]);
    for next in last {
        if next > from {
            let to = if next == u32::MAX { next } else { next - 1 };
            // SAFETY: called in a child that leaves by execve or _exit: the owners of these numbers exist only in the
            // parent, and the child uses none but those kept.
            if unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) } < 0 {
                return Err(last_errno());
            }
        }
        from = from.max(next.saturating_add(1));
    }
    Ok(())
}

/// Returns whether an open descriptor has this number and is close-on-exec (fcntl(2), F_GETFD). Child-safe.
pub fn is_close_on_exec(fd: i32) -> bool {
    // SAFETY: F_GETFD on any number reads a flag or returns EBADF.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC != 0
}

/// Waits until a signal ends this process. Child-safe.
pub fn wait_for_signal() -> ! {
    loop {
        nix::unistd::pause();
    }
}

/// close(2) of the child's copy of a descriptor whose owner exists only in the parent. Child-safe.
pub fn close_inherited(fd: i32) {
    // SAFETY: called in a child that never returns to the owner of the number and leaves by _exit.
    unsafe { libc::close(fd) };
}

/// dup2(2) onto one of the three standard descriptors, child-safe.
///
/// # Errors
/// The errno of dup2.
pub fn dup_onto(fd: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    debug_assert!((0..=2).contains(&number));
    let duplicated = match number {
        0 => nix::unistd::dup2_stdin(fd),
        1 => nix::unistd::dup2_stdout(fd),
        _ => nix::unistd::dup2_stderr(fd),
    };
    duplicated.map_err(errno)
}
