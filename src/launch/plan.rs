//! The plan: everything that creating a container, or adding a process to one, will do, as data.
//!
//! Planning changes nothing on the host. It reads the configuration and a few facts about the host, performs all
//! checks, and produces the steps in the order in which the new process executes them. An invalid bundle is refused
//! here, before anything exists that would have to be undone.
//!
//! libcontainer is used where it fits and off the hot path (`toolbox`). Its mount parser, rootfs, hooks, id mapper
//! and console are not used: they handle paths as strings, allocate after the clone, or need its own `State`; see the
//! head of each module.

use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::{Linux, Spec};
use serde::{Deserialize, Serialize};

use super::mounts::{MountContext, mount_step, propagation};
use super::namespaces::{self, Namespaces};
use super::opens::{Open, Opens};
use super::request::{ExecRequest, InitRequest};
use super::steps::{Below, MountStep, Program, Slot, Source, Step};
use super::text::{below, cpath, cstring};
use super::{cgroup_mount, check, devices, hooks, process};
use crate::error::{Error, Result};

/// The timeout of a hook inside that has none of its own, because something in the container may stop the hook.
const UNLIMITED_HOOK: Duration = Duration::from_secs(600);

/// Everything that creating a container or adding a process to it will do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The descriptors that the parent opens first.
    pub opens: Opens,
    /// Namespaces: which ones clone3 creates and which ones the parent enters around it.
    pub namespaces: Namespaces,
    /// The steps of the child.
    pub steps: Vec<Step>,
    /// The first descriptor that is not passed to the payload: 3, or more with `--preserve-fds`.
    pub first_closed: u32,
    /// The program that the child executes at the end.
    pub program: Program,
    /// The value that the parent writes to /proc/PID/oom_score_adj.
    pub oom_score_adj: Option<i32>,
    /// The agent that receives the seccomp listener.
    #[serde(skip)]
    pub listener: Option<crate::seccomp::Listener>,
}

impl Plan {
    /// Plans a new container.
    ///
    /// # Errors
    /// `Invalid` or `Unsupported`, naming the field of the configuration.
    pub fn for_init(request: &InitRequest<'_>) -> Result<Self> {
        let spec = request.spec;
        check::spec(spec, request.facts)?;
        let default_linux = Linux::default();
        let linux = spec.linux().as_ref().unwrap_or(&default_linux);
        let mut opens = Opens::default();
        let mut steps = Vec::with_capacity(64);
        let namespaces = enter_namespaces(linux, request, &mut opens, &mut steps)?;
        check::against_namespaces(spec, linux, &namespaces)?;
        let rootfs = rootfs(spec, request.bundle)?;
        if namespaces.private & libc::CLONE_NEWNS != 0 {
            build_root(request, linux, &rootfs, &namespaces, &mut opens, &mut steps)?;
        } else {
            steps.push(Step::Chroot(opens.push(Open::Directory(rootfs))));
        }
        let Some(process) = spec.process().as_ref() else {
            return Err(Error::invalid("process is missing from the configuration"));
        };
        let tail = process::Tail {
            process,
            seccomp: request.seccomp,
            options: request.options,
            start_hooks: spec.hooks().as_ref().and_then(|h| h.start_container().as_deref()),
            personality: linux.personality().as_ref(),
        };
        if !namespaces.has_user() && !request.facts.in_user_namespace {
            steps.push(Step::PrivateNull);
        }
        let forks = namespaces.joined_pid.is_some();
        steps.extend(namespaces.joined_pid.clone());
        tail.push_identity(&mut steps)?;
        if forks {
            steps.push(Step::ForkInside);
        }
        tail.push_last(forks, &mut opens, &mut steps)?;
        Ok(Self {
            opens,
            namespaces,
            steps,
            first_closed: 3 + request.options.preserve_fds,
            program: process::program(process)?,
            oom_score_adj: process.oom_score_adj(),
            listener: request.seccomp.and_then(|s| s.listener.clone()),
        })
    }

    /// Plans an additional process in a running container.
    ///
    /// # Errors
    /// As [`Plan::for_init`].
    pub fn for_exec(request: &ExecRequest<'_>) -> Result<Self> {
        check::process(request.process, request.facts)?;
        let default_linux = Linux::default();
        let linux = request.spec.linux().as_ref().unwrap_or(&default_linux);
        let mut opens = Opens::default();
        let mut steps = Vec::with_capacity(32);
        let all = linux.namespaces().iter().flatten().map(|n| namespaces::clone_flag(n.typ()));
        let private = all.fold(0, |all, kind| all | kind);
        let namespaces = Namespaces { private, ..Namespaces::default() };
        let target = opens.push(Open::Process);
        let process = request.process;
        if request.options.parent_attaches || process.oom_score_adj().is_some() {
            steps.push(Step::AwaitParent);
        }
        process::push_session(request.options, request.id.as_str(), &mut steps)?;
        if private != 0 {
            steps.push(Step::JoinProcess { slot: target, kinds: private });
        }
        if private & libc::CLONE_NEWNS == 0 {
            // Without a mount namespace to join, the container's root has to be entered with chroot.
            steps.push(Step::Chroot(opens.push(Open::Root)));
        }
        if namespaces.has_user() {
            steps.push(Step::BecomeNamespaceRoot { set_groups: true });
        } else if !request.facts.in_user_namespace {
            steps.push(Step::PrivateNull);
        }
        if process.terminal().unwrap_or(false) {
            steps.push(terminal(process, false, &mut opens));
        }
        let tail = process::Tail {
            process,
            seccomp: request.seccomp,
            options: request.options,
            start_hooks: None,
            personality: linux.personality().as_ref(),
        };
        tail.push_identity(&mut steps)?;
        let forks = private & libc::CLONE_NEWPID != 0;
        if forks {
            steps.push(Step::ForkInside);
        }
        if process::needs_label(process) {
            steps.push(Step::OpenProc(None));
        }
        tail.push_last(forks, &mut opens, &mut steps)?;
        Ok(Self {
            opens,
            namespaces,
            steps,
            first_closed: 3 + request.options.preserve_fds,
            program: process::program(process)?,
            oom_score_adj: process.oom_score_adj(),
            listener: request.seccomp.and_then(|s| s.listener.clone()),
        })
    }

    /// Whether the process continues as a forked copy of itself: [`Step::ForkInside`].
    pub fn forks(&self) -> bool {
        self.steps.contains(&Step::ForkInside)
    }

    /// The longest time that the hooks inside the process may take.
    pub fn time_of_hooks(&self) -> Duration {
        let hooks = self.steps.iter().flat_map(|step| match step {
            Step::RunHooks { hooks, .. } => hooks.as_slice(),
            _ => &[],
        });
        hooks
            .map(|hook| hook.timeout_s.map_or(UNLIMITED_HOOK, |s| Duration::from_secs(s.unsigned_abs())))
            .sum()
    }

    /// The slots whose descriptors match.
    pub fn slot_of(&self, wanted: &Open) -> Option<Slot> {
        self.opens.0.iter().position(|open| open == wanted).map(Slot)
    }
}

/// The root directory; a relative one starts from the bundle.
fn rootfs(spec: &Spec, bundle: &Path) -> Result<PathBuf> {
    let Some(root) = spec.root().as_ref() else {
        return Err(Error::invalid("root is missing from the configuration"));
    };
    if root.path().as_os_str().is_empty() {
        return Err(
            Error::invalid("root.path is empty").hint("name the directory that holds the root filesystem")
        );
    }
    Ok(bundle.join(root.path()))
}

fn enter_namespaces(
    linux: &Linux,
    request: &InitRequest<'_>,
    opens: &mut Opens,
    steps: &mut Vec<Step>,
) -> Result<Namespaces> {
    let mut joins = Vec::new();
    let namespaces = Namespaces::plan(linux, opens, &mut joins)?;
    if namespaces.maps.is_some() || request.options.parent_attaches {
        steps.push(Step::AwaitParent);
    }
    process::push_session(request.options, request.id.as_str(), steps)?;
    let joins_mounts = joins.pop_if(|s| matches!(s, Step::Join { kind: libc::CLONE_NEWNS, .. }));
    steps.append(&mut joins);
    if namespaces.new & namespaces::CLONE_NEWTIME != 0 {
        // Before the ids change: after that the kernel denies a process its own files in /proc, see
        // PR_SET_DUMPABLE(2const).
        steps.push(Step::UnshareTime { offsets: namespaces::time_offsets(linux)? });
    }
    if namespaces.has_user() {
        steps.push(Step::BecomeNamespaceRoot { set_groups: true });
    }
    steps.extend(joins_mounts);
    if namespaces.new & libc::CLONE_NEWCGROUP != 0 {
        steps.push(Step::UnshareCgroup);
    }
    if namespaces.new & libc::CLONE_NEWNET != 0 {
        steps.push(Step::LoopbackUp);
    }
    Ok(namespaces)
}

/// The steps that lead from the host's mount tree to the container's.
fn build_root(
    request: &InitRequest<'_>,
    linux: &Linux,
    rootfs: &Path,
    namespaces: &Namespaces,
    opens: &mut Opens,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let spec = request.spec;
    let asked = linux.rootfs_propagation().as_deref().unwrap_or_default();
    let root_propagation = root_propagation(asked)?;
    let isolate = root_propagation.map_or(crate::sys::mount::SLAVE, |(flag, _)| flag);
    // Everything from here on is mounted by cloning trees, and an unbindable tree cannot be cloned.
    let isolate = if isolate == crate::sys::mount::UNBINDABLE { crate::sys::mount::PRIVATE } else { isolate };
    // If the root is shared, the child has to make the mount of `/` private first, and what it opened there
    // afterwards would no longer be the host's.
    let parent_opens = namespaces.has_user() || isolate == crate::sys::mount::SHARED;
    let source = if request.root_is_given {
        Source::Opened(opens.push(Open::Root))
    } else if parent_opens {
        let (path, recursive) = (rootfs.to_owned(), true);
        Source::Opened(opens.push(Open::Tree { path, recursive, propagation: isolate, idmap: None }))
    } else {
        Source::Host { path: cpath("root.path", rootfs)?, recursive: true }
    };
    steps.push(Step::Isolate { propagation: isolate });
    steps.push(Step::AttachRoot { source });
    let context = MountContext {
        bundle: request.bundle,
        parent_opens,
        propagation: isolate,
        maps: namespaces.maps.as_ref(),
        mount_label: linux.mount_label().as_deref().filter(|l| !l.is_empty()),
    };
    push_mounts(request, namespaces, &context, opens, steps)?;
    push_hooks_point(request, opens, steps)?;
    push_names(spec, linux, namespaces, opens, steps)?;
    for path in linux.masked_paths().iter().flatten() {
        steps.push(Step::Mask(absolute_below("linux.maskedPaths", path)?));
    }
    for path in linux.readonly_paths().iter().flatten() {
        steps.push(Step::ReadOnly(absolute_below("linux.readonlyPaths", path)?));
    }
    if spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false) {
        steps.push(Step::ReadOnlyRoot);
    }
    steps.push(match request.options.no_pivot {
        true => Step::MoveRoot,
        false => Step::PivotRoot { shared: isolate == crate::sys::mount::SHARED },
    });
    if let Some((propagation, recursive)) = root_propagation {
        steps.push(Step::RootPropagation { propagation, recursive });
    }
    Ok(())
}

fn absolute_below(field: &str, path: &str) -> Result<Below> {
    if !path.starts_with('/') {
        return Err(Error::invalid(format!("{field}: {path:?} is not absolute"))
            .hint("it is seen from the container's root"));
    }
    below(field, Path::new(path))
}

fn root_propagation(asked: &str) -> Result<Option<(u64, bool)>> {
    if asked.is_empty() {
        return Ok(None);
    }
    match propagation(asked) {
        Some(found) => Ok(Some(found)),
        None => Err(Error::invalid(format!("linux.rootfsPropagation: there is no {asked:?}"))
            .hint("use shared, slave, private or unbindable, with r in front for recursive")),
    }
}

fn push_mounts(
    request: &InitRequest<'_>,
    namespaces: &Namespaces,
    context: &MountContext<'_>,
    opens: &mut Opens,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let spec = request.spec;
    let mut read_only_dev = None;
    for mount in spec.mounts().iter().flatten() {
        if mount.typ().as_deref() == Some("cgroup") {
            cgroup_mount::push(mount, namespaces, request.facts, steps)?;
            continue;
        }
        let mut step = mount_step(mount, context, opens)?;
        mount_proc_of_joined(&mut step, namespaces, opens);
        if step.point.path.as_bytes() == b"dev" && matches!(step.source, Source::Filesystem { .. }) {
            // The device nodes are created in the mount, so it can become read-only only after them.
            let read_only = step.attr.set & crate::sys::mount::ATTR_RDONLY;
            step.attr.set &= !crate::sys::mount::ATTR_RDONLY;
            read_only_dev = (read_only != 0).then(|| cgroup_mount::again_read_only(&step));
        }
        steps.push(Step::Mount(Box::new(step)));
    }
    let linux = spec.linux().as_ref();
    let binds_dev = spec.mounts().iter().flatten().any(devices::is_bind_on_dev);
    if !binds_dev {
        let bind = namespaces.has_user() || request.facts.in_user_namespace;
        let configured = linux.and_then(|l| l.devices().as_deref()).unwrap_or_default();
        devices::push(configured, spec.mounts().as_deref().unwrap_or_default(), bind, steps)?;
    }
    if let Some(process) = spec.process() {
        steps.push(Step::Directory(below("process.cwd", process.cwd())?));
        if process.terminal().unwrap_or(false) {
            steps.push(terminal(process, !binds_dev, opens));
        }
    }
    if let Some(dev) = read_only_dev {
        steps.push(dev);
    }
    Ok(())
}

/// The step that opens the terminal.
fn terminal(process: &oci_spec::runtime::Process, console: bool, opens: &mut Opens) -> Step {
    let side = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
    let size = process.console_size().map(|s| (side(s.height()), side(s.width())));
    Step::OpenTerminal { slot: opens.push(Open::Console), console, size, uid: process.user().uid() }
}

fn push_hooks_point(request: &InitRequest<'_>, opens: &mut Opens, steps: &mut Vec<Step>) -> Result<()> {
    let Some(configured) = request.spec.hooks() else { return Ok(()) };
    let some = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|l| !l.is_empty());
    let parent_has = some(configured.prestart()) || some(configured.create_runtime());
    let inside = configured.create_container().as_deref().unwrap_or_default();
    if parent_has || !inside.is_empty() {
        steps.push(Step::HooksPoint);
    }
    if !inside.is_empty() {
        let state = opens.push(Open::HookState);
        steps.push(hooks::inside("createContainer", inside, state)?);
    }
    Ok(())
}

/// A procfs shows the PID namespace of the process that creates it, so the parent creates it when the child is not in
/// that namespace yet.
fn mount_proc_of_joined(step: &mut MountStep, namespaces: &Namespaces, opens: &mut Opens) {
    let Some(Step::Join { slot, .. }) = namespaces.joined_pid else { return };
    if let Source::Filesystem { fstype, parameters } = &mut step.source
        && fstype.as_bytes() == b"proc"
    {
        let parameters = std::mem::take(parameters);
        step.source = Source::Opened(opens.push(Open::Proc { namespace: slot, parameters }));
    }
}

fn push_names(
    spec: &Spec,
    linux: &Linux,
    namespaces: &Namespaces,
    opens: &mut Opens,
    steps: &mut Vec<Step>,
) -> Result<()> {
    if let Some(name) = spec.hostname().as_ref().filter(|n| !n.is_empty()) {
        steps.push(Step::Hostname(cstring("hostname", name.as_str())?));
    }
    if let Some(name) = spec.domainname().as_ref().filter(|n| !n.is_empty()) {
        steps.push(Step::Domainname(cstring("domainname", name.as_str())?));
    }
    let sysctls: std::collections::BTreeMap<_, _> = linux.sysctl().iter().flatten().collect();
    if !sysctls.is_empty() || spec.process().as_ref().is_some_and(process::needs_label) {
        steps.push(Step::OpenProc(match namespaces.joined_pid {
            Some(Step::Join { slot, .. }) => {
                Some(opens.push(Open::Proc { namespace: slot, parameters: Vec::new() }))
            }
            _ => None,
        }));
    }
    for (name, value) in sysctls {
        let path = cstring("linux.sysctl", format!("sys/{}", check::sysctl_path(name)))?;
        steps.push(Step::Sysctl { path, value: cstring("linux.sysctl", value.as_str())? });
    }
    Ok(())
}
