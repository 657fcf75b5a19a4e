//! Running containers, and the first process of a pod that shares its PID namespace, as children of the keeper.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use oci_spec::runtime::{
    Linux, LinuxCapabilities, LinuxIdMapping, LinuxNamespaceType, Mount, Process, Root, Spec,
};

use super::Pods;
use super::abort::{Abort, Abortable};
use super::records::Directory;
use super::request_from_cri::SandboxRequest;
use super::resolve::namespaces_of;
use crate::error::{Doing, Kind, Result};
use crate::id::ContainerId;
use crate::keeper::client::{Client, KeeperSpawner, keeper_program};
use crate::keeper::{Order, POD_INIT};
use crate::linux::private;
use crate::oci::create::CreateOptions;
use crate::oci::{delete, foreground, run};
use crate::record::{ContainerState, Layout};
use crate::spec::namespace;
use crate::undo::Undo;

/// Where the program is in the root of a pod's first process.
const PROGRAM: &str = "/coracle-keeper";

/// How often a start is tried when the keeper is killed each time before it has the container.
const TRIES: u32 = 5;

impl Pods {
    /// Starts again when the keeper is killed before it has the container: the program has not run then, so that a second
    /// try does no harm.
    ///
    /// # Errors
    /// Those of `start`.
    pub(super) fn retry_until_kept(
        &self,
        id: &str,
        abort: &Abort,
        start: impl Fn() -> Result<()>,
    ) -> Result<()> {
        for _ in 1..TRIES {
            match start() {
                Err(error) if error.kind() == Kind::Unreachable && !abort.is_fired() => {
                    crate::log::warning(&error.doing(format!("start {id} again")).chain());
                }
                other => return other,
            }
            // Nothing of the failed try may be left when the next one begins.
            Client::ask_any(&self.settings.run, |keeper| keeper.settle(id))?;
        }
        start()
    }

    /// Runs a container as a child of the keeper. The exit file of the order is set here; `abort` ends the start.
    ///
    /// # Errors
    /// Why it cannot run; nothing is left of it then. `Unreachable` when the keeper was killed before it had the container.
    pub(super) fn run_in_keeper(
        &self,
        id: &str,
        spec: &Spec,
        root: Option<OwnedFd>,
        order: Order,
        abort: &Arc<Abort>,
    ) -> Result<()> {
        let id = ContainerId::parse(id)?;
        let tty = spec.process().as_ref().and_then(Process::terminal).unwrap_or(false);
        let (ours, theirs) =
            if tty { foreground::console_pair().map(|(o, t)| (Some(o), Some(t)))? } else { (None, None) };
        let layout = Layout::new(&self.settings.root, &id);
        let order = Order { exit_file: Some(layout.exit()), ..order };
        let keeper = Client::connect_or_start(&self.settings.run)?;
        let spawner = Rc::new(KeeperSpawner::new(keeper, order, ours));
        let create = CreateOptions {
            bundle: layout.directory().to_owned(),
            root: root.map(Arc::new),
            accounted: true,
            parent: Some(Rc::new(Abortable { spawner: Rc::clone(&spawner), abort: Arc::clone(abort) })),
            ..CreateOptions::default()
        };
        match run::run_in_keeper(&self.runtime(), &id, spec, &create, theirs) {
            Ok(()) => spawner.keep(),
            Err(error) => {
                spawner.give_up();
                Err(error)
            }
        }
    }

    /// Starts the first process of a shared PID namespace, which only reaps orphans, and pins the namespace.
    ///
    /// # Errors
    /// It cannot run; nothing is left of it then.
    pub(super) fn start_first_process(
        &self,
        id: &str,
        request: &SandboxRequest,
        directory: &Directory,
        undo: &mut Undo,
    ) -> Result<()> {
        let root = directory.join("init");
        private::make_dir(&root, private::DIR).doing(|| format!("make {}", root.display()))?;
        if let Some(user) = &request.namespaces.user {
            // The directory is used by the root of the user namespace.
            let first = |list: &[LinuxIdMapping]| list.first().map(LinuxIdMapping::host_id);
            std::os::unix::fs::chown(&root, first(&user.uids), first(&user.gids))
                .doing(|| format!("give {} to the pod's root", root.display()))?;
        }
        let spec = self.first_process(id, request, directory, root)?;
        let runtime = self.runtime();
        let own = ContainerId::parse(id)?;
        let order = Order { id: id.to_owned(), ..Order::default() };
        let never = Arc::<Abort>::default();
        self.retry_until_kept(id, &never, || self.run_in_keeper(id, &spec, None, order.clone(), &never))?;
        undo.push("first process of the pod", {
            let own = own.clone();
            move || drop(delete::delete(&runtime, &own, true))
        });
        let state = ContainerState::load(&Layout::new(&self.settings.root, &own))?;
        let source = PathBuf::from(format!("/proc/{}/ns/pid", state.init_process_pid));
        crate::net::namespace::pin(&source, &directory.join("pid"))
    }

    fn first_process(
        &self,
        id: &str,
        request: &SandboxRequest,
        directory: &Directory,
        root: PathBuf,
    ) -> Result<Spec> {
        let program = keeper_program();
        let program = std::fs::canonicalize(&program)
            .doing(|| format!("find {}", program.display()))
            .map_err(|e| e.hint("the first process of a shared PID namespace is coracle-keeper itself"))?;
        let mut spec = Spec::default();
        let mut linux = Linux::default();
        let own = &request.namespaces;
        let shared = namespaces_of(own, directory);
        let pids = namespace(LinuxNamespaceType::Pid, None);
        linux
            .set_namespaces(Some(shared.chain([pids, namespace(LinuxNamespaceType::Mount, None)]).collect()))
            .set_uid_mappings(own.user.as_ref().map(|user| user.uids.clone()))
            .set_gid_mappings(own.user.as_ref().map(|user| user.gids.clone()))
            .set_cgroups_path(Some(self.cgroup_of(request.cgroup_parent.as_deref(), id)))
            .set_resources(None);
        spec.set_version(crate::record::OCI_VERSION.to_owned())
            .set_hostname(None)
            .set_root(Some(read_only_root(root)))
            .set_process(Some(waiting_process()))
            .set_mounts(Some(vec![program_mount(program)]))
            .set_linux(Some(linux));
        Ok(spec)
    }

    /// Ends the first process of a pod, if it has one.
    pub(super) fn end_first_process(&self, id: &str) -> Result<()> {
        delete::delete(&self.runtime(), &ContainerId::parse(id)?, true)
    }
}

fn read_only_root(path: PathBuf) -> Root {
    let mut root = Root::default();
    root.set_path(path).set_readonly(Some(true));
    root
}

/// It only waits and reaps, so it has no right at all.
fn waiting_process() -> Process {
    let mut process = Process::default();
    process
        .set_args(Some([PROGRAM, POD_INIT].map(str::to_owned).into()))
        .set_env(None)
        .set_cwd("/".into())
        .set_capabilities(Some(none_at_all()))
        .set_rlimits(None)
        .set_no_new_privileges(Some(true));
    process
}

fn none_at_all() -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    let none = || Some(Default::default());
    sets.set_bounding(none())
        .set_effective(none())
        .set_permitted(none())
        .set_inheritable(none())
        .set_ambient(none());
    sets
}

fn program_mount(program: PathBuf) -> Mount {
    let mut bind = Mount::default();
    bind.set_typ(Some("bind".to_owned()))
        .set_source(Some(program))
        .set_destination(PROGRAM.into())
        .set_options(Some(["bind", "ro"].map(str::to_owned).into()));
    bind
}
