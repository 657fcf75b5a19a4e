//! A soak: clients that run pods as kubelet does, while the daemon and the keeper are killed in turn. Nothing is lost: each
//! container ends as its program did, its log has every line, and nothing is left when all pods are gone.
//!
//! `SOAK_SECONDS` says how long it goes on (20 by default).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use coracle_cri::v1::runtime_service_client::RuntimeServiceClient;
use coracle_cri::v1::*;
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::{Pid, Signal, kill_process};
use tonic::codegen::http;
use tonic::{Response, Status};

use crate::support::connection::Wire;
use crate::support::{Serve, container, namespaces_of, pod_on_host, pod_with};

const CLIENTS: u32 = 4;

/// How long a call may take, and how long kubelet waits before it tries again.
const LIMIT: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(20);

/// Lines that are in a FIFO while a keeper is killed are logged again by the next: as many as one look takes at most.
const LINES_TWICE_PER_KILL: usize = 4096;

/// What all clients know of the soak.
struct Soak {
    socket: PathBuf,
    logs: PathBuf,
    over: AtomicBool,
    pods: AtomicU32,
    commands: AtomicU32,
    keepers_killed: AtomicU32,
    /// Ids of all pods and containers.
    ids: Mutex<BTreeSet<String>>,
    wrong: Mutex<Vec<String>>,
}

impl Soak {
    fn knows(&self, id: &str) {
        self.ids.lock().unwrap().insert(id.to_owned());
    }

    fn is_wrong(&self, what: String) {
        say(&what);
        self.wrong.lock().unwrap().push(what);
    }
}

/// For whoever watches it go on for long; the test runner would keep it until the end.
fn say(what: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("soak: {what}\n").as_bytes());
}

/// A client with a connection that lasts as long as the daemon does.
struct Client<'a> {
    soak: &'a Soak,
    runtime: tokio::runtime::Runtime,
    wire: Option<Wire>,
}

/// Whether the connection broke before there was an answer: a status that the daemon sent has no cause here.
fn is_lost(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

impl Client<'_> {
    async fn connect(socket: &Path) -> Option<Wire> {
        let stream = UnixStream::connect(socket).ok()?;
        stream.set_nonblocking(true).ok()?;
        let stream = TokioIo::new(tokio::net::UnixStream::from_std(stream).ok()?);
        let (sender, connection) = handshake(TokioExecutor::new(), stream).await.ok()?;
        tokio::spawn(connection);
        Some(Wire(sender))
    }

    /// One call; none when the daemon was not there, or has gone before its answer.
    fn call<T>(
        &mut self,
        what: &str,
        call: impl AsyncFn(RuntimeServiceClient<Wire>) -> Result<Response<T>, Status>,
    ) -> Option<Result<T, Status>> {
        let Self { soak, runtime, wire } = self;
        let answer = runtime.block_on(async {
            if wire.as_ref().is_none_or(|wire| wire.0.is_closed()) {
                *wire = Self::connect(&soak.socket).await;
            }
            let known = wire.clone()?;
            let origin = http::Uri::from_static("http://localhost");
            let client = RuntimeServiceClient::with_origin(known, origin);
            let answer = tokio::time::timeout(LIMIT, call(client)).await;
            match answer {
                Err(_) => Some(Err(Status::deadline_exceeded(format!("{what} hangs")))),
                Ok(Err(status)) if is_lost(&status) => None,
                Ok(answer) => Some(answer.map(Response::into_inner)),
            }
        });
        if answer.is_none() {
            *wire = None;
        }
        answer
    }

    /// The same, again and again until there is an answer.
    fn insist<T>(
        &mut self,
        what: &str,
        call: impl AsyncFn(RuntimeServiceClient<Wire>) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(answer) = self.call(what, &call) {
                return answer;
            }
            if Instant::now() > end {
                return Err(Status::deadline_exceeded(format!("{what}: there is no daemon")));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Runs one pod from its beginning to its end.
    fn run_pod(&mut self, number: u32) -> Result<(), String> {
        let name = format!("pod{number}");
        // One in four shares its PID namespace.
        let config = match number % 4 {
            3 => pod_with(
                &name,
                NamespaceOption { pid: NamespaceMode::Pod.into(), ..namespaces_of(&pod_on_host(&name)) },
            ),
            _ => pod_on_host(&name),
        };
        let config = PodSandboxConfig { log_directory: self.soak.logs.display().to_string(), ..config };
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let run = self.insist("RunPodSandbox", async |mut c| c.run_pod_sandbox(request.clone()).await);
        let pod = run.map_err(|e| format!("{name}: RunPodSandbox: {e}"))?.pod_sandbox_id;
        self.soak.knows(&pod);
        self.run_container(number, &pod, &config)?;
        let id = || pod.clone();
        self.insist("StopPodSandbox", async |mut c| {
            c.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id() }).await
        })
        .map_err(|e| format!("{name}: StopPodSandbox: {e}"))?;
        self.insist("RemovePodSandbox", async |mut c| {
            c.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id() }).await
        })
        .map_err(|e| format!("{name}: RemovePodSandbox: {e}"))?;
        self.soak.pods.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn run_container(&mut self, number: u32, pod: &str, config: &PodSandboxConfig) -> Result<(), String> {
        let name = format!("box{number}");
        // Some end at once, some write for a while, some wait for a command.
        let (lines, code) = ([0, 1, 400, 4000][number as usize % 4], number % 100);
        let waits = number.is_multiple_of(3);
        // And then for its end, which would be another if the container ended first.
        let wait =
            "while [ ! -e /go ]; do sleep 0.02; done; while kill -0 $(cat /go); do sleep 0.02; done 2>&-;";
        let wait = if waits { wait } else { "" };
        let script =
            format!("{wait} i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); done; exit {code}");
        let box_config = container(config, &name, &script);
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(box_config),
            sandbox_config: Some(config.clone()),
        };
        let made = self.insist("CreateContainer", async |mut c| c.create_container(request.clone()).await);
        let id = made.map_err(|e| format!("{name}: CreateContainer: {e}"))?.container_id;
        self.soak.knows(&id);
        let whose = format!("{name} {id}");
        self.start(&whose, &id)?;
        if waits {
            self.command(&whose, &id)?;
        }
        let status = self.exited(&whose, &id)?;
        let expected = (code.cast_signed(), if code == 0 { "Completed" } else { "Error" }, "");
        let found = (status.exit_code, status.reason.as_str(), status.message.as_str());
        if found != expected {
            return Err(format!("{whose}: {found:?} instead of {expected:?}"));
        }
        self.check_log(&whose, &name, lines)?;
        let request = || RemoveContainerRequest { container_id: id.clone() };
        let removed = self.insist("RemoveContainer", async |mut c| c.remove_container(request()).await);
        removed.map(drop).map_err(|e| format!("{whose}: RemoveContainer: {e}"))
    }

    /// As kubelet: when no answer comes, it looks what there is.
    fn start(&mut self, whose: &str, id: &str) -> Result<(), String> {
        loop {
            let request = || StartContainerRequest { container_id: id.to_owned() };
            match self.call("StartContainer", async |mut c| c.start_container(request()).await) {
                Some(Ok(_)) => return Ok(()),
                Some(Err(status)) => return Err(format!("{whose}: StartContainer: {status}")),
                None => {}
            }
            std::thread::sleep(PAUSE);
            match self.status(whose, id)?.state() {
                ContainerState::ContainerCreated => {}
                ContainerState::ContainerRunning | ContainerState::ContainerExited => return Ok(()),
                ContainerState::ContainerUnknown => return Err(format!("{whose}: its state is unknown")),
            }
        }
    }

    fn status(&mut self, whose: &str, id: &str) -> Result<ContainerStatus, String> {
        let request = || ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.insist("ContainerStatus", async |mut c| c.container_status(request()).await);
        answer
            .map_err(|e| format!("{whose}: ContainerStatus: {e}"))
            .map(|answer| answer.status.unwrap_or_default())
    }

    /// A command that lets the container go on.
    fn command(&mut self, whose: &str, id: &str) -> Result<(), String> {
        let request = || ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: ["/bin/sh", "-c", "echo out; echo err >&2; echo $$ > /go.new; mv /go.new /go; exit 9"]
                .map(str::to_owned)
                .into(),
            timeout: 60,
        };
        loop {
            match self.call("ExecSync", async |mut c| c.exec_sync(request()).await) {
                Some(Ok(answer)) => {
                    let found = (answer.exit_code, answer.stdout.as_slice(), answer.stderr.as_slice());
                    self.soak.commands.fetch_add(1, Ordering::Relaxed);
                    let expected = (9, &b"out\n"[..], &b"err\n"[..]);
                    return match found == expected {
                        true => Ok(()),
                        false => Err(format!("{whose}: ExecSync: {found:?}")),
                    };
                }
                Some(Err(status)) => {
                    // An earlier one, whose answer was lost, may have let it end.
                    let state = self.status(whose, id)?;
                    return match state.state() {
                        ContainerState::ContainerExited => Ok(()),
                        _ => Err(format!("{whose}: ExecSync: {status}")),
                    };
                }
                None => std::thread::sleep(PAUSE),
            }
        }
    }

    fn exited(&mut self, whose: &str, id: &str) -> Result<ContainerStatus, String> {
        let end = Instant::now() + LIMIT;
        loop {
            let status = self.status(whose, id)?;
            if status.state() == ContainerState::ContainerExited {
                return Ok(status);
            }
            if Instant::now() > end {
                return Err(format!("{whose}: it does not end: {:?}", status.state()));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn check_log(&self, whose: &str, name: &str, lines: usize) -> Result<(), String> {
        let text = fs::read_to_string(self.soak.logs.join(format!("{name}.log"))).unwrap_or_default();
        let (mut next, mut again) = (0, 0);
        for line in text.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let &[_, "stdout", "F", "line", number] = &words[..] else {
                return Err(format!("{whose}: a line of its log is {line:?}"));
            };
            let number: usize = number.parse().map_err(|_| format!("{whose}: {line:?}"))?;
            if number > next {
                return Err(format!("{whose}: line {next} is missing before {number}"));
            }
            again += usize::from(number < next);
            next = next.max(number + 1);
        }
        let kills = self.soak.keepers_killed.load(Ordering::Relaxed) as usize;
        match (next == lines, again <= kills * LINES_TWICE_PER_KILL) {
            (true, true) => Ok(()),
            (false, _) => Err(format!("{whose}: {next} of {lines} lines were logged")),
            (_, false) => Err(format!("{whose}: {again} lines were logged twice")),
        }
    }
}

/// Clients run pods until it is over. What goes wrong with one does not end the others.
fn be_kubelet(soak: &Soak, first: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut client = Client { soak, runtime, wire: None };
    let mut number = first;
    while !soak.over.load(Ordering::Relaxed) {
        if let Err(what) = client.run_pod(number) {
            soak.is_wrong(what);
        }
        number += CLIENTS;
    }
}

/// cgroups of pods and containers that are gone.
fn cgroups_of(ids: &BTreeSet<String>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if ids.contains(&name) {
                    found.push(entry.path());
                }
                todo.push(entry.path());
            }
        }
    }
    found
}

fn duration() -> Duration {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(20))
}

/// A number that differs from one time to the next; pauses are as random as this.
fn random(below: u64) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    (u64::from(now.subsec_nanos()) / 7) % below.max(1)
}

#[test]
fn daemon_and_keeper_are_killed_in_turn_and_nothing_is_lost() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let soak = Soak {
        socket: serve.socket(),
        logs: serve.path("logs"),
        over: AtomicBool::new(false),
        pods: AtomicU32::new(0),
        commands: AtomicU32::new(0),
        keepers_killed: AtomicU32::new(0),
        ids: Mutex::default(),
        wrong: Mutex::default(),
    };
    let mut daemons_killed = 0;
    let end = Instant::now() + duration();
    std::thread::scope(|scope| {
        for first in 0..CLIENTS {
            let soak = &soak;
            scope.spawn(move || be_kubelet(soak, first));
        }
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(200 + random(1200)));
            serve.kill();
            daemons_killed += 1;
            serve.start();
            std::thread::sleep(Duration::from_millis(200 + random(1200)));
            let (keeper, standby) = serve.kept().keeper();
            soak.keepers_killed.fetch_add(1, Ordering::Relaxed);
            kill_process(Pid::from_raw(keeper).unwrap(), Signal::KILL).unwrap();
            let next = crate::support::wait_until("another keeper", || {
                Some(serve.kept().keeper().0).filter(|next| *next != keeper)
            });
            if next != standby {
                soak.is_wrong(format!("after keeper {keeper} came {next} and not its standby {standby}"));
            }
        }
        soak.over.store(true, Ordering::Relaxed);
    });
    let (pods, commands) = (soak.pods.load(Ordering::Relaxed), soak.commands.load(Ordering::Relaxed));
    let kills = soak.keepers_killed.load(Ordering::Relaxed);
    say(&format!("{pods} pods, {commands} commands; {daemons_killed} daemons and {kills} keepers killed"));
    let wrong = soak.wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {pods} went wrong: {wrong:#?}", wrong.len());
    serve.removes_all();
    let ids = soak.ids.into_inner().unwrap();
    assert_eq!(cgroups_of(&ids), [""; 0].map(PathBuf::from));
    assert!(pods >= CLIENTS, "{pods} pods");
}
