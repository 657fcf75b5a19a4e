//! `coracle serve` with directories of its own, and a client that talks to it as kubelet does.

use std::cell::RefCell;
use std::fs;
use std::future::Future;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use coracle_cri::v1::VersionRequest;
use coracle_cri::v1::image_service_client::ImageServiceClient;
use coracle_cri::v1::runtime_service_client::RuntimeServiceClient;
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::{Pid, Signal, kill_process};
use tonic::codegen::http;
use tonic::{Response, Status};

use super::connection::Wire;
use super::{Run, Runtime, Sandbox, wait_until};
use crate::keeper::Kept;

/// Longer than any call takes; a test that hangs fails by it.
const LIMIT: Duration = Duration::from_secs(120);

/// A running `coracle serve`; it ends when dropped, and its keeper and containers with it.
///
/// `serve.run(serve.runtime().version(...))` makes a call and waits for the answer.
pub(crate) struct Serve {
    child: RefCell<Option<Child>>,
    wire: RefCell<Option<Wire>>,
    client: tokio::runtime::Runtime,
    kept: Kept,
}

impl Serve {
    /// One with the usual configuration. The image `box` (busybox) is in its store.
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// One whose configuration has these lines too.
    pub(crate) fn with(config: &str) -> Self {
        let serve = Self::stopped(config);
        serve.start();
        serve
    }

    /// One that is not started yet.
    pub(crate) fn stopped(config: &str) -> Self {
        let client = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let serve = Self { child: RefCell::default(), wire: RefCell::default(), client, kept: Kept::new() };
        fs::write(serve.path("config.toml"), serve.usual_config()).unwrap();
        fs::write(serve.path("auth.json"), "{}").unwrap();
        fs::write(serve.path("policy.json"), r#"{"default": [{"type": "insecureAcceptAnything"}]}"#).unwrap();
        serve.configure(config);
        serve
    }

    /// Nothing of the machine's own configuration.
    fn usual_config(&self) -> String {
        let path = |name: &str| self.path(name).display().to_string();
        let (run, root, store) = (self.kept.run_dir(), self.sandbox().root(), path("store"));
        format!(
            "socket = {:?}\nrun = {run:?}\nroot = {root:?}\nstore = {store:?}\ncgroup_driver = \"cgroupfs\"\n\
             [images]\nimport_dirs = [{:?}]\n\
             [registry]\nhosts_dirs = [{:?}]\nregistries_conf = {:?}\nk3s_registries = {:?}\nauth_file = {:?}\n\
             policy = {:?}\nverifiers = {:?}\ntries = 3\n\
             [cni]\nconf_dirs = [{:?}]\nbin_dirs = [{:?}, \"/usr/lib/cni\"]\n",
            self.socket(),
            path("images"),
            path("certs.d"),
            path("registries.conf"),
            path("registries.yaml"),
            path("auth.json"),
            path("policy.json"),
            path("verifiers"),
            path("net.d"),
            path("plugins"),
        )
    }

    /// Puts these lines in the place of those a test added before; they count after a start or a reload.
    pub(crate) fn configure(&self, config: &str) {
        fs::create_dir_all(self.path("config.d")).unwrap();
        fs::write(self.path("config.d/10-test.toml"), config).unwrap();
    }

    /// Its sandbox: `root()` and `path("store")` are its directories.
    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.kept.sandbox
    }

    /// The keeper and what is known of it.
    pub(crate) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// A path in the sandbox.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.sandbox().path(name)
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("coracle.sock")
    }

    /// What it says goes to this file.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("serve.log")).unwrap_or_default()
    }

    /// A `coracle serve` that is run to its end, for one that must be refused.
    pub(crate) fn prepare(&self) -> Run {
        let run = Run::new(Runtime::Ours.program()).args(["serve", "--config"]);
        run.arg(self.path("config.toml")).env("CORACLE_SANDBOX", self.sandbox().mark())
    }

    /// The command, for tests that change its surroundings.
    pub(crate) fn command(&self) -> Command {
        self.command_of(&Runtime::Ours.program())
    }

    /// The same with another build of the program.
    pub(crate) fn command_of(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let log = fs::File::options().create(true).append(true).open(self.path("serve.log")).unwrap();
        command.args(["serve", "--config"]).arg(self.path("config.toml"));
        // Seen in /proc/<pid>/environ: marks processes that outlive the test.
        command.env("CORACLE_SANDBOX", self.sandbox().mark());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        command
    }

    /// The same, executed by a command that is given it as its last arguments.
    pub(crate) fn command_by(&self, mut wrapper: Command) -> Command {
        let own = self.command();
        wrapper.arg(own.get_program()).args(own.get_args());
        for (key, value) in own.get_envs() {
            wrapper.env(key, value.unwrap_or_default());
        }
        let log = fs::File::options().create(true).append(true).open(self.path("serve.log")).unwrap();
        wrapper.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        wrapper
    }

    /// Starts it, and waits until it answers.
    #[track_caller]
    pub(crate) fn start(&self) {
        self.start_as(self.command());
    }

    /// As [`Serve::start`], by this command.
    #[track_caller]
    pub(crate) fn start_as(&self, mut command: Command) {
        *self.child.borrow_mut() = Some(command.spawn().unwrap());
        wait_until("coracle serve to answer", || {
            assert!(!self.has_ended(), "coracle serve ended: {}", self.log());
            UnixStream::connect(self.socket()).ok()
        });
        // It can be connected to before it has its keeper.
        let answer = self.run(self.runtime().version(VersionRequest::default()));
        answer.unwrap_or_else(|error| panic!("{error}; log of coracle serve: {}", self.log()));
    }

    fn has_ended(&self) -> bool {
        self.child.borrow_mut().as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.child.borrow().as_ref().unwrap().id().cast_signed()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid()).unwrap(), signal).unwrap();
    }

    /// Waits for its end, and drops the connection to it.
    #[track_caller]
    pub(crate) fn wait(&self) -> ExitStatus {
        let status = wait_until("coracle serve to end", || {
            self.listen_to_goodbyes();
            self.child.borrow_mut().as_mut().unwrap().try_wait().unwrap()
        });
        *self.child.borrow_mut() = None;
        *self.wire.borrow_mut() = None;
        status
    }

    /// Ends it as systemd would.
    #[track_caller]
    pub(crate) fn stop(&self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Ends it as a crash would.
    #[track_caller]
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// A client of RuntimeService. All clients share one connection, as kubelet's do.
    pub(crate) fn runtime(&self) -> RuntimeServiceClient<Wire> {
        RuntimeServiceClient::with_origin(self.wire(), origin())
            .max_decoding_message_size(coracle_cri::MESSAGE_LIMIT)
    }

    /// A client of ImageService.
    pub(crate) fn image(&self) -> ImageServiceClient<Wire> {
        ImageServiceClient::with_origin(self.wire(), origin())
            .max_decoding_message_size(coracle_cri::MESSAGE_LIMIT)
    }

    /// Makes a call and waits for its answer.
    pub(crate) fn run<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Status> {
        self.block_on(call).map(Response::into_inner)
    }

    /// Begins a call, whose answer is not waited for. It goes on while others are waited for.
    pub(crate) fn begin<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.client.spawn(call)
    }

    /// Waits for whatever is made of calls.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        let limited = async { tokio::time::timeout(LIMIT, work).await };
        self.client.block_on(limited).unwrap_or_else(|_| panic!("the call hangs; log: {}", self.log()))
    }

    /// Lets the connection hear that the server wants to end; it waits for an answer to that.
    fn listen_to_goodbyes(&self) {
        self.client.block_on(async { tokio::time::sleep(Duration::from_millis(5)).await });
    }

    pub(crate) fn wire(&self) -> Wire {
        if let Some(wire) = self.wire.borrow().as_ref().filter(|wire| !wire.0.is_closed()) {
            return wire.clone();
        }
        let stream = match (UnixStream::connect(self.socket()), self.wire.borrow().as_ref()) {
            // It was killed a moment ago: the call fails, and not the test.
            (Err(_), Some(closed)) => return closed.clone(),
            (stream, _) => stream.unwrap(),
        };
        let wire = self.wire_over(stream);
        *self.wire.borrow_mut() = Some(wire.clone());
        wire
    }

    /// A connection for HTTP/2.
    pub(crate) fn wire_over(&self, stream: UnixStream) -> Wire {
        stream.set_nonblocking(true).unwrap();
        self.block_on(async {
            let stream = TokioIo::new(tokio::net::UnixStream::from_std(stream).unwrap());
            let (sender, connection) = handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            Wire(sender)
        })
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = kill_process(Pid::from_child(&child), Signal::TERM);
        for _ in 0..1000 {
            if !matches!(child.try_wait(), Ok(None)) {
                break;
            }
            self.listen_to_goodbyes();
        }
        let _ = child.kill();
        let _ = child.wait();
        if std::thread::panicking() {
            let log = format!("-- log of coracle serve:\n{}\n", self.log());
            let _ = std::io::Write::write_all(&mut std::io::stderr(), log.as_bytes());
        }
    }
}

/// HTTP/2 asks for a host, which a socket does not have.
fn origin() -> http::Uri {
    http::Uri::from_static("http://localhost")
}
