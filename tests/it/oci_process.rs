//! What the payload is: its user, capabilities, limits, filters and namespaces.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::json;

use crate::support::Sandbox;

#[test]
fn capabilities_are_exactly_those_of_the_bundle() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let output = sandbox.run(&sandbox.bundle("minimal").args(&["/bin/cat", "/proc/self/status"])).ok();
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        output.has_line(&format!("{set}:\t0000000020000420"));
    }
    for set in ["CapInh", "CapAmb"] {
        output.has_line(&format!("{set}:\t0000000000000000"));
    }
}

#[test]
fn each_capability_set_is_set_by_itself() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    // As another user than root, where exec does not raise sets by itself. CAP_KILL is bit 5, CHOWN 0, NET_ADMIN 12.
    let bundle = sandbox.bundle("capabilities").with("/process/user/uid", json!(1000));
    let output = sandbox.run(&bundle.args(&["/bin/cat", "/proc/self/status"])).ok();
    output.has_line("CapBnd:\t0000000000001021");
    output.has_line("CapInh:\t0000000000000020");
    output.has_line("CapAmb:\t0000000000000020");
    output.has_line("CapEff:\t0000000000000020");
}

#[test]
fn without_capabilities_there_are_none() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal").with("/process/capabilities", json!({}));
    let output = sandbox.run(&bundle.args(&["/bin/cat", "/proc/self/status"])).ok();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        output.has_line(&format!("{set}:\t0000000000000000"));
    }
}

#[test]
fn no_new_privileges_is_as_asked() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal").args(&["/bin/cat", "/proc/self/status"]);
    sandbox.run(&bundle).ok().has_line("NoNewPrivs:\t1");
    let bundle = bundle.with("/process/noNewPrivileges", json!(false));
    sandbox.run(&bundle).ok().has_line("NoNewPrivs:\t0");
}

#[test]
fn resource_limits_are_set() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.run(&sandbox.bundle("rlimits")).ok().stdout, "64\n128\n0\n100\n");
}

#[test]
fn user_groups_and_umask_are_set() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let output = sandbox.run(&sandbox.bundle("user")).ok();
    assert_eq!(output.stdout, "1000\n1001\n1001 5 44\n0027\n");
}

#[test]
fn the_oom_score_is_raised() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.run(&sandbox.bundle("oom-score-adj")).ok().text(), "300");
}

#[test]
fn a_filtered_call_fails_with_the_errno_asked_for() {
    needs!(root, busybox, oci_verbs, seccomp);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("seccomp-errno");
    let output = sandbox.run(&bundle).ok();
    assert_eq!(output.stdout, "code 1\nend\n");
    assert!(output.stderr.contains("not supported"), "EOPNOTSUPP: {output}");
    sandbox.run(&bundle.args(&["/bin/cat", "/proc/self/status"])).ok().has_line("Seccomp:\t2");
}

#[test]
fn a_filter_looks_at_arguments() {
    needs!(root, busybox, oci_verbs, seccomp);
    let sandbox = Sandbox::new();
    let bundle = sandbox
        .bundle("seccomp-argument")
        .script("unshare --user true || echo refused; unshare --uts true; echo end");
    let output = sandbox.run(&bundle).ok();
    // The second is refused too, but by the missing privilege and not by the filter.
    assert_eq!(output.stdout, "refused\nend\n");
    assert!(output.stderr.contains("not implemented") && output.stderr.contains("not permitted"), "{output}");
}

#[test]
fn a_filter_can_kill() {
    needs!(root, busybox, oci_verbs, seccomp);
    let sandbox = Sandbox::new();
    let bundle = sandbox
        .bundle("seccomp-errno")
        .with(
            "/linux/seccomp/syscalls",
            json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS" }]),
        )
        .script("sh -c 'mkdir /tmp/new; echo survived'; echo code $?");
    let output = sandbox.run(&bundle).ok();
    output.has_line("survived");
    assert!(!bundle.root().join("tmp/new").exists());
    sandbox.run(&bundle.args(&["/bin/mkdir", "/tmp/new"])).exits(128 + 31);
}

/// The calls of a small static program from execve to its end, and those a runtime makes after loading the filter.
const ENOUGH_FOR_BUSYBOX: &str = "\
    execve read write open openat close exit exit_group brk mmap munmap mprotect arch_prctl \
    set_tid_address set_robust_list rseq prlimit64 getrandom readlink newfstatat fstat stat uname getuid \
    geteuid getgid getegid rt_sigaction rt_sigprocmask prctl ioctl futex capset capget getdents64 fcntl \
    fstatfs getpid readlinkat poll ppoll nanosleep clock_nanosleep epoll_pwait epoll_ctl tgkill gettid \
    sigaltstack madvise rt_sigreturn setgid setuid setgroups chdir getppid sendmsg recvmsg statx dup3 \
    close_range faccessat2 faccessat lseek access setsid sched_yield wait4 execveat";

#[test]
fn a_filter_that_allows_by_name_refuses_the_rest() {
    needs!(root, busybox, oci_verbs, seccomp, amd64);
    let sandbox = Sandbox::new();
    let names: Vec<_> = ENOUGH_FOR_BUSYBOX.split_whitespace().collect();
    let bundle = sandbox
        .bundle("seccomp-errno")
        .with("/linux/seccomp/defaultAction", json!("SCMP_ACT_ERRNO"))
        .with("/linux/seccomp/syscalls", json!([{ "names": names, "action": "SCMP_ACT_ALLOW" }]));
    let bundle = bundle.args(&["/bin/mkdir", "/tmp/new"]);
    let output = sandbox.run(&bundle).fails();
    assert!(output.stderr.contains("Operation not permitted"), "{output}");
    assert_eq!(sandbox.run(&bundle.args(&["/bin/echo", "passes"])).ok().text(), "passes");
}

#[test]
fn sysctls_are_set_inside_and_only_there() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let before = fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    assert_eq!(sandbox.run(&sandbox.bundle("sysctl")).ok().stdout, "4096\n1\n");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(), before);
}

#[test]
fn a_sysctl_of_the_whole_host_is_refused() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal").with("/linux/sysctl", json!({ "kernel.pid_max": "100000" }));
    let output = sandbox.run(&bundle).fails();
    assert!(output.stderr.contains("kernel.pid_max"), "{output}");
}

#[test]
fn the_host_name_is_the_containers_own() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let before = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let output = sandbox.run(&sandbox.bundle("hostname")).ok();
    assert_eq!(output.stdout.lines().next(), Some("boat"));
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), before);
}

#[test]
fn the_domain_name_is_the_containers_own() {
    needs!(root, busybox, oci_verbs);
    not_by!(Runc: "domain names come with runc 1.2");
    let sandbox = Sandbox::new();
    let output = sandbox.run(&sandbox.bundle("hostname")).ok();
    assert_eq!(output.stdout, "boat\nexample.org\n");
}

#[test]
fn listed_namespaces_are_new_and_others_the_hosts() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox
        .bundle("minimal")
        .script("for n in pid net ipc uts mnt user cgroup; do readlink /proc/self/ns/$n; done");
    let inside = sandbox.run(&bundle).ok();
    let host: Vec<_> = ["pid", "net", "ipc", "uts", "mnt", "user", "cgroup"]
        .iter()
        .map(|n| fs::read_link(format!("/proc/self/ns/{n}")).unwrap().to_str().unwrap().to_owned())
        .collect();
    for (inside, host) in inside.stdout.lines().zip(&host) {
        let is_shared = host.starts_with("user:") || host.starts_with("cgroup:");
        assert_eq!(inside == host, is_shared, "{inside} beside {host}");
    }
    let shared = sandbox.run(&sandbox.bundle("host-network")).ok();
    assert_eq!(shared.text(), host[1]);
}

#[test]
fn a_namespace_given_by_path_is_joined() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("sleeping");
    sandbox.run_detached(&bundle, "first", &[]).ok();
    let pid = sandbox.state("first")["pid"].as_i64().unwrap();
    let joined = bundle.edit(|config| {
        for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
            let file = match namespace["type"].as_str().unwrap() {
                "network" => "net",
                "ipc" => "ipc",
                "uts" => "uts",
                _ => continue,
            };
            namespace["path"] = json!(format!("/proc/{pid}/ns/{file}"));
        }
        config.as_object_mut().unwrap().remove("hostname");
    });
    let output = sandbox
        .run(&joined.script("for n in net ipc uts; do readlink /proc/self/ns/$n; done; hostname"))
        .ok();
    let expected = ["net", "ipc", "uts"].map(|n| fs::read_link(format!("/proc/{pid}/ns/{n}")).unwrap());
    let expected: Vec<_> = expected.iter().map(|link| link.to_str().unwrap()).chain(["minimal"]).collect();
    assert_eq!(output.stdout.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_user_namespace_maps_root_to_an_ordinary_user() {
    needs!(root, busybox, oci_verbs, user_namespaces);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("user-namespace");
    let output = sandbox.run(&bundle).ok();
    let words: Vec<_> = output.stdout.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "100000", "65536", "0", "200000", "65536"]);
    sandbox.run_detached(&bundle.args(&["/bin/sleep", "1000"]), "web", &[]).ok();
    let pid = sandbox.state("web")["pid"].as_i64().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t100000\t100000\t100000\t100000\n"), "{status}");
    assert!(status.contains("Gid:\t200000\t200000\t200000\t200000\n"), "{status}");
    let owner = fs::metadata("/dev/null").unwrap();
    assert_eq!((owner.uid(), owner.gid()), (0, 0), "the host's own /dev/null, which is the payload's input");
}

#[test]
fn a_time_namespace_has_its_own_clocks() {
    needs!(root, busybox, oci_verbs, time_namespaces);
    not_by!(Runc, Crun: "time namespaces come with runc 1.2 and crun 1.9");
    let sandbox = Sandbox::new();
    let output = sandbox.run(&sandbox.bundle("time-namespace")).ok();
    let uptime: f64 = output.stdout.lines().last().unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(uptime > 10_000_000.0, "{output}");
}

#[test]
fn a_personality_makes_a_32_bit_machine() {
    needs!(root, busybox, oci_verbs, amd64);
    not_by!(Runc: "personalities come with runc 1.2");
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.run(&sandbox.bundle("personality")).ok().text(), "i686");
}

#[test]
fn the_callers_umask_is_the_payloads_unless_configured() {
    needs!(root, busybox);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal").script("umask");
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ours = status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap().trim();
    let said = sandbox.run(&bundle).ok().stdout;
    let number = |text: &str| u32::from_str_radix(text.trim(), 8).unwrap();
    assert_eq!(number(&said), number(ours));
}

#[test]
fn a_time_namespace_has_its_offsets_also_in_a_user_namespace() {
    needs!(root, busybox, time_namespaces);
    for name in ["minimal", "user-namespace"] {
        let sandbox = Sandbox::new();
        let bundle = sandbox
            .bundle(name)
            .with_pushed("/linux/namespaces", serde_json::json!({ "type": "time" }))
            .with("/linux/timeOffsets", serde_json::json!({ "boottime": { "secs": 2_000_000 } }))
            .script("cat /proc/uptime");
        let said = sandbox.run(&bundle).ok().stdout;
        let uptime: f64 = said.split(' ').next().unwrap().parse().unwrap();
        assert!(uptime > 2_000_000.0, "{name}: {said}");
    }
}

#[test]
fn an_id_mapped_mount_shows_other_owners_and_leaves_the_files_alone() {
    needs!(root, busybox);
    not_by!(Runc, Crun: "mounts with maps of their own came later");
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "x").unwrap();
    let maps = serde_json::json!([{ "containerID": 0, "hostID": 5000, "size": 100 }]);
    let bundle = sandbox
        .bundle("minimal")
        .with_pushed(
            "/mounts",
            serde_json::json!({
                "destination": "/tmp/mapped", "type": "bind", "source": source, "options": ["rbind", "idmap"],
                "uidMappings": maps, "gidMappings": maps,
            }),
        )
        .with("/root/readonly", serde_json::json!(false))
        .script("stat -c %u:%g /tmp/mapped/file");
    assert_eq!(sandbox.run(&bundle).ok().stdout.trim(), "5000:5000");
    let stat = rustix::fs::stat(source.join("file")).unwrap();
    assert_eq!((stat.st_uid, stat.st_gid), (0, 0));
    fs::remove_dir_all(source).unwrap();
}
