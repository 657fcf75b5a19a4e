//! `coracle image` as a whole: arguments in, exit and store out.
#![expect(clippy::unwrap_used, reason = "the parts that tests share fail as tests do")]

use std::path::Path;

use clap::Parser;
use coracle::cli::Context;
use coracle::cli::image::{ImageArgs, run};
use coracle::error::{Kind, Result};
use coracle::store::Store;

use super::image_fixture::{Layout, image};

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
fn arguments_that_make_no_sense_are_refused() {
    for line in [&["rm"][..], &["import"], &["ls", "--json", "-q"], &["inspect"], &[]] {
        assert!(Line::try_parse_from([&["image"], line].concat()).is_err(), "{line:?}");
    }
}
