//! What containers read: their standard input, and the terminals that they hand over.

use std::os::fd::OwnedFd;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use super::{Keeper, Source, What};
use crate::keeper::protocol::Stdin;

impl Keeper {
    /// Receives the container's terminal.
    pub(in crate::keeper) fn take_console(&mut self, key: u32) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let Some(console) = container.console.take() else { return };
        self.poll.remove(&console);
        let mut name = [0; 64];
        let master =
            crate::keeper::protocol::receive(&console, &mut name).ok().and_then(|(_, mut fds)| fds.pop());
        let Some(master) = master else { return };
        let _ = rustix::io::ioctl_fionbio(&master, true);
        container.stdout = Some(Source::terminal(master, Vec::new()));
        self.update_standby(key);
        self.watch(key);
    }

    /// Writes what clients sent to a container's standard input. What it does not take now stays queued, and its clients are not
    /// read until there is room.
    pub(in crate::keeper) fn write_input(&mut self, key: u32) {
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

    /// Closes a container's standard input once the queue is written. A terminal gets its end-of-file character instead.
    pub(in crate::keeper) fn close_input(&mut self, key: u32) {
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

/// Writes as much as fits: the number of bytes, and whether the reader is gone.
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
