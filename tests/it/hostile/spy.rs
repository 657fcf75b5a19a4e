//! The outer side of an attack: puts the attacker into a container, and reads what it achieved.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use coracle_cri::v1::{ContainerConfig, KeyValue, Mount};
use serde_json::json;

use super::report::{ORDERS, OUT, Orders, Report, Role, STOP};
use crate::support::{Bundle, Sandbox, wait_until};

/// The only test that the attacker is started with.
const ENTRY: &str = "hostile::attacker::inside";
const PROGRAM: &str = "/hostile/it";

/// How many starts or execs an attack lasts.
pub(crate) fn rounds() -> usize {
    std::env::var("CORACLE_HOSTILE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(7)
}

/// One attacker, and the directory it reports to.
pub(crate) struct Spy {
    dir: PathBuf,
    orders: Orders,
}

impl Spy {
    pub(super) fn new(sandbox: &Sandbox, name: &str, role: Role) -> Self {
        let dir = sandbox.path(name);
        fs::create_dir(&dir).unwrap();
        // Whatever user the attacker is, and in whatever user namespace.
        fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
        let mark = sandbox.path("only-the-host-has-this");
        fs::write(&mark, "host").unwrap();
        let host_mounts = fs::read_link("/proc/self/ns/mnt").unwrap().display().to_string();
        let orders = Orders { role, mark: mark.display().to_string(), host_mounts, only: None };
        Self { dir, orders }
    }

    /// Only processes with this word on their command line are attacked.
    pub(super) fn only(mut self, word: &str) -> Self {
        self.orders.only = Some(word.to_owned());
        self
    }

    /// The directory that the attacker finds at `/hostile/out`.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The command that the attacker is.
    pub(super) fn command() -> Vec<String> {
        [PROGRAM, "--exact", ENTRY, "--ignored", "--nocapture", "--test-threads=1"].map(str::to_owned).into()
    }

    /// What it is told, as `KEY=VALUE`.
    pub(super) fn variable(&self) -> String {
        format!("{ORDERS}={}", serde_json::to_string(&self.orders).unwrap())
    }

    /// Source, destination and whether it is read-only, of what an attacker has to find in its container.
    pub(super) fn mounts(&self) -> [(PathBuf, &'static str, bool); 2] {
        [(std::env::current_exe().unwrap(), PROGRAM, true), (self.dir.clone(), OUT, false)]
    }

    /// Puts it into a bundle, with another payload.
    pub(super) fn beside(&self, bundle: Bundle) -> Bundle {
        // Root of a user namespace could not make them.
        fs::create_dir_all(bundle.root().join("hostile/out")).unwrap();
        let bundle = bundle.with_file("hostile/it", "");
        let bundle = bundle.with_pushed("/process/env", json!(self.variable()));
        self.mounts().into_iter().fold(bundle, |bundle, (source, destination, read_only)| {
            let options = if read_only { json!(["bind", "ro"]) } else { json!(["bind"]) };
            bundle.with_pushed(
                "/mounts",
                json!({ "destination": destination, "type": "bind", "source": source, "options": options }),
            )
        })
    }

    /// Makes it the payload of a bundle.
    pub(super) fn inside(&self, bundle: Bundle) -> Bundle {
        self.beside(bundle).with("/process/args", json!(Self::command()))
    }

    /// Makes it the payload of a pod's container.
    pub(super) fn in_pod(&self, mut container: ContainerConfig) -> ContainerConfig {
        let (key, value) = (ORDERS.to_owned(), serde_json::to_vec(&self.orders).unwrap());
        container.envs.push(KeyValue { key, value });
        container.mounts.extend(self.mounts().into_iter().map(|(source, destination, readonly)| Mount {
            container_path: destination.to_owned(),
            host_path: source.display().to_string(),
            readonly,
            ..Mount::default()
        }));
        ContainerConfig { command: Self::command(), ..container }
    }

    /// Waits until the attacker runs.
    #[track_caller]
    pub(super) fn ready(&self) {
        wait_until("the attacker to be ready", || Report::read(&self.dir));
    }

    /// What it has achieved so far.
    #[track_caller]
    pub(super) fn so_far(&self) -> Report {
        Report::read(&self.dir).unwrap()
    }

    /// Ends the attack.
    #[track_caller]
    pub(super) fn stop(&self) -> Report {
        fs::write(self.dir.join(STOP), "").unwrap();
        self.end()
    }

    /// Waits until the attacker ends by itself.
    #[track_caller]
    pub(super) fn end(&self) -> Report {
        wait_until("the attacker to end", || Report::read(&self.dir).filter(|report| report.done))
    }
}

/// What the test runner shows of a test that fails.
#[expect(clippy::print_stderr, reason = "goes to the test runner")]
pub(super) fn note(text: &str) {
    eprintln!("{text}");
}

impl Report {
    /// Fails the test unless the attacker saw something of what happened, and achieved nothing.
    #[track_caller]
    pub(super) fn assert_in_vain(&self, what: &str, starts: usize) {
        self.assert_only(&[], what, starts);
    }

    /// As [`Report::assert_in_vain`]; what is named here may have succeeded.
    #[track_caller]
    pub(super) fn assert_only(&self, harmless: &[&str], what: &str, starts: usize) {
        note(&format!("{what}: {self:?}"));
        // Who looks for newcomers does not see those that live for a moment only; it must have seen some.
        assert!(self.newcomers as usize * 10 >= starts, "{what}: it saw next to nothing: {self:?}");
        let harm: Vec<_> = self.hits.keys().filter(|kind| !harmless.contains(&kind.as_str())).collect();
        assert!(harm.is_empty(), "{what}: {harm:?} succeeded: {self:#?}");
    }
}
