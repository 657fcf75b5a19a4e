//! `coracle status`, with the daemon running and stopped.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Run, Serve, container, coracle_program, pod_on_host, wait_until};

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
