//! The files of the machine.

use std::path::{Path, PathBuf};

use crate::linux::private;

/// The most that is read of a file, in bytes.
const MOST: u64 = 8 << 20;

/// The files below a directory, which is `/` outside of tests. Names are relative to it, or absolute in it.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The files below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where a path of the machine is.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        let name = name.as_ref();
        self.root.join(name.strip_prefix("/").unwrap_or(name))
    }

    /// Whether there is a file or directory.
    pub fn has(&self, name: impl AsRef<Path>) -> bool {
        self.path(name).exists()
    }

    /// The text of a file without white space around it; `None` if it cannot be read.
    pub fn text(&self, name: impl AsRef<Path>) -> Option<String> {
        let bytes = private::read_named(&self.path(name), MOST).ok()?;
        // Files of the device tree end with a NUL.
        Some(
            String::from_utf8_lossy(&bytes).trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned(),
        )
    }

    /// A number in a file.
    pub fn number(&self, name: impl AsRef<Path>) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// The sorted names in a directory; none if it cannot be read.
    pub fn names(&self, name: impl AsRef<Path>) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(name)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// The first of these programs that is in one of the usual directories.
    pub fn program(&self, names: &[&str]) -> Option<PathBuf> {
        const DIRECTORIES: [&str; 7] = [
            "/usr/local/sbin",
            "/usr/local/bin",
            "/usr/sbin",
            "/usr/bin",
            "/sbin",
            "/bin",
            "/var/lib/rancher/k3s/data/current/bin/aux",
        ];
        let paths =
            names.iter().flat_map(|name| DIRECTORIES.iter().map(move |dir| Path::new(dir).join(name)));
        paths.into_iter().find(|path| self.has(path))
    }
}
