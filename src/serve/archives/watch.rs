//! Reports changes in the directories of archives, by inotify(7): nothing is polled, and nothing wakes up without a change.
//!
//! A directory that does not exist is awaited in its nearest ancestor that does, one that is moved away or removed is
//! noticed, and a link to an archive is followed. A mount over a directory is not reported by inotify; a reload finds what it
//! brings.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;
use tokio::io::Interest as Readiness;
use tokio::io::unix::AsyncFd;

/// The kernel's limit for links in a path.
const LINKS: usize = 40;
/// How often the set-up is repeated while the directories change.
const ATTEMPTS: usize = 10;

/// What happens to the watched inode itself.
const ITSELF: WatchFlags = WatchFlags::DELETE_SELF.union(WatchFlags::MOVE_SELF);
/// What an archive's arrival or removal causes. At CREATE only links are complete; other files are still open then, which
/// the import finds out.
const CONTENT: WatchFlags = ITSELF
    .union(WatchFlags::CREATE)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE);
/// What makes a missing entry appear.
const ARRIVAL: WatchFlags = ITSELF.union(WatchFlags::CREATE).union(WatchFlags::MOVED_TO);
/// What completes or removes a file, whichever of its names the writer has opened: a directory reports only what is done by a
/// name in it.
const FILE: WatchFlags = ITSELF.union(WatchFlags::CLOSE_WRITE);
/// What replaces an entry of a path.
const REPLACEMENT: WatchFlags = ARRIVAL.union(WatchFlags::MOVED_FROM).union(WatchFlags::DELETE);

/// The events of one inode that count.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interest {
    flags: WatchFlags,
    names: Names,
}

/// The entries of a directory whose events count. Events of the directory itself always count.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Names {
    /// All whose names do not begin with a dot: transfers write to hidden files, which are never imported.
    all_visible: bool,
    /// These, too.
    named: BTreeSet<OsString>,
}

impl Names {
    fn visible() -> Self {
        Self { all_visible: true, named: BTreeSet::new() }
    }

    fn one(name: &OsStr) -> Self {
        Self { all_visible: false, named: BTreeSet::from([name.to_owned()]) }
    }

    fn has(&self, name: &OsStr) -> bool {
        (self.all_visible && !name.as_bytes().starts_with(b".")) || self.named.contains(name)
    }

    fn add(&mut self, others: &Self) {
        self.all_visible |= others.all_visible;
        self.named.extend(others.named.iter().cloned());
    }
}

/// By real path.
type Plan = BTreeMap<PathBuf, Interest>;

/// Reports the first change of the directories since it was set up.
#[derive(Debug)]
pub(in crate::serve) struct Watch {
    /// `None` if there is nothing to watch, or the kernel refuses.
    inotify: Option<AsyncFd<OwnedFd>>,
    interests: HashMap<i32, Interest>,
}

impl Watch {
    /// Watches `dirs`. Call it within the runtime of tokio, and list the directories after it: what changes before is not
    /// reported.
    pub(in crate::serve) fn new(dirs: &[PathBuf]) -> Self {
        let none = Self { inotify: None, interests: HashMap::new() };
        if dirs.is_empty() {
            return none;
        }
        Self::try_new(dirs).unwrap_or_else(|error| {
            let hint = match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOSPC) => ": raise fs.inotify.max_user_watches by sysctl",
                Some(Errno::MFILE) => ": raise fs.inotify.max_user_instances by sysctl",
                _ => "",
            };
            crate::log::warning(&format!(
                "watch the directories of archives: {error}{hint}; until then a restart or reload imports new archives"
            ));
            none
        })
    }

    fn try_new(dirs: &[PathBuf]) -> std::io::Result<Self> {
        let mut before = plan(dirs);
        let mut attempts = 0;
        loop {
            let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let interests = apply(&inotify, &before)?;
            let now = plan(dirs);
            attempts += 1;
            if now == before || attempts == ATTEMPTS {
                return Ok(Self { inotify: Some(registered(inotify)?), interests });
            }
            // A directory came or went meanwhile, which the watches may have missed.
            before = now;
        }
    }

    /// Waits for a change; for ever, if nothing is watched.
    pub(in crate::serve) async fn changed(&self) {
        loop {
            let ready = match &self.inotify {
                Some(inotify) => inotify.readable().await,
                None => std::future::pending().await,
            };
            // The runtime is shutting down.
            let Ok(mut ready) = ready else { return std::future::pending().await };
            if self.has_relevant(ready.get_inner()) {
                return;
            }
            ready.clear_ready();
        }
    }

    /// Reads all events; whether one of them counts.
    fn has_relevant(&self, inotify: &OwnedFd) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(inotify, &mut buffer);
        let mut found = false;
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    found |= self.is_relevant(event.wd(), event.events(), name);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return found,
                // Without events nothing would be noticed any more; a new instance may do.
                Err(_) => return true,
            }
        }
    }

    fn is_relevant(&self, wd: i32, events: ReadFlags, name: Option<&OsStr>) -> bool {
        if events.intersects(ReadFlags::QUEUE_OVERFLOW | ReadFlags::UNMOUNT) {
            return true;
        }
        if events.contains(ReadFlags::IGNORED) {
            return false;
        }
        match (self.interests.get(&wd), name) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(interest), Some(name)) => interest.names.has(name),
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, because the descriptor must stay open and the same; an OwnedFd's does"
)]
fn registered(inotify: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(inotify, Readiness::READABLE)
}

/// Adds the watches of a plan. What has gone since is left out.
fn apply(inotify: &OwnedFd, plan: &Plan) -> std::io::Result<HashMap<i32, Interest>> {
    let mut interests: HashMap<i32, Interest> = HashMap::new();
    for (path, interest) in plan {
        // MASK_ADD: two paths may lead to one inode.
        match add_watch(inotify, path, interest.flags | WatchFlags::MASK_ADD) {
            Ok(wd) => match interests.get_mut(&wd) {
                Some(known) => known.names.add(&interest.names),
                None => drop(interests.insert(wd, interest.clone())),
            },
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(interests)
}

/// What to watch for changes in `dirs` and in the targets of links in them.
fn plan(dirs: &[PathBuf]) -> Plan {
    let mut plan = Plan::new();
    for dir in dirs {
        let Some(real) = follow(&mut plan, dir, LINKS) else { continue };
        merge(&mut plan, &real, Interest { flags: CONTENT, names: Names::visible() });
        for entry in std::fs::read_dir(&real).into_iter().flatten().flatten() {
            let is_hidden = entry.file_name().as_bytes().starts_with(b".");
            let Some(kind) = entry.file_type().ok().filter(|_| !is_hidden) else { continue };
            let file = match kind.is_symlink() {
                true => follow(&mut plan, &entry.path(), LINKS),
                false => kind.is_file().then(|| entry.path()),
            };
            if let Some(file) = file {
                merge(&mut plan, &file, Interest { flags: FILE, names: Names::default() });
            }
        }
    }
    plan
}

/// Adds the watches of each directory on the way of a path. Returns the real path, if it leads to something.
fn follow(plan: &mut Plan, path: &Path, links: usize) -> Option<PathBuf> {
    let mut here = PathBuf::from("/");
    let mut parts = path.components();
    while let Some(part) = parts.next() {
        match part {
            Component::Prefix(_) | Component::RootDir | Component::CurDir => continue,
            Component::ParentDir => {
                here.pop();
                continue;
            }
            Component::Normal(name) => {
                let next = here.join(name);
                let Ok(meta) = next.symlink_metadata() else {
                    merge(plan, &here, Interest { flags: ARRIVAL, names: Names::one(name) });
                    return None;
                };
                if !meta.is_symlink() {
                    merge(plan, &here, Interest { flags: ITSELF, names: Names::default() });
                    here = next;
                    continue;
                }
                merge(plan, &here, Interest { flags: REPLACEMENT, names: Names::one(name) });
                let target = std::fs::read_link(&next).ok().filter(|_| links > 0)?;
                let rest: PathBuf = parts.collect();
                return follow(plan, &here.join(target).join(rest), links - 1);
            }
        }
    }
    report_removal(plan, &here);
    Some(here)
}

/// Adds a watch of the parent of `path`. A file that has another name and whatever is open go on to exist when their entry
/// is removed or replaced, so DELETE_SELF does not report that. Of a path only the last entry needs this, if it is there:
/// those before it cannot be removed as long as it is. The parent of a directory in which something is awaited is not watched,
/// because it may be one where much happens, such as /tmp.
fn report_removal(plan: &mut Plan, path: &Path) {
    if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
        merge(plan, parent, Interest { flags: REPLACEMENT, names: Names::one(name) });
    }
}

fn merge(plan: &mut Plan, path: &Path, interest: Interest) {
    match plan.get_mut(path) {
        Some(known) => {
            known.flags |= interest.flags;
            known.names.add(&interest.names);
        }
        None => drop(plan.insert(path.to_owned(), interest)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;

    /// Whether a change is reported after `action`, in at most 5 s, or none within 100 ms if none is expected.
    fn reports(dirs: &[PathBuf], is_expected: bool, action: impl FnOnce()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let watch = Watch::new(dirs);
            action();
            let limit = Duration::from_millis(if is_expected { 5_000 } else { 100 });
            assert_eq!(tokio::time::timeout(limit, watch.changed()).await.is_ok(), is_expected);
        });
    }

    #[test]
    fn each_way_in_which_an_archive_comes_or_goes_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let (images, other) = (dir.path().join("images"), dir.path().join("other"));
        std::fs::create_dir(&images).unwrap();
        let (file, dirs) = (images.join("a.tar"), [images.clone()]);
        std::fs::write(&other, "x").unwrap();
        reports(&dirs, true, || std::fs::write(&file, "x").unwrap());
        reports(&dirs, true, || std::fs::write(&file, "y").unwrap());
        reports(&dirs, true, || std::fs::hard_link(&other, images.join("b.tar")).unwrap());
        reports(&dirs, true, || std::fs::rename(&other, &file).unwrap());
        reports(&dirs, true, || std::fs::rename(&file, &other).unwrap());
        reports(&dirs, true, || std::fs::remove_file(images.join("b.tar")).unwrap());
        reports(&dirs, false, || drop(std::fs::read(&other).unwrap()));
        // A link, what it leads to, and what it will lead to.
        reports(&dirs, true, || symlink("../other", images.join("c.tar")).unwrap());
        reports(&dirs, true, || std::fs::write(&other, "z").unwrap());
        reports(&dirs, true, || std::fs::remove_file(&other).unwrap());
        reports(&dirs, true, || std::fs::write(&other, "z").unwrap());
        symlink(dir.path().join("far/away"), images.join("d.tar")).unwrap();
        reports(&dirs, true, || std::fs::create_dir(dir.path().join("far")).unwrap());
        reports(&dirs, true, || std::fs::write(dir.path().join("far/away"), "z").unwrap());
    }

    #[test]
    fn files_are_noticed_that_are_written_or_replaced_under_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let below = |name: &str| dir.path().join(name);
        std::fs::create_dir(below("images")).unwrap();
        std::fs::create_dir(below("out")).unwrap();
        let dirs = [below("images")];
        // Written under its first name, also when only the second is left.
        for is_removed in [false, true] {
            let writer = std::fs::File::create(below("out/a")).unwrap();
            std::fs::hard_link(below("out/a"), below("images/a.tar")).unwrap();
            if is_removed {
                std::fs::remove_file(below("out/a")).unwrap();
            }
            reports(&dirs, true, || drop(writer));
            std::fs::remove_file(below("images/a.tar")).unwrap();
        }
        // The target of a link, which goes on to exist because it has another name, or a reader.
        symlink("../out/q.tar", below("images/s.tar")).unwrap();
        for has_reader in [false, true] {
            std::fs::write(below("out/q.tar"), "1").unwrap();
            std::fs::write(below("out/new"), "2").unwrap();
            let reader = has_reader.then(|| std::fs::File::open(below("out/q.tar")).unwrap());
            if !has_reader {
                std::fs::hard_link(below("out/q.tar"), below("out/other")).unwrap();
            }
            reports(&dirs, true, || std::fs::rename(below("out/new"), below("out/q.tar")).unwrap());
            drop(reader);
        }
        reports(&dirs, false, || std::fs::write(below("out/neighbour"), "").unwrap());
        // Directories that a process has open.
        let reader = std::fs::File::open(below("images")).unwrap();
        std::fs::remove_file(below("images/s.tar")).unwrap();
        reports(&dirs, true, || std::fs::remove_dir(below("images")).unwrap());
        drop(reader);
    }

    #[test]
    fn hidden_files_are_not_reported_unless_a_link_leads_by_them() {
        let dir = tempfile::tempdir().unwrap();
        let below = |name: &str| dir.path().join(name);
        let dirs = [dir.path().to_owned()];
        reports(&dirs, false, || std::fs::write(below(".a.tar.Xc4"), "x").unwrap());
        reports(&dirs, true, || std::fs::rename(below(".a.tar.Xc4"), below("a.tar")).unwrap());
        reports(&dirs, true, || std::fs::rename(below("a.tar"), below(".a.tar")).unwrap());
        symlink(".data", below("b.tar")).unwrap();
        reports(&dirs, true, || std::fs::write(below(".data"), "x").unwrap());
        reports(&dirs, true, || std::fs::rename(below(".a.tar"), below(".data")).unwrap());
        reports(&dirs, false, || std::fs::write(below(".other"), "x").unwrap());
    }

    #[test]
    fn directories_are_noticed_when_they_come_and_go_and_their_neighbours_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let below = |name: &str| dir.path().join(name);
        let dirs = [below("a/b/images")];
        reports(&dirs, false, || std::fs::create_dir(below("other")).unwrap());
        // Each report is a wake-up: what happens above is not watched.
        assert!(
            plan(&dirs).get(dir.path().parent().unwrap()).is_none_or(|interest| interest.flags == ITSELF)
        );
        for part in ["a", "a/b", "a/b/images"] {
            reports(&dirs, true, || std::fs::create_dir(below(part)).unwrap());
            reports(&dirs, false, || std::fs::write(below("file"), "").unwrap());
        }
        reports(&dirs, false, || std::fs::write(below("a/file"), "").unwrap());
        reports(&dirs, true, || std::fs::rename(below("a"), below("c")).unwrap());
        reports(&dirs, true, || std::fs::rename(below("c"), below("a")).unwrap());
        reports(&dirs, true, || std::fs::remove_dir(below("a/b/images")).unwrap());
        // By a link that is led elsewhere.
        std::fs::create_dir(below("new")).unwrap();
        reports(&dirs, true, || symlink("../../new", below("a/b/images")).unwrap());
        reports(&dirs, true, || std::fs::write(below("new/x.tar"), "").unwrap());
        symlink("../../other", below("a/b/next")).unwrap();
        reports(&dirs, true, || std::fs::rename(below("a/b/next"), below("a/b/images")).unwrap());
        reports(&dirs, false, || std::fs::write(below("new/x.tar"), "").unwrap());
        // Links that lead nowhere, or in a circle.
        std::fs::remove_file(below("a/b/images")).unwrap();
        symlink("images", below("a/b/images")).unwrap();
        reports(&dirs, true, || std::fs::remove_file(below("a/b/images")).unwrap());
    }

    #[test]
    fn two_paths_to_one_directory_are_both_watched_and_none_at_all_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        symlink(".", dir.path().join("same")).unwrap();
        let dirs = [dir.path().join("images"), dir.path().join("same/more")];
        for name in ["images", "more"] {
            reports(&dirs, true, || std::fs::create_dir(dir.path().join(name)).unwrap());
        }
        reports(&[], false, || {});
    }

    #[test]
    fn lost_events_count_as_a_change() {
        let watch = Watch { inotify: None, interests: HashMap::new() };
        assert!(watch.is_relevant(-1, ReadFlags::QUEUE_OVERFLOW, None));
        assert!(watch.is_relevant(1, ReadFlags::UNMOUNT, None));
        assert!(!watch.is_relevant(1, ReadFlags::IGNORED, None));
    }
}
