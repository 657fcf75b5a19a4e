//! Starts of a neighbour: a container that joins the attacker's PID namespace. (A shared user namespace is for pods.)

use serde_json::json;

use super::exec::{Attacker, TRACEABLE, attacked};
use super::report::{Report, Role};
use super::{Spy, rounds};
use crate::support::{Bundle, Runtime, Sandbox, runtime_under_test};

/// A bundle whose container lives in these namespaces of `web`.
pub(super) fn neighbour(sandbox: &Sandbox, bundle: Bundle, shared: &[&str]) -> Bundle {
    let pid = sandbox.state("web")["pid"].as_i64().unwrap();
    bundle.edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        for namespace in namespaces {
            let kind = namespace["type"].as_str().unwrap().to_owned();
            if shared.contains(&kind.as_str()) {
                namespace["path"] = json!(format!("/proc/{pid}/ns/{kind}"));
            }
        }
    })
}

/// Starts neighbours in every way that there is.
pub(super) fn start_all(sandbox: &Sandbox, bundle: &Bundle) {
    for round in 0..rounds() {
        match round % 3 {
            0 => drop(sandbox.run(bundle).ok()),
            1 => {
                sandbox.create(bundle, "next").ok();
                sandbox.runtime(["start", &sandbox.id("next")]).ok();
                sandbox.wait_for_status("next", "stopped");
                sandbox.runtime(["delete", &sandbox.id("next")]).ok();
            }
            _ => {
                sandbox.run_detached(bundle, "next", &[]).ok();
                sandbox.runtime(["delete", "--force", &sandbox.id("next")]).ok();
            }
        }
    }
}

fn fixtures() -> &'static [&'static str] {
    // runc does not start a container without /proc.
    if *runtime_under_test() == Runtime::Runc { &["sleeping"] } else { &["sleeping", "user-namespace"] }
}

fn starts(attacker: Attacker, role: Role, fixture: &str) -> Report {
    let (sandbox, spy) = attacked(attacker, role);
    let bundle = sandbox.bundle(fixture).args(&["/bin/true"]).edit(|config| {
        // Who owns the user namespace but not the PID namespace may not mount its /proc.
        if fixture == "user-namespace" {
            config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/proc");
            config["linux"].as_object_mut().unwrap().retain(|key, _| !key.ends_with("Paths"));
        }
    });
    let bundle = neighbour(&sandbox, bundle, &["pid"]);
    start_all(&sandbox, &bundle);
    spy.stop()
}

/// The neighbour has a user namespace of its own, or none. Over the former the host's root has every right, wherever
/// it is: what guards the neighbour until it is its payload is that it is not dumpable.
#[test]
fn a_neighbour_in_the_same_pid_namespace_is_not_seen_into() {
    needs!(root, busybox, oci_verbs, user_namespaces);
    for attacker in [Attacker::Root, Attacker::User] {
        for fixture in fixtures() {
            let report = starts(attacker, Role::Spy, fixture);
            report.assert_in_vain(&format!("{attacker:?} beside {fixture}"), rounds());
        }
    }
}

#[test]
fn who_may_trace_finds_nothing_of_the_host_in_a_neighbour() {
    needs!(root, busybox, oci_verbs);
    not_by!(Runc, Crun: "set up in sight of it");
    let report = starts(Attacker::Tracer, Role::Spy, "sleeping");
    // To mount and to pivot takes CAP_SYS_ADMIN.
    let harmless = [&TRACEABLE[..], &["capabilities"]].concat();
    report.assert_only(&harmless, "a tracer beside a neighbour", rounds());
}

#[test]
fn a_neighbours_executable_is_not_written_to() {
    needs!(root, busybox, oci_verbs, user_namespaces);
    for fixture in fixtures() {
        let report = starts(Attacker::Administrator, Role::Overwrite, fixture);
        report.assert_only(&["exe"], &format!("{fixture}'s executable"), 0);
    }
}

/// `launch` makes namespaces of its own; entering them afterwards is what others may see.
#[test]
fn who_enters_a_launched_container_is_not_seen_into() {
    needs!(root, busybox, launch_verb);
    for (flags, harmless) in [
        (&[][..], &[][..]),
        (&["--user", "1000"], &[]),
        (&["--cap-add", "SYS_PTRACE", "--security-opt", "seccomp=unconfined"], &TRACEABLE),
    ] {
        let kept = crate::keeper::Kept::new();
        let sandbox = &kept.sandbox;
        let spy = Spy::new(sandbox, "spy", Role::Spy);
        let volumes: Vec<_> = spy
            .mounts()
            .into_iter()
            .map(|(source, destination, read_only)| {
                format!("{}:{destination}{}", source.display(), if read_only { ":ro" } else { "" })
            })
            .collect();
        let variable = spy.variable();
        let mut words =
            vec!["--detach", "--env", &variable, "--volume", &volumes[0], "--volume", &volumes[1]];
        words.extend(flags);
        words.push("box");
        let command = Spy::command();
        crate::launch::prepare(sandbox, "web", words.into_iter().chain(command.iter().map(String::as_str)))
            .go()
            .ok();
        spy.ready();
        for round in 0..rounds() {
            let user = ["0:0", "1000:1000"][round % 2];
            sandbox.runtime(["exec", "--user", user, &sandbox.id("web"), "/bin/true"]).ok();
        }
        let report = spy.stop();
        sandbox.coracle(["rm", "--force", &sandbox.id("web")]).ok();
        report.assert_only(harmless, &format!("launched with {flags:?}"), rounds());
    }
}
