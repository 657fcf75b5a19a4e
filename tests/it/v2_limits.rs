//! Limits that bite, on cgroup v2 with its controllers: what a payload meets, and what is told about it. The hosts that
//! most of this is written on have hybrid v1, so these run in guests (tests/vm).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Bundle, Sandbox, wait_until};

/// A bundle whose cgroup is below the root's, by a name that no other test has.
fn placed(sandbox: &Sandbox, bundle: Bundle) -> (Bundle, PathBuf) {
    let name = sandbox.id("cgroup");
    (bundle.with("/linux/cgroupsPath", json!(format!("/{name}"))), Path::new("/sys/fs/cgroup").join(name))
}

fn read(cgroup: &Path, file: &str) -> String {
    let path = cgroup.join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
}

/// The number after a word in a file of such lines.
fn count(cgroup: &Path, file: &str, key: &str) -> u64 {
    let text = read(cgroup, file);
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {key} in {file}: {text}")).parse().unwrap()
}

fn stats(sandbox: &Sandbox) -> Value {
    let output = sandbox.runtime(["events", "--stats", &sandbox.id("web")]).ok();
    serde_json::from_str::<Value>(&output.stdout).unwrap()["data"].take()
}

#[test]
fn what_the_oom_killer_did_is_told() {
    needs!(root, busybox, oci_verbs, cgroup2_controllers);
    not_by!(Crun: "crun has no events verb");
    let sandbox = Sandbox::new();
    // A child is killed; the container lives on.
    let script = "sh -c 'x=$(head -c 100000000 /dev/zero | tr \"\\000\" x)'; echo child $?; sleep 1000";
    let bundle = sandbox.bundle("cgroup-oom").script(script);
    let (bundle, cgroup) = placed(&sandbox, bundle.with("/linux/resources/memory/limit", json!(16_777_216)));
    sandbox.run_detached(&bundle, "web", &[]).ok();
    sandbox.wait_for_output("web", "child 137");
    assert!(count(&cgroup, "memory.events", "oom_kill") > 0);
    let memory = stats(&sandbox)["memory"].take();
    assert!(memory["usage"]["failcnt"].as_u64().is_some_and(|hits| hits > 0), "{memory}");
    assert_eq!(memory["usage"]["limit"], 16_777_216);
    assert_eq!(sandbox.status("web").as_deref(), Some("running"));
}

#[test]
fn memory_high_holds_the_page_cache_down_without_a_kill() {
    needs!(root, busybox, oci_verbs, cgroup2_controllers);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("writable-root");
    let bundle =
        bundle.script("dd if=/dev/zero of=/big bs=1M count=40 2>/dev/null && echo written; sleep 1000");
    let (bundle, cgroup) = placed(&sandbox, bundle);
    let bundle = bundle.with("/linux/resources/unified", json!({ "memory.high": "16777216" }));
    sandbox.run_detached(&bundle, "web", &[]).ok();
    sandbox.wait_for_output("web", "written");
    assert_eq!(read(&cgroup, "memory.high"), "16777216");
    assert!(count(&cgroup, "memory.events", "high") > 0);
    assert_eq!(count(&cgroup, "memory.events", "oom_kill"), 0);
}

#[test]
fn a_busy_payload_is_throttled_to_its_quota() {
    needs!(root, busybox, oci_verbs, cgroup2_controllers);
    not_by!(Crun: "crun has no events verb");
    let sandbox = Sandbox::new();
    let (bundle, cgroup) = placed(&sandbox, sandbox.bundle("cgroup-cpu").script("while :; do :; done"));
    sandbox.run_detached(&bundle, "web", &[]).ok();
    let cpu = wait_until("the payload to be throttled", || {
        let cpu = stats(&sandbox)["cpu"].take();
        (cpu["throttling"]["throttledPeriods"].as_u64()? > 1).then_some(cpu)
    });
    assert!(cpu["throttling"]["throttledTime"].as_u64().is_some_and(|ns| ns > 0), "{cpu}");
    assert_eq!(read(&cgroup, "cpu.max"), "20000 100000");
}

#[test]
fn a_fork_beyond_the_limit_is_counted() {
    needs!(root, busybox, oci_verbs, cgroup2_controllers);
    let sandbox = Sandbox::new();
    let script = "(for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done); echo tried; exec sleep 1000";
    let (bundle, cgroup) = placed(&sandbox, sandbox.bundle("cgroup-pids").script(script));
    sandbox.run_detached(&bundle, "web", &[]).ok();
    wait_until("a refused fork", || (count(&cgroup, "pids.events", "max") > 0).then_some(()));
    assert_eq!(read(&cgroup, "pids.max"), "4");
    assert!(read(&cgroup, "pids.current").parse::<u32>().unwrap() <= 4);
}

#[test]
fn a_payload_stays_on_its_processors() {
    needs!(root, busybox, oci_verbs, cgroup2_controllers, two_processors);
    let sandbox = Sandbox::new();
    let (bundle, cgroup) = placed(&sandbox, sandbox.bundle("minimal"));
    let bundle = bundle.script("grep -e _allowed_list /proc/self/status; nproc; sleep 1000");
    let bundle = bundle.with("/linux/resources/cpu", json!({ "cpus": "1", "mems": "0" }));
    sandbox.run_detached(&bundle, "web", &[]).ok();
    let output = sandbox.wait_for_output("web", "Mems_allowed_list:\t0\n");
    assert!(output.contains("Cpus_allowed_list:\t1\n"), "{output}");
    assert_eq!(read(&cgroup, "cpuset.cpus.effective"), "1");
    sandbox.runtime(["update", "--cpuset-cpus", "0", &sandbox.id("web")]).ok();
    assert_eq!(read(&cgroup, "cpuset.cpus.effective"), "0");
}

#[test]
fn reading_a_device_takes_as_long_as_its_rate_says() {
    needs!(root, busybox, oci_verbs, cgroup2_controllers, guest);
    let sandbox = Sandbox::new();
    // The disk that the guest's modules are on.
    let number = fs::read_to_string("/sys/block/vdb/dev").unwrap();
    let (major, minor) = number.trim().split_once(':').unwrap();
    let (major, minor): (u32, u32) = (major.parse().unwrap(), minor.parse().unwrap());
    let node = json!({ "path": "/dev/disk", "type": "b", "major": major, "minor": minor, "fileMode": 0o600 });
    let allow = json!({ "allow": true, "type": "b", "major": major, "minor": minor, "access": "r" });
    let bundle = sandbox.bundle("devices").with("/linux/devices", json!([node]));
    let bundle = bundle.with_pushed("/linux/resources/devices", allow).with(
        "/linux/resources/blockIO",
        json!({ "throttleReadBpsDevice": [{ "major": major, "minor": minor, "rate": 1_048_576 }] }),
    );
    let bundle = bundle.script("dd if=/dev/disk of=/dev/null bs=1M count=3 iflag=direct 2>&1");
    let begun = Instant::now();
    let output = sandbox.run(&bundle).ok();
    assert!(output.stdout.contains("3+0 records in"), "{output}");
    // Three megabytes at one a second; the kernel may let the first slice of its window go by.
    assert!(begun.elapsed() > Duration::from_secs(2), "took {:?}", begun.elapsed());
}

#[test]
fn huge_pages_beyond_the_limit_are_refused() {
    needs!(root, busybox, oci_verbs, cgroup2_controllers, guest, huge_pages);
    let pages = Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
    fs::write(pages, "4").unwrap();
    let sandbox = Sandbox::new();
    let mount = json!({ "destination": "/huge", "type": "hugetlbfs", "source": "none" });
    let limit = json!([{ "pageSize": "2MB", "limit": 2_097_152 }]);
    let bundle = sandbox.bundle("writable-root").with_pushed("/mounts", mount);
    let bundle = bundle.with("/linux/resources/hugepageLimits", limit);
    let bundle = bundle.script("b=/bin/busybox; $b fallocate -l 2M /huge/a && echo one; rm /huge/a; $b fallocate -l 4M /huge/b || echo not two");
    let output = sandbox.run(&bundle);
    fs::write(pages, "0").unwrap();
    assert_eq!(output.stdout, "one\nnot two\n", "{output}");
}

#[test]
fn a_container_that_shares_the_process_table_is_killed_whole() {
    needs!(root, busybox, oci_verbs, cgroup2_controllers);
    let sandbox = Sandbox::new();
    // No namespace ends with its first process here, and these are nobody's children: only the cgroup knows them.
    let script = "for i in 1 2 3 4 5; do (setsid sleep 1000 &); done; echo ready; sleep 1000";
    let bundle = sandbox.bundle("minimal").without_namespace("pid").script(script);
    let (bundle, cgroup) = placed(&sandbox, bundle);
    sandbox.run_detached(&bundle, "web", &[]).ok();
    sandbox.wait_for_output("web", "ready");
    wait_until("all of them to run", || (read(&cgroup, "cgroup.procs").lines().count() >= 6).then_some(()));
    sandbox.runtime(["delete", "--force", &sandbox.id("web")]).ok();
    assert!(!cgroup.exists());
    assert_eq!(sandbox.traces(), []);
}

#[test]
fn a_paused_container_stands_still_and_goes_on() {
    needs!(root, busybox, oci_verbs, cgroup2_controllers);
    let sandbox = Sandbox::new();
    let script = "i=0; while :; do i=$((i + 1)); echo $i; sleep 0.01; done";
    let (bundle, cgroup) = placed(&sandbox, sandbox.bundle("minimal").script(script));
    sandbox.run_detached(&bundle, "web", &[]).ok();
    sandbox.wait_for_output("web", "3\n");
    sandbox.runtime(["pause", &sandbox.id("web")]).ok();
    assert_eq!(count(&cgroup, "cgroup.events", "frozen"), 1);
    assert_eq!(sandbox.status("web").as_deref(), Some("paused"));
    let before = sandbox.output_of("web");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(sandbox.output_of("web"), before);
    sandbox.runtime(["resume", &sandbox.id("web")]).ok();
    wait_until("it to go on", || (sandbox.output_of("web").len() > before.len()).then_some(()));
}

#[test]
fn a_device_opens_only_where_the_filter_lets_it() {
    needs!(root, busybox, oci_verbs, cgroup2);
    let sandbox = Sandbox::new();
    let refused = sandbox.bundle("devices").with("/linux/resources/devices/1/allow", json!(false));
    let script =
        "head -c 0 /dev/journal && echo opened; head -c 1 /dev/zero | wc -c; : >/dev/null && echo null";
    let output = sandbox.run(&refused.script(script)).ok();
    assert_eq!(output.stdout, "1\nnull\n", "{output}");
    assert!(output.stderr.contains("Operation not permitted"), "{output}");
    let allowed = Bundle::at(sandbox.path("bundles/devices"));
    let allowed = allowed.with("/linux/resources/devices/1/allow", json!(true));
    assert_eq!(sandbox.run(&allowed).ok().stdout, "opened\n1\nnull\n");
}
