//! What a test left behind: processes, mounts, cgroups and directories that bear its sandbox's mark.
//!
//! Every name a sandbox gives out (its directory, container ids, cgroups) contains its mark, so that what is left can
//! be told from the traces of tests running beside it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

/// One trace of a sandbox on the machine.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Leftover {
    /// A live process: pid, command line, and where the mark was seen.
    Process(i32, String, &'static str),
    /// A mount point in this mount namespace.
    Mount(PathBuf),
    /// A cgroup directory.
    Cgroup(PathBuf),
    /// A file or directory outside the sandbox's own directory.
    Path(PathBuf),
}

/// Everything marked that is still there.
pub(crate) fn find(mark: &str) -> Vec<Leftover> {
    let mut found = processes(mark);
    found.extend(mounts(mark).into_iter().map(Leftover::Mount));
    found.extend(cgroups(mark).into_iter().map(Leftover::Cgroup));
    found.extend(strays(mark).into_iter().map(Leftover::Path));
    found
}

/// Ends and removes what was found, as well as it goes; for tests that failed half-way.
pub(crate) fn clear(mark: &str) {
    for leftover in find(mark) {
        if let Leftover::Process(pid @ 2.., ..) = leftover {
            let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
        }
    }
    for mount in mounts(mark).iter().rev() {
        let _ = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
    }
    // Killed processes leave their cgroups a moment later; children come after their parents in the list.
    for _ in 0..100 {
        let left = cgroups(mark);
        if left.is_empty() {
            break;
        }
        left.iter().rev().for_each(|dir| drop(fs::remove_dir(dir)));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    for path in strays(mark) {
        let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    }
}

fn processes(mark: &str) -> Vec<Leftover> {
    let me = std::process::id().cast_signed();
    let pids =
        entries(Path::new("/proc")).into_iter().filter_map(|p| p.file_name()?.to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != me).filter_map(|pid| marked_process(pid, mark)).collect()
}

fn marked_process(pid: i32, mark: &str) -> Option<Leftover> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let read = |name: &str| fs::read(dir.join(name)).unwrap_or_default();
    let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
    let seen = ["cmdline", "environ", "cgroup"].into_iter().find(|file| contains(&read(file), mark));
    let seen = seen.or_else(|| is_rooted_in(&read("mountinfo"), mark).then_some("root"))?;
    // A zombie is gone but for its entry, which its parent takes down.
    let is_zombie = read("stat").rsplit(|b| *b == b')').next().is_some_and(|rest| rest.starts_with(b" Z"));
    (!is_zombie).then_some(Leftover::Process(pid, command, seen))
}

/// Whether a process's root mount is a marked one. Marked mounts elsewhere in its table say nothing about it: every
/// process of the host sees every mount of the host.
fn is_rooted_in(mountinfo: &[u8], mark: &str) -> bool {
    let table = String::from_utf8_lossy(mountinfo);
    table.lines().any(|line| line.split(' ').nth(4) == Some("/") && line.contains(mark))
}

fn mounts(mark: &str) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .filter(|p| p.contains(mark))
        .map(PathBuf::from)
        .collect()
}

fn cgroups(mark: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk_cgroups(Path::new("/sys/fs/cgroup"), mark, 7, &mut found);
    found
}

fn walk_cgroups(dir: &Path, mark: &str, depth: u32, found: &mut Vec<PathBuf>) {
    for child in entries(dir) {
        if child.is_symlink() || !child.is_dir() {
            continue;
        }
        if contains(child.as_os_str().as_encoded_bytes(), mark) {
            found.push(child.clone());
        }
        if depth > 0 {
            walk_cgroups(&child, mark, depth - 1, found);
        }
    }
}

/// Marked names where runtimes keep state by default: a test's `--root` must keep them out of there.
fn strays(mark: &str) -> Vec<PathBuf> {
    let places =
        ["/run", "/run/runc", "/run/crun", "/run/coracle", "/run/coracle/containers", "/dev/shm", "/tmp"];
    let own = OsStr::new(mark);
    let marked = |p: &PathBuf| contains(p.as_os_str().as_encoded_bytes(), mark);
    let all = places.iter().flat_map(|place| entries(Path::new(place))).filter(marked);
    all.filter(|p| p.file_name() != Some(own)).collect()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|list| list.flatten().map(|e| e.path()).collect()).unwrap_or_default()
}

fn contains(haystack: &[u8], mark: &str) -> bool {
    haystack.windows(mark.len()).any(|w| w == mark.as_bytes())
}
