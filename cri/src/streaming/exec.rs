//! Exec and attach: waits for the client's streams, runs the session, and tells its end.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::channels::{Carrier, Channel, Channels, Output};
use super::session::{self, Command, Detached, Process};
use super::status::Ending;
use super::websocket::{self, Subprotocol};
use super::wire::{Sink, Source};
use super::{Node, spdy};
use crate::backend::{Backend, RuntimeBackend};
use crate::error::{Error, Result};
use crate::v1;

/// How long a client may take to open its streams, as in the reference server.
const OPENING: Duration = Duration::from_secs(30);

/// How long a client may take to close its connection after the end was told. Clients made of Go's spdystream lose what
/// they have not yet handed to their streams when the server closes first.
const CLOSING: Duration = Duration::from_secs(10);

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// A command.
    Exec(v1::ExecRequest),
    /// A container's own process.
    Attach(v1::AttachRequest),
}

impl Wanted {
    /// The channels that the client opens.
    fn channels(&self, resizes: bool) -> Vec<Channel> {
        let (tty, streams) = match self {
            Self::Exec(r) => (r.tty, [r.stdin, r.stdout, r.stderr]),
            Self::Attach(r) => (r.tty, [r.stdin, r.stdout, r.stderr]),
        };
        let wanted = [true, streams[0], streams[1], streams[2] && !tty, tty && resizes];
        let all = [Channel::Error, Channel::Stdin, Channel::Stdout, Channel::Stderr, Channel::Resize];
        all.into_iter().zip(wanted).filter_map(|(channel, wanted)| wanted.then_some(channel)).collect()
    }
}

/// Serves a session over SPDY; `version` is that of `v4.channel.k8s.io`.
pub(super) async fn over_spdy<B: Backend>(
    node: Arc<Node<B>>,
    wanted: Wanted,
    version: u8,
    source: Source,
    sink: Arc<Sink>,
) {
    let (mut connection, mut streams) = spdy::accept(source, Arc::clone(&sink));
    let session = async {
        let expected = wanted.channels(version >= 3);
        let opened = timeout(OPENING, open_streams(&sink, &mut streams, &expected, version)).await;
        // A client that does not open its streams gets no answer: there is no stream to send it on.
        let Ok(Ok(mut channels)) = opened else { return };
        // Nothing more is accepted.
        drop(streams);
        let ending = node.run(wanted, &mut channels).await;
        let _ = channels.output.finish(&ending).await;
    };
    serve(session, connection.run(), &sink).await;
}

/// Serves a session over WebSocket.
pub(super) async fn over_websocket<B: Backend>(
    node: Arc<Node<B>>,
    wanted: Wanted,
    subprotocol: Subprotocol,
    source: Source,
    sink: Arc<Sink>,
) {
    let (mut connection, stdin, resize) = websocket::accept(source, Arc::clone(&sink), subprotocol);
    let session = async {
        let channels = wanted.channels(true);
        // An empty message says that the connection is established, as the reference server's.
        let first = [Channel::Stdout, Channel::Stderr, Channel::Error];
        let first = first.into_iter().find(|channel| channels.contains(channel));
        if websocket::write(&sink, subprotocol, first.unwrap_or(Channel::Error), b"").await.is_err() {
            return;
        }
        let mut channels = Channels {
            stdin: channels.contains(&Channel::Stdin).then_some(stdin),
            resize: channels.contains(&Channel::Resize).then_some(resize),
            output: Output { sink: Arc::clone(&sink), carrier: Carrier::WebSocket { subprotocol, channels } },
        };
        let ending = node.run(wanted, &mut channels).await;
        let _ = channels.output.finish(&ending).await;
        // RFC 6455, section 7.1.1: the server closes first.
        sink.shutdown().await;
    };
    serve(session, connection.run(), &sink).await;
}

/// Runs a session until its end, or that of its connection; drops it in the second case. Then closes the connection.
pub(super) async fn serve(
    session: impl Future<Output = ()>,
    reading: impl Future<Output = io::Result<()>>,
    sink: &Sink,
) {
    let mut reading = Box::pin(reading);
    tokio::select! {
        biased;
        () = session => {}
        _ = &mut reading => return,
    }
    if timeout(CLOSING, &mut reading).await.is_err() {
        sink.shutdown().await;
    }
}

/// Waits for all streams of a session.
///
/// # Errors
/// The client opens a stream that is not expected, or is gone.
async fn open_streams(
    sink: &Arc<Sink>,
    streams: &mut mpsc::Receiver<spdy::Stream>,
    expected: &[Channel],
    version: u8,
) -> Result<Channels> {
    let (mut ids, mut inputs) = (HashMap::new(), HashMap::new());
    while ids.len() < expected.len() {
        let stream = streams.recv().await.ok_or_else(|| Error::invalid("the client is gone"))?;
        let channel = match stream.header("streamtype") {
            Some("error") => Channel::Error,
            Some("stdin") => Channel::Stdin,
            Some("stdout") => Channel::Stdout,
            Some("stderr") => Channel::Stderr,
            Some("resize") => Channel::Resize,
            _ => return Err(Error::invalid("a stream of an unknown type")),
        };
        if !expected.contains(&channel) || ids.insert(channel, stream.id).is_some() {
            return Err(Error::invalid("a stream that is not expected"));
        }
        inputs.insert(channel, stream.input);
    }
    let carrier = Carrier::Spdy { streams: ids, json: version >= 4 };
    Ok(Channels {
        stdin: inputs.remove(&Channel::Stdin),
        resize: inputs.remove(&Channel::Resize),
        output: Output { sink: Arc::clone(sink), carrier },
    })
}

impl<B: Backend> Node<B> {
    /// Runs a session. Dropping it hangs up on the command.
    async fn run(self: &Arc<Self>, wanted: Wanted, channels: &mut Channels) -> Ending {
        let (doing, result) = match wanted {
            Wanted::Exec(request) => {
                ("error executing command in container", self.exec(request, channels).await)
            }
            Wanted::Attach(request) => {
                ("error attaching to container", self.attach(request, channels).await.map(|()| 0))
            }
        };
        match result {
            Ok(code) => Ending::Exited(code),
            Err(error) => Ending::Failed { doing, error },
        }
    }

    async fn exec(self: &Arc<Self>, request: v1::ExecRequest, channels: &mut Channels) -> Result<i32> {
        let node = Arc::clone(self);
        // The command has its guard before anything can be dropped: the client may leave while it is started.
        let start = move |backend: &B| {
            let Process { streams, command } = backend.runtime().exec(&request)?;
            Ok((streams, Running { command: Some(Arc::from(command)), node }))
        };
        let (streams, mut running) = self.ask(start).await?;
        let exit = running.command.as_ref().map(|command| command.exit_event()).transpose();
        let Some(exit) = exit.map_err(|error| broken(&error))? else { return Ok(255) };
        session::follow(streams, exit, channels).await.map_err(|error| broken(&error))?;
        match running.command.take() {
            Some(command) => self.ask(move |_| Ok(command.reap())).await,
            None => Ok(255),
        }
    }

    async fn attach(&self, request: v1::AttachRequest, channels: &mut Channels) -> Result<()> {
        let mut unsent = Bytes::new();
        loop {
            let (id, stdin) = (request.container_id.clone(), request.stdin);
            let attachment = self.ask(move |node| node.runtime().attach(&id, stdin)).await?;
            let detached = session::follow_attached(attachment, channels, &mut unsent).await;
            match detached.map_err(|error| broken(&error))? {
                Detached::Ended => return Ok(()),
                // Its successor has the container, if that still runs.
                Detached::KeeperGone => {}
            }
        }
    }
}

fn broken(error: &io::Error) -> Error {
    Error::new(crate::Kind::Unreachable, format!("the client is gone: {error}"))
}

/// A command that runs; if it is dropped before the command was reaped, the client is gone.
struct Running<B: Backend> {
    command: Option<Arc<dyn Command>>,
    node: Arc<Node<B>>,
}

impl<B: Backend> Drop for Running<B> {
    /// The command's streams are closed at the same moment. It is reaped when it ends, without a thread that waits for that.
    fn drop(&mut self) {
        let Some(command) = self.command.take() else { return };
        let node = Arc::clone(&self.node);
        self.node.executor.spawn(async move {
            let hung_up = Arc::clone(&command);
            let hang_up = move |_: &B| {
                hung_up.hang_up();
                Ok(())
            };
            let _ = node.ask(hang_up).await;
            if let Ok(exit) = command.exit_event() {
                let _ = session::readable(exit).await;
            }
            let _ = node.ask(move |_| Ok(command.reap())).await;
        });
    }
}
