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

/// A docker archive whose manifest.json was edited.
fn docker_archive_with(edit: impl Fn(&mut Value)) -> Vec<u8> {
    let mut files = docker_archive(&of_platform("localhost/box:1", ""), "localhost/box:1");
    let (_, text) = files.iter_mut().find(|(name, _)| name == "manifest.json").unwrap();
    let mut manifest: Value = serde_json::from_slice(text).unwrap();
    edit(&mut manifest[0]);
    *text = serde_json::to_vec(&manifest).unwrap();
    tar_of(&files)
}

#[test]
fn names_in_the_manifest_of_a_docker_archive_may_have_any_form() {
    needs!(root, busybox, launch_verb);
    fn paths(entry: &mut Value, edit: impl Fn(&str) -> String) {
        entry["Config"] = edit(entry["Config"].as_str().unwrap()).into();
        for layer in entry["Layers"].as_array_mut().unwrap() {
            *layer = edit(layer.as_str().unwrap()).into();
        }
    }
    fn rename(entry: &mut Value, from: &str, to: &str) {
        let value = entry.as_object_mut().unwrap().remove(from).unwrap();
        entry[to] = value;
    }
    let edits: [fn(&mut Value); 6] = [
        |entry| paths(entry, |path| format!("./{path}")),
        |entry| paths(entry, |path| format!("/{path}")),
        |entry| paths(entry, |path| format!("x/..//{path}")),
        |entry| paths(entry, |path| path.replace('/', "\\")),
        |entry| {
            entry["RepoTags"] = json!(["", null, "<none>:<none>", "localhost/box:<none>", "localhost/box:1"])
        },
        |entry| {
            rename(entry, "Config", "config");
            rename(entry, "RepoTags", "repoTags");
            rename(entry, "Layers", "layers");
        },
    ];
    for edit in edits {
        let sandbox = Sandbox::new();
        let imported = import(&sandbox, &docker_archive_with(edit), &[]).ok();
        assert_eq!(imported.stderr, "", "{imported}");
        assert_eq!(output_of(&sandbox, "localhost/box:1", "echo runs"), "runs\n");
    }
    for out in ["../etc/passwd", "..\\x", "/../../x"] {
        let sandbox = Sandbox::new();
        let archive = docker_archive_with(|entry| entry["Config"] = out.into());
        let refused = import(&sandbox, &archive, &[]).fails();
        assert!(refused.stderr.contains("leads out of the archive"), "{refused}");
    }
}

#[test]
fn archives_appended_to_each_other_may_have_a_blob_twice_but_not_two_of_one_name() {
    let sandbox = Sandbox::new();
    let files = docker_archive(&of_platform("localhost/box:1", ""), "localhost/box:1");
    let twice: Vec<_> = files.iter().chain(&files).cloned().collect();
    import(&sandbox, &tar_of(&twice), &[]).ok();
    let layout = Layout::of(of_platform("localhost/box:1", ""));
    let mut members: Vec<(String, Vec<u8>)> =
        layout.files.iter().map(|(name, bytes)| (name.clone(), bytes.clone())).collect();
    members.extend(members.clone());
    members.push(("index.json".to_owned(), serde_json::to_vec(&layout.index).unwrap()));
    let sandbox = Sandbox::new();
    import(&sandbox, &tar_of(&members), &[]).ok();
    let mut other = files.clone();
    let (_, config) =
        other.iter_mut().find(|(name, _)| name.ends_with(".json") && name != "manifest.json").unwrap();
    config.push(b' ');
    let both: Vec<_> = files.into_iter().chain(other).collect();
    let refused = import(&Sandbox::new(), &tar_of(&both), &[]).fails();
    assert!(refused.stderr.contains("is in the archive twice"), "{refused}");
}

#[test]
fn media_types_and_nulls_of_other_writers_are_taken() {
    needs!(root, busybox, launch_verb);
    let edits: [fn(&mut Layout); 5] = [
        |layout| {
            layout
                .edit_manifest(|manifest| manifest["config"]["mediaType"] = json!("application/octet-stream"))
        },
        |layout| layout.edit_manifest(|manifest| manifest["config"]["mediaType"] = json!("")),
        |layout| {
            layout.edit_manifest(|manifest| manifest["layers"][0]["mediaType"] = json!("application/x-gzip"))
        },
        |layout| {
            layout.edit_manifest(|manifest| {
                manifest["annotations"] = Value::Null;
                manifest["mediaType"] = Value::Null;
                manifest["layers"][0]["urls"] = Value::Null;
            });
        },
        |layout| {
            layout.edit_config(|config| {
                config["history"] = Value::Null;
                config["config"] = json!({"Env": null, "Labels": null, "Volumes": null, "Cmd": null});
            });
        },
    ];
    for edit in edits {
        let sandbox = Sandbox::new();
        let mut layout = Layout::of(of_platform("localhost/box:1", ""));
        edit(&mut layout);
        import(&sandbox, &layout.tar(false), &[]).ok();
        assert_eq!(output_of(&sandbox, "localhost/box:1", "echo runs"), "runs\n");
    }
    // A configuration that is none is not run, whatever its type says.
    let sandbox = Sandbox::new();
    let mut layout = Layout::of(of_platform("localhost/box:1", ""));
    layout.edit_config(|config| *config = json!({"name": "a chart"}));
    layout.edit_manifest(|manifest| manifest["config"]["mediaType"] = json!("application/json"));
    import(&sandbox, &layout.tar(false), &[]).fails();
}

#[test]
fn an_image_removed_by_its_id_is_gone_with_all_its_names_and_manifests_and_each_is_printed() {
    needs!(launch_verb);
    let sandbox = Sandbox::new();
    let packed = |pack: Pack, name: &'static str| {
        let layers = vec![tar(&[Member::File("f", b"x")])];
        Layout::of(Image { layers, pack, platform: "", name: Some(name) }).tar(false)
    };
    let imported = import(&sandbox, &packed(Pack::Gzip, "localhost/a:1"), &[]).ok();
    let id = imported.stdout.split_whitespace().last().unwrap().to_owned();
    import(&sandbox, &packed(Pack::Zstd, "localhost/b:1"), &[]).ok();
    sandbox.coracle(["image", "tag", "localhost/a:1", "localhost/c:1"]).ok();
    let removed = sandbox.coracle(["image", "rm", &id[7..19]]).ok();
    let expected =
        format!("untagged localhost/a:1\nuntagged localhost/b:1\nuntagged localhost/c:1\nremoved {id}\n");
    assert_eq!(removed.stdout, expected);
    let left = sandbox.coracle(["image", "ls"]).ok();
    assert!(!left.stdout.contains(&id[7..19]), "{left}");
    // Without any name too.
    let archive = tar_of(&docker_archive(&of_platform("localhost/box:1", ""), ""));
    let imported = import(&sandbox, &archive, &[]).ok();
    let id = imported.stdout.split_whitespace().last().unwrap().to_owned();
    assert_eq!(sandbox.coracle(["image", "rm", &id]).ok().stdout, format!("removed {id}\n"));
}

#[test]
fn archives_of_every_compression_of_k3s_and_docker_are_imported() {
    use std::io::Write;
    type Compress = fn(&[u8]) -> Vec<u8>;
    needs!(launch_verb);
    let image = || Image {
        layers: vec![tar(&[Member::File("f", &[b'x'; 100_000])])],
        pack: Pack::Plain,
        platform: "",
        name: Some("localhost/box:1"),
    };
    let archives = [tar_of(&docker_archive(&image(), "localhost/box:1")), Layout::of(image()).tar(false)];
    let compressions: [Compress; 5] = [
        |plain| Pack::Gzip.pack(plain),
        |plain| Pack::Zstd.pack(plain),
        |plain| {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        },
        |plain| {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        },
        |plain| {
            let options = lzma_rust2::XzOptions::with_preset(6);
            let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        },
    ];
    for compress in compressions {
        for archive in &archives {
            let sandbox = Sandbox::new();
            let packed = compress(archive);
            assert!(packed.len() < archive.len() / 10);
            import(&sandbox, &packed, &[]).ok();
            let half = import(&Sandbox::new(), &packed[..packed.len() / 2], &[]).fails();
            assert!(half.stderr.contains("ends too early"), "{half}");
        }
        let mut files = docker_archive(&image(), "localhost/box:1");
        let layers = files.iter_mut().filter(|(name, _)| name.ends_with("layer.tar"));
        layers.for_each(|(_, layer)| *layer = compress(layer));
        import(&Sandbox::new(), &tar_of(&files), &[]).ok();
    }
}

#[test]
fn an_image_named_by_its_digest_is_found_by_it_and_no_other_digest_is_believed() {
    needs!(launch_verb);
    let named = |layout: &mut Layout, name: String| {
        layout.entries()[0]["annotations"] = json!({"io.containerd.image.name": name});
    };
    let inspect = |sandbox: &Sandbox, name: &str| sandbox.coracle(["image", "inspect", name]);
    // As `ctr image export` writes it: the name of a manifest, or of an index above it.
    let single = || Layout::of(of_platform("localhost/box:1", ""));
    let below_an_index = || {
        let mut layout = Layout::new();
        let descriptor = layout.manifest(&of_platform("localhost/box:1", ""));
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
        let entry =
            layout.blob("application/vnd.oci.image.index.v1+json", serde_json::to_vec(&index).unwrap());
        layout.entries().push(entry);
        layout
    };
    for mut layout in [single(), below_an_index()] {
        let sandbox = Sandbox::new();
        let digest = layout.entries()[0]["digest"].as_str().unwrap().to_owned();
        named(&mut layout, format!("docker.io/library/box:1@{digest}"));
        assert_eq!(import(&sandbox, &layout.tar(false), &[]).ok().stderr, "");
        let found = inspect(&sandbox, &format!("box@{digest}")).ok();
        assert!(found.stdout.contains(&format!("docker.io/library/box@{digest}")), "{found}");
    }
    let sandbox = Sandbox::new();
    let other = coracle::digest::Digest::of(b"another image");
    let mut layout = single();
    named(&mut layout, format!("docker.io/library/box@{other}"));
    let imported = import(&sandbox, &layout.tar(false), &[]).ok();
    assert!(imported.stderr.contains("has the digest of something else"), "{imported}");
    inspect(&sandbox, &format!("box@{other}")).fails();
    let archive = docker_archive_with(|entry| entry["RepoTags"] = json!([format!("box@{other}")]));
    let imported = import(&sandbox, &archive, &[]).ok();
    assert!(imported.stderr.contains("cannot be verified"), "{imported}");
    inspect(&sandbox, &format!("box@{other}")).fails();
}

#[test]
fn an_artifact_among_images_is_left_out_by_its_name() {
    needs!(launch_verb);
    let sandbox = Sandbox::new();
    let mut layout = Layout::of(of_platform("localhost/box:1", ""));
    let mut chart = Layout::of(of_platform("localhost/chart:1", ""));
    chart.edit_manifest(|manifest| {
        manifest["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json")
    });
    let entry = chart.entries().remove(0);
    layout.files.extend(chart.files.clone());
    layout.entries().push(entry.clone());
    let imported = import(&sandbox, &layout.tar(false), &[]).ok();
    let digest = entry["digest"].as_str().unwrap();
    assert!(imported.stderr.contains(digest) && imported.stderr.contains("helm.config"), "{imported}");
    assert!(imported.stdout.contains("localhost/box:1") && !imported.stdout.contains("chart"), "{imported}");
}
