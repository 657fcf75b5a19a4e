//! `coracle check` on this machine. What it makes of other machines is in `src/check/tests.rs`.

use std::fs;

use serde_json::Value;

use crate::support::{Run, Sandbox, Serve, coracle_program};

fn check(sandbox: &Sandbox, args: &[&str]) -> Run {
    let config = sandbox.path("config.toml");
    if !config.exists() {
        let path = |name: &str| sandbox.path(name).display().to_string();
        let text =
            format!("run = {:?}\nstore = {:?}\nsocket = {:?}\n", path("run"), path("store"), path("sock"));
        fs::write(&config, text).unwrap();
    }
    Run::new(coracle_program()).args(["check", "--config"]).arg(config).args(args)
}

fn rows(text: &str) -> Vec<(String, String, String)> {
    let report: Value = serde_json::from_str(text).unwrap();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let rows = report["rows"].as_array().unwrap().iter();
    rows.map(|row| (text(row, "topic"), text(row, "state"), text(row, "finding") + &text(row, "advice")))
        .collect()
}

#[test]
fn the_exit_code_says_whether_a_row_is_an_error_and_nothing_is_left() {
    needs!(root);
    let sandbox = Sandbox::new();
    let output = check(&sandbox, &["--json"]).go();
    let all = rows(&output.stdout);
    let is_bad = all.iter().any(|(_, state, _)| state == "error");
    assert_eq!(output.code(), Some(i32::from(is_bad)), "{output}");
    for topic in
        ["kernel", "cgroups", "overlay", "clock", "store", "flash", "CNI", "other runtimes", "programs"]
    {
        assert_eq!(all.iter().filter(|(name, ..)| name == topic).count(), 1, "{topic}: {output}");
    }
    let state = |topic: &str| all.iter().find(|(name, ..)| name == topic).unwrap().1.as_str();
    assert_eq!([state("kernel"), state("overlay")], ["ok"; 2], "{output}");
    // Another test, or its keeper, may run an older program.
    assert_ne!(state("programs"), "error", "{output}");
    assert_eq!(state("socket"), "warning", "{output}");
    assert!(!sandbox.path("store").exists() && !sandbox.path("run").exists(), "it made something");
    fs::write(sandbox.path("config.toml"), "stroe = \"/x\"\n").unwrap();
    let output = check(&sandbox, &["--json"]).go().exits(1);
    assert!(output.stdout.contains("did you mean store"), "{output}");
}

#[test]
fn for_people_it_is_a_table_that_fits_and_quiet_leaves_out_what_is_well() {
    needs!(root);
    let sandbox = Sandbox::new();
    let output = check(&sandbox, &[]).go();
    assert!(output.stdout.lines().all(|line| line.chars().count() <= 100), "{output}");
    assert!(
        output.stdout.contains("\nok       kernel") || output.stdout.starts_with("ok       kernel"),
        "{output}"
    );
    assert!(output.stdout.trim_end().lines().last().unwrap().starts_with("This machine can"), "{output}");
    let output = check(&sandbox, &["--quiet"]).go();
    assert!(!output.stdout.contains("ok       "), "{output}");
    assert!(output.stdout.contains("warning  socket"), "{output}");
}

#[test]
fn a_daemon_that_runs_is_seen_and_other_users_are_told_what_they_cannot_see() {
    needs!(root, launch_verb);
    let serve = Serve::new();
    let config = serve.path("config.toml");
    let output = Run::new(coracle_program()).args(["check", "--json", "--config"]).arg(&config).go();
    let all = rows(&output.stdout);
    for topic in ["socket", "keeper", "configuration"] {
        assert!(all.iter().any(|(name, state, _)| name == topic && state == "ok"), "{topic}: {output}");
    }
    // The sandbox is closed to others, who so have the defaults.
    let output = Run::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(coracle_program())
        .args(["check", "--json"])
        .go();
    let all = rows(&output.stdout);
    assert!(
        all.iter().any(|(name, state, text)| name == "user" && state == "warning" && text.contains("sudo")),
        "{output}"
    );
}
