//! What a test needs of the machine. A missing need skips the test with a word on stderr, and fails it where
//! `NO_SKIP=1` is set, unless the need is named in `MAY_SKIP` (a list with spaces: what the machine is known to lack).

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::LazyLock;

use rustix::fs::statfs;

use super::{Run, Runtime, runtime_under_test};

/// `needs!(root, busybox)` as a test's first line: the test ends there when the machine lacks one of these.
macro_rules! needs {
    ($($need:ident),+ $(,)?) => {
        if let Some(need) = $crate::support::missing(&[$(stringify!($need)),+]) {
            fn here() {}
            $crate::support::skip(std::any::type_name_of_val(&here), need);
            return;
        }
    };
}

/// `not_by!(Runc: "no time namespaces before 1.2")`: the test ends there when that peer is under test.
macro_rules! not_by {
    ($($peer:ident),+: $reason:literal) => {
        if [$($crate::support::Runtime::$peer),+].contains($crate::support::runtime_under_test()) {
            eprintln!("not asked of this runtime: {}", $reason);
            return;
        }
    };
}

/// The first of these needs that is not met here.
pub(crate) fn missing(needs: &[&'static str]) -> Option<&'static str> {
    needs.iter().copied().find(|need| !is_met(need))
}

/// Says that a test does not run, or fails it when skipping is not allowed.
pub(crate) fn skip(function: &str, need: &str) {
    let test = function.trim_end_matches("::here");
    let strict = std::env::var("NO_SKIP").is_ok_and(|v| v == "1");
    let excused = std::env::var("MAY_SKIP").is_ok_and(|list| list.split_whitespace().any(|n| n == need));
    assert!(!strict || excused, "{test} needs {need}, and NO_SKIP=1 is set");
    // Not eprintln!: the test runner would swallow it.
    let _ = writeln!(std::io::stderr(), "SKIP {test}: needs {need}");
}

fn is_met(need: &str) -> bool {
    match need {
        "root" => rustix::process::geteuid().is_root(),
        "busybox" => Path::new("/bin/busybox").exists(),
        // crun is asked where there is only cgroup2; see `Sandbox::new`.
        "cgroup1" => {
            Path::new("/sys/fs/cgroup/memory/cgroup.procs").exists() && *runtime_under_test() != Runtime::Crun
        }
        // A cgroup2 tree of its own can be mounted, if perhaps without controllers; see `Sandbox::with_cgroup2_view`.
        "cgroup2" => *CGROUP2_VIEW,
        "cgroup_limits" => is_met("cgroup1") || has_cgroup2_controllers(),
        "cgroup2_controllers" => has_cgroup2_controllers(),
        "user_namespaces" => *USER_NAMESPACES,
        "time_namespaces" => Path::new("/proc/self/ns/time").exists(),
        "sys_resource" => has_capability(24),
        "seccomp" => status_line("Seccomp_filters:").is_some(),
        "swap_limit" => Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
        "python3" => on_path("python3"),
        "perl" => on_path("perl"),
        "strace" => on_path("strace"),
        "gnu_time" => Path::new("/usr/bin/time").exists(),
        "ipv6" => std::net::TcpListener::bind("[::1]:0").is_ok(),
        "openssl" => on_path("openssl"),
        "skopeo" => on_path("skopeo"),
        "cni_plugins" => Path::new("/usr/lib/cni/portmap").exists() && on_path("iptables"),
        "umoci" => on_path("umoci"),
        "podman" => on_path("podman"),
        "buildah" => on_path("buildah"),
        "mkfs_ext4" => on_path("mkfs.ext4") || Path::new("/sbin/mkfs.ext4").exists(),
        "loop_devices" => Path::new("/dev/loop-control").exists(),
        "setfattr" => on_path("setfattr"),
        "qemu_user" => on_path("qemu-aarch64-static") && on_path("qemu-arm-static"),
        // The machine is thrown away afterwards: its settings may be changed.
        "guest" => fs::read_to_string("/proc/cmdline").is_ok_and(|line| line.contains("guest.project=")),
        "systemd" => Path::new("/run/systemd/system").is_dir() && has_cgroup2_controllers(),
        "huge_pages" => Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").is_dir(),
        "two_processors" => std::thread::available_parallelism().is_ok_and(|count| count.get() > 1),
        "arm32_busybox" => Path::new(crate::board::ARM32_BUSYBOX).exists(),
        "amd64" => cfg!(target_arch = "x86_64"),
        "fuse" => {
            fs::read_to_string("/proc/filesystems").is_ok_and(|list| list.contains("\tfuse\n"))
                && Path::new("/dev/fuse").exists()
        }
        "oci_verbs" => *OCI_VERBS,
        "launch_verb" => *LAUNCH_VERB,
        other => panic!("needs!({other}): no such need; see tests/it/support/needs.rs"),
    }
}

/// Whether the runtime under test has `run` at all.
static OCI_VERBS: LazyLock<bool> = LazyLock::new(|| {
    let help = Run::new(runtime_under_test().program()).args(["run", "--help"]).go();
    help.code() == Some(0) && format!("{}{}", help.stdout, help.stderr).contains("bundle")
});

static LAUNCH_VERB: LazyLock<bool> = LazyLock::new(|| {
    let help = Run::new(Runtime::Ours.program()).args(["launch", "--help"]).go();
    help.code() == Some(0) && help.stdout.contains("launch")
});

static CGROUP2_VIEW: LazyLock<bool> = LazyLock::new(|| {
    rustix::process::geteuid().is_root()
        && super::sandbox::cgroup2_view("true", &[""; 0]).go().code() == Some(0)
});

static USER_NAMESPACES: LazyLock<bool> =
    LazyLock::new(|| Run::new("unshare").args(["--user", "--map-root-user", "true"]).go().code() == Some(0));

fn has_cgroup2_controllers() -> bool {
    const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
    let is_cgroup2 =
        statfs("/sys/fs/cgroup").is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(CGROUP2_SUPER_MAGIC));
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    is_cgroup2
        && ["memory", "pids", "cpu"].iter().all(|want| controllers.split_whitespace().any(|c| c == *want))
}

fn has_capability(number: u32) -> bool {
    status_line("CapEff:")
        .and_then(|hex| u64::from_str_radix(&hex, 16).ok())
        .is_some_and(|set| set & (1 << number) != 0)
}

fn status_line(field: &str) -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|l| l.strip_prefix(field)).map(|v| v.trim().to_owned())
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).exists())
}
