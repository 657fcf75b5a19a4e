//! Images that builders really make and that other runtimes take: the same layer twice, platforms that are wrong or missing.

use std::fs;

use serde_json::{Value, json};

use crate::image_fixture::{Image, Layout, Member, Pack, docker_archive, tar, tar_of};
use crate::launch::prepare;
use crate::support::{Output, Sandbox};

fn import(sandbox: &Sandbox, archive: &[u8], options: &[&str]) -> Output {
    let path = sandbox.path("archive.tar");
    fs::write(&path, archive).unwrap();
    let words = ["image", "import"].map(str::to_owned);
    let all =
        words.into_iter().chain([path.display().to_string()]).chain(options.iter().map(|o| (*o).to_owned()));
    sandbox.coracle(all)
}

/// A layer with a shell.
fn base() -> Vec<u8> {
    let busybox = fs::read("/bin/busybox").unwrap();
    tar(&[Member::Dir("bin/", 0o755), Member::Program("bin/sh", &busybox)])
}

fn output_of(sandbox: &Sandbox, image: &str, script: &str) -> String {
    let args = ["--rm", "--pull", "never", image, "/bin/sh", "-c", script];
    prepare(sandbox, "box", args).go().ok().stdout
}

#[test]
fn a_layer_may_come_more_than_once() {
    needs!(root, busybox, launch_verb);
    let nothing = || tar(&[]);
    let one = || tar(&[Member::Dir("d/", 0o755), Member::File("d/f", b"one")]);
    let two = || tar(&[Member::Dir("d/", 0o755), Member::File("d/.wh.f", b""), Member::File("d/g", b"two")]);
    let cases: [(Vec<Vec<u8>>, &str); 5] = [
        (vec![base(), nothing(), nothing()], ""),
        (vec![nothing(), base(), nothing(), one(), nothing()], "f"),
        (vec![base(), one(), one()], "f"),
        (vec![base(), one(), two(), one()], "f\ng"),
        (vec![base(), two(), one(), two()], "g"),
    ];
    for (layers, expected) in cases {
        let sandbox = Sandbox::new();
        let layout =
            Layout::of(Image { layers, pack: Pack::Gzip, platform: "", name: Some("localhost/box:1") });
        import(&sandbox, &layout.tar(false), &[]).ok();
        let listed = output_of(&sandbox, "localhost/box:1", "cd /d 2>/dev/null && echo * || true");
        assert_eq!(listed.split_whitespace().collect::<Vec<_>>().join("\n"), expected);
    }
}

fn other() -> &'static str {
    if cfg!(target_arch = "aarch64") { "linux/amd64" } else { "linux/arm64" }
}

fn of_platform(name: &'static str, platform: &'static str) -> Image<'static> {
    Image { layers: vec![base()], pack: Pack::Gzip, platform, name: Some(name) }
}

/// A layout whose image says this about its platform, in its configuration only.
fn claiming(edit: impl Fn(&mut Value)) -> Layout {
    let mut layout = Layout::of(of_platform("localhost/box:1", ""));
    layout.edit_config(edit);
    layout.entries()[0].as_object_mut().unwrap().remove("platform");
    layout
}

#[test]
fn a_single_image_is_taken_whatever_platform_it_claims() {
    needs!(root, busybox, launch_verb);
    let claims: [fn(&mut Value); 6] = [
        |config| config["architecture"] = json!("sparc64"),
        |config| config["architecture"] = json!(""),
        |config| config["architecture"] = Value::Null,
        |config| drop(config.as_object_mut().unwrap().remove("architecture")),
        |config| drop(config.as_object_mut().unwrap().remove("os")),
        |config| (config["os"], config["architecture"]) = (json!("windows"), json!("amd64")),
    ];
    for claim in claims {
        let sandbox = Sandbox::new();
        let imported = import(&sandbox, &claiming(claim).tar(false), &[]).ok();
        assert!(imported.stderr.contains("claims to be for"), "{imported}");
        assert_eq!(output_of(&sandbox, "localhost/box:1", "echo runs"), "runs\n");
    }
    let sandbox = Sandbox::new();
    let archive = tar_of(&docker_archive(&of_platform("localhost/box:1", other()), "localhost/box:1"));
    let imported = import(&sandbox, &archive, &[]).ok();
    assert!(imported.stderr.contains("localhost/box:1 claims to be for"), "{imported}");
    assert_eq!(output_of(&sandbox, "localhost/box:1", "echo runs"), "runs\n");
    // Whoever names a platform gets that one or none.
    let sandbox = Sandbox::new();
    let refused = import(&sandbox, &archive, &["--platform", "linux/s390x"]).fails();
    assert!(refused.stderr.contains("no image for linux/s390x"), "{refused}");
}

#[test]
fn the_platform_chooses_among_several_and_what_is_left_out_is_named() {
    needs!(root, busybox, launch_verb);
    let sandbox = Sandbox::new();
    let mut layout = Layout::of(of_platform("localhost/box:1", other()));
    layout.add(of_platform("localhost/box:1", ""));
    layout.add(of_platform("localhost/only-other:1", other()));
    let imported = import(&sandbox, &layout.tar(false), &[]).ok();
    assert!(
        imported.stderr.contains("only-other") && imported.stderr.contains("claims to be for"),
        "{imported}"
    );
    for image in ["localhost/box:1", "localhost/only-other:1"] {
        assert_eq!(output_of(&sandbox, image, "echo runs"), "runs\n", "{image}");
    }
    // An index of images for other platforms has something to choose from, and nothing fits.
    let sandbox = Sandbox::new();
    let mut layout = Layout::of(of_platform("localhost/rest:1", ""));
    let mut descriptors = vec![layout.manifest(&of_platform("localhost/box:1", "linux/s390x"))];
    descriptors.push(layout.manifest(&of_platform("localhost/box:1", "linux/ppc64le")));
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": descriptors
    });
    let mut entry =
        layout.blob("application/vnd.oci.image.index.v1+json", serde_json::to_vec(&index).unwrap());
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "localhost/foreign:1"});
    layout.entries().push(entry);
    let imported = import(&sandbox, &layout.tar(false), &[]).ok();
    assert!(imported.stderr.contains("foreign") && imported.stderr.contains("left out"), "{imported}");
    assert_eq!(output_of(&sandbox, "localhost/rest:1", "echo runs"), "runs\n");
}
