//! The directory of a launched container in the store, with its writable layer and a few files.
//!
//! The launching process holds a lock on the directory while it lives. A directory that was to be removed at the end
//! (`--rm`) and is not locked was left behind by a launch that was killed. The next launch removes it with the
//! container's record and cgroup, unless the payload still runs; in that case `coracle rm --force` does.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use oci_spec::runtime::Mount;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerId;
use crate::linux::private;
use crate::oci::Runtime;
use crate::spec::mounts::mount;
use crate::store::{ImageRecord, Store};

/// Marks a directory to be removed with its container; the file has the path of the runtime's root, where the record
/// is.
const EPHEMERAL: &str = "rm";

/// A container's directory. Dropping it before [`ContainerDirectory::finish`] removes it, because the launch failed.
#[derive(Debug)]
pub(super) struct ContainerDirectory {
    directory: PathBuf,
    ephemeral: bool,
    finished: bool,
    /// None until it is locked.
    lock: Option<DirectoryLock>,
    /// All are closed before the directory is removed: removing needs some descriptors, and the launch may have failed
    /// because there were none left.
    kept_open: Vec<File>,
}

/// How long the lock of a directory is waited for that somebody looks at, or whose container is being killed.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How many descriptors are reserved for removing a container's directory: one for each level of it.
const FOR_REMOVAL: usize = 6;

/// Twelve random hexadecimal digits.
pub(super) fn random_name() -> Result<String> {
    let mut bytes = [0; 6];
    File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes)).doing(|| "read /dev/urandom")?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

impl ContainerDirectory {
    /// Creates the directory and marks the image as used.
    pub(super) fn make(
        runtime: &Runtime,
        store: &Store,
        image: &ImageRecord,
        id: &ContainerId,
        ephemeral: bool,
    ) -> Result<Self> {
        sweep(runtime, store);
        let hold = store.hold(image, id.as_str()).map_err(|e| match e.kind() {
            Kind::Exists => Error::new(Kind::Exists, format!("a container {:?} exists already", id.as_str()))
                .hint(format!("choose another --name, or remove it: coracle rm {id}")),
            _ => e,
        })?;
        let directory = hold.directory().to_owned();
        // From here on the directory is removed when anything fails.
        let mut container = Self { directory, ephemeral, finished: false, lock: None, kept_open: Vec::new() };
        let Some(lock) = DirectoryLock::take(&container.directory, PATIENCE)? else {
            // Whoever has the name now keeps it.
            container.finished = true;
            return Err(Error::new(
                Kind::WrongState,
                format!("container {id} was removed while it was created"),
            ));
        };
        container.lock = Some(lock);
        for _ in 0..FOR_REMOVAL {
            container.kept_open.push(File::open("/").doing(|| "keep descriptors for the container's end")?);
        }
        if ephemeral {
            let mark = container.directory.join(EPHEMERAL);
            let root = std::path::absolute(&runtime.root).unwrap_or_else(|_| runtime.root.clone());
            private::write(&mark, root.as_os_str().as_bytes(), private::FILE)
                .doing(|| format!("write {}", mark.display()))?;
        }
        Ok(container)
    }

    /// The container's directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes the files that every container gets and returns their mounts.
    pub(super) fn write_files(&self, hostname: &str, host_network: bool) -> Result<Vec<Mount>> {
        let host = |path| std::fs::read_to_string(path).unwrap_or_default();
        let hosts = if host_network {
            host("/etc/hosts")
        } else {
            format!(
                "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{hostname}\n"
            )
        };
        let resolv = if host_network { host("/etc/resolv.conf") } else { String::new() };
        let files = [("hosts", hosts), ("hostname", format!("{hostname}\n")), ("resolv.conf", resolv)];
        let mut placed = Vec::new();
        for (name, text) in files {
            let path = self.directory.join(name);
            private::write(&path, text, private::SHARED_FILE)
                .doing(|| format!("write {}", path.display()))?;
            placed.push(mount(Path::new("/etc").join(name), "bind", path, &["bind", "rprivate"]));
        }
        Ok(placed)
    }

    /// Keeps the directory: the container runs on without this process.
    pub(super) fn leave(mut self) {
        self.finished = true;
    }

    /// The container has ended: removes its directory if it is ephemeral, else keeps it under its name.
    pub(super) fn finish(mut self) -> Result<()> {
        self.finished = true;
        self.kept_open.clear();
        match self.lock.take().filter(|_| self.ephemeral) {
            Some(lock) => lock.remove(),
            None => Ok(()),
        }
    }
}

impl Drop for ContainerDirectory {
    fn drop(&mut self) {
        if !self.finished {
            self.kept_open.clear();
            let lock =
                self.lock.take().or_else(|| DirectoryLock::take(&self.directory, Duration::ZERO).ok()?);
            let _ = lock.map_or(Ok(()), DirectoryLock::remove);
        }
    }
}

/// The lock on a container's directory: a launch holds it for as long as it lives, and whoever removes the directory. Names are
/// used again, so nothing may be removed by its name alone.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    directory: PathBuf,
    file: File,
}

impl DirectoryLock {
    /// Locks the directory, waiting for as long as `patience`; none while another holds it, or when it was removed.
    ///
    /// # Errors
    /// It cannot be opened or locked for another reason.
    pub(super) fn take(directory: &Path, patience: Duration) -> Result<Option<Self>> {
        let doing = || format!("lock {}", directory.display());
        let file = match File::open(directory) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.doing(doing)?,
        };
        let deadline = Instant::now() + patience;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::AGAIN) if Instant::now() >= deadline => return Ok(None),
                Err(Errno::AGAIN) => std::thread::sleep(Duration::from_millis(10)),
                other => break other.doing(doing)?,
            }
        }
        let lock = Self { directory: directory.to_owned(), file };
        Ok(lock.has_name().then_some(lock))
    }

    /// Whether the locked directory is still the one of its name. Only the holder of the lock changes that.
    fn has_name(&self) -> bool {
        let own = rustix::fs::fstat(&self.file).map(|stat| (stat.st_dev, stat.st_ino));
        let named = rustix::fs::lstat(&self.directory).map(|stat| (stat.st_dev, stat.st_ino));
        own.is_ok_and(|own| named == Ok(own))
    }

    /// Removes the directory: it loses its name first, so that a new container may have that, and then its content.
    ///
    /// # Errors
    /// It cannot be moved, or something in it cannot be deleted, which is left in the store's trash.
    pub(super) fn remove(self) -> Result<()> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !self.has_name() {
            return Ok(());
        }
        let doing = || format!("remove {}", self.directory.display());
        let trash = self.directory.ancestors().nth(2).map(|store| store.join("trash")).unwrap_or_default();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let gone = trash.join(format!("container-{}-{number}", std::process::id()));
        std::fs::rename(&self.directory, &gone).doing(doing)?;
        crate::store::remove_tree(&gone)
    }
}

/// Whether the container with this directory is removed when it has ended.
pub(super) fn is_ephemeral(directory: &Path) -> bool {
    directory.join(EPHEMERAL).exists()
}

/// Removes what killed launches left behind.
fn sweep(runtime: &Runtime, store: &Store) {
    let Ok(entries) = std::fs::read_dir(store.root().join("containers")) else { return };
    for directory in entries.flatten().map(|entry| entry.path()) {
        if !is_ephemeral(&directory) {
            continue;
        }
        let Ok(Some(lock)) = DirectoryLock::take(&directory, Duration::ZERO) else { continue };
        // Only now: before, the name may have had another container.
        let Ok(root) = std::fs::read(directory.join(EPHEMERAL)) else { continue };
        let root = PathBuf::from(OsString::from_vec(root));
        if has_ended(&Runtime { root, ..runtime.clone() }, &directory) {
            let _ = lock.remove();
        }
    }
}

/// Whether a container has ended; its record and cgroup are removed then.
fn has_ended(runtime: &Runtime, directory: &Path) -> bool {
    let name = directory.file_name().and_then(OsStr::to_str);
    let Some(id) = name.and_then(|name| ContainerId::parse(name).ok()) else { return false };
    match crate::oci::delete::delete(runtime, &id, false) {
        // Also remove what a launch left behind that was killed before it wrote its record.
        Err(e) if e.kind() == Kind::NotFound => crate::oci::delete::delete(runtime, &id, true).is_ok(),
        ended => ended.is_ok(),
    }
}
