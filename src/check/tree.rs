//! The files of the machine.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use crate::error::{Doing, Error, Result};
use crate::linux::private;

/// The most that is read of a file, in bytes.
const MOST: u64 = 8 << 20;
/// The most symbolic links in a path; the kernel follows as many.
const MOST_LINKS: usize = 40;

/// The files below a directory: `/`, or the root of an image. Names are relative to it, or absolute in it. In an image symbolic
/// links and `..` lead where they lead on the machine that has the image as its root, and never out of it. The image must not
/// change meanwhile: a link that replaces a directory after the path was resolved is followed by the kernel.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The files below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The files below a directory that exists. Other names of `/`, such as `/.` or a link, become `/`.
    ///
    /// # Errors
    /// Those of realpath(3); `Invalid` for something else than a directory.
    pub fn open(root: &Path) -> Result<Self> {
        let doing = || format!("open {} as the root of an image", root.display());
        let real = root.canonicalize().doing(doing)?;
        match real.is_dir() {
            true => Ok(Self::new(real)),
            false => Err(Error::invalid(format!("{}: it is not a directory", doing()))),
        }
    }

    /// Whether these are the files of this machine.
    pub fn is_this_machine(&self) -> bool {
        self.root.as_os_str() == "/"
    }

    /// Where a path of the machine is, with all links of an image resolved. What is missing is below the last directory that exists.
    ///
    /// # Errors
    /// Those of readlink(2); `FilesystemLoop` for too many links.
    pub fn path(&self, name: impl AsRef<Path>) -> std::io::Result<PathBuf> {
        self.resolve(name.as_ref(), true)
    }

    /// Like [`Tree::path`], but leaves a link in the last part of the path unresolved.
    ///
    /// # Errors
    /// Those of [`Tree::path`].
    pub fn entry(&self, name: impl AsRef<Path>) -> std::io::Result<PathBuf> {
        self.resolve(name.as_ref(), false)
    }

    /// Resolves a directory for code that opens `parts` below it by itself: in an image none of them may be a link, or below one.
    ///
    /// # Errors
    /// Those of [`Tree::path`]; `Invalid` for a link.
    pub fn without_links<P: AsRef<Path>>(
        &self,
        directory: &Path,
        parts: impl IntoIterator<Item = P>,
    ) -> Result<PathBuf> {
        let place = self.path(directory).doing(|| format!("open {}", directory.display()))?;
        for part in parts {
            let name = directory.join(&part);
            let doing = || format!("open {}", name.display());
            if self.path(&name).doing(doing)? != place.join(&part) && !self.is_this_machine() {
                let error = Error::invalid(format!("{}: there is a symbolic link in it", doing()));
                return Err(error.hint("put the files of the image there themselves"));
            }
        }
        Ok(place)
    }

    fn resolve(&self, name: &Path, follow_last: bool) -> std::io::Result<PathBuf> {
        if self.is_this_machine() {
            return Ok(self.root.join(name));
        }
        let mut left = parts(name);
        let (mut below, mut links) = (Vec::new(), 0);
        while let Some(part) = left.pop_front() {
            if part == ".." {
                below.pop();
                continue;
            }
            let at = self.root.join(below.iter().collect::<PathBuf>()).join(&part);
            let link = match at.symlink_metadata() {
                Ok(meta) if meta.is_symlink() && (follow_last || !left.is_empty()) => at.read_link()?,
                Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                    return Err(error);
                }
                _ => {
                    below.push(part);
                    continue;
                }
            };
            links += 1;
            if links > MOST_LINKS {
                return Err(rustix::io::Errno::LOOP.into());
            }
            if link.is_absolute() {
                below.clear();
            }
            let mut whole = parts(&link);
            whole.append(&mut left);
            left = whole;
        }
        Ok(self.root.join(below.iter().collect::<PathBuf>()))
    }

    /// Whether there is a file or directory.
    pub fn has(&self, name: impl AsRef<Path>) -> bool {
        self.path(name).is_ok_and(|path| path.exists())
    }

    /// The text of a file without white space around it; `None` if it cannot be read.
    pub fn text(&self, name: impl AsRef<Path>) -> Option<String> {
        let bytes = private::read_named(&self.path(name).ok()?, MOST).ok()?;
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
        let entries = self.path(name).and_then(std::fs::read_dir).into_iter().flatten().flatten();
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

/// The names and `..` of a path.
fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_and_parents_lead_to_places_in_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("var/lib")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        for (target, link) in [
            ("/data/rancher", "var/lib/absolute"),
            ("../../../../data", "var/lib/up"),
            ("/var/lib/absolute/../x", "chain"),
            ("var", "relative"),
            ("/loop", "loop"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        for (name, place) in [
            ("/var/lib/absolute/k3s", "data/rancher/k3s"),
            ("/var/lib/up/x", "data/x"),
            ("/chain", "data/x"),
            ("/relative/lib/absolute", "data/rancher"),
            ("/../../etc/passwd", "etc/passwd"),
            ("/none/../../x", "x"),
            ("/file/x", "file/x"),
            ("/", ""),
        ] {
            assert_eq!(tree.path(name).unwrap(), root.join(place), "{name}");
        }
        assert_eq!(tree.entry("/relative/lib/absolute").unwrap(), root.join("var/lib/absolute"));
        assert!(tree.path("/loop").is_err() && !tree.has("/loop"));
        assert!(Tree::open(&root.join("file")).is_err() && Tree::open(&root.join("none")).is_err());
        assert!(Tree::open(Path::new("/usr/..")).unwrap().is_this_machine());
    }
}
