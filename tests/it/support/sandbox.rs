//! A place for one test: its own directory, `--root`, `--store` and container ids. When it is dropped, what is left of
//! the containers is deleted, and the test fails if any process, mount, cgroup or directory of it survives.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::leftovers::{self, Leftover};
use super::{Bundle, Output, Run, Runtime, runtime_under_test, wait_until};

/// See the module's head.
pub(crate) struct Sandbox {
    mark: String,
    dir: PathBuf,
    runtime: &'static Runtime,
    cgroup2_view: bool,
    ids: RefCell<Vec<String>>,
}

impl Sandbox {
    /// A fresh place.
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // The closing dot keeps the mark of number 1 from being found in that of number 10.
        let mark = format!("coracle-it-{}-{number}.", std::process::id());
        let dir = std::env::temp_dir().join(&mark);
        let place = |path: &Path| DirBuilder::new().mode(0o755).create(path).unwrap();
        place(&dir);
        place(&dir.join("bundles"));
        let runtime = runtime_under_test();
        // crun refuses hybrid cgroups, so it is always asked there.
        let cgroup2_view = *runtime == Runtime::Crun;
        Self { mark, dir, runtime, cgroup2_view, ids: RefCell::default() }
    }

    /// Runs every command from now on where `/sys/fs/cgroup` is a cgroup2 tree (without controllers on a v1 host).
    pub(crate) fn with_cgroup2_view(mut self) -> Self {
        self.cgroup2_view = true;
        self
    }

    /// What every name of this sandbox contains.
    pub(crate) fn mark(&self) -> &str {
        &self.mark
    }

    /// A path in the sandbox's own directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The `--root` of this sandbox.
    pub(crate) fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// The runtime under test.
    pub(crate) fn runtime_kind(&self) -> &'static Runtime {
        self.runtime
    }

    /// A container id (and cgroup name) that no other test has; the container is deleted at the end if it still exists.
    pub(crate) fn id(&self, name: &str) -> String {
        let id = format!("{}{name}", self.mark);
        if !self.ids.borrow().contains(&id) {
            self.ids.borrow_mut().push(id.clone());
        }
        id
    }

    /// Copies the fixture `oci-fixtures/bundles/<name>` into the sandbox and gives it a busybox root.
    pub(crate) fn bundle(&self, name: &str) -> Bundle {
        Bundle::copy(&super::fixture("bundles").join(name), &self.path("bundles").join(name))
    }

    /// Copies the fixture `oci-fixtures/broken/<name>`.
    pub(crate) fn broken_bundle(&self, name: &str) -> Bundle {
        Bundle::copy(&super::fixture("broken").join(name), &self.path("bundles").join(name))
    }

    /// A call of the runtime under test with this sandbox's `--root`, not yet run.
    pub(crate) fn prepare<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        let root = self.root();
        let mut all: Vec<_> = vec![OsStr::new("--root").to_owned(), root.into_os_string()];
        all.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self.in_view(self.runtime.program().as_os_str(), &all)
    }

    /// A shell script that finds the runtime and its `--root` in `"$@"`, followed by these arguments.
    pub(crate) fn prepare_script<S: AsRef<OsStr>>(
        &self,
        script: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Run {
        let mut all: Vec<_> = ["-c", script, "bash"].map(|a| OsStr::new(a).to_owned()).to_vec();
        all.push(self.runtime.program().into_os_string());
        all.extend([OsStr::new("--root").to_owned(), self.root().into_os_string()]);
        all.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self.in_view("bash".as_ref(), &all)
    }

    /// Runs the runtime under test with this sandbox's `--root`.
    pub(crate) fn runtime<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.prepare(args).go()
    }

    /// Runs `coracle` with this sandbox's `--root` and `--store`, whichever runtime is under test.
    pub(crate) fn coracle<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        let mut all = vec![OsStr::new("--root").to_owned(), self.root().into_os_string()];
        all.extend([OsStr::new("--store").to_owned(), self.path("store").into_os_string()]);
        all.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self.in_view(Runtime::Ours.program().as_os_str(), &all).go()
    }

    /// A command with the cgroup tree that this sandbox shows.
    pub(crate) fn in_view(&self, program: &OsStr, args: &[impl AsRef<OsStr>]) -> Run {
        let run = if self.cgroup2_view { cgroup2_view(program, args) } else { Run::new(program).args(args) };
        // Seen in /proc/<pid>/environ: marks runtime processes that outlive their command.
        run.env("CORACLE_SANDBOX", &self.mark).env("CORACLE_RUN", self.path("run"))
    }

    /// `run` in the foreground, to the payload's end.
    pub(crate) fn run(&self, bundle: &Bundle) -> Output {
        self.run_with(bundle, &[])
    }

    /// `run` with further options.
    pub(crate) fn run_with(&self, bundle: &Bundle, options: &[&str]) -> Output {
        let id = self.id("run");
        self.prepare(["run"]).args(options).arg("--bundle").arg(bundle.path()).arg(id).go()
    }

    /// `create`; the container's output goes to a file, see [`Sandbox::output_of`].
    pub(crate) fn create(&self, bundle: &Bundle, name: &str) -> Output {
        self.create_with(bundle, name, &[])
    }

    /// `create` with further options.
    pub(crate) fn create_with(&self, bundle: &Bundle, name: &str, options: &[&str]) -> Output {
        self.detached("create", bundle, name, options)
    }

    /// `run --detach`; the container's output goes to a file.
    pub(crate) fn run_detached(&self, bundle: &Bundle, name: &str, options: &[&str]) -> Output {
        let options: Vec<_> = ["--detach"].iter().chain(options).copied().collect();
        self.detached("run", bundle, name, &options)
    }

    fn detached(&self, verb: &str, bundle: &Bundle, name: &str, options: &[&str]) -> Output {
        let id = self.id(name);
        let log = self.path(&format!("{name}.out"));
        let run = self.prepare([verb]).args(options).arg("--bundle").arg(bundle.path()).arg(id);
        let mut output = run.output_into(&log).go();
        // The command's own words are in the file too; on success it has none and the file is the payload's.
        if output.code() != Some(0) {
            output.stderr = fs::read_to_string(&log).unwrap_or_default();
        }
        output
    }

    /// What a detached container has written so far.
    pub(crate) fn output_of(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.out"))).unwrap_or_default()
    }

    /// Waits until a detached container has written this.
    #[track_caller]
    pub(crate) fn wait_for_output(&self, name: &str, text: &str) -> String {
        wait_until(&format!("{text:?} in the output of {name}"), || {
            Some(self.output_of(name)).filter(|output| output.contains(text))
        })
    }

    /// What `state` prints of a container.
    #[track_caller]
    pub(crate) fn state(&self, name: &str) -> Value {
        let output = self.runtime(["state", &self.id(name)]).ok();
        serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("state is no JSON: {e}: {output}"))
    }

    /// A container's status word, or nothing once there is no such container.
    pub(crate) fn status(&self, name: &str) -> Option<String> {
        let output = self.runtime(["state", &self.id(name)]);
        let state: Value = serde_json::from_str(&output.stdout).ok().filter(|_| output.code() == Some(0))?;
        Some(state["status"].as_str()?.to_owned())
    }

    /// Waits until a container's status is this word.
    #[track_caller]
    pub(crate) fn wait_for_status(&self, name: &str, status: &str) {
        wait_until(&format!("{name} to be {status}"), || (self.status(name)? == status).then_some(()));
    }

    /// Everything of this sandbox that is still on the machine: what a failed command must not leave behind.
    pub(crate) fn traces(&self) -> Vec<Leftover> {
        let mut found = leftovers::find(&self.mark);
        let records = self.ids.borrow().iter().map(|id| self.root().join(id)).collect::<Vec<_>>();
        found.extend(records.into_iter().filter(|path| path.exists()).map(Leftover::Path));
        found
    }

    fn delete_containers(&self) {
        for id in self.ids.borrow().iter().filter(|id| self.root().join(id).exists()) {
            self.prepare(["delete", "--force", id]).go();
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if !failed {
            self.delete_containers();
        }
        // Killed processes and their cgroups take a moment to go.
        let mut left = self.traces();
        for _ in 0..200 {
            if left.is_empty() || failed {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
            left = self.traces();
        }
        leftovers::clear(&self.mark);
        let gone = fs::remove_dir_all(&self.dir);
        assert!(failed || left.is_empty(), "left behind: {left:#?}");
        assert!(failed || gone.is_ok(), "remove {}: {gone:?}", self.dir.display());
    }
}

/// A command in a private mount namespace where `/sys/fs/cgroup` is a cgroup2 tree. The host's own mounts stay as
/// they are: propagation is cut first.
pub(crate) fn cgroup2_view(program: impl AsRef<OsStr>, args: &[impl AsRef<OsStr>]) -> Run {
    const SCRIPT: &str =
        "umount -R -l /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"";
    let shell = ["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"];
    Run::new("unshare").args(shell).arg(program).args(args)
}
