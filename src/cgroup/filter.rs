//! Compiles device rules to an eBPF program for cgroup v2, and attaches it to a cgroup.
//!
//! The program holds the access bits that are still undecided and walks the rules from the last to the first: a
//! matching allow rule clears its bits, a deny rule that matches any of them refuses. One pass, no maps, no helpers:
//! about 60 instructions for the default rules.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::devices::{ALL, Rule, simplified};
use crate::error::{Doing, Result};
use crate::sys::bpf::{self, Insn};

const MOV32_REG: u8 = 0xbc;
const MOV32: u8 = 0xb4;
const AND32: u8 = 0x54;
const RSH32: u8 = 0x74;
const LOAD_W: u8 = 0x61;
const JA: u8 = 0x05;
const JSET32: u8 = 0x46;
const JNE32: u8 = 0x56;
const EXIT: u8 = 0x95;

/// The register of the return value: the verdict.
const R0: u8 = 0;
/// The register of the argument, the kernel's `struct bpf_cgroup_dev_ctx`: `access << 16 | type`, major, minor.
const CTX: u8 = 1;
const KIND: u8 = 2;
const UNDECIDED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// The program for `rules`; `None` when they allow everything, so that no filter is needed.
pub(crate) fn program(rules: &[Rule]) -> Option<Vec<Insn>> {
    let (default, rules) = simplified(rules);
    if default && rules.is_empty() {
        return None;
    }
    let mut code = vec![
        Insn::new(LOAD_W, KIND, CTX, 0, 0),
        Insn::new(MOV32_REG, UNDECIDED, KIND, 0, 0),
        Insn::new(AND32, KIND, 0, 0, 0xffff),
        Insn::new(RSH32, UNDECIDED, 0, 0, 16),
        Insn::new(LOAD_W, MAJOR, CTX, 4, 0),
        Insn::new(LOAD_W, MINOR, CTX, 8, 0),
    ];
    for rule in rules.iter().rev() {
        code.extend(rule_code(rule));
    }
    code.extend(end(default));
    Some(code)
}

fn rule_code(rule: &Rule) -> Vec<Insn> {
    let verdict = verdict_code(rule);
    let tests = [(KIND, rule.kind.map(|kind| kind as u32)), (MAJOR, rule.major), (MINOR, rule.minor)];
    let mut wanted: Vec<(u8, u32)> = tests.iter().filter_map(|(reg, want)| Some((*reg, (*want)?))).collect();
    wanted.reverse();
    let mut code = verdict;
    for (register, value) in wanted {
        // At most ten instructions follow, so the distance always fits.
        let past = i16::try_from(code.len()).unwrap_or(i16::MAX);
        code.insert(0, Insn::new(JNE32, register, 0, past, value.cast_signed()));
    }
    code
}

/// The instructions for a device that matches the rule.
fn verdict_code(rule: &Rule) -> Vec<Insn> {
    let bits = i32::from(rule.access);
    let mut code = match (rule.allow, rule.access) {
        (_, ALL) => Vec::new(),
        (true, _) => {
            vec![
                Insn::new(AND32, UNDECIDED, 0, 0, i32::from(ALL) & !bits),
                Insn::new(JNE32, UNDECIDED, 0, 2, 0),
            ]
        }
        (false, _) => vec![Insn::new(JSET32, UNDECIDED, 0, 1, bits), Insn::new(JA, 0, 0, 2, 0)],
    };
    code.extend(end(rule.allow));
    code
}

fn end(allow: bool) -> [Insn; 2] {
    [Insn::new(MOV32, R0, 0, 0, i32::from(allow)), Insn::new(EXIT, 0, 0, 0, 0)]
}

/// Filters the devices of the cgroup by `rules`. With `replace`, the programs already attached are detached: each could
/// only refuse more, and an update must be able to allow. The new one is attached first, so that the cgroup is never
/// unfiltered.
///
/// Where bpf(2) is denied inside a user namespace nothing is filtered, as with runc and crun: the kernel does not let
/// processes there create device nodes anyway.
///
/// # Errors
/// `Denied` outside a user namespace, `Unsupported` where the kernel has no `CONFIG_CGROUP_BPF`.
pub(crate) fn apply(cgroup: BorrowedFd<'_>, rules: &[Rule], replace: bool) -> Result<()> {
    match install(cgroup, rules, replace) {
        Err(error) if error.errno == Errno::PERM && in_user_namespace() => Ok(()),
        Err(error) => {
            let hint = match error.errno {
                Errno::INVAL | Errno::NOSYS => "the kernel needs CONFIG_CGROUP_BPF and CONFIG_BPF_SYSCALL",
                _ => "the runtime needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN",
            };
            Err(error).doing(|| "filter the devices of the cgroup").map_err(|e| e.hint(hint))
        }
        Ok(()) => Ok(()),
    }
}

fn install(cgroup: BorrowedFd<'_>, rules: &[Rule], replace: bool) -> Result<(), crate::sys::Error> {
    let old = if replace { attached(cgroup)? } else { Vec::new() };
    if let Some(code) = program(rules) {
        let filter = load(&code)?;
        bpf::attach_device_filter(cgroup, filter.as_fd())?;
    }
    old.iter().try_for_each(|filter| bpf::detach_device_filter(cgroup, filter.as_fd()))
}

fn attached(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, crate::sys::Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = rustix::fs::openat(cgroup, c".", flags, Mode::empty())
        .map_err(|errno| crate::sys::Error::new("openat(cgroup, \".\")", errno))?;
    bpf::attached_device_filters(readable.as_fd())
}

/// Loads a program. KERNEL(5.11): before it, programs count against `RLIMIT_MEMLOCK` (64 KiB by default), which shows
/// as `EPERM`.
fn load(code: &[Insn]) -> Result<OwnedFd, crate::sys::Error> {
    let refused = match bpf::load_device_filter(code) {
        Err(error) if error.errno == Errno::PERM => error,
        other => return other,
    };
    let before = getrlimit(Resource::Memlock);
    if setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).is_err() {
        return Err(refused);
    }
    let loaded = bpf::load_device_filter(code);
    // The container must not inherit the raised limit. Lowering it needs no privilege.
    setrlimit(Resource::Memlock, before)
        .map_err(|errno| crate::sys::Error::new("setrlimit(MEMLOCK)", errno))?;
    loaded
}

/// Returns whether this process is in a user namespace other than the initial one, whose map is all 32 bits onto
/// themselves.
pub(crate) fn in_user_namespace() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        let mut words = map.split_ascii_whitespace();
        [words.next(), words.next(), words.next()] != [Some("0"), Some("0"), Some("4294967295")]
    })
}

#[cfg(test)]
mod tests {
    use super::super::devices::tests::{any_rule, verdict};
    use super::super::devices::{DEFAULT_ALLOWED, Kind, MKNOD, READ};
    use super::*;
    use proptest::prelude::*;

    /// Runs a program as the kernel would; panics on an instruction or a jump that the verifier would refuse.
    fn run(code: &[Insn], kind: Kind, major: u32, minor: u32, access: u8) -> bool {
        let context = [u32::from(access) << 16 | kind as u32, major, minor];
        let mut registers = [0_u32; 10];
        let mut at = 0_usize;
        loop {
            let insn = code[at];
            at += 1;
            let (dst, imm) = (usize::from(insn.dst()), insn.imm.cast_unsigned());
            let jump = match insn.code {
                LOAD_W => {
                    assert_eq!(insn.src(), CTX);
                    registers[dst] = context[usize::try_from(insn.off).unwrap() / 4];
                    false
                }
                MOV32_REG => {
                    registers[dst] = registers[usize::from(insn.src())];
                    false
                }
                MOV32 => {
                    registers[dst] = imm;
                    false
                }
                AND32 => {
                    registers[dst] &= imm;
                    false
                }
                RSH32 => {
                    registers[dst] >>= imm;
                    false
                }
                JA => true,
                JNE32 => registers[dst] != imm,
                JSET32 => registers[dst] & imm != 0,
                EXIT => return registers[0] == 1,
                other => panic!("no such instruction: {other:#x}"),
            };
            if jump {
                assert!(insn.off >= 0, "a jump back");
                at += usize::try_from(insn.off).unwrap();
            }
        }
    }

    #[test]
    fn rules_that_allow_everything_need_no_program() {
        let all = Rule { allow: true, kind: None, major: None, minor: None, access: ALL };
        assert_eq!(program(&[all]), None);
        assert_eq!(program(&[Rule { allow: false, ..all }, all, Rule { access: READ, ..all }]), None);
        assert!(program(&[all, Rule { allow: false, access: READ, ..all }]).is_some());
        assert!(program(&[]).is_some(), "no rule at all denies all");
    }

    #[test]
    fn the_default_program_stays_small() {
        let code = program(&DEFAULT_ALLOWED).unwrap();
        assert!(code.len() <= 64, "{} instructions", code.len());
        assert!(run(&code, Kind::Char, 1, 3, ALL));
        assert!(run(&code, Kind::Block, 8, 0, MKNOD));
        assert!(!run(&code, Kind::Block, 8, 0, MKNOD | READ));
        assert!(!run(&code, Kind::Char, 1, 1, READ));
    }

    #[test]
    fn a_user_namespace_is_detected() {
        let link = fs::read_link("/proc/self/ns/user").unwrap();
        assert_eq!(in_user_namespace(), link.to_string_lossy() != "user:[4026531837]");
    }

    proptest! {
        #[test]
        fn the_program_has_the_verdicts_of_the_rules(
            rules in prop::collection::vec(any_rule(), 0..10),
            major in prop_oneof![0_u32..4, Just(u32::MAX)], minor in 0_u32..4, access in 1_u8..=7,
        ) {
            for kind in [Kind::Block, Kind::Char] {
                let said = program(&rules).is_none_or(|code| run(&code, kind, major, minor, access));
                prop_assert_eq!(said, verdict(&rules, kind, major, minor, access));
            }
        }
    }
}
