//! The flags of `launch`, each seen from inside.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::launch::{plain, prepare, shell, with_image};
use crate::support::Sandbox;

#[test]
fn the_environment_comes_from_image_files_and_flags() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    let file = sandbox.path("env");
    fs::write(&file, "# a comment\n\nIN_FILE=yes\nBOTH=file\nPASSED_IN_FILE\n").unwrap();
    let flags = ["--rm", "-e", "A=b c=d", "-e", "PASSED", "-e", "NOT_THERE", "-e", "BOTH=flag", "--env-file"];
    let run = prepare(&sandbox, "box", flags).arg(&file).args(["box", "/bin/env"]);
    let run = run.env("PASSED", "on").env("PASSED_IN_FILE", "too").env("OF_THE_CALLER", "leaks");
    let output = run.go().ok();
    for line in [
        "PATH=/bin",
        "FROM=image",
        "A=b c=d",
        "IN_FILE=yes",
        "PASSED=on",
        "PASSED_IN_FILE=too",
        "BOTH=flag",
        "HOME=/root",
    ] {
        output.has_line(line);
    }
    for absent in ["OF_THE_CALLER", "NOT_THERE", "CORACLE_SANDBOX"] {
        assert!(!output.stdout.contains(absent), "{output}");
    }
}

#[test]
fn directories_of_the_host_are_mounted() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    let dir = sandbox.path("shared");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("file"), "host").unwrap();
    let dir = dir.to_str().unwrap();
    let script = "cat /a/file /b/file /c/file; echo new >/a/new; touch /b/x 2>/dev/null || echo fixed; \
                  touch /c/x 2>/dev/null || echo fixed; stat -f -c %T /t /m; touch /t/x /m/x";
    let flags = [
        "-v",
        &format!("{dir}:/a"),
        "-v",
        &format!("{dir}:/b:ro"),
        "--mount",
        &format!("type=bind,source={dir},target=/c,readonly"),
        "--tmpfs",
        "/t:size=1m",
        "--mount",
        "type=tmpfs,target=/m",
    ];
    let output = shell(&sandbox, &flags, script).ok();
    assert_eq!(output.stdout, "hosthosthostfixed\nfixed\ntmpfs\ntmpfs\n");
    assert_eq!(fs::read_to_string(Path::new(dir).join("new")).unwrap(), "new\n");
    // As docker does, -v makes what is not there.
    let made = sandbox.path("made/here");
    shell(&sandbox, &["-v", &format!("{}:/x", made.display())], "touch /x/y").ok();
    assert!(made.join("y").exists());
}

#[test]
fn the_working_directory_is_made() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    assert_eq!(shell(&sandbox, &["-w", "/not/there"], "pwd").ok().text(), "/not/there");
}

/// The main group is a supplementary one too (CVE-2022-2989, CVE-2023-25173).
#[test]
fn users_are_names_or_numbers() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    let who = |user: &str| {
        let output =
            shell(&sandbox, &["-u", user], "echo $(id -u) $(id -g) $(grep Groups /proc/self/status)").ok();
        output.text().to_owned()
    };
    assert_eq!(who("web"), "1000 1000 Groups: 29 1000");
    assert_eq!(who("web:audio"), "1000 29 Groups: 29");
    assert_eq!(who("77:88"), "77 88 Groups: 88");
    let output = shell(&sandbox, &["-u", "nobody-knows"], "true").exits(125);
    assert!(
        output.stderr.contains("there is no user \"nobody-knows\" in the container's /etc/passwd"),
        "{output}"
    );
    let output = shell(&sandbox, &["--group-add", "audio"], "grep Groups /proc/self/status").ok();
    assert_eq!(output.text().split_whitespace().collect::<Vec<_>>(), ["Groups:", "0", "29"], "{output}");
}

#[test]
fn the_host_name_is_as_asked_and_in_etc_hosts() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    let output = shell(
        &sandbox,
        &["--hostname", "harbour"],
        "hostname; cat /etc/hostname; grep -c harbour /etc/hosts",
    );
    assert_eq!(output.ok().stdout, "harbour\nharbour\n1\n");
}

#[test]
fn limits_stand_in_the_cgroup() {
    needs!(root, busybox, launch_verb, cgroup1);
    let sandbox = plain();
    let script = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes pids/pids.max cpu/cpu.cfs_quota_us \
                  cpu/cpu.cfs_period_us cpu/cpu.shares";
    let flags = ["--memory", "64m", "--pids-limit", "77", "--cpus", "0.5", "--cpu-shares", "512"];
    let output = shell(&sandbox, &flags, script).ok();
    assert_eq!(output.stdout, "67108864\n77\n50000\n100000\n512\n");
}

#[test]
fn a_read_only_root_leaves_volumes_writable() {
    needs!(root, busybox, launch_verb);
    let sandbox = with_image(json!({
        "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "Volumes": { "/var/lib/data": {}, "/new/volume": {} },
    }));
    let script = "touch /x 2>/dev/null || echo fixed; cat /var/lib/data/kept; touch /var/lib/data/a /new/volume/b && echo written";
    let output = shell(&sandbox, &["--read-only"], script).ok();
    assert_eq!(output.stdout, "fixed\nfrom the imagewritten\n", "{output}");
    let output = shell(&sandbox, &[], "touch /x /var/lib/data/a /new/volume/b && echo written").ok();
    assert_eq!(output.text(), "written");
}

/// The capability sets and the like, as the payload's own status has them.
fn status(sandbox: &Sandbox, flags: &[&str], field: &str) -> String {
    let output = shell(sandbox, flags, &format!("grep ^{field}: /proc/self/status | cut -f 2")).ok();
    output.text().to_owned()
}

#[test]
fn capabilities_are_dockers_unless_changed() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    const DEFAULT: &str = "00000000a80425fb";
    let output = shell(&sandbox, &[], "grep ^Cap /proc/self/status | cut -f 2").ok();
    let sets: Vec<_> = output.stdout.lines().collect();
    assert_eq!(sets, ["0000000000000000", DEFAULT, DEFAULT, DEFAULT, "0000000000000000"]);
    assert_eq!(status(&sandbox, &["--cap-drop", "ALL"], "CapEff"), "0000000000000000");
    assert_eq!(
        status(&sandbox, &["--cap-drop", "all", "--cap-add", "NET_RAW"], "CapEff"),
        "0000000000002000"
    );
    assert_eq!(status(&sandbox, &["--cap-add", "cap_net_admin"], "CapEff"), "00000000a80435fb");
    // Another user has none, and none to gain but by files.
    assert_eq!(status(&sandbox, &["-u", "web"], "CapEff"), "0000000000000000");
    assert_eq!(status(&sandbox, &["-u", "web"], "CapBnd"), DEFAULT);
    assert!(status(&sandbox, &["--privileged"], "CapEff").starts_with("000001f"));
}

#[test]
fn system_calls_are_filtered_by_default() {
    needs!(root, busybox, launch_verb, seccomp);
    let sandbox = plain();
    assert_eq!(status(&sandbox, &[], "Seccomp"), "2");
    let open = ["--security-opt", "seccomp=unconfined"];
    assert_eq!(status(&sandbox, &open, "Seccomp"), status_outside());
    shell(&sandbox, &[], "unshare -U true").fails();
    shell(&sandbox, &open, "unshare -U true").ok();
    shell(&sandbox, &[], "mount -t tmpfs none /tmp").fails();
    assert_eq!(status(&sandbox, &["--security-opt", "no-new-privileges"], "NoNewPrivs"), "1");
    assert_eq!(status(&sandbox, &[], "NoNewPrivs"), "0");
}

fn status_outside() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find_map(|l| l.strip_prefix("Seccomp:\t")).unwrap().to_owned()
}

#[test]
fn devices_are_those_given() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    let read = "head -c 4 /dev/extra | wc -c";
    assert_eq!(shell(&sandbox, &["--device", "/dev/zero:/dev/extra:r"], read).ok().text(), "4");
    // /dev/kmsg is no default device: made by hand it cannot be opened, given it can.
    let kmsg = "mknod /tmp/kmsg c 1 11 && head -c 0 /tmp/kmsg";
    shell(&sandbox, &[], kmsg).fails();
    shell(&sandbox, &["--privileged"], kmsg).ok();
    shell(
        &sandbox,
        &["--privileged"],
        "test -c /dev/kmsg && mount -t tmpfs none /tmp && echo >/proc/sys/kernel/hostname",
    )
    .ok();
}

#[test]
fn the_network_is_loopback_or_the_hosts() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    let names = "ls /sys/class/net; readlink /proc/self/ns/net";
    let host = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    let output = shell(&sandbox, &["--net", "none"], names).ok();
    assert!(output.stdout.starts_with("lo\n") && !output.stdout.contains(&host), "{output}");
    let output = shell(&sandbox, &["--net", "host"], names).ok();
    assert!(output.stdout.contains(&host), "{output}");
}

#[test]
fn process_limits_and_kernel_parameters_are_set() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    let output = shell(&sandbox, &["--ulimit", "nofile=100:200"], "ulimit -Sn; ulimit -Hn").ok();
    assert_eq!(output.stdout, "100\n200\n");
    let flags = ["--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "kernel.msgmax=9000"];
    let output = shell(&sandbox, &flags, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax").ok();
    assert_eq!(output.stdout, "1\n9000\n");
    let output = shell(&sandbox, &["--shm-size", "3m"], "df -k /dev/shm | sed 1d").ok();
    assert!(output.stdout.contains(" 3072 "), "{output}");
    // What is empty, or 0, is as good as not given; of two the last counts.
    let flags = ["--shm-size=0", "--hostname=", "--ulimit=nofile=10", "--ulimit=nofile=300"];
    let output = shell(&sandbox, &flags, "df -k /dev/shm | sed 1d; ulimit -Sn; hostname").ok();
    assert!(output.stdout.contains(" 65536 ") && output.stdout.contains("\n300\n"), "{output}");
    assert!(!output.stdout.ends_with("\n\n"), "{output}");
}

/// Reads the mode of seccomp(2) inside: 0 for none, 2 for a filter.
#[test]
fn a_privileged_container_has_the_filter_that_is_named_for_it() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    let profile = sandbox.path("profile.json");
    let rule = json!({ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 });
    let text = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] });
    fs::write(&profile, text.to_string()).unwrap();
    let named = format!("seccomp={}", profile.display());
    let script = "sed -n 's/^Seccomp:\\t//p' /proc/self/status; mkdir /tmp/x 2>&1";
    assert_eq!(shell(&sandbox, &["--privileged"], &format!("mkdir -p /tmp; {script}")).stdout, "0\n");
    let output = shell(&sandbox, &["--privileged", "--security-opt", &named], script);
    assert!(output.stdout.starts_with("2\n") && output.stdout.contains("No space left"), "{output}");
}

#[test]
fn an_image_here_for_another_platform_than_asked_for_is_not_launched() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    let other = if cfg!(target_arch = "x86_64") { "linux/arm64" } else { "linux/amd64" };
    let flags = ["--rm", "--pull", "never", "--platform", other, "box", "/bin/true"];
    let output = prepare(&sandbox, "box", flags).go().exits(125);
    assert!(output.stderr.contains("box") && output.stderr.contains("is for linux/"), "{output}");
}

#[test]
fn standard_input_is_empty_unless_asked_for() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    let cat = |flags: &[&str]| {
        let all = ["--rm"].iter().chain(flags).chain(&["box", "/bin/cat"]).copied().collect::<Vec<_>>();
        prepare(&sandbox, "box", all).input("typed").go().ok().stdout
    };
    assert_eq!(cat(&["-i"]), "typed");
    assert_eq!(cat(&[]), "");
}
