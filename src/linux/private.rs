//! The only module of product code that creates files and directories: with the mode it names, whatever the umask.
//!
//! umask(2) is the caller's choice. 0 would leave hooks and secrets open to every local user, and 0777 would deny the
//! container its own root. So a file is created with the mode as an upper bound, which no umask widens, and set to
//! the mode afterwards, which no umask narrows. A test searches the sources for other ways to create files.
//!
//! Files that others may have put at a path are never written through: symbolic links at the end of a path are not
//! followed, and an existing file has to be a regular file. A FIFO or a device is refused without blocking.

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, chmodat, fchmod, fstat, mkdirat, mknodat,
    openat, openat2,
};
use rustix::io::Errno;

use crate::error::{Doing, Error, Kind, Result};

/// Mode of a directory that only its owner can enter.
pub const DIR: u32 = 0o700;

/// Mode of a file that only its owner can read and write.
pub const FILE: u32 = 0o600;

/// Mode of a file that all users in a container can read and only root can write, such as /etc/hosts.
pub const SHARED_FILE: u32 = 0o644;

/// Mode of such a directory.
pub const SHARED_DIR: u32 = 0o755;

/// Mode of a log, the same as containerd's: agents that collect logs run with root's group.
pub const LOG: u32 = 0o640;

type Io<T> = std::io::Result<T>;

/// Creates a directory with exactly this mode.
///
/// # Errors
/// As mkdir(2), including `AlreadyExists`.
pub fn make_dir(path: &Path, mode: u32) -> Io<()> {
    mkdirat(CWD, path, Mode::from_raw_mode(mode))?;
    settle(path, mode)
}

/// Creates a directory and its missing parents, each with exactly this mode. An existing one keeps its mode.
///
/// # Errors
/// As mkdir(2).
pub fn make_dirs(path: &Path, mode: u32) -> Io<()> {
    match make_dir(path, mode) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let above = path.parent().filter(|above| !above.as_os_str().is_empty()).ok_or(error)?;
            make_dirs(above, mode)?;
            make_dirs(path, mode)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}

/// Sets the mode if the umask removed bits. No other process uses the new directory yet.
fn settle(path: &Path, mode: u32) -> Io<()> {
    let meta = path.symlink_metadata()?;
    if meta.permissions().mode() & 0o7777 != mode && !meta.is_symlink() {
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Creates a private directory, or checks the existing one: not a symbolic link, owned by us. Its rights for other
/// users are removed.
///
/// # Errors
/// `Denied` if another user owns it, `Invalid` for a symbolic link or another kind of file.
pub fn own_dir(path: &Path) -> Result<()> {
    let (fd, stat) = made_or_found(path)?;
    tighten(&fd, &stat).doing(|| format!("close {} to other users", path.display()))
}

/// The files that a run directory contains; see [`own_run_dir`].
const OF_RUN_DIR: [&str; 11] = [
    "cache",
    "cni",
    "containers",
    "coracle.sock",
    "keeper",
    "keeper.lock",
    "keeper.log",
    "keeper.sock",
    "layers",
    "pods",
    "serve.lock",
];

/// As [`own_dir`], for a directory that the user names and which might be one of the system's, such as /run. If it
/// contains foreign files, its mode is left as it is, and must not let others write to it.
///
/// # Errors
/// As [`own_dir`]; `Denied` for one that others can write to.
pub fn own_run_dir(path: &Path) -> Result<()> {
    let (fd, stat) = made_or_found(path)?;
    if stat.st_mode & 0o077 == 0 {
        return Ok(());
    }
    let is_ours =
        |entry: std::fs::DirEntry| entry.file_name().to_str().is_some_and(|name| OF_RUN_DIR.contains(&name));
    let entries = std::fs::read_dir(path).doing(|| format!("read {}", path.display()))?;
    if entries.flatten().all(is_ours) {
        return tighten(&fd, &stat).doing(|| format!("close {} to other users", path.display()));
    }
    refuse_writable(path, &stat)
}

/// Creates a directory that the user names, or checks that we own the existing one. Its mode is not changed, because
/// it may be one of the system's; only directories created in it are private.
///
/// # Errors
/// As [`own_run_dir`].
pub fn own_parent_dir(path: &Path) -> Result<()> {
    let doing = || format!("use the directory {}", path.display());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = match openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            make_dirs(path, DIR).doing(|| format!("make {}", path.display()))?;
            openat(CWD, path, flags, Mode::empty()).doing(doing)?
        }
        opened => opened.doing(doing)?,
    };
    let stat = fstat(&fd).doing(doing)?;
    check_owner(path, &stat)?;
    refuse_writable(path, &stat)
}

fn refuse_writable(path: &Path, stat: &Stat) -> Result<()> {
    // In a sticky directory others can add files, but neither rename nor remove ours.
    if stat.st_mode & 0o022 != 0 && stat.st_mode & 0o1000 == 0 {
        let doing = format!("{} can be written by other users", path.display());
        let hint = format!("close it: chmod go-w {}", path.display());
        return Err(Error::new(Kind::Denied, doing).hint(hint));
    }
    Ok(())
}

fn made_or_found(path: &Path) -> Result<(OwnedFd, Stat)> {
    // With a trailing slash a symbolic link would be followed.
    let path: PathBuf = path.components().collect();
    make_dirs(&path, DIR).doing(|| format!("make {}", path.display()))?;
    let doing = || format!("open {}", path.display());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match openat(CWD, &path, flags, Mode::empty()) {
        Err(Errno::LOOP | Errno::NOTDIR) => {
            let what = format!("{} is a symbolic link, or no directory", path.display());
            return Err(Error::invalid(what).hint("name the directory itself"));
        }
        opened => opened.doing(doing)?,
    };
    let stat = fstat(&fd).doing(doing)?;
    check_owner(&path, &stat)?;
    Ok((fd, stat))
}

fn check_owner(path: &Path, stat: &Stat) -> Result<()> {
    let us = rustix::process::geteuid().as_raw();
    if stat.st_uid == us {
        return Ok(());
    }
    let doing = format!("{} belongs to user {}, not to {us}", path.display(), stat.st_uid);
    Err(Error::new(Kind::Denied, doing).hint("use another directory, or remove this one"))
}

/// Removes the rights of group and others from a directory of ours.
///
/// # Errors
/// As fchmod(2).
pub fn tighten(fd: impl AsFd, stat: &Stat) -> Io<()> {
    if stat.st_mode & 0o077 != 0 {
        fchmod(fd, Mode::from_raw_mode(stat.st_mode & 0o700))?;
    }
    Ok(())
}

/// Opens a regular file below a directory; with `CREATE` in `flags` it is created with exactly this mode. Never
/// blocks.
///
/// # Errors
/// As open(2); `InvalidInput` for another kind of file.
pub fn open_at(dir: impl AsFd, name: impl rustix::path::Arg, flags: OFlags, mode: u32) -> Io<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match openat(dir, name, flags, Mode::from_raw_mode(mode)) {
        // A FIFO without a reader, a socket, or a symbolic link.
        Err(Errno::NXIO | Errno::LOOP) => return Err(not_regular()),
        opened => opened?,
    };
    let stat = fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(not_regular());
    }
    if flags.contains(OFlags::CREATE) && stat.st_mode & 0o7777 != mode {
        match fchmod(&file, Mode::from_raw_mode(mode)) {
            // The file existed and belongs to another user, who may still allow us to write.
            Err(Errno::PERM) => {}
            set => set?,
        }
    }
    Ok(file.into())
}

fn not_regular() -> std::io::Error {
    std::io::Error::new(ErrorKind::InvalidInput, "it is not a regular file")
}

/// Opens an existing regular file.
///
/// # Errors
/// As [`open_at`].
pub fn open(path: &Path, flags: OFlags) -> Io<File> {
    open_at(CWD, path, flags, 0)
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// As [`open_at`] and read(2); `FileTooLarge`.
pub fn read(path: &Path, limit: u64) -> Io<Vec<u8>> {
    limited(open(path, OFlags::RDONLY)?, limit)
}

fn limited(file: File, limit: u64) -> Io<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// As [`read`], for a file that the node's administrator names: it may be a symbolic link, or a pipe with a writer,
/// as a shell's `<(...)` is. Does not block on a FIFO without a writer.
///
/// # Errors
/// As [`read`].
pub fn read_named(path: &Path, limit: u64) -> Io<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(CWD, path, flags, Mode::empty())?;
    let is_named_fifo = FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::Fifo
        && std::fs::symlink_metadata(path)?.file_type().is_fifo();
    if is_named_fifo {
        return Err(not_regular());
    }
    rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
    limited(file.into(), limit)
}

/// Opens the log that the caller of a verb names, for appending. It may be a symbolic link, a terminal or a pipe, as
/// /dev/stderr is. Does not block on a FIFO without a reader.
///
/// # Errors
/// As open(2).
pub fn append_named(path: &Path) -> Io<File> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let made = openat(CWD, path, flags | OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(LOG));
    match made {
        Ok(file) => {
            fchmod(&file, Mode::from_raw_mode(LOG))?;
            Ok(file.into())
        }
        Err(Errno::EXIST) => Ok(openat(CWD, path, flags, Mode::empty())?.into()),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens the log of a container for appending, creating it if missing. Processes that can write to the directories
/// above it, such as a pod that collects logs, could redirect it: no symbolic link is followed anywhere in `path`,
/// and an existing file has to be a regular file with one name. Never blocks.
///
/// # Errors
/// As open(2); `InvalidInput` with the reason for a file that is not acceptable.
pub fn open_log(path: &Path) -> Io<File> {
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let open = |flags, mode| openat2(CWD, path, flags, Mode::from_raw_mode(mode), resolve);
    let refused = |why: &str| std::io::Error::new(ErrorKind::InvalidInput, why);
    if !path.is_absolute() {
        return Err(refused("its path is not absolute"));
    }
    let mut opened = open(flags, 0);
    if let Err(Errno::NOENT) = opened {
        opened = open(flags | OFlags::CREATE | OFlags::EXCL, LOG);
        match &opened {
            Ok(file) => fchmod(file, Mode::from_raw_mode(LOG))?,
            // Another process created it meanwhile.
            Err(Errno::EXIST) => opened = open(flags, 0),
            Err(_) => {}
        }
    }
    let file = match opened {
        Err(Errno::LOOP) => return Err(refused("there is a symbolic link in its path")),
        Err(Errno::NXIO | Errno::ISDIR) => return Err(refused("it is not a regular file")),
        opened => opened?,
    };
    let stat = fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(refused("it is not a regular file"));
    }
    if stat.st_nlink > 1 {
        return Err(refused("it has other names, by which it may be a file of others"));
    }
    Ok(file.into())
}

/// Creates the missing directories of the relative path `below` in `directory`, following no symbolic links.
///
/// # Errors
/// As mkdir(2) and open(2); `NotADirectory` for a link.
pub fn make_dirs_below(directory: &Path, below: &Path, mode: u32) -> Io<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat(CWD, directory, flags, Mode::empty())?;
    for part in below.components() {
        let std::path::Component::Normal(name) = part else {
            return Err(std::io::Error::new(ErrorKind::InvalidInput, "the path leads out of the directory"));
        };
        match mkdirat(&at, name, Mode::from_raw_mode(mode)) {
            Ok(()) => chmodat(&at, name, Mode::from_raw_mode(mode), AtFlags::empty())?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        at = openat(&at, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(())
}

/// Opens a file for writing, truncated; creates it if missing.
///
/// # Errors
/// As [`open_at`].
pub fn create(path: &Path, mode: u32) -> Io<File> {
    open_at(CWD, path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC, mode)
}

/// Creates a file that does not exist yet.
///
/// # Errors
/// As [`open_at`], including `AlreadyExists`.
pub fn create_new(path: &Path, mode: u32) -> Io<File> {
    open_at(CWD, path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, mode)
}

/// Opens a file for appending.
///
/// # Errors
/// As [`open_at`].
pub fn append(path: &Path, mode: u32) -> Io<File> {
    open_at(CWD, path, OFlags::RDWR | OFlags::APPEND | OFlags::CREATE, mode)
}

/// Opens a file for reading and writing, creating it if missing: for locks.
///
/// # Errors
/// As [`open_at`].
pub fn open_or_create(path: &Path, mode: u32) -> Io<File> {
    open_at(CWD, path, OFlags::RDWR | OFlags::CREATE, mode)
}

/// Writes a file.
///
/// # Errors
/// As [`create`] and write(2).
pub fn write(path: &Path, bytes: impl AsRef<[u8]>, mode: u32) -> Io<()> {
    create(path, mode)?.write_all(bytes.as_ref())
}

/// Replaces a file atomically by renaming `new`, a file beside it. An existing `new`, left by an earlier try or
/// planted, is discarded.
///
/// # Errors
/// As [`create_new`], write(2) and rename(2); the old file then is unchanged.
pub fn replace(path: &Path, new: &Path, bytes: impl AsRef<[u8]>, mode: u32) -> Io<()> {
    match std::fs::remove_file(new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = create_new(new, mode).and_then(|mut file| file.write_all(bytes.as_ref()));
    written.and_then(|()| std::fs::rename(new, path)).inspect_err(|_| {
        let _ = std::fs::remove_file(new);
    })
}

/// Creates a FIFO.
///
/// # Errors
/// As mknod(2).
pub fn fifo(path: &Path, mode: u32) -> Io<()> {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(mode), 0)?;
    settle(path, mode)
}

/// Sets the mode of a socket just bound in a directory of ours.
///
/// # Errors
/// As chmod(2).
pub fn settle_socket(dir: impl AsFd, name: impl rustix::path::Arg, mode: u32) -> Io<()> {
    Ok(chmodat(dir, name, Mode::from_raw_mode(mode), AtFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().mode() & 0o7777
    }

    /// Runs `work` on a thread with a umask of its own.
    fn with_umask<T: Send>(mask: u32, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                crate::sys::process::unshare(libc::CLONE_FS).unwrap();
                rustix::process::umask(Mode::from_raw_mode(mask));
                work()
            });
            thread.join().unwrap()
        })
    }

    #[test]
    fn modes_are_what_was_said_whatever_the_umask() {
        for mask in [0, 0o022, 0o077, 0o777] {
            let home = tempfile::tempdir().unwrap();
            let at = |name: &str| home.path().join(name);
            with_umask(mask, || {
                make_dirs(&at("a/b/c"), DIR).unwrap();
                make_dir(&at("shared"), 0o1777).unwrap();
                write(&at("file"), "text", FILE).unwrap();
                write(&at("hosts"), "text", SHARED_FILE).unwrap();
                replace(&at("log"), &at("log.new"), "text", LOG).unwrap();
                fifo(&at("fifo"), FILE).unwrap();
                own_dir(&at("own")).unwrap();
            });
            let modes = ["a", "a/b/c", "shared", "file", "hosts", "log", "fifo", "own"].map(|n| mode(&at(n)));
            assert_eq!(modes, [DIR, DIR, 0o1777, FILE, SHARED_FILE, LOG, FILE, DIR], "{mask:o}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        std::fs::write(at("victim"), "kept").unwrap();
        symlink(at("victim"), at("link")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        fifo(&at("fifo"), FILE).unwrap();
        std::fs::create_dir(at("dir")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for name in ["link", "dangling", "fifo", "dir", "socket"] {
            assert!(create(&at(name), FILE).is_err(), "{name}");
            assert!(append(&at(name), FILE).is_err(), "{name}");
        }
        // With a reader the FIFO can be opened, and is still refused.
        let _reader = openat(CWD, at("fifo"), OFlags::RDWR, Mode::empty()).unwrap();
        assert!(append(&at("fifo"), FILE).is_err());
        symlink(at("victim"), at("state.new")).unwrap();
        replace(&at("state"), &at("state.new"), "new", FILE).unwrap();
        assert_eq!(std::fs::read_to_string(at("victim")).unwrap(), "kept");
        assert!(!at("nowhere").exists() && at("state").symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn a_log_is_a_regular_file_of_one_name_below_no_link() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let at = |name: &str| home.join(name);
        with_umask(0o777, || open_log(&at("new")).unwrap());
        assert_eq!(mode(&at("new")), LOG);
        // An administrator who opened it up for a log collector did so on purpose.
        std::fs::set_permissions(at("new"), Permissions::from_mode(SHARED_FILE)).unwrap();
        open_log(&at("new")).unwrap();
        assert_eq!(mode(&at("new")), SHARED_FILE);
        std::fs::write(at("victim"), "kept").unwrap();
        std::fs::create_dir(at("dir")).unwrap();
        symlink(at("dir"), at("way")).unwrap();
        symlink(at("victim"), at("link")).unwrap();
        symlink(at("made-through"), at("dangling")).unwrap();
        std::fs::hard_link(at("victim"), at("dir/other-name")).unwrap();
        fifo(&at("fifo"), FILE).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for name in ["link", "dangling", "way/log", "dir/other-name", "fifo", "socket"] {
            assert_eq!(open_log(&at(name)).unwrap_err().kind(), ErrorKind::InvalidInput, "{name}");
        }
        let _reader = openat(CWD, at("fifo"), OFlags::RDWR, Mode::empty()).unwrap();
        assert_eq!(open_log(&at("fifo")).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(open_log(&at("dir")).is_err() && open_log(Path::new("log")).is_err());
        assert!(!at("made-through").exists() && !at("dir/log").exists());

        make_dirs_below(&home, Path::new("a/b"), SHARED_DIR).unwrap();
        assert!(at("a/b").is_dir());
        assert!(make_dirs_below(&home, Path::new("way/c"), SHARED_DIR).is_err());
        assert!(make_dirs_below(&home, Path::new("../c"), SHARED_DIR).is_err());
        assert!(!at("dir/c").exists());
    }

    #[test]
    fn a_log_that_a_verb_names_is_not_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("log");
        fifo(&path, FILE).unwrap();
        assert!(append_named(&path).is_err());
        with_umask(0, || append_named(&home.path().join("file")).unwrap());
        assert_eq!(mode(&home.path().join("file")), LOG);
        append_named(Path::new("/dev/null")).unwrap();
        assert_eq!(read_named(&path, 10).unwrap_err().kind(), ErrorKind::InvalidInput);
        std::fs::write(home.path().join("text"), "12345").unwrap();
        symlink("text", home.path().join("link")).unwrap();
        assert_eq!(read_named(&home.path().join("link"), 5).unwrap(), b"12345");
        assert_eq!(read_named(&home.path().join("link"), 4).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_directory_of_ours_is_closed_and_one_of_others_refused() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let set =
            |name: &str, mode| std::fs::set_permissions(at(name), Permissions::from_mode(mode)).unwrap();
        std::fs::create_dir(at("run")).unwrap();
        std::fs::create_dir(at("run/pods")).unwrap();
        set("run", 0o711);
        own_run_dir(&at("run")).unwrap();
        assert_eq!(mode(&at("run")), DIR);
        // A directory with foreign files in it may be /run itself.
        std::fs::create_dir(at("run/systemd")).unwrap();
        set("run", 0o755);
        own_run_dir(&at("run")).unwrap();
        assert_eq!(mode(&at("run")), 0o755);
        set("run", 0o777);
        assert_eq!(own_run_dir(&at("run")).unwrap_err().kind(), Kind::Denied);
        assert_eq!(own_parent_dir(&at("run")).unwrap_err().kind(), Kind::Denied);
        own_dir(&at("run")).unwrap();
        assert_eq!(mode(&at("run")), DIR);
        for link in ["link", "link/"] {
            let _ = symlink(at("run"), at("link"));
            assert_eq!(own_dir(&at(link)).unwrap_err().kind(), Kind::Invalid);
            assert_eq!(own_run_dir(&at(link)).unwrap_err().kind(), Kind::Invalid);
        }
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(at("run"), Some(65534), None).unwrap();
            assert_eq!(own_dir(&at("run")).unwrap_err().kind(), Kind::Denied);
            assert_eq!(own_parent_dir(&at("run")).unwrap_err().kind(), Kind::Denied);
        }
    }
}
