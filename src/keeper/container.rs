//! A container as the keeper has it, and what is done with it: the actions of `machine`.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};

use super::log::Log;
use super::machine::{Action, Event, Ran, State, step};
use super::poll::{Keeper, What};
use super::record::{Ends, Record};
use super::spawn::{self, Launcher, LauncherReport};
use super::stream::Source;
use super::timer::Timer;
use super::wire::{Refusal, Response, Stdin, Stream};
use crate::linux::private;
use crate::record::Exit;
use crate::record::time::{now_ns, rfc3339};
use crate::sys;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) record: Record,
    pub(super) state: State,
    /// The client that asked for its launch and attends it.
    pub(super) client: Option<u32>,
    pub(super) launcher: Option<Launcher>,
    /// What the launcher said when there was no process.
    refusal: String,
    /// Where its terminal comes from.
    pub(super) console: Option<OwnedFd>,
    pub(super) process: Option<OwnedFd>,
    pub(super) stdin: Option<OwnedFd>,
    /// What was sent to its standard input and not yet taken.
    pub(super) input: Vec<u8>,
    /// Its standard input is to be closed behind that.
    pub(super) closing: bool,
    pub(super) stdout: Option<Source>,
    pub(super) stderr: Option<Source>,
    pub(super) log: Log,
    pub(super) exit: Option<Exit>,
    /// When it is looked at again though nothing has happened to it.
    pub(super) timer: Option<Timer>,
}

impl Container {
    /// One of which the streams are open and nothing else is known yet.
    pub(super) fn new(record: Record, state: State, ends: Ends) -> Self {
        let log = Log::new(record.order.log.clone());
        Self {
            record,
            state,
            client: None,
            launcher: None,
            refusal: String::new(),
            console: None,
            process: None,
            stdin: ends.stdin,
            input: Vec::new(),
            closing: false,
            stdout: ends.stdout.map(|fd| Source::fifo(fd, Stream::Stdout, 0)),
            stderr: ends.stderr.map(|fd| Source::fifo(fd, Stream::Stderr, 0)),
            log,
            exit: None,
            timer: Timer::of(state),
        }
    }

    pub(super) fn is_launching(&self) -> bool {
        matches!(self.state, State::Launching | State::Void)
    }

    /// Something of it is on its way here that would be lost on somebody else.
    pub(super) fn is_arriving(&self) -> bool {
        self.is_launching() || self.console.is_some()
    }

    pub(super) fn id(&self) -> &str {
        &self.record.order.id
    }

    /// The descriptor that takes its input: the FIFO, or the terminal.
    pub(super) fn input_end(&self) -> Option<&OwnedFd> {
        match self.record.order.has_console {
            true => self.stdout.as_ref().map(|source| &source.fd),
            false => self.stdin.as_ref(),
        }
    }
}

impl Keeper {
    /// Waits for all that a container's descriptors have to say.
    pub(super) fn watch(&mut self, key: u32) {
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
            // What the FIFO keeps of a line that is not whole yet must not wake us again and again.
            self.poll.add_edge(&source.fd, (what, key));
            self.unfinished.push((what, key));
        }
    }

    /// Takes a container through the table.
    pub(super) fn apply(&mut self, key: u32, event: Event) {
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

    /// The launcher has something to say.
    pub(super) fn launcher_reported(&mut self, key: u32) {
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

    /// Takes a forked copy of a container's process in its place, and ends the one before.
    pub(super) fn adopt_copy(&mut self, key: u32, pid: i32) -> Result<(), Refusal> {
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

    fn write_record(&mut self, key: u32) {
        let Some(container) = self.containers.get(&key) else { return };
        if let Err(error) = self.run_dir.save(&container.record) {
            complain(&format!("write the record of {}: {error}", container.id()));
        }
        self.update_standby(key);
    }

    fn answer_spawned(&mut self, key: u32) {
        let Some(container) = self.containers.get(&key) else { return };
        let response = Response::Spawned(container.record.pid);
        let told = match (container.client, &container.process) {
            (Some(client), Some(process)) => self.clients.answer(client, &response, &[process.as_fd()]),
            // It ended before this keeper could open it.
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
        // That it has ended is as good.
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

    pub(super) fn process_ended(&mut self, key: u32) {
        let Some(container) = self.containers.get(&key) else { return };
        if let Some(process) = &container.process {
            self.poll.remove(process);
        }
        let ran = match container.state {
            State::Kept => Ran::Yes,
            // Before it is reaped: from then on the kernel does not tell.
            _ => container.record.ran(),
        };
        self.apply(key, Event::Ended(ran));
        // A table row that does not ask how it ended leaves it to be reaped all the same.
        if let Some(Some(process)) = self.containers.get(&key).map(|c| &c.process) {
            spawn::reap_now(process);
        }
    }

    fn read_exit(&mut self, key: u32) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let status = container.process.as_ref().and_then(|p| exit_status(p, &container.record));
        let mut exit = status.map_or_else(Exit::unknown, Exit::from_status);
        // Before anybody removes the cgroup.
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

    /// Logs what would be lost with this process: beginnings of lines, and that there was no room for some.
    pub(super) fn settle_logs(&mut self) {
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
        match private::replace(path, &new, exit.to_text(), private::FILE) {
            // Whoever removed the container by force did not wait for this.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => complain(&format!("write {}: {error}", path.display())),
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
        if let Some(pidfd) = spawn::run_command(&container.record.order.exit_command) {
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
            // There may be nothing to do for long.
            sys::memory::unmap_code();
        }
    }

    /// The container's terminal has come.
    pub(super) fn take_console(&mut self, key: u32) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let Some(console) = container.console.take() else { return };
        self.poll.remove(&console);
        let mut name = [0; 64];
        let master = super::wire::receive(&console, &mut name).ok().and_then(|(_, mut fds)| fds.pop());
        let Some(master) = master else { return };
        let _ = rustix::io::ioctl_fionbio(&master, true);
        container.stdout = Some(Source::terminal(master, Vec::new()));
        self.update_standby(key);
        self.watch(key);
    }

    /// Gives a container what was sent for its standard input; what it does not take now waits, and so do the senders.
    pub(super) fn write_input(&mut self, key: u32) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let input = std::mem::take(&mut container.input);
        let Some(end) = container.input_end() else { return self.clients.hold(&self.poll, key, false) };
        let (taken, broken) = write_some(end, &input);
        let full = !broken && taken < input.len();
        match (container.record.order.has_console, full) {
            (true, true) => self.poll.set(end, (What::Stdout, key), EDGE | EventFlags::OUT),
            (true, false) => self.poll.set(end, (What::Stdout, key), EDGE),
            (false, true) => self.poll.set(end, (What::Stdin, key), EventFlags::OUT),
            (false, false) => self.poll.remove(end),
        }
        if full {
            container.input = input[taken..].to_vec();
        }
        let is_fifo = !container.record.order.has_console;
        if is_fifo && (broken || (container.closing && !full)) {
            self.close_input(key);
        }
        self.clients.hold(&self.poll, key, full);
    }

    /// Closes a container's standard input once it has taken what was sent; a terminal gets its end-of-file character, as
    /// typed.
    pub(super) fn close_input(&mut self, key: u32) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        if container.record.order.has_console {
            container.input.push(4);
            return self.write_input(key);
        }
        container.closing = !container.input.is_empty();
        if container.closing {
            return;
        }
        if let Some(stdin) = container.stdin.take() {
            self.poll.remove(&stdin);
        }
        container.record.order.stdin = Stdin::None;
        self.write_record(key);
    }
}

const EDGE: EventFlags = EventFlags::IN.union(EventFlags::ET);

/// Writes what is taken now: how much that was, and whether nobody reads it any more.
fn write_some(end: &OwnedFd, input: &[u8]) -> (usize, bool) {
    let mut taken = 0;
    while taken < input.len() {
        match rustix::io::write(end, &input[taken..]) {
            Ok(count) => taken += count,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Err(_) => return (taken, true),
        }
    }
    (taken, false)
}

/// How a process ended, as wait(2) has it. Its parent asks that; who is not asks the kernel once it was reaped, and /proc
/// until then.
fn exit_status(process: &OwnedFd, record: &Record) -> Option<i32> {
    if let Ok(Some(status)) = waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED) {
        return Some(status_of(&status));
    }
    let reaped = || sys::pidfd::exit_status(process.as_fd()).ok().flatten();
    // Reaped between the two questions, it is the kernel's to tell again.
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

/// Says something to whoever reads the keeper's own log; where nobody does and its pipe is full, it is not said.
pub(super) fn complain(what: &str) {
    use std::io::Write;
    let mut stderr = [PollFd::from_borrowed_fd(rustix::stdio::stderr(), PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut stderr, Some(&now)) == Ok(0) {
        return;
    }
    let _ = writeln!(std::io::stderr(), "{} {what}", rfc3339(now_ns()));
}
