//! The volumes that an image declares.

use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};

use oci_spec::image::Config as ImageConfig;
use oci_spec::runtime::Mount;
use rustix::fs::FileType;
use rustix::io::Errno;

use super::user::open_beneath;
use crate::error::{Doing, Result};
use crate::linux::private;

/// Filesystems of the kernel: an image cannot have volumes there.
const OF_THE_KERNEL: [&str; 4] = ["/proc", "/sys", "/dev/pts", "/dev/mqueue"];

/// Paths that each container has of its own, and that cannot be a volume; directories inside them can.
const OWN: [&str; 3] = ["/", "/dev", "/dev/shm"];

/// Mounts for the image's volumes that no mount of the user covers (`is_covered`). If the image has the directory,
/// the writable layer serves as well as a volume would; under a read-only root the directory is copied to memory. If
/// the image does not have it, an empty directory below `directory` is bind-mounted.
///
/// An image cannot cover /proc, /sys or /dev, nor mounts below them: a volume at such a path, or at one that leads
/// there by symbolic links, is ignored, and so is one that is not a directory in the image. (docker passes these to
/// runc, which refuses to start the container; podman ignores some.) A relative path starts from the root, as in
/// containerd.
///
/// # Errors
/// A directory cannot be made.
pub fn of_image(
    image: &ImageConfig,
    is_covered: &dyn Fn(&Path) -> bool,
    read_only: bool,
    directory: &Path,
    root: &Path,
) -> Result<Vec<Mount>> {
    let mut targets: Vec<PathBuf> =
        image.volumes().iter().flatten().map(|target| clean(Path::new(target))).collect();
    // A directory is mounted before those inside it, so that none covers another; a path listed twice counts once.
    targets.sort();
    targets.dedup();
    let mut mounts = Vec::new();
    for (number, target) in targets.into_iter().enumerate() {
        if is_covered(&target) {
            continue;
        }
        let found = in_image(root, &target);
        if let Some(why) = refusal(&target, &found) {
            crate::log::warning(&format!("the image's volume {} is left out: {why}", target.display()));
            continue;
        }
        let mut mount = Mount::default();
        mount.set_destination(target);
        let strings = |list: &[&str]| Some(list.iter().map(|s| (*s).to_owned()).collect());
        match (found, read_only) {
            (Found::Directory(_), false) | (Found::Other, _) => continue,
            (Found::Directory(_), true) => {
                mount.set_typ(Some("tmpfs".to_owned())).set_source(Some("tmpfs".into()));
                mount.set_options(strings(&["nosuid", "nodev", "tmpcopyup"]));
            }
            (Found::Nothing(_), _) => {
                let source = directory.join(format!("volume{number}"));
                private::make_dirs(&source, private::SHARED_DIR)
                    .doing(|| format!("make {}", source.display()))?;
                mount.set_typ(Some("bind".to_owned())).set_source(Some(source));
                mount.set_options(strings(&["rbind", "rprivate"]));
            }
        }
        mounts.push(mount);
    }
    Ok(mounts)
}

/// The absolute path without `.`, `..` and doubled slashes.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// The file that the image has at the path of a volume.
enum Found {
    /// A directory; this is its path after following symbolic links.
    Directory(PathBuf),
    /// Nothing; this is the path at which it would be created.
    Nothing(PathBuf),
    /// A file that is not a directory, or a path below one.
    Other,
}

/// How many dangling symbolic links in a row are followed.
const LINKS: usize = 40;

fn in_image(root: &Path, target: &Path) -> Found {
    let mut target = target.to_owned();
    for _ in 0..LINKS {
        let Some((there, rest)) = nearest(root, &target) else { return Found::Other };
        let mut names = rest.components();
        let Some(missing) = names.next() else { return Found::Directory(there) };
        let link = there.join(missing);
        match std::fs::read_link(root.join(link.strip_prefix("/").unwrap_or(&link))) {
            Ok(to) => target = clean(&there.join(to).join(names.as_path())),
            Err(_) => return Found::Nothing(there.join(rest)),
        }
    }
    Found::Other
}

/// The deepest directory on the way to `target` that exists in the image, following symbolic links, and the rest of
/// `target`. `None` when another kind of file is in the way.
fn nearest(root: &Path, target: &Path) -> Option<(PathBuf, PathBuf)> {
    for ancestor in target.ancestors() {
        let file = match open_beneath(root, ancestor) {
            Ok(file) => file,
            Err(Errno::NOENT) => continue,
            Err(_) => return None,
        };
        let stat = rustix::fs::fstat(&file).ok()?;
        let real = |path: &Path| std::fs::read_link(path).ok();
        // Compare both as the kernel names them; the image's root may be a detached mount.
        let (base, path) = (real(root)?, real(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))?);
        let there = clean(path.strip_prefix(&base).unwrap_or(&path));
        let rest = target.strip_prefix(ancestor).ok()?.to_owned();
        return FileType::from_raw_mode(stat.st_mode).is_dir().then_some((there, rest));
    }
    None
}

/// The reason to ignore a volume at `target`, if there is one.
fn refusal(target: &Path, found: &Found) -> Option<&'static str> {
    let is_kept = |path: &Path| {
        OF_THE_KERNEL.iter().any(|kept| path.starts_with(kept))
            || OWN.iter().any(|own| path == Path::new(own))
    };
    match found {
        _ if is_kept(target) => Some("the runtime mounts that path itself"),
        Found::Directory(path) | Found::Nothing(path) if is_kept(path) => {
            Some("it leads to a path that the runtime mounts itself")
        }
        Found::Directory(_) | Found::Nothing(_) => None,
        Found::Other => Some("a volume is a directory, and the image has something else there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The volumes of an image whose root has /data, the file /file and links to both, as (destination, type).
    fn volumes(read_only: bool, targets: &[&str]) -> Vec<(String, String)> {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for inside in ["data/sub", "proc", "dev"] {
            std::fs::create_dir_all(root.join(inside)).unwrap();
        }
        std::fs::write(root.join("file"), "").unwrap();
        for (link, to) in [
            ("to-proc", "/proc"),
            ("to-root", "/"),
            ("to-data", "data"),
            ("to-file", "/file"),
            ("to-new", "/n"),
            ("to-it", "x"),
            ("x", "to-it"),
            ("to-no-proc", "/proc/no"),
        ] {
            std::os::unix::fs::symlink(to, root.join(link)).unwrap();
        }
        let opened = std::fs::File::open(&root).unwrap();
        let root = format!("/proc/self/fd/{}", opened.as_raw_fd());
        let mut image = ImageConfig::default();
        image.set_volumes(Some(targets.iter().map(|t| (*t).to_owned()).collect()));
        let covered = |path: &Path| path == Path::new("/covered");
        let mounts = of_image(&image, &covered, read_only, dir.path(), Path::new(&root)).unwrap();
        let shown = |m: &Mount| (m.destination().display().to_string(), m.typ().clone().unwrap());
        mounts.iter().map(shown).collect()
    }

    fn owned(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn no_volume_hides_what_the_runtime_mounts() {
        for kept in [
            "/proc",
            "/sys",
            "/dev",
            "/",
            "",
            ".",
            "..",
            "/proc/",
            "//proc",
            "proc",
            "/data/../proc",
            "/../../sys",
            "/proc/self",
            "/sys/fs/cgroup",
            "/sys/firmware/x",
            "/dev/pts",
            "/dev/pts/0",
            "/dev/shm",
            "/dev/mqueue",
            "/to-proc",
            "/to-root",
            "/to-proc/self/..",
            "/to-root/proc",
            "/to-proc/new",
            "/to-no-proc",
            "/to-no-proc/x",
        ] {
            for read_only in [false, true] {
                assert_eq!(volumes(read_only, &[kept]), [], "{kept:?} read-only: {read_only}");
            }
        }
    }

    #[test]
    fn a_volume_is_there_once_and_outside_those_inside_it() {
        let wanted =
            ["/new/below", "/data/sub/", "/new", "/data", "data", "/data/./", "/x/../data", "/covered"];
        let expected = [("/data", "tmpfs"), ("/data/sub", "tmpfs"), ("/new", "bind"), ("/new/below", "bind")];
        assert_eq!(volumes(true, &wanted), owned(&expected));
        assert_eq!(volumes(false, &wanted), owned(&expected[2..]));
    }

    #[test]
    fn a_file_is_no_volume_and_a_link_to_a_directory_is_one() {
        for read_only in [false, true] {
            assert_eq!(volumes(read_only, &["/file", "/to-file", "/file/below", "/to-it", "/to-it/y"]), []);
        }
        assert_eq!(
            volumes(true, &["/to-new", "/to-new/a"]),
            owned(&[("/to-new", "bind"), ("/to-new/a", "bind")])
        );
        assert_eq!(volumes(true, &["/to-data"]), owned(&[("/to-data", "tmpfs")]));
    }
}
