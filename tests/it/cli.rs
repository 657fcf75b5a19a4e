//! The command line itself: flags, messages, formats. What the verbs do is in `oci_*` and `launch`.

use serde_json::Value;

use crate::support::{Run, Sandbox, coracle_program};

fn coracle(args: &[&str]) -> Run {
    Run::new(coracle_program()).args(args)
}

#[test]
fn help_names_every_verb_once() {
    let output = coracle(&["--help"]).go().ok();
    for verb in
        ["launch", "image", "create", "start", "run", "exec", "state", "kill", "delete", "list", "ps", "spec"]
    {
        let lines = output.stdout.lines().filter(|l| l.trim_start().starts_with(&format!("{verb} "))).count();
        assert_eq!(lines, 1, "{verb}: {output}");
    }
}

#[test]
fn an_unknown_verb_or_flag_is_refused_with_a_suggestion() {
    let output = coracle(&["lauch"]).go().exits(1);
    assert!(output.stderr.contains("launch"), "{output}");
    let output = coracle(&["run", "--bundel", ".", "x"]).go().exits(1);
    assert!(output.stderr.contains("--bundle"), "{output}");
    coracle(&[]).go().exits(1);
}

#[test]
fn a_container_that_does_not_exist_is_named_with_a_hint() {
    let sandbox = Sandbox::new();
    for verb in ["state", "start", "kill", "delete", "pause", "resume", "ps"] {
        let output = sandbox.coracle([verb, "no-such"]).exits(1);
        assert!(output.stderr.contains("\"no-such\" does not exist"), "{verb}: {output}");
        assert!(output.stderr.contains("hint: "), "{verb}: {output}");
    }
    sandbox.coracle(["delete", "--force", "no-such"]).ok();
    sandbox.coracle(["exec", "no-such", "true"]).exits(255);
}

#[test]
fn errors_go_to_the_log_as_callers_read_them() {
    let sandbox = Sandbox::new();
    let log = sandbox.path("log.json");
    let path = log.to_str().unwrap();
    sandbox.coracle(["--log", path, "--log-format", "json", "state", "no-such"]).exits(1);
    let text = std::fs::read_to_string(&log).unwrap();
    let line: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().unwrap().contains("does not exist"), "{line}");
    assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    std::fs::remove_file(&log).unwrap();
    sandbox.coracle(["--log", path, "state", "no-such"]).exits(1);
    assert!(std::fs::read_to_string(&log).unwrap().contains("level=error msg="));
    std::fs::remove_file(&log).unwrap();
}

#[test]
fn who_is_no_terminal_gets_an_error_and_its_causes_in_one_line() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.path("no-bundle");
    let output = sandbox.coracle(["create", "--bundle", bundle.to_str().unwrap(), "x"]).exits(1);
    let first = output.stderr.lines().next().unwrap();
    assert!(first.contains("config.json: No such file"), "{output}");
}

#[test]
fn an_empty_root_has_no_containers() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.coracle(["list", "--quiet"]).ok().stdout, "");
    assert_eq!(sandbox.coracle(["list", "--format", "json"]).ok().stdout.trim(), "[]");
    assert!(sandbox.coracle(["list"]).ok().stdout.starts_with("ID"));
}

#[test]
fn spec_writes_a_configuration_and_never_over_one() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.path("bundle");
    std::fs::create_dir(&bundle).unwrap();
    let path = bundle.to_str().unwrap();
    sandbox.coracle(["spec", "--bundle", path]).ok();
    let config: Value = serde_json::from_slice(&std::fs::read(bundle.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["process"]["args"][0], "sh");
    assert_eq!(config["root"]["readonly"], true);
    let output = sandbox.coracle(["spec", "--bundle", path]).exits(1);
    assert!(output.stderr.contains("already exists"), "{output}");
    std::fs::remove_file(bundle.join("config.json")).unwrap();
    sandbox.coracle(["spec", "--rootless", "--bundle", path]).ok();
    let config: Value = serde_json::from_slice(&std::fs::read(bundle.join("config.json")).unwrap()).unwrap();
    let kinds: Vec<_> =
        config["linux"]["namespaces"].as_array().unwrap().iter().map(|n| n["type"].clone()).collect();
    assert!(kinds.contains(&"user".into()) && !kinds.contains(&"network".into()), "{kinds:?}");
    std::fs::remove_dir_all(bundle).unwrap();
}

#[test]
fn features_lists_what_the_specification_asks_for() {
    let output = coracle(&["features"]).go().ok();
    let features: Value = serde_json::from_str(&output.stdout).unwrap();
    let has = |pointer: &str, wanted: &str| {
        let list = features.pointer(pointer).and_then(Value::as_array).unwrap();
        assert!(list.iter().any(|v| v == wanted), "{pointer}: {wanted}");
    };
    has("/hooks", "createContainer");
    has("/mountOptions", "rro");
    has("/linux/namespaces", "time");
    has("/linux/capabilities", "CAP_SYS_ADMIN");
    has("/linux/seccomp/actions", "SCMP_ACT_NOTIFY");
    has("/linux/seccomp/archs", "SCMP_ARCH_AARCH64");
}

#[test]
fn completions_know_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(coracle(&["completions", shell]).go().ok().stdout.contains("launch"), "{shell}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let script = format!(
        "{} completions bash | head -c 10 >/dev/null; exit ${{PIPESTATUS[0]}}",
        coracle_program().display()
    );
    Run::new("bash").args(["-c", &script]).go().ok();
}

#[test]
fn the_version_says_commit_specification_and_features() {
    let output = coracle(&["--version"]).go().ok();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[0], concat!("coracle ", env!("CARGO_PKG_VERSION")), "{output}");
    assert!(lines[1].starts_with("commit: ") && lines[1].len() > "commit: ".len(), "{output}");
    assert_eq!(lines[2], "spec: 1.2.1", "{output}");
    assert!(lines[3].starts_with("features: ") && lines[3].contains("+SECCOMP"), "{output}");
}

#[test]
fn the_manual_has_a_page_for_every_verb() {
    let sandbox = Sandbox::new();
    let directory = sandbox.path("man");
    std::fs::create_dir(&directory).unwrap();
    coracle(&["man"]).arg(&directory).go().ok();
    let help = coracle(&["--help"]).go().ok();
    let verbs = help.stdout.lines().skip_while(|line| *line != "Commands:").skip(1);
    let verbs: Vec<&str> = verbs.map_while(|line| line.split_whitespace().next()).collect();
    assert!(verbs.len() > 20, "{verbs:?}");
    for verb in verbs {
        let page = std::fs::read_to_string(directory.join(format!("coracle-{verb}.1"))).expect(verb);
        assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{verb}: {page}");
    }
    for page in ["coracle.1", "coracle-keeper.1", "coracle-config.toml.5"] {
        let page = std::fs::read_to_string(directory.join(page)).expect(page);
        assert!(page.contains(&format!("coracle {}", env!("CARGO_PKG_VERSION"))), "{page}");
    }
}
