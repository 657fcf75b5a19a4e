//! The init process of a pod that shares its PID namespace: it only waits and reaps orphans.

use std::path::PathBuf;
use std::sync::Arc;

use oci_spec::runtime::{
    Linux, LinuxCapabilities, LinuxIdMapping, LinuxNamespaceType, Mount, Process, Root, Spec,
};

use super::Sandboxes;
use super::namespaces::shared_namespaces;
use crate::error::{Doing, Result};
use crate::id::ContainerId;
use crate::keeper::client::keeper_program;
use crate::keeper::{Order, POD_INIT};
use crate::linux::private;
use crate::oci::delete;
use crate::pod::abort::Abort;
use crate::pod::records::Directory;
use crate::pod::request_from_cri::SandboxRequest;
use crate::spec::namespace;
use crate::undo::Undo;

/// The path of the program in the init process's root.
const PROGRAM: &str = "/coracle-keeper";

impl Sandboxes {
    /// Starts the init process of a shared PID namespace, which only reaps orphans, and pins the namespace.
    ///
    /// # Errors
    /// Why it cannot run; nothing is left of it then.
    pub(super) fn start_init(
        &self,
        id: &str,
        request: &SandboxRequest,
        directory: &Directory,
        undo: &mut Undo,
    ) -> Result<()> {
        let root = directory.join("init");
        private::make_dir(&root, private::DIR).doing(|| format!("make {}", root.display()))?;
        if let Some(user) = &request.namespaces.user {
            // The root user of the pod's user namespace must be able to use the directory.
            let first = |list: &[LinuxIdMapping]| list.first().map(LinuxIdMapping::host_id);
            std::os::unix::fs::chown(&root, first(&user.uids), first(&user.gids))
                .doing(|| format!("give {} to the pod's root", root.display()))?;
        }
        let spec = self.init_spec(id, request, directory, root)?;
        let runtime = self.host.runtime();
        let own = ContainerId::parse(id)?;
        let order = Order { id: id.to_owned(), ..Order::default() };
        let never = Arc::<Abort>::default();
        let run = || self.host.run_in_keeper(id, &spec, None, order.clone(), &never);
        self.host.retry_until_kept(id, &never, run)?;
        undo.push("init process of the pod", {
            let own = own.clone();
            move || drop(delete::delete(&runtime, &own, true))
        });
        let source = PathBuf::from(format!("/proc/{}/ns/pid", self.host.init_pid(id)?));
        crate::net::namespace::pin(&source, &directory.join("pid"))
    }

    /// Its spec: a child of the keeper's program in the pod's namespaces, without any privilege.
    fn init_spec(
        &self,
        id: &str,
        request: &SandboxRequest,
        directory: &Directory,
        root: PathBuf,
    ) -> Result<Spec> {
        let program = keeper_program();
        let program = std::fs::canonicalize(&program)
            .doing(|| format!("find {}", program.display()))
            .map_err(|e| e.hint("the init process of a shared PID namespace is coracle-keeper itself"))?;
        let mut spec = Spec::default();
        let mut linux = Linux::default();
        let own = &request.namespaces;
        let shared = shared_namespaces(own, directory);
        let pids = namespace(LinuxNamespaceType::Pid, None);
        linux
            .set_namespaces(Some(shared.chain([pids, namespace(LinuxNamespaceType::Mount, None)]).collect()))
            .set_uid_mappings(own.user.as_ref().map(|user| user.uids.clone()))
            .set_gid_mappings(own.user.as_ref().map(|user| user.gids.clone()))
            .set_cgroups_path(Some(self.host.cgroup_path(request.cgroup_parent.as_deref(), id)))
            .set_resources(None);
        spec.set_version(crate::record::OCI_VERSION.to_owned())
            .set_hostname(None)
            .set_root(Some(read_only_root(root)))
            .set_process(Some(waiting_process()))
            .set_mounts(Some(vec![program_mount(program)]))
            .set_linux(Some(linux));
        Ok(spec)
    }

    /// Kills the init process of a pod, if it has one.
    pub(in crate::pod) fn end_init(&self, id: &str) -> Result<()> {
        delete::delete(&self.host.runtime(), &ContainerId::parse(id)?, true)
    }
}

fn read_only_root(path: PathBuf) -> Root {
    let mut root = Root::default();
    root.set_path(path).set_readonly(Some(true));
    root
}

/// The init process only waits and reaps, so it has no capability at all.
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
