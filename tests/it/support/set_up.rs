//! Catching a process while it is set up: forked, and about to execute what it is for. It is stopped there, as a process in
//! the same PID namespace could stop it, and whoever sets it up can be killed meanwhile.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use coracle::linux::proc_stat::ProcStat;
use rustix::process::{Pid, Signal, kill_process};

use super::wait_until;

/// Which child of a process is caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// One in another PID namespace: the first process of a container, or one that is added.
    Inside,
    /// One in our own PID namespace: a launcher.
    Outside,
}

/// Stops children of a process that have executed nothing yet, as soon as they are there. What was caught goes on or is
/// killed when this is dropped.
pub(crate) struct Catcher {
    stop: Arc<AtomicBool>,
    caught: Arc<std::sync::Mutex<Vec<i32>>>,
    thread: Option<JoinHandle<()>>,
}

impl Catcher {
    /// Stops up to `count` children of `parent` that are `wanted`, but not those of `but`.
    pub(crate) fn new(parent: i32, wanted: Wanted, count: usize, but: &[i32]) -> Self {
        let (stop, caught) = (Arc::<AtomicBool>::default(), Arc::<std::sync::Mutex<Vec<i32>>>::default());
        let but = but.to_vec();
        let thread = {
            let (stop, caught) = (Arc::clone(&stop), Arc::clone(&caught));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) && caught.lock().unwrap().len() < count {
                    for pid in children(parent) {
                        let known = but.contains(&pid) || caught.lock().unwrap().contains(&pid);
                        if !known && is_wanted(pid, wanted) && stop_before_it_executes(pid) {
                            caught.lock().unwrap().push(pid);
                        }
                    }
                }
            })
        };
        Self { stop, caught, thread: Some(thread) }
    }

    /// Those that are stopped by now.
    pub(crate) fn caught(&self) -> Vec<i32> {
        self.caught.lock().unwrap().clone()
    }

    /// Waits until one is stopped; its pid.
    #[track_caller]
    pub(crate) fn wait(&self) -> i32 {
        wait_until("a process that is set up to be stopped", || self.caught().first().copied())
    }

    /// Lets them go on.
    pub(crate) fn let_go(&self) {
        self.caught().into_iter().for_each(|pid| signal(pid, Signal::CONT));
    }
}

impl Drop for Catcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
        self.let_go();
    }
}

fn signal(pid: i32, signal: Signal) {
    let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, signal));
}

/// The children of all threads of a process.
pub(crate) fn children(parent: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Whether a process is in the PID namespace that is wanted.
pub(crate) fn is_wanted(pid: i32, wanted: Wanted) -> bool {
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/pid")).ok();
    let (own, its) = (namespace("self"), namespace(&pid.to_string()));
    its.is_some() && (its == own) == (wanted == Wanted::Outside)
}

/// Whether it is stopped, and had executed nothing by then.
fn stop_before_it_executes(pid: i32) -> bool {
    let stat = || ProcStat::read(pid).ok().flatten();
    if stat().is_none_or(|stat| stat.has_executed || stat.is_dead()) {
        return false;
    }
    signal(pid, Signal::STOP);
    for _ in 0..1000 {
        match stat() {
            Some(stat) if stat.state == 'T' && !stat.has_executed => return true,
            Some(stat) if !stat.has_executed && !stat.is_dead() => {}
            _ => break,
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    signal(pid, Signal::CONT);
    false
}
