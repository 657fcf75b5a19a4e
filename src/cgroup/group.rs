//! An existing cgroup: its paths, and listing and signalling its processes.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::Signal;

use super::dir::{self, Dir, is_gone};
use super::plan::Plan;
use super::{MOUNT, Mode, is_cgroup2, signal};
use crate::error::{Doing, Error, Kind, Result};

/// How often moving a process is retried: while it is being forked the kernel refuses to move it.
const ATTACH_TRIES: u32 = 5;

/// How often the processes of a subgroup without cgroup.kill are signalled.
const APART_ROUNDS: u32 = 100;

/// A container's cgroup: one directory on v2, one in each hierarchy on v1.
#[derive(Debug)]
pub struct Group {
    mode: Mode,
    paths: BTreeMap<String, PathBuf>,
    root: PathBuf,
    dir: OnceLock<Dir>,
    /// A plan for systemd that waits for its first process, and whether systemd has created the scope.
    pending: Option<Box<Plan>>,
    started: OnceLock<()>,
    /// V2: whether a cpuset restricts its processes to some processors or memory nodes.
    pinned: OnceLock<bool>,
}

impl Group {
    pub(crate) fn new(mode: Mode, paths: BTreeMap<String, PathBuf>, root: &Path, dir: Option<Dir>) -> Self {
        let cell = OnceLock::new();
        if let Some(dir) = dir {
            // The cell was just created, so setting it cannot fail.
            let _ = cell.set(dir);
        }
        let (started, pinned) = (OnceLock::new(), OnceLock::new());
        Self { mode, paths, root: root.to_owned(), dir: cell, pending: None, started, pinned }
    }

    /// A group at these paths that systemd creates once its first process is known.
    pub(crate) fn pending(plan: Plan, paths: BTreeMap<String, PathBuf>) -> Self {
        let (mode, root) = (plan.mode, plan.root().to_owned());
        let pending = Some(Box::new(plan));
        let (dir, started, pinned) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Self { mode, paths, root, dir, pending, started, pinned }
    }

    /// Records that systemd has created the scope.
    pub(crate) fn set_started(&self) {
        self.started.get_or_init(|| ());
    }

    /// The group with recorded [`Group::paths`]. It may no longer exist.
    ///
    /// # Errors
    /// `Invalid` when a path is not absolute and plain, or leads to something that is not a cgroup below the root of
    /// its hierarchy: a damaged record must not direct writes elsewhere.
    pub fn from_paths(paths: &BTreeMap<String, PathBuf>) -> Result<Self> {
        for path in paths.values() {
            let plain = path.components().all(|c| matches!(c, Component::Normal(_) | Component::RootDir));
            if !path.is_absolute() || !plain || !is_inner_cgroup(path) {
                return Err(Error::invalid(format!("{} is not a cgroup of a container", path.display())));
            }
        }
        let mode = match paths.len() {
            0 => return Err(Error::invalid("the record names no cgroup")),
            1 if paths.contains_key("") => Mode::V2,
            _ => Mode::V1,
        };
        Ok(Self::new(mode, paths.clone(), Path::new(MOUNT), None))
    }

    /// Creates a group inside this one, in the v2 hierarchy, for processes that may have to be killed separately; none
    /// on hosts without that hierarchy.
    ///
    /// # Errors
    /// When the directory cannot be created.
    pub fn create_subgroup(&self, name: &str) -> Result<Option<Self>> {
        let Some(path) = self.paths.get("").map(|whole| whole.join(name)) else { return Ok(None) };
        std::fs::create_dir(&path).doing(|| format!("make cgroup {}", path.display()))?;
        let mut paths = self.paths.clone();
        paths.insert(String::new(), path);
        Ok(Some(Self::new(self.mode, paths, &self.root, None)))
    }

    /// Kills the processes of a group created by [`Group::create_subgroup`], and no others, and removes the group.
    ///
    /// # Errors
    /// When its processes do not die.
    pub fn kill_and_remove(&self) -> Result<()> {
        let Some(path) = self.paths.get("") else { return Ok(()) };
        if !self.kill_by_file()? {
            // Processes that are forked meanwhile are killed in the next round.
            for _ in 0..APART_ROUNDS {
                if dir::pids_below(path)?.is_empty() {
                    break;
                }
                let _ = signal::send(|| dir::pids_below(path), Signal::KILL);
            }
        }
        dir::remove(path, &|_, tries| dir::pause(tries))
    }

    /// Sends SIGHUP to the processes of a group created by [`Group::create_subgroup`], and to no others.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn hang_up_subgroup(&self) -> Result<()> {
        let Some(path) = self.paths.get("") else { return Ok(()) };
        signal::send(|| dir::pids_below(path), Signal::HUP)
    }

    /// The groups created inside this one by [`Group::create_subgroup`] whose names begin with `prefix`.
    ///
    /// # Errors
    /// Those of reading the directory; a missing group is no error.
    pub fn subgroups_by_prefix(&self, prefix: &str) -> Result<Vec<Self>> {
        let Some(path) = self.paths.get("") else { return Ok(Vec::new()) };
        let children = match dir::children(path) {
            Err(error) if is_gone(&error) => return Ok(Vec::new()),
            other => other.doing(|| format!("list cgroup {}", path.display()))?,
        };
        let named = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
        };
        let group = |path| {
            let mut paths = self.paths.clone();
            paths.insert(String::new(), path);
            Self::new(self.mode, paths, &self.root, None)
        };
        Ok(children.into_iter().filter(named).map(group).collect())
    }

    /// Moves the remaining processes of a group created by [`Group::create_subgroup`] to the group around it, and
    /// removes the empty group.
    ///
    /// # Errors
    /// When a process cannot be moved, or the group cannot be removed.
    pub fn merge_into_parent(&self) -> Result<()> {
        let Some(path) = self.paths.get("") else { return Ok(()) };
        for pid in dir::pids_below(path)? {
            match path.parent().map(|whole| enter(whole, pid)) {
                // The process has ended meanwhile.
                Some(Err(e)) if e.kind() != Kind::NotFound => return Err(e),
                _ => {}
            }
        }
        dir::remove(path, &|_, tries| dir::pause(tries))
    }

    /// The directories in the form of `cgroup_paths` in runc's state.json: by controller on v1, under "" on v2 (on a
    /// hybrid host "" is the directory in the v2 hierarchy).
    pub fn paths(&self) -> &BTreeMap<String, PathBuf> {
        &self.paths
    }

    /// V2: a descriptor for `CLONE_INTO_CGROUP`; `None` on v1, before systemd has created the scope, and with a cpuset:
    /// before KERNEL(6.4) a process that is cloned into one keeps its parent's processors.
    pub fn dir_fd(&self) -> Option<BorrowedFd<'_>> {
        match (self.mode, self.waiting()) {
            (Mode::V2, None) => self.dir().ok().filter(|dir| !self.is_pinned(dir)).map(AsFd::as_fd),
            _ => None,
        }
    }

    fn is_pinned(&self, dir: &Dir) -> bool {
        let is_set = |file: &&str| dir.read(file).is_ok_and(|list| !list.trim().is_empty());
        *self.pinned.get_or_init(|| ["cpuset.cpus", "cpuset.mems"].iter().any(is_set))
    }

    /// Sets whether a new group is pinned, before anything else has written to it.
    pub(crate) fn set_pinned(&self, pinned: bool) {
        self.pinned.get_or_init(|| pinned);
    }

    /// The plan that systemd carries out once there is a process. Until then nothing at these paths belongs to the
    /// container.
    pub(crate) fn waiting(&self) -> Option<&Plan> {
        self.pending.as_deref().filter(|_| self.started.get().is_none())
    }

    /// The mount of the hierarchy.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// V2: the directory.
    pub(crate) fn dir(&self) -> Result<&Dir> {
        if let Some(dir) = self.dir.get() {
            return Ok(dir);
        }
        let dir = self.open("")?;
        Ok(self.dir.get_or_init(|| dir))
    }

    /// The directory of a controller; on v2 there is only one.
    pub(crate) fn open(&self, controller: &str) -> Result<Dir> {
        let key = if self.mode == Mode::V2 { "" } else { controller };
        let missing = || {
            let doing = format!("the container has no cgroup in the hierarchy of {controller:?}");
            Error::new(Kind::Unsupported, doing).hint("the controller is not mounted on this host")
        };
        let path = self.paths.get(key).ok_or_else(missing)?;
        Dir::open(path).doing(|| format!("open cgroup {}", path.display()))
    }

    /// The hierarchy used to list the processes: on v1 the one of devices, as in runc.
    fn main_path(&self) -> &Path {
        let found = ["devices", "freezer", "pids", "memory", ""].iter().find_map(|key| self.paths.get(*key));
        found.or_else(|| self.paths.values().next()).map_or(Path::new(MOUNT), PathBuf::as_path)
    }

    /// The processes in the group and in all groups below it; none when it does not exist.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn pids(&self) -> Result<Vec<i32>> {
        dir::pids_below(self.main_path())
    }

    /// Sends `signal` to every process in the group and below. `SIGKILL` reaches all of them, even one that is being
    /// forked: by cgroup.kill, KERNEL(5.14), or with the group frozen meanwhile.
    ///
    /// # Errors
    /// `Invalid` for a number that is no signal. A missing process or group is no error.
    pub fn kill_all(&self, signal: i32) -> Result<()> {
        let known = crate::sys::signal::from_number(signal)
            .ok_or_else(|| Error::invalid(format!("{signal} is not a signal")))?;
        let was_frozen = self.is_frozen().unwrap_or(false);
        if known == Signal::KILL && self.kill_by_file()? {
            // v2 kills frozen processes; on a hybrid host v1 froze them, and they die only when thawed.
            return if was_frozen && self.mode() == Mode::V1 { self.thaw_if_exists() } else { Ok(()) };
        }
        // Without a freezer, signal at least the processes that are listed.
        let frozen = was_frozen || self.freeze().is_ok();
        let result = signal::send(|| self.pids(), known);
        if frozen && (!was_frozen || known == Signal::KILL) {
            // On v1 even SIGKILL takes effect only after the thaw.
            self.thaw_if_exists()?;
        }
        result
    }

    fn kill_by_file(&self) -> Result<bool> {
        let Some(path) = self.paths.get("") else { return Ok(false) };
        match Dir::open(path).and_then(|dir| dir.write("cgroup.kill", "1")) {
            Ok(()) => Ok(true),
            // EOPNOTSUPP: a threaded cgroup. On v1 the file may be missing, or the v2 hierarchy was not joined.
            Err(error) if is_gone(&error) || error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
            Err(error) => Err(error).doing(|| format!("write 1 to {}", path.join("cgroup.kill").display())),
        }
    }
}

/// Moves a process into a cgroup by writing its cgroup.procs.
pub(crate) fn enter(path: &Path, pid: i32) -> Result<()> {
    let doing = || format!("move process {pid} into cgroup {}", path.display());
    let open = || Dir::open(path).and_then(|dir| dir.file("cgroup.procs", OFlags::WRONLY));
    let file = open().doing(doing)?;
    let mut tries = 0;
    loop {
        match rustix::io::write(&file, pid.to_string().as_bytes()) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            // A process that is still being forked cannot be moved yet.
            Err(rustix::io::Errno::INVAL) if tries < ATTACH_TRIES => {
                thread::sleep(Duration::from_millis(1 << tries));
                tries += 1;
            }
            Err(errno) => {
                let error = Err::<(), _>(errno).doing(doing);
                return error.map_err(|e| match errno {
                    rustix::io::Errno::BUSY => {
                        e.hint("it enables controllers for cgroups inside it; use one of those")
                    }
                    rustix::io::Errno::OPNOTSUPP => e.hint("its parent is threaded, see cgroup.type there"),
                    _ => e,
                });
            }
        }
    }
}

/// Returns whether `path`, if it exists, is a cgroup and not the mount of a hierarchy.
fn is_inner_cgroup(path: &Path) -> bool {
    const CGROUP_MAGIC: rustix::fs::FsWord = 0x0027_e0eb;
    let is_cgroup = |path: &Path| {
        rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type == CGROUP_MAGIC) || is_cgroup2(path)
    };
    match path.parent() {
        Some(parent) if path.exists() => is_cgroup(path) && is_cgroup(parent),
        Some(_) => true,
        None => false,
    }
}
