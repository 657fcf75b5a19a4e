//! The runtime configurations that `launch`, `spec` and pods come to, compared with those in `container_specs/`.
//!
//! `CORACLE_SNAPSHOTS=write` writes the files anew: then the difference is to be read, and its reason given in the commit.

use std::fs;
use std::path::{Path, PathBuf};

use coracle_cri::v1::*;
use serde_json::{Value, json};

use crate::keeper::Kept;
use crate::launch::with_image;
use crate::support::{Sandbox, Serve, container, pod_on_host, pod_with};

/// Compares a configuration with the file of this name.
#[track_caller]
fn is_as_kept(name: &str, spec: &Value) {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/container_specs").join(format!("{name}.json"));
    let text = format!("{spec:#}\n");
    if std::env::var("CORACLE_SNAPSHOTS").is_ok_and(|what| what == "write") {
        fs::write(&path, text).unwrap();
        return;
    }
    let kept = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let kept: Value = serde_json::from_str(&kept).unwrap();
    let differences = differences("", &kept, spec);
    assert!(differences.is_empty(), "{name}: {differences:#?}");
}

/// Where two values differ.
fn differences(at: &str, one: &Value, other: &Value) -> Vec<String> {
    match (one, other) {
        (Value::Object(one_map), Value::Object(other_map)) => {
            let keys: std::collections::BTreeSet<_> = one_map.keys().chain(other_map.keys()).collect();
            keys.into_iter()
                .flat_map(|key| differences(&format!("{at}/{key}"), &one[key], &other[key]))
                .collect()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .flat_map(|(n, (a, b))| differences(&format!("{at}/{n}"), a, b))
            .collect(),
        _ if one == other => Vec::new(),
        _ => vec![format!("{at}: {one} became {other}")],
    }
}

/// A configuration without what differs from run to run and from host to host.
struct Normal<'a> {
    sandbox: &'a Sandbox,
    /// Texts that stand for others.
    names: Vec<(String, &'static str)>,
}

impl Normal<'_> {
    fn read(&self, path: PathBuf) -> Value {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut text = text.replace(&self.sandbox.path("").display().to_string(), "SANDBOX/");
        for (own, name) in &self.names {
            text = text.replace(own, name);
        }
        let mut spec: Value = serde_json::from_str(&text.replace(self.sandbox.mark(), "MARK.")).unwrap();
        name_the_default_profile(&mut spec);
        let every = caps::all().len();
        for set in
            spec["process"]["capabilities"].as_object_mut().into_iter().flat_map(|sets| sets.values_mut())
        {
            let names = set.as_array_mut().unwrap();
            names.sort_by_key(Value::to_string);
            if names.len() == every {
                *set = json!("every capability");
            }
        }
        spec
    }
}

/// Puts a word in the place of the default seccomp profile, which is long and differs between architectures.
fn name_the_default_profile(spec: &mut Value) {
    let parsed: oci_spec::runtime::Spec = serde_json::from_value(spec.clone()).unwrap();
    let Some(profile) = parsed.linux().as_ref().and_then(|linux| linux.seccomp().clone()) else { return };
    let sets = parsed.process().as_ref().and_then(|process| process.capabilities().clone()).unwrap();
    if profile == coracle::seccomp::default_profile(&sets.bounding().clone().unwrap()) {
        spec["linux"]["seccomp"] = json!("the default profile for these capabilities");
    }
}

/// Removes the host's device nodes from the configuration of a privileged container, which gets all of them.
fn without_nodes_of_host(spec: &mut Value, kept: &[&str]) {
    let is_kept = |node: &Value| kept.iter().any(|path| node["path"] == *path);
    let nodes = spec.pointer_mut("/linux/devices").and_then(Value::as_array_mut);
    let Some(nodes) = nodes.filter(|nodes| nodes.iter().any(|node| node["path"] == "/dev/null")) else {
        return;
    };
    nodes.retain(is_kept);
    let numbers: Vec<_> = nodes.iter().map(|node| (node["major"].clone(), node["minor"].clone())).collect();
    let rules = spec["linux"]["resources"]["devices"].as_array_mut().unwrap();
    // The nodes of the host may be used in every way, those that a test asks for may not.
    rules.retain(|rule| {
        let number = (rule["major"].clone(), rule["minor"].clone());
        rule["major"].is_null() || (numbers.contains(&number) && rule["access"] != "rwm")
    });
}

#[test]
fn flags_of_launch_come_to_these_configurations() {
    needs!(root, busybox, launch_verb);
    let config = json!({
        "Cmd": ["/bin/sh", "-c", "sleep 1000"], "Env": ["PATH=/bin", "FROM=image"], "StopSignal": "SIGUSR1",
        "User": "web:audio", "WorkingDir": "/srv", "Volumes": { "/var/lib/data": {}, "/new/volume": {} },
        "Labels": { "run.oci.handler": "never an annotation" },
    });
    let kept = Kept { sandbox: with_image(config) };
    let sandbox = &kept.sandbox;
    let shared = sandbox.path("shared");
    fs::create_dir(&shared).unwrap();
    let profile = sandbox.path("seccomp.json");
    fs::write(
        &profile,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["swapon"],"action":"SCMP_ACT_ERRNO"}]}"#,
    )
    .unwrap();
    let env_file = sandbox.path("env");
    fs::write(&env_file, "# comment\nIN_FILE=a=b\nBOTH=file\n").unwrap();
    for (name, flags) in cases(sandbox, &shared, &profile, &env_file) {
        launch(&kept, name, &flags, &[]);
    }
    launch(&kept, "terminal", "--tty", &[]);
    launch(
        &kept,
        "privileged",
        "--privileged --device /dev/full:/dev/fuller:rw --cap-drop MKNOD",
        &["/dev/fuller"],
    );
    remove_parent(&format!("{}below", sandbox.mark()));
}

/// What `launch` is given, by the name of the file with what that comes to.
fn cases(sandbox: &Sandbox, shared: &Path, profile: &Path, env_file: &Path) -> [(&'static str, String); 16] {
    let (shared, profile, env_file) = (shared.display(), profile.display(), env_file.display());
    [
        ("plain", String::new()),
        ("environment", format!("-e A=1 -e BOTH=flag -e EMPTY= -e PATH=/usr/bin --env-file {env_file}")),
        ("user", "-u 1000:1000 --group-add audio --group-add 7".into()),
        ("root-user", "-u 0 -w /work".into()),
        ("host-network", "--net host --hostname harbour".into()),
        ("hostname", "--hostname harbour".into()),
        (
            "mounts",
            format!(
                "-v {shared}:/a -v {shared}:/b:ro,rslave --mount type=bind,source={shared},target=/c,readonly \
                 --mount type=tmpfs,target=/m,tmpfs-size=1m,tmpfs-mode=700 --tmpfs /t:size=1m,exec --shm-size 1m"
            ),
        ),
        ("covered-mounts", format!("-v {shared}:/dev/shm -v {shared}:/etc/hosts -v {shared}:/var/lib/data")),
        ("read-only", "--read-only --security-opt no-new-privileges".into()),
        (
            "limits",
            "--memory 64m --memory-swap 128m --memory-reservation 32m --cpus 0.5 --cpu-shares 512 --cpuset-cpus 0 \
             --pids-limit 77 --ulimit nofile=1024:4096 --ulimit core=-1 --oom-score-adj 100"
                .into(),
        ),
        ("capabilities", "--cap-drop ALL --cap-add net_admin --cap-add CAP_KILL".into()),
        ("all-capabilities", "-u 0 --cap-add ALL --cap-drop MKNOD".into()),
        ("unconfined", "--security-opt seccomp=unconfined --security-opt systempaths=unconfined".into()),
        ("seccomp-file", format!("--security-opt seccomp={profile}")),
        ("devices", "--device /dev/null:/dev/nothing:r --device /dev/zero --device /dev/full:rw".into()),
        (
            "others",
            format!("--annotation a=b --annotation org.opencontainers.image.stopSignal=SIGINT --sysctl net.core.somaxconn=9 \
             --cgroup-parent /{}below --entrypoint /bin/sleep", sandbox.mark()),
        ),
    ]
}

/// Removes a cgroup that held the cgroups of containers; nobody else does.
fn remove_parent(name: &str) {
    let trees = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    for tree in trees.chain([PathBuf::from("/sys/fs/cgroup")]) {
        let _ = fs::remove_dir(tree.join(name));
    }
}

/// `launch --detach FLAGS box`, compared with `launch-NAME.json`.
fn launch(kept: &Kept, name: &str, flags: &str, kept_nodes: &[&str]) {
    let flags: Vec<_> = flags.split_whitespace().collect();
    let script = "trap 'exit 0' TERM USR1 INT; while :; do sleep 0.05; done";
    let sandbox = &kept.sandbox;
    if flags.contains(&"--entrypoint") {
        let words = [&["--detach"], &flags[..], &["box", "1000"]].concat();
        crate::launch::prepare(sandbox, name, words).go().ok();
    } else {
        kept.launch(name, &flags, script);
    }
    let id = sandbox.id(name);
    let normal = Normal {
        sandbox,
        names: vec![
            (script.to_owned(), "SCRIPT"),
            (id.clone(), "CONTAINER"),
            (sandbox.mark().to_owned(), "MARK."),
            (id[..12].to_owned(), "SHORT-NAME"),
        ],
    };
    let mut spec = normal.read(sandbox.root().join(&id).join("config.json"));
    without_nodes_of_host(&mut spec, kept_nodes);
    is_as_kept(&format!("launch-{name}"), &spec);
    sandbox.coracle(["rm", "--force", &id]).ok();
}

#[test]
fn spec_writes_these_configurations() {
    let sandbox = Sandbox::new();
    for (name, flags) in [("spec", &[][..]), ("spec-rootless", &["--rootless"][..])] {
        let bundle = sandbox.path(name);
        fs::create_dir(&bundle).unwrap();
        let words = ["spec", "--bundle", bundle.to_str().unwrap()].into_iter().chain(flags.iter().copied());
        sandbox.coracle(words).ok();
        let mut spec = Normal { sandbox: &sandbox, names: Vec::new() }.read(bundle.join("config.json"));
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        for (list, id) in [("uidMappings", uid), ("gidMappings", gid)] {
            if spec["linux"][list].is_array() {
                assert_eq!(spec["linux"][list][0]["hostID"], id);
                spec["linux"][list][0]["hostID"] = json!("OWN");
            }
        }
        is_as_kept(name, &spec);
    }
}

/// A container with changes to its configuration and its security context.
fn changed(
    pod: &PodSandboxConfig,
    name: &str,
    change: impl FnOnce(&mut ContainerConfig, &mut LinuxContainerSecurityContext),
) -> ContainerConfig {
    let mut config = container(pod, name, "sleep 1000");
    let mut linux = config.linux.take().unwrap();
    let mut security = linux.security_context.take().unwrap();
    change(&mut config, &mut security);
    let mut own = config.linux.take().unwrap_or_default();
    own.security_context = Some(security);
    config.linux = Some(own);
    config
}

fn value(value: i64) -> Option<Int64Value> {
    Some(Int64Value { value })
}

fn text(list: &[&str]) -> Vec<String> {
    list.iter().map(|one| (*one).to_owned()).collect()
}

fn pair(key: &str, value: &[u8]) -> KeyValue {
    KeyValue { key: key.to_owned(), value: value.to_vec() }
}

/// Starts a container, and compares its configuration with `pod-NAME.json`.
fn run(serve: &Serve, id: &str, pod: &PodSandboxConfig, config: &ContainerConfig, kept_nodes: &[&str]) {
    let name = &config.metadata.as_ref().unwrap().name;
    let own = serve.run_container(id, pod, config);
    let normal = Normal {
        sandbox: serve.sandbox(),
        names: vec![(own.clone(), "CONTAINER"), (id.to_owned(), "POD"), (own_hostname(), "NODE")],
    };
    let mut spec = normal.read(serve.sandbox().root().join(&own).join("config.json"));
    without_nodes_of_host(&mut spec, kept_nodes);
    // Only where the host has one tree of cgroups.
    spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "cgroup");
    is_as_kept(&format!("pod-{name}"), &spec);
    serve.try_stop(&own, 0).unwrap();
}

fn own_hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[test]
fn containers_of_pods_come_to_these_configurations() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("host"));
    let id = serve.run_pod(&pod);
    for config in [processes(&pod), confinements(&pod), resources(&serve, &pod)].concat() {
        run(&serve, &id, &pod, &config, &[]);
    }
    let privileged = changed(&pod, "privileged", |config, security| {
        security.privileged = true;
        security.masked_paths = text(&["/proc/kcore"]);
        security.capabilities =
            Some(Capability { drop_capabilities: text(&["ALL"]), ..Capability::default() });
        config.devices = vec![fuller()];
    });
    run(&serve, &id, &pod, &privileged, &["/dev/fuller"]);
    other_pods(&serve);
    serve.removes_all();
    remove_parent(&format!("{}pods", serve.sandbox().mark()));
}

fn fuller() -> Device {
    Device { host_path: "/dev/full".into(), container_path: "/dev/fuller".into(), permissions: "rw".into() }
}

fn processes(pod: &PodSandboxConfig) -> Vec<ContainerConfig> {
    let plain = changed(pod, "plain", |_, _| ());
    let process = changed(pod, "process", |config, security| {
        config.command = text(&["/bin/sleep"]);
        config.args = text(&["1000"]);
        config.envs =
            vec![pair("A", b"1"), pair("PATH", b"/bin:/usr/bin"), pair("RAW", b"\xff"), pair("A", b"2")];
        config.working_dir = "/work".into();
        config.annotations = [("run.oci.handler".to_owned(), "never an annotation".to_owned())].into();
        security.no_new_privs = true;
        security.readonly_rootfs = true;
    });
    let user = changed(pod, "user", |_, security| {
        security.run_as_username = "web".into();
        security.run_as_group = value(7);
        security.supplemental_groups = vec![7, 8];
    });
    let number = changed(pod, "user-number", |_, security| {
        security.run_as_user = value(1000);
        security.supplemental_groups = vec![9];
        security.supplemental_groups_policy = SupplementalGroupsPolicy::Strict.into();
    });
    vec![plain, process, user, number]
}

fn confinements(pod: &PodSandboxConfig) -> Vec<ContainerConfig> {
    let capabilities = changed(pod, "capabilities", |_, security| {
        security.capabilities = Some(Capability {
            add_capabilities: text(&["NET_ADMIN", "CAP_SYS_TIME"]),
            drop_capabilities: text(&["ALL", "SYS_TIME"]),
            add_ambient_capabilities: text(&["NET_BIND_SERVICE"]),
        });
        security.run_as_user = value(1000);
    });
    let seccomp = changed(pod, "seccomp", |_, security| {
        let profile_type = security_profile::ProfileType::RuntimeDefault.into();
        security.seccomp = Some(SecurityProfile { profile_type, localhost_ref: String::new() });
        security.masked_paths = text(&["/proc/kcore", "/sys/firmware"]);
        security.readonly_paths = text(&["/proc/sys"]);
    });
    vec![capabilities, seccomp]
}

fn resources(serve: &Serve, pod: &PodSandboxConfig) -> Vec<ContainerConfig> {
    let shared = serve.path("shared");
    fs::create_dir(&shared).unwrap();
    let mount = |at: &str| Mount {
        host_path: shared.display().to_string(),
        container_path: at.to_owned(),
        ..Mount::default()
    };
    let limits = LinuxContainerResources {
        cpu_quota: 50_000,
        cpu_period: 100_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
        cpuset_cpus: "0".into(),
        oom_score_adj: 900,
        ..LinuxContainerResources::default()
    };
    let resources = changed(pod, "resources", |config, _| {
        config.linux = Some(LinuxContainerConfig { resources: Some(limits), security_context: None });
    });
    let mounts = changed(pod, "mounts", |config, _| {
        config.mounts = vec![
            Mount { readonly: true, ..mount("/data/deep/below") },
            Mount { propagation: MountPropagation::PropagationHostToContainer.into(), ..mount("/data") },
            mount("/etc/hosts"),
            mount("/dev/shm"),
        ];
        config.devices = vec![fuller()];
    });
    vec![resources, mounts]
}

/// Pods with other namespaces, host names and cgroups.
fn other_pods(serve: &Serve) {
    let options = NamespaceOption {
        network: NamespaceMode::Node.into(),
        pid: NamespaceMode::Pod.into(),
        ipc: NamespaceMode::Node.into(),
        ..NamespaceOption::default()
    };
    let mut pod = serve.logged(pod_with("shared-pids", options));
    pod.linux.as_mut().unwrap().cgroup_parent = format!("/{}pods", serve.sandbox().mark());
    let id = serve.run_pod(&pod);
    run(serve, &id, &pod, &changed(&pod, "shared-pids", |_, _| ()), &[]);
}

#[test]
fn a_container_of_a_pod_with_its_own_namespaces_comes_to_this_configuration() {
    needs!(root, busybox, launch_verb, cni_plugins, user_namespaces);
    let serve = crate::pods_network::node();
    let range = || vec![IdMapping { container_id: 0, host_id: 200_000, length: 65_536 }];
    let user = UserNamespace { mode: NamespaceMode::Pod.into(), uids: range(), gids: range() };
    let options = NamespaceOption { userns_options: Some(user), ..NamespaceOption::default() };
    let pod = serve
        .logged(PodSandboxConfig { hostname: "mapped".to_owned(), ..pod_with("user-namespace", options) });
    let id = serve.run_pod(&pod);
    run(&serve, &id, &pod, &changed(&pod, "user-namespace", |_, _| ()), &[]);
    serve.removes_all();
}
