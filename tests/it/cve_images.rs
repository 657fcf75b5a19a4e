//! Known holes that a hostile image makes use of, each tried with `launch`. `tests/conformance/CVE.md` lists them all.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use coracle_cri::v1::{ContainerConfig, PodSandboxConfig};
use serde_json::json;

use crate::launch::{import, plain, prepare, shell};
use crate::support::{Sandbox, Serve, container, pod_on_host};

/// A directory of the host that nobody may touch.
struct Victim(PathBuf);

impl Victim {
    fn new(sandbox: &Sandbox) -> Self {
        let dir = sandbox.path("victim");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("secret"), "of the host").unwrap();
        Self(dir)
    }

    /// The way there for whoever follows a link outside the container's root, absolute and relative.
    fn ways(&self) -> [PathBuf; 2] {
        [self.0.clone(), Path::new("../../../../../../../../../..").join(self.0.strip_prefix("/").unwrap())]
    }

    #[track_caller]
    fn assert_untouched(&self, what: &str) {
        let names: Vec<_> = fs::read_dir(&self.0).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["secret"], "{what}: something was made on the host");
        let (dir, file) = (self.0.metadata().unwrap(), self.0.join("secret").metadata().unwrap());
        assert_eq!(
            (dir.uid(), dir.gid(), file.uid(), file.gid()),
            (0, 0, 0, 0),
            "{what}: the owner was changed"
        );
        assert_eq!(fs::read_to_string(self.0.join("secret")).unwrap(), "of the host", "{what}");
    }
}

/// An image in the place of the `box` that a sandbox has already.
pub(crate) fn import_again(sandbox: &Sandbox, config: serde_json::Value, change: impl FnOnce(&Path)) {
    for old in ["bundles/minimal", "layout"] {
        fs::remove_dir_all(sandbox.path(old)).unwrap();
    }
    import(sandbox, config, change);
}

#[test]
fn cve_2026_55686_a_working_directory_behind_a_link_is_not_made_on_the_host() {
    needs!(root, busybox, launch_verb);
    for way in 0..2 {
        let sandbox = Sandbox::new();
        let victim = Victim::new(&sandbox);
        let config = json!({
            "Cmd": ["/bin/pwd"], "Env": ["PATH=/bin"], "User": "web", "WorkingDir": "/link/made/deep",
        });
        import(&sandbox, config, |root| symlink(&victim.ways()[way], root.join("link")).unwrap());
        // It is made in the container, or refused.
        prepare(&sandbox, "box", ["--rm", "box"]).go();
        victim.assert_untouched("the image's");
        prepare(&sandbox, "box", ["--rm", "--workdir", "/link/secret/below", "box"]).go();
        victim.assert_untouched("--workdir");
    }
}

#[test]
fn cve_2024_5154_files_that_every_container_gets_are_not_made_behind_links() {
    needs!(root, busybox, launch_verb);
    const FILES: [&str; 4] = ["hosts", "hostname", "resolv.conf", "mtab"];
    for way in 0..2 {
        for is_whole in [false, true] {
            let serve = Serve::new();
            let victim = Victim::new(serve.sandbox());
            let config = json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"] });
            import_again(serve.sandbox(), config, |root| {
                let to = &victim.ways()[way];
                if is_whole {
                    fs::remove_dir_all(root.join("etc")).unwrap();
                    symlink(to, root.join("etc")).unwrap();
                } else {
                    FILES.iter().for_each(|name| {
                        let _ = fs::remove_file(root.join("etc").join(name));
                        symlink(to.join(name), root.join("etc").join(name)).unwrap();
                    });
                }
            });
            let what = format!("way {way}, all of /etc: {is_whole}");
            shell(serve.sandbox(), &[], "true");
            victim.assert_untouched(&format!("launch, {what}"));
            let pod = serve.logged(pod_on_host("links"));
            let id = serve.run_pod(&pod);
            if let Ok(c) = serve.try_create(&id, &pod, &container(&pod, "box", "true")) {
                let _ = serve.try_start(&c);
            }
            victim.assert_untouched(&format!("pod, {what}"));
            serve.removes_all();
        }
    }
}

#[test]
fn cve_2026_57231_the_images_environment_takes_nothing_from_the_callers() {
    needs!(root, busybox, launch_verb);
    let sandbox = Sandbox::new();
    let names = [
        "PATH=/bin",
        "OF_THE_CALLER",
        "OF_*",
        "*",
        "=OF_THE_CALLER",
        "X=$OF_THE_CALLER",
        "Y=${OF_THE_CALLER}",
    ];
    import(&sandbox, json!({ "Cmd": ["/bin/busybox", "env"], "Env": names }), |_| ());
    let output = prepare(&sandbox, "box", ["--rm", "box"]).env("OF_THE_CALLER", "s3cret").go();
    assert!(!output.stdout.contains("s3cret"), "{output}");
    // What the caller asks for by name he gets.
    let run = prepare(&sandbox, "box", ["--rm", "--env", "OF_THE_CALLER", "box"]);
    assert!(run.env("OF_THE_CALLER", "s3cret").go().ok().stdout.contains("OF_THE_CALLER=s3cret"));
}

#[test]
fn cve_2016_8867_who_is_not_root_has_no_capability() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    for user in ["1000", "web", "1000:0"] {
        let script = "grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status | grep -v 0000000000000000; echo end";
        let output = shell(&sandbox, &["--user", user], script).ok();
        assert_eq!(output.stdout, "end\n", "{user}: {output}");
    }
}

#[test]
fn cve_2023_25809_the_cgroups_of_a_container_cannot_be_written_to() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    let script = "cd /sys/fs/cgroup && for d in . */; do \
        mkdir $d/made 2>/dev/null && echo made in $d; \
        for f in cgroup.procs tasks release_agent notify_on_release cgroup.freeze memory.max memory.limit_in_bytes; do \
        [ -e $d/$f ] && (echo 0 >$d/$f) 2>/dev/null && echo wrote $d/$f; done; done; echo end";
    let output = shell(&sandbox, &[], script).ok();
    assert_eq!(output.stdout, "end\n", "{output}");
    // Not of the host's tree, either: what is shown begins at the container's own.
    let output = shell(&sandbox, &[], "cat /proc/self/cgroup").ok();
    assert!(!output.stdout.contains(sandbox.mark()), "{output}");
}

#[test]
fn cve_2017_16539_files_of_the_kernel_that_would_harm_the_host_are_hidden_or_read_only() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    let before = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let script = "ls -A /proc/scsi /proc/asound /proc/acpi /sys/firmware /sys/devices/virtual/powercap 2>/dev/null \
        | grep -v ':$' | grep .; \
        cat /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug /proc/latency_stats 2>/dev/null | head -c 10; \
        for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/vm/drop_caches /proc/fs/xfs \
        /proc/irq/default_smp_affinity /sys/kernel/uevent_helper /sys/power/state; do \
        (cat $f >$f) 2>/dev/null && echo wrote $f; done; echo end";
    let output = shell(&sandbox, &[], script).ok();
    assert_eq!(output.stdout, "end\n", "{output}");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
}

/// Of CVE-2022-23648 the other half: not the volume is a link, but what lies in it.
#[test]
fn cve_2022_23648_links_in_a_volume_are_copied_as_links() {
    needs!(root, busybox, launch_verb);
    for way in 0..2 {
        let sandbox = Sandbox::new();
        let victim = Victim::new(&sandbox);
        let config = json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "Volumes": { "/data": {} } });
        import(&sandbox, config, |root| {
            fs::create_dir(root.join("data")).unwrap();
            symlink(victim.ways()[way].join("secret"), root.join("data/file")).unwrap();
            symlink(&victim.ways()[way], root.join("data/dir")).unwrap();
        });
        for flags in [&[][..], &["--read-only"]] {
            let script =
                "cat /data/file /data/dir/secret; echo x >/data/dir/made; [ -L /data/file ] && echo link";
            let output = shell(&sandbox, flags, script);
            assert_eq!(output.stdout, "link\n", "{flags:?}: {output}");
            victim.assert_untouched("a volume");
        }
    }
}

/// Annotations that other runtimes obey: a bundle or a pod cannot know which runtime it gets, and with ours they mean
/// nothing. `annotations_are_read_in_few_places` below finds a place that begins to read them.
const ANNOTATIONS: [(&str, &str); 12] = [
    ("org.systemd.property.ExecStartPre", "['/bin/touch', '{}']"),
    ("org.systemd.property.CollectMode", "'inactive-or-failed'"),
    ("io.kubernetes.cri-o.UnifiedCgroup.box", "pids.max=max;memory.max=max"),
    ("io.kubernetes.cri-o.UnifiedCgroup.POD", "pids.max=max"),
    ("io.kubernetes.cri-o.Devices", "/dev/kmsg"),
    ("io.kubernetes.cri-o.ShmSize", "1Gi"),
    ("io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw", "true"),
    ("io.kubernetes.cri-o.LinkLogs", "link"),
    ("run.oci.hooks.stdout", "{}"),
    ("run.oci.hooks.stderr", "{}"),
    ("run.oci.handler", "krun"),
    ("run.oci.systemd.subgroup", "sub"),
];

fn annotations(made: &Path) -> impl Iterator<Item = (String, String)> {
    let made = made.display().to_string();
    ANNOTATIONS.iter().map(move |(key, value)| ((*key).to_owned(), value.replace("{}", &made)))
}

const LOOK: &str = "ls /dev/kmsg 2>/dev/null; (echo 0 >/sys/fs/cgroup/cgroup.procs) 2>/dev/null && echo wrote; \
    grep -c ' /sys/fs/cgroup.* rw,' /proc/self/mounts";

#[test]
fn cve_2024_3154_annotations_neither_become_properties_nor_loosen_limits() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let made = serve.path("made");
    let all: std::collections::BTreeMap<_, _> = annotations(&made).collect();
    let pod = serve.logged(PodSandboxConfig { annotations: all.clone(), ..pod_on_host("annotated") });
    let id = serve.run_pod(&pod);
    let plain = container(&pod, "plain", "sleep 1000");
    let annotated = ContainerConfig { annotations: all, ..container(&pod, "box", "sleep 1000") };
    let [plain, annotated] = [plain, annotated].map(|config| serve.run_container(&id, &pod, &config));
    let look = |id: &str| {
        let answer = serve.try_exec(id, LOOK, None).unwrap();
        String::from_utf8(answer.stdout).unwrap()
    };
    assert_eq!(look(&annotated), look(&plain));
    assert!(!look(&annotated).contains("kmsg") && !look(&annotated).contains("wrote"));
    serve.removes_all();
    assert!(!made.exists(), "an annotation made a file of the host");
}

#[test]
fn cve_2023_6476_annotations_of_a_bundle_change_nothing() {
    needs!(root, busybox, oci_verbs);
    not_by!(Crun: "obeys some of these");
    let sandbox = Sandbox::new();
    let made = sandbox.path("made");
    let map: serde_json::Map<_, _> = annotations(&made).map(|(key, value)| (key, json!(value))).collect();
    let hook = json!([{ "path": "/bin/busybox", "args": ["echo", "said"] }]);
    let bundle = sandbox.bundle("cgroup-namespace").with("/hooks/createRuntime", hook);
    let bundle = bundle.script(LOOK);
    let plain = sandbox.run(&bundle);
    let annotated = sandbox.run(&bundle.with("/annotations", map.into()));
    assert_eq!((annotated.code(), &annotated.stdout), (plain.code(), &plain.stdout), "{annotated}");
    assert!(!made.exists(), "an annotation made a file of the host");
}

/// Where the sources read annotations, and what for. A new place belongs here only with a word on why what it reads can
/// be trusted: annotations come from whoever wrote the pod, and with other runtimes have loosened limits
/// (CVE-2023-6476) and run commands on the host (CVE-2024-3154, CVE-2026-53488).
const READERS: [(&str, &str); 11] = [
    ("src/oci/create.rs", "keeps them for `state`"),
    ("src/oci/stop.rs", "the signal that stops it, which is looked up among those there are"),
    ("src/spec/mod.rs", "passes on the caller's, and none of the image but the signal that stops it"),
    ("src/cli/launch/mod.rs", "passes on the image's signal that stops it"),
    ("src/pod/request_from_cri/mod.rs", "looks for bandwidth limits and CDI devices, which it checks"),
    ("src/pod/request_from_cri/tests/volumes.rs", "writes them"),
    ("src/pod/sandbox/list.rs", "gives them back to kubelet"),
    ("src/pod/sandbox/run.rs", "passes them to network plugins that ask for them"),
    ("src/pod/stats.rs", "gives them back to kubelet"),
    ("src/pod/container/list.rs", "gives them back to kubelet"),
    ("src/record/state.rs", "keeps them for `state`"),
];

#[test]
fn annotations_are_read_in_few_places() {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap_or_default();
            let code: Vec<_> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
            if code.iter().any(|line| line.contains(".annotations") || line.contains("annotations(")) {
                found.push(path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display().to_string());
            }
        }
    }
    // Those of images and of signatures are no container's.
    found.retain(|path| !path.starts_with("src/image/"));
    found.sort();
    let unknown: Vec<_> =
        found.iter().filter(|path| !READERS.iter().any(|(known, _)| known == path)).collect();
    assert!(unknown.is_empty(), "these read annotations: {unknown:?}");
}
