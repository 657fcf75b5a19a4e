//! What is done with a container: the actions of the table in `life`.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};

use super::life::{Action, Event, Ran, State, step};
use super::spawn::{self, LauncherReport};
use super::{Keeper, Record, Timer, What};
use crate::keeper::own_log::warn;
use crate::keeper::protocol::{Refusal, Response, Stream};
use crate::linux::private;
use crate::record::Exit;
use crate::record::time::now_ns;
use crate::sys;

impl Keeper {
    /// Polls all of a container's descriptors.
    pub(in crate::keeper) fn watch(&mut self, key: u32) {
        let Some(container) = self.containers.get(&key) else { return };
        if let Some(process) = &container.process {
            self.poll.add(process, (What::Process, key));
        }
        if let Some(console) = &container.console {
            self.poll.add(console, (What::Console, key));
        }
        if let Some(launcher) = &container.launcher {
            self.poll.add(&launcher.socket, (What::Launcher, key));
        }
        for (what, source) in [(What::Stdout, &container.stdout), (What::Stderr, &container.stderr)] {
            let Some(source) = source else { continue };
            // Edge-triggered: the beginning of a line stays in the FIFO, and must not wake the keeper again and again.
            self.poll.add_edge(&source.fd, (what, key));
            self.unfinished.push((what, key));
        }
    }

    /// Applies an event to a container: looks it up in the table, and performs the actions.
    pub(in crate::keeper) fn apply(&mut self, key: u32, event: Event) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let (next, actions) = step(container.state, event);
        if next != container.state || event == Event::Late {
            container.timer = Timer::of(next).filter(|_| next != container.state);
        }
        container.state = next;
        container.record.kept |= next == State::Kept;
        for action in actions {
            self.act(key, *action);
        }
    }

    fn act(&mut self, key: u32, action: Action) {
        match action {
            Action::Record => self.write_record(key),
            Action::Answer => self.answer_spawned(key),
            Action::Refuse => self.answer_not_spawned(key),
            Action::KillLauncher => self.kill_launcher(key),
            Action::Kill => self.kill_process(key),
            Action::Settle => self.clients.settle(key),
            Action::ReadExit => self.read_exit(key),
            Action::Drain => self.drain(key),
            Action::WriteExit => self.write_exit(key),
            Action::Tell => self.tell(key),
            Action::Command => self.run_command(key),
            Action::Forget => self.forget(key),
        }
    }

    /// Reads what a launcher reports.
    pub(in crate::keeper) fn launcher_reported(&mut self, key: u32) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let Some(launcher) = container.launcher.take() else { return };
        let (report, pidfd) = launcher.hear();
        self.poll.remove(&launcher.socket);
        let event = match (report, pidfd) {
            (LauncherReport::Spawned(pid), Some(pidfd)) => {
                container.record = Record::of(std::mem::take(&mut container.record.order), pid);
                container.process = Some(pidfd);
                Event::Spawned
            }
            (LauncherReport::Spawned(_), None) => Event::NotSpawned,
            (LauncherReport::Failed(why), _) => {
                container.refusal = why;
                Event::NotSpawned
            }
        };
        if let Some(launcher) = launcher.into_pidfd() {
            let ended = self.new_key();
            self.poll.add(&launcher, (What::Child, ended));
            self.children.insert(ended, launcher);
        }
        self.apply(key, event);
        self.watch(key);
    }

    /// Replaces a container's process by a forked copy of it, and kills the former.
    pub(in crate::keeper) fn adopt_copy(&mut self, key: u32, pid: i32) -> Result<(), Refusal> {
        let container = self.containers.get_mut(&key).ok_or(Refusal::Unknown)?;
        let failed = |why: &str| Refusal::Failed(format!("adopt process {pid}: {why}"));
        let copy = spawn::child_of_ours(pid).ok_or_else(|| failed("it is no child of the keeper"))?;
        if container.state != State::Attended {
            self.end_child(copy);
            return Err(failed("the container's launch is over"));
        }
        container.record = Record::of(std::mem::take(&mut container.record.order), pid);
        let before = container.process.replace(copy);
        if let Some(before) = before {
            self.end_child(before);
        }
        self.apply(key, Event::Forked);
        if let Some(Some(process)) = self.containers.get(&key).map(|c| &c.process) {
            self.poll.add(process, (What::Process, key));
        }
        Ok(())
    }

    /// Kills a child that is no container's process, and reaps it.
    fn end_child(&mut self, process: OwnedFd) {
        let _ = pidfd_send_signal(&process, Signal::KILL);
        self.poll.remove(&process);
        let child = self.new_key();
        self.poll.add(&process, (What::Child, child));
        self.children.insert(child, process);
    }

    pub(super) fn write_record(&mut self, key: u32) {
        let Some(container) = self.containers.get(&key) else { return };
        if let Err(error) = self.run_dir.save(&container.record) {
            warn(&format!("write the record of {}: {error}", container.id()));
        }
        self.update_standby(key);
    }

    fn answer_spawned(&mut self, key: u32) {
        let Some(container) = self.containers.get(&key) else { return };
        let response = Response::Spawned(container.record.pid);
        let told = match (container.client, &container.process) {
            (Some(client), Some(process)) => self.clients.answer(client, &response, &[process.as_fd()]),
            // It ended before this keeper had its pidfd.
            (Some(client), None) => {
                self.clients.answer(client, &Response::Refused(Refusal::Unknown), &[]);
                false
            }
            (None, _) => false,
        };
        if !told {
            self.apply(key, Event::Unattended);
        }
    }

    fn answer_not_spawned(&mut self, key: u32) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let refusal = Response::Refused(Refusal::Failed(std::mem::take(&mut container.refusal)));
        if let Some(client) = container.client {
            self.clients.answer(client, &refusal, &[]);
        }
    }

    fn kill_launcher(&mut self, key: u32) {
        let Some(launcher) = self.containers.get(&key).and_then(|c| c.launcher.as_ref()) else { return };
        launcher.kill();
    }

    fn kill_process(&mut self, key: u32) {
        let Some(process) = self.containers.get(&key).and_then(|c| c.process.as_ref()) else { return };
        // It may have ended by itself.
        let _ = pidfd_send_signal(process, Signal::KILL);
    }

    /// Takes note of the end of a process before a decision on its launch: a client may be heard before the event that the
    /// process has ended, although it spoke after that.
    pub(super) fn notice_end(&mut self, key: u32) {
        let Some(container) = self.containers.get(&key) else { return };
        let (State::Attended | State::Unattended, Some(process)) = (container.state, &container.process)
        else {
            return;
        };
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&now)) == Ok(1) {
            self.process_ended(key);
        }
    }

    pub(in crate::keeper) fn process_ended(&mut self, key: u32) {
        let Some(container) = self.containers.get(&key) else { return };
        if let Some(process) = &container.process {
            self.poll.remove(process);
        }
        let ran = match container.state {
            State::Kept => Ran::Yes,
            // Before it is reaped: the kernel forgets the flag then.
            _ => container.record.ran(),
        };
        self.apply(key, Event::Ended(ran));
        // Rows of the table without `ReadExit` leave a zombie.
        if let Some(Some(process)) = self.containers.get(&key).map(|c| &c.process) {
            spawn::reap_now(process);
        }
    }

    fn read_exit(&mut self, key: u32) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let status = container.process.as_ref().and_then(|p| exit_status(p, &container.record));
        let mut exit = status.map_or_else(Exit::unknown, Exit::from_status);
        // Now, before a client removes the cgroup.
        exit.oom = container.record.order.oom_file.as_deref().is_some_and(has_oom_kill);
        exit.at_ns = now_ns();
        container.exit = Some(exit);
    }

    fn drain(&mut self, key: u32) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let clients = &mut self.clients;
        for (source, stream) in
            [(&mut container.stdout, Stream::Stdout), (&mut container.stderr, Stream::Stderr)]
        {
            let Some(source) = source else { continue };
            let mut show = |new: &[u8]| clients.show(key, stream, new);
            source.drain(&mut self.desk, &mut container.log, &mut show);
        }
        container.log.finish();
    }

    /// Logs what only this process holds: beginnings of lines from terminals, and notes about lines that were dropped.
    pub(in crate::keeper) fn settle_logs(&mut self) {
        for container in self.containers.values_mut() {
            if let Some(source) = &mut container.stdout {
                source.settle(&mut self.desk, &mut container.log);
            }
            container.log.finish();
        }
    }

    fn write_exit(&mut self, key: u32) {
        let Some(container) = self.containers.get(&key) else { return };
        let (Some(path), Some(exit)) = (&container.record.order.exit_file, &container.exit) else { return };
        let new = path.with_extension("new");
        match private::replace(
            path,
            &new,
            exit.to_file(container.record.pid, container.record.start_time),
            private::FILE,
        ) {
            // The directory is gone: the container was removed by force.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => warn(&format!("write {}: {error}", path.display())),
            Ok(()) => {}
        }
    }

    fn tell(&mut self, key: u32) {
        let Some(container) = self.containers.get(&key) else { return };
        let exit = container.exit.unwrap_or_else(Exit::unknown);
        self.clients.tell_exit(&self.poll, key, container.id(), exit);
    }

    fn run_command(&mut self, key: u32) {
        let Some(container) = self.containers.get(&key) else { return };
        if let Some(pidfd) = spawn::run_command(&container.record) {
            let child = self.new_key();
            self.poll.add(&pidfd, (What::Child, child));
            self.children.insert(child, pidfd);
        }
    }

    fn forget(&mut self, key: u32) {
        let Some(container) = self.containers.remove(&key) else { return };
        if let Some(process) = &container.process {
            spawn::reap_now(process);
        }
        self.run_dir.forget(container.id());
        self.tell_standby_of_end(container.id());
        self.clients.forget(key);
        self.listen_again();
        if self.containers.is_empty() {
            // The keeper may sleep for long now.
            sys::memory::unmap_code();
        }
    }
}

/// The status of a process that ended, as wait(2) reports it. A keeper that is not its parent gets it from the pidfd once the
/// process was reaped, and from /proc before that.
fn exit_status(process: &OwnedFd, record: &Record) -> Option<i32> {
    if let Ok(Some(status)) = waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED) {
        return Some(status_of(&status));
    }
    let reaped = || sys::pidfd::exit_status(process.as_fd()).ok().flatten();
    // It may have been reaped between the first two attempts: then the pidfd has it.
    reaped().or_else(|| record.zombie_status()).or_else(reaped)
}

fn status_of(status: &WaitIdStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code & 0xff) << 8,
        (None, Some(signal)) => signal,
        (None, None) => 255 << 8,
    }
}

/// Whether the cgroup has seen the OOM killer.
fn has_oom_kill(file: &std::path::Path) -> bool {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok());
    count.is_some_and(|count| count > 0)
}
