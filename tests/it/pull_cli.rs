//! `coracle image pull` and `coracle launch --pull` as a user types them.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::image_fixture::{Image, Layout, Pack, image, tar};
use super::pull_fixture::place;
use super::support::registry::{Auth, Fault, TestRegistry};
use super::support::{Output, Run, Runtime, read_terminal, wait_until};

fn coracle(store: &Path, args: &[&str]) -> Output {
    Run::new(Runtime::Ours.program()).arg("--store").arg(store).args(args).go()
}

#[test]
fn several_images_and_lists_come_in_and_one_failure_does_not_stop_the_others() {
    let (place, registry) = (place(), TestRegistry::start());
    for name in ["one:1", "two:2", "three:3"] {
        let (repository, _) = name.split_once(':').unwrap();
        registry.layout(&Layout::of(image(repository)), name);
    }
    let host = registry.host();
    place.write(
        "list.txt",
        &format!("# what the site needs\n{host}/two:2\r\n\r\n  {host}/three:3\n{host}/two:2\n"),
    );
    let list = place.dir.path().join("list.txt");
    let store = place.dir.path().join("cli");
    let (one, none) = (registry.name("one:1"), registry.name("none:0"));
    let out = coracle(&store, &["image", "pull", &none, &one, list.to_str().unwrap()]).fails();
    assert!(out.stderr.contains("none:0"), "{out}");
    assert!(out.stdout.contains(&one), "{out}");
    let names = coracle(&store, &["image", "ls"]).ok().stdout;
    assert!(["one:1", "two:2", "three:3"].iter().all(|name| names.contains(name)), "{names}");
    let quiet = coracle(&store, &["image", "pull", "-q", &one]).ok();
    assert!(quiet.text().starts_with("sha256:") && quiet.stderr.is_empty(), "{quiet}");
    coracle(&store, &["image", "pull", "Not A Name"]).fails();
}

#[test]
fn a_terminal_sees_a_bar_for_each_layer_and_everything_else_next_to_nothing() {
    let (place, registry) = (place(), TestRegistry::start());
    let (layer, _) = registry.big("app:1", 200_000);
    registry.fault("/blobs/", 9, Fault::Drip(20_000, Duration::from_millis(30)));
    let store = place.dir.path().join("cli");
    let (master, terminal) = terminal();
    let mut child = Command::new(Runtime::Ours.program())
        .arg("--store")
        .arg(&store)
        .args(["image", "pull", &registry.name("app:1")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(terminal)
        .spawn()
        .unwrap();
    let seen = read_terminal(&mut std::fs::File::from(master));
    assert!(child.wait().unwrap().success());
    let lines = without_escapes(&seen);
    let of_layer: Vec<&String> = lines.iter().filter(|line| line.starts_with(&layer[7..19])).collect();
    assert!(of_layer.len() > 2, "it moves: {lines:?}");
    assert!(of_layer.iter().any(|line| line.contains("=>") && line.contains("/s")), "{lines:?}");
    assert!(of_layer.last().unwrap().ends_with("unpacked"), "{lines:?}");
    assert!(lines.iter().all(|line| line.len() <= 80), "{lines:?}");
    coracle(&store, &["image", "rm", &registry.name("app:1")]).ok();
    let out = coracle(&store, &["image", "pull", &registry.name("app:1")]).ok();
    assert!(out.stderr.is_empty() && out.stdout.lines().count() == 1, "it took no ten seconds: {out}");
}

/// Both ends of a terminal of 80 columns.
fn terminal() -> (OwnedFd, OwnedFd) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let size = rustix::termios::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&master, size).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let terminal = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap();
    (master, terminal)
}

/// What was drawn, line by line, without the moves of the cursor.
fn without_escapes(text: &str) -> Vec<String> {
    let escape = regex::Regex::new("\u{1b}\\[[0-9;?]*[A-Za-z]").unwrap();
    let plain = escape.replace_all(text, "\n").into_owned();
    plain.split(['\r', '\n']).map(str::trim_end).filter(|l| !l.is_empty()).map(str::to_owned).collect()
}

#[test]
fn events_are_json_one_a_line() {
    let (place, registry) = (place(), TestRegistry::start());
    registry.big("app:1", 200_000);
    registry.fault("/blobs/", 9, Fault::Drip(20_000, Duration::from_millis(70)));
    let store = place.dir.path().join("cli");
    let out = coracle(&store, &["image", "pull", "--json", &registry.name("app:1")]).ok();
    let events: Vec<Value> = out.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds[kinds.len() - 1]), ("begin", "pulled"), "{out}");
    assert!(kinds.contains(&"progress") && kinds.contains(&"end"), "{out}");
    let out = coracle(&store, &["image", "pull", "--json", &registry.name("no:1")]).fails();
    let event: Value = serde_json::from_str(out.text()).unwrap();
    assert_eq!(event["event"], "failed");
}

#[test]
fn logins_come_from_the_command_line() {
    let (place, registry) = (place(), TestRegistry::start());
    registry.small("app:1");
    registry.require(Auth::Basic("joe:secret"));
    let (store, name) = (place.dir.path().join("cli"), registry.name("app:1"));
    let auth = format!(r#"{{"auths": {{"{}": {{"auth": "am9lOnNlY3JldA=="}}}}}}"#, registry.host());
    place.write("auth.json", &auth);
    let file = place.dir.path().join("auth.json");
    let out = coracle(&store, &["image", "pull", "--creds", "joe:wrong", &name]).fails();
    assert!(!out.stderr.contains("wrong"), "a password is not shown: {out}");
    coracle(&store, &["image", "pull", "--creds", "joe:secret", &name]).ok();
    coracle(&store, &["image", "rm", &name]).ok();
    coracle(&store, &["image", "pull", "--authfile", file.to_str().unwrap(), &name]).ok();
    coracle(&store, &["image", "pull", "--tls-verify", &name]).fails();
}

#[test]
fn a_pull_that_is_killed_goes_on_from_where_it_was() {
    let (place, registry) = (place(), TestRegistry::start());
    let (layer, _) = registry.big("app:1", 3 << 20);
    let (store, name) = (place.dir.path().join("cli"), registry.name("app:1"));
    let part = store.join("partial").join(layer.strip_prefix("sha256:").unwrap());
    let killed_at = |bytes: u64| {
        registry.fault(&layer, 1, Fault::Stall(2_000_000));
        let mut child = Command::new(Runtime::Ours.program())
            .arg("--store")
            .arg(&store)
            .args(["image", "pull", &name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the download to stall", || {
            part.metadata().is_ok_and(|meta| meta.len() >= bytes).then_some(())
        });
        child.kill().unwrap();
        child.wait().unwrap();
        registry.heal();
    };
    // The first try only notes that it was; the second keeps what it gets.
    killed_at(0);
    killed_at(2_000_000);
    registry.forget();
    // On a busy machine the stalled transfer may have been tried once more before the kill.
    let kept = part.metadata().unwrap().len();
    assert!((2_000_000..3 << 20).contains(&kept), "{kept}");
    coracle(&store, &["image", "pull", &name]).ok();
    let seen = registry.seen();
    let range = seen.iter().find(|s| s.path.contains(&layer)).unwrap().headers.get("range").unwrap();
    assert_eq!(range, &format!("bytes={kept}-"));
    assert_eq!(std::fs::read_dir(store.join("partial")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(store.join("tmp")).unwrap().count(), 0);
}

#[test]
fn launch_pulls_what_is_missing_and_nothing_when_told_so() {
    needs!(root, busybox, launch_verb);
    let (place, registry) = (place(), TestRegistry::start());
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let layer = tar(&[super::image_fixture::Member::Dir("bin/", 0o755)]);
    let mut shell = tar(&[super::image_fixture::Member::File("bin/busybox", &busybox)]);
    // The fixture writes files without the right to execute.
    shell[100..107].copy_from_slice(b"0000755");
    let sum: u32 = shell[..512]
        .iter()
        .enumerate()
        .map(|(at, b)| if (148..156).contains(&at) { 32 } else { u32::from(*b) })
        .sum();
    shell[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let layout = Layout::of(Image { layers: vec![layer, shell], pack: Pack::Gzip, platform: "", name: None });
    registry.layout(&layout, "app:1");
    let (store, name) = (place.dir.path().join("cli"), registry.name("app:1"));
    let root = place.dir.path().join("run");
    let launch = |pull: &str| {
        let flags = ["--root", root.to_str().unwrap(), "launch", "--rm", "--pull", pull, &name];
        coracle(&store, &[&flags[..], &["/bin/busybox", "echo", "hello"]].concat())
    };
    let out = launch("never").exits(125);
    assert!(out.stderr.contains("coracle image pull"), "{out}");
    assert_eq!(launch("missing").ok().text(), "hello");
    registry.forget();
    launch("missing").ok();
    assert!(registry.seen().is_empty(), "it is here");
    launch("always").ok();
    assert_eq!(registry.seen().len(), 1, "only what the tag means");
}
