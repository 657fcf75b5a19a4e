//! Archives that arrive in `import_dirs`, change and go while `coracle serve` runs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use coracle_cri::v1::{Image as Found, ImageSpec, ImageStatusRequest};
use rustix::process::Signal;

use crate::image_fixture::{Image, Layout, image};
use crate::support::{Serve, wait_until};

fn status(serve: &Serve, name: &str) -> Option<Found> {
    let image = Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() });
    serve.run(serve.image().image_status(ImageStatusRequest { image, verbose: false })).unwrap().image
}

/// An archive with one image, whose user tells versions of it apart.
fn archive(name: &str, user: &str) -> Vec<u8> {
    let mut layout = Layout::of(Image { name: Some(name), ..image("small") });
    layout.edit_config(|config| config["config"]["User"] = user.into());
    layout.tar(true)
}

#[track_caller]
fn wait_for(serve: &Serve, name: &str) -> Found {
    wait_until(name, || status(serve, name).filter(|found| found.pinned))
}

#[track_caller]
fn wait_for_version(serve: &Serve, name: &str, user: &str) {
    let is_user = |found: &Found| found.uid.as_ref().is_some_and(|uid| uid.value.to_string() == user);
    wait_until(name, || status(serve, name).filter(|found| found.pinned && is_user(found)));
}

/// Waits until the daemon has had the time to take what it must not take.
fn rest() {
    std::thread::sleep(Duration::from_millis(300));
}

#[test]
fn late_archives_are_imported_when_they_are_complete_however_they_come() {
    needs!(root, launch_verb);
    let serve = Serve::new();
    let (images, outside) = (serve.path("images"), serve.path("outside"));
    // The directory did not exist when the daemon started.
    rest();
    fs::create_dir(&images).unwrap();
    fs::create_dir(&outside).unwrap();
    let put = |path: &Path, name: &str| fs::write(path, archive(name, "1")).unwrap();
    put(&images.join("written.tar"), "late.example/written:1");
    put(&outside.join("moved.tar"), "late.example/moved:1");
    fs::rename(outside.join("moved.tar"), images.join("moved.tar")).unwrap();
    put(&outside.join("linked.tar"), "late.example/linked:1");
    fs::hard_link(outside.join("linked.tar"), images.join("linked.tar")).unwrap();
    put(&outside.join("pointed.tar"), "late.example/pointed:1");
    symlink(outside.join("pointed.tar"), images.join("pointed.tar")).unwrap();
    // As rsync does it.
    put(&images.join(".synced.tar.Xb1"), "late.example/synced:1");
    fs::rename(images.join(".synced.tar.Xb1"), images.join("synced.tar")).unwrap();
    // As scp does it.
    let bytes = archive("late.example/slow:1", "1");
    let mut slow = fs::File::create(images.join("slow.tar")).unwrap();
    let mut part = fs::File::create(images.join("other.tar.part")).unwrap();
    slow.write_all(&bytes[..bytes.len() / 2]).unwrap();
    part.write_all(b"x").unwrap();
    for name in ["written", "moved", "linked", "pointed", "synced"] {
        wait_for(&serve, &format!("late.example/{name}:1"));
    }
    rest();
    assert!(!serve.log().contains("images/"), "what is being written is reported: {}", serve.log());
    slow.write_all(&bytes[bytes.len() / 2..]).unwrap();
    drop(slow);
    wait_for(&serve, "late.example/slow:1");
    drop(part);
    wait_until("a warning of a name that is none", || {
        serve.log().contains("other.tar.part is not").then_some(())
    });
    // What a link will lead to, and a daemon that starts while an archive is being written.
    symlink(outside.join("later.tar"), images.join("later.tar")).unwrap();
    let bytes = archive("late.example/started:1", "1");
    let mut slow = fs::File::create(images.join("started.tar")).unwrap();
    slow.write_all(&bytes[..bytes.len() / 2]).unwrap();
    serve.stop();
    serve.start();
    put(&outside.join("later.tar"), "late.example/later:1");
    wait_for(&serve, "late.example/later:1");
    assert!(!serve.log().contains("started.tar"), "{}", serve.log());
    slow.write_all(&bytes[bytes.len() / 2..]).unwrap();
    drop(slow);
    wait_for(&serve, "late.example/started:1");
}

#[test]
fn archives_that_are_written_or_replaced_under_another_name_are_imported() {
    needs!(root, launch_verb);
    let serve = Serve::stopped("");
    let (images, outside) = (serve.path("images"), serve.path("outside"));
    fs::create_dir(&images).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("q.tar"), archive("late.example/q:1", "1")).unwrap();
    symlink("../outside/q.tar", images.join("s.tar")).unwrap();
    serve.start();
    wait_for_version(&serve, "late.example/q:1", "1");
    let bytes = archive("late.example/linked:1", "1");
    let mut slow = fs::File::create(outside.join("linked.tar")).unwrap();
    slow.write_all(&bytes[..bytes.len() / 2]).unwrap();
    fs::hard_link(outside.join("linked.tar"), images.join("linked.tar")).unwrap();
    rest();
    slow.write_all(&bytes[bytes.len() / 2..]).unwrap();
    drop(slow);
    wait_for(&serve, "late.example/linked:1");
    let _reader = fs::File::open(outside.join("q.tar")).unwrap();
    fs::write(outside.join("new"), archive("late.example/q:1", "2")).unwrap();
    fs::rename(outside.join("new"), outside.join("q.tar")).unwrap();
    wait_for_version(&serve, "late.example/q:1", "2");
    // Many that go at once are no reason for a warning.
    for number in 0..50 {
        fs::hard_link(images.join("linked.tar"), images.join(format!("l{number}.tar"))).unwrap();
    }
    for number in 0..50 {
        fs::remove_file(images.join(format!("l{number}.tar"))).unwrap();
    }
    rest();
    assert!(!serve.log().contains("warning: import"), "{}", serve.log());
}

#[test]
fn archives_that_change_are_imported_anew_and_those_that_go_are_unpinned_but_kept() {
    needs!(root, launch_verb);
    let serve = Serve::stopped("");
    let (images, file) = (serve.path("images"), serve.path("images/app.tar"));
    fs::create_dir(&images).unwrap();
    let name = "late.example/app:1";
    fs::write(&file, archive(name, "1001")).unwrap();
    serve.start();
    wait_for_version(&serve, name, "1001");
    fs::write(&file, archive(name, "1002")).unwrap();
    wait_for_version(&serve, name, "1002");
    // One of the same size and mtime.
    let new = serve.path("new.tar");
    fs::write(&new, archive(name, "1003")).unwrap();
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let times = fs::FileTimes::new().set_modified(modified);
    fs::File::options().write(true).open(&new).unwrap().set_times(times).unwrap();
    assert_eq!(fs::metadata(&new).unwrap().len(), fs::metadata(&file).unwrap().len());
    fs::rename(&new, &file).unwrap();
    wait_for_version(&serve, name, "1003");
    // The same while the daemon is stopped, and in the same inode while it runs.
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let keeping_times = |user: &str, path: &Path| {
        fs::write(path, archive(name, user)).unwrap();
        let times = fs::FileTimes::new().set_modified(modified);
        fs::File::options().write(true).open(path).unwrap().set_times(times).unwrap();
    };
    serve.stop();
    keeping_times("1004", &new);
    fs::rename(&new, &file).unwrap();
    serve.start();
    wait_for_version(&serve, name, "1004");
    keeping_times("1005", &file);
    wait_for_version(&serve, name, "1005");
    // While the next version is on its way, and when it is broken, the one before keeps its pin.
    let mut slow = fs::File::create(&file).unwrap();
    slow.write_all(b"no archive").unwrap();
    rest();
    assert!(status(&serve, name).unwrap().pinned);
    drop(slow);
    let said = || serve.log().matches("import ").count();
    wait_until("a warning", || (said() == 1).then_some(()));
    assert!(status(&serve, name).unwrap().pinned);
    // It is not tried again for a change of something else.
    fs::write(images.join("other.tar"), archive("late.example/other:1", "2")).unwrap();
    wait_for(&serve, "late.example/other:1");
    assert_eq!(said(), 1, "{}", serve.log());
    serve.signal(Signal::HUP);
    wait_until("another attempt after a reload", || (said() == 2).then_some(()));
    for file in [file, images.join("other.tar")] {
        fs::remove_file(file).unwrap();
    }
    for name in [name, "late.example/other:1"] {
        wait_until("the pin to go", || (!status(&serve, name).unwrap().pinned).then_some(()));
    }
}

#[test]
fn directories_may_come_late_and_go_and_the_configuration_may_name_others() {
    needs!(root, launch_verb);
    let serve = Serve::stopped("");
    let deep = serve.path("rancher/k3s/agent/images");
    let others = |dir: &Path| format!("images.import_dirs = [{:?}]\n", dir.display().to_string());
    serve.configure(&others(&deep));
    serve.start();
    let put = |dir: &Path, name: &str| {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("a.tar"), archive(name, "1")).unwrap();
        wait_for(&serve, name);
    };
    let is_unpinned = |name: &str| {
        wait_until(name, || (!status(&serve, name).unwrap().pinned).then_some(()));
    };
    put(&deep, "late.example/first:1");
    fs::remove_dir_all(serve.path("rancher")).unwrap();
    is_unpinned("late.example/first:1");
    put(&deep, "late.example/again:1");
    fs::rename(serve.path("rancher/k3s"), serve.path("rancher/old")).unwrap();
    is_unpinned("late.example/again:1");
    fs::rename(serve.path("rancher/old"), serve.path("rancher/k3s")).unwrap();
    wait_for(&serve, "late.example/again:1");
    let other = serve.path("other");
    serve.configure(&others(&other));
    serve.signal(Signal::HUP);
    is_unpinned("late.example/again:1");
    put(&other, "late.example/other:1");
    // By a link that leads elsewhere from now on.
    fs::rename(&other, serve.path("target")).unwrap();
    is_unpinned("late.example/other:1");
    symlink("target", &other).unwrap();
    wait_for(&serve, "late.example/other:1");
}

#[test]
fn nothing_is_lost_with_the_events_and_nothing_wakes_up_without_them() {
    needs!(root, launch_verb);
    let serve = Serve::stopped("");
    let images = serve.path("images");
    fs::create_dir(&images).unwrap();
    serve.start();
    fs::write(images.join("a.tar"), archive("late.example/a:1", "1")).unwrap();
    wait_for(&serve, "late.example/a:1");
    // More events than the queue holds, each of them unlike the one before.
    let most: usize =
        fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    serve.signal(Signal::STOP);
    for _ in 0..most / 3 + 1 {
        fs::write(images.join(".x"), "").unwrap();
        fs::remove_file(images.join(".x")).unwrap();
    }
    fs::write(images.join("b.tar"), archive("late.example/b:1", "2")).unwrap();
    fs::remove_file(images.join("a.tar")).unwrap();
    serve.signal(Signal::CONT);
    wait_for(&serve, "late.example/b:1");
    wait_until("the pin to go", || (!status(&serve, "late.example/a:1").unwrap().pinned).then_some(()));
    // Threads of the import and of the calls end by themselves; only the main thread counts.
    let switches = || {
        let text = fs::read_to_string(format!("/proc/{}/status", serve.pid())).unwrap();
        text.lines().find(|line| line.starts_with("voluntary_ctxt")).unwrap().to_owned()
    };
    wait_until("it to come to rest", || {
        let before = switches();
        std::thread::sleep(Duration::from_secs(1));
        (switches() == before).then_some(())
    });
}
