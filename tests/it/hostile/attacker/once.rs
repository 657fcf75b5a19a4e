//! Attacks that do not wait for anybody: what a payload does with what it was given.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, RenameFlags, Timespec, Timestamps, chmod, chownat, fchmod, fchown, futimens,
    renameat_with, utimensat,
};

use super::super::report::{OUT, Report, STOP};
use super::look::capabilities;

/// Reports descriptors and attributes that no payload should have.
pub(super) fn inherit(report: &mut Report) {
    let numbers: Vec<_> =
        fs::read_dir("/proc/self/fd").unwrap().flatten().map(|entry| entry.path()).collect();
    for path in numbers {
        let number: i32 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        // That with which the list was read is closed again.
        let Ok(link) = fs::read_link(&path) else { continue };
        if number > 2 {
            report.hit("descriptor", || format!("{number} -> {}", link.display()));
        }
    }
    for field in ["CapInh:", "CapAmb:", "SigBlk:"] {
        let value = capabilities("thread-self", field).unwrap_or_default();
        if value != 0 {
            report.hit(field, || format!("{value:#x}"));
        }
    }
    if let Ok(Some(signal)) = nix::sys::prctl::get_pdeathsig() {
        report.hit("death signal", || signal.to_string());
    }
    if nix::sys::prctl::get_child_subreaper() == Ok(true) {
        report.hit("subreaper", String::new);
    }
    if nix::sys::prctl::get_keepcaps() == Ok(true) {
        report.hit("keep capabilities", String::new);
    }
    if nix::sys::prctl::get_dumpable() == Ok(false) {
        report.hit("undumpable", String::new);
    }
}

/// What of the host may be reached by a name in the container.
const NAMES: [&str; 16] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/console",
    "/dev/stdin",
    "/proc/keys",
    "/proc/kcore",
    "/proc/timer_list",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/self/fd/0",
    "/proc/sysrq-trigger",
];

/// Changes owner, mode and times of whatever it reaches; what comes of it is looked at from outside.
pub(super) fn mangle(report: &mut Report) {
    let mode = Mode::from_raw_mode(0o606);
    let past = Timespec { tv_sec: 1_000_000, tv_nsec: 0 };
    let times = Timestamps { last_access: past, last_modification: past };
    let group = Some(Gid::from_raw(54_321));
    let mut count = |what: &str, changed: &[bool]| {
        if changed.contains(&true) {
            report.hit("changed", || format!("{what}: mode, owner, times: {changed:?}"));
        }
    };
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for fd in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        let done = [fchmod(fd, mode).is_ok(), fchown(fd, None, group).is_ok(), futimens(fd, &times).is_ok()];
        count(&format!("{fd:?}"), &done);
    }
    for name in NAMES {
        let done = [
            chmod(name, mode).is_ok(),
            chownat(CWD, name, None, group, AtFlags::empty()).is_ok(),
            utimensat(CWD, name, &times, AtFlags::empty()).is_ok(),
        ];
        count(name, &done);
    }
}

/// Exchanges `swapped` and `link` in the attacker's directory until it is told to stop.
pub(super) fn swap(report: &mut Report) {
    let out = Path::new(OUT);
    let (one, other, stop) = (out.join("swapped"), out.join("link"), out.join(STOP));
    report.publish(out);
    while !stop.exists() {
        for _ in 0..100 {
            if renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).is_ok() {
                report.newcomers += 1;
            }
        }
        // On one processor the victims need time too.
        std::thread::sleep(Duration::from_micros(50));
    }
}
