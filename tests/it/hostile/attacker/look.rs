//! Tracing a process, and opening what /proc shows of it.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use coracle::sys::mount::{ATTR_RDONLY, MountAttr, mount_setattr};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::{Attack, Stage};

/// Capabilities that a process which only has to become the payload has no more use for, and that are the host's:
/// DAC_OVERRIDE, DAC_READ_SEARCH, NET_ADMIN, SYS_MODULE, SYS_RAWIO, SYS_ADMIN, SYS_BOOT, SYS_TIME, MKNOD, MAC_OVERRIDE,
/// MAC_ADMIN, SYSLOG, PERFMON, BPF, CHECKPOINT_RESTORE. capabilities(7)
const DANGEROUS: [u32; 15] = [1, 2, 12, 16, 17, 21, 22, 25, 27, 32, 33, 34, 38, 39, 40];

/// A capability set from /proc/PID/status.
pub(super) fn capabilities(pid: &str, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

impl Attack {
    /// Everything that ptrace(2) guards.
    pub(super) fn look(&mut self, pid: i32) -> bool {
        let target = nix::unistd::Pid::from_raw(pid);
        let seized = ptrace::seize(target, ptrace::Options::empty()).is_ok();
        if seized {
            stop(target);
            if self.stage(pid) == Stage::SetUp {
                self.report.hit("seized", || status_of(pid));
            }
        }
        let before = self.report.hits.clone();
        let dir = format!("/proc/{pid}");
        self.directories(pid, &dir);
        self.descriptors(pid, &dir);
        self.namespaces(pid, &dir);
        for name in ["exe", "mem", "environ", "maps", "auxv", "syscall"] {
            let read = File::open(format!("{dir}/{name}")).and_then(|mut file| match name {
                "syscall" => file.read(&mut [0]),
                _ => Ok(1),
            });
            self.count(pid, name, read.is_ok(), String::new);
        }
        self.memory(pid);
        if seized || before != self.report.hits {
            self.powers(pid);
        }
        if seized {
            let _ = ptrace::detach(target, None);
        }
        true
    }

    /// A success counts when the process is still ours after it: then it was ours before.
    fn count(&mut self, pid: i32, kind: &str, succeeded: bool, detail: impl FnOnce() -> String) {
        if succeeded && self.stage(pid) == Stage::SetUp {
            self.report.hit(kind, detail);
        }
    }

    /// Whether this descriptor leads to a file that only the host has.
    fn leads_to_host(&self, fd: impl AsFd) -> bool {
        let mark = self.orders.mark.trim_start_matches('/');
        let up = format!("../../../../../../../../../../../../{mark}");
        [mark, &up].into_iter().any(|path| statat(&fd, path, AtFlags::empty()).is_ok())
    }

    fn directories(&mut self, pid: i32, dir: &str) {
        for name in ["root", "cwd"] {
            let path = format!("{dir}/{name}");
            let Ok(fd) = openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) else { continue };
            self.count(pid, name, true, String::new);
            if self.leads_to_host(&fd) {
                self.report.hit(&format!("host-{name}"), || status_of(pid));
            }
        }
    }

    fn descriptors(&mut self, pid: i32, dir: &str) {
        let Ok(entries) = fs::read_dir(format!("{dir}/fd")) else { return };
        for entry in entries.flatten() {
            let link = fs::read_link(entry.path()).map(|link| link.display().to_string()).unwrap_or_default();
            // The numbers may be listed by their owner; what is behind them is guarded.
            self.count(pid, "fd", !link.is_empty(), || link.clone());
            let Ok(fd) = openat(CWD, entry.path(), OFlags::PATH, Mode::empty()) else { continue };
            if self.leads_to_host(&fd) || link == self.orders.host_mounts {
                self.report.hit("host-fd", || format!("{} -> {link}", entry.path().display()));
            }
        }
        let Some(pidfd) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
            return;
        };
        for number in 0..12 {
            // A descriptor that is not open is told only to those who may look.
            let taken = pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty());
            let allowed = matches!(taken, Ok(_) | Err(Errno::BADF));
            self.count(pid, "pidfd_getfd", allowed, || format!("{number}: {taken:?}"));
        }
    }

    fn namespaces(&mut self, pid: i32, dir: &str) {
        for name in ["mnt", "pid", "user", "net", "ipc", "uts", "cgroup"] {
            let Ok(link) = fs::read_link(format!("{dir}/ns/{name}")) else { continue };
            let link = link.display().to_string();
            self.count(pid, "ns", true, || link.clone());
            if link == self.orders.host_mounts {
                self.report.hit("host-mounts", || status_of(pid));
            }
        }
    }

    fn memory(&mut self, pid: i32) {
        let mut byte = [0_u8];
        // Where programs with a fixed address usually begin; a wrong address is told only to those who may look.
        let remote = nix::sys::uio::RemoteIoVec { base: 0x40_0000, len: 1 };
        let mut local = [std::io::IoSliceMut::new(&mut byte)];
        let read = nix::sys::uio::process_vm_readv(nix::unistd::Pid::from_raw(pid), &mut local, &[remote]);
        let allowed = matches!(read, Ok(_) | Err(nix::errno::Errno::EFAULT));
        self.count(pid, "process_vm_readv", allowed, || format!("{read:?}"));
    }

    /// What one gets that takes the process over.
    fn powers(&mut self, pid: i32) {
        let held = capabilities(&pid.to_string(), "CapPrm:").unwrap_or_default();
        let dangerous = DANGEROUS.iter().fold(0, |set, number| set | 1 << number);
        if held & !self.own_capabilities & dangerous != 0 {
            let own = self.own_capabilities;
            self.count(pid, "capabilities", true, || format!("{held:#x}, own {own:#x}"));
        }
    }

    /// Writing to the executable of whoever enters, once nobody runs it any more (CVE-2019-5736).
    pub(super) fn overwrite(&mut self, pid: i32) -> bool {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let Ok(exe) = openat(CWD, format!("/proc/{pid}/exe"), flags, Mode::empty()) else { return true };
        if self.stage(pid) != Stage::SetUp {
            return false;
        }
        self.report.hit("exe", || format!("{pid}"));
        let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&exe));
        let until = Instant::now() + Duration::from_millis(200);
        while Instant::now() < until {
            if fs::OpenOptions::new().write(true).open(&own).is_ok() {
                self.report.hit("exe-written", || format!("{pid}"));
                break;
            }
            if self.writable_copy(&exe, &own) {
                self.report.hit("exe-written", || format!("{pid}, by a copy of its mount"));
                break;
            }
        }
        false
    }

    /// With CAP_SYS_ADMIN a mount may be copied, and the copy made writable.
    fn writable_copy(&self, exe: impl AsFd, own: &str) -> bool {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let copy =
            open_tree(&exe, "", flags | OpenTreeFlags::AT_EMPTY_PATH).or_else(|_| open_tree(CWD, own, flags));
        let copy = match copy {
            Ok(copy) => copy,
            // The mount itself, then.
            Err(_) => return make_writable(exe.as_fd()) && can_write(exe.as_fd()),
        };
        make_writable(copy.as_fd()) && can_write(copy.as_fd())
    }
}

fn make_writable(mount: std::os::fd::BorrowedFd<'_>) -> bool {
    mount_setattr(mount, false, &MountAttr { clear: ATTR_RDONLY, ..MountAttr::default() }).is_ok()
}

fn can_write(file: std::os::fd::BorrowedFd<'_>) -> bool {
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    fs::OpenOptions::new().write(true).open(Path::new(&path)).is_ok()
}

/// Waits until a process that was seized stands still.
fn stop(target: nix::unistd::Pid) {
    let _ = ptrace::interrupt(target);
    let until = Instant::now() + Duration::from_millis(500);
    while Instant::now() < until {
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
        match waitpid(target, Some(flags)) {
            Ok(nix::sys::wait::WaitStatus::StillAlive) => {}
            _ => return,
        }
    }
}

/// What tells how far a process has come.
fn status_of(pid: i32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let wanted = ["Uid:", "CapPrm:", "NoNewPrivs:", "Seccomp:"];
    let lines = status.lines().filter(|line| wanted.iter().any(|field| line.starts_with(field)));
    lines.map(|line| line.replace('\t', " ")).collect::<Vec<_>>().join(", ")
}
