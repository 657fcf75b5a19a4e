//! What only /proc knows of the processes of a container: descriptors, sockets, limits.

use std::path::Path;

/// What the processes of a container have open together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) descriptors: u64,
    pub(super) sockets: u64,
    pub(super) threads: u64,
}

/// How many processes and descriptors are looked at: a container with millions of them must not hold up the statistics of
/// the others.
const MOST: usize = 1 << 16;

/// Counts what these processes have open, as far as [`MOST`] allows. A process that has exited counts as nothing.
pub(super) fn open_by(pids: &[i32]) -> Open {
    count(pids, MOST)
}

fn count(pids: &[i32], most: usize) -> Open {
    let (mut open, mut left) = (Open::default(), most);
    for pid in pids {
        left = left.saturating_sub(1);
        if left == 0 {
            break;
        }
        let process = Path::new("/proc").join(pid.to_string());
        let entries = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        for entry in entries.take(left) {
            left -= 1;
            open.descriptors += 1;
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            open.sockets += u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        }
        open.threads += std::fs::read_dir(process.join("task")).map_or(0, |tasks| tasks.count() as u64);
    }
    open
}

/// The soft limit of open files of a process; none if it has exited or is not limited.
pub(super) fn open_files_limit(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_has_open_is_counted() {
        let own = std::process::id().cast_signed();
        let before = open_by(&[own]);
        let _sockets = std::os::unix::net::UnixStream::pair().unwrap();
        let after = open_by(&[own]);
        // Other tests of this process open and close files at the same time.
        assert!(after.descriptors >= 2 && after.sockets >= 2 && before.threads >= 1, "{before:?} {after:?}");
        assert!(open_files_limit(own).is_some_and(|limit| limit > 0));
        assert_eq!(count(&[own], 3).descriptors, 2, "the process itself counts, too");
        assert_eq!(count(&[own, own, own], 2).descriptors, 1);
        assert_eq!(open_by(&[i32::MAX]), Open::default());
        assert_eq!(open_files_limit(i32::MAX), None);
    }
}
