//! What other processes can see of one that is being set up, and what of the host it still holds.
//!
//! The order of a plan's steps follows from this table. Between clone3(2) and execve(2) the process runs our code,
//! but processes in its PID namespace can already see it: they may signal it, stop it and, with CAP_SYS_PTRACE or the
//! same ids, trace it and read it through /proc. So before it becomes visible, nothing of the host may be left in it.
//!
//! | moment | seen by | root, cwd | descriptors | ids | capabilities | keyring |
//! |---|---|---|---|---|---|---|
//! | clone3 | the host | the host's | the plan's | the host's | all | the caller's |
//! | session keyring | the host | the host's | the plan's | the host's | all | own |
//! | user namespace joined or made | the host | the host's | the plan's | the host's | all in it | own |
//! | its ids 0 | the host | the host's | the plan's | the container's | all in it | own |
//! | root changed, or mount namespace joined | the host | the container's | the plan's | the container's | all | own |
//! | user and reduced capabilities | the host | the container's | the plan's | the payload's | the payload's, what the last steps need | own |
//! | fork into the PID namespace | those inside | the container's | socket, start socket, terminal | the payload's | the payload's, what the last steps need | own |
//! | execve | those inside | the container's | what is passed on | the payload's | the payload's | own |
//!
//! From clone3 on the process is not dumpable: prctl(2), PR_SET_DUMPABLE. A tracer needs CAP_SYS_PTRACE in the user
//! namespace in which our program was executed (the host's), not in the one that was joined; ptrace(2).
//!
//! Three cases fall short of the table. A new PID namespace has no other process in it until the payload runs, so no
//! one can look. Without a PID namespace of its own, a container is visible to the host and to other such containers
//! all the time. And a process in a new user namespace cannot enter a PID namespace that the host owns: a container
//! with both is cloned into the PID namespace while it still holds the host's resources, and only being undumpable
//! keeps others out.

use super::namespaces::Namespaces;
use super::plan::Plan;
use super::steps::Step;

/// Which processes can see the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// Only the host: the process is in no container's PID namespace, or alone in it.
    Host,
    /// Processes of a container or a pod.
    Inside,
}

/// The state of the process between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    /// Which processes can see it.
    pub(super) audience: Audience,
    /// Whether its root and working directory are the host's.
    pub(super) has_host_root: bool,
    /// Whether it has descriptors of the host: namespaces, mounts, directories.
    pub(super) has_host_descriptors: bool,
    /// Whether it has ids of the host although the container has a user namespace.
    pub(super) has_host_ids: bool,
    /// Whether it still has the caller's user.
    pub(super) has_caller_identity: bool,
    /// Whether it has more capabilities than the payload gets and its last steps need.
    pub(super) has_host_capabilities: bool,
    /// Whether its session keyring is the caller's although the container gets one of its own.
    pub(super) has_caller_keyring: bool,
}

/// One rule: what the process must not have while processes other than the host's can see it.
#[derive(Debug)]
pub(super) struct ExposureRule {
    /// Whether a moment breaks the rule.
    pub(super) forbidden: fn(&Moment) -> bool,
    /// What the process would expose.
    pub(super) because: &'static str,
}

/// All rules.
pub(super) const RULES: &[ExposureRule] = &[
    ExposureRule {
        forbidden: |m| m.has_host_root,
        because: "root or working directory of the host: /proc/PID/root leads out",
    },
    ExposureRule {
        forbidden: |m| m.has_host_descriptors,
        because: "descriptors of the host: pidfd_getfd(2), /proc/PID/fd",
    },
    ExposureRule {
        forbidden: |m| m.has_host_ids,
        because: "ids of the host: files that it makes belong to the host's root",
    },
    ExposureRule {
        forbidden: |m| m.has_caller_identity,
        because: "the caller's user instead of the payload's",
    },
    ExposureRule { forbidden: |m| m.has_host_capabilities, because: "capabilities that a tracer could use" },
    ExposureRule { forbidden: |m| m.has_caller_keyring, because: "the caller's keys: keyctl(2)" },
];

/// The moment right after clone3.
fn beginning(plan: &Plan) -> Moment {
    let Namespaces { new, parent_joins, .. } = &plan.namespaces;
    let alone = new & libc::CLONE_NEWPID != 0;
    let cloned_inside = !alone && parent_joins.iter().any(|(_, kind)| *kind == libc::CLONE_NEWPID);
    Moment {
        audience: if cloned_inside { Audience::Inside } else { Audience::Host },
        has_host_root: true,
        has_host_descriptors: true,
        has_host_ids: plan.namespaces.has_user(),
        has_caller_identity: true,
        has_host_capabilities: true,
        has_caller_keyring: plan.steps.iter().any(|step| matches!(step, Step::SessionKeyring(_))),
    }
}

/// Applies what a step changes.
fn after(step: &Step, before: Moment) -> Moment {
    match step {
        Step::SessionKeyring(_) => Moment { has_caller_keyring: false, ..before },
        Step::BecomeNamespaceRoot { .. } => Moment { has_host_ids: false, ..before },
        Step::PivotRoot { .. } | Step::MoveRoot | Step::Chroot(_) => {
            Moment { has_host_root: false, ..before }
        }
        Step::Join { kind, .. } | Step::JoinProcess { kinds: kind, .. } if kind & libc::CLONE_NEWNS != 0 => {
            Moment { has_host_root: false, ..before }
        }
        Step::Identity(_) => Moment { has_caller_identity: false, ..before },
        Step::ReduceCapabilities { .. } => Moment { has_host_capabilities: false, ..before },
        // The process closes descriptors it no longer needs before it forks.
        Step::ForkInside => Moment { audience: Audience::Inside, has_host_descriptors: false, ..before },
        _ => before,
    }
}

/// The rules that a plan breaks, with the step after which it does and the reason for the rule.
pub(super) fn violations(plan: &Plan) -> Vec<(usize, &'static str)> {
    let mut moment = beginning(plan);
    let mut found = Vec::new();
    for (position, step) in plan.steps.iter().enumerate() {
        moment = after(step, moment);
        if moment.audience == Audience::Inside {
            let broken = RULES.iter().filter(|rule| (rule.forbidden)(&moment));
            found.extend(broken.map(|rule| (position, rule.because)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ContainerId;
    use crate::launch::request::{ExecRequest, Facts, InitRequest, Options};
    use oci_spec::runtime::{LinuxNamespaceBuilder, LinuxNamespaceType as Type, Spec};
    use std::path::Path;

    /// A container whose namespaces are new, or joined where a path is given.
    fn spec(namespaces: &[(Type, Option<&str>)], change: impl FnOnce(&mut Spec)) -> Spec {
        let mut spec = Spec::default();
        let list = namespaces.iter().map(|(kind, path)| {
            let builder = LinuxNamespaceBuilder::default().typ(*kind);
            match path {
                Some(path) => builder.path(path).build().unwrap(),
                None => builder.build().unwrap(),
            }
        });
        let mut linux = spec.linux().clone().unwrap_or_default();
        linux.set_namespaces(Some(list.collect()));
        if namespaces.iter().any(|(kind, path)| *kind == Type::User && path.is_none()) {
            let map = oci_spec::runtime::LinuxIdMappingBuilder::default()
                .host_id(100_000_u32)
                .container_id(0_u32)
                .size(65_536_u32)
                .build()
                .unwrap();
            linux.set_uid_mappings(Some(vec![map])).set_gid_mappings(Some(vec![map]));
        }
        spec.set_linux(Some(linux)).set_hostname(None);
        change(&mut spec);
        spec
    }

    fn init(spec: &Spec) -> Plan {
        let id = ContainerId::parse("box").unwrap();
        let facts = Facts { unified: true, ..Facts::default() };
        let options = Options { wait_for_record: true, wait_for_start: true, ..Options::default() };
        let (bundle, seccomp) = (Path::new("/bundle"), None);
        let request =
            InitRequest { id: &id, spec, bundle, root_is_given: false, facts: &facts, seccomp, options };
        Plan::for_init(&request).unwrap()
    }

    fn exec(spec: &Spec) -> Plan {
        let id = ContainerId::parse("box").unwrap();
        let facts = Facts { unified: true, ..Facts::default() };
        let process = spec.process().as_ref().unwrap();
        let options = Options { parent_attaches: true, ..Options::default() };
        let request = ExecRequest { id: &id, spec, process, facts: &facts, seccomp: None, options };
        Plan::for_exec(&request).unwrap()
    }

    fn with_user(spec: &mut Spec) {
        let mut process = spec.process().clone().unwrap();
        let user = oci_spec::runtime::UserBuilder::default().uid(1000_u32).gid(1000_u32).build().unwrap();
        process.set_user(user).set_terminal(Some(true)).set_no_new_privileges(Some(true));
        spec.set_process(Some(process));
    }

    const MOUNT: (Type, Option<&str>) = (Type::Mount, None);
    const SHARED: (Type, Option<&str>) = (Type::Pid, Some("/proc/1/ns/pid"));

    fn plans() -> Vec<(&'static str, Plan)> {
        let own = spec(&[MOUNT, (Type::Pid, None)], |_| {});
        let user = spec(&[MOUNT, (Type::Pid, None), (Type::User, None)], with_user);
        let shared = spec(&[MOUNT, SHARED, (Type::Network, Some("/proc/1/ns/net"))], with_user);
        let pod = spec(&[MOUNT, SHARED, (Type::User, Some("/proc/1/ns/user"))], |_| {});
        let host = spec(&[MOUNT], |_| {});
        vec![
            ("init", init(&own)),
            ("init, user namespace", init(&user)),
            ("init, shared PID namespace", init(&shared)),
            ("init, shared PID and user namespaces", init(&pod)),
            ("init, the host's PID namespace", init(&host)),
            ("exec", exec(&own)),
            ("exec, user namespace", exec(&user)),
            ("exec, shared PID namespace", exec(&shared)),
            ("exec, shared PID and user namespaces", exec(&pod)),
        ]
    }

    #[test]
    fn no_step_stands_where_others_would_get_at_the_host() {
        for (name, plan) in plans() {
            assert_eq!(violations(&plan), [], "{name}");
        }
    }

    #[test]
    fn who_joins_a_pid_namespace_forks_into_it_last() {
        for (name, plan) in plans() {
            let joins = name.contains("shared") || name.starts_with("exec");
            assert_eq!(plan.forks(), joins, "{name}");
        }
    }

    /// Moving any step that gives up something of the host behind the fork is reported.
    #[test]
    fn a_step_in_the_wrong_place_is_found() {
        for (name, plan) in plans().into_iter().filter(|(_, plan)| plan.forks()) {
            let fork = plan.steps.iter().position(|step| *step == Step::ForkInside).unwrap();
            let mut tried = 0;
            for position in 0..fork {
                let takes_away = matches!(
                    &plan.steps[position],
                    Step::SessionKeyring(_)
                        | Step::BecomeNamespaceRoot { .. }
                        | Step::PivotRoot { .. }
                        | Step::JoinProcess { .. }
                        | Step::Identity(_)
                        | Step::ReduceCapabilities { .. }
                );
                if takes_away {
                    let mut wrong = plan.clone();
                    let step = wrong.steps.remove(position);
                    wrong.steps.insert(fork, step.clone());
                    assert!(!violations(&wrong).is_empty(), "{name}: {step}");
                    tried += 1;
                }
            }
            assert!(tried >= 4, "{name}: {tried}");
        }
    }

    #[test]
    fn a_process_that_is_cloned_inside_is_found() {
        let mut plan = init(&spec(&[MOUNT, SHARED], |_| {}));
        plan.namespaces.parent_joins.push((super::super::steps::Slot(0), libc::CLONE_NEWPID));
        assert!(violations(&plan).iter().any(|(step, _)| *step == 0));
    }

    /// The last steps need no capability beyond the reduced sets; otherwise the kernel would refuse them.
    #[test]
    fn capabilities_are_reduced_before_anybody_is_told_that_all_is_ready() {
        for (name, plan) in plans() {
            let position = |wanted: fn(&Step) -> bool| plan.steps.iter().position(wanted);
            let reduced = position(|step| matches!(step, Step::ReduceCapabilities { .. })).unwrap();
            assert!(position(|s| matches!(s, Step::Identity(_))).is_some_and(|at| at < reduced), "{name}");
            assert!(position(|s| matches!(s, Step::Ready)).is_none_or(|at| at > reduced), "{name}");
        }
    }
}
