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

/// A 32-bit x86 program of a few instructions: it makes the call `number` with `ebx`, `ecx` and `edx` (for `None` the
/// address of the words `words`) and exits with the errno of it, or with 0.
#[cfg(target_arch = "x86_64")]
fn program_of_i386(number: u32, ebx: u32, ecx: Option<u32>, edx: u32, words: [u32; 3]) -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    const CODE: u32 = 38;
    let mut code = Vec::new();
    let mut put = |opcode: u8, value: u32| {
        code.push(opcode);
        code.extend(value.to_le_bytes());
    };
    put(0xb8, number); // mov eax
    put(0xbb, ebx); // mov ebx
    put(0xb9, ecx.unwrap_or(BASE + HEADERS + CODE)); // mov ecx
    put(0xba, edx); // mov edx
    code.extend([0xcd, 0x80]); // int 0x80
    code.extend([0x31, 0xdb]); // xor ebx, ebx
    code.extend([0x85, 0xc0, 0x79, 0x04]); // test eax, eax; jns over the next two
    code.extend([0xf7, 0xd8, 0x89, 0xc3]); // neg eax; mov ebx, eax
    code.extend([0x31, 0xc0, 0x40, 0xcd, 0x80]); // eax = 1: exit
    code.push(0x90);
    assert_eq!(code.len(), CODE as usize);
    let size = HEADERS + CODE + 12;
    let mut elf = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec();
    for word in [1, BASE + HEADERS, 52, 0, 0, 32 << 16 | 52, 1, 0] {
        elf.extend(word.to_le_bytes());
    }
    for word in [1, 0, BASE, BASE, size, size, 5, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    assert_eq!(elf.len(), HEADERS as usize);
    elf.extend(code);
    elf.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    elf
}

/// What a 32-bit program gets beneath `filter` for a call, as errno, 0 for success. `None` where the kernel runs no such
/// programs.
#[cfg(target_arch = "x86_64")]
fn errno_of_i386(filter: &Program, elf: &[u8]) -> Option<i32> {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("i386");
    std::fs::write(&path, elf).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    match beneath(filter, Command::new(&path)) {
        Ok(output) => Some(output.status.code().unwrap_or_else(|| panic!("{output:?}"))),
        Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => None,
        Err(error) => panic!("{error}"),
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_32_bit_program_opens_no_closed_family_by_either_way() {
    const SOCKETCALL: u32 = 102;
    const SOCKET: u32 = 359;
    let filter = default_with(&[]);
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_ALG, libc::AF_VSOCK];
    for family in families.map(|family| u32::try_from(family).unwrap()) {
        let closed = matches!(family, 38 | 40);
        // Type 5 is SOCK_SEQPACKET, which AF_ALG wants, 2 is SOCK_DGRAM, which all others have.
        let kind = if family == 38 { 5 } else { 2 };
        let direct = program_of_i386(SOCKET, family, Some(kind), 0, [0; 3]);
        let through = program_of_i386(SOCKETCALL, 1, None, 0, [family, kind, 0]);
        let Some(direct) = errno_of_i386(&filter, &direct) else {
            println!("SKIP: this kernel runs no 32-bit x86 programs");
            return;
        };
        assert_eq!(direct, if closed { libc::EPERM } else { 0 }, "family {family}");
        assert_eq!(errno_of_i386(&filter, &through), Some(libc::ENOSYS), "family {family}");
    }
    // getsockname(-1): calls on sockets that exist go through to the kernel.
    let existing = program_of_i386(SOCKETCALL, 6, None, 0, [u32::MAX, 0, 0]);
    assert_eq!(errno_of_i386(&filter, &existing), Some(libc::EBADF));
}

/// The family is an `int`: what stands in the upper half of the register does not change which one the kernel takes.
#[test]
fn a_family_is_closed_whatever_the_upper_half_of_its_register_holds() {
    if command(&["perl", "-e", "1"]).output().is_err() {
        println!("SKIP: no perl to make system calls with");
        return;
    }
    let program = default_with(&[]);
    let mut numbers = vec![libc::SYS_socket];
    if cfg!(target_arch = "x86_64") {
        numbers.push(libc::SYS_socket | 0x4000_0000); // the same by way of x32
    }
    for number in numbers {
        for family in [38_u64, 40, 1 << 32 | 38, 1 << 32 | 40, u64::from(u32::MAX) << 32 | 38] {
            let kind = if family & 0xff == 38 { 5 } else { 1 };
            let script = format!("syscall({number}, {family}, {kind}, 0) == -1 and print $!+0");
            let output = beneath(&program, command(&["perl", "-e", &script])).unwrap();
            let errno = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(errno, libc::EPERM.to_string(), "{number:#x} {family:#x}: {output:?}");
        }
    }
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
