//! The new process: takes the plan's steps one after the other and becomes the payload.
//!
//! Nothing here allocates, locks or calls libc beyond system calls, and every string and number comes from the plan.
//! Descriptors that are done with are forgotten, not closed: all are close-on-exec, so the kernel closes them at once.

mod beneath;
mod copy_up;
mod descriptors;
mod device;
mod hook;
mod identity;
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
    /// The parent waits for the set-up to end: this process ends with it.
    dies_with_parent: bool,
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

/// What the new process finds when it begins, besides its plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChildInputs<'a> {
    /// What the plan has opened, in order.
    pub(super) fds: &'a [OwnedFd],
    /// Its end of the socket pair.
    pub(super) sync: BorrowedFd<'a>,
    /// The numbers of all of these, sorted: the only descriptors that stay open, besides those that are passed on.
    pub(super) keep: &'a [i32],
    /// The caller of clone3 waits for the set-up to end, and this process is to end with it: not so where the caller
    /// has another process become the parent.
    pub(super) dies_with_parent: bool,
}

/// Takes all steps; does not return. Call it only in the child of `sys::process::spawn`.
pub(super) fn run(plan: &Plan, start: ChildInputs<'_>) -> Infallible {
    let ChildInputs { fds, sync, keep, dies_with_parent } = start;
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
                // There are kernels without keys, and filters around us that deny them to all that we start, too.
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

    /// Leaves what the clone brought along but the plan does not need: locks of the caller among it, and its end of our
    /// socket, which would keep us from seeing that the caller has died.
    fn begin(&mut self, keep: &[i32]) -> Outcome {
        // A copy is as little dumpable as the original; whoever clones has seen to that.
        self.die_with_parent()?;
        descriptors::close_all_but(self.plan.first_closed, keep)
    }

    /// Reports the failing step to whoever waits for this process, which ends.
    fn fail(&self, step: u32, op: Op, errno: Errno) -> ! {
        let failure = Failure { step, op, detail: self.detail.get(), errno };
        let listener = self.starter.as_ref().map_or(self.sync, AsFd::as_fd);
        let _ = wire::send_report(listener, Report::Failed(failure));
        sys::process::exit_now(1)
    }

    /// Lets nobody trace this process, or look into it, who could not trace a process of the host, and has it end with
    /// its parent. A change of ids takes both back, the first where fs.suid_dumpable is 1: credentials(7), prctl(2).
    fn guard(&self) -> Outcome {
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
            .at(Op::Prctl)?;
        self.die_with_parent()
    }

    fn die_with_parent(&self) -> Outcome {
        if self.dies_with_parent {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
                .at(Op::Prctl)?;
            // It may have died before that.
            if wire::peer_is_gone(self.sync) {
                sys::process::exit_now(1);
            }
        }
        Ok(())
    }

    /// The opposite of what [`Init::guard`] asks: the parent may go.
    fn outlive_parent(&mut self) -> Outcome {
        if std::mem::take(&mut self.dies_with_parent) {
            rustix::process::set_parent_process_death_signal(None).at(Op::Prctl)?;
        }
        Ok(())
    }

    /// The copy goes on with the next step; this process says who that is, and has nothing left to do. The copy says itself
    /// that it is there, too: that cannot get lost, whatever becomes of this process. But whoever is inside may stop the copy
    /// before that, and then it has to be known all the same, for it to be killed and reaped.
    fn fork_inside(&mut self) -> Outcome {
        self.close_all_but_needed(Some(self.sync));
        if let Some(pid) = sys::process::spawn_sibling().at(Op::Fork)? {
            let _ = wire::send_report(self.sync, Report::Forked(pid));
            match self.dies_with_parent {
                true => sys::process::exit_now(0),
                // Who tells the keeper of the copy does that while this process is still there: then the keeper kills it.
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

    /// A procfs instance of our own, attached nowhere: no mount in the container can stand in its way.
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
            wire::send_report(self.sync, Report::Listener(fd.as_raw_fd())).at(Op::Send)?;
            self.await_permission(Permission::Listener)?;
        }
        Ok(())
    }

    /// Waits for `start`, maybe for days: holding nothing of the host but what is still needed.
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

    /// Closes what only the steps so far have needed.
    fn close_all_but_needed(&mut self, sync: Option<BorrowedFd<'_>>) {
        const MOST: usize = 8;
        let mut keep = [i32::MAX; MOST];
        let opened = self.plan.opens.0.iter().zip(self.fds);
        let opened = opened.filter(|(open, _)| matches!(open, Open::StartSocket | Open::HookState));
        // For the label, which is the last thing that is written there.
        let labels = self.plan.steps.iter().any(|step| matches!(step, Step::ExecLabel { .. }));
        let own = self.terminal.iter().chain(self.proc.iter().filter(|_| labels)).map(AsFd::as_fd);
        let needed = opened.map(|(_, fd)| fd.as_fd()).chain(sync).chain(own);
        for (place, fd) in keep.iter_mut().zip(needed) {
            *place = fd.as_raw_fd();
        }
        keep.sort_unstable();
        // Where it cannot be done, all of them close at execve.
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
