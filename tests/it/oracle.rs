//! libcontainer, youki's library, as an oracle: bundles run by its own builder and by us. What the payload sees is equal,
//! or a row of `DIFFERENCES` says what is not and why.
//!
//! libcontainer forks, so it runs in a process of its own with one thread: this test binary, started again for
//! [`libcontainer_runs_a_bundle`] alone. libcontainer compiles for 64-bit processors only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::json;

use crate::support::{Bundle, Sandbox, fixture as fixture_path, wait_until};

/// What the payload tells of itself, in sections; then it waits to be looked at from outside.
const PROBE: &str = r###"
B=/bin/busybox
section() { echo "## $1"; }
section mounts; $B cat /proc/$$/mountinfo
section ids; $B grep -E '^(Uid|Gid|Groups|Umask|NSpid):' /proc/$$/status
section maps; $B cat /proc/$$/uid_map /proc/$$/gid_map /proc/$$/setgroups
section capabilities; $B grep -E '^(Cap|NoNewPrivs)' /proc/$$/status
section seccomp; $B grep -E '^Seccomp' /proc/$$/status
section limits; $B cat /proc/$$/limits
section namespaces; for n in /proc/$$/ns/*; do echo "${n##*/} $($B readlink $n)"; done
section devices; for d in /dev/*; do $B stat -c '%n %F %a %u %g %t:%T %N' $d; done | $B sed 's/^\([^ ]*\) \(.*\) .*\/dev/\1 \2 \/dev/'
section environment; $B tr '\0' '\n' </proc/$$/environ
section process; pwd -P; echo "oom $($B cat /proc/$$/oom_score_adj)"; echo "personality $($B cat /proc/$$/personality)"
$B sed 's/ /\n/g' /proc/$$/stat | $B sed -n '5p;6p;18p;19p;40p;41p' | $B xargs echo group session priority nice realtime policy
section descriptors; for f in /proc/$$/fd/*; do echo "${f##*/}"; done
section host; $B cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname
section sysctls; $B cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ping_group_range /proc/sys/fs/mqueue/msg_max
section paths; for p in / /bin /proc/kcore /proc/keys /sys/firmware /proc/sys /proc/bus /dev /dev/shm /tmp /sys; do
  $B stat -c '%n %F %a %u %g' $p; done
for p in /x /proc/sys/kernel/msgmax /proc/sysrq-trigger /dev/x /sys/x; do
  if [ -d ${p%/*} ] && (: >>$p) 2>/dev/null; then echo "may write $p"; else echo "may not write $p"; fi; done
section end
exec $B sleep 1000
"###;

/// What is read of each cgroup from outside, where it exists.
const CGROUP_FILES: &[&str] = &[
    "blkio.weight",
    "cpu.cfs_period_us",
    "cpu.cfs_quota_us",
    "cpu.shares",
    "cpuset.cpus",
    "cpuset.mems",
    "devices.list",
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.oom_control",
    "memory.soft_limit_in_bytes",
    "memory.swappiness",
    "notify_on_release",
    "pids.max",
];

/// The section of a bundle that libcontainer does not run.
const REFUSED: &str = "refused";

/// Sections and their lines.
type Seen = BTreeMap<String, Vec<String>>;

/// Lines that one of the two has and the other has not.
struct Difference {
    bundles: Bundles,
    section: &'static str,
    ours: &'static [&'static str],
    theirs: &'static [&'static str],
    #[expect(dead_code, reason = "for whoever reads the table")]
    why: &'static str,
}

/// Where a difference is seen.
enum Bundles {
    All,
    AllBut(&'static str),
    Only(&'static str),
}

const DIFFERENCES: &[Difference] = &[
    Difference {
        bundles: Bundles::All,
        section: "cgroup",
        ours: &[" /CGROUP", "name=systemd /CGROUP"],
        theirs: &[" /", "name=systemd /"],
        why: "we make the cgroup in every hierarchy, so that no process stays in the cgroup of whoever started it",
    },
    Difference {
        bundles: Bundles::All,
        section: "cgroup",
        ours: &[],
        theirs: &["devices devices.list c 5:1 rwm"],
        why: "5:1 is the host's console; the /dev/console of a container with a terminal is a pty",
    },
    Difference {
        bundles: Bundles::All,
        section: "mounts",
        ours: &[
            "/bus /proc/bus ro,relatime - proc proc rw",
            "/fs /proc/fs ro,relatime - proc proc rw",
            "/irq /proc/irq ro,relatime - proc proc rw",
            "/sys /proc/sys ro,relatime - proc proc rw",
        ],
        theirs: &[
            "/bus /proc/bus ro,nosuid,nodev,noexec,relatime - proc proc rw",
            "/fs /proc/fs ro,nosuid,nodev,noexec,relatime - proc proc rw",
            "/irq /proc/irq ro,nosuid,nodev,noexec,relatime - proc proc rw",
            "/sys /proc/sys ro,nosuid,nodev,noexec,relatime - proc proc rw",
        ],
        why: "a read-only path keeps the other attributes of the mount it is on, as with runc",
    },
    Difference {
        bundles: Bundles::AllBut("user-namespace"),
        section: "mounts",
        ours: &[
            "/ /sys/firmware ro,nosuid,nodev,noexec,relatime - tmpfs none rw,nr_inodes=2",
            "/null /proc/keys ro,nosuid,noexec - tmpfs tmpfs rw,size=65536k,mode=755",
            "/null /proc/timer_list ro,nosuid,noexec - tmpfs tmpfs rw,size=65536k,mode=755",
        ],
        theirs: &[
            "/ /sys/firmware ro,relatime - tmpfs tmpfs ro",
            "/null /proc/keys rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755",
            "/null /proc/timer_list rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755",
        ],
        why: "what masks a path has every attribute that takes a right away; a masked directory can hold nothing",
    },
    Difference {
        bundles: Bundles::Only("user-namespace"),
        section: "mounts",
        ours: &[
            "/ /sys/firmware ro,nosuid,nodev,noexec,relatime - tmpfs none rw,nr_inodes=2,uid=100000,gid=200000",
            "/null /proc/keys ro,nosuid,noexec,relatime - devtmpfs",
            "/null /proc/timer_list ro,nosuid,noexec,relatime - devtmpfs",
        ],
        theirs: &[
            "/ /sys/firmware ro,relatime - tmpfs tmpfs ro,uid=100000,gid=200000",
            "/null /proc/keys rw,relatime - devtmpfs",
            "/null /proc/timer_list rw,relatime - devtmpfs",
        ],
        why: "the same; device nodes are the host's",
    },
    Difference {
        bundles: Bundles::Only("masked-paths"),
        section: "mounts",
        ours: &[
            "/ /etc/private ro,nosuid,nodev,noexec,relatime - tmpfs none rw,nr_inodes=2",
            "/null /etc/secret ro,nosuid,noexec - tmpfs tmpfs rw,size=65536k,mode=755",
        ],
        theirs: &[
            "/ /etc/private ro,relatime - tmpfs tmpfs ro",
            "/null /etc/secret rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755",
        ],
        why: "the same",
    },
    Difference {
        bundles: Bundles::Only("readonly-paths"),
        section: "mounts",
        ours: &["BUNDLE/rootfs/etc/fixed /etc/fixed ro,relatime - DISK"],
        theirs: &["BUNDLE/rootfs/etc/fixed /etc/fixed ro,nosuid,nodev,noexec,relatime - DISK"],
        why: "a read-only path keeps the other attributes of the mount it is on, as with runc",
    },
    Difference {
        bundles: Bundles::Only("cgroup-namespace"),
        section: "mounts",
        ours: &[
            "/ /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,mode=755",
            "/ HIERARCHIES ro,nosuid,nodev,noexec,relatime - cgroup",
        ],
        theirs: &[
            "/ /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,mode=755",
            "/ HIERARCHIES rw,nosuid,nodev,noexec,relatime - cgroup",
        ],
        why: "the bundle asks for a read-only mount; libcontainer mounts the hierarchies of cgroup v1 writable all the same",
    },
    Difference {
        bundles: Bundles::Only("devices"),
        section: "cgroup",
        ours: &["devices devices.list c 1:11 rm"],
        theirs: &["devices devices.list c 1:11 r"],
        why: "we let every device node be made, as runc does, and cgroup v1 folds that into the row of the device",
    },
    Difference {
        bundles: Bundles::Only("seccomp-errno"),
        section: "seccomp",
        ours: &["Seccomp:\t2", "Seccomp_filters:\t1"],
        theirs: &["Seccomp:\t0", "Seccomp_filters:\t0"],
        why: "libcontainer is built without libseccomp here, which is C, and then installs no filter",
    },
    Difference {
        bundles: Bundles::Only("user-namespace"),
        section: "devices",
        ours: &["/dev/mqueue directory 1777 65534 65534 0:0 /dev/mqueue"],
        theirs: &["/dev/mqueue directory 1777 0 0 0:0 /dev/mqueue"],
        why: "mqueue belongs to whoever makes the IPC namespace; our init takes the ids of the container later. All may write to it",
    },
    Difference {
        bundles: Bundles::Only("environment"),
        section: "environment",
        ours: &["TWICE=1"],
        theirs: &[],
        why: "we pass the environment on as it is written; libcontainer keeps the last of two values",
    },
];

/// A bundle of `oci-fixtures/bundles`, and what is changed in it.
struct Case {
    name: &'static str,
    fixture: &'static str,
    change: fn(Bundle) -> Bundle,
}

const fn case(name: &'static str, fixture: &'static str, change: fn(Bundle) -> Bundle) -> Case {
    Case { name, fixture, change }
}

const fn fixture(name: &'static str) -> Case {
    case(name, name, |bundle| bundle)
}

const CASES: &[Case] = &[
    fixture("minimal"),
    fixture("annotations"),
    fixture("bind-mounts"),
    fixture("capabilities"),
    fixture("cgroup-cpu"),
    fixture("cgroup-memory"),
    fixture("cgroup-namespace"),
    fixture("cgroup-pids"),
    fixture("devices"),
    fixture("host-network"),
    fixture("hostname"),
    fixture("masked-paths"),
    fixture("oom-score-adj"),
    fixture("personality"),
    fixture("readonly-paths"),
    fixture("rlimits"),
    fixture("seccomp-errno"),
    fixture("shared-root"),
    fixture("sysctl"),
    fixture("tmpfs"),
    fixture("user"),
    fixture("user-namespace"),
    fixture("writable-root"),
    case("no-capabilities", "minimal", |b| b.with("/process/capabilities", json!({}))),
    case("ambient-capabilities", "minimal", |b| {
        let one = json!(["CAP_NET_BIND_SERVICE"]);
        b.with(
            "/process/capabilities",
            json!({ "bounding": one, "effective": one, "permitted": one, "inheritable": one, "ambient": one }),
        )
        .with("/process/user", json!({ "uid": 1000, "gid": 1000 }))
    }),
    case("new-privileges", "minimal", |b| b.with("/process/noNewPrivileges", json!(false))),
    case("working-directory", "minimal", |b| b.with("/process/cwd", json!("/tmp"))),
    case("environment", "minimal", |b| {
        b.with("/process/env", json!(["PATH=/bin", "EMPTY=", "TWICE=1", "TWICE=2", "HOME=/tmp", "A=b=c"]))
    }),
    case("host-pids", "minimal", |b| b.without_namespace("pid")),
    case("host-ipc", "minimal", |b| b.without_namespace("ipc")),
    case("host-names", "minimal", |b| {
        b.without_namespace("uts").edit(|config| drop(config.as_object_mut().unwrap().remove("hostname")))
    }),
    case("slave-root", "minimal", |b| b.with("/linux/rootfsPropagation", json!("slave"))),
    case("domain-name", "minimal", |b| b.with("/domainname", json!("example.org"))),
    case("mount-options", "minimal", |b| {
        b.with_pushed(
            "/mounts",
            json!({ "destination": "/tmp", "type": "tmpfs", "source": "scratch",
                "options": ["nosuid", "nodev", "noexec", "noatime", "size=1m", "mode=1777", "uid=7", "gid=8"] }),
        )
    }),
    case("processors", "minimal", |b| b.with("/linux/resources/cpu/cpus", json!("0"))),
];

#[test]
fn payloads_see_the_same_as_with_libcontainer() {
    needs!(root, busybox, oci_verbs, cgroup1, cgroup_limits, seccomp, user_namespaces);
    assert!(CASES.len() >= 20);
    let sandbox = Sandbox::new();
    let mut unexpected = String::new();
    for case in CASES {
        let (mut ours, theirs) = (ours(&sandbox, case), theirs(&sandbox, case));
        if theirs.contains_key(REFUSED) {
            // There is nothing to compare ours with.
            ours.clear();
        }
        let sections: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        for section in sections {
            let empty = Vec::new();
            let (one, other) = (ours.get(section).unwrap_or(&empty), theirs.get(section).unwrap_or(&empty));
            let found = (without(one, other), without(other, one));
            let listed = listed(case.name, section);
            if found != listed {
                unexpected +=
                    &format!("{} {section}:\n ours {:#?}\n theirs {:#?}\n", case.name, found.0, found.1);
                unexpected += &format!(" listed {listed:#?}\n");
            }
        }
    }
    assert!(unexpected.is_empty(), "not as DIFFERENCES has it:\n{unexpected}");
}

/// The lines of `one` that `other` has not, each as often as it is missing, sorted.
fn without(one: &[String], other: &[String]) -> Vec<String> {
    let mut rest = other.to_vec();
    let mut missing: Vec<String> = Vec::new();
    for line in one {
        match rest.iter().position(|l| l == line) {
            Some(at) => drop(rest.swap_remove(at)),
            None => missing.push(line.clone()),
        }
    }
    missing.sort();
    missing
}

/// The lines that the table lists for this bundle and section: ours and theirs, sorted.
fn listed(name: &str, section: &str) -> (Vec<String>, Vec<String>) {
    let is_for = |row: &&Difference| {
        row.section == section
            && match row.bundles {
                Bundles::All => true,
                Bundles::AllBut(other) => other != name,
                Bundles::Only(this) => this == name,
            }
    };
    let lines = |of: fn(&Difference) -> &'static [&'static str]| {
        let rows = DIFFERENCES.iter().filter(is_for);
        let mut lines: Vec<String> = rows.flat_map(of).map(|line| (*line).to_owned()).collect();
        lines.sort();
        lines
    };
    (lines(|row| row.ours), lines(|row| row.theirs))
}

/// The case's bundle for one of the two, in a cgroup with the name of its container.
fn prepare(sandbox: &Sandbox, case: &Case, name: &str) -> Bundle {
    let bundle =
        Bundle::copy(&fixture_path("bundles").join(case.fixture), &sandbox.path("bundles").join(name));
    (case.change)(bundle).script(PROBE).with("/linux/cgroupsPath", json!(format!("/{}", sandbox.id(name))))
}

fn ours(sandbox: &Sandbox, case: &Case) -> Seen {
    let name = format!("{}-ours", case.name);
    let bundle = prepare(sandbox, case, &name);
    sandbox.run_detached(&bundle, &name, &[]).ok();
    let pid = i32::try_from(sandbox.state(&name)["pid"].as_i64().unwrap()).unwrap();
    let seen = seen(sandbox, &bundle, pid, &name);
    sandbox.runtime(["delete", "--force", &sandbox.id(&name)]).ok();
    seen
}

fn theirs(sandbox: &Sandbox, case: &Case) -> Seen {
    let name = format!("{}-theirs", case.name);
    let bundle = prepare(sandbox, case, &name);
    let mut helper = Helper::start(sandbox, &bundle, &name);
    match helper.pid(sandbox, &name) {
        Ok(pid) => {
            let seen = seen(sandbox, &bundle, pid, &name);
            helper.end();
            seen
        }
        Err(refusal) => Seen::from([(REFUSED.to_owned(), vec![refusal])]),
    }
}

/// Waits for the probe's end; its sections, and what is seen from outside.
fn seen(sandbox: &Sandbox, bundle: &Bundle, pid: i32, name: &str) -> Seen {
    let text = sandbox.wait_for_output(name, "## end\n");
    let cgroup = sandbox.id(name);
    let mut seen = Seen::new();
    let mut section = String::new();
    // What the test runner of the helper prints comes before.
    let (_, text) = text.split_once("## mounts\n").unwrap();
    for line in format!("## mounts\n{text}").lines() {
        match line.strip_prefix("## ") {
            Some(name) => {
                name.clone_into(&mut section);
                seen.entry(section.clone()).or_default();
            }
            None => seen.entry(section.clone()).or_default().push(line.to_owned()),
        }
    }
    seen.insert("cgroup".to_owned(), cgroup_of(pid));
    let host = namespaces_of_host();
    let root = bundle.path().display().to_string();
    for (section, lines) in &mut seen {
        for line in lines.iter_mut() {
            *line = match section.as_str() {
                "mounts" => mount(line),
                "namespaces" => namespace(line, &host),
                "ids" | "process" => line.replace(&pid.to_string(), "PID"),
                _ => line.clone(),
            }
            .replace(&root, "BUNDLE")
            .replace(&cgroup, "CGROUP")
            .replace(sandbox.mark(), "SANDBOX");
        }
        // Which hierarchies of cgroup v1 there are is the host's affair.
        lines.dedup_by(|one, other| one == other && one.contains("HIERARCHIES"));
    }
    seen
}

/// A line of mountinfo without ids and device numbers.
fn mount(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').skip(3).collect();
    let is_id = |word: &str| ["shared:", "master:"].iter().any(|kind| word.starts_with(kind));
    let words = words.into_iter().map(|w| if is_id(w) { w.split(':').next().unwrap_or(w) } else { w });
    let line = words.collect::<Vec<_>>().join(" ");
    let Some((mount, filesystem)) = line.split_once(" - ") else { return line };
    match filesystem.split(' ').next().unwrap_or_default() {
        "proc" | "sysfs" | "tmpfs" | "devpts" | "mqueue" => line,
        "cgroup" => {
            let attributes = mount.split(' ').skip(2).collect::<Vec<_>>().join(" ");
            format!("/ HIERARCHIES {attributes} - cgroup")
        }
        "devtmpfs" => format!("{mount} - devtmpfs"),
        // What the bundle is on.
        _ => format!("{mount} - DISK"),
    }
}

/// `net net:[4026531840]` as `net host` or `net own`.
fn namespace(line: &str, host: &[String]) -> String {
    let name = line.split(' ').next().unwrap_or_default();
    let own = if host.iter().any(|h| h == line) { "host" } else { "own" };
    format!("{name} {own}")
}

fn namespaces_of_host() -> Vec<String> {
    let entries = fs::read_dir("/proc/self/ns").unwrap().map(Result::unwrap);
    let link = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).unwrap();
        format!("{} {}", entry.file_name().display(), target.display())
    };
    entries.map(link).collect()
}

/// Where a process is in each hierarchy, and the values there.
fn cgroup_of(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap(), fields.next().unwrap());
        lines.push(format!("{controllers} {path}"));
        for controller in controllers.split(',').filter(|name| !name.is_empty()) {
            let dir = Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/'));
            for file in CGROUP_FILES.iter().filter(|file| dir.join(file).exists()) {
                let value = fs::read_to_string(dir.join(file)).unwrap_or_else(|e| e.to_string());
                lines.extend(value.lines().map(|value| format!("{controller} {file} {value}")));
            }
        }
    }
    lines.sort();
    lines
}

/// The process that libcontainer runs in.
struct Helper {
    child: Child,
    stdin: Option<ChildStdin>,
    output: BufReader<File>,
}

const BUNDLE: &str = "CORACLE_ORACLE_BUNDLE";
const ROOT: &str = "CORACLE_ORACLE_ROOT";
const ID: &str = "CORACLE_ORACLE_ID";
const REPORT: &str = "CORACLE_ORACLE_REPORT";

impl Helper {
    fn start(sandbox: &Sandbox, bundle: &Bundle, name: &str) -> Self {
        let (root, report) = (sandbox.path("libcontainer"), sandbox.path("report"));
        fs::create_dir_all(&root).unwrap();
        File::create(&report).unwrap();
        let output = File::create(sandbox.path(&format!("{name}.out"))).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "oracle::libcontainer_runs_a_bundle",
                "--exact",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            // Sources of bind mounts are relative to the bundle.
            .current_dir(bundle.path())
            .env(BUNDLE, bundle.path())
            .env(ROOT, &root)
            .env(ID, sandbox.id(name))
            .env(REPORT, &report)
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        Self { child, stdin, output: BufReader::new(File::open(report).unwrap()) }
    }

    /// The pid of the container, or why there is none.
    fn pid(&mut self, sandbox: &Sandbox, name: &str) -> Result<i32, String> {
        let mut line = String::new();
        let report = wait_until("libcontainer to start the container", || {
            let _ = self.output.read_line(&mut line);
            let has_ended = self.child.try_wait().unwrap().is_some() && !line.ends_with('\n');
            assert!(!has_ended, "{name}: {}", sandbox.output_of(name));
            line.strip_suffix('\n').map(str::to_owned)
        });
        report.parse().map_err(|_| report)
    }

    /// Has the container deleted.
    fn end(mut self) {
        drop(self.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "libcontainer deletes the container: {status}");
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Not a test of its own: what `Helper` starts in a process of its own. Waits for the end of its standard input.
#[test]
#[ignore = "the other test starts it with a bundle"]
fn libcontainer_runs_a_bundle() {
    use libcontainer::container::builder::ContainerBuilder;
    use libcontainer::syscall::syscall::SyscallType;
    let path = |name| std::env::var_os(name).map(PathBuf::from);
    let (Some(bundle), Some(root), Some(report)) = (path(BUNDLE), path(ROOT), path(REPORT)) else { return };
    let id = std::env::var(ID).unwrap();
    let mut report = File::options().append(true).open(report).unwrap();
    let built = ContainerBuilder::new(id, SyscallType::default())
        .with_root_path(root)
        .and_then(ContainerBuilder::validate_id)
        .and_then(|builder| {
            let builder = builder.with_stdin(File::open("/dev/null").unwrap());
            builder.as_init(bundle).with_systemd(false).with_detach(true).build()
        });
    let mut container = match built {
        Ok(container) => container,
        Err(error) => {
            writeln!(report, "{error:?}").unwrap();
            return;
        }
    };
    let started = container.start();
    match started {
        Ok(()) => writeln!(report, "{}", container.pid().unwrap()).unwrap(),
        Err(error) => writeln!(report, "{error:?}").unwrap(),
    }
    let _ = std::io::stdin().read_line(&mut String::new());
    container.delete(true).unwrap();
}
