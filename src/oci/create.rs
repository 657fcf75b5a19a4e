//! `create`: sets up a container without running its payload.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hook, Hooks, Spec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use super::Runtime;
use crate::cgroup::{self, Group};
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerId;
use crate::launch::apply::{self, NewProcess, Spawner};
use crate::launch::deadline::{Deadline, SET_UP_LIMIT};
use crate::launch::plan::Plan;
use crate::launch::prepare::Inputs;
use crate::launch::request::{Facts, InitRequest, Options};
use crate::launch::{hooks, namespaces};
use crate::linux::private;
use crate::linux::proc_stat::ProcStat;
use crate::record::{BundleConfig, ContainerState, Extra, Layout, Lock, note_group};
use crate::sys::memory::unmap_code;
use crate::sys::process::Spawned;
use crate::undo::Undo;

/// Options of creating a container.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// The absolute path of the bundle.
    pub bundle: PathBuf,
    /// A listening unix socket that receives the terminal's master.
    pub console_socket: Option<PathBuf>,
    /// The file that the pid of the first process is written to.
    pub pid_file: Option<PathBuf>,
    /// Use MS_MOVE and chroot instead of pivot_root.
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// How many descriptors, from 3 on, the payload inherits.
    pub preserve_fds: u32,
    /// The root filesystem as a detached mount, instead of `root.path`.
    pub root: Option<std::sync::Arc<OwnedFd>>,
    /// The container belongs to a pod: its cgroup accounts even without limits, for complete statistics, and what this node
    /// cannot give is left out: limits of optional controllers that are absent, a lower oom_score_adj.
    pub in_pod: bool,
    /// Spawns the first process; none makes it a child of the caller.
    pub parent: Option<std::rc::Rc<dyn Spawner>>,
}

/// A container that was just created, with its first process waiting or running.
#[derive(Debug)]
pub(super) struct Created {
    pub(super) layout: Layout,
    pub(super) lock: Lock,
    pub(super) state: ContainerState,
    pub(super) process: Spawned,
}

/// Creates a container; its first process waits for `start`.
///
/// # Errors
/// The configuration is invalid, or the set-up fails; nothing is left behind then.
pub fn create(runtime: &Runtime, id: &ContainerId, spec: &Spec, options: &CreateOptions) -> Result<()> {
    let console = connect_console(spec, options.console_socket.as_deref())?;
    make(runtime, id, spec, options, StartMode::Waits, console).map(drop)
}

/// When the payload runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartMode {
    Waits,
    AtOnce,
}

/// Connects to the console socket; refuses a socket without a terminal and a terminal without a socket.
pub(super) fn connect_console(spec: &Spec, path: Option<&Path>) -> Result<Option<OwnedFd>> {
    let terminal = spec.process().as_ref().and_then(oci_spec::runtime::Process::terminal).unwrap_or(false);
    match (terminal, path) {
        (true, Some(path)) => connect(path).map(Some),
        (false, None) => Ok(None),
        (true, None) => Err(Error::invalid("process.terminal is true, but there is no console socket")
            .hint("give --console-socket, or run in the foreground without --detach")),
        (false, Some(_)) => Err(Error::invalid("a console socket was given, but process.terminal is false")
            .hint("set process.terminal, or leave --console-socket out")),
    }
}

/// Connects to a console socket.
pub(super) fn connect(path: &Path) -> Result<OwnedFd> {
    let stream =
        UnixStream::connect(path).doing(|| format!("connect to the console socket {}", path.display()))?;
    Ok(stream.into())
}

/// Creates a container; undoes everything when a step fails.
pub(super) fn make(
    runtime: &Runtime,
    id: &ContainerId,
    spec: &Spec,
    options: &CreateOptions,
    start: StartMode,
    console: Option<OwnedFd>,
) -> Result<Created> {
    // Drop the code pages of the JSON parser: they count into the peak RSS of a start, which small boards must have
    // free.
    unmap_code();
    let mut undo = Undo::new();
    if options.root.is_none() {
        check_root(spec, &options.bundle)?;
    }
    let layout = Layout::new(&runtime.root, id);
    let (group_plan, mode) = plan_group(runtime, id, spec)?;
    let group_plan = if options.in_pod { group_plan.accounted().tolerant() } else { group_plan };
    layout.create()?;
    undo.push("state directory", {
        let layout = layout.clone();
        move || drop(layout.remove())
    });
    let lock = Lock::take(&layout)?;
    let group = group_plan.apply_after(&|paths| note_group(&layout, paths))?;
    let paths = std::rc::Rc::new(std::cell::RefCell::new(group.paths().clone()));
    undo.push("cgroup", {
        let paths = std::rc::Rc::clone(&paths);
        move || give_back(&paths.borrow())
    });
    let unified = mode == cgroup::Mode::V2;
    let facts = Facts::gather(spec, unified, group.paths().clone())?;
    let seccomp = runtime.compile(spec.linux().as_ref().and_then(|l| l.seccomp().as_ref()))?;
    let options_of_plan = Options {
        no_pivot: options.no_pivot,
        no_new_keyring: options.no_new_keyring,
        preserve_fds: options.preserve_fds,
        wait_for_record: true,
        wait_for_start: start == StartMode::Waits,
        parent_attaches: group.dir_fd().is_none(),
    };
    let bundle = &options.bundle;
    let request = InitRequest {
        id,
        spec,
        bundle,
        root_is_given: options.root.is_some(),
        facts: &facts,
        seccomp: seccomp.as_ref(),
        options: options_of_plan,
    };
    let plan = Plan::for_init(&request)?;
    let start_socket = (start == StartMode::Waits).then(|| listen_for_start(&layout)).transpose()?;
    let root =
        options.root.as_ref().map(|fd| fd.try_clone()).transpose().doing(|| "hold the root filesystem")?;
    let inputs =
        Inputs { root, console, start_socket, process: None, oom_score_adj_may_stay: options.in_pod };
    let parent = options.parent.as_deref().unwrap_or(&apply::Own);
    // Drop the code pages of the planner too.
    unmap_code();
    let mut process = apply::spawn(&plan, inputs, Some(&group), parent, SET_UP_LIMIT)?;
    paths.borrow_mut().clone_from(group.paths());
    let record =
        |process: &NewProcess<'_>| record(spec, id, options, process, &group, runtime.systemd_cgroup);
    let state = drive(&mut process, spec, &layout, &record)?;
    if let Some(file) = &options.pid_file {
        write_pid_file(file, state.init_process_pid)?;
    }
    let process = process.let_go()?;
    undo.disarm();
    Ok(Created { layout, lock, state, process })
}

/// Kills the processes in the cgroup of a failed create, and removes it.
pub(super) fn give_back(paths: &BTreeMap<String, PathBuf>) {
    if let Ok(group) = Group::from_paths(paths) {
        let _ = group.kill_all(libc::SIGKILL);
        let _ = group.remove();
    }
}

/// Checks that the root filesystem is a directory, before there is anything to undo.
fn check_root(spec: &Spec, bundle: &Path) -> Result<()> {
    let Some(root) = spec.root() else { return Ok(()) };
    let path = bundle.join(root.path());
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(Error::invalid(format!("root.path {} is not a directory", path.display()))),
        Err(e) => Err(Error::new(Kind::NotFound, format!("root.path {} cannot be used", path.display()))
            .because(e)
            .hint("root.path is relative to the bundle")),
    }
}

fn plan_group(runtime: &Runtime, id: &ContainerId, spec: &Spec) -> Result<(cgroup::Plan, cgroup::Mode)> {
    let driver = if runtime.systemd_cgroup { cgroup::Driver::Systemd } else { cgroup::Driver::Cgroupfs };
    let mode = cgroup::mode()?;
    let plan = cgroup::Plan::new(spec.linux().as_ref(), id, driver, mode)?;
    for field in plan.ignored() {
        crate::log::warning(&format!("{field} has no meaning with this host's cgroups and is ignored"));
    }
    Ok((plan, mode))
}

/// Creates the socket on which `start` arrives. It is addressed through our own descriptor of the directory, because
/// a socket's path is limited to 107 bytes and the root's is not.
fn listen_for_start(layout: &Layout) -> Result<OwnedFd> {
    let doing = || format!("listen on {}", layout.start_socket().display());
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).doing(doing)?;
    let address = short_address(layout).map_err(|e| e.doing(doing()))?;
    bind(&socket, &address.0).doing(doing)?;
    let name = layout.start_socket();
    let name = name.file_name().unwrap_or_default();
    private::settle_socket(&address.1, name, private::FILE).doing(doing)?;
    listen(&socket, 1).doing(doing)?;
    Ok(socket)
}

/// The start socket's address, short whatever the length of the root's path; valid while the descriptor in it is
/// open.
pub(super) fn short_address(layout: &Layout) -> Result<(SocketAddrUnix, OwnedFd)> {
    use std::os::fd::AsRawFd;
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let directory = rustix::fs::open(layout.directory(), flags, rustix::fs::Mode::empty())
        .doing(|| format!("open {}", layout.directory().display()))?;
    let name = layout.start_socket();
    let name = name.file_name().unwrap_or_default().to_string_lossy();
    let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
    let address = SocketAddrUnix::new(path.as_str()).doing(|| "name the start socket")?;
    Ok((address, directory))
}

fn record(
    spec: &Spec,
    id: &ContainerId,
    options: &CreateOptions,
    process: &NewProcess<'_>,
    group: &Group,
    systemd_cgroup: bool,
) -> Result<ContainerState> {
    let pid = process.pid();
    let stat = ProcStat::read(pid)?;
    let annotations: BTreeMap<_, _> = spec.annotations().clone().into_iter().flatten().collect();
    let mut labels = vec![format!("bundle={}", options.bundle.display())];
    labels.extend(annotations.iter().map(|(key, value)| format!("{key}={value}")));
    let rootfs = spec.root().as_ref().map(|root| options.bundle.join(root.path())).unwrap_or_default();
    let kinds = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref()).into_iter().flatten();
    let namespace_paths = kinds.map(|n| namespace_path(n.typ(), pid)).collect();
    Ok(ContainerState {
        id: id.to_string(),
        init_process_pid: pid,
        init_process_start: stat.map_or(0, |s| s.start_time),
        created: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Nanos, true),
        config: BundleConfig { rootfs, labels },
        cgroup_paths: group.paths().clone(),
        namespace_paths,
        coracle: Extra {
            version: crate::record::format::STATE.version,
            bundle: options.bundle.clone(),
            annotations,
            hooks: later_hooks(spec.hooks().as_ref()),
            no_new_keyring: options.no_new_keyring,
            systemd_cgroup,
        },
    })
}

fn namespace_path(kind: oci_spec::runtime::LinuxNamespaceType, pid: i32) -> (String, PathBuf) {
    let (key, file) = match namespaces::clone_flag(kind) {
        libc::CLONE_NEWNS => ("NEWNS", "mnt"),
        libc::CLONE_NEWCGROUP => ("NEWCGROUP", "cgroup"),
        libc::CLONE_NEWUTS => ("NEWUTS", "uts"),
        libc::CLONE_NEWIPC => ("NEWIPC", "ipc"),
        libc::CLONE_NEWUSER => ("NEWUSER", "user"),
        libc::CLONE_NEWPID => ("NEWPID", "pid"),
        libc::CLONE_NEWNET => ("NEWNET", "net"),
        _ => ("NEWTIME", "time"),
    };
    (key.to_owned(), PathBuf::from(format!("/proc/{pid}/ns/{file}")))
}

/// The hooks that run after the container is created.
fn later_hooks(hooks: Option<&Hooks>) -> Option<Hooks> {
    let some = |list: &Option<Vec<Hook>>| list.clone().filter(|l| !l.is_empty());
    let (poststart, poststop) = (some(hooks?.poststart()), some(hooks?.poststop()));
    if poststart.is_none() && poststop.is_none() {
        return None;
    }
    let mut later = Hooks::default();
    later.set_poststart(poststart).set_poststop(poststop);
    Some(later)
}

/// Follows the first process from the clone until it waits for `start` or has executed the payload.
fn drive(
    process: &mut NewProcess<'_>,
    spec: &Spec,
    layout: &Layout,
    record: &dyn Fn(&NewProcess<'_>) -> Result<ContainerState>,
) -> Result<ContainerState> {
    let hooks_in = spec.hooks().as_ref();
    if let Some(hooks) = hooks_in {
        check_hooks(hooks)?;
    }
    let text = serde_json::to_vec(spec).doing(|| "write the configuration")?;
    private::write(&layout.config(), text, private::FILE)
        .doing(|| format!("write {}", layout.config().display()))?;
    let mut state = record(process)?;
    give_state(process, hooks_in, &state)?;
    // A process that forks is not the container's first process yet, but for hooks it is already in the right
    // namespaces.
    process.follow_fork(|| run_hooks(hooks_in, &state))?;
    if process.pid() != state.init_process_pid {
        state = record(process)?;
        give_state(process, hooks_in, &state)?;
    }
    state.save(layout)?;
    process.go()?;
    process.follow(|| run_hooks(hooks_in, &state))?;
    Ok(state)
}

fn give_state(process: &NewProcess<'_>, hooks: Option<&Hooks>, state: &ContainerState) -> Result<()> {
    if hooks.is_none() {
        return Ok(());
    }
    process.give_state(&serde_json::to_string(&state.public("creating")).doing(|| "write the state")?)
}

/// Runs the hooks that the new process waits for: prestart and createRuntime.
fn run_hooks(hooks: Option<&Hooks>, state: &ContainerState) -> Result<()> {
    let Some(hooks) = hooks else { return Ok(()) };
    let text = serde_json::to_string(&state.public("creating")).doing(|| "write the state")?;
    hooks::run("prestart", hooks.prestart().as_deref().unwrap_or_default(), &text)?;
    hooks::run("createRuntime", hooks.create_runtime().as_deref().unwrap_or_default(), &text)
}

fn check_hooks(configured: &Hooks) -> Result<()> {
    for (point, list) in [("poststart", configured.poststart()), ("poststop", configured.poststop())] {
        list.iter().flatten().try_for_each(|hook| hooks::check(point, hook))?;
    }
    Ok(())
}

/// Writes a pid file atomically.
pub(super) fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let doing = || format!("write the pid file {}", path.display());
    let name = path.file_name().ok_or_else(|| Error::invalid(format!("pid file {path:?} has no name")))?;
    let temporary = path.with_file_name(format!(".{}.new", name.to_string_lossy()));
    // Engines that run as another user may read the file.
    private::replace(path, &temporary, pid.to_string(), private::SHARED_FILE).doing(doing)
}

/// Waits until the payload runs; shared with `start`.
pub(super) fn await_payload(socket: &OwnedFd) -> Result<()> {
    use crate::launch::wire::{Report, receive_report};
    let deadline = Deadline::after(SET_UP_LIMIT);
    let report = receive_report(socket.as_fd(), &deadline)
        .doing(|| "read a report of the container's first process")?;
    match report.map(|message| message.report) {
        Some(Report::Failed(failure)) => {
            let cause = crate::sys::Error::new(failure.op.to_string(), failure.errno);
            Err(Error::new(crate::error::Cause::kind(&cause), "run the container's program").because(cause))
        }
        Some(_) | None => Ok(()),
    }
}
