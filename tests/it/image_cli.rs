//! `coracle image` as a whole: arguments in, exit and store out.
#![expect(clippy::unwrap_used, reason = "the parts that tests share fail as tests do")]

use std::path::Path;

use clap::Parser;
use coracle::cli::Context;
use coracle::cli::image::{ImageArgs, run};
use coracle::error::{Kind, Result};
use coracle::store::Store;

use super::image_fixture::{Layout, image};
use super::support::{Run, Runtime};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: ImageArgs,
}

fn coracle_image(store: &Path, line: &[&str]) -> Result<()> {
    let ctx = Context {
        root: "/nonexistent".into(),
        store: store.to_owned(),
        run: "/nonexistent".into(),
        cache: "/nonexistent".into(),
        systemd_cgroup: false,
        overrides: Default::default(),
    };
    let line = Line::try_parse_from([&["image"], line].concat()).unwrap();
    run(&ctx, &line.args).map(drop)
}

#[test]
fn an_image_comes_in_is_listed_shown_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let layout = dir.path().join("demo");
    Layout::of(image("demo:1")).write(&layout);
    let layout = layout.to_str().unwrap();
    coracle_image(&root, &["import", layout]).unwrap();
    coracle_image(&root, &["import", "-t", "second", "--name", "third:3", layout]).unwrap();
    coracle_image(&root, &["ls"]).unwrap();
    coracle_image(&root, &["ls", "--json"]).unwrap();
    coracle_image(&root, &["ls", "-q"]).unwrap();
    coracle_image(&root, &["inspect", "third:3"]).unwrap();
    let names = Store::open(&root).unwrap().find("demo:1").unwrap().names;
    assert_eq!(
        names,
        ["docker.io/library/demo:1", "docker.io/library/second:latest", "docker.io/library/third:3"]
    );
    let error = coracle_image(&root, &["import", "--platform", "linux/s390x", layout]).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    coracle_image(&root, &["rm", "demo:1", "second"]).unwrap();
    let error = coracle_image(&root, &["rm", "third:3", "nothing"]).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let store = Store::open(&root).unwrap();
    let left = store.find("third:3").unwrap();
    coracle_image(&root, &["rm", &left.id.hex()[..12]]).unwrap();
    assert!(store.images().unwrap().is_empty());
}

#[test]
fn an_image_is_tagged_exported_verified_repaired_and_pruned() {
    needs!(root);
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let layout = dir.path().join("demo");
    Layout::of(image("demo:1")).write(&layout);
    let layout = layout.to_str().unwrap();
    let run = |line: &[&str]| {
        let line: Vec<&str> = [&["--store", root.to_str().unwrap(), "image"], line].concat();
        Run::new(Runtime::Ours.program()).args(&line).go()
    };
    let ok = |line: &[&str]| {
        let run = run(line);
        assert_eq!(run.code(), Some(0), "{line:?}: {}{}", run.stdout, run.stderr);
        run.stdout
    };
    ok(&["import", layout]);
    ok(&["tag", "demo:1", "second", "localhost/third:3"]);
    let refused = run(&["tag", "demo:1", &format!("x@sha256:{}", "0".repeat(64))]);
    assert!(refused.code() == Some(1) && refused.stderr.contains("digest"), "{}", refused.stderr);
    let out = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    ok(&["export", "second", "demo:1", "-o", &out("two.tar")]);
    ok(&["export", "demo:1", "-o", &out("docker.tar"), "--format", "docker"]);
    ok(&["export", "demo:1", "-o", &out("dir/"), "--format", "oci-dir"]);
    assert!(Path::new(&out("dir/oci-layout")).exists());
    assert!(ok(&["df"]).contains("images                 1       0"), "{}", ok(&["df"]));
    let df: serde_json::Value = serde_json::from_str(&ok(&["df", "--json"])).unwrap();
    assert_eq!(df["by_image"][0]["containers"], 0);
    assert!(ok(&["df", "-v"]).contains("docker.io/library/demo:1, docker.io/library/second:latest"));
    assert!(ok(&["verify"]).contains("1 images, 2 layers"));
    let store = Store::open(&root).unwrap();
    let name = store.lower_dirs(&store.find("demo:1").unwrap())[1].join("etc/name");
    std::fs::write(&name, "DEMO:1").unwrap();
    let found = run(&["verify", "second"]);
    assert_eq!(found.code(), Some(1));
    assert!(
        found.stdout.contains("docker.io/library/demo:1")
            && found.stdout.contains("/etc/name: its content differs"),
        "{}",
        found.stdout
    );
    let json: serde_json::Value = serde_json::from_str(&run(&["verify", "--json"]).stdout).unwrap();
    assert_eq!(json["verdict"]["damaged_layers"], 1);
    let refused = run(&["repair"]);
    assert!(refused.code() == Some(1) && refused.stderr.contains("--from"), "{}", refused.stderr);
    let repaired = ok(&["repair", "--from", &out("docker.tar")]);
    assert!(repaired.contains("repaired: ") && repaired.contains("/etc/name"), "{repaired}");
    assert_eq!(ok(&["repair"]), "nothing is damaged\n");
    assert_eq!(ok(&["gc"]), "cleared 0 dead transactions, 0 layers, 0 blobs\n");
    assert!(ok(&["prune", "-f"]).contains("removed 0 images"));
    assert!(ok(&["prune", "-a", "-f"]).contains("removed 1 images"));
    ok(&["import", &out("two.tar")]);
    let names = Store::open(&root).unwrap().find("demo:1").unwrap().names;
    assert_eq!(names, ["docker.io/library/demo:1", "docker.io/library/second:latest"]);
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    for line in [&["rm"][..], &["import"], &["ls", "--json", "-q"], &["inspect"], &[]] {
        assert!(Line::try_parse_from([&["image"], line].concat()).is_err(), "{line:?}");
    }
}

#[test]
fn that_nobody_reads_an_answer_is_no_failure() {
    needs!(root);
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let layout = dir.path().join("demo");
    Layout::of(image("demo:1")).write(&layout);
    let layout = layout.to_str().unwrap();
    let lines: &[&[&str]] = &[
        &["import", layout],
        &["ls"],
        &["ls", "--quiet"],
        &["inspect", "demo:1"],
        &["df", "--verbose"],
        &["verify"],
        &["gc"],
        &["rm", "demo:1"],
        &["import", layout],
        &["prune", "--all", "--force"],
    ];
    for line in lines {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = std::process::Command::new(Runtime::Ours.program());
        let output =
            command.arg("--store").arg(&root).arg("image").args(*line).stdout(writer).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("panicked"), "{line:?}: {}: {said}", output.status);
    }
}
