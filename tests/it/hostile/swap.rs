//! Directories of a shared volume that turn into symbolic links and back while a neighbour is started on them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use coracle_cri::v1::{ContainerConfig, Mount};
use serde_json::json;

use super::report::Role;
use super::{Spy, rounds};
use crate::support::{Bundle, Sandbox, Serve, container, pod_on_host};

/// A directory of the host with a file in it, which links lead to.
struct Victim {
    dir: PathBuf,
}

impl Victim {
    fn new(sandbox: &Sandbox) -> Self {
        let dir = sandbox.path("victim");
        for name in ["made", "secret-dir"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        fs::write(dir.join("secret"), "of the host").unwrap();
        fs::write(dir.join("made/secret"), "of the host").unwrap();
        Self { dir }
    }

    /// Everything below it with its kind and mode, and every mount on it.
    fn look(&self) -> Vec<String> {
        use std::os::unix::fs::MetadataExt;
        let mut found = Vec::new();
        let mut folders = vec![self.dir.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                let stat = fs::symlink_metadata(entry.path()).unwrap();
                found.push(format!(
                    "{} {:o} {} {}",
                    entry.path().display(),
                    stat.mode(),
                    stat.uid(),
                    stat.len()
                ));
                if stat.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.dir.display().to_string();
        found.extend(mounts.lines().filter(|line| line.contains(&here)).map(str::to_owned));
        found.sort();
        found
    }
}

/// Makes the pair that the attacker exchanges, in its directory.
fn prepare(spy: &Spy, victim: &Path) {
    for name in ["made", "made/deeper", "secret-dir"] {
        fs::create_dir_all(spy.dir().join("swapped").join(name)).unwrap();
    }
    fs::write(spy.dir().join("swapped/secret"), "own").unwrap();
    let up = Path::new("../../../../../../../../../../../..").join(victim.strip_prefix("/").unwrap());
    symlink(up, spy.dir().join("link")).unwrap();
}

/// What a container can ask for below a path that others change.
fn on_swapped(bundle: Bundle) -> Vec<Bundle> {
    let at = |path: &str| format!("/hostile/out/swapped/{path}");
    let tmpfs = json!({ "destination": at("made/x/y"), "type": "tmpfs", "source": "tmpfs" });
    let copied =
        json!({ "destination": at("made"), "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"] });
    let file = json!({ "destination": at("made/file"), "type": "bind", "source": "/etc/hostname", "options": ["bind"] });
    let proc = json!({ "destination": at("made/proc"), "type": "proc", "source": "proc" });
    let number = |name: &str, bundle: &Bundle| {
        let copy = bundle.path().with_extension(name);
        crate::support::Run::new("cp").arg("-a").arg(bundle.path()).arg(&copy).go().ok();
        Bundle::at(copy)
    };
    vec![
        number("tmpfs", &bundle).with_pushed("/mounts", tmpfs).with_pushed("/mounts", file),
        number("copied", &bundle).with_pushed("/mounts", copied).with_pushed("/mounts", proc),
        number("masked", &bundle)
            .with_pushed("/linux/maskedPaths", json!(at("secret")))
            .with_pushed("/linux/maskedPaths", json!(at("secret-dir")))
            .with_pushed("/linux/readonlyPaths", json!(at("made"))),
        number("device", &bundle).with_pushed(
            "/linux/devices",
            json!({ "path": at("made/null"), "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 7, "gid": 7 }),
        ),
        number("cwd", &bundle).with("/process/cwd", json!(at("made/cwd/deep"))),
    ]
}

/// Nothing may be made, changed or mounted on the host; that a start fails is the attacker's own loss.
#[test]
fn nothing_below_a_swapped_directory_leads_to_the_host() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let victim = Victim::new(&sandbox);
    let before = victim.look();
    let spy = Spy::new(&sandbox, "spy", Role::Swap);
    prepare(&spy, &victim.dir);
    sandbox.run_detached(&spy.inside(sandbox.bundle("sleeping")), "web", &[]).ok();
    spy.ready();
    let script = "cat /hostile/out/swapped/secret /hostile/out/swapped/made/secret 2>/dev/null; echo end";
    let bundles = on_swapped(spy.beside(sandbox.bundle("writable-root").script(script)));
    let mut started = 0;
    for round in 0..rounds() * 2 {
        let bundle = &bundles[round % bundles.len()];
        let output = sandbox.run(bundle);
        started += usize::from(output.code() == Some(0));
        assert!(!output.stdout.contains("of the host"), "{}: {output}", bundle.path().display());
        assert_eq!(victim.look(), before, "{}", bundle.path().display());
        // What earlier rounds made there is the attacker's.
        assert!(sandbox.status("run").is_none());
    }
    let report = spy.stop();
    eprintln!("{started} of {} started, {} swaps", rounds() * 2, report.newcomers);
    assert!(report.newcomers > 100, "it swapped {} times only", report.newcomers);
    assert!(started > 0, "no container started at all: nothing was tried");
}

#[test]
fn no_mount_of_a_pod_follows_a_swapped_directory_to_the_host() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let victim = Victim::new(serve.sandbox());
    let before = victim.look();
    let spy = Spy::new(serve.sandbox(), "spy", Role::Swap);
    prepare(&spy, &victim.dir);
    let pod = serve.logged(pod_on_host("swaps"));
    let id = serve.run_pod(&pod);
    serve.run_container(&id, &pod, &spy.in_pod(container(&pod, "attacker", "")));
    spy.ready();
    let mount = |at: &str, source: &Path| Mount {
        container_path: format!("/hostile/out/swapped/{at}"),
        host_path: source.display().to_string(),
        ..Mount::default()
    };
    let volume = serve.path("volume");
    fs::create_dir(&volume).unwrap();
    let mut started = 0;
    for round in 0..rounds() {
        let script = "cat /hostile/out/swapped/secret 2>/dev/null; exit 0";
        let plain = container(&pod, &format!("next{round}"), script);
        let mut wished = ContainerConfig { command: plain.command.clone(), ..spy.in_pod(plain) };
        wished.command = ["/bin/sh", "-c", script].map(str::to_owned).into();
        wished.mounts.push(mount("made/x/y", &volume));
        wished.mounts.push(mount("made/file", Path::new("/etc/hostname")));
        if round % 2 == 0 {
            wished.working_dir = "/hostile/out/swapped/made/cwd".to_owned();
        }
        if let Ok(c) = serve.try_create(&id, &pod, &wished) {
            if serve.try_start(&c).is_ok() {
                started += 1;
                serve.exited(&c);
            }
            serve.try_remove(&c).unwrap();
        }
        assert_eq!(victim.look(), before, "round {round}");
        assert!(!serve.log_of(&format!("next{round}")).iter().any(|line| line.contains("of the host")));
    }
    let report = spy.stop();
    eprintln!("{started} of {} started, {} swaps", rounds(), report.newcomers);
    assert!(report.newcomers > 100 && started > 0, "{started} started, {} swaps", report.newcomers);
    serve.removes_all();
}
