//! The `process` of a configuration: program, user, capabilities, limits, labels; these are the last steps of every
//! plan.
//!
//! Capability names become numbers through the tables of libcontainer and caps. libcontainer's `drop_privileges` is
//! not used: it uses hash sets and one prctl per capability of each set, where masks need two capset calls.

use std::path::Path;

use caps::Capability;
use oci_spec::runtime::{
    Capabilities, Hook, IOPriorityClass, LinuxCapabilities, LinuxPersonality, LinuxPersonalityDomain,
    LinuxSchedulerFlag, LinuxSchedulerPolicy, PosixRlimitType, Process, Scheduler,
};
use rustix::process::Resource;

use super::hooks;
use super::opens::{Open, Opens};
use super::request::Options;
use super::steps::{CapabilityMasks, Filter, Identity, Program, Step};
use super::text::{cpath, cstring};
use super::toolbox::CapabilityExt;
use crate::error::{Error, Result};
use crate::sys::process::{SchedAttr, StringArray};

/// The search path for a program without a slash when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Inputs of the last steps, those that turn the process into the payload.
#[derive(Debug)]
pub(super) struct Tail<'a> {
    /// The process.
    pub(super) process: &'a Process,
    /// Its compiled seccomp filter.
    pub(super) seccomp: Option<&'a crate::seccomp::Program>,
    /// The caller's options.
    pub(super) options: Options,
    /// The startContainer hooks, which run right before the program.
    pub(super) start_hooks: Option<&'a [Hook]>,
    /// `linux.personality`.
    pub(super) personality: Option<&'a LinuxPersonality>,
}

/// Capabilities that our own steps need, as numbers of capabilities(7).
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_SYS_NICE: u64 = 1 << 23;

impl Tail<'_> {
    /// Pushes everything that can be done before processes inside can see this one: limits, working directory, user.
    /// At the end only the capabilities are left that the payload or [`Tail::push_last`] needs.
    ///
    /// Limits are raised before the user changes, because that takes away the right to raise them. The bounding set
    /// needs CAP_SETPCAP, so it is dropped before the user changes too.
    ///
    /// # Errors
    /// `Invalid` or `Unsupported`, naming the field.
    pub(super) fn push_identity(&self, steps: &mut Vec<Step>) -> Result<()> {
        let process = self.process;
        push_limits(self, steps)?;
        let user = process.user();
        if !process.terminal().unwrap_or(false) {
            steps.push(Step::GiveStreams { uid: user.uid() });
        }
        let cwd = cpath("process.cwd", process.cwd())?;
        steps.push(Step::WorkingDirectory { path: cwd.clone(), early: true });
        let masks = masks(process.capabilities().as_ref());
        steps.push(Step::BoundingSet { keep: masks.bounding });
        steps.push(Step::Identity(Identity {
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            set_groups: true,
        }));
        steps.push(Step::Umask(user.umask()));
        steps.push(Step::WorkingDirectory { path: cwd, early: false });
        steps.push(Step::FindProgram);
        if self.restricts_privileges_early() {
            steps.push(Step::NoNewPrivileges);
        }
        steps.push(Step::ReduceCapabilities { keep: self.needed_at_last(masks) });
        Ok(())
    }

    /// Pushes what only the process that becomes the payload can do; `forked` says that this process is a copy of the
    /// one that executed all steps before.
    ///
    /// The filter is installed as late as possible, so that it need not allow our own system calls. Without
    /// no_new_privs that takes CAP_SYS_ADMIN, so the filter comes before the final capability sets; with it, after
    /// them.
    ///
    /// # Errors
    /// `Invalid` or `Unsupported`, naming the field.
    pub(super) fn push_last(&self, forked: bool, opens: &mut Opens, steps: &mut Vec<Step>) -> Result<()> {
        let process = self.process;
        if forked {
            steps.push(Step::NewSession);
        }
        if process.terminal().unwrap_or(false) {
            steps.push(Step::TakeTerminal);
        }
        push_labels(process, steps)?;
        if let Some(scheduler) = process.scheduler() {
            // A forked copy does not inherit every scheduling policy: sched(7), "Resetting scheduling policy for
            // child processes".
            steps.push(Step::Scheduler(sched_attr(scheduler)?));
        }
        if self.options.wait_for_record {
            steps.push(Step::AwaitGo);
        }
        let notifies = self.seccomp.is_some_and(|s| s.listener.is_some());
        if notifies {
            // The creator has to fetch the listener before it exits.
            self.push_privileges(steps);
        }
        if self.options.wait_for_start {
            steps.push(Step::Ready);
            steps.push(Step::AwaitStart(opens.push(Open::StartSocket)));
        }
        if let Some(hooks) = self.start_hooks.filter(|h| !h.is_empty()) {
            let state = opens.push(Open::HookState);
            steps.push(hooks::inside("startContainer", hooks, state)?);
        }
        if !notifies {
            self.push_privileges(steps);
        }
        steps.push(Step::Execute);
        Ok(())
    }

    fn push_privileges(&self, steps: &mut Vec<Step>) {
        let masks = masks(self.process.capabilities().as_ref());
        let filter = self.seccomp.map(|program| {
            Step::Seccomp(Box::new(Filter {
                instructions: program.instructions.clone(),
                flags: program.flags,
                notify: program.listener.is_some(),
            }))
        });
        if self.restricts_privileges() {
            if !self.restricts_privileges_early() {
                steps.push(Step::NoNewPrivileges);
            }
            steps.push(Step::Capabilities(masks));
            steps.extend(filter);
        } else {
            steps.extend(filter);
            steps.push(Step::Capabilities(masks));
        }
    }

    fn restricts_privileges(&self) -> bool {
        self.process.no_new_privileges().unwrap_or(false)
    }

    /// A security module may refuse to change the label of a process with no_new_privs, so no_new_privs is set after
    /// the label.
    fn restricts_privileges_early(&self) -> bool {
        self.restricts_privileges() && !needs_label(self.process)
    }

    /// The capabilities that the steps of [`Tail::push_last`] need, and those of the payload.
    fn needed_at_last(&self, masks: CapabilityMasks) -> u64 {
        let mut needed = masks.permitted | masks.inheritable;
        if needs_label(self.process) || (self.seccomp.is_some() && !self.restricts_privileges()) {
            needed |= CAP_SYS_ADMIN;
        }
        if self.process.scheduler().is_some() {
            needed |= CAP_SYS_NICE;
        }
        needed
    }
}

/// Pushes the steps for session and keyring, before any namespace is joined or created: a container that has used up
/// its quota of keys must not be able to make the process keep the caller's keyring.
///
/// # Errors
/// `Invalid` for a name with a NUL byte.
pub(super) fn push_session(options: Options, name: &str, steps: &mut Vec<Step>) -> Result<()> {
    if !options.no_new_keyring {
        steps.push(Step::SessionKeyring(cstring("id", format!("_ses.{name}"))?));
    }
    steps.push(Step::NewSession);
    Ok(())
}

fn push_limits(tail: &Tail<'_>, steps: &mut Vec<Step>) -> Result<()> {
    let process = tail.process;
    let mut seen = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let (name, resource) = resource(limit.typ())?;
        if seen.contains(&name) {
            return Err(Error::invalid(format!("process.rlimits: {name} is listed twice")));
        }
        seen.push(name);
        steps.push(Step::Rlimit { resource, name, soft: limit.soft(), hard: limit.hard() });
    }
    if let Some(priority) = process.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level = i32::try_from(priority.priority()).ok().filter(|level| (0..=7).contains(level));
        let Some(level) = level else {
            return Err(Error::invalid("process.ioPriority.priority is not within 0 to 7"));
        };
        steps.push(Step::IoPriority(class << 13 | level));
    }
    if let Some(personality) = tail.personality {
        steps.push(Step::Personality(match personality.domain() {
            LinuxPersonalityDomain::PerLinux => 0,
            LinuxPersonalityDomain::PerLinux32 => 8,
        }));
    }
    Ok(())
}

fn resource(kind: PosixRlimitType) -> Result<(&'static str, Resource)> {
    Ok(match kind {
        PosixRlimitType::RlimitCpu => ("RLIMIT_CPU", Resource::Cpu),
        PosixRlimitType::RlimitFsize => ("RLIMIT_FSIZE", Resource::Fsize),
        PosixRlimitType::RlimitData => ("RLIMIT_DATA", Resource::Data),
        PosixRlimitType::RlimitStack => ("RLIMIT_STACK", Resource::Stack),
        PosixRlimitType::RlimitCore => ("RLIMIT_CORE", Resource::Core),
        PosixRlimitType::RlimitRss => ("RLIMIT_RSS", Resource::Rss),
        PosixRlimitType::RlimitNproc => ("RLIMIT_NPROC", Resource::Nproc),
        PosixRlimitType::RlimitNofile => ("RLIMIT_NOFILE", Resource::Nofile),
        PosixRlimitType::RlimitMemlock => ("RLIMIT_MEMLOCK", Resource::Memlock),
        PosixRlimitType::RlimitAs => ("RLIMIT_AS", Resource::As),
        PosixRlimitType::RlimitLocks => ("RLIMIT_LOCKS", Resource::Locks),
        PosixRlimitType::RlimitSigpending => ("RLIMIT_SIGPENDING", Resource::Sigpending),
        PosixRlimitType::RlimitMsgqueue => ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
        PosixRlimitType::RlimitNice => ("RLIMIT_NICE", Resource::Nice),
        PosixRlimitType::RlimitRtprio => ("RLIMIT_RTPRIO", Resource::Rtprio),
        PosixRlimitType::RlimitRttime => ("RLIMIT_RTTIME", Resource::Rttime),
    })
}

fn sched_attr(scheduler: &Scheduler) -> Result<SchedAttr> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let mut flags = 0;
    for flag in scheduler.flags().iter().flatten() {
        flags |= match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
            LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
        };
    }
    let priority = u32::try_from(scheduler.priority().unwrap_or(0))
        .map_err(|e| Error::invalid("process.scheduler.priority is negative").because(e))?;
    Ok(SchedAttr {
        size: 48,
        policy,
        flags,
        nice: scheduler.nice().unwrap_or(0),
        priority,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
    })
}

/// Whether the process asks for a security label.
pub(super) fn needs_label(process: &Process) -> bool {
    let some = |label: &Option<String>| label.as_ref().is_some_and(|l| !l.is_empty());
    some(process.apparmor_profile()) || some(process.selinux_label())
}

fn push_labels(process: &Process, steps: &mut Vec<Step>) -> Result<()> {
    if let Some(profile) = process.apparmor_profile().as_ref().filter(|p| !p.is_empty()) {
        steps.push(Step::ExecLabel {
            system: "AppArmor",
            attributes: vec![
                c"thread-self/attr/apparmor/exec".to_owned(),
                c"thread-self/attr/exec".to_owned(),
            ],
            value: cstring("process.apparmorProfile", format!("exec {profile}"))?,
        });
    }
    if let Some(label) = process.selinux_label().as_ref().filter(|l| !l.is_empty()) {
        steps.push(Step::ExecLabel {
            system: "SELinux",
            attributes: vec![c"thread-self/attr/exec".to_owned()],
            value: cstring("process.selinuxLabel", label.as_str())?,
        });
    }
    Ok(())
}

/// Turns capability lists into bit masks.
fn masks(sets: Option<&LinuxCapabilities>) -> CapabilityMasks {
    let mask = |set: &Option<Capabilities>| {
        set.iter().flatten().fold(0_u64, |mask, capability| mask | number(capability.to_cap()))
    };
    sets.map_or_else(CapabilityMasks::default, |sets| CapabilityMasks {
        bounding: mask(sets.bounding()),
        effective: mask(sets.effective()),
        inheritable: mask(sets.inheritable()),
        permitted: mask(sets.permitted()),
        ambient: mask(sets.ambient()),
    })
}

fn number(capability: Capability) -> u64 {
    1 << capability.index()
}

/// The program to execute, with the paths to try.
///
/// # Errors
/// `Invalid` when there are no arguments, or a string holds a NUL byte.
pub(super) fn program(process: &Process) -> Result<Program> {
    let args = process.args().as_deref().unwrap_or_default();
    let Some(name) = args.first().filter(|name| !name.is_empty()) else {
        return Err(Error::invalid("process.args is empty").hint("name the program to run"));
    };
    let env = process.env().as_deref().unwrap_or_default();
    let array = |field: &str, list: &[String]| {
        list.iter().map(|s| cstring(field, s.as_str())).collect::<Result<Vec<_>>>().map(StringArray::new)
    };
    let candidates = if name.contains('/') {
        vec![cstring("process.args", name.as_str())?]
    } else {
        let path = env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
        let join = |dir: &str| {
            cpath("process.env: PATH", &Path::new(if dir.is_empty() { "." } else { dir }).join(name))
        };
        path.split(':').map(join).collect::<Result<Vec<_>>>()?
    };
    Ok(Program { candidates, argv: array("process.args", args)?, envp: array("process.env", env)? })
}
