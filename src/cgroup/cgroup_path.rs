//! The path of a container's cgroup: `linux.cgroupsPath`, with runc's meaning.
//!
//! Driver cgroupfs: an absolute path starts at the mount of the hierarchy. A relative path, or the id when there is no
//! path, starts at the runtime's own cgroup on v1, and beside it on v2, because a v2 cgroup with processes cannot
//! enable controllers for its children. Driver systemd: `slice:prefix:name`.

use std::path::{Component, Path, PathBuf};

use super::Driver;
use crate::error::{Error, Result};
use crate::id::ContainerId;

/// The path of a cgroup in its hierarchy, free of `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupPath {
    /// Below the mount of the hierarchy.
    Root(PathBuf),
    /// Below (v1) or beside (v2) the runtime's own cgroup.
    Own(PathBuf),
    /// A scope that systemd creates.
    Scope {
        /// For example `kubepods-burstable.slice`.
        slice: String,
        /// For example `cri-containerd-1234.scope`.
        unit: String,
    },
}

const FIELD: &str = "linux.cgroupsPath";

impl CgroupPath {
    /// The path that the spec names, or the default for `id`.
    ///
    /// # Errors
    /// `Invalid` for the root of the hierarchy itself, for a path that climbs out with `..` or is no cgroup name, and
    /// for systemd when it is not `slice:prefix:name`.
    pub(crate) fn new(path: Option<&Path>, id: &ContainerId, driver: Driver) -> Result<Self> {
        let path = path.filter(|path| !path.as_os_str().is_empty());
        match (driver, path) {
            (Driver::Cgroupfs, None) => Ok(Self::Own(PathBuf::from(id.as_str()))),
            (Driver::Cgroupfs, Some(path)) => {
                let inner = cleaned(path)?;
                Ok(if path.is_absolute() { Self::Root(inner) } else { Self::Own(inner) })
            }
            (Driver::Systemd, None) => {
                Ok(Self::Scope { slice: DEFAULT_SLICE.to_owned(), unit: format!("coracle-{id}.scope") })
            }
            (Driver::Systemd, Some(path)) => scope(path),
        }
    }

    /// The path below the root of the hierarchy, where `own` is the runtime's own cgroup.
    pub(crate) fn below_root(&self, own: &Path) -> Result<PathBuf> {
        match self {
            Self::Root(inner) => Ok(inner.clone()),
            // The own cgroup reads as `/../x` when it is outside our cgroup namespace.
            Self::Own(inner) => Ok(lexically_below(own).join(inner)),
            Self::Scope { slice, unit } => Ok(slice_path(slice)?.join(unit)),
        }
    }
}

const DEFAULT_SLICE: &str = "system.slice";

/// `path` without its root, with `.` dropped and each `..` removing one component, never above the root.
fn lexically_below(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

fn cleaned(path: &Path) -> Result<PathBuf> {
    let refuse = |why: &str| Err(Error::invalid(format!("{FIELD} {path:?} {why}")));
    // runc cleans such a path silently, but nobody who writes one means the cgroup that remains.
    if path.components().any(|part| part == Component::ParentDir) {
        return refuse("escapes upwards with ..");
    }
    let clean = lexically_below(path);
    if clean.as_os_str().is_empty() {
        return refuse("is the root of all cgroups, not a container's");
    }
    let bytes = clean.as_os_str().as_encoded_bytes();
    if bytes.iter().any(|byte| matches!(byte, 0 | b'\n')) {
        return refuse("has a line break or a zero byte");
    }
    if clean.components().any(|part| part.as_os_str().len() > 255) || bytes.len() > 3800 {
        return refuse("is too long");
    }
    Ok(clean)
}

fn scope(path: &Path) -> Result<CgroupPath> {
    let refuse = |why: &str| {
        let hint = "for example system.slice:coracle:web-1";
        Err(Error::invalid(format!("{FIELD} {path:?} {why}")).hint(hint))
    };
    let Some(text) = path.to_str() else { return refuse("is not UTF-8") };
    let [slice, prefix, name] = text.split(':').collect::<Vec<_>>()[..] else {
        return refuse("is not slice:prefix:name, which the systemd driver needs");
    };
    if text.bytes().any(|b| !b.is_ascii_alphanumeric() && !b":-_.\\@+".contains(&b)) {
        return refuse("has a character that systemd does not allow in unit names");
    }
    if name.is_empty() {
        return refuse("names no container");
    }
    if name.ends_with(".slice") {
        return refuse("names a slice, but systemd puts processes only into scopes");
    }
    let slice = if slice.is_empty() { DEFAULT_SLICE } else { slice };
    slice_path(slice)?;
    let unit = format!("{prefix}-{name}.scope");
    if unit.len() > 255 {
        return refuse("is too long for a unit name");
    }
    Ok(CgroupPath::Scope { slice: slice.to_owned(), unit })
}

/// The path of `a-b.slice` is `a.slice/a-b.slice`; `-.slice` is the root. systemd.slice(5)
pub(crate) fn slice_path(slice: &str) -> Result<PathBuf> {
    let refuse = || Error::invalid(format!("{FIELD}: {slice:?} is not the name of a slice"));
    let name = slice.strip_suffix(".slice").ok_or_else(refuse)?;
    if name == "-" {
        return Ok(PathBuf::new());
    }
    let mut path = PathBuf::new();
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() || part.contains('/') {
            return Err(refuse());
        }
        prefix.push_str(part);
        path.push(format!("{prefix}.slice"));
        prefix.push('-');
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str, driver: Driver) -> Result<CgroupPath> {
        CgroupPath::new(Some(Path::new(path)), &ContainerId::parse("web-1").unwrap(), driver)
    }

    #[test]
    fn paths_are_cleaned() {
        for (path, expected) in [
            ("/a/b", CgroupPath::Root("a/b".into())),
            ("/a/b//./c/", CgroupPath::Root("a/b/c".into())),
            ("a/b", CgroupPath::Own("a/b".into())),
            ("", CgroupPath::Own("web-1".into())),
        ] {
            assert_eq!(parse(path, Driver::Cgroupfs).unwrap(), expected, "{path}");
        }
    }

    #[test]
    fn the_root_and_invalid_names_are_refused() {
        for bad in [
            "/",
            "/..",
            ".",
            "..",
            "/a/..",
            "/../../etc",
            "../x",
            "a/../../x",
            "a\nb",
            "a\0b",
            &"x".repeat(256),
            &"x/".repeat(2000),
        ] {
            assert!(parse(bad, Driver::Cgroupfs).unwrap_err().to_string().contains(FIELD), "{bad:?}");
        }
    }

    #[test]
    fn an_own_path_starts_at_the_own_cgroup_and_stays_below_the_root() {
        let own = CgroupPath::Own("x".into());
        for (base, expected) in
            [("/", "x"), ("/user.slice/s", "user.slice/s/x"), ("/../../elsewhere", "elsewhere/x"), ("", "x")]
        {
            assert_eq!(own.below_root(Path::new(base)).unwrap(), Path::new(expected), "{base}");
        }
        assert_eq!(CgroupPath::Root("a".into()).below_root(Path::new("/own")).unwrap(), Path::new("a"));
    }

    #[test]
    fn a_scope_is_inside_its_slices() {
        let path = |text: &str| parse(text, Driver::Systemd).and_then(|p| p.below_root(Path::new("/own")));
        assert_eq!(path("").unwrap(), Path::new("system.slice/coracle-web-1.scope"));
        assert_eq!(path(":docker:1").unwrap(), Path::new("system.slice/docker-1.scope"));
        assert_eq!(
            path("kubepods-burstable-podx.slice:cri-containerd:12").unwrap(),
            Path::new(
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podx.slice/cri-containerd-12.scope"
            )
        );
        assert_eq!(path("-.slice:p:n").unwrap(), Path::new("p-n.scope"));
    }

    #[test]
    fn invalid_scopes_are_refused() {
        for bad in [
            "/a/b",
            "a:b",
            "a.slice:b:c:d",
            "a:b:c",
            "a--b.slice:x:y",
            "-a.slice:x:y",
            ".slice:x:y",
            "a.slice:x:",
            "a.slice:x:../y",
            "a.slice:x:b.slice",
            "a/b.slice:x:y",
            "a.slice:x:y z",
        ] {
            assert!(parse(bad, Driver::Systemd).is_err(), "{bad}");
        }
    }
}
