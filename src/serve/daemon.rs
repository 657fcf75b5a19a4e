//! The process: its lock, socket, signals and shutdown. Between calls it sleeps; it sets no timer.

use std::fs::File;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use coracle_cri::Limits;
use rustix::fs::{FlockOperation, Mode, fcntl_lock};
use rustix::io::Errno;
use rustix::process::umask;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::archives::Retry;
use super::config::Config;
use super::containerd_socket::{self, ContainerdSocket};
use super::socket::{Bound, asynchronous, listen};
use super::{Node, metrics, recent, streaming, supervisor};
use crate::error::{Doing, Error, Kind, Result};
use crate::keeper::client::Client;
use crate::linux::private;
use crate::pod::one_line;
use crate::store::Store;

/// How long open calls may take after SIGTERM. kubelet retries unanswered calls, and the next process recovers interrupted
/// operations.
const GRACE: Duration = Duration::from_secs(10);

/// Serves kubelet until SIGTERM or SIGINT. `load` reads the configuration, now and on each SIGHUP.
///
/// # Errors
/// It cannot start: another process uses the same directory or socket, or the store or the keeper fails.
pub fn run(load: impl Fn() -> Result<Config> + Send + Sync + 'static) -> Result<()> {
    // Reset what was inherited from the shell or script that started the daemon, so that it cannot affect pods.
    crate::sys::process::reset_ignored_signals();
    umask(Mode::from_raw_mode(0o022));
    crate::sys::memory::limit_allocator_cache();
    let inherited = supervisor::inherited_socket()?;
    let config = load()?;
    let _lock = lock(&config.run)?;
    recent::keep(&config.run);
    crate::record::close_all(&config.root)?;
    let (listener, bound) = match inherited {
        Some(listener) => (listener, None),
        None => (listen(&config.socket)?, Some(Bound(config.socket.clone()))),
    };
    // Before kubelet is told that the node is ready: it connects only once.
    let containerd = containerd_socket::open(&config);
    let metrics = metrics::listen(&config.metrics.listen);
    // From here on clients can connect; they wait for their first response.
    let store = Arc::new(Store::open(&config.store)?);
    Client::connect_or_start(&config.run)?;
    let runtime =
        Builder::new_current_thread().enable_io().enable_time().build().doing(|| "set up the server")?;
    let node = Arc::new(Node::new(config, store)?);
    let ended = runtime.block_on(Box::pin(serve(listener, (containerd, metrics), &node, load)));
    drop(bound);
    // Calls that are still running end with the process.
    runtime.shutdown_background();
    ended
}

async fn serve(
    listener: UnixListener,
    (containerd, metrics): (Option<ContainerdSocket>, Option<metrics::Listener>),
    node: &Arc<Node>,
    load: impl Fn() -> Result<Config>,
) -> Result<()> {
    let mut signals = Signals::new().doing(|| "wait for signals")?;
    let listener = asynchronous(&listener)?;
    let (stop, stopped) = oneshot::channel::<()>();
    // Both end with this function; their clients lose nothing by that.
    let _containerd = containerd.map(|socket| Task::of_containerd(socket, node)).transpose()?;
    let _metrics = metrics.map(|listener| Task::of_metrics(listener, node)).transpose()?;
    let limits =
        Limits { parallel_calls: node.current().config.max_parallel_calls as usize, ..Limits::default() };
    let until = async { drop(stopped.await) };
    let streaming = streaming::bind(&node.current().config.streaming)?;
    let serving = coracle_cri::serve(listener, Some(streaming), Arc::clone(node), limits, until);
    let mut serving = pin!(serving);
    // Drop the code pages that only the start-up needed, to lower the RSS.
    crate::sys::memory::unmap_code();
    // The directories are watched first: whatever comes later than the import's look at them is reported.
    let mut archives = node.watch_archives();
    node.import_archives(Retry::All);
    supervisor::notify("READY=1");
    loop {
        tokio::select! {
            served = &mut serving => return served.doing(|| "serve"),
            () = archives.changed() => {
                archives = node.watch_archives();
                node.import_archives(Retry::Changed);
            }
            action = signals.next() => match action {
                SignalAction::Stop => break,
                SignalAction::Reload => if reload(node, &load) {
                    archives = node.watch_archives();
                    node.import_archives(Retry::All);
                },
            },
        }
    }
    supervisor::notify("STOPPING=1");
    node.images.cancel_pulls();
    drop(stop);
    // A second signal skips the wait.
    tokio::select! {
        _ = &mut serving => {}
        _ = signals.next() => {}
        () = tokio::time::sleep(GRACE) => {
            crate::log::warning("some calls did not end in time; they are left to the next start");
        }
    }
    Ok(())
}

/// A task that serves a further socket. Both end when this is dropped.
struct Task<S> {
    task: tokio::task::JoinHandle<()>,
    _socket: S,
}

impl Task<metrics::Listener> {
    fn of_metrics(listener: metrics::Listener, node: &Arc<Node>) -> Result<Self> {
        Ok(Self { task: listener.start(node)?, _socket: listener })
    }
}

impl Task<ContainerdSocket> {
    fn of_containerd(socket: ContainerdSocket, node: &Arc<Node>) -> Result<Self> {
        // One client, which makes one call at a time.
        let limits = Limits { parallel_calls: 2, connections: 16, open_calls: 64, ..Limits::default() };
        let listener = asynchronous(&socket.listener)?;
        let never = std::future::pending();
        let task = tokio::spawn(coracle_cri::serve_containerd(listener, Arc::clone(node), limits, never));
        Ok(Self { task, _socket: socket })
    }
}

impl<S> Drop for Task<S> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a signal makes the daemon do.
enum SignalAction {
    Stop,
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> SignalAction {
        tokio::select! {
            _ = self.terminate.recv() => SignalAction::Stop,
            _ = self.interrupt.recv() => SignalAction::Stop,
            _ = self.hangup.recv() => SignalAction::Reload,
        }
    }
}

/// Reads the configuration again; returns whether it is in force. If it is faulty, the old one stays.
fn reload(node: &Arc<Node>, load: &impl Fn() -> Result<Config>) -> bool {
    supervisor::notify_reloading();
    let loaded = load();
    let is_loaded = loaded.is_ok();
    match loaded {
        Ok(config) => {
            let (config, ignored) = with_what_is_fixed(config, &node.current().config);
            if !ignored.is_empty() {
                let names = ignored.join(", ");
                crate::log::warning(&format!(
                    "changed in the configuration, but only a restart applies it: {names}"
                ));
            }
            node.reload(config);
        }
        Err(error) => {
            crate::log::warning(&one_line(&error.doing("the configuration stays as it was")));
        }
    }
    supervisor::notify("READY=1");
    is_loaded
}

/// The new configuration with the old values of settings that only a restart can change, and the names of those that differ.
fn with_what_is_fixed(new: Config, old: &Config) -> (Config, Vec<&'static str>) {
    let fixed = Config {
        images: new.images.clone(),
        registry: new.registry.clone(),
        cni: new.cni.clone(),
        handlers: new.handlers.clone(),
        ..old.clone()
    };
    let differ = [
        ("socket", new.socket != fixed.socket),
        ("run", new.run != fixed.run),
        ("root", new.root != fixed.root),
        ("store", new.store != fixed.store),
        ("state_on_tmpfs", new.state_on_tmpfs != fixed.state_on_tmpfs),
        ("cgroup_driver", new.cgroup_driver != fixed.cgroup_driver),
        ("[streaming]", new.streaming != fixed.streaming),
        ("max_parallel_calls", new.max_parallel_calls != fixed.max_parallel_calls),
        ("[security]", new.security != fixed.security),
        ("[metrics]", new.metrics != fixed.metrics),
    ];
    let ignored = differ.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect();
    (fixed, ignored)
}

/// Locks the run directory as long as this process lives: two daemons would not know each other's pods. The lock belongs to
/// the process (fcntl(2), F_SETLK), not to the open file: a child between fork and execve holds a copy of the descriptor,
/// and if this process is killed at that moment, it must not block the next daemon. Nothing else in this process may open the file,
/// because closing any descriptor of it releases the lock; other processes may ([`super::running`]).
fn lock(run: &Path) -> Result<File> {
    private::own_run_dir(run)?;
    let path = run.join(super::running::LOCK);
    let file = private::open_or_create(&path, private::FILE).doing(|| format!("open {}", path.display()))?;
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::AGAIN | Errno::ACCESS) => {
            let doing = format!("another coracle serve uses {}", run.display());
            Err(Error::new(Kind::Busy, doing).hint("a second daemon needs its own run, root and socket"))
        }
        Err(errno) => Err(errno).doing(|| format!("lock {}", path.display())),
    }
}
