//! The new process: executes the plan's steps in order and becomes the payload.
//!
//! Nothing here allocates, locks or calls libc beyond system calls; every string and number comes from the plan.
//! Descriptors that are no longer needed are forgotten, not closed: all are close-on-exec, so the kernel closes them
//! together.

mod beneath;
mod copy_up;
mod descriptors;
mod device;
mod hook;
mod identity;
mod links;
mod mount;
mod null;
mod root;
mod terminal;

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::namespaces::CLONE_NEWTIME;
use super::opens::Open;
use super::plan::Plan;
use super::steps::{Slot, Step};
use super::wire::{self, Failure, Op, Permission, Report};
use crate::sys;

/// The outcome of a step: done, or the operation that failed and its errno.
type Outcome<T = ()> = Result<T, (Op, Errno)>;

/// Adds the operation to the errno of a failing call.
trait At<T> {
    fn at(self, op: Op) -> Outcome<T>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, op: Op) -> Outcome<T> {
        self.map_err(|errno| (op, errno))
    }
}

/// The state of the process while it executes its steps.
struct Init<'a> {
    plan: &'a Plan,
    fds: &'a [OwnedFd],
    sync: BorrowedFd<'a>,
    /// The connection of `start`; once it exists, failures are reported there.
    starter: Option<OwnedFd>,
    /// The container's root before it becomes `/`.
    root: Option<OwnedFd>,
    /// The private /proc, which no mount can cover.
    proc: Option<OwnedFd>,
    /// The terminal's slave.
    terminal: Option<OwnedFd>,
    masks: mount::Masks,
    /// The parent waits for the set-up: this process dies with it.
    dies_with_parent: bool,
    /// Permissions that arrived early.
    permitted: u8,
    /// The position of the item that a failing operation was at.
    detail: std::cell::Cell<u32>,
    /// The caller's umask.
    umask: Mode,
    joined: i32,
    root_is_shared: bool,
    in_working_directory: bool,
    program: usize,
}

/// What the new process inherits, besides its plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChildInputs<'a> {
    /// The descriptors of the plan's slots, in order.
    pub(super) fds: &'a [OwnedFd],
    /// The child's end of the socket pair.
    pub(super) sync: BorrowedFd<'a>,
    /// The numbers of all of these, sorted: the only descriptors that stay open, besides those passed to the payload.
    pub(super) keep: &'a [i32],
    /// Whether this process dies with the caller of clone3, which waits for the set-up. Not so if the caller makes
    /// another process the parent.
    pub(super) dies_with_parent: bool,
}

/// Executes all steps; does not return. Call it only in the child of `sys::process::spawn`.
pub(super) fn run(plan: &Plan, start: ChildInputs<'_>) -> Infallible {
    let ChildInputs { fds, sync, keep, dies_with_parent } = start;
    sys::process::reset_signals();
    // The modes in the plan are exact; the caller's umask must not change them.
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
        dies_with_parent,
        permitted: 0,
        detail: std::cell::Cell::new(0),
        joined: 0,
        root_is_shared: false,
        in_working_directory: false,
        program: 0,
    };
    if let Err((op, errno)) = init.begin(keep) {
        init.fail(u32::MAX, op, errno);
    }
    for (position, step) in (0_u32..).zip(&plan.steps) {
        if let Err((op, errno)) = init.take(step) {
            init.fail(position, op, errno);
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
            Step::JoinProcess { slot, kinds } => {
                sys::process::setns(self.fd(*slot), *kinds).at(Op::Setns)?;
                if kinds & libc::CLONE_NEWUSER == 0 { Ok(()) } else { self.guard() }
            }
            Step::ForkInside => self.fork_inside(),
            Step::PrivateNull => self.private_null(),
            Step::BecomeNamespaceRoot { set_groups } => {
                identity::become_namespace_root(*set_groups)?;
                self.guard()
            }
            Step::UnshareCgroup => sys::process::unshare(libc::CLONE_NEWCGROUP).at(Op::Unshare),
            Step::UnshareTime { offsets } => unshare_time(offsets.as_deref()),
            Step::NewSession => rustix::process::setsid().map(drop).at(Op::Setsid),
            Step::SessionKeyring(name) => match sys::process::join_session_keyring(name) {
                // Some kernels have no keyrings, and a seccomp filter around us may deny them.
                Err(Errno::NOSYS | Errno::PERM) => Ok(()),
                other => other.at(Op::Keyring),
            },
            Step::LoopbackUp => sys::loopback::bring_up().at(Op::Loopback),
            Step::Isolate { propagation } => self.isolate(*propagation),
            Step::AttachRoot { source } => self.attach_root(source),
            Step::Mount(mount) => self.mount(mount),
            Step::Device(device) => self.device(device),
            Step::Symlink { target, link } => self.symlink(target, link),
            Step::Directory(path) => self.directory(path),
            Step::OpenProc(slot) => self.open_proc(*slot),
            Step::OpenTerminal { slot, console, size, uid } => {
                self.open_terminal(*slot, *console, *size, *uid)
            }
            Step::HooksPoint => {
                wire::send_report(self.sync, Report::Hooks).at(Op::Send)?;
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
            Step::GiveStreams { uid } => {
                terminal::give_streams(*uid);
                Ok(())
            }
            Step::TakeTerminal => self.take_terminal(),
            Step::ExecLabel { attributes, value, .. } => self.write_first(attributes, value.as_bytes()),
            Step::NoNewPrivileges => rustix::thread::set_no_new_privs(true).at(Op::NoNewPrivs),
            Step::BoundingSet { keep } => identity::drop_bounding(*keep),
            Step::Identity(identity) => {
                identity::assume(identity)?;
                if identity.uid == 0 && identity.gid == 0 { Ok(()) } else { self.guard() }
            }
            Step::ReduceCapabilities { keep } => identity::reduce_capabilities(*keep),
            Step::WorkingDirectory { path, early } => self.enter_working_directory(path, *early),
            Step::FindProgram => self.find_program(),
            Step::Ready => {
                self.outlive_parent()?;
                wire::send_report(self.sync, Report::Ready).at(Op::Send)
            }
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

    /// Closes the inherited descriptors that the plan does not need: among them the caller's locks, and the caller's
    /// end of the socket, which would hide from this process that the caller has died.
    fn begin(&mut self, keep: &[i32]) -> Outcome {
        // The process that cloned this one made itself undumpable, and the copy inherits that.
        self.die_with_parent()?;
        descriptors::close_all_but(self.plan.first_closed, keep)
    }

    /// Reports the failing step to the process that waits for this one, and exits.
    fn fail(&self, step: u32, op: Op, errno: Errno) -> ! {
        let failure = Failure { step, op, detail: self.detail.get(), errno };
        let listener = self.starter.as_ref().map_or(self.sync, AsFd::as_fd);
        let _ = wire::send_report(listener, Report::Failed(failure));
        sys::process::exit_now(1)
    }

    /// Makes this process undumpable, so that only a process that may trace the host's processes can trace it or read
    /// it, and makes it die with its parent. A change of ids undoes both, the first only where fs.suid_dumpable is 1:
    /// credentials(7), prctl(2).
    fn guard(&self) -> Outcome {
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
            .at(Op::Prctl)?;
        self.die_with_parent()
    }

    fn die_with_parent(&self) -> Outcome {
        if self.dies_with_parent {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
                .at(Op::Prctl)?;
            // The parent may have died before the signal was set.
            if wire::peer_is_gone(self.sync) {
                sys::process::exit_now(1);
            }
        }
        Ok(())
    }

    /// Undoes the death signal of [`Init::guard`]: from here on the parent may exit.
    fn outlive_parent(&mut self) -> Outcome {
        if std::mem::take(&mut self.dies_with_parent) {
            rustix::process::set_parent_process_death_signal(None).at(Op::Prctl)?;
        }
        Ok(())
    }

    /// The copy continues with the next step; the original reports the copy's pid and exits. The copy also reports
    /// itself, so that its existence is known whatever happens to the original. But processes inside may stop the
    /// copy before it does, and then the parent still has to know the pid to kill and reap it.
    fn fork_inside(&mut self) -> Outcome {
        self.close_all_but_needed(Some(self.sync));
        if let Some(pid) = sys::process::spawn_sibling().at(Op::Fork)? {
            let _ = wire::send_report(self.sync, Report::Forked(pid));
            match self.dies_with_parent {
                true => sys::process::exit_now(0),
                // The client reports the copy to the keeper while the original still exists, so that the keeper can
                // kill the original then.
                false => {
                    wire::await_end(self.sync);
                    sys::process::exit_now(0)
                }
            }
        }
        self.die_with_parent()?;
        wire::send_report(self.sync, Report::Forked(0)).at(Op::Send)
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
        if kind == libc::CLONE_NEWUSER { self.guard() } else { Ok(()) }
    }

    /// Opens a detached procfs of our own, which no mount in the container can cover.
    fn open_proc(&mut self, slot: Option<Slot>) -> Outcome {
        if let Some(slot) = slot {
            self.proc = Some(rustix::io::fcntl_dupfd_cloexec(self.fd(slot), 3).at(Op::Dup)?);
            return Ok(());
        }
        let context = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC).at(Op::FsOpen)?;
        fsconfig_create(&context).at(Op::FsConfig)?;
        self.proc =
            Some(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).at(Op::FsMount)?);
        Ok(())
    }

    fn write_proc(&self, path: &std::ffi::CStr, value: &[u8]) -> Outcome {
        let Some(proc) = &self.proc else { return Err((Op::Open, Errno::BADF)) };
        // Magic links are refused; only the kernel's own /proc/thread-self is followed, and no path leaves procfs.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat2(proc, path, flags, Mode::empty(), resolve).at(Op::Open)?;
        match rustix::io::write(&file, value).at(Op::Write)? {
            written if written == value.len() => Ok(()),
            _ => Err((Op::Write, Errno::IO)),
        }
    }

    /// Writes to the first of several files that exists.
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
            wire::send_report(self.sync, Report::Listener(fd.as_raw_fd())).at(Op::Send)?;
            self.await_permission(Permission::Listener)?;
        }
        Ok(())
    }

    /// Waits for `start`, maybe for days, so it holds nothing of the host that is no longer needed.
    fn await_start(&mut self, slot: Slot) -> Outcome {
        self.close_all_but_needed(None);
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

    /// Closes the descriptors that no later step needs.
    fn close_all_but_needed(&mut self, sync: Option<BorrowedFd<'_>>) {
        const MOST: usize = 8;
        let mut keep = [i32::MAX; MOST];
        let opened = self.plan.opens.0.iter().zip(self.fds);
        let opened = opened.filter(|(open, _)| matches!(open, Open::StartSocket | Open::HookState));
        // The label is the last value written to /proc, so /proc stays open for it.
        let labels = self.plan.steps.iter().any(|step| matches!(step, Step::ExecLabel { .. }));
        let own = self.terminal.iter().chain(self.proc.iter().filter(|_| labels)).map(AsFd::as_fd);
        let needed = opened.map(|(_, fd)| fd.as_fd()).chain(sync).chain(own);
        for (entry, fd) in keep.iter_mut().zip(needed) {
            *entry = fd.as_raw_fd();
        }
        keep.sort_unstable();
        // If closing fails here, execve still closes all of them.
        let _ = descriptors::close_all_but(self.plan.first_closed, &keep);
        std::mem::forget((self.root.take(), std::mem::take(&mut self.masks)));
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

    fn execute(&mut self) -> Outcome {
        self.outlive_parent()?;
        let program = &self.plan.program;
        let path = &program.candidates[self.program];
        Err((Op::Execve, sys::process::execve(path, &program.argv, &program.envp)))
    }
}

/// The offsets can be written only while no process is inside, and setns enters without a fork; time_namespaces(7).
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
