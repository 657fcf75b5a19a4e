use std::io::Cursor;

use super::*;
use crate::store::Store;

/// Runs `inside`, which returns whether it succeeded, in the sandbox of a new layer.
fn caged(inside: impl Fn(&OwnedFd) -> bool) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let txn = store.begin().unwrap();
    let staged = txn.stage_layer().unwrap();
    std::fs::write(staged.path().join("own"), "x").unwrap();
    let cage = cage::Cage::prepare(staged.root().as_fd()).unwrap();
    let child = fork(|| match cage.enter([-1, -1, -1].map(|_| staged.root().as_raw_fd())) {
        Ok(root) => i32::from(!inside(&root)),
        Err(_) => 2,
    })
    .unwrap();
    let ended = child.wait().unwrap();
    assert_ne!(ended, Ended::Exited(2), "the cage could not be entered");
    ended == Ended::Exited(0)
}

#[test]
fn the_unpacking_process_reaches_only_its_directory() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    use rustix::fs::{CWD, Mode, OFlags};
    use rustix::io::Errno;
    let open = |path: &str| rustix::fs::openat(CWD, path, OFlags::RDONLY, Mode::empty()).map(drop);
    assert!(caged(|_| open("/own").is_ok()));
    assert!(caged(|root| rustix::fs::openat(root, "own", OFlags::RDONLY, Mode::empty()).is_ok()));
    for path in ["/etc/passwd", "/proc/self/status", "/../etc/passwd", "/dev/null"] {
        assert!(caged(|_| open(path) == Err(Errno::NOENT)), "{path}");
    }
    let inet = rustix::net::AddressFamily::INET;
    let stream = rustix::net::SocketType::STREAM;
    assert!(caged(|_| rustix::net::socket(inet, stream, None).map(drop) == Err(Errno::PERM)));
    assert!(caged(|_| crate::sys::process::unshare(libc::CLONE_NEWNS) == Err(Errno::PERM)));
    assert!(caged(|_| rustix::process::chroot("/").map(drop) == Err(Errno::PERM)));
    assert!(caged(|_| rustix::mount::unmount("/", rustix::mount::UnmountFlags::DETACH) == Err(Errno::PERM)));
}

#[test]
fn an_error_of_the_stream_is_unchanged_and_the_child_is_reaped() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other(Error::new(Kind::Unreachable, "the link is down").hint("plug it in")))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let txn = store.begin().unwrap();
    let staged = txn.stage_layer().unwrap();
    let mut stream = Cursor::new(vec![0; 512]).chain(Broken);
    let error = apply(&mut stream, &staged, &Limits::default(), &mut |_| Ok(())).unwrap_err();
    assert_eq!((error.kind(), error.first_hint()), (Kind::Unreachable, Some("plug it in")));
    let stop = |_| Err(Error::new(Kind::System, "the disk is full"));
    let mut stream = Cursor::new(vec![0; 1024]);
    let error = apply(&mut stream, &staged, &Limits::default(), &mut { stop }).unwrap_err();
    assert_eq!(error.chain(), "the disk is full");
}
