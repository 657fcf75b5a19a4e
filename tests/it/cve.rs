//! Known holes of container runtimes, each tried on ours. `tests/conformance/CVE.md` says of each
//! whether it applies, why, and which test shows it; those by images are in `cve_images`, those by pods in `cve_pods`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::support::{Bundle, Run, Sandbox, copy_program, coracle_program, wait_until};

/// A directory of the host that an attack aims at, empty.
fn victim(sandbox: &Sandbox) -> PathBuf {
    let victim = sandbox.path("victim");
    fs::create_dir(&victim).unwrap();
    victim
}

#[track_caller]
fn assert_untouched(victim: &Path) {
    let found: Vec<_> = fs::read_dir(victim).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(found.is_empty(), "on the host: {found:?}");
}

/// The bundle without the mounts below this path.
fn without_mounts(bundle: Bundle, path: &str) -> Bundle {
    bundle.edit(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| !m["destination"].as_str().unwrap().starts_with(path));
    })
}

fn grant(bundle: Bundle, capability: &str) -> Bundle {
    ["bounding", "effective", "permitted"].iter().fold(bundle, |bundle, set| {
        bundle.with_pushed(&format!("/process/capabilities/{set}"), json!(capability))
    })
}

/// Says how writing to the executable of its parent goes, now and when that is gone.
const WRITE_TO_PARENT: &str = "exec 9</proc/$PPID/exe && echo open; (echo evil >/proc/self/fd/9); \
    while kill -0 $PPID 2>/dev/null; do sleep 0.02; done; (echo evil >/proc/self/fd/9); echo end; sleep 1000";

#[test]
fn cve_2019_5736_the_executable_cannot_be_written() {
    needs!(root, busybox, oci_verbs);
    not_by!(Runc, Crun: "runs a copy of our own executable");
    let sandbox = Sandbox::new();
    // A copy: were it written to, the other tests would suffer.
    let program = sandbox.path("coracle");
    copy_program(coracle_program(), &program);
    let before = fs::read(&program).unwrap();
    let bundle =
        grant(sandbox.bundle("minimal"), "CAP_SYS_PTRACE").without_namespace("pid").script("sleep 1000");
    sandbox.run_detached(&bundle, "web", &[]).ok();
    // The last argument once looked like a request for help, which needs no protection.
    for (number, last) in ["plain", "-h", "--help"].iter().enumerate() {
        let log = sandbox.path(&format!("out{number}"));
        let file = fs::File::create(&log).unwrap();
        let mut child = std::process::Command::new(&program)
            .arg("--root")
            .arg(sandbox.root())
            .args(["exec", &sandbox.id("web"), "/bin/sh", "-c", WRITE_TO_PARENT, "sh", last])
            .stdin(std::process::Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let read = || fs::read_to_string(&log).unwrap();
        wait_until("the first attempt", || read().contains("fd/9").then_some(()));
        child.kill().unwrap();
        child.wait().unwrap();
        wait_until("the second attempt", || read().contains("end").then_some(()));
        let (text, refused) = (read(), "Read-only file system");
        assert!(text.starts_with("open\n") && text.matches(refused).count() == 2, "{last}: {text}");
    }
    assert!(fs::read(&program).unwrap() == before, "the executable was changed");
}

#[test]
fn cve_2019_5736_the_payload_may_be_the_executable_itself() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let before = fs::metadata(coracle_program()).unwrap();
    let bundle = sandbox.bundle("writable-root").with_file("script", "#!/proc/self/exe\n");
    fs::set_permissions(bundle.root().join("script"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    for program in ["/script", "/proc/self/exe"] {
        let bundle = sandbox_args(&bundle, program);
        sandbox.run(&bundle);
        let after = fs::metadata(coracle_program()).unwrap();
        assert_eq!((before.modified().unwrap(), before.len()), (after.modified().unwrap(), after.len()));
    }
}

fn sandbox_args(bundle: &Bundle, program: &str) -> Bundle {
    let copy = bundle.path().with_extension(program.replace('/', "_"));
    Run::new("cp").arg("-a").arg(bundle.path()).arg(&copy).go().ok();
    Bundle::at(copy).args(&[program])
}

#[test]
fn cve_2016_9962_the_entering_process_shows_nothing_of_the_host() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let mark = sandbox.path("mark");
    fs::write(&mark, "host").unwrap();
    let look = format!(
        "echo ready; while :; do for p in /proc/[0-9]*; do [ -e $p/root{mark} ] && echo root; \
         [ -e $p/cwd/state.json ] && echo cwd; \
         for f in $p/fd/*; do [ -e $f/state.json ] && echo directory; [ -e $f/../root ] && echo above; done; done; done 2>/dev/null",
        mark = mark.display()
    );
    let bundle = grant(sandbox.bundle("minimal"), "CAP_SYS_PTRACE").script(&look);
    sandbox.run_detached(&bundle, "web", &[]).ok();
    sandbox.wait_for_output("web", "ready");
    for _ in 0..60 {
        sandbox
            .prepare(["exec", &sandbox.id("web"), "/bin/true"])
            .cwd(&sandbox.path("root").join(sandbox.id("web")))
            .go()
            .ok();
    }
    let seen = sandbox.output_of("web");
    assert!(seen == "ready\n", "the host was seen {} times", seen.lines().count() - 1);
}

/// What is open in a process: everything but the descriptor with which ls looks.
const LIST: &str = "ls -l /proc/self/fd 2>/dev/null | sed -n 's/.* \\([0-9]*\\) -> /\\1 /p' | grep -v '^[012] \\|/proc/.*/fd$'; echo end";

#[test]
fn cve_2024_21626_no_descriptor_of_ours_reaches_anybody() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let note = sandbox.path("hook.out");
    let hook = |point: &str| {
        let script = format!(
            "ls -l /proc/$$/fd | sed -n 's/.* \\([0-9]*\\) -> /{point} \\1 /p' | grep -v '{point} [012] ' >>{}",
            note.display()
        );
        json!([{ "path": "/bin/busybox", "args": ["sh", "-c", script + "; :"] }])
    };
    let bundle = sandbox.bundle("minimal").script(&format!("{LIST}; sleep 1000"));
    let bundle = ["createRuntime", "poststart", "poststop"]
        .iter()
        .fold(bundle, |b, p| b.with(&format!("/hooks/{p}"), hook(p)));
    let log = sandbox.path("web.out");
    // The caller has descriptors open that it forgot to mark close-on-exec.
    let leaky = "exec 7</ 8</etc; exec \"$@\"";
    let run = sandbox.prepare_script(leaky, ["run", "--detach", "--bundle"]);
    run.arg(bundle.path()).arg(sandbox.id("web")).output_into(&log).go().ok();
    assert_eq!(sandbox.wait_for_output("web", "end"), "end\n");
    let output = sandbox.prepare_script(leaky, ["exec", &sandbox.id("web"), "/bin/sh", "-c", LIST]).go().ok();
    assert_eq!(output.stdout, "end\n");
    sandbox.prepare_script(leaky, ["delete", "--force", &sandbox.id("web")]).go().ok();
    let ours: Vec<_> = fs::read_to_string(&note)
        .unwrap()
        .lines()
        .filter(|l| l.contains("state.json") || l.contains("/root/"))
        .map(str::to_owned)
        .collect();
    assert!(ours.is_empty(), "{ours:?}");
}

#[test]
fn cve_2024_21626_no_descriptor_is_a_working_directory() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    sandbox.run_detached(&sandbox.bundle("sleeping"), "web", &[]).ok();
    let leaky = "exec 7</ 8</etc; exec \"$@\"";
    for number in 3..16 {
        let cwd = format!("/proc/self/fd/{number}");
        let bundle = sandbox_cwd(&sandbox, number, &cwd);
        let run =
            sandbox.prepare_script(leaky, ["run", "--bundle"]).arg(bundle.path()).arg(sandbox.id("run"));
        let output = run.go().fails();
        assert_eq!(output.stdout, "", "{cwd}: {output}");
        let run = sandbox.prepare_script(leaky, ["exec", "--cwd", &cwd, &sandbox.id("web"), "/bin/ls"]);
        let output = run.go().fails();
        assert_eq!(output.stdout, "", "{cwd}: {output}");
    }
}

fn sandbox_cwd(sandbox: &Sandbox, number: u32, cwd: &str) -> Bundle {
    let bundle =
        if number == 3 { sandbox.bundle("minimal") } else { Bundle::at(sandbox.path("bundles/minimal")) };
    bundle.args(&["/bin/ls"]).with("/process/cwd", json!(cwd))
}

#[test]
fn cve_2025_31133_masked_paths_stay_masked() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = without_mounts(sandbox.bundle("writable-root"), "/dev");
    let bundle = bundle
        .with("/linux/maskedPaths", json!(["/secret"]))
        .with_file("secret", "secret\n")
        .with_file("other", "other\n");
    let null = bundle.root().join("dev/null");
    let bundle = bundle.script("cat /secret; echo written >/secret; cat /secret; echo end");
    for planted in ["link", "file"] {
        let _ = fs::remove_file(&null);
        match planted {
            "link" => symlink("/other", &null).unwrap(),
            _ => fs::write(&null, "planted\n").unwrap(),
        }
        let output = sandbox.run(&bundle);
        // Either it is refused, or what is seen is the real /dev/null.
        assert!(output.code() != Some(0) || output.stdout == "end\n", "{planted}: {output}");
        assert!(!output.stdout.contains("secret") && !output.stdout.contains("other"), "{planted}: {output}");
        assert_eq!(fs::read_to_string(bundle.root().join("other")).unwrap(), "other\n");
    }
}

#[test]
fn cve_2025_52565_a_planted_console_is_not_followed() {
    needs!(root, busybox, oci_verbs);
    for (planted, target) in
        [("console", "/target"), ("ptmx", "/target"), ("pts/ptmx", "/target"), ("console", "../proc/keys")]
    {
        let sandbox = Sandbox::new();
        let keep_pts = planted == "console";
        let bundle = sandbox.bundle("terminal").with("/root/readonly", json!(false));
        let bundle = if keep_pts { without_dev(bundle) } else { without_mounts(bundle, "/dev") };
        let bundle = bundle.with_file("target", "target").script("cat /target; stat -c %t,%T /proc/keys");
        fs::create_dir_all(bundle.root().join("dev/pts")).unwrap();
        symlink(target, bundle.root().join("dev").join(planted)).unwrap();
        let socket = crate::support::ConsoleSocket::at(sandbox.path("console"));
        let output =
            sandbox.create_with(&bundle, "web", &["--console-socket", socket.path().to_str().unwrap()]);
        if output.code() != Some(0) {
            assert!(output.stderr.contains("terminal"), "{planted}: {}", output.stderr);
            continue;
        }
        let mut master = socket.receive();
        // 1,3 is /dev/null: what masks the file in that bundle.
        sandbox.runtime(["start", &sandbox.id("web")]).ok();
        assert_eq!(crate::support::read_terminal(&mut master), "target1,3\r\n", "{planted} -> {target}");
    }
}

/// Without the tmpfs on /dev: what the image has there is seen.
fn without_dev(bundle: Bundle) -> Bundle {
    bundle.edit(|config| {
        config["mounts"].as_array_mut().unwrap().retain(|m| {
            m["destination"] != "/dev" && m["destination"] != "/dev/shm" && m["destination"] != "/dev/mqueue"
        });
    })
}

/// What runtimes make or remove in /dev, where the image has a link to the host in its place.
#[test]
fn cve_2026_41579_a_dev_that_is_a_link_changes_nothing_of_the_host() {
    needs!(root, busybox, oci_verbs);
    const NAMES: [&str; 7] = ["ptmx", "console", "null", "stdin", "fd", "core", "pts"];
    for (fixture, up) in [("writable-root", false), ("writable-root", true), ("terminal", false)] {
        let sandbox = Sandbox::new();
        let victim = victim(&sandbox);
        NAMES.iter().for_each(|name| fs::write(victim.join(name), "of the host").unwrap());
        let look = || {
            let entries = fs::read_dir(&victim).unwrap().flatten();
            let mut all: Vec<_> =
                entries.map(|entry| (entry.file_name(), fs::read(entry.path()).ok())).collect();
            all.sort();
            all
        };
        let before = look();
        let bundle = without_mounts(sandbox.bundle(fixture), "/dev").with("/root/readonly", json!(false));
        let bundle = bundle.args(&["/bin/true"]);
        let target = if up {
            Path::new("../../../../../../../../../..").join(victim.strip_prefix("/").unwrap())
        } else {
            victim.clone()
        };
        let _ = fs::remove_dir_all(bundle.root().join("dev"));
        symlink(target, bundle.root().join("dev")).unwrap();
        if fixture == "terminal" {
            let socket = crate::support::ConsoleSocket::at(sandbox.path("console"));
            sandbox.create_with(&bundle, "web", &["--console-socket", socket.path().to_str().unwrap()]);
        } else {
            sandbox.run(&bundle);
        }
        assert_eq!(look(), before, "{fixture}");
    }
}

#[test]
fn cve_2025_52881_no_mount_lands_on_proc_through_a_link() {
    needs!(root, busybox, oci_verbs);
    let tmpfs = json!({ "type": "tmpfs", "source": "tmpfs" });
    let bind = json!({ "type": "bind", "source": "/etc", "options": ["rbind"] });
    for (kind, target) in
        [(&tmpfs, "/proc/self"), (&tmpfs, "/proc/sys/kernel"), (&bind, "/proc/self/attr"), (&tmpfs, "/proc")]
    {
        let sandbox = Sandbox::new();
        let mut mount: Value = kind.clone();
        mount["destination"] = json!("/data");
        let bundle = sandbox.bundle("writable-root").with_pushed("/mounts", mount).script("echo started");
        symlink(target, bundle.root().join("data")).unwrap();
        let output = sandbox.run(&bundle).fails();
        assert!(output.stderr.contains("/data"), "{target}: {output}");
        assert_eq!(output.stdout, "");
    }
}

#[test]
fn cve_2019_16884_nothing_but_procfs_is_mounted_on_proc() {
    needs!(root, busybox, oci_verbs);
    let tmpfs = |at: &str| json!({ "destination": at, "type": "tmpfs", "source": "tmpfs" });
    let bind =
        |at: &str| json!({ "destination": at, "type": "bind", "source": "/etc", "options": ["rbind"] });
    for mount in [
        tmpfs("/proc"),
        tmpfs("/x/../proc"),
        bind("/proc"),
        tmpfs("/proc/self"),
        bind("/proc/sys/kernel"),
        tmpfs("/proc/1/attr"),
    ] {
        let sandbox = Sandbox::new();
        let bundle = sandbox.bundle("minimal").with_pushed("/mounts", mount.clone()).script("echo started");
        let output = sandbox.run(&bundle).fails();
        assert!(output.stderr.contains("/proc") || output.stderr.contains("mount"), "{mount}: {output}");
        assert_eq!(output.stdout, "", "{mount}");
    }
    // What lxcfs and the like put there is no danger.
    let sandbox = Sandbox::new();
    let mount = json!({ "destination": "/proc/uptime", "type": "bind", "source": "/etc/hostname", "options": ["bind"] });
    let bundle = sandbox.bundle("minimal").with_pushed("/mounts", mount).script("cat /proc/uptime");
    assert_eq!(sandbox.run(&bundle).ok().stdout, fs::read_to_string("/etc/hostname").unwrap());
}

#[test]
fn cve_2019_19921_proc_and_sys_are_no_links() {
    needs!(root, busybox, oci_verbs);
    for (name, target) in [("proc", "/evil"), ("sys", "/evil"), ("proc", "evil"), ("sys", "/proc")] {
        let sandbox = Sandbox::new();
        let bundle = sandbox.bundle("writable-root").script("echo started");
        fs::create_dir(bundle.root().join("evil")).unwrap();
        fs::remove_dir(bundle.root().join(name)).unwrap();
        symlink(target, bundle.root().join(name)).unwrap();
        let output = sandbox.run(&bundle).fails();
        assert!(output.stdout.is_empty() && output.stderr.contains(name), "{name} -> {target}: {output}");
    }
}

#[test]
fn cve_2024_45310_nothing_is_made_behind_a_link() {
    needs!(root, busybox, oci_verbs);
    for (source, up) in [("/etc", false), ("/etc/passwd", false), ("/etc", true), ("/etc/passwd", true)] {
        let sandbox = Sandbox::new();
        let victim = victim(&sandbox);
        let mount = json!({ "destination": "/link/made/below", "type": "bind", "source": source, "options": ["bind"] });
        let bundle =
            sandbox.bundle("writable-root").with_pushed("/mounts", mount).script("ls -d /link/made/below");
        let target = if up {
            Path::new("../../../../../../../../../..").join(victim.strip_prefix("/").unwrap())
        } else {
            victim.clone()
        };
        symlink(target, bundle.root().join("link")).unwrap();
        sandbox.run(&bundle);
        assert_untouched(&victim);
    }
}

#[test]
fn cve_2021_30465_a_swapped_link_leads_nowhere() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let victim = victim(&sandbox);
    let mounts = ["a", "b", "c"]
        .map(|name| json!({ "destination": format!("/swap/{name}"), "type": "tmpfs", "source": "tmpfs" }));
    let bundle = mounts
        .into_iter()
        .fold(sandbox.bundle("writable-root"), |b, m| b.with_pushed("/mounts", m))
        .args(&["/bin/true"]);
    let (one, other) = (bundle.root().join("swap"), bundle.root().join("swap-link"));
    fs::create_dir(&one).unwrap();
    symlink(&victim, &other).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let (here, flags) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
                let _ = rustix::fs::renameat_with(here, &one, here, &other, flags);
            }
        });
        for _ in 0..60 {
            sandbox.run(&bundle);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_untouched(&victim);
}

#[test]
fn cve_2022_29162_nothing_is_inheritable() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal").script("grep CapInh /proc/self/status; sleep 1000");
    sandbox.run_detached(&bundle, "web", &[]).ok();
    let none = "CapInh:\t0000000000000000\n";
    assert_eq!(sandbox.wait_for_output("web", "\n"), none);
    let run = sandbox.prepare(["exec", "--cap", "CAP_NET_RAW", &sandbox.id("web"), "/bin/grep", "CapInh"]);
    assert_eq!(run.arg("/proc/self/status").go().ok().stdout, none);
}

#[test]
fn cve_2022_23648_a_volume_behind_a_link_shows_nothing_of_the_host() {
    needs!(root, busybox, launch_verb);
    let sandbox = Sandbox::new();
    let secret = victim(&sandbox);
    let link = Path::new("../../../../../../../../../..").join(secret.strip_prefix("/").unwrap());
    crate::launch::import(
        &sandbox,
        json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "Volumes": { "/steal": {} } }),
        |root| {
            symlink(link, root.join("steal")).unwrap();
        },
    );
    fs::write(secret.join("secret"), "host").unwrap();
    for flags in [&[][..], &["--read-only"]] {
        let output = crate::launch::shell(&sandbox, flags, "cat /steal/secret; touch /steal/mine");
        assert!(!output.stdout.contains("host"), "{output}");
    }
    assert_eq!(fs::read_dir(&secret).unwrap().count(), 1);
}

#[test]
fn cve_2024_40635_a_user_id_does_not_overflow() {
    needs!(root, busybox, launch_verb);
    let sandbox = crate::launch::plain();
    for user in ["4294967296", "4294967296:0", "0:4294967296", "-1", "1000:-1"] {
        let flag = format!("--user={user}");
        crate::launch::shell(&sandbox, &[&flag], "id -u").exits(125);
    }
}
