//! Compiled filters in this kernel. A filter holds for one thread and its children, so each test installs in a thread of
//! its own and leaves the rest of the tests alone.

#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

use std::process::{Command, Output};

use coracle::seccomp::{Program, compile, default_profile};
use coracle::sys;
use oci_spec::runtime::{Capabilities, Capability, LinuxSeccomp};
use rustix::io::Errno;

/// Runs `command` beneath `program`.
fn beneath(program: &Program, mut command: Command) -> std::io::Result<Output> {
    std::thread::scope(|scope| {
        let run = || {
            rustix::thread::set_no_new_privs(true).unwrap();
            let listener = sys::seccomp::install(program.flags, &program.instructions).unwrap();
            assert_eq!(listener.is_some(), program.listener.is_some());
            command.output()
        };
        scope.spawn(run).join().unwrap()
    })
}

fn default_with(capabilities: &[Capability]) -> Program {
    let capabilities: Capabilities = capabilities.iter().copied().collect();
    compile(&default_profile(&capabilities)).unwrap().unwrap()
}

fn program(json: &str) -> Program {
    compile(&serde_json::from_str::<LinuxSeccomp>(json).unwrap()).unwrap().unwrap()
}

fn command(line: &[&str]) -> Command {
    let mut command = Command::new(line[0]);
    command.args(&line[1..]).env("LC_ALL", "C");
    command
}

/// Asserts that `line` fails beneath `program` with EPERM, as the program itself tells it.
fn assert_refused(program: &Program, line: &[&str]) {
    let output = beneath(program, command(line)).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{line:?} went through");
    assert!(
        errors.contains("Operation not permitted") || errors.contains("permission denied"),
        "{line:?}: {errors}"
    );
}

#[test]
fn ordinary_programs_work_beneath_the_default_profile() {
    let program = default_with(&[]);
    for line in [
        &["ls", "-la", "/"][..],
        &["sh", "-c", "for i in 1 2 3; do echo $i; done | sort -r | grep -q 2 && exec true"],
        &["sh", "-c", "sleep 0.01 & wait $! && test -d /proc/self && cat /proc/self/status"],
        &["id"],
    ] {
        let output = beneath(&program, command(line)).unwrap();
        assert!(output.status.success(), "{line:?}: {output:?}");
    }
    let output = beneath(&program, command(&["cat", "/proc/self/status"])).unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("Seccomp:\t2"), "{output:?}");
}

#[test]
fn power_over_the_machine_is_refused_beneath_the_default_profile() {
    let program = default_with(&[]);
    assert_refused(&program, &["unshare", "-U", "true"]);
    assert_refused(&program, &["mount", "-t", "tmpfs", "tmpfs", "/mnt"]);
    if !command(&["unshare", "-U", "true"]).output().unwrap().status.success() {
        println!("SKIP: this host itself refuses user namespaces");
        return;
    }
    let admin = default_with(&[Capability::SysAdmin]);
    let output = beneath(&admin, command(&["unshare", "-U", "true"])).unwrap();
    assert!(output.status.success(), "the filter of an administrator lets it through: {output:?}");
}

/// Calls by number, through perl, which every Debian has; its word for EPERM is checked.
#[test]
fn keys_and_clone3_are_refused_by_number() {
    if command(&["perl", "-e", "1"]).output().is_err() {
        println!("SKIP: no perl to make system calls with");
        return;
    }
    let program = default_with(&[]);
    let errno = |number: libc::c_long, args: &str| {
        let script = format!("syscall({number}, {args}) == -1 or exit 0; print $!+0");
        let output = beneath(&program, command(&["perl", "-e", &script])).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(errno(libc::SYS_keyctl, "0, -3, 0, 0, 0"), libc::EPERM.to_string());
    assert_eq!(errno(libc::SYS_clone3, "0, 0"), libc::ENOSYS.to_string());
    assert_eq!(errno(4000, "0"), libc::ENOSYS.to_string(), "a call of the future");
}

#[test]
fn the_errno_of_a_rule_reaches_the_program() {
    let program = program(
        r#"{ "defaultAction": "SCMP_ACT_ALLOW",
             "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 }] }"#,
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x");
    let output = beneath(&program, command(&["mkdir", path.to_str().unwrap()])).unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left on device"), "{output:?}");
    assert!(!path.exists());
}

#[test]
fn a_kill_rule_kills() {
    use std::os::unix::process::ExitStatusExt;
    let program = program(
        r#"{ "defaultAction": "SCMP_ACT_ALLOW",
             "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS" }] }"#,
    );
    let output = beneath(&program, command(&["mkdir", "/nonexistent/x"])).unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");
}

#[test]
fn a_notify_rule_gives_a_listener() {
    let program = program(
        r#"{ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent.sock",
             "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
             "syscalls": [{ "names": ["mount"], "action": "SCMP_ACT_NOTIFY" }] }"#,
    );
    let output = beneath(&program, command(&["true"])).unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn what_the_kernel_does_not_take_is_an_error() {
    let no_return = [libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 }];
    let answer = std::thread::scope(|scope| {
        scope
            .spawn(|| (sys::seccomp::install(0, &no_return), sys::seccomp::install(1 << 30, &[])))
            .join()
            .unwrap()
    });
    assert!(matches!(answer, (Err(Errno::INVAL), Err(Errno::INVAL))), "{answer:?}");
}
