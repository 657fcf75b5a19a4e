//! A parsed and checked profile: names become rows of the table, actions become verdicts.

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Operator,
    LinuxSyscall,
};

use super::table::{self, Row};
use super::verdict;
use crate::error::{Error, Result};

/// The most arguments a system call has.
const MAX_ARGS: usize = 6;

/// A parsed profile.
#[derive(Debug)]
pub(super) struct Profile {
    /// The verdict for calls without a matching rule.
    pub(super) default: u32,
    /// True if calls newer than the profile get ENOSYS instead of `default`.
    pub(super) hides_newer_calls: bool,
    pub(super) rules: Vec<Rule>,
}

/// One entry of `syscalls`.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) rows: Vec<&'static Row>,
    pub(super) verdict: u32,
    /// The rule applies when all conditions of one of these lists hold; an empty list always holds.
    pub(super) alternatives: Vec<Vec<Condition>>,
}

/// A comparison of one argument.
#[derive(Debug, Clone, Copy)]
pub(super) struct Condition {
    /// The argument's index, 0 to 5.
    pub(super) arg: u8,
    pub(super) operator: Operator,
    /// The value to compare with; with `MASKED_EQ` the value of the masked argument.
    pub(super) value: u64,
    /// Only for `MASKED_EQ`.
    pub(super) mask: u64,
}

impl Profile {
    /// Parses `profile`.
    ///
    /// # Errors
    /// `Invalid` for a name that no architecture has, an argument index above 5, an errno beyond the kernel's range,
    /// and for NOTIFY where it would block the start of the container.
    pub(super) fn read(profile: &LinuxSeccomp) -> Result<Self> {
        let action = profile.default_action();
        if action == Action::ScmpActNotify {
            return Err(Error::invalid("seccomp default action SCMP_ACT_NOTIFY").hint(
                "name the calls to hand to the agent; a container whose every call waits for it cannot start",
            ));
        }
        let syscalls = profile.syscalls().as_deref().unwrap_or_default();
        Ok(Self {
            default: verdict::of(action, profile.default_errno_ret())?,
            // runc's rule: a tracer, a logger and a deny list need to see the real call.
            hides_newer_calls: !matches!(
                action,
                Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace
            ),
            rules: syscalls.iter().map(Rule::read).collect::<Result<_>>()?,
        })
    }
}

impl Rule {
    fn read(syscall: &LinuxSyscall) -> Result<Self> {
        let rows = syscall.names().iter().map(|name| find(name)).collect::<Result<Vec<_>>>()?;
        if syscall.action() == Action::ScmpActNotify && rows.iter().any(|row| row.name() == "write") {
            return Err(Error::invalid("seccomp action SCMP_ACT_NOTIFY for write").hint(
                "the container reports with write before its agent listens and would hang; leave write out of the rule",
            ));
        }
        Ok(Self {
            rows,
            verdict: verdict::of(syscall.action(), syscall.errno_ret())?,
            alternatives: alternatives(syscall)?,
        })
    }
}

fn find(name: &str) -> Result<&'static Row> {
    table::find(name).ok_or_else(|| {
        let shown: String = name.chars().take(64).collect();
        let error = Error::invalid(format!("unknown seccomp syscall {shown:?}"));
        match table::nearest(&shown) {
            Some(near) => error.hint(format!("did you mean {near:?}?")),
            None => error.hint("names are those of the kernel's headers, without the prefix __NR_"),
        }
    })
}

/// All conditions of one rule must be true; but two on the same argument are alternatives, which is how runc reads them
/// (libseccomp accepts an argument only once per rule).
fn alternatives(syscall: &LinuxSyscall) -> Result<Vec<Vec<Condition>>> {
    let args = syscall.args().as_deref().unwrap_or_default();
    let (mut seen, mut twice) = ([false; MAX_ARGS], false);
    let mut conditions = Vec::with_capacity(args.len());
    for arg in args {
        let Some(seen) = seen.get_mut(arg.index()) else {
            let names = syscall.names().join(", ");
            return Err(Error::invalid(format!(
                "seccomp rule for {names} looks at argument {}",
                arg.index()
            ))
            .hint("system calls have arguments 0 to 5"));
        };
        twice |= std::mem::replace(seen, true);
        conditions.push(Condition::read(arg)?);
    }
    Ok(if twice {
        conditions.into_iter().map(|condition| vec![condition]).collect()
    } else {
        vec![conditions]
    })
}

impl Condition {
    fn read(arg: &LinuxSeccompArg) -> Result<Self> {
        let index = u8::try_from(arg.index()).map_err(|_| Error::invalid("seccomp argument index"))?;
        let (value, mask) = match arg.op() {
            Operator::ScmpCmpMaskedEq => (arg.value_two().unwrap_or(0), arg.value()),
            _ => (arg.value(), u64::MAX),
        };
        Ok(Self { arg: index, operator: arg.op(), value: value & mask, mask })
    }

    /// The condition that the argument equals `value`.
    pub(super) fn equals(arg: u8, value: u64) -> Self {
        Self { arg, operator: Operator::ScmpCmpEq, value, mask: u64::MAX }
    }

    /// The condition that the bits of the argument in `mask` equal those of `value`.
    pub(super) fn masked(arg: u8, mask: u64, value: u64) -> Self {
        Self { arg, operator: Operator::ScmpCmpMaskedEq, value: value & mask, mask }
    }

    /// Returns whether the condition is true for every argument, because the mask has no bits.
    pub(super) fn is_void(&self, is_64_bit: bool) -> bool {
        let seen = if is_64_bit { u64::MAX } else { u64::from(u32::MAX) };
        self.operator == Operator::ScmpCmpMaskedEq && self.mask & seen == 0
    }
}
