//! `coracle k3s` and `coracle microk8s` on trees that are laid out as those of real nodes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Output, Run, coracle_program};

/// The unit that K3s's installer writes.
pub(crate) const UNIT: &str = "[Unit]\nDescription=Lightweight Kubernetes\n\n[Service]\nType=notify\n\
    EnvironmentFile=-/etc/systemd/system/k3s.service.env\n\
    ExecStartPre=/bin/sh -xc '! /usr/bin/systemctl is-enabled --quiet nm-cloud-setup.service 2>/dev/null'\n\
    ExecStart=/usr/local/bin/k3s \\\n    server \\\n";
const K3S_OWN: &str = "etc/rancher/k3s/config.yaml.d/90-coracle.yaml";
const K3S_ORDER: &str = "etc/systemd/system/k3s.service.d/90-coracle.conf";
const CORACLE: &str = "etc/coracle/config.d/90-k3s.toml";
const ENDPOINT: &str = "container-runtime-endpoint: unix:///run/coracle/coracle.sock";
const ARGUMENTS: &str = "var/snap/microk8s/2210/args/kubelet";
/// As MicroK8s ships it.
const KUBELET: &str = "--kubeconfig=${SNAP_DATA}/credentials/kubelet.config\n--cert-dir=${SNAP_DATA}/certs\n\
    --root-dir=${SNAP_COMMON}/var/lib/kubelet\n--fail-swap-on=false\n\
    --eviction-hard=\"memory.available<100Mi,nodefs.available<1Gi,imagefs.available<1Gi\"\n\
    --container-runtime=remote\n--container-runtime-endpoint=${SNAP_COMMON}/run/containerd.sock\n\
    --containerd=${SNAP_COMMON}/run/containerd.sock\n--authentication-token-webhook=true\n--read-only-port=0\n";

/// The files of a node.
pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    verb: &'static str,
}

impl Node {
    pub(crate) fn k3s() -> Self {
        let node = Self { dir: tempfile::tempdir().unwrap(), verb: "k3s" };
        node.write("usr/local/bin/k3s", "");
        node.write("etc/systemd/system/k3s.service", UNIT);
        node.write("etc/systemd/system/k3s.service.env", "");
        node.write("etc/rancher/k3s/config.yaml", "# the user's\nwrite-kubeconfig-mode: \"0644\"\n");
        node
    }

    fn microk8s(confinement: &str) -> Self {
        let node = Self { dir: tempfile::tempdir().unwrap(), verb: "microk8s" };
        node.write(ARGUMENTS, KUBELET);
        symlink("2210", node.path("var/snap/microk8s/current")).unwrap();
        node.write(
            "snap/microk8s/2210/meta/snap.yaml",
            &format!("name: microk8s\nconfinement: {confinement}\n"),
        );
        symlink("2210", node.path("snap/microk8s/current")).unwrap();
        node
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        Run::new(coracle_program()).args([self.verb]).args(args).arg("--sysroot").arg(self.dir.path()).go()
    }

    /// A store of containerd's with three images.
    pub(crate) fn containerd(&self, at: &str) -> PathBuf {
        let root = self.path(at);
        fs::create_dir_all(&root).unwrap();
        let golden = include_bytes!("../../src/image/containerd/golden/store.tar.zst");
        fs::write(self.path("golden"), zstd::decode_all(&golden[..]).unwrap()).unwrap();
        Run::new("tar").arg("-C").arg(&root).arg("-xf").arg(self.path("golden")).go().ok();
        fs::remove_file(self.path("golden")).unwrap();
        root
    }

    /// All files, directories and links with what is in them, but for Coracle's store.
    fn all(&self) -> BTreeMap<PathBuf, String> {
        fn collect(dir: &Path, found: &mut BTreeMap<PathBuf, String>) {
            for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
                let path = entry.path();
                let kind = entry.file_type().unwrap();
                let text = if kind.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
                if kind.is_dir() && !path.ends_with("var/lib/coracle") {
                    collect(&path, found);
                }
                found.insert(path, String::from_utf8_lossy(&text).into_owned());
            }
        }
        let mut found = BTreeMap::new();
        collect(self.dir.path(), &mut found);
        found
    }

    fn rows(&self) -> Value {
        serde_json::from_str(&self.run(&["check", "--json"]).stdout).unwrap()
    }

    fn row(&self, topic: &str) -> (String, String) {
        let all = self.rows();
        let row = all["rows"].as_array().unwrap().iter().find(|row| row["topic"] == topic);
        let row = row.unwrap_or_else(|| panic!("{topic}: {all:#}"));
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        (text("state"), text("finding") + &text("advice"))
    }
}

#[test]
fn a_k3s_node_is_switched_and_switched_back_and_nothing_is_left() {
    let node = Node::k3s();
    let before = node.all();
    let plan = node.run(&["enable", "--dry-run"]).ok();
    for part in [
        K3S_OWN,
        ENDPOINT,
        K3S_ORDER,
        "run systemctl stop k3s",
        "run k3s-killall.sh",
        "run systemctl enable coracle\nrun systemctl restart coracle\nrun systemctl start k3s",
        "run systemctl start k3s",
    ] {
        assert!(plan.stdout.contains(part), "{part}: {plan}");
    }
    assert_eq!(node.all(), before, "a dry run changes nothing");
    assert_eq!(node.row("switch").0, "not-applicable");
    assert!(node.run(&["check"]).ok().stdout.ends_with("This node is ready.\n"));
    let output = node.run(&["enable"]).ok();
    assert!(output.stdout.contains("systemctl start k3s"), "{output}");
    assert!(node.text(K3S_OWN).ends_with(&format!("\n{ENDPOINT}\n")), "{}", node.text(K3S_OWN));
    assert!(node.text(K3S_ORDER).contains("After=coracle.service"));
    assert!(!node.path(CORACLE).exists(), "K3s's usual directories need no configuration");
    assert_eq!(node.row("switch").0, "ok");
    assert_eq!(node.rows()["enabled"], true);
    let enabled = node.all();
    let again = node.run(&["enable"]).ok();
    assert!(again.stdout.contains("nothing to change") && node.all() == enabled, "{again}");
    let plan = node.run(&["disable", "--dry-run"]).ok();
    assert!(plan.stdout.contains("remove /etc/rancher/k3s/config.yaml.d/90-coracle.yaml"), "{plan}");
    let commands = "crictl --runtime-endpoint unix:///run/coracle/coracle.sock rmp --all --force\nrun systemctl restart coracle\n";
    assert!(plan.stdout.contains(commands), "{plan}");
    assert_eq!(node.all(), enabled, "a dry run changes nothing");
    for _ in 0..2 {
        node.run(&["disable"]).ok();
        assert_eq!(node.all(), before);
    }
}

#[test]
fn a_machine_without_k3s_is_prepared_and_the_users_own_directories_stay() {
    let node = Node { dir: tempfile::tempdir().unwrap(), verb: "k3s" };
    assert_eq!(node.row("Kubernetes").0, "warning");
    node.run(&["enable"]).ok();
    assert!(node.path(K3S_OWN).exists());
    node.run(&["disable"]).ok();
    assert!(node.all().is_empty(), "{:?}", node.all());
    fs::create_dir_all(node.path("etc/rancher/k3s/config.yaml.d")).unwrap();
    let before = node.all();
    node.run(&["enable"]).ok();
    node.write("etc/systemd/system/k3s.service.d/10-mine.conf", "[Unit]\n");
    node.run(&["disable"]).ok();
    assert!(
        before.keys().all(|path| path.exists())
            && node.path("etc/systemd/system/k3s.service.d/10-mine.conf").exists()
    );
    assert!(!node.path(K3S_ORDER).exists() && !node.path(K3S_OWN).exists());
}

#[test]
fn settings_that_a_switch_cannot_go_with_are_refused_wherever_they_are() {
    let yaml = "etc/rancher/k3s/config.yaml";
    let unit = |flags: &str| ("etc/systemd/system/k3s.service", format!("{UNIT}\t{flags} \\\n"));
    let cases = [
        ((yaml, "container-runtime-endpoint: /run/other.sock\n".to_owned()), "/run/other.sock"),
        (
            ("etc/rancher/k3s/config.yaml.d/99-x.yaml", "container-runtime-endpoint: /o\n".to_owned()),
            "99-x.yaml",
        ),
        ((yaml, "docker: true\n".to_owned()), "Docker"),
        ((yaml, "embedded-registry: true\n".to_owned()), "embedded registry"),
        ((yaml, "data-dir: \"\"\n".to_owned()), "sets data-dir: \"\" is not an absolute path"),
        ((yaml, "data-dir:\n".to_owned()), "sets data-dir"),
        ((yaml, "data-dir: relative\n".to_owned()), "\"relative\" is not an absolute path"),
        ((yaml, "data-dir: [/a, /b]\n".to_owned()), "sets data-dir"),
        ((yaml, "data-dir: \"/a\\nb\"\n".to_owned()), "sets data-dir"),
        ((yaml, "private-registry: registries.yaml\n".to_owned()), "sets private-registry"),
        (unit("--data-dir=k3s"), "sets data-dir"),
        ((yaml, "- a\n".to_owned()), "not a map"),
        ((yaml, "a: [\n".to_owned()), "config.yaml"),
        (unit("'--docker'"), "Docker"),
        (unit("'--container-runtime-endpoint' \\\n\t'/run/x.sock'"), "/run/x.sock"),
        (unit("--container-runtime-endpoint=/run/x.sock"), "/run/x.sock"),
        (unit("--config=/data/k3s.yaml"), "/data/k3s.yaml"),
        (("etc/systemd/system/k3s.service.env", "K3S_CONFIG_FILE=/data/x.yaml\n".to_owned()), "/data/x.yaml"),
        (("etc/init.d/k3s", "command_args=\"server \\\n  '--docker' \\\n\"\n".to_owned()), "Docker"),
        ((K3S_OWN, "# mine\n".to_owned()), "not as Coracle wrote it"),
    ];
    for ((file, text), part) in cases {
        let node = Node::k3s();
        node.write(file, &text);
        let before = node.all();
        let output = node.run(&["enable"]).exits(1);
        assert!(output.stderr.contains(part), "{file}: {part}: {output}");
        assert_eq!(node.all(), before, "{file}: something was written");
    }
    // What is set off, or is set to Coracle by hand, is no obstacle.
    let node = Node::k3s();
    node.write(
        yaml,
        "docker: false\ncontainer-runtime-endpoint: /run/coracle/coracle.sock\nsnapshotter: native\n",
    );
    node.run(&["enable"]).ok();
    assert!(!node.path(K3S_OWN).exists(), "the user's own line is enough");
    assert_eq!(node.row("switch").0, "ok");
    assert!(node.row("settings").1.contains("snapshotter"));
    node.write("etc/init.d/k3s-agent", "");
    assert!(node.row("order").1.contains("rc_need"));
    node.run(&["disable"]).ok();
    assert!(node.text(yaml).contains("coracle.sock"), "the user's line stays");
}

#[test]
fn a_file_that_was_changed_since_is_left_alone() {
    let node = Node::k3s();
    node.run(&["enable"]).ok();
    let text = node.text(K3S_OWN).replace("coracle.sock", "other.sock");
    node.write(K3S_OWN, &text);
    let before = node.all();
    for verb in ["enable", "disable"] {
        let output = node.run(&[verb]).exits(1);
        assert!(
            output.stderr.contains("not as Coracle wrote it") && output.stderr.contains("hint:"),
            "{output}"
        );
        assert_eq!(node.all(), before, "{verb}: all or nothing");
    }
}

#[test]
fn k3s_with_its_files_elsewhere_gets_a_configuration_for_coracle() {
    let node = Node::k3s();
    node.write("etc/systemd/system/k3s.service", &format!("{UNIT}\t'--data-dir' \\\n\t'/data/k3s' \\\n"));
    node.write("etc/rancher/k3s/config.yaml.d/10-a.yaml", "private-registry: /data/registries.yaml\n");
    let before = node.all();
    node.containerd("data/k3s/agent/containerd");
    node.run(&["enable", "--no-images"]).ok();
    let config =
        Run::new(coracle_program()).args(["config", "--config"]).arg(node.path("etc/coracle/config.toml"));
    node.write("etc/coracle/config.toml", "");
    let config = config.go().ok().stdout;
    for part in [
        "/data/k3s/agent/images",
        "/data/k3s/agent/etc/cni/net.d",
        "/data/k3s/data/cni",
        "/data/registries.yaml",
        "/etc/cni/net.d",
    ] {
        assert!(config.contains(part), "{part}: {config}");
    }
    assert!(node.run(&["enable", "--no-images"]).ok().stdout.contains("nothing to change"));
    assert!(node.row("leftovers").1.contains("/data/k3s/agent/containerd"));
    node.run(&["disable"]).ok();
    fs::remove_file(node.path("etc/coracle/config.toml")).unwrap();
    fs::remove_dir_all(node.path("data")).unwrap();
    let after: Vec<_> = node.all().into_keys().filter(|path| !path.ends_with("etc/coracle")).collect();
    assert_eq!(after, before.into_keys().collect::<Vec<_>>());
}

#[test]
fn microk8s_is_switched_and_its_arguments_come_back() {
    for confinement in ["classic", "strict"] {
        let node = Node::microk8s(confinement);
        let before = node.all();
        let plan = node.run(&["enable", "--dry-run"]).ok();
        assert!(plan.stdout.contains("change /var/snap/microk8s/current/args/kubelet"), "{plan}");
        assert!(plan.stdout.contains("snap stop --disable microk8s.daemon-containerd"), "{plan}");
        assert_eq!(node.all(), before);
        node.run(&["enable"]).ok();
        let socket = match confinement {
            "strict" => "/var/snap/microk8s/common/run/coracle.sock",
            _ => "/run/coracle/coracle.sock",
        };
        let text = node.text(ARGUMENTS);
        assert!(text.contains(&format!("\n--container-runtime-endpoint=unix://{socket}\n")), "{text}");
        assert!(
            text.contains("was --container-runtime-endpoint=${SNAP_COMMON}/run/containerd.sock\n"),
            "{text}"
        );
        assert_eq!(node.path("etc/coracle/config.d/90-microk8s.toml").exists(), confinement == "strict");
        assert_eq!(
            node.path("etc/systemd/system/coracle.socket.d/90-microk8s.conf").exists(),
            confinement == "strict"
        );
        assert!(node.path("var/snap/microk8s/current").is_symlink());
        assert!(node.run(&["enable"]).ok().stdout.contains("nothing to change"));
        assert_eq!(node.row("switch").0, "ok");
        for _ in 0..2 {
            node.run(&["disable"]).ok();
            assert_eq!(node.all(), before, "{confinement}");
        }
    }
    let none = Node { dir: tempfile::tempdir().unwrap(), verb: "microk8s" };
    let output = none.run(&["enable"]).exits(1);
    assert!(output.stderr.contains("MicroK8s is not on this machine"), "{output}");
    none.run(&["check"]).exits(1);
    none.run(&["disable"]).ok();
}

#[test]
fn owner_and_mode_of_the_arguments_stay() {
    needs!(root);
    let node = Node::microk8s("classic");
    let arguments = node.path(ARGUMENTS);
    std::os::unix::fs::chown(&arguments, Some(7), Some(8)).unwrap();
    fs::set_permissions(&arguments, fs::Permissions::from_mode(0o660)).unwrap();
    for verb in ["enable", "disable"] {
        node.run(&[verb]).ok();
        let meta = arguments.metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (7, 8, 0o660), "{verb}");
    }
}

#[test]
fn if_one_file_cannot_be_written_none_is() {
    let node = Node::k3s();
    // A file in the place of a directory.
    node.write("etc/systemd/system/k3s.service.d", "");
    let before = node.all();
    node.run(&["enable"]).exits(1);
    assert_eq!(node.all(), before);
}

#[test]
fn images_come_from_containerds_store_and_its_data_goes_when_it_is_asked_for() {
    needs!(root);
    let node = Node::k3s();
    let root = node.containerd("var/lib/rancher/k3s/agent/containerd");
    let blobs = root.join("io.containerd.content.v1.content/blobs/sha256");
    // containerd has discarded the layer of one image.
    let is_layer = |path: &PathBuf| fs::read(path).unwrap().starts_with(&[0x1f, 0x8b]);
    let mut files = fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap().path());
    fs::remove_file(files.find(is_layer).unwrap()).unwrap();
    let (state, text) = node.row("images");
    assert_eq!(state, "warning");
    assert!(
        text.contains("3 in containerd's store: 2 can be imported")
            && text.contains("discarded 1 of its layers"),
        "{text}"
    );
    let plan = node.run(&["enable", "--dry-run"]).ok();
    assert_eq!(plan.stdout.matches("from containerd's store\n").count(), 2, "{plan}");
    assert!(plan.stdout.contains("again: containerd has discarded 1"), "{plan}");
    let early = node.run(&["disable", "--remove-containerd-data"]).exits(1);
    assert!(early.stderr.contains("K3s uses containerd") && root.exists(), "{early}");
    let output = node.run(&["enable"]).ok();
    assert_eq!(
        output.stdout.matches("imported docker.io/library/demo").count()
            + output.stdout.matches("imported registry.example.com").count(),
        2,
        "{output}"
    );
    assert!(output.stderr.contains("is not imported: containerd has discarded"), "{output}");
    let list =
        Run::new(coracle_program()).arg("--store").arg(node.path("var/lib/coracle")).args(["image", "ls"]);
    assert!(list.go().ok().stdout.contains("docker.io/library/demo"), "nothing was imported");
    assert!(node.row("images").1.contains("Coracle has 2 already"));
    // containerd holds a lock while it runs.
    let metadata = fs::File::open(root.join("io.containerd.metadata.v1.bolt/meta.db")).unwrap();
    metadata.lock().unwrap();
    let busy = node.run(&["enable", "--remove-containerd-data", "--no-images"]).exits(1);
    assert!(busy.stderr.contains("containerd runs") && blobs.exists(), "{busy}");
    metadata.unlock().unwrap();
    // The rest of the image that Coracle does not have may be of use.
    let plan = node.run(&["enable", "--remove-containerd-data", "--dry-run"]).ok();
    assert!(plan.stdout.contains("keep /var/lib/rancher/k3s/agent/containerd"), "{plan}");
    let kept = node.run(&["enable", "--remove-containerd-data"]).exits(1);
    assert!(
        kept.stderr.contains("discarded 1 of its layers") && kept.stderr.contains("--no-images"),
        "{kept}"
    );
    assert!(blobs.exists(), "{kept}");
    let done = node.run(&["enable", "--remove-containerd-data", "--no-images"]).ok();
    assert!(done.stdout.contains("of containerd's data") && !root.exists(), "{done}");
    let none = node.run(&["enable", "--remove-containerd-data"]).ok();
    assert!(none.stdout.contains("nothing to change"), "{none}");
    // A damaged store is named, and does not keep the node from its switch.
    node.write("var/lib/rancher/k3s/agent/containerd/io.containerd.metadata.v1.bolt/meta.db", "text");
    assert!(node.row("images").1.contains("meta.db"), "{:?}", node.row("images"));
    let refused = node.run(&["enable"]).exits(1);
    assert!(refused.stderr.contains("hint: --no-images"), "{refused}");
    node.run(&["enable", "--no-images"]).ok();
    fs::remove_dir_all(&root).unwrap();
    symlink(node.path("etc"), &root).unwrap();
    let link = node.run(&["enable", "--no-images", "--remove-containerd-data"]).exits(1);
    assert!(link.stderr.contains("it is a link") && node.path("etc/rancher").exists(), "{link}");
}

#[test]
fn the_only_copy_of_an_image_is_kept() {
    needs!(root);
    let is_layer = |path: &PathBuf| fs::read(path).unwrap().starts_with(&[0x1f, 0x8b]);
    // A layer is a FIFO, or has other content than its digest says, or the store has no room.
    for case in ["fifo", "spoilt", "full"] {
        let node = Node::k3s();
        let root = node.containerd("var/lib/rancher/k3s/agent/containerd");
        let blobs = root.join("io.containerd.content.v1.content/blobs/sha256");
        let mut files = fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap().path());
        let layer = files.find(is_layer).unwrap();
        let _mount = match case {
            "fifo" => {
                fs::remove_file(&layer).unwrap();
                Run::new("mkfifo").arg(&layer).go().ok();
                None
            }
            "spoilt" => {
                let mut bytes = fs::read(&layer).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(&layer, bytes).unwrap();
                None
            }
            _ => Some(Full::new(node.path("var/lib/coracle"))),
        };
        let output = node.run(&["enable", "--remove-containerd-data"]).exits(1);
        assert!(
            output.stderr.contains("containerd's data is kept: Coracle does not have "),
            "{case}: {output}"
        );
        assert!(output.stderr.contains("warning: "), "{case}: {output}");
        assert!(layer.exists() && node.path(K3S_OWN).exists(), "{case}: {output}");
        if case != "fifo" {
            // Without the removal a failed import is an error too.
            let output = node.run(&["enable"]).exits(1);
            assert!(output.stderr.contains("warning: import "), "{case}: {output}");
        }
    }
}

#[test]
fn disable_needs_no_valid_configuration() {
    for (file, text) in [
        ("etc/coracle/config.toml", "unknown = 1\n"),
        ("etc/coracle/config.d/10-mine.toml", "socket = \"relative\"\n"),
        ("etc/rancher/k3s/config.yaml", "a: [\n"),
        ("etc/rancher/k3s/config.yaml.d/50-mine.yaml", "- a\n"),
    ] {
        let node = Node::k3s();
        node.containerd("var/lib/rancher/k3s/agent/containerd");
        node.run(&["enable", "--no-images"]).ok();
        node.write(file, text);
        let refused = node.run(&["disable", "--remove-containerd-data"]).exits(1);
        assert!(
            refused.stderr.contains("correct the configuration") && node.path(K3S_OWN).exists(),
            "{refused}"
        );
        let output = node.run(&["disable"]).ok();
        assert!(
            output.stderr.contains("warning: ") && output.stderr.contains("undone all the same"),
            "{output}"
        );
        assert!(!node.path(K3S_OWN).exists() && !node.path(K3S_ORDER).exists(), "{output}");
        assert_eq!(node.text(file), text);
    }
}

#[test]
fn a_node_that_is_switched_already_is_not_restarted_again() {
    // In an image nothing runs; here the machine's own files are looked at, without K3s on it.
    let node = Node::k3s();
    node.run(&["enable", "--restart"]).ok();
    let again = node.run(&["enable", "--restart"]).ok();
    assert!(again.stdout.contains("nothing to change") && !again.stdout.contains("run "), "{again}");
    let is_k3s_here = ["/etc/rancher", "/var/lib/rancher", "/usr/local/bin/k3s"]
        .iter()
        .any(|name| Path::new(name).exists());
    if !is_k3s_here {
        let own = Run::new(coracle_program()).args(["k3s", "disable", "--restart"]).go().ok();
        assert!(own.stdout.contains("nothing to change") && !own.stdout.contains("run "), "{own}");
    }
}

#[test]
fn edits_of_the_user_in_microk8s_arguments_stay() {
    let ours = "\n--container-runtime-endpoint=unix:///var/snap/microk8s/common/run/coracle.sock\n";
    let is_comment = |line: &&str| line.starts_with("# coracle microk8s enable");
    let node = Node::microk8s("strict");
    node.run(&["enable"]).ok();
    let enabled = node.text(ARGUMENTS);
    assert!(enabled.contains(ours), "{enabled}");
    // The user sets another endpoint.
    node.write(ARGUMENTS, &enabled.replace(ours, "\n--container-runtime-endpoint=/mine\n"));
    let before = node.all();
    for verb in ["enable", "disable"] {
        let output = node.run(&[verb]).exits(1);
        assert!(
            output.stderr.contains("was changed") && output.stderr.contains("remove the comment"),
            "{output}"
        );
        assert_eq!(node.all(), before, "{verb}");
    }
    let without: Vec<_> = node.text(ARGUMENTS).lines().map(str::to_owned).collect();
    let without: Vec<_> = without.iter().map(String::as_str).filter(|line| !is_comment(line)).collect();
    node.write(ARGUMENTS, &(without.join("\n") + "\n"));
    assert_eq!(node.row("switch").0, "warning", "the socket is still moved");
    node.run(&["disable"]).ok();
    assert!(node.text(ARGUMENTS).contains("\n--container-runtime-endpoint=/mine\n"));
    assert!(!node.path("etc/systemd/system/coracle.socket.d/90-microk8s.conf").exists());
    assert!(node.row("switch").1.contains("uses the runtime at /mine"), "{:?}", node.row("switch"));
    // The user removes the comment only.
    let without: Vec<_> = enabled.lines().filter(|line| !is_comment(line)).collect();
    let node = Node::microk8s("strict");
    node.run(&["enable"]).ok();
    node.write(ARGUMENTS, &(without.join("\n") + "\n"));
    let before = node.all();
    let output = node.run(&["disable"]).exits(1);
    assert!(output.stderr.contains("without the comment"), "{output}");
    assert_eq!(node.all(), before);
}

#[test]
fn a_node_that_is_half_switched_is_shown_as_such() {
    for missing in [K3S_OWN, K3S_ORDER] {
        let node = Node::k3s();
        node.run(&["enable"]).ok();
        fs::remove_file(node.path(missing)).unwrap();
        let (state, text) = node.row("switch");
        assert!(state == "warning" && text.contains("half switched") && text.contains(missing), "{text}");
    }
    let node = Node::k3s();
    node.write("etc/rancher/k3s/config.yaml", "container-runtime-endpoint: /run/other.sock\n");
    let (state, text) = node.row("switch");
    assert!(state == "error" && text.contains("/run/other.sock"), "{text}");
}

/// A full file system.
struct Full(PathBuf);

impl Full {
    fn new(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        Run::new("mount").args(["-t", "tmpfs", "-o", "size=64k,mode=700", "none"]).arg(&path).go().ok();
        Self(path)
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        Run::new("umount").arg("-l").arg(&self.0).go();
    }
}
