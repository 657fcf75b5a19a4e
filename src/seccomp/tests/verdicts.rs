//! Hand-written cases: one for each promise in the module's documentation.

use std::collections::BTreeSet;

use oci_spec::runtime::{Capabilities, Capability, LinuxSeccomp};

use super::interpreter::{Data, check, run};
use super::{ALLOW, ENOSYS, EPERM, KILL, call, compiled, profile};
use crate::error::Kind;
use crate::seccomp::abi::Abi;
use crate::seccomp::{Listener, compile, compile_cached, default_profile, table};

const X86: u32 = 0x4000_0003;
const X86_64: u32 = 0xc000_003e;

fn deny_by_default(rest: &str) -> LinuxSeccomp {
    profile(&format!(r#"{{ "defaultAction": "SCMP_ACT_ERRNO", {rest} }}"#))
}

#[test]
fn nothing_to_filter_is_no_program() {
    assert!(compile(&profile(r#"{ "defaultAction": "SCMP_ACT_ALLOW" }"#)).unwrap().is_none());
    assert!(compile(&profile(r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [] }"#)).unwrap().is_none());
    assert!(compile(&profile(r#"{ "defaultAction": "SCMP_ACT_LOG" }"#)).unwrap().is_some());
}

#[test]
fn an_architecture_that_is_not_named_is_killed() {
    let rule = r#""syscalls": [{ "names": ["read"], "action": "SCMP_ACT_ALLOW" }]"#;
    let program = compiled(&deny_by_default(rule), Abi::X8664);
    assert_eq!(call(&program, Abi::X8664, "read", &[]).verdict, ALLOW);
    assert_eq!(call(&program, Abi::X86, "read", &[]).verdict, KILL);
    assert_eq!(call(&program, Abi::X32, "read", &[]).verdict, KILL);
    assert_eq!(call(&program, Abi::Aarch64, "read", &[]).verdict, KILL);
    assert_eq!(run(&program, &Data::new(X86_64, u32::MAX, &[])).verdict, EPERM);
}

#[test]
fn named_architectures_each_have_their_own_numbers() {
    let rules = r#""architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_ARM"],
        "syscalls": [{ "names": ["execve", "openat2"], "action": "SCMP_ACT_ALLOW" }]"#;
    let program = compiled(&deny_by_default(rules), Abi::X8664);
    for abi in [Abi::X8664, Abi::X86, Abi::X32] {
        assert_eq!(call(&program, abi, "execve", &[]).verdict, ALLOW, "{abi:?}");
        assert_eq!(call(&program, abi, "getpid", &[]).verdict, EPERM, "{abi:?}");
    }
    assert_eq!(run(&program, &Data::new(X86_64, 520, &[])).verdict, ENOSYS, "execve of x32 without its bit");
    assert_eq!(call(&program, Abi::Arm, "execve", &[]).verdict, KILL);

    let program = compiled(&deny_by_default(rules), Abi::Aarch64);
    assert_eq!(call(&program, Abi::Aarch64, "execve", &[]).verdict, ALLOW);
    assert_eq!(call(&program, Abi::Arm, "execve", &[]).verdict, ALLOW);
    assert_eq!(call(&program, Abi::X86, "execve", &[]).verdict, KILL);
}

#[test]
fn calls_younger_than_the_profile_do_not_exist() {
    let rule =
        r#""syscalls": [{ "names": ["openat2", "set_tls", "swapcontext"], "action": "SCMP_ACT_ALLOW" }]"#;
    for abi in [Abi::X8664, Abi::Arm, Abi::Aarch64] {
        let program = compiled(&deny_by_default(rule), abi);
        assert_eq!(call(&program, abi, "read", &[]).verdict, EPERM, "{abi:?}");
        assert_eq!(call(&program, abi, "faccessat2", &[]).verdict, ENOSYS, "{abi:?}");
    }
    let arm = compiled(&deny_by_default(rule), Abi::Arm);
    assert_eq!(call(&arm, Abi::Arm, "set_tls", &[]).verdict, ALLOW);
    assert_eq!(call(&arm, Abi::Arm, "cacheflush", &[]).verdict, EPERM);
    assert_eq!(call(&arm, Abi::Arm, "get_tls", &[]).verdict, ENOSYS);
}

#[test]
fn a_deny_list_shows_young_calls_to_the_kernel() {
    let program = compiled(
        &profile(
            r#"{ "defaultAction": "SCMP_ACT_ALLOW",
                 "syscalls": [{ "names": ["ptrace"], "action": "SCMP_ACT_KILL_PROCESS" }] }"#,
        ),
        Abi::Aarch64,
    );
    assert_eq!(call(&program, Abi::Aarch64, "ptrace", &[]).verdict, 0x8000_0000);
    assert_eq!(call(&program, Abi::Aarch64, "mseal", &[]).verdict, ALLOW);
}

#[test]
fn every_operator_compares_all_64_bits() {
    type Case = (&'static str, u64, &'static [(u64, bool)]);
    let cases: [Case; 6] = [
        ("EQ", 0x1_0000_0002, &[(0x1_0000_0002, true), (2, false), (0x1_0000_0003, false)]),
        ("NE", 0x1_0000_0002, &[(0x1_0000_0002, false), (2, true), (0x1_0000_0003, true)]),
        (
            "LT",
            0x1_0000_0002,
            &[(0x1_0000_0002, false), (3, true), (0x1_0000_0001, true), (0x2_0000_0000, false)],
        ),
        (
            "LE",
            0x1_0000_0002,
            &[(0x1_0000_0002, true), (3, true), (0x1_0000_0003, false), (0x2_0000_0000, false)],
        ),
        (
            "GT",
            0x1_0000_0002,
            &[(0x1_0000_0002, false), (3, false), (0x1_0000_0003, true), (0x2_0000_0000, true)],
        ),
        (
            "GE",
            0x1_0000_0002,
            &[(0x1_0000_0002, true), (3, false), (0x1_0000_0001, false), (0x2_0000_0000, true)],
        ),
    ];
    for (operator, value, expectations) in cases {
        let rule = format!(
            r#""syscalls": [{{ "names": ["ioctl"], "action": "SCMP_ACT_ALLOW",
                "args": [{{ "index": 1, "value": {value}, "op": "SCMP_CMP_{operator}" }}] }}]"#
        );
        let program = compiled(&deny_by_default(&rule), Abi::Aarch64);
        for (given, holds) in expectations {
            let verdict = call(&program, Abi::Aarch64, "ioctl", &[0, *given]).verdict;
            assert_eq!(verdict == ALLOW, *holds, "{given:#x} {operator} {value:#x}");
        }
    }
}

#[test]
fn a_mask_takes_its_value_from_value_two() {
    let rule = r#""syscalls": [{ "names": ["clone"], "action": "SCMP_ACT_ALLOW",
        "args": [{ "index": 0, "value": 4294967312, "valueTwo": 4294967296, "op": "SCMP_CMP_MASKED_EQ" }] }]"#;
    let program = compiled(&deny_by_default(rule), Abi::X8664);
    for (flags, verdict) in
        [(0x1_0000_0000, ALLOW), (0x1_0000_0001, ALLOW), (0x1_0000_0010, EPERM), (0, EPERM)]
    {
        assert_eq!(call(&program, Abi::X8664, "clone", &[flags]).verdict, verdict, "{flags:#x}");
    }
}

#[test]
fn conditions_hold_together_unless_two_are_on_one_argument() {
    let rule = |second: usize| {
        deny_by_default(&format!(
            r#""syscalls": [{{ "names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [
                {{ "index": 0, "value": 2, "op": "SCMP_CMP_EQ" }}, {{ "index": {second}, "value": 7, "op": "SCMP_CMP_EQ" }}
            ] }}]"#
        ))
    };
    let socket = |profile: &LinuxSeccomp, args: &[u64]| {
        call(&compiled(profile, Abi::Aarch64), Abi::Aarch64, "socket", args).verdict
    };
    assert_eq!(socket(&rule(1), &[2, 7]), ALLOW);
    assert_eq!(socket(&rule(1), &[2, 8]), EPERM);
    assert_eq!(socket(&rule(0), &[2, 0]), ALLOW);
    assert_eq!(socket(&rule(0), &[7, 0]), ALLOW);
    assert_eq!(socket(&rule(0), &[8, 0]), EPERM);
}

#[test]
fn rules_for_one_call_are_alternatives_and_each_has_its_action() {
    let rules = r#""syscalls": [
        { "names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{ "index": 0, "value": 0, "op": "SCMP_CMP_EQ" }] },
        { "names": ["personality"], "action": "SCMP_ACT_TRAP", "args": [{ "index": 0, "value": 8, "op": "SCMP_CMP_EQ" }] },
        { "names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22,
          "args": [{ "index": 0, "value": 8, "op": "SCMP_CMP_GE" }] }
    ]"#;
    let program = compiled(&deny_by_default(rules), Abi::Arm);
    for (value, verdict) in [(0, ALLOW), (1, EPERM), (8, 0x0003_0000), (9, 0x0005_0016)] {
        assert_eq!(call(&program, Abi::Arm, "personality", &[value]).verdict, verdict, "{value}");
    }
}

#[test]
fn a_rule_without_conditions_beats_those_with() {
    let rules = r#""syscalls": [
        { "names": ["clone"], "action": "SCMP_ACT_TRAP", "args": [{ "index": 0, "value": 0, "op": "SCMP_CMP_EQ" }] },
        { "names": ["clone"], "action": "SCMP_ACT_ALLOW" }
    ]"#;
    let program = compiled(&deny_by_default(rules), Abi::Aarch64);
    assert_eq!(call(&program, Abi::Aarch64, "clone", &[0]).verdict, ALLOW);
}

#[test]
fn on_32_bits_only_the_low_half_of_a_value_counts() {
    let rule = r#""syscalls": [{ "names": ["lseek"], "action": "SCMP_ACT_ALLOW",
        "args": [{ "index": 0, "value": 18446744073709551615, "op": "SCMP_CMP_EQ" }] }]"#;
    let arm = compiled(&deny_by_default(rule), Abi::Arm);
    assert_eq!(call(&arm, Abi::Arm, "lseek", &[0xffff_ffff]).verdict, ALLOW);
    let aarch64 = compiled(&deny_by_default(rule), Abi::Aarch64);
    assert_eq!(call(&aarch64, Abi::Aarch64, "lseek", &[0xffff_ffff]).verdict, EPERM);
    assert_eq!(call(&aarch64, Abi::Aarch64, "lseek", &[u64::MAX]).verdict, ALLOW);
}

#[test]
fn a_denied_socket_cannot_be_had_through_socketcall() {
    let program = compiled(
        &profile(
            r#"{ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
                 "syscalls": [{ "names": ["socket", "semop"], "action": "SCMP_ACT_ERRNO" }] }"#,
        ),
        Abi::X8664,
    );
    assert_eq!(call(&program, Abi::X86, "socket", &[]).verdict, EPERM);
    assert_eq!(run(&program, &Data::new(X86, 102, &[1])).verdict, EPERM);
    assert_eq!(run(&program, &Data::new(X86, 102, &[2])).verdict, ALLOW, "bind");
    assert_eq!(run(&program, &Data::new(X86, 117, &[1])).verdict, EPERM);
    assert_eq!(run(&program, &Data::new(X86, 117, &[0x1_0001])).verdict, EPERM, "with a version");
}

#[test]
fn behind_socketcall_the_first_condition_cannot_be_seen_and_is_dropped() {
    let rule = r#""architectures": ["SCMP_ARCH_X86"], "syscalls": [
        { "names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [
            { "index": 0, "value": 38, "op": "SCMP_CMP_LT" }, { "index": 1, "value": 7, "op": "SCMP_CMP_EQ" }] }]"#;
    let program = compiled(&deny_by_default(rule), Abi::X8664);
    let through = |args: &[u64]| run(&program, &Data::new(X86, 102, args)).verdict;
    assert_eq!(through(&[1, 7]), ALLOW);
    assert_eq!(through(&[1, 8]), EPERM);
    assert_eq!(through(&[2, 7]), EPERM, "bind");
}

#[test]
fn the_way_through_ipc_is_no_young_call_though_all_direct_numbers_are_smaller() {
    let rules = r#""architectures": ["SCMP_ARCH_X86"],
        "syscalls": [{ "names": ["ptrace", "semop"], "action": "SCMP_ACT_ALLOW" }]"#;
    let program = compiled(&deny_by_default(rules), Abi::X8664);
    for (number, args, verdict) in
        [(26, [0], ALLOW), (27, [0], EPERM), (117, [1], ALLOW), (117, [2], EPERM), (118, [0], ENOSYS)]
    {
        assert_eq!(run(&program, &Data::new(X86, number, &args)).verdict, verdict, "{number} {args:?}");
    }
}

#[test]
fn notify_gives_a_listener_and_its_flags() {
    let program = compile(&profile(
        r#"{ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent.sock", "listenerMetadata": "m",
             "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_LOG"],
             "syscalls": [{ "names": ["mount"], "action": "SCMP_ACT_NOTIFY" }] }"#,
    ));
    let program = program.unwrap().unwrap();
    assert_eq!(program.listener, Some(Listener { path: "/run/agent.sock".into(), metadata: "m".into() }));
    assert_eq!(program.flags, 0b10_1010);
    assert_eq!(call(&program.instructions, Abi::native().unwrap(), "mount", &[]).verdict, 0x7fc0_0000);
}

#[test]
fn notify_that_would_hang_the_start_is_refused() {
    let with = |default: &str, call: &str, path: &str| {
        compile(&profile(&format!(
            r#"{{ "defaultAction": "{default}", {path}
                 "syscalls": [{{ "names": ["{call}"], "action": "SCMP_ACT_NOTIFY" }}] }}"#
        )))
    };
    const PATH: &str = r#""listenerPath": "/run/agent.sock","#;
    for (result, cause) in [
        (with("SCMP_ACT_ALLOW", "write", PATH), "SCMP_ACT_NOTIFY for write"),
        (with("SCMP_ACT_NOTIFY", "read", PATH), "default action SCMP_ACT_NOTIFY"),
        (with("SCMP_ACT_ALLOW", "mount", ""), "without listenerPath"),
    ] {
        let error = result.unwrap_err();
        assert!(error.kind() == Kind::Invalid && error.chain().contains(cause), "{error:?}");
        assert!(error.first_hint().is_some(), "{error:?}");
    }
    assert!(with("SCMP_ACT_ALLOW", "sendmsg", PATH).is_ok());
}

#[test]
fn flags_are_spec_allow_when_absent_and_none_when_empty() {
    let flags = |flags: &str| {
        let profile = profile(&format!(r#"{{ {flags} "defaultAction": "SCMP_ACT_LOG" }}"#));
        compile(&profile).unwrap().unwrap().flags
    };
    assert_eq!(flags(""), 4);
    assert_eq!(flags(r#""flags": [],"#), 0);
    assert_eq!(flags(r#""flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG"],"#), 2);
    assert_eq!(flags(r#""flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],"#), 0, "nothing to wait for");
}

#[test]
fn a_typing_error_gets_a_clear_answer() {
    let wrong =
        deny_by_default(r#""syscalls": [{ "names": ["read", "sokcet"], "action": "SCMP_ACT_ALLOW" }]"#);
    let error = compile(&wrong).unwrap_err();
    assert_eq!(error.chain(), r#"compile the seccomp profile: unknown seccomp syscall "sokcet""#);
    assert_eq!(error.first_hint(), Some(r#"did you mean "socket"?"#));

    let wrong = deny_by_default(
        r#""syscalls": [{ "names": ["read"], "action": "SCMP_ACT_ALLOW",
            "args": [{ "index": 6, "value": 0, "op": "SCMP_CMP_EQ" }] }]"#,
    );
    let error = compile(&wrong).unwrap_err();
    assert!(error.chain().contains("looks at argument 6"), "{error:?}");
}

#[test]
fn unknown_words_are_refused_by_the_reader_with_the_known_ones() {
    let refused = |json: &str| serde_json::from_str::<LinuxSeccomp>(json).unwrap_err().to_string();
    let action = refused(r#"{ "defaultAction": "SCMP_ACT_FORBID" }"#);
    assert!(
        action.contains("unknown variant `SCMP_ACT_FORBID`") && action.contains("`SCMP_ACT_ERRNO`"),
        "{action}"
    );
    let arch = refused(r#"{ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"] }"#);
    assert!(arch.contains("unknown variant `SCMP_ARCH_Z80`"), "{arch}");
}

#[test]
fn the_words_for_features_are_those_the_reader_knows() {
    fn read<T: serde::de::DeserializeOwned>(words: &[&str]) {
        assert!(words.is_sorted());
        for word in words {
            serde_json::from_value::<T>((*word).into()).unwrap();
        }
    }
    use oci_spec::runtime as oci;
    read::<oci::LinuxSeccompAction>(super::super::actions());
    read::<oci::LinuxSeccompOperator>(super::super::operators());
    read::<oci::Arch>(super::super::architectures());
    read::<oci::LinuxSeccompFilterFlag>(super::super::flags());
}

#[test]
fn a_profile_too_large_for_the_kernel_is_refused() {
    let args: Vec<_> =
        (0..900).map(|n| format!(r#"{{ "index": 0, "value": {n}, "op": "SCMP_CMP_EQ" }}"#)).collect();
    let rule = format!(
        r#""syscalls": [{{ "names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [{}] }}]"#,
        args.join(",")
    );
    let error = compile(&deny_by_default(&rule)).unwrap_err();
    assert!(error.chain().contains("instructions"), "{error:?}");
    assert_eq!(error.kind(), Kind::Invalid);
}

#[test]
fn far_jumps_reach_their_place() {
    let args: Vec<_> =
        (0..300).map(|n| format!(r#"{{ "index": 0, "value": {}, "op": "SCMP_CMP_EQ" }}"#, n * 2)).collect();
    let rule = format!(
        r#""architectures": ["SCMP_ARCH_ARM"], "syscalls": [
            {{ "names": ["read", "openat"], "action": "SCMP_ACT_ALLOW" }},
            {{ "names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [{}] }},
            {{ "names": ["mseal"], "action": "SCMP_ACT_LOG" }}]"#,
        args.join(",")
    );
    let program = compiled(&deny_by_default(&rule), Abi::Aarch64);
    check(&program);
    for abi in [Abi::Aarch64, Abi::Arm] {
        assert_eq!(call(&program, abi, "ioctl", &[598]).verdict, ALLOW);
        assert_eq!(call(&program, abi, "ioctl", &[597]).verdict, EPERM);
        assert_eq!(call(&program, abi, "read", &[]).verdict, ALLOW);
        assert_eq!(call(&program, abi, "mseal", &[]).verdict, 0x7ffc_0000);
        assert_eq!(call(&program, abi, "close", &[]).verdict, EPERM);
    }
}

#[test]
fn the_default_profile_allows_work_and_denies_power() {
    let native = Abi::native().unwrap();
    let program = compiled(&default_profile(&Capabilities::new()), native);
    let verdict = |name: &str, args: &[u64]| call(&program, native, name, args).verdict;
    for name in ["read", "execve", "futex", "openat", "mmap", "seccomp", "ptrace"] {
        assert_eq!(verdict(name, &[]), ALLOW, "{name}");
    }
    for name in
        ["mount", "unshare", "keyctl", "add_key", "bpf", "io_uring_setup", "reboot", "setns", "init_module"]
    {
        assert_eq!(verdict(name, &[]), EPERM, "{name}");
    }
    assert_eq!(verdict("clone3", &[]), ENOSYS);
    assert_eq!(verdict("clone", &[0x0001_0f00]), ALLOW);
    assert_eq!(verdict("clone", &[0x1000_0011]), EPERM, "a user namespace");
    for (family, expected) in [(1, ALLOW), (2, ALLOW), (38, EPERM), (39, ALLOW), (40, EPERM), (41, ALLOW)] {
        assert_eq!(verdict("socket", &[family]), expected, "family {family}");
    }
    assert_eq!(verdict("personality", &[0xffff_ffff]), ALLOW);
    assert_eq!(verdict("personality", &[0x0040_0000]), EPERM, "ADDR_NO_RANDOMIZE");

    let admin = compiled(&default_profile(&[Capability::SysAdmin].into()), native);
    for name in ["mount", "unshare", "clone3"] {
        assert_eq!(call(&admin, native, name, &[u64::MAX]).verdict, ALLOW, "{name}");
    }
}

/// The kernel takes the family as `int`: only the lower half of the register matters.
#[test]
fn no_upper_half_of_a_register_opens_a_family_that_the_default_profile_closes() {
    let native = Abi::native().unwrap();
    let program = compiled(&default_profile(&Capabilities::new()), native);
    for family in 0..64 {
        let closed = matches!(family, 38 | 40);
        let plain = call(&program, native, "socket", &[family]).verdict;
        assert_eq!(plain, if closed { EPERM } else { ALLOW }, "family {family}");
        if !native.is_64_bit() {
            continue;
        }
        for upper in [1, 0x8000_0000, 0xffff_ffff, 0x26, 0x28] {
            let verdict = call(&program, native, "socket", &[upper << 32 | family]).verdict;
            assert!(!closed || verdict == EPERM, "family {family} below {upper:#x}");
        }
    }
}

/// Every other ABI of the host has the same rules for families, and no way around them.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn no_other_abi_of_the_host_opens_a_family_that_the_default_profile_closes() {
    let native = Abi::native().unwrap();
    let program = compiled(&default_profile(&Capabilities::new()), native);
    let others: &[Abi] = if native == Abi::X8664 { &[Abi::X86, Abi::X32] } else { &[Abi::Arm] };
    for abi in others {
        let number = table::find("socket").unwrap().number(*abi).unwrap() | abi.number_bits();
        let socket = |family: u64| run(&program, &Data::new(abi.audit(), number, &[family])).verdict;
        for (family, expected) in [(2, ALLOW), (38, EPERM), (39, ALLOW), (40, EPERM), (41, ALLOW)] {
            assert_eq!(socket(family), expected, "{abi:?} family {family}");
        }
    }
    if native == Abi::X8664 {
        let through = |call: u64| run(&program, &Data::new(X86, 102, &[call, 0xbad])).verdict;
        assert_eq!(through(1), ENOSYS, "socket");
        for existing in (2..=20).chain([8]) {
            assert_eq!(through(existing), ALLOW, "call {existing} works on a socket that exists");
        }
        assert_eq!(run(&program, &Data::new(X86, 102, &[0xdead_0000_0001])).verdict, ENOSYS, "upper half");
    }
}

#[test]
fn a_call_of_the_default_profile_costs_at_most_ten_comparisons() {
    let program = compiled(&default_profile(&Capabilities::new()), Abi::native().unwrap());
    check(&program);
    let words: BTreeSet<u32> = (0..600).flat_map(|number| [number, 0x4000_0000 | number]).collect();
    let costs = |audit: u32| words.iter().map(move |number| (audit, *number));
    let native = Abi::native().unwrap().audit();
    let chains = ["socket", "personality", "clone"]
        .map(|name| table::find(name).unwrap().number(Abi::native().unwrap()));
    let worst = costs(native)
        .filter(|(_, number)| !chains.contains(&Some(*number)))
        .map(|(audit, number)| run(&program, &Data::new(audit, number, &[])).comparisons)
        .max();
    assert!(worst <= Some(10), "{worst:?}");
    assert!(program.len() < 1000, "{}", program.len());
}

#[test]
fn a_cached_program_is_taken_and_a_damaged_one_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let profile = default_profile(&Capabilities::new());
    let raw = |cache| -> Vec<_> {
        let program = compile_cached(&profile, cache).unwrap().unwrap();
        program.instructions.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect()
    };
    let fresh = raw(None);
    assert_eq!(raw(Some(directory.path())), fresh);
    let files: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    let good = std::fs::read(file).unwrap();
    assert_eq!(raw(Some(directory.path())), fresh);

    for at in [0, 5, 9, 12, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(file, bad).unwrap();
        assert_eq!(raw(Some(directory.path())), fresh, "byte {at}");
        assert_eq!(std::fs::read(file).unwrap(), good, "healed after byte {at}");
    }
    std::fs::write(file, &good[..good.len() - 8]).unwrap();
    assert_eq!(raw(Some(directory.path())), fresh);
}

#[test]
fn a_cache_hit_does_not_compile() {
    let directory = tempfile::tempdir().unwrap();
    let profile = default_profile(&Capabilities::new());
    let native = Abi::native().unwrap();
    let load = |compile: fn() -> crate::error::Result<Vec<libc::sock_filter>>| {
        crate::seccomp::cache::load_or(directory.path(), &profile, native, compile)
    };
    let one = || Ok(vec![libc::sock_filter { code: 6, jt: 0, jf: 0, k: 7 }]);
    assert_eq!(load(one).unwrap()[0].k, 7);
    assert_eq!(load(|| unreachable!("the program is in the cache")).unwrap()[0].k, 7);
}

#[test]
fn a_cache_that_cannot_be_used_is_no_error() {
    let profile = default_profile(&Capabilities::new());
    let file = tempfile::NamedTempFile::new().unwrap();
    for nowhere in ["/nonexistent/cache".as_ref(), file.path()] {
        assert!(compile_cached(&profile, Some(nowhere)).unwrap().is_some());
    }
    assert!(!std::path::Path::new("/nonexistent").exists());
}
