//! Kills a process with all its descendants, for hosts where it has no cgroup of its own.

use std::collections::BTreeSet;

use rustix::process::{Signal, pidfd_send_signal};

use crate::linux::proc_stat::{self, ProcStat};

/// How often the tree is searched for processes that were forked in the meantime.
const ROUNDS: usize = 32;

/// Kills the process `top`, a child of ours that was not yet reaped, and all its descendants. Best effort: a process whose
/// parent has exited was reparented to the container's init process and is not found.
pub(super) fn kill_tree(top: i32) {
    let Some(top) = Process::now(top) else { return };
    let mut tree = BTreeSet::from([top]);
    // A stopped process neither forks nor reaps, so its children stay the same while they are read.
    top.signal(Signal::STOP);
    for _ in 0..ROUNDS {
        let found: Vec<_> = tree.iter().flat_map(Process::children).filter(|p| !tree.contains(p)).collect();
        if found.is_empty() {
            break;
        }
        found.iter().for_each(|process| process.signal(Signal::STOP));
        tree.extend(found);
    }
    tree.iter().for_each(|process| process.signal(Signal::KILL));
}

/// A process, identified by PID and start time because PIDs are reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    pid: i32,
    start_time: u64,
}

impl Process {
    /// The process that has this PID now.
    fn now(pid: i32) -> Option<Self> {
        let stat = ProcStat::read(pid).ok()??;
        Some(Self { pid, start_time: stat.start_time })
    }

    /// Signals this process, never another one that has its PID by now.
    fn signal(&self, signal: Signal) {
        if let Ok(Some(pidfd)) = proc_stat::open(self.pid, self.start_time) {
            let _ = pidfd_send_signal(&pidfd, signal);
        }
    }

    /// The children of all its threads.
    fn children(&self) -> Vec<Self> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
        let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        let pids: Vec<i32> = lists
            .flat_map(|list| list.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
            .collect();
        let children = pids.into_iter().filter_map(|pid| self.child(pid)).collect();
        // The list is only valid if the PID belonged to this process all the time.
        if Self::now(self.pid) == Some(*self) { children } else { Vec::new() }
    }

    /// The process with this PID, if it is a child of this one.
    fn child(&self, pid: i32) -> Option<Self> {
        let stat = ProcStat::read(pid).ok()??;
        (stat.parent == self.pid).then_some(Self { pid, start_time: stat.start_time })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_tree_is_killed_to_its_leaves() {
        let script = "sleep 1000 & (sleep 1000 & sleep 1000 & wait) & echo ready; wait";
        let mut shell =
            Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).process_group(0).spawn().unwrap();
        let mut line = [0; 6];
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut line).unwrap();
        let top = Process::now(shell.id().cast_signed()).unwrap();
        let mut tree = vec![top];
        for _ in 0..200 {
            tree = vec![top];
            tree.extend(top.children());
            tree.extend(top.children().iter().flat_map(Process::children));
            if tree.len() == 5 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(tree.len(), 5);
        kill_tree(top.pid);
        assert_eq!(shell.wait().unwrap().signal(), Some(libc::SIGKILL));
        for process in tree {
            let ended = || ProcStat::read(process.pid).unwrap().is_none_or(ProcStat::is_dead);
            for _ in 0..200 {
                if ended() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            assert!(ended(), "{process:?}");
        }
    }

    #[test]
    fn a_process_with_a_reused_pid_gets_no_signal_and_its_children_are_not_found() {
        let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = stranger.id().cast_signed();
        let earlier = Process { start_time: 1, ..Process::now(pid).unwrap() };
        earlier.signal(Signal::KILL);
        let own = std::process::id().cast_signed();
        assert!(Process::now(own).unwrap().children().contains(&Process::now(pid).unwrap()));
        assert!(Process { pid: own, start_time: 1 }.children().is_empty());
        assert_eq!(Process::now(1).unwrap().child(pid), None);
        assert!(stranger.try_wait().unwrap().is_none(), "the stranger lives");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
