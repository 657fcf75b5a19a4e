//! A cgroup of the keeper's own: whoever ends the service or session that started it by its cgroup, must not end the
//! containers' streams with it.
//!
//! Only the hierarchy by which systemd tracks processes matters for that: the v2 one, or on v1 the named one. What cannot
//! be done is left: the keeper works anywhere.

use std::path::PathBuf;

const NAME: &str = "coracle-keeper";

/// The roots of the hierarchies that track processes.
fn roots() -> impl Iterator<Item = PathBuf> {
    let known = ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"];
    known.into_iter().map(PathBuf::from).filter(|root| root.join("cgroup.procs").exists())
}

/// Moves this process into a cgroup of its own.
pub(in crate::keeper) fn enter() {
    for root in roots() {
        let own = root.join(NAME);
        let _ = std::fs::create_dir(&own);
        let _ = std::fs::write(own.join("cgroup.procs"), "0");
    }
}

/// Moves this process out again, if it has one of its own, and removes the cgroup unless another keeper is there.
pub(in crate::keeper) fn leave() {
    let ours = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // Where systemd put it, it stays.
    if !ours.lines().any(|line| line.rsplit(':').next().and_then(|path| path.strip_prefix('/')) == Some(NAME))
    {
        return;
    }
    for root in roots().filter(|root| root.join(NAME).exists()) {
        let _ = std::fs::write(root.join("cgroup.procs"), "0");
        let _ = std::fs::remove_dir(root.join(NAME));
    }
}
