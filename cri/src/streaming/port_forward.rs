//! Port-forward: pairs of streams, each joined to a connection within the pod's network.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::task::JoinSet;

use super::spdy::{self, Stream, frame};
use super::wire::{Input, Sink, Source};
use super::{Node, exec};
use crate::backend::{Backend, RuntimeBackend};
use crate::error::{Error, Kind, Result};

/// How long the second stream of a pair may take.
const PAIRING: Duration = Duration::from_secs(30);

/// How long a connection within the pod may take.
const CONNECTING: Duration = Duration::from_secs(60);

/// A pair of streams for one connection.
#[derive(Debug, Default)]
struct Pair {
    data: Option<Stream>,
    error: Option<Stream>,
}

/// Serves the port-forwards of a client into a pod.
pub(super) async fn over_spdy<B: Backend>(
    node: Arc<Node<B>>,
    sandbox: String,
    source: Source,
    sink: Arc<Sink>,
) {
    let (mut connection, mut streams) = spdy::accept(source, Arc::clone(&sink));
    let forwards = Forwards { node, sandbox, sink: Arc::clone(&sink) };
    let session = async {
        let (mut pairs, mut running) = (HashMap::new(), JoinSet::new());
        loop {
            tokio::select! {
                stream = streams.recv() => match stream {
                    Some(stream) => forwards.take(stream, &mut pairs, &mut running).await,
                    None => return,
                },
                () = forwards.expire(&mut pairs) => {}
                // At once: a forward that has ended holds its memory until then.
                Some(_) = running.join_next() => {}
            }
        }
    };
    exec::serve(session, connection.run(), &sink).await;
}

/// Pairs that are not complete, by their requests, with the times of their first streams.
type Pairs = HashMap<String, (Instant, Pair)>;

/// What all forwards of a connection need.
struct Forwards<B> {
    node: Arc<Node<B>>,
    sandbox: String,
    sink: Arc<Sink>,
}

impl<B: Backend> Forwards<B> {
    /// Takes a new stream, and starts a forward when its pair is complete.
    async fn take(&self, stream: Stream, pairs: &mut Pairs, running: &mut JoinSet<()>) {
        let id = stream.id;
        let refused = frame::rst_stream(id, frame::Reset::ProtocolError);
        let Some((key, is_data, port)) = request_of(&stream) else {
            let _ = self.sink.write(&refused).await;
            return;
        };
        let (_, pair) = pairs.entry(key.clone()).or_insert_with(|| (Instant::now(), Pair::default()));
        let slot = if is_data { &mut pair.data } else { &mut pair.error };
        if slot.is_some() {
            let _ = self.sink.write(&refused).await;
            return;
        }
        *slot = Some(stream);
        if pair.data.is_none() || pair.error.is_none() {
            return;
        }
        if let Some((_, Pair { data: Some(data), error: Some(error) })) = pairs.remove(&key) {
            let (node, sandbox) = (Arc::clone(&self.node), self.sandbox.clone());
            let forward = Forward { node, sandbox, port, sink: Arc::clone(&self.sink) };
            running.spawn(forward.run(data, error));
        }
    }

    /// Waits until the oldest incomplete pair is too old, and ends it.
    async fn expire(&self, pairs: &mut Pairs) {
        let oldest =
            pairs.iter().min_by_key(|(_, (since, _))| *since).map(|(key, (since, _))| (key.clone(), *since));
        let Some((key, since)) = oldest else { return std::future::pending().await };
        tokio::time::sleep_until((since + PAIRING).into()).await;
        if let Some((_, pair)) = pairs.remove(&key) {
            give_up(&self.sink, &pair).await;
        }
    }
}

/// Tells that the other stream of a pair has not come.
async fn give_up(sink: &Sink, pair: &Pair) {
    if let Some(error) = &pair.error {
        let _ = spdy::write(sink, error.id, b"the data stream was not opened in time").await;
        let _ = spdy::finish(sink, error.id).await;
    }
    if let Some(data) = &pair.data {
        let _ = sink.write(&frame::rst_stream(data.id, frame::Reset::Cancel)).await;
    }
}

/// The request to which a stream belongs, whether it is its data stream, and its port. `None` for a stream that is not one
/// of a port-forward.
fn request_of(stream: &Stream) -> Option<(String, bool, u16)> {
    let is_data = match stream.header("streamtype")? {
        "data" => true,
        "error" => false,
        _ => return None,
    };
    let port = stream.header("port")?.parse().ok().filter(|port| *port > 0)?;
    // Clients that send no number open the data stream right after the error stream.
    let by_stream = if is_data { stream.id.checked_sub(2)? } else { stream.id };
    let key = stream.header("requestid").map_or_else(|| format!("stream {by_stream}"), str::to_owned);
    Some((key, is_data, port))
}

/// A forwarded connection.
struct Forward<B> {
    node: Arc<Node<B>>,
    sandbox: String,
    port: u16,
    sink: Arc<Sink>,
}

impl<B: Backend> Forward<B> {
    /// Connects and copies in both directions, until both have ended or one is broken.
    async fn run(self, data: Stream, error: Stream) {
        let (id, reset) = (data.id, Arc::clone(&data.reset));
        let done = tokio::select! {
            () = reset.wait() => Ok(()),
            connected = self.connect() => match connected {
                Ok(socket) => self.copy(socket, data).await.map_err(|error| self.error(&error.to_string())),
                Err(error) => Err(error),
            },
        };
        if let Err(error_text) = done {
            let _ = spdy::write(&self.sink, error.id, error_text.as_bytes()).await;
            let _ = spdy::finish(&self.sink, error.id).await;
            let _ = self.sink.write(&frame::rst_stream(id, frame::Reset::Cancel)).await;
            return;
        }
        let _ = spdy::finish(&self.sink, error.id).await;
    }

    fn error(&self, cause: &str) -> String {
        format!("error forwarding port {} to pod {}: {cause}", self.port, self.sandbox)
    }

    /// Connects to the port on the pod's loopback interface, by IPv4 or else IPv6.
    async fn connect(&self) -> Result<TcpStream, String> {
        let mut causes = Vec::new();
        for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            match self.connect_to(address).await {
                Ok(socket) => return Ok(socket),
                Err(error) => causes.push(format!("{}: {error}", SocketAddr::new(address, self.port))),
            }
        }
        Err(self.error(&format!("connect to {}", causes.join("; "))))
    }

    async fn connect_to(&self, address: IpAddr) -> Result<TcpStream> {
        let sandbox = self.sandbox.clone();
        let ask = move |node: &B| node.runtime().socket_in_pod(&sandbox, address.is_ipv6());
        let socket = self.node.ask(ask).await?;
        let connecting = connect(socket, SocketAddr::new(address, self.port));
        match tokio::time::timeout(CONNECTING, connecting).await {
            Ok(connected) => connected.map_err(|error| Error::new(Kind::Unreachable, error.to_string())),
            Err(_) => Err(Error::new(Kind::TimedOut, "no answer")),
        }
    }

    async fn copy(&self, mut socket: TcpStream, mut data: Stream) -> io::Result<()> {
        let reset = Arc::clone(&data.reset);
        let (from_pod, to_pod) = socket.split();
        let both = async {
            tokio::try_join!(
                copy_from_pod(from_pod, data.id, &self.sink),
                copy_to_pod(&mut data.input, to_pod, &reset),
            )
        };
        tokio::select! {
            copied = both => copied.map(drop),
            () = reset.wait() => Ok(()),
        }
    }
}

/// Connects a socket that is already in the pod's network.
async fn connect(socket: OwnedFd, address: SocketAddr) -> io::Result<TcpStream> {
    rustix::io::ioctl_fionbio(&socket, true)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    let stream = TcpStream::from_std(std::net::TcpStream::from(socket))?;
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

/// Copies to the client until the pod ends its direction.
async fn copy_from_pod(from: ReadHalf<'_>, stream: u32, sink: &Sink) -> io::Result<()> {
    loop {
        from.ready(Interest::READABLE).await?;
        let header =
            |length, to: &mut Vec<u8>| to.extend_from_slice(&frame::data_header(stream, length, false));
        match sink.write_from(header, |buffer| from.try_read(buffer)).await? {
            Ok(0) => return spdy::finish(sink, stream).await,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Copies to the pod until the client ends its direction.
async fn copy_to_pod(input: &mut Input, mut to: WriteHalf<'_>, reset: &spdy::ResetFlag) -> io::Result<()> {
    while let Some(data) = input.recv().await {
        to.write_all(&data).await?;
    }
    // The end of a stream that was reset is no end of the client's data.
    if reset.is_set() {
        return Ok(());
    }
    match to.shutdown().await {
        // The pod has closed the connection already.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        other => other,
    }
}
