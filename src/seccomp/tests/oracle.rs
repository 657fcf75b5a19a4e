//! Compares compiled programs with a direct evaluation of the profile, on random profiles and calls.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator as Operator, LinuxSyscall, LinuxSyscallBuilder,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::interpreter::{Data, check, run};
use crate::seccomp::abi::Abi;
use crate::seccomp::{table, verdict};

/// Calls that are special in some way, and their neighbours.
const NAMES: &[&str] = &[
    "read",
    "write",
    "open",
    "close",
    "stat",
    "fstat",
    "openat",
    "openat2",
    "pidfd_getfd",
    "faccessat2",
    "clone",
    "clone3",
    "execve",
    "ptrace",
    "socket",
    "connect",
    "accept",
    "send",
    "socketcall",
    "semop",
    "semget",
    "shmat",
    "ipc",
    "personality",
    "arch_prctl",
    "set_tls",
    "breakpoint",
    "cacheflush",
    "sync_file_range2",
    "arm_sync_file_range",
    "waitpid",
    "swapcontext",
    "riscv_flush_icache",
    "mseal",
    "ioctl",
    "io_uring_setup",
];

const VALUES: &[u64] = &[
    0,
    1,
    2,
    3,
    5,
    8,
    16,
    38,
    40,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    0x2_0000_0000,
    0x7e02_0000,
    0x3_0000_0005,
    u64::MAX - 1,
    u64::MAX,
];

const ACTIONS: &[Action] = &[
    Action::ScmpActAllow,
    Action::ScmpActErrno,
    Action::ScmpActKill,
    Action::ScmpActKillProcess,
    Action::ScmpActKillThread,
    Action::ScmpActLog,
    Action::ScmpActTrace,
    Action::ScmpActTrap,
];

const ARCHES: &[Arch] = &[
    Arch::ScmpArchX86_64,
    Arch::ScmpArchX86,
    Arch::ScmpArchX32,
    Arch::ScmpArchArm,
    Arch::ScmpArchAarch64,
    Arch::ScmpArchS390x,
    Arch::ScmpArchNative,
];

/// The verdict of `profile` for a call.
fn expected(profile: &LinuxSeccomp, native: Abi, data: &Data) -> u32 {
    let default = verdict::of(profile.default_action(), profile.default_errno_ret()).unwrap();
    let abis = Abi::wanted(native, profile.architectures().as_deref().unwrap());
    let is_x86_64 = data.arch == Abi::X8664.audit();
    let is_x32 = is_x86_64 && data.number >= 0x4000_0000;
    let Some(abi) = abis.iter().copied().find(|abi| abi.audit() == data.arch && is_x32 == (*abi == Abi::X32))
    else {
        let is_skipped_call = is_x86_64 && abis.contains(&Abi::X8664) && data.number == u32::MAX;
        return if is_skipped_call { default } else { super::KILL };
    };
    let syscalls = profile.syscalls().as_deref().unwrap();
    if let Some(verdict) = decided(syscalls, default, abi, data) {
        return verdict;
    }
    let names = || syscalls.iter().flat_map(LinuxSyscall::names);
    let known = || {
        names().flat_map(|name| [table::find(name).unwrap().number(abi), multiplexer(name, abi)]).flatten()
    };
    let is_private = |number: u32| abi == Abi::Arm && number >= 0xf_0000;
    let has_ordinary = known().any(|number| !is_private(number));
    let is_young = |private: bool| {
        known().filter(|number| is_private(*number) == private).max().is_some_and(|most| data.number > most)
    };
    let hides =
        !matches!(profile.default_action(), Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace);
    let has_private = known().any(is_private);
    let young =
        if is_private(data.number) && has_private { is_young(true) } else { has_ordinary && is_young(false) };
    if hides && young { super::ENOSYS } else { default }
}

/// The verdict of the deciding rule, if any: the first without conditions, else the first whose conditions are true.
fn decided(syscalls: &[LinuxSyscall], default: u32, abi: Abi, data: &Data) -> Option<u32> {
    let mut first = None;
    for syscall in syscalls {
        let verdict = verdict::of(syscall.action(), syscall.errno_ret()).unwrap();
        let args = syscall.args().as_deref().unwrap_or_default();
        for name in syscall.names().iter().filter(|_| verdict != default) {
            let row = table::find(name).unwrap();
            if row.number(abi) == Some(data.number) {
                if is_always(args, abi) {
                    return Some(verdict);
                }
                if holds(args, abi, data) {
                    first.get_or_insert(verdict);
                }
            }
            if abi == Abi::X86 && is_multiplexed(name, data) && holds_behind(args, abi, data) {
                first.get_or_insert(verdict);
            }
        }
    }
    first
}

/// The number of socketcall or ipc, for calls that these multiplex.
fn multiplexer(name: &str, abi: Abi) -> Option<u32> {
    match name {
        "socket" | "connect" | "accept" | "send" if abi == Abi::X86 => Some(102),
        "semop" | "semget" | "shmat" if abi == Abi::X86 => Some(117),
        _ => None,
    }
}

fn is_multiplexed(name: &str, data: &Data) -> bool {
    let call = data.args[0] & 0xffff_ffff;
    match data.number {
        102 => matches!((name, call), ("socket", 1) | ("connect", 3) | ("accept", 5) | ("send", 9)),
        117 => matches!((name, call & 0xffff), ("semop", 1) | ("semget", 2) | ("shmat", 21)),
        _ => false,
    }
}

/// Conditions on argument 0 are dropped, because it selects the call.
fn holds_behind(args: &[LinuxSeccompArg], abi: Abi, data: &Data) -> bool {
    let twice = has_twice(args);
    let rest: Vec<_> = args.iter().filter(|arg| arg.index() != 0).copied().collect();
    if twice {
        rest.len() < args.len() || rest.iter().any(|arg| matches(arg, abi, data))
    } else {
        rest.iter().all(|arg| matches(arg, abi, data))
    }
}

fn has_twice(args: &[LinuxSeccompArg]) -> bool {
    args.iter().enumerate().any(|(at, arg)| args[..at].iter().any(|other| other.index() == arg.index()))
}

fn holds(args: &[LinuxSeccompArg], abi: Abi, data: &Data) -> bool {
    if has_twice(args) {
        args.iter().any(|arg| matches(arg, abi, data))
    } else {
        args.iter().all(|arg| matches(arg, abi, data))
    }
}

fn is_always(args: &[LinuxSeccompArg], abi: Abi) -> bool {
    let is_void = |arg: &LinuxSeccompArg| arg.op() == Operator::ScmpCmpMaskedEq && cut(arg.value(), abi) == 0;
    if has_twice(args) { args.iter().any(is_void) } else { args.iter().all(is_void) }
}

fn cut(value: u64, abi: Abi) -> u64 {
    if matches!(abi, Abi::X8664 | Abi::Aarch64) { value } else { value & 0xffff_ffff }
}

fn matches(arg: &LinuxSeccompArg, abi: Abi, data: &Data) -> bool {
    let (given, value) = (cut(data.args[arg.index()], abi), cut(arg.value(), abi));
    match arg.op() {
        Operator::ScmpCmpNe => given != value,
        Operator::ScmpCmpLt => given < value,
        Operator::ScmpCmpLe => given <= value,
        Operator::ScmpCmpEq => given == value,
        Operator::ScmpCmpGe => given >= value,
        Operator::ScmpCmpGt => given > value,
        Operator::ScmpCmpMaskedEq => given & value == cut(arg.value_two().unwrap_or(0), abi) & value,
    }
}

fn operators() -> impl Strategy<Value = Operator> {
    use Operator as O;
    select(vec![
        O::ScmpCmpNe,
        O::ScmpCmpLt,
        O::ScmpCmpLe,
        O::ScmpCmpEq,
        O::ScmpCmpGe,
        O::ScmpCmpGt,
        O::ScmpCmpMaskedEq,
    ])
}

fn args() -> impl Strategy<Value = LinuxSeccompArg> {
    (0_usize..3, operators(), select(VALUES), select(VALUES)).prop_map(|(index, op, value, two)| {
        LinuxSeccompArgBuilder::default().index(index).op(op).value(value).value_two(two).build().unwrap()
    })
}

fn rules() -> impl Strategy<Value = LinuxSyscall> {
    let names = subsequence(NAMES, 1..6);
    (names, select(ACTIONS), prop::option::of(0_u32..40), prop::collection::vec(args(), 0..4)).prop_map(
        |(names, action, errno, args)| {
            let names: Vec<_> = names.into_iter().map(str::to_owned).collect();
            let mut rule =
                LinuxSyscallBuilder::default().names(names).action(action).args(args).build().unwrap();
            rule.set_errno_ret(errno);
            rule
        },
    )
}

fn profiles() -> impl Strategy<Value = LinuxSeccomp> {
    let arches = subsequence(ARCHES, 0..ARCHES.len());
    (
        select(ACTIONS),
        prop::option::of(select(vec![1_u32, 13, 38])),
        arches,
        prop::collection::vec(rules(), 0..12),
    )
        .prop_map(|(action, errno, arches, rules)| {
            let mut profile = LinuxSeccompBuilder::default()
                .default_action(action)
                .architectures(arches)
                .syscalls(rules)
                .build()
                .unwrap();
            profile.set_default_errno_ret(errno);
            profile
        })
}

/// A call that a rule may match, or one near it, or any number; sometimes of a foreign architecture.
fn calls() -> impl Strategy<Value = Data> {
    let named = (select(NAMES), select(Abi::ALL.to_vec()), -1_i32..=1).prop_map(|(name, abi, off)| {
        let number = table::find(name).unwrap().number(abi).unwrap_or(abi.number_bits() | 400);
        (abi.audit(), number.wrapping_add_signed(off))
    });
    let arches = select(vec![0xc000_003e_u32, 0x4000_0003, 0x4000_0028, 0xc000_00b7, 0x8000_0016, 0]);
    let numbers =
        prop_oneof![0_u32..600, any::<u32>(), select(vec![u32::MAX, 0x4000_0000, 0x3fff_ffff, 102, 117])];
    let args = prop::array::uniform6(prop_oneof![select(VALUES), 0_u64..25]);
    let multiplexed = select(vec![(Abi::X86.audit(), 102), (Abi::X86.audit(), 117)]);
    (prop_oneof![4 => named, 1 => (arches, numbers), 1 => multiplexed], args)
        .prop_map(|((arch, number), args)| Data { number, arch, args })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_program_has_the_verdicts_of_its_profile(
        profile in profiles(),
        native in select(vec![Abi::X8664, Abi::Arm, Abi::Aarch64]),
        calls in prop::collection::vec(calls(), 64),
    ) {
        let program = super::compiled(&profile, native);
        check(&program);
        for data in calls {
            prop_assert_eq!(run(&program, &data).verdict, expected(&profile, native, &data), "{:x?}", data);
        }
    }
}
