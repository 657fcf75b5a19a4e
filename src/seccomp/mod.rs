//! Seccomp: compiles an OCI profile to one classic BPF program, before the container exists.
//!
//! ```text
//! profile.rs   LinuxSeccomp, checked: names -> rows of the table, actions -> verdicts
//! ranges.rs    per audit architecture: number ranges and their decisions
//! assemble.rs  ranges -> instructions: architecture check, search by halving, argument chains
//! ```
//!
//! Argument chains come from seccompiler's rules. The rest is own code because seccompiler's filters cannot do it: each
//! has one architecture (and none for arm, x86 and x32) and one action for all rules, there is no NOTIFY, and they
//! compare all numbers one by one at every call.
//!
//! A profile has the meaning that libseccomp gives it as runc uses it, so that a profile written for runc or crun has the
//! same effect here. The native architecture is always included; a call of an architecture that is not named kills the
//! thread (`SCMP_ACT_KILL`), and so does an x32 call unless `SCMP_ARCH_X32` is named. Where a profile denies, calls with
//! numbers above all of its calls get ENOSYS, not the default, so that libcs fall back instead of failing. Deliberate
//! differences:
//! - rules with conditions that overlap and disagree: the first in the profile decides (libseccomp: unspecified order);
//! - on arm, ENOSYS for newer calls works although the profile names private calls with huge numbers (`set_tls`);
//! - on 32-bit x86 a rule also applies to calls through socketcall and ipc, including those without another way
//!   (libseccomp 2.5 forgets `accept`, `send` and `semop`); the numbers of the two count as known to the profile;
//! - a name that no architecture has is an error that suggests the nearest name, not ignored: it is a typing error;
//! - an errno above 4095 is an error, not cut.

mod abi;
mod assemble;
mod cache;
mod default;
mod profile;
mod ranges;
mod table;
mod verdict;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use libc::sock_filter;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompFilterFlag as Flag};

use self::abi::Abi;
use self::profile::Profile;
use crate::error::{Error, Result};

pub use self::default::default_profile;

/// A filter, ready for seccomp(2).
#[derive(Debug, Clone)]
pub struct Program {
    /// Classic BPF over `struct seccomp_data`; at most 4096 instructions.
    pub instructions: Vec<sock_filter>,
    /// `SECCOMP_FILTER_FLAG_*` for seccomp(2). `NEW_LISTENER` is set when a rule notifies.
    pub flags: u32,
    /// The receiver of notifications; present exactly when `NEW_LISTENER` is set.
    pub listener: Option<Listener>,
}

/// The agent that handles `SCMP_ACT_NOTIFY`: SPEC(runtime 1.2 #containerprocessstate).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The unix socket to send the listener descriptor and the container process state to.
    pub path: PathBuf,
    /// The profile's metadata, passed on unchanged.
    pub metadata: String,
}

/// Compiles `profile` for this host. `None` when no filter is needed: everything is allowed and no rule differs.
///
/// # Errors
/// `Invalid` when the profile contradicts itself, names an unknown call, or does not fit into 4096 instructions;
/// `Unsupported` on a host whose calls are not in the table.
pub fn compile(profile: &LinuxSeccomp) -> Result<Option<Program>> {
    compile_cached(profile, None)
}

/// Like [`compile`], but first looks for the program in the directory `cache`, where an earlier call stored it. A
/// missing, read-only or damaged cache costs only time and gives no error.
///
/// # Errors
/// Those of [`compile`].
pub fn compile_cached(profile: &LinuxSeccomp, cache: Option<&Path>) -> Result<Option<Program>> {
    if profile.default_action() == Action::ScmpActAllow && rules(profile) == 0 {
        return Ok(None);
    }
    let doing = |error: Error| error.doing("compile the seccomp profile");
    let listener = listener(profile).map_err(doing)?;
    let native = Abi::native().map_err(doing)?;
    let instructions = match cache {
        Some(directory) => cache::load_or(directory, profile, native, || instructions(profile, native)),
        None => instructions(profile, native),
    }
    .map_err(doing)?;
    Ok(Some(Program { instructions, flags: filter_flags(profile, listener.is_some()), listener }))
}

fn rules(profile: &LinuxSeccomp) -> usize {
    profile.syscalls().as_deref().unwrap_or_default().len()
}

/// The whole compilation, for a host whose programs are `native`.
fn instructions(profile: &LinuxSeccomp, native: Abi) -> Result<Vec<sock_filter>> {
    let abis = Abi::wanted(native, profile.architectures().as_deref().unwrap_or_default());
    let sections = ranges::sections(&Profile::read(profile)?, &abis);
    assemble::program(&sections)
}

/// The agent, if any rule notifies.
fn listener(profile: &LinuxSeccomp) -> Result<Option<Listener>> {
    let syscalls = profile.syscalls().as_deref().unwrap_or_default();
    if !syscalls.iter().any(|syscall| syscall.action() == Action::ScmpActNotify) {
        return Ok(None);
    }
    match profile.listener_path() {
        Some(path) if !path.as_os_str().is_empty() => Ok(Some(Listener {
            path: path.clone(),
            metadata: profile.listener_metadata().clone().unwrap_or_default(),
        })),
        _ => Err(Error::invalid("seccomp action SCMP_ACT_NOTIFY without listenerPath")
            .hint("set linux.seccomp.listenerPath to the socket of the agent that answers")),
    }
}

/// The flags of the profile, or SPEC_ALLOW when it has no list of flags at all, like runc. TSYNC is for processes with
/// several threads; the one that installs the filter has one, so it is accepted and left out (like in runc).
/// WAIT_KILLABLE_RECV has no effect without a listener, and the kernel would refuse the pair.
#[expect(clippy::cast_possible_truncation, reason = "filter flags are below bit 6")]
fn filter_flags(profile: &LinuxSeccomp, has_listener: bool) -> u32 {
    let named = profile.flags().as_deref().unwrap_or(&[Flag::SeccompFilterFlagSpecAllow]);
    let flags = named.iter().map(|flag| match flag {
        Flag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
        Flag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        Flag::SeccompFilterFlagWaitKillableRecv if has_listener => {
            libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
        }
        Flag::SeccompFilterFlagTsync | Flag::SeccompFilterFlagWaitKillableRecv => 0,
    });
    let new_listener = if has_listener { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER } else { 0 };
    flags.fold(new_listener, |all, flag| all | flag) as u32
}

/// The actions that profiles may use, for `features`: SPEC(runtime 1.2 features#seccomp).
pub fn actions() -> &'static [&'static str] {
    &[
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_KILL_THREAD",
        "SCMP_ACT_LOG",
        "SCMP_ACT_NOTIFY",
        "SCMP_ACT_TRACE",
        "SCMP_ACT_TRAP",
    ]
}

/// The operators that profiles may use, for `features`.
pub fn operators() -> &'static [&'static str] {
    &[
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_LE",
        "SCMP_CMP_LT",
        "SCMP_CMP_MASKED_EQ",
        "SCMP_CMP_NE",
    ]
}

/// The architectures that profiles may name, for `features`. Rules are built for those that this host can run; the
/// others are accepted, because one profile may serve many machines.
pub fn architectures() -> &'static [&'static str] {
    &[
        "SCMP_ARCH_AARCH64",
        "SCMP_ARCH_ARM",
        "SCMP_ARCH_LOONGARCH64",
        "SCMP_ARCH_M68K",
        "SCMP_ARCH_MIPS",
        "SCMP_ARCH_MIPS64",
        "SCMP_ARCH_MIPS64N32",
        "SCMP_ARCH_MIPSEL",
        "SCMP_ARCH_MIPSEL64",
        "SCMP_ARCH_MIPSEL64N32",
        "SCMP_ARCH_PARISC",
        "SCMP_ARCH_PARISC64",
        "SCMP_ARCH_PPC",
        "SCMP_ARCH_PPC64",
        "SCMP_ARCH_PPC64LE",
        "SCMP_ARCH_RISCV64",
        "SCMP_ARCH_S390",
        "SCMP_ARCH_S390X",
        "SCMP_ARCH_SH",
        "SCMP_ARCH_SHEB",
        "SCMP_ARCH_X32",
        "SCMP_ARCH_X86",
        "SCMP_ARCH_X86_64",
    ]
}

/// The flags that profiles may use, for `features`.
pub fn flags() -> &'static [&'static str] {
    &[
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
    ]
}
