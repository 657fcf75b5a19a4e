//! From a snapshot to a keeper that serves, until it ends.

use std::collections::BTreeMap;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::lock::begin_to_serve;
use super::snapshot::{Descriptors, Snapshot};
use super::{fd_store, reexec, standby, successor};
use crate::error::{Doing, Error, Kind, Result};
use crate::keeper::client::Client;
use crate::keeper::event_loop::{
    Container, Ends, Interrupt, Keeper, Launcher, Record, RunDir, Source, State, Timer, reap_now,
};
use crate::keeper::own_log::warn;
use crate::keeper::protocol::Order;
use crate::linux::proc_stat;

/// Serves with what is known from before: records on disk, and what an earlier keeper left. That one, `predecessor`, ends
/// once its connection is closed.
pub(in crate::keeper) fn serve(run_dir: RunDir, snapshot: Snapshot, predecessor: Option<Client>) {
    match begin(run_dir, snapshot) {
        Ok(mut keeper) => {
            standby::start(&mut keeper);
            drop(predecessor);
            run(&mut keeper);
        }
        Err(error) => warn(&format!("serve: {}", error.chain())),
    }
}

/// Goes on as an earlier image of this process.
pub(in crate::keeper) fn go_on(mut keeper: Keeper) {
    standby::renew(&mut keeper);
    run(&mut keeper);
}

fn begin(run_dir: RunDir, snapshot: Snapshot) -> Result<Keeper> {
    let Snapshot { listener: Some(listener), lock: Some(lock), containers } = snapshot else {
        return Err(Error::new(Kind::Bug, "the socket or the lock is missing"));
    };
    begin_to_serve(&lock).doing(|| "another keeper does")?;
    let mut keeper = Keeper::new(run_dir, listener, lock).doing(|| "make an epoll instance and a pipe")?;
    adopt(&mut keeper, containers);
    keeper.watch_all();
    Ok(keeper)
}

fn run(keeper: &mut Keeper) {
    loop {
        match keeper.run() {
            Interrupt::Reexecute => reexec::reexecute(keeper),
            Interrupt::StandbyEnded => standby::start(keeper),
            Interrupt::HandOver(client) => {
                if successor::hand_over(keeper, client) {
                    return end(keeper, true);
                }
            }
            Interrupt::Signalled => {
                keeper.settle_logs();
                let has_next = fd_store::leave(keeper);
                return end(keeper, has_next);
            }
        }
    }
}

/// Takes the containers of an earlier keeper for its own. It is not their parent, but has them by pidfd.
fn adopt(keeper: &mut Keeper, mut left: BTreeMap<String, Descriptors>) {
    for record in keeper.run_dir.load() {
        let held = left.remove(&record.order.id).unwrap_or_default();
        let id = record.order.id.clone();
        let container = match adopted(&keeper.run_dir, record, held) {
            Ok(container) => container,
            Err(error) => {
                // Not taken for one that has ended: its record stays for the next keeper.
                warn(&format!("adopt container {id}: {error}; its record is left as it is"));
                continue;
            }
        };
        let key = keeper.new_key();
        let has_ended = container.process.is_none();
        keeper.containers.insert(key, container);
        if has_ended {
            keeper.process_ended(key);
        }
    }
    for (id, held) in left {
        let Some(socket) = held.launcher else { continue };
        let record = Record { order: Order { id, ..Order::default() }, ..Record::default() };
        let mut container = Container::new(record, State::Void, Ends::default());
        container.launcher = Some(Launcher::of_another(socket));
        let key = keeper.new_key();
        keeper.containers.insert(key, container);
    }
}

fn adopted(run_dir: &RunDir, record: Record, held: Descriptors) -> Result<Container> {
    let process = match held.process {
        Some(process) => Some(process),
        None => proc_stat::open(record.pid, record.start_time)?,
    };
    let state = if record.kept { State::Kept } else { State::Unattended };
    let mut container = match record.order.has_console {
        true => {
            let mut container = Container::new(record, state, Ends::default());
            container.stdout = held.stdout.map(|master| Source::terminal(master, Vec::new()));
            container
        }
        false => {
            let opened = run_dir.ends(&record.order).unwrap_or_default();
            let ends = Ends {
                stdin: held.stdin.or(opened.stdin),
                stdout: held.stdout.or(opened.stdout),
                stderr: held.stderr.or(opened.stderr),
            };
            Container::new(record, state, ends)
        }
    };
    container.timer = Timer::of_adopted(state);
    container.process = process;
    Ok(container)
}

/// Ends this process as the keeper; the containers stay, and their records. Without a next one the socket goes.
fn end(keeper: &mut Keeper, has_next: bool) {
    await_end_of_standby(keeper);
    if !has_next {
        let _ = std::fs::remove_file(keeper.run_dir.socket());
    }
    crate::keeper::cgroup::leave();
}

fn await_end_of_standby(keeper: &mut Keeper) {
    let Some(pidfd) = keeper.standby.as_ref().and_then(|standby| standby.pidfd.try_clone().ok()) else {
        return;
    };
    standby::end(keeper);
    // It ends at once. If it does not, it is not worth waiting for.
    let patience = Timespec { tv_sec: 1, tv_nsec: 0 };
    let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience));
    reap_now(&pidfd);
}
