//! Pods and containers as kubelet runs them.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use coracle::image::import::{ImportOptions, import, open_source};
use coracle::image::progress::Silent;
use coracle::store::Store;
use coracle_cri::v1::*;
use tonic::Code;

use super::image_fixture::{Image, Layout, Member, Pack, tar};
use crate::support::{Serve, code, container, pod_on_host, pod_with, wait_until};

#[test]
fn a_pod_lives_and_leaves_nothing_behind() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(PodSandboxConfig {
        labels: [("app".to_owned(), "web".to_owned())].into(),
        annotations: [("note".to_owned(), "kept".to_owned())].into(),
        ..pod_on_host("one")
    });
    let id = serve.run_pod(&pod);
    let status = serve.try_pod_status(&id).unwrap();
    assert_eq!((status.state(), status.metadata), (PodSandboxState::SandboxReady, pod.metadata.clone()));
    assert_eq!((status.labels, status.annotations), (pod.labels.clone(), pod.annotations.clone()));

    let script = "echo out; echo err >&2; trap 'echo asked; exit 3' TERM; while :; do sleep 0.05; done";
    let box1 = container(&pod, "box1", script);
    let c = serve.try_create(&id, &pod, &box1).unwrap();
    assert_eq!(serve.container_state(&c), ContainerState::ContainerCreated);
    assert_eq!(code(serve.try_exec(&c, "true", None)), Code::FailedPrecondition);
    serve.try_start(&c).unwrap();
    assert_eq!(serve.container_state(&c), ContainerState::ContainerRunning);
    assert_eq!(code(serve.try_start(&c)), Code::FailedPrecondition);
    serve.logs("box1", "stdout F out");
    serve.logs("box1", "stderr F err");

    serve.try_stop(&c, 20).unwrap();
    let status = serve.try_status(&c).unwrap();
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 3));
    assert_eq!(status.reason, "Error");
    assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at);
    assert!(status.image_id.starts_with("sha256:") && !status.image_ref.is_empty());
    assert_eq!(status.log_path, serve.path("logs/box1.log").display().to_string());
    serve.logs("box1", "stdout F asked");
    serve.try_stop(&c, 0).unwrap();
    serve.try_remove(&c).unwrap();
    serve.try_remove(&c).unwrap();
    assert_eq!(code(serve.try_status(&c)), Code::NotFound);

    serve.try_stop_pod(&id).unwrap();
    assert_eq!(serve.try_pod_status(&id).unwrap().state(), PodSandboxState::SandboxNotready);
    assert_eq!(code(serve.try_create(&id, &pod, &box1)), Code::FailedPrecondition);
    serve.try_stop_pod(&id).unwrap();
    serve.try_remove_pod(&id).unwrap();
    serve.try_remove_pod(&id).unwrap();
    assert_eq!(code(serve.try_pod_status(&id)), Code::NotFound);
    serve.is_clean();
}

#[test]
fn a_retry_gets_what_the_first_call_made() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("again"));
    let id = serve.run_pod(&pod);
    assert_eq!(serve.run_pod(&pod), id);
    let other = PodSandboxConfig { hostname: "other".to_owned(), ..pod.clone() };
    assert_eq!(code(serve.try_run_pod(&other)), Code::AlreadyExists);
    let one = container(&pod, "one", "sleep 100");
    let c = serve.try_create(&id, &pod, &one).unwrap();
    assert_eq!(serve.try_create(&id, &pod, &one).unwrap(), c);
    serve.try_start(&c).unwrap();
    assert_eq!(code(serve.try_create(&id, &pod, &one)), Code::AlreadyExists);
    serve.removes_all();
}

#[test]
fn what_does_not_exist_is_stopped_and_removed_without_complaint() {
    needs!(root, launch_verb);
    let serve = Serve::new();
    serve.try_stop("nothing", 0).unwrap();
    serve.try_remove("nothing").unwrap();
    serve.try_stop_pod("nothing").unwrap();
    serve.try_remove_pod("nothing").unwrap();
    assert_eq!(code(serve.try_start("nothing")), Code::NotFound);
    assert_eq!(code(serve.try_exec("nothing", "true", None)), Code::NotFound);
}

#[test]
fn bad_requests_are_refused_and_leave_nothing() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let handler =
        RunPodSandboxRequest { config: Some(pod_on_host("x")), runtime_handler: "magic".to_owned() };
    let refused = serve.run(serve.runtime().run_pod_sandbox(handler)).unwrap_err();
    assert!(refused.message().contains("magic"), "{refused}");
    let pod = serve.logged(pod_on_host("bad"));
    let id = serve.run_pod(&pod);
    let good = container(&pod, "c", "true");
    let image = ImageSpec { image: "no-such-image".to_owned(), ..Default::default() };
    let missing = serve.try_create(&id, &pod, &ContainerConfig { image: Some(image), ..good.clone() });
    assert_eq!(code(missing), Code::NotFound);
    let device = Device { host_path: "/dev/no-such".to_owned(), ..Default::default() };
    let devices = ContainerConfig { devices: vec![device], ..good.clone() };
    assert_eq!(code(serve.try_create(&id, &pod, &devices)), Code::NotFound);
    let cdi = vec![CdiDevice { name: "acme.com/none=1".to_owned() }];
    let refused = serve.try_create(&id, &pod, &ContainerConfig { cdi_devices: cdi, ..good }).unwrap_err();
    assert!(refused.message().contains("acme.com/none=1"), "{refused}");
    assert_eq!(serve.all().1, [""; 0]);
    serve.removes_all();
}

#[test]
fn a_start_that_fails_is_told_in_the_status() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("bad"));
    let id = serve.run_pod(&pod);
    let broken =
        ContainerConfig { command: vec!["/no/such/program".to_owned()], ..container(&pod, "broken", "") };
    let c = serve.try_create(&id, &pod, &broken).unwrap();
    let refused = serve.try_start(&c).unwrap_err();
    assert!(refused.message().contains("/no/such/program"), "{refused}");
    let status = serve.try_status(&c).unwrap();
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 128));
    assert_eq!(status.reason, "StartError");
    assert!(status.message.contains("/no/such/program"), "{status:?}");
    serve.removes_all();
}

#[test]
fn commands_answer_with_their_output_and_end_in_time() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("exec"));
    let id = serve.run_pod(&pod);
    let c = serve.run_container(&id, &pod, &container(&pod, "box", "sleep 1000"));
    let answer = serve.try_exec(&c, "echo out; echo err >&2; exit 7", None).unwrap();
    assert_eq!((answer.stdout, answer.stderr, answer.exit_code), (b"out\n".into(), b"err\n".into(), 7));
    // More than a pipe holds.
    let much = serve.try_exec(&c, "head -c 3000000 /dev/zero", None).unwrap();
    assert_eq!(much.stdout.len(), 3_000_000);
    let refused = serve.try_exec(&c, "sleep 4321 & sleep 4321", Some(Duration::from_secs(1)));
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded);
    assert!(refused.message().ends_with("took longer than 1s"), "{refused}");
    wait_until("all of the command to be gone", || {
        let left = serve.output_in(&c, "ps -o args | grep -c '[s]leep 4321' || true");
        (left == "0").then_some(())
    });
    // A child that keeps the pipe keeps nobody waiting, and is the container's from then on.
    let began = Instant::now();
    let answer = serve.try_exec(&c, "sleep 500 & echo started", None).unwrap();
    assert_eq!(answer.stdout, b"started\n");
    assert!(began.elapsed() < Duration::from_secs(60), "it waited for the child");
    assert_eq!(serve.output_in(&c, "ps -o args | grep -c '[s]leep 500'"), "1");
    serve.removes_all();
}

#[test]
fn who_wants_too_much_memory_is_told_to_be_killed_for_it() {
    needs!(root, busybox, launch_verb, cgroup_limits);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("oom"));
    let id = serve.run_pod(&pod);
    let mut greedy = container(&pod, "greedy", "x=$(head -c 100000000 /dev/zero | tail)");
    let limits = LinuxContainerResources { memory_limit_in_bytes: 16 << 20, ..Default::default() };
    greedy.linux.as_mut().unwrap().resources = Some(limits);
    // The shell itself is what is killed: `exec` leaves no other.
    greedy.command = ["/bin/sh", "-c", "exec tail /dev/zero"].map(str::to_owned).into();
    let c = serve.run_container(&id, &pod, &greedy);
    let status = serve.exited(&c);
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    serve.removes_all();
}

#[test]
fn limits_change_while_it_runs_and_use_is_counted() {
    needs!(root, busybox, launch_verb, cgroup_limits);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("limits"));
    let id = serve.run_pod(&pod);
    // No limit, and counted all the same: what is taken before that begins is never counted.
    let unlimited = container(&pod, "box", "dd if=/dev/zero of=/file bs=1M count=3; sleep 100");
    let c = serve.run_container(&id, &pod, &unlimited);
    let limits =
        LinuxContainerResources { memory_limit_in_bytes: 64 << 20, cpu_shares: 512, ..Default::default() };
    let request = UpdateContainerResourcesRequest {
        container_id: c.clone(),
        linux: Some(limits),
        ..Default::default()
    };
    serve.run(serve.runtime().update_container_resources(request)).unwrap();
    let told = serve.try_status(&c).unwrap().resources.unwrap().linux.unwrap();
    assert_eq!((told.memory_limit_in_bytes, told.cpu_shares), (64 << 20, 512));
    wait_until("the file to be written", || {
        (serve.output_in(&c, "stat -c %s /file || true") == "3145728").then_some(())
    });
    let request = ContainerStatsRequest { container_id: c.clone() };
    let stats = serve.run(serve.runtime().container_stats(request)).unwrap().stats.unwrap();
    let value = |v: Option<UInt64Value>| v.map_or(0, |v| v.value);
    assert!(value(stats.cpu.unwrap().usage_core_nano_seconds) > 0);
    let memory = stats.memory.unwrap();
    // Not the working set: all that it has in memory may be pages of the file, which nobody touches any more.
    assert!(value(memory.usage_bytes) > 0);
    assert!(value(memory.available_bytes) < 64 << 20, "{memory:?}");
    assert!(value(stats.writable_layer.unwrap().used_bytes) >= 3 << 20);
    let request = PodSandboxStatsRequest { pod_sandbox_id: id.clone() };
    let of_pod = serve.run(serve.runtime().pod_sandbox_stats(request)).unwrap().stats.unwrap().linux.unwrap();
    assert_eq!(of_pod.containers.len(), 1);
    assert!(value(of_pod.process.unwrap().process_count) >= 1);
    serve.removes_all();
}

#[test]
fn a_log_is_a_regular_file_in_the_directory_of_its_pod() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    // Links that lead to the directory are the node's.
    fs::create_dir(serve.path("disk")).unwrap();
    std::os::unix::fs::symlink(serve.path("disk"), serve.path("logs")).unwrap();
    let pod = serve.logged(pod_on_host("logs"));
    let id = serve.run_pod(&pod);
    let at = |name: &str, path: &str| ContainerConfig {
        log_path: path.to_owned(),
        ..container(&pod, name, "while :; do echo line; sleep 0.02; done")
    };
    let c = serve.run_container(&id, &pod, &at("good", "good/0.log"));
    serve.logs("good/0", "stdout F line");
    fs::write(serve.path("victim"), "kept").unwrap();
    fs::create_dir_all(serve.path("disk/bad")).unwrap();
    fs::create_dir(serve.path("elsewhere")).unwrap();
    let victim = serve.path("victim");
    Command::new("mkfifo").arg(serve.path("disk/bad/fifo")).status().unwrap();
    std::os::unix::fs::symlink(&victim, serve.path("disk/bad/link")).unwrap();
    fs::hard_link(&victim, serve.path("disk/bad/other-name")).unwrap();
    fs::create_dir(serve.path("disk/bad/directory")).unwrap();
    for (name, why) in [
        ("fifo", "not a regular file"),
        ("directory", "not a regular file"),
        ("link", "symbolic link"),
        ("other-name", "other names"),
    ] {
        let bad = serve.try_create(&id, &pod, &at(name, &format!("bad/{name}"))).unwrap();
        let refused = serve.try_start(&bad).unwrap_err();
        assert!(refused.message().contains(why), "{name}: {refused}");
    }
    std::os::unix::fs::symlink(serve.path("elsewhere"), serve.path("disk/way")).unwrap();
    let refused = serve.try_create(&id, &pod, &at("way", "way/0.log"));
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(fs::read_dir(serve.path("elsewhere")).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");

    // The same at a rotation: the old file goes on being used.
    let reopen = || {
        let request = ReopenContainerLogRequest { container_id: c.clone() };
        serve.run(serve.runtime().reopen_container_log(request))
    };
    fs::rename(serve.path("disk/good/0.log"), serve.path("disk/good/0.log.1")).unwrap();
    Command::new("mkfifo").arg(serve.path("disk/good/0.log")).status().unwrap();
    assert!(reopen().unwrap_err().message().contains("not a regular file"));
    fs::rename(serve.path("disk/good"), serve.path("disk/moved")).unwrap();
    std::os::unix::fs::symlink(serve.path("elsewhere"), serve.path("disk/good")).unwrap();
    assert!(reopen().unwrap_err().message().contains("symbolic link"));
    assert_eq!(fs::read_dir(serve.path("elsewhere")).unwrap().count(), 0);
    fs::remove_file(serve.path("disk/good")).unwrap();
    fs::rename(serve.path("disk/moved"), serve.path("disk/good")).unwrap();
    fs::remove_file(serve.path("disk/good/0.log")).unwrap();
    reopen().unwrap();
    serve.logs("good/0", "stdout F line");
    serve.removes_all();
}

#[test]
fn a_log_that_was_moved_away_is_opened_again() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("logs"));
    let id = serve.run_pod(&pod);
    let c = serve.run_container(&id, &pod, &container(&pod, "box", "while :; do date +%N; sleep 0.02; done"));
    wait_until("a line", || (!serve.log_of("box").is_empty()).then_some(()));
    fs::rename(serve.path("logs/box.log"), serve.path("logs/box.log.1")).unwrap();
    serve
        .run(serve.runtime().reopen_container_log(ReopenContainerLogRequest { container_id: c.clone() }))
        .unwrap();
    wait_until("a line in the new one", || (!serve.log_of("box").is_empty()).then_some(()));
    serve.try_stop(&c, 0).unwrap();
    fs::remove_file(serve.path("logs/box.log")).unwrap();
    let again =
        serve.run(serve.runtime().reopen_container_log(ReopenContainerLogRequest { container_id: c }));
    assert_eq!(code(again), Code::FailedPrecondition);
    assert!(!serve.path("logs/box.log").exists());
    serve.removes_all();
}

#[test]
fn processes_are_shared_as_the_pod_says() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let options = NamespaceOption {
        network: NamespaceMode::Node.into(),
        pid: NamespaceMode::Pod.into(),
        ..Default::default()
    };
    let pod = serve.logged(pod_with("shared", options));
    let id = serve.run_pod(&pod);
    let one = serve.run_container(&id, &pod, &container(&pod, "one", "sleep 1111"));
    let two = serve.run_container(&id, &pod, &container(&pod, "two", "sleep 2222"));
    assert!(serve.output_in(&two, "ps -o args").contains("sleep 1111"));
    // Orphans have a parent that reaps them.
    serve.output_in(&one, "(sleep 0.01 &) ; sleep 0.3");
    assert_eq!(serve.output_in(&one, "grep -l 'State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l"), "0");
    // One container's end is not the other's.
    serve.try_stop(&one, 0).unwrap();
    assert!(serve.output_in(&two, "ps -o args").contains("sleep 2222"));
    // The first process's end is the end of all.
    let first = serve.output_in(&two, "tr '\\0' ' ' < /proc/1/cmdline");
    assert!(first.starts_with("/coracle-keeper"), "{first}");
    let target = NamespaceOption {
        pid: NamespaceMode::Target.into(),
        target_id: two.clone(),
        network: NamespaceMode::Node.into(),
        ..Default::default()
    };
    let mut debug = container(&pod, "debug", "sleep 3333");
    debug.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(target);
    let debug = serve.run_container(&id, &pod, &debug);
    assert!(serve.output_in(&debug, "ps -o args").contains("sleep 2222"));
    serve.removes_all();
}

#[test]
fn a_script_that_ignores_signals_may_start_the_daemon() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::stopped("");
    let mut command = Command::new("sh");
    command.args(["-c", "umask 077; trap '' INT HUP; exec \"$@\"", "sh"]);
    serve.start_as(serve.command_by(command));
    let pod = serve.logged(pod_on_host("heeds"));
    let id = serve.run_pod(&pod);
    let c = serve.run_container(&id, &pod, &container(&pod, "box", "sleep 100"));
    for script in ["grep SigIgn /proc/1/status", "grep SigIgn /proc/self/status"] {
        let line = serve.output_in(&c, script);
        // The shell itself ignores SIGQUIT.
        let ignored = u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap();
        assert_eq!(ignored & 0b11, 0, "{line}");
    }
    assert_eq!(serve.output_in(&c, "stat -c %a /etc/resolv.conf"), "644");
    serve.removes_all();
}

#[test]
fn users_groups_and_rights_are_as_wished() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("user"));
    let id = serve.run_pod(&pod);
    let mut wished = container(&pod, "box", "sleep 100");
    let security = wished.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.run_as_user = Some(Int64Value { value: 1234 });
    security.run_as_group = Some(Int64Value { value: 4321 });
    security.supplemental_groups = vec![77];
    security.no_new_privs = true;
    security.readonly_rootfs = true;
    security.capabilities =
        Some(Capability { drop_capabilities: vec!["ALL".to_owned()], ..Default::default() });
    security.seccomp = Some(SecurityProfile {
        profile_type: security_profile::ProfileType::RuntimeDefault.into(),
        localhost_ref: String::new(),
    });
    wished.envs = vec![KeyValue { key: "WORD".to_owned(), value: b"said".into() }];
    let c = serve.run_container(&id, &pod, &wished);
    assert_eq!(serve.output_in(&c, "id -u; id -g; id -G"), "1234\n4321\n4321 77");
    assert_eq!(serve.output_in(&c, "echo $WORD"), "said");
    let status = serve.output_in(&c, "cat /proc/self/status");
    for line in ["CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    assert_ne!(serve.try_exec(&c, "touch /x", None).unwrap().exit_code, 0);
    let user = serve.try_status(&c).unwrap().user.unwrap().linux.unwrap();
    assert_eq!((user.uid, user.gid, user.supplemental_groups), (1234, 4321, vec![4321, 77]));
    serve.removes_all();
}

#[test]
fn volumes_come_from_the_host_and_from_images() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("volumes"));
    let id = serve.run_pod(&pod);
    let host = serve.path("host");
    let volume = |at: &str, path: String, readonly| Mount {
        container_path: at.to_owned(),
        host_path: path,
        readonly,
        ..Default::default()
    };
    let of_image = |sub: &str| Mount {
        container_path: "/image".to_owned(),
        image: Some(ImageSpec { image: "box".to_owned(), ..Default::default() }),
        image_sub_path: sub.to_owned(),
        readonly: true,
        ..Default::default()
    };
    let made = host.join("made").display().to_string();
    let mut config = container(&pod, "box", "sleep 100");
    config.mounts = vec![volume("/rw", made, false), of_image("bin")];
    let c = serve.run_container(&id, &pod, &config);
    serve.output_in(&c, "echo hello > /rw/file");
    assert_eq!(fs::read_to_string(host.join("made/file")).unwrap(), "hello\n");
    assert!(serve.output_in(&c, "ls /image").contains("busybox"));
    assert_ne!(serve.try_exec(&c, "touch /image/x", None).unwrap().exit_code, 0);
    for (sub, name) in [("no/such", "a"), ("../..", "b")] {
        let config = ContainerConfig { mounts: vec![of_image(sub)], ..container(&pod, name, "true") };
        serve.try_create(&id, &pod, &config).unwrap_err();
    }
    serve.removes_all();
}

#[test]
fn the_image_of_a_volume_is_in_use_as_long_as_the_container_is_there() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let layer = tar(&[Member::File("data", b"kept")]);
    let image = Image { layers: vec![layer], pack: Pack::Gzip, platform: "", name: Some("data:1") };
    Layout::of(image).write(&serve.path("layout"));
    let source = open_source(&serve.path("layout")).unwrap();
    let store = Store::open(&serve.path("store")).unwrap();
    import(&store, source, &ImportOptions::default(), &Silent).unwrap();
    let data = Some(ImageSpec { image: "data:1".to_owned(), ..Default::default() });
    let pod = serve.logged(pod_on_host("volume-image"));
    let id = serve.run_pod(&pod);
    let mount = Mount {
        container_path: "/image".to_owned(),
        image: data.clone(),
        readonly: true,
        ..Default::default()
    };
    let config = ContainerConfig { mounts: vec![mount], ..container(&pod, "box", "sleep 100") };
    let c = serve.run_container(&id, &pod, &config);
    let remove = || serve.run(serve.image().remove_image(RemoveImageRequest { image: data.clone() }));
    let refused = remove().unwrap_err();
    assert!(refused.message().contains(&c), "{refused}");
    assert_eq!(serve.output_in(&c, "cat /image/data"), "kept");
    serve.removes_all();
    remove().unwrap();
    assert!(store.find("data:1").is_err());
}

#[test]
fn mounts_made_inside_are_seen_by_the_node_where_that_is_wished() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::stopped("");
    // A mount namespace of the node's own, whose mounts propagate.
    let mut command = Command::new("unshare");
    let script = "mount --make-rshared / && exec \"$@\"";
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    serve.start_as(serve.command_by(command));
    let mut pod = serve.logged(pod_on_host("shared"));
    pod.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    let id = serve.run_pod(&pod);
    let host = serve.path("volume");
    fs::create_dir(&host).unwrap();
    for (name, propagation, expected) in [
        ("private", MountPropagation::PropagationPrivate, false),
        ("slave", MountPropagation::PropagationHostToContainer, false),
        ("shared", MountPropagation::PropagationBidirectional, true),
    ] {
        let mut config = container(&pod, name, "sleep 100");
        config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
        config.mounts = vec![Mount {
            container_path: "/volume".to_owned(),
            host_path: host.display().to_string(),
            propagation: propagation.into(),
            ..Default::default()
        }];
        let c = serve.run_container(&id, &pod, &config);
        serve.output_in(&c, &format!("mkdir /volume/{name} && mount -t tmpfs {name} /volume/{name}"));
        let mounts = fs::read_to_string(format!("/proc/{}/mounts", serve.pid())).unwrap();
        assert_eq!(mounts.contains(&format!("{}/{name}", host.display())), expected, "{name}: {mounts}");
    }
    serve.removes_all();
}

#[test]
fn writable_layers_can_lie_in_memory() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::with("state_on_tmpfs = true\n");
    let pod = serve.logged(pod_on_host("memory"));
    let id = serve.run_pod(&pod);
    let c = serve.run_container(&id, &pod, &container(&pod, "box", "echo > /file; sleep 100"));
    let layer = serve.kept().run_dir().join("layers").join(&c).join("upper/file");
    wait_until("the file", || layer.exists().then_some(()));
    serve.removes_all();
    assert!(!layer.exists());
}

#[test]
fn lists_are_filtered() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let labels = |value: &str| [("app".to_owned(), value.to_owned())].into();
    let one = serve.logged(PodSandboxConfig { labels: labels("one"), ..pod_on_host("one") });
    let two = serve.logged(PodSandboxConfig { labels: labels("two"), ..pod_on_host("two") });
    let (one_id, _two_id) = (serve.run_pod(&one), serve.run_pod(&two));
    let filter = PodSandboxFilter { label_selector: labels("one"), ..Default::default() };
    let request = ListPodSandboxRequest { filter: Some(filter) };
    let found = serve.run(serve.runtime().list_pod_sandbox(request)).unwrap().items;
    assert_eq!(found.iter().map(|pod| pod.id.as_str()).collect::<Vec<_>>(), [one_id.as_str()]);
    // The beginning of an id is enough, as crictl sends it.
    assert_eq!(serve.try_pod_status(&one_id[..12]).unwrap().id, one_id);
    serve.removes_all();
}
