//! The new process: takes the plan's steps one after the other and becomes the payload.
//!
//! Nothing here allocates, locks or calls libc beyond system calls, and every string and number comes from the plan.
//! Descriptors that are done with are forgotten, not closed: all are close-on-exec, so the kernel closes them at once.

mod copy_up;
mod device;
mod hook;
mod identity;
mod mount;
mod place;
mod root;
mod terminal;

use std::convert::Infallible;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::namespaces::CLONE_NEWTIME;
use super::plan::{Open, Plan};
use super::steps::{Slot, Step};
use super::wire::{self, Failure, Op, Permission, Word};
use crate::sys;

/// What a step comes to: done, or the operation that failed and its errno.
type Outcome<T = ()> = Result<T, (Op, Errno)>;

/// Names the operation of a failing call.
trait At<T> {
    fn at(self, op: Op) -> Outcome<T>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, op: Op) -> Outcome<T> {
        self.map_err(|errno| (op, errno))
    }
}

/// The process while it takes its steps.
struct Init<'a> {
    plan: &'a Plan,
    fds: &'a [OwnedFd],
    sync: BorrowedFd<'a>,
    /// Whoever connected to start us: from then on the one to tell of a failure.
    starter: Option<OwnedFd>,
    /// The container's root while it is not `/` yet.
    root: Option<OwnedFd>,
    /// A /proc that nothing covers.
    proc: Option<OwnedFd>,
    /// The terminal's slave.
    terminal: Option<OwnedFd>,
    masks: mount::Masks,
    /// Permissions that came before their time.
    permitted: u8,
    /// Which of several things a failing operation was at.
    detail: std::cell::Cell<u32>,
    /// What the caller had.
    umask: Mode,
    joined: i32,
    root_is_shared: bool,
    in_working_directory: bool,
    program: usize,
}

/// Takes all steps; does not return. Call it only in the child of `sys::process::spawn`.
pub(super) fn run(plan: &Plan, fds: &[OwnedFd], sync: BorrowedFd<'_>) -> Infallible {
    sys::process::reset_signals();
    // Modes in the plan are what is meant, not what the caller's umask leaves of them.
    let umask = rustix::process::umask(Mode::empty());
    let mut init = Init {
        umask,
        plan,
        fds,
        sync,
        starter: None,
        root: None,
        proc: None,
        terminal: None,
        masks: mount::Masks::default(),
        permitted: 0,
        detail: std::cell::Cell::new(0),
        joined: 0,
        root_is_shared: false,
        in_working_directory: false,
        program: 0,
    };
    for (position, step) in (0_u32..).zip(&plan.steps) {
        if let Err((op, errno)) = init.take(step) {
            let failure = Failure { step: position, op, detail: init.detail.get(), errno };
            let listener = init.starter.as_ref().map_or(sync, AsFd::as_fd);
            let _ = wire::say(listener, Word::Failed(failure));
            break;
        }
    }
    sys::process::exit_now(1)
}

impl Init<'_> {
    #[expect(clippy::too_many_lines, reason = "the table of steps: one line or one call each")]
    fn take(&mut self, step: &Step) -> Outcome {
        match step {
            Step::AwaitParent => self.await_permission(Permission::SetUp),
            Step::AwaitGo => self.await_permission(Permission::Go),
            Step::Join { slot, kind, early, .. } => self.join(*slot, *kind, *early),
            Step::JoinProcess { slot, kinds } => sys::process::setns(self.fd(*slot), *kinds).at(Op::Setns),
            Step::BeBornInside { first } => self.be_born_inside(*first),
            Step::Undumpable => {
                rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
                    .at(Op::Prctl)
            }
            Step::BecomeNamespaceRoot { set_groups } => identity::become_namespace_root(*set_groups),
            Step::UnshareCgroup => sys::process::unshare(libc::CLONE_NEWCGROUP).at(Op::Unshare),
            Step::UnshareTime { offsets } => unshare_time(offsets.as_deref()),
            Step::NewSession => rustix::process::setsid().map(drop).at(Op::Setsid),
            Step::SessionKeyring(name) => match sys::process::join_session_keyring(name) {
                // Kernels without keys, and users whose quota of keys is used up, run containers too.
                Err(Errno::NOSYS | Errno::DQUOT | Errno::PERM) => Ok(()),
                other => other.at(Op::Keyring),
            },
            Step::LoopbackUp => sys::loopback::bring_up().at(Op::Loopback),
            Step::Isolate { propagation } => self.isolate(*propagation),
            Step::AttachRoot { source } => self.attach_root(source),
            Step::Mount(mount) => self.mount(mount),
            Step::Device(device) => self.device(device),
            Step::Symlink { target, link } => self.symlink(target, link),
            Step::Directory(path) => self.directory(path),
            Step::OpenProc => self.open_proc(),
            Step::OpenTerminal { slot, console, size, uid } => {
                self.open_terminal(*slot, *console, *size, *uid)
            }
            Step::HooksPoint => {
                wire::say(self.sync, Word::Hooks).at(Op::Send)?;
                self.await_permission(Permission::Hooks)
            }
            Step::RunHooks { hooks, state, .. } => {
                hooks.iter().try_for_each(|h| hook::run(h, self.fd(*state)))
            }
            Step::Hostname(name) => rustix::system::sethostname(name.as_bytes()).at(Op::SetName),
            Step::Domainname(name) => rustix::system::setdomainname(name.as_bytes()).at(Op::SetName),
            Step::Sysctl { path, value } => self.write_proc(path, value.as_bytes()),
            Step::Mask(path) => self.mask(path),
            Step::ReadOnly(path) => self.make_read_only(path),
            Step::PivotRoot { shared } => self.pivot_root(*shared),
            Step::MoveRoot => self.move_root(),
            Step::Chroot(slot) => root::change_root(self.fd(*slot)),
            Step::ReadOnlyRoot => self.read_only_root(),
            Step::RootPropagation { propagation, recursive } => {
                root::propagate(c"/", *propagation, *recursive)
            }
            Step::Rlimit { resource, soft, hard, .. } => identity::set_limit(*resource, *soft, *hard),
            Step::Scheduler(attr) => sys::process::set_scheduler(attr).at(Op::Scheduler),
            Step::IoPriority(value) => sys::process::set_io_priority(*value).at(Op::IoPriority),
            Step::Personality(persona) => sys::process::set_personality(*persona).at(Op::Personality),
            Step::Umask(mask) => {
                rustix::process::umask(mask.map_or(self.umask, Mode::from_raw_mode));
                Ok(())
            }
            Step::Stdio { owner } => self.stdio(*owner),
            Step::ExecLabel { attributes, value, .. } => self.write_first(attributes, value.as_bytes()),
            Step::NoNewPrivileges => rustix::thread::set_no_new_privs(true).at(Op::NoNewPrivs),
            Step::BoundingSet { keep } => identity::drop_bounding(*keep),
            Step::Identity(identity) => identity::assume(identity),
            Step::WorkingDirectory { path, early } => self.enter_working_directory(path, *early),
            Step::FindProgram => self.find_program(),
            Step::CloseOnExec { first } => close_on_exec(*first),
            Step::Ready => wire::say(self.sync, Word::Ready).at(Op::Send),
            Step::AwaitStart(slot) => self.await_start(*slot),
            Step::Seccomp(filter) => self.seccomp(filter),
            Step::Capabilities(masks) => identity::set_final_capabilities(masks),
            Step::Execute => self.execute(),
        }
    }

    fn fd(&self, slot: Slot) -> BorrowedFd<'_> {
        self.fds[slot.0].as_fd()
    }

    fn await_permission(&mut self, wanted: Permission) -> Outcome {
        wire::await_permission(self.sync, wanted, &mut self.permitted).at(Op::Parent)
    }

    /// The copy goes on with the next step once the parent knows of it; this process ends.
    fn be_born_inside(&mut self, first: u32) -> Outcome {
        use std::os::fd::AsRawFd;
        const MOST: usize = 16;
        let mut keep = [i32::MAX; MOST];
        let needed = self.plan.opens.0.iter().zip(self.fds);
        let needed = needed.filter(|(open, _)| !matches!(open, Open::Process | Open::Namespace { .. }));
        let needed = needed.map(|(_, fd)| fd.as_raw_fd()).chain([self.sync.as_raw_fd()]);
        for (count, fd) in needed.enumerate() {
            *keep.get_mut(count).ok_or((Op::Fork, Errno::MFILE))? = fd;
        }
        keep.sort_unstable();
        sys::process::close_all_but(first.cast_signed(), &keep);
        match sys::process::spawn_sibling().at(Op::Fork)? {
            None => self.await_permission(Permission::Adopted),
            Some(pid) => {
                let told = wire::say(self.sync, Word::Reborn(pid)).is_ok();
                sys::process::exit_now(i32::from(!told))
            }
        }
    }

    fn join(&mut self, slot: Slot, kind: i32, early: bool) -> Outcome {
        if self.joined & kind != 0 {
            return Ok(());
        }
        match sys::process::setns(self.fd(slot), kind) {
            Err(Errno::PERM) if early => return Ok(()),
            other => other.at(Op::Setns)?,
        }
        self.joined |= kind;
        Ok(())
    }

    /// A procfs instance of our own, attached nowhere: no mount in the container can stand in its way.
    fn open_proc(&mut self) -> Outcome {
        let context = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC).at(Op::FsOpen)?;
        fsconfig_create(&context).at(Op::FsConfig)?;
        self.proc =
            Some(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).at(Op::FsMount)?);
        Ok(())
    }

    fn write_proc(&self, path: &std::ffi::CStr, value: &[u8]) -> Outcome {
        let Some(proc) = &self.proc else { return Err((Op::Open, Errno::BADF)) };
        // Links to other processes are followed by the kernel's own /proc/thread-self only; nothing leaves procfs.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat2(proc, path, flags, Mode::empty(), resolve).at(Op::Open)?;
        match rustix::io::write(&file, value).at(Op::Write)? {
            written if written == value.len() => Ok(()),
            _ => Err((Op::Write, Errno::IO)),
        }
    }

    /// Writes to the first of several files that is there.
    fn write_first(&self, paths: &[std::ffi::CString], value: &[u8]) -> Outcome {
        let mut last = (Op::Open, Errno::NOENT);
        for path in paths {
            match self.write_proc(path, value) {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn seccomp(&mut self, filter: &super::steps::Filter) -> Outcome {
        let listener = sys::seccomp::install(filter.flags, &filter.instructions).at(Op::Seccomp)?;
        if let Some(fd) = listener.filter(|_| filter.notify) {
            use std::os::fd::AsRawFd;
            wire::say(self.sync, Word::Listener(fd.as_raw_fd())).at(Op::Send)?;
            self.await_permission(Permission::Listener)?;
        }
        Ok(())
    }

    /// Waits for `start`, maybe for days: holding nothing of the host but what is still needed.
    fn await_start(&mut self, slot: Slot) -> Outcome {
        self.close_all_but_needed(slot);
        let flags = rustix::net::SocketFlags::CLOEXEC;
        let starter = loop {
            match rustix::net::accept_with(self.fd(slot), flags) {
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                other => break other.at(Op::Start)?,
            }
        };
        self.starter = Some(starter);
        Ok(())
    }

    fn close_all_but_needed(&mut self, start: Slot) {
        use std::os::fd::AsRawFd;
        let mut keep = [i32::MAX; 3];
        keep[0] = self.fds[start.0].as_raw_fd();
        let states = self.plan.opens.0.iter().zip(self.fds).filter(|(open, _)| **open == Open::HookState);
        for (place, (_, fd)) in keep[1..].iter_mut().zip(states) {
            *place = fd.as_raw_fd();
        }
        keep.sort_unstable();
        let first = self.plan.steps.iter().find_map(|step| match step {
            Step::CloseOnExec { first } => Some(first.cast_signed()),
            _ => None,
        });
        sys::process::close_all_but(first.unwrap_or(3), &keep);
        std::mem::forget((
            self.proc.take(),
            self.terminal.take(),
            self.root.take(),
            std::mem::take(&mut self.masks),
        ));
    }

    fn find_program(&mut self) -> Outcome {
        use rustix::fs::{Access, AtFlags, FileType, accessat, statat};
        let mut why = Errno::NOENT;
        for (index, candidate) in self.plan.program.candidates.iter().enumerate() {
            match accessat(CWD, candidate, Access::EXEC_OK, AtFlags::empty()) {
                Ok(()) => {
                    let stat = statat(CWD, candidate, AtFlags::empty()).at(Op::Stat)?;
                    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                        self.program = index;
                        return Ok(());
                    }
                    why = Errno::ACCESS;
                }
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => why = errno,
            }
        }
        Err((Op::Access, why))
    }

    fn execute(&self) -> Outcome {
        let program = &self.plan.program;
        let path = &program.candidates[self.program];
        Err((Op::Execve, sys::process::execve(path, &program.argv, &program.envp)))
    }
}

/// time_namespaces(7): the offsets can be written only while nobody is inside, and setns enters without a fork.
fn unshare_time(offsets: Option<&std::ffi::CStr>) -> Outcome {
    sys::process::unshare(CLONE_NEWTIME).at(Op::Unshare)?;
    let open = |path, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).at(Op::Open);
    if let Some(offsets) = offsets {
        let file = open(c"/proc/self/timens_offsets", OFlags::WRONLY)?;
        rustix::io::write(&file, offsets.to_bytes()).at(Op::Write)?;
    }
    let namespace = open(c"/proc/self/ns/time_for_children", OFlags::RDONLY)?;
    sys::process::setns(namespace.as_fd(), CLONE_NEWTIME).at(Op::Setns)
}

/// Marks everything from `first` on close-on-exec, one by one where close_range(2) cannot. KERNEL(5.11)
fn close_on_exec(first: u32) -> Outcome {
    match sys::process::close_range_cloexec(first) {
        Err(Errno::NOSYS | Errno::INVAL) => {}
        other => return other.at(Op::CloseRange),
    }
    // Not all numbers below RLIMIT_NOFILE: there may be a million, and what is open may lie above.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open_ones = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty()).at(Op::Open)?;
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut entries = RawDir::new(&open_ones, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.at(Op::GetDents)?;
        let number = entry.file_name().to_str().ok().and_then(|name| name.parse().ok());
        if let Some(number) = number.filter(|number| *number >= first.cast_signed()) {
            sys::process::set_cloexec(number);
        }
    }
    Ok(())
}
