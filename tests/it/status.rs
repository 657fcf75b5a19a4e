//! `coracle status`, with the daemon running and stopped.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use std::os::unix::net::UnixListener;

use crate::support::{Run, Sandbox, Serve, container, coracle_program, pod_on_host, wait_until};

fn status(serve: &Serve, args: &[&str]) -> Run {
    Run::new(coracle_program()).args(["status", "--config"]).arg(serve.path("config.toml")).args(args)
}

fn json(serve: &Serve) -> Value {
    serde_json::from_str(&status(serve, &["--json"]).go().ok().stdout).unwrap()
}

#[test]
fn the_status_has_what_runs_also_while_the_daemon_is_stopped() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let config = serve.logged(pod_on_host("web"));
    let pod = serve.run_pod(&config);
    serve.run_container(&pod, &config, &container(&config, "sleeper", "sleep 1000"));
    serve.run_container(&pod, &config, &container(&config, "failing", "exit 3"));
    let find = |all: &Value, name: &str| {
        let containers = all["pods"][0]["containers"].as_array().unwrap().clone();
        containers.into_iter().find(|one| one["name"] == name).unwrap()
    };
    wait_until("the exit to be recorded", || (find(&json(&serve), "failing")["exitCode"] == 3).then_some(()));
    let all = json(&serve);
    assert_eq!(all["daemon"]["pid"], serve.pid(), "{all:#}");
    assert!(all["daemon"]["memoryBytes"].as_u64().unwrap() > 100_000, "{all:#}");
    assert_eq!(all["keepers"].as_array().unwrap().len(), 2, "{all:#}");
    assert_eq!(all["pods"][0]["name"], "web", "{all:#}");
    assert_eq!(
        (&all["pods"][0]["ready"], &find(&all, "sleeper")["state"]),
        (&true.into(), &"running".into())
    );
    assert_eq!(all["store"]["damaged"].as_array().unwrap().len(), 0, "{all:#}");
    let output = status(&serve, &[]).go().ok();
    for part in [
        "daemon    running (pid",
        "1 ready, 0 not ready",
        "1 running, 1 exited",
        "/web",
        "sleeper",
        "Error (3)",
    ] {
        assert!(output.stdout.contains(part), "{part}: {output}");
    }
    assert!(output.stdout.lines().all(|line| line.chars().count() <= 100), "{output}");
    fs::write(serve.path("registries.yaml"), "mirrors: [").unwrap();
    serve.signal(Signal::HUP);
    wait_until("the warning to be kept", || {
        json(&serve)["warnings"].to_string().contains("registries.yaml").then_some(())
    });
    serve.stop();
    let all = json(&serve);
    assert!(all["daemon"].is_null() && find(&all, "sleeper")["state"] == "running", "{all:#}");
    let output = status(&serve, &[]).go().ok();
    assert!(
        output.stdout.contains("daemon    stopped") && output.stdout.contains("registries.yaml"),
        "{output}"
    );
    serve.start();
    serve.removes_all();
}

#[test]
fn other_users_and_damage_get_a_clear_answer() {
    needs!(root, launch_verb);
    let serve = Serve::new();
    // Others may read this configuration, and not what it names.
    let text = fs::read_to_string(serve.path("config.toml")).unwrap();
    let readable = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    fs::write(readable.path(), text).unwrap();
    fs::set_permissions(readable.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let output = Run::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(coracle_program())
        .args(["status", "--config"])
        .arg(readable.path())
        .go()
        .exits(1);
    assert!(output.stderr.contains("hint: run it as root"), "{output}");
    let layers = serve.path("store/layers");
    let layer = fs::read_dir(layers).unwrap().next().unwrap().unwrap().path();
    fs::remove_dir_all(layer).unwrap();
    let output = status(&serve, &[]).go().ok();
    assert!(output.stdout.contains("damaged: ") && output.stdout.contains("image repair"), "{output}");
}

#[test]
fn a_damaged_store_hides_nothing_else() {
    needs!(root, launch_verb);
    let serve = Serve::new();
    let text = fs::read_to_string(serve.path("config.toml")).unwrap();
    let (store, copy) = (serve.path("store"), serve.path("copy"));
    let journal = copy.join("journal");
    let cases: [(&str, &dyn Fn()); 6] = [
        ("missing", &|| fs::remove_file(&journal).unwrap()),
        ("empty", &|| fs::write(&journal, "").unwrap()),
        ("cut", &|| {
            // Half a record at the end is what a power cut leaves, and no damage.
            fs::File::options().write(true).open(&journal).unwrap().set_len(10).unwrap();
        }),
        ("fifo", &|| {
            fs::remove_file(&journal).unwrap();
            Run::new("mkfifo").arg(&journal).go().ok();
        }),
        ("layers", &|| fs::remove_dir_all(copy.join("layers")).unwrap()),
        ("file", &|| {
            fs::remove_dir_all(&copy).unwrap();
            fs::write(&copy, "").unwrap();
        }),
    ];
    let changed = text.replace(store.to_str().unwrap(), copy.to_str().unwrap());
    assert_ne!(changed, text);
    fs::write(serve.path("copy.toml"), changed).unwrap();
    for (case, damage) in cases {
        Run::new("cp").arg("-a").arg(&store).arg(&copy).go().ok();
        damage();
        let show = || Run::new(coracle_program()).args(["status", "--config"]).arg(serve.path("copy.toml"));
        let output = show().go().exits(1);
        for part in ["daemon    running (pid", "keeper    ", "pods      ", "store     "] {
            assert!(output.stdout.contains(part), "{case}: {part}: {output}");
        }
        let all: Value = serde_json::from_str(&show().arg("--json").go().exits(1).stdout).unwrap();
        let hint = if case == "file" { "move it away" } else { "image repair" };
        assert!(all["problems"][0]["hint"].as_str().unwrap().contains(hint), "{case}: {all:#}");
        assert_eq!(
            (&all["problems"][0]["topic"], &all["daemon"]["pid"]),
            (&"store".into(), &serve.pid().into())
        );
        if copy.is_dir() {
            fs::remove_dir_all(&copy).unwrap();
        } else {
            fs::remove_file(&copy).unwrap();
        }
    }
}

#[test]
fn nothing_is_written_and_a_stopped_daemon_is_not_started() {
    needs!(root);
    let sandbox = Sandbox::new();
    let path = |name: &str| sandbox.path(name).display().to_string();
    let text = format!("run = {:?}\nstore = {:?}\nsocket = {:?}\n", path("run"), path("store"), path("sock"));
    fs::write(sandbox.path("config.toml"), text).unwrap();
    fs::create_dir(sandbox.path("store")).unwrap();
    // systemd holds the socket, and a connection starts the daemon.
    let socket = UnixListener::bind(sandbox.path("sock")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let run = |verb: &str| {
        Run::new(coracle_program()).args([verb, "--config"]).arg(sandbox.path("config.toml")).go()
    };
    let output = run("status").ok();
    assert!(
        output.stdout.contains("daemon    stopped") && output.stdout.contains("no store yet"),
        "{output}"
    );
    let output = run("check");
    assert!(output.stdout.contains("coracle serve does not listen on"), "{output}");
    assert!(socket.accept().is_err(), "it was connected to");
    for verb in ["check", "enable"] {
        let root = sandbox.path("image");
        let containerd = root.join("var/lib/rancher/k3s/agent/containerd");
        fs::create_dir_all(&containerd).unwrap();
        let golden = include_bytes!("../../src/image/containerd/golden/store.tar.zst");
        fs::write(sandbox.path("golden"), zstd::decode_all(&golden[..]).unwrap()).unwrap();
        Run::new("tar").arg("-C").arg(&containerd).arg("-xf").arg(sandbox.path("golden")).go().ok();
        let mut all = Run::new(coracle_program())
            .arg("--store")
            .arg(sandbox.path("store"))
            .args(["k3s", verb, "--sysroot"])
            .arg(root);
        if verb == "enable" {
            all = all.arg("--dry-run");
        }
        let output = all.go().ok();
        assert!(output.stdout.contains("import"), "{output}");
    }
    assert_eq!(fs::read_dir(sandbox.path("store")).unwrap().count(), 0);
    assert!(!sandbox.path("run").exists());
}

#[test]
fn names_move_no_cursor() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let config = serve.logged(pod_on_host("web\u{1b}[2J\u{9b}"));
    serve.run_pod(&config);
    let output = status(&serve, &[]).go().ok();
    assert!(output.stdout.contains("/web\\u{1b}[2J\\u{9b}"), "{output}");
    assert!(
        !output.stdout.contains(|c: char| c.is_control() && c != '\n'),
        "{}",
        output.stdout.escape_debug()
    );
    assert_eq!(json(&serve)["pods"][0]["name"], "web\u{1b}[2J\u{9b}");
    serve.removes_all();
}
