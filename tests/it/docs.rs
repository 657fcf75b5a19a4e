//! The documents do what they say: every block of commands in a `*.md` is run, or `NOT_RUN` says why it is not.
//!
//! A block whose fence says `sh` or `console` is one of commands. What a line ends with after `# prints` has to be in the
//! block's output. The blocks of one document run one after the other, at the root of the project, as root, with the program
//! under test on the path and these in the place of the machine's own: a store, run directories and network of the test's;
//! an `/etc` and a `/var` whose changes go elsewhere, with kubelet's files as kubeadm and MicroK8s write them; a registry that
//! has `docker.io/library/busybox`. Programs of Kubernetes's and of the service manager's do nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::image_fixture::{Image, Layout, Pack};
use crate::keeper::end_keepers;
use crate::support::registry::TestRegistry;
use crate::support::{Run, Sandbox, coracle_program};

/// Blocks that are not run: the document, the block's first line, and why.
const NOT_RUN: &[(&str, &str, &str)] = &[
    ("README.md", "tests/run", "it runs this test"),
    (
        "README.md",
        "apt install ./target/packages/coracle_*_arm64.deb",
        "installs a package; deb/lives does, in guests",
    ),
    ("README.md", "deb/build arm64", "compiles for 15 CPU minutes; deb/test runs it for each architecture"),
    ("cri/kubernetes.md", "coracle check", "its exit code is about the machine; tests/it/check.rs runs it"),
    (
        "README.md",
        "podman --runtime \"$(command -v coracle)\" run --rm docker.io/library/busybox true",
        "podman keeps images and networks of the machine's",
    ),
    (
        "benches/README.md",
        "d=/opt/peers/crun; mkdir -p $d/apt/{lists/partial,archives/partial} && cd $d/apt",
        "downloads Debian packages",
    ),
    (
        "deb/pi-gen/README.md",
        "deb/build arm64 --out deb/pi-gen/stage-coracle/00-coracle/files",
        "needs pi-gen; deb/test runs the stage",
    ),
    ("rpm/yocto/README.md", "git clone ... coracle", "needs Yocto; deb/test looks at the recipes"),
];

/// A fenced block.
#[derive(Debug)]
struct Block {
    document: PathBuf,
    line: usize,
    language: String,
    text: String,
}

impl Block {
    fn first_line(&self) -> &str {
        self.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default()
    }

    fn is_of_commands(&self) -> bool {
        ["sh", "console", "bash", "shell"].contains(&self.language.as_str())
    }

    fn reason_not_to_run(&self) -> Option<&'static str> {
        let document = self.document.to_str().unwrap();
        let line = self.first_line().split("  #").next().unwrap_or_default().trim_end();
        let row = NOT_RUN.iter().find(|(d, first, _)| *d == document && *first == line);
        row.map(|(_, _, reason)| *reason)
    }

    /// What the output has to contain.
    fn expected(&self) -> impl Iterator<Item = &str> {
        self.text.lines().filter_map(|line| Some(line.split_once("# prints ")?.1.trim()))
    }
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All documents, by their paths in the project.
fn documents() -> Vec<PathBuf> {
    fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let (name, path) = (entry.file_name(), entry.path());
            if entry.file_type().unwrap().is_dir() {
                if name != "target" && name != ".git" {
                    collect(&path, found);
                }
            } else if path.extension().is_some_and(|e| e == "md") {
                found.push(path.strip_prefix(project()).unwrap().to_owned());
            }
        }
    }
    let mut found = Vec::new();
    collect(project(), &mut found);
    found.sort();
    found
}

/// The blocks of a document.
fn blocks_of(document: &Path) -> Vec<Block> {
    let text = fs::read_to_string(project().join(document)).unwrap();
    let mut blocks: Vec<Block> = Vec::new();
    let mut is_open = false;
    for (number, line) in text.lines().enumerate() {
        match line.trim_start().strip_prefix("```") {
            Some(language) if !is_open => {
                let language = language.trim().to_owned();
                blocks.push(Block {
                    document: document.to_owned(),
                    line: number + 1,
                    language,
                    text: String::new(),
                });
                is_open = true;
            }
            Some(_) => is_open = false,
            None if is_open => blocks.last_mut().unwrap().text += &format!("{line}\n"),
            None => {}
        }
    }
    assert!(!is_open, "{}: the last block has no end", document.display());
    blocks
}

#[test]
fn every_block_says_what_it_is_and_every_exception_exists() {
    let blocks: Vec<Block> = documents().iter().flat_map(|document| blocks_of(document)).collect();
    assert!(blocks.len() > 8, "{blocks:?}");
    let unnamed: Vec<_> = blocks.iter().filter(|block| block.language.is_empty()).collect();
    assert!(
        unnamed.is_empty(),
        "the fence names no language (sh for commands, text for output): {unnamed:#?}"
    );
    for (document, line, reason) in NOT_RUN {
        let is_there = blocks.iter().any(|b| {
            b.is_of_commands()
                && b.document == Path::new(document)
                && b.first_line().split("  #").next().unwrap_or_default().trim_end() == *line
        });
        assert!(is_there, "NOT_RUN has a block that is gone: {document}: {line} ({reason})");
    }
}

#[test]
fn commands_in_documents_do_what_they_say() {
    needs!(root, busybox, launch_verb, oci_verbs);
    for document in documents() {
        let blocks: Vec<Block> = blocks_of(&document)
            .into_iter()
            .filter(|block| block.is_of_commands() && block.reason_not_to_run().is_none())
            .collect();
        if !blocks.is_empty() {
            // Sockets belong to the network namespace of the thread that makes them; the registry's are made here.
            let run = std::thread::Builder::new().name("docs".to_owned()).spawn(move || {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                Run::new("/bin/busybox").args(["ip", "link", "set", "lo", "up"]).go().ok();
                Desk::new().run(&blocks);
            });
            if let Err(panic) = run.unwrap().join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// The surroundings of a document's commands.
struct Desk {
    sandbox: Sandbox,
    _registry: TestRegistry,
}

impl Drop for Desk {
    fn drop(&mut self) {
        end_keepers(&self.sandbox.path("run"));
    }
}

impl Desk {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let registry = TestRegistry::start();
        registry.layout(&Layout::of(busybox(&sandbox)), "library/busybox:latest");
        let mirror = sandbox.path("etc-upper/coracle/certs.d/docker.io");
        fs::create_dir_all(&mirror).unwrap();
        fs::create_dir_all(sandbox.path("etc-work")).unwrap();
        fs::create_dir_all(sandbox.path("var-work")).unwrap();
        fs::create_dir_all(sandbox.path("shims")).unwrap();
        let hosts = format!("[host.{:?}]\n  capabilities = [\"pull\", \"resolve\"]\n", registry.url());
        fs::write(mirror.join("hosts.toml"), hosts).unwrap();
        let policy = sandbox.path("etc-upper/coracle/policy.json");
        fs::write(policy, r#"{"default": [{"type": "insecureAcceptAnything"}]}"#).unwrap();
        let desk = Self { sandbox, _registry: registry };
        desk.shim("cargo", "[ \"$1 $2 $3\" = 'run --release --' ] || exit 99; shift 3; exec coracle \"$@\"");
        // What they do is up to others; that the files around them are right is what is tried.
        for program in ["systemctl", "kubectl", "crictl", "k3s", "k3s-killall.sh", "microk8s", "snap"] {
            desk.shim(program, "exit 0");
        }
        desk.kubelet();
        desk
    }

    /// kubelet's files, as kubeadm and MicroK8s write them.
    fn kubelet(&self) {
        let socket = "unix:///var/run/containerd/containerd.sock";
        let files = [
            (
                "lib/kubelet/config.yaml",
                format!("kind: KubeletConfiguration\ncontainerRuntimeEndpoint: {socket}\n"),
            ),
            (
                "lib/kubelet/kubeadm-flags.env",
                format!("KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint={socket} --v=2\"\n"),
            ),
            (
                "snap/microk8s/current/args/kubelet",
                "--container-runtime-endpoint=${SNAP_COMMON}/x.sock\n".to_owned(),
            ),
        ];
        for (name, text) in files {
            let path = self.sandbox.path("var-upper").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    /// A command that stands for another one.
    fn shim(&self, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.sandbox.path("shims").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs them one after the other in one mount namespace; what a failed one leaves is shown.
    fn run(&self, blocks: &[Block]) {
        let dir = self.sandbox.path("blocks");
        fs::create_dir(&dir).unwrap();
        for (number, block) in blocks.iter().enumerate() {
            fs::write(dir.join(format!("{number}.sh")), &block.text).unwrap();
        }
        let path = |name: &str| self.sandbox.path(name).display().to_string();
        let script = "set -e\n\
            mount -t overlay -o \"lowerdir=/etc,upperdir=$ETC_UPPER,workdir=$ETC_WORK\" overlay /etc\n\
            mount -t overlay -o \"lowerdir=/var,upperdir=$VAR_UPPER,workdir=$VAR_WORK\" overlay /var\n\
            for ((n = 0; n < $2; n++)); do\n\
                status=0\n\
                bash -euo pipefail \"$1/$n.sh\" >\"$1/$n.out\" 2>&1 </dev/null || status=$?\n\
                echo $status >\"$1/$n.status\"\n\
            done";
        let programs = coracle_program().parent().unwrap().display().to_string();
        Run::new("unshare")
            .args(["--mount", "--propagation", "private", "bash", "-c", script, "bash"])
            .args([dir.display().to_string(), blocks.len().to_string()])
            .env("PATH", format!("{}:{programs}:/usr/sbin:/usr/bin:/sbin:/bin", path("shims")))
            .env("ETC_UPPER", path("etc-upper"))
            .env("ETC_WORK", path("etc-work"))
            .env("VAR_UPPER", path("var-upper"))
            .env("VAR_WORK", path("var-work"))
            .env("CORACLE_ROOT", self.sandbox.root())
            .env("CORACLE_STORE", path("store"))
            .env("CORACLE_RUN", path("run"))
            .env("CORACLE_SANDBOX", self.sandbox.mark())
            .env("HOME", path("home"))
            .cwd(project())
            .patience(Duration::from_secs(300))
            .go()
            .ok();
        for (number, block) in blocks.iter().enumerate() {
            let output = fs::read_to_string(dir.join(format!("{number}.out"))).unwrap();
            let status = fs::read_to_string(dir.join(format!("{number}.status"))).unwrap();
            let place = format!("{}:{}\n{}---\n{output}", block.document.display(), block.line, block.text);
            assert_eq!(status.trim(), "0", "{place}");
            for expected in block.expected() {
                assert!(output.contains(expected), "{expected:?} is not in the output: {place}");
            }
        }
    }
}

/// An image with all of busybox.
fn busybox(sandbox: &Sandbox) -> Image<'static> {
    let root = sandbox.bundle("minimal").root();
    for applet in ["httpd", "wget", "vi"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let layer = sandbox.path("layer.tar");
    Run::new("tar")
        .arg("-C")
        .arg(&root)
        .args(["--owner=0", "--group=0", "-cf"])
        .arg(&layer)
        .arg(".")
        .go()
        .ok();
    Image { layers: vec![fs::read(&layer).unwrap()], pack: Pack::Gzip, platform: "", name: None }
}

/// Where the reference of the configuration is.
const REFERENCE: &str = "src/serve/README.md";

/// The names of variables in the sources, as string literals.
fn variables() -> BTreeSet<String> {
    fn collect(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let names = text.split('"').filter(|word| {
                    word.strip_prefix("CORACLE_").is_some_and(|rest| {
                        !rest.is_empty() && rest.chars().all(|c| c.is_ascii_uppercase() || c == '_')
                    })
                });
                found.extend(names.map(str::to_owned));
            }
        }
    }
    let mut found = BTreeSet::new();
    collect(&project().join("src"), &mut found);
    found
}

#[test]
fn the_reference_has_every_key_and_every_variable() {
    let reference = fs::read_to_string(project().join(REFERENCE)).unwrap();
    let variables = variables();
    assert!(variables.contains("CORACLE_STORE"), "{variables:?}");
    let defaults = fs::read_to_string(project().join("src/serve/config/default.toml")).unwrap();
    let keys: BTreeSet<String> = defaults
        .lines()
        .filter_map(|line| line.trim_start_matches('#').split_once(" = "))
        .map(|(key, _)| key.to_owned())
        .filter(|key| {
            !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        })
        .collect();
    assert!(keys.contains("max_parallel_calls"), "{keys:?}");
    for name in variables.iter().chain(&keys) {
        assert!(reference.contains(&format!("`{name}`")), "{REFERENCE} does not have {name}");
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut dead = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(project().join(&document)).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let is_local = !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:");
            let path = project().join(&document).with_file_name("").join(target);
            if is_local && !path.exists() {
                dead.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}
