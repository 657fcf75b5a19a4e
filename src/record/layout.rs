//! The paths of a container's state; no other module joins them.

use std::path::{Path, PathBuf};

use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerId;
use crate::linux::private;

/// How often removing a directory is retried. What is written meanwhile is one file: first by another name, then by its own.
const REMOVE_TRIES: u32 = 10;

/// The paths of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    directory: PathBuf,
}

impl Layout {
    /// The paths of container `id` below `root`.
    pub fn new(root: &Path, id: &ContainerId) -> Self {
        Self { directory: root.join(id.as_str()) }
    }

    /// The container's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The container's record.
    pub fn state(&self) -> PathBuf {
        self.directory.join("state.json")
    }

    /// The configuration that the container was created from.
    pub fn config(&self) -> PathBuf {
        self.directory.join("config.json")
    }

    /// The socket on which the init waits for `start`.
    pub fn start_socket(&self) -> PathBuf {
        self.directory.join("start.sock")
    }

    /// The note of its cgroup's directories, written before they are created.
    pub(super) fn cgroup(&self) -> PathBuf {
        self.directory.join("cgroup.json")
    }

    /// The exit file, if a keeper saw the container end.
    pub fn exit(&self) -> PathBuf {
        self.directory.join("exit")
    }

    /// Creates the directory, and the root above it.
    ///
    /// # Errors
    /// `Exists` when the id is in use.
    pub fn create(&self) -> Result<()> {
        private::own_parent_dir(self.directory.parent().unwrap_or(Path::new("/")))?;
        match private::make_dir(&self.directory, private::DIR) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                let name = self.directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
                Err(Error::new(Kind::Exists, format!("container id {name:?} is already in use: it exists"))
                    .command_hint(format!(
                        "choose another id, or remove that container: coracle delete --force {name}"
                    )))
            }
            other => other.doing(|| format!("make the state directory {}", self.directory.display())),
        }
    }

    /// Removes the directory and its content; a missing one is no error. A keeper may be writing the exit file meanwhile: its
    /// process was killed a moment ago.
    ///
    /// # Errors
    /// Something in it cannot be removed.
    pub fn remove(&self) -> Result<()> {
        let (state, new_state) = (self.state(), self.temporary_state());
        for file in [self.start_socket(), self.config(), self.cgroup(), state, new_state, self.exit()] {
            let _ = std::fs::remove_file(file);
        }
        match std::fs::remove_dir(&self.directory) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(_) => {
                self.remove_all().doing(|| format!("remove the state directory {}", self.directory.display()))
            }
        }
    }

    fn remove_all(&self) -> std::io::Result<()> {
        let mut tries = 0;
        loop {
            match std::fs::remove_dir_all(&self.directory) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                // A file was written after the directory was listed.
                Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty && tries < REMOVE_TRIES => {
                    tries += 1;
                }
                other => return other,
            }
        }
    }

    /// The file a new record is written to before it replaces the old one.
    pub(super) fn temporary_state(&self) -> PathBuf {
        self.directory.join("state.json.new")
    }
}

/// Removes the rights of other users from all containers' directories below a root: an earlier version created them
/// with such rights.
///
/// # Errors
/// The root cannot be read, or a directory is not ours.
pub fn close_all(root: &Path) -> Result<()> {
    ids(root)?.iter().try_for_each(|id| private::own_dir(Layout::new(root, id).directory()))
}

/// The ids of all containers below a root, sorted; none if the root does not exist.
///
/// # Errors
/// The root cannot be read.
pub fn ids(root: &Path) -> Result<Vec<ContainerId>> {
    let entries = match std::fs::read_dir(root) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.doing(|| format!("read {}", root.display()))?,
    };
    let mut ids: Vec<_> = entries
        .filter_map(|entry| ContainerId::parse(entry.ok()?.file_name().to_str()?).ok())
        .filter(|id| Layout::new(root, id).state().exists())
        .collect();
    ids.sort();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn a_directory_is_removed_while_its_exit_file_is_written() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path(), &ContainerId::parse("box").unwrap());
        let (begin, end) = (Barrier::new(2), Barrier::new(2));
        const ROUNDS: u32 = 1000;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    begin.wait();
                    (0..round % 50).for_each(|_| std::hint::spin_loop());
                    // As the keeper does; the directory may be gone.
                    let exit = layout.exit();
                    let _ = private::replace(&exit, &exit.with_extension("new"), "code=0", private::FILE);
                    end.wait();
                }
            });
            let removed: Vec<_> = (0..ROUNDS)
                .map(|_| {
                    std::fs::create_dir(layout.directory()).unwrap();
                    std::fs::write(layout.state(), "{}").unwrap();
                    begin.wait();
                    let removed = layout.remove();
                    end.wait();
                    let _ = std::fs::remove_dir_all(layout.directory());
                    removed
                })
                .collect();
            let failed: Vec<_> = removed.into_iter().filter_map(Result::err).collect();
            assert!(failed.is_empty(), "{} of {ROUNDS}: {:?}", failed.len(), failed[0]);
        });
    }
}
