//! `exec` into containers where somebody waits for it.

use serde_json::json;

use super::report::{Report, Role};
use super::{Spy, rounds};
use crate::support::{Bundle, ConsoleSocket, Sandbox};

/// Who the attacker is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Attacker {
    /// Root of a user namespace, who may trace there.
    MappedTracer,
    /// Root of a user namespace with every capability.
    MappedAlmighty,
    /// Root, without a user namespace and without CAP_SYS_PTRACE.
    Root,
    /// Anybody.
    User,
    /// Root without a user namespace, who may trace.
    Tracer,
    /// The same, who may mount as well.
    Administrator,
}

pub(super) const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Gives a bundle these capabilities besides its own.
pub(super) fn grant(bundle: Bundle, capabilities: &[&str]) -> Bundle {
    let sets = ["bounding", "effective", "permitted"];
    let pairs = sets.iter().flat_map(|set| capabilities.iter().map(move |capability| (set, capability)));
    pairs.fold(bundle, |bundle, (set, capability)| {
        bundle.with_pushed(&format!("/process/capabilities/{set}"), json!(capability))
    })
}

impl Attacker {
    pub(super) fn bundle(self, sandbox: &Sandbox) -> Bundle {
        match self {
            Self::MappedTracer => grant(sandbox.bundle("user-namespace"), &["CAP_SYS_PTRACE"]),
            Self::MappedAlmighty => {
                let bundle = sandbox.bundle("user-namespace").with("/process/capabilities", json!({}));
                // CAP_SYS_RESOURCE is not everywhere there to be given.
                let all: Vec<_> =
                    CAPABILITIES.into_iter().filter(|name| *name != "CAP_SYS_RESOURCE").collect();
                grant(bundle, &all)
            }
            Self::Root => sandbox.bundle("minimal"),
            Self::User => sandbox
                .bundle("minimal")
                .with("/process/capabilities", json!({}))
                .with("/process/user", json!({ "uid": 1000, "gid": 1000 })),
            Self::Tracer => grant(sandbox.bundle("minimal"), &["CAP_SYS_PTRACE"]),
            Self::Administrator => grant(sandbox.bundle("minimal"), &["CAP_SYS_PTRACE", "CAP_SYS_ADMIN"]),
        }
    }
}

/// A sandbox with a container `web` that is the attacker.
pub(super) fn attacked(attacker: Attacker, role: Role) -> (Sandbox, Spy) {
    let sandbox = Sandbox::new();
    let spy = Spy::new(&sandbox, "spy", role);
    sandbox.run_detached(&spy.inside(attacker.bundle(&sandbox)), "web", &[]).ok();
    spy.ready();
    (sandbox, spy)
}

/// The ways in which a process is added.
const WAYS: [&[&str]; 7] = [
    &[],
    &["--user", "0:0"],
    &["--user", "1000:1000", "--additional-gids", "44"],
    &["--cwd", "/tmp", "--env", "A=B"],
    &["--cap", "CAP_NET_RAW"],
    &["--no-new-privs"],
    &["--detach"],
];

fn exec_all(attacker: Attacker, role: Role) -> Report {
    let (sandbox, spy) = attacked(attacker, role);
    for round in 0..rounds() {
        let way = WAYS[round % WAYS.len()];
        let run = sandbox.prepare(["exec"]).args(way).arg(sandbox.id("web")).arg("/bin/true");
        run.output_into(&sandbox.path("exec.out")).go().ok();
    }
    spy.stop()
}

#[test]
fn nobody_in_a_user_namespace_takes_over_who_enters() {
    needs!(root, busybox, oci_verbs, user_namespaces);
    for attacker in [Attacker::MappedTracer, Attacker::MappedAlmighty] {
        exec_all(attacker, Role::Spy).assert_in_vain(&format!("{attacker:?}"), rounds());
    }
}

#[test]
fn nobody_without_the_right_to_trace_sees_into_who_enters() {
    needs!(root, busybox, oci_verbs);
    for attacker in [Attacker::Root, Attacker::User] {
        exec_all(attacker, Role::Spy).assert_in_vain(&format!("{attacker:?}"), rounds());
    }
}

/// The kernel lets such a one trace whoever is in its user namespace, which is the host's. So there must be nothing of
/// the host to be had there, and no more power than it takes to become the payload.
#[test]
fn who_may_trace_finds_nothing_of_the_host_in_who_enters() {
    needs!(root, busybox, oci_verbs);
    not_by!(Runc, Crun: "enter with all capabilities");
    let report = exec_all(Attacker::Tracer, Role::Spy);
    report.assert_only(&TRACEABLE, "Tracer", rounds());
}

/// What ptrace(2) gives without anything of the host's.
pub(super) const TRACEABLE: [&str; 13] = [
    "seized",
    "root",
    "cwd",
    "exe",
    "fd",
    "ns",
    "mem",
    "environ",
    "maps",
    "auxv",
    "syscall",
    "pidfd_getfd",
    "process_vm_readv",
];

#[test]
fn a_terminal_is_given_to_who_enters_unseen() {
    needs!(root, busybox, oci_verbs, user_namespaces);
    let (sandbox, spy) = attacked(Attacker::MappedTracer, Role::Spy);
    for round in 0..rounds() {
        let socket = ConsoleSocket::at(sandbox.path(&format!("console{round}")));
        let run = sandbox.prepare(["exec", "--tty", "--detach", "--console-socket"]).arg(socket.path());
        run.arg(sandbox.id("web")).arg("/bin/true").output_into(&sandbox.path("exec.out")).go().ok();
        drop(socket.receive());
    }
    spy.stop().assert_in_vain("with a terminal", rounds());
}

#[test]
fn whoever_enters_has_an_executable_that_nobody_writes_to() {
    needs!(root, busybox, oci_verbs, user_namespaces);
    let report = exec_all(Attacker::Administrator, Role::Overwrite);
    report.assert_only(&["exe"], "with every right", 0);
    exec_all(Attacker::MappedAlmighty, Role::Overwrite).assert_in_vain("in a user namespace", 0);
}
