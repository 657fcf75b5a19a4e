//! The network interfaces of a pod, with their counters.

use super::sandbox::Sandbox;
use crate::error::Doing;

/// An interface and its counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) received: Counters,
    pub(super) sent: Counters,
}

/// The counters of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) bytes: u64,
    pub(super) packets: u64,
    pub(super) errors: u64,
    pub(super) dropped: u64,
}

/// The interfaces of a pod with a network of its own, except loopback, from /proc/net/dev (proc_pid_net(5)); none when it
/// has none, or no longer.
pub(super) fn of_pod(sandbox: &Sandbox) -> Option<Vec<Interface>> {
    let path = sandbox.namespace("net")?;
    let text = crate::net::namespace::within(&path, || {
        std::fs::read_to_string("/proc/thread-self/net/dev").doing(|| "read /proc/thread-self/net/dev")
    });
    Some(parse(&text.ok()?))
}

fn parse(text: &str) -> Vec<Interface> {
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> =
            numbers.split_ascii_whitespace().map_while(|number| number.parse().ok()).collect();
        let counters = |from: usize| match numbers.get(from..from + 4) {
            Some(&[bytes, packets, errors, dropped]) => Some(Counters { bytes, packets, errors, dropped }),
            _ => None,
        };
        Some(Interface { name: name.trim().to_owned(), received: counters(0)?, sent: counters(8)? })
    };
    text.lines().skip(2).filter_map(line).filter(|interface| interface.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_interfaces_are_read() {
        let text = "Inter-| Receive | Transmit\n face |bytes packets errs ...\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  \
                    eth0: 100 2 3 4 0 0 0 0 200 5 6 7 0 0 0 0\nshort: 1 2\n";
        let received = Counters { bytes: 100, packets: 2, errors: 3, dropped: 4 };
        let sent = Counters { bytes: 200, packets: 5, errors: 6, dropped: 7 };
        assert_eq!(parse(text), [Interface { name: "eth0".to_owned(), received, sent }]);
    }
}
