//! The bytes of a connection after its upgrade: plain or TLS, and perhaps tunnelled in WebSocket messages.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::server::TlsStream;

use super::websocket::frame::{self as websocket, Decoder, Frame};

/// How many bytes are read from a connection at a time.
const CHUNK: usize = 16 << 10;

/// How many bytes of output are written at a time.
pub(super) const PAYLOAD: usize = 32 << 10;

/// Room for the headers in front of the payload.
const HEADROOM: usize = 2 * websocket::LONGEST_HEADER + 8;

/// A client's connection.
#[derive(Debug)]
pub(super) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Io {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// A connection that was upgraded: the two directions. `received` came behind the HTTP head; with `tunnel`, each side's
/// bytes lie in binary messages of the WebSocket protocol.
pub(super) fn split(io: Io, received: &[u8], tunnel: bool) -> io::Result<(Source, Arc<Sink>)> {
    let hang_up = HangUp { copy: io.socket().as_fd().try_clone_to_owned()?, watched: None };
    let (read, write) = tokio::io::split(io);
    let sink = Arc::new(Sink(Mutex::new(Output { half: write, tunnel, buffer: Vec::new() })));
    let tunnel = tunnel.then(|| Tunnel { decoder: Decoder::default(), raw: BytesMut::from(received) });
    let early = if tunnel.is_some() { BytesMut::new() } else { BytesMut::from(received) };
    Ok((Source { half: read, early, tunnel, sink: Arc::clone(&sink), hang_up }, sink))
}

/// The direction from the client.
#[derive(Debug)]
pub(super) struct Source {
    half: ReadHalf<Io>,
    early: BytesMut,
    tunnel: Option<Tunnel>,
    sink: Arc<Sink>,
    hang_up: HangUp,
}

#[derive(Debug)]
struct Tunnel {
    decoder: Decoder,
    raw: BytesMut,
}

impl Source {
    /// Appends what arrives next to `buffer`; returns false at the end of the connection.
    ///
    /// # Errors
    /// The connection is broken, or the client breaks the WebSocket protocol.
    pub(super) async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<bool> {
        if !self.early.is_empty() {
            buffer.unsplit(self.early.split());
            return Ok(true);
        }
        let Some(tunnel) = &mut self.tunnel else {
            buffer.reserve(CHUNK);
            return Ok(self.half.read_buf(buffer).await? > 0);
        };
        loop {
            match tunnel.decoder.decode(&mut tunnel.raw).map_err(io::Error::other)? {
                Some(Frame::Part { data, .. }) if data.is_empty() => {}
                Some(Frame::Part { data, .. }) => {
                    buffer.extend_from_slice(&data);
                    return Ok(true);
                }
                Some(Frame::Ping(data)) => self.sink.write_message(websocket::PONG, &data).await?,
                Some(Frame::Pong) => {}
                Some(Frame::Close) => return Ok(false),
                None => {
                    tunnel.raw.reserve(CHUNK);
                    if self.half.read_buf(&mut tunnel.raw).await? == 0 {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// Waits until `work` is done, but not longer than the client stays: while nothing is read from a connection, nothing
    /// else would tell its end.
    pub(super) async fn unless_hung_up<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            _ = self.hang_up.wait() => None,
        }
    }
}

/// Tells when the client has closed a connection from which nothing is being read.
#[derive(Debug)]
struct HangUp {
    copy: OwnedFd,
    /// Registered at the first use: most sessions never need it.
    watched: Option<AsyncFd<OwnedFd>>,
}

impl HangUp {
    async fn wait(&mut self) -> io::Result<()> {
        let watched = match self.watched.take() {
            Some(watched) => watched,
            None => register(self.copy.try_clone()?, Interest::READABLE)?,
        };
        let watched = self.watched.insert(watched);
        loop {
            // Each arrival of bytes wakes this once, until the socket's buffer is full.
            let mut guard = watched.readable().await?;
            if guard.ready().is_read_closed() {
                return Ok(());
            }
            guard.clear_ready();
        }
    }
}

/// Registers a descriptor with the event loop.
///
/// # Errors
/// There is no memory for it, or the descriptor is one of a file, which is always ready.
#[expect(
    deprecated,
    reason = "its successor is unsafe for types that may change their descriptor; an OwnedFd does not"
)]
pub(super) fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}

/// The direction to the client; used by several tasks, each of which writes whole frames.
#[derive(Debug)]
pub(super) struct Sink(Mutex<Output>);

#[derive(Debug)]
struct Output {
    half: WriteHalf<Io>,
    tunnel: bool,
    buffer: Vec<u8>,
}

impl Sink {
    /// Writes these frames.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) async fn write(&self, frames: &[u8]) -> io::Result<()> {
        let mut output = self.0.lock().await;
        if output.tunnel {
            return output.message(websocket::BINARY, frames).await;
        }
        output.half.write_all(frames).await?;
        output.half.flush().await
    }

    /// Writes a whole message of the WebSocket protocol.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) async fn write_message(&self, opcode: u8, content: &[u8]) -> io::Result<()> {
        self.0.lock().await.message(opcode, content).await
    }

    /// Reads data into the buffer of the connection and writes it as one frame, whose header `header` makes for its length.
    /// Nothing is written when `read` finds nothing. Returns the outcome of `read`.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) async fn write_from(
        &self,
        header: impl FnOnce(usize, &mut Vec<u8>) + Send,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize> + Send,
    ) -> io::Result<io::Result<usize>> {
        let mut output = self.0.lock().await;
        let Output { half, tunnel, buffer } = &mut *output;
        buffer.resize(HEADROOM + PAYLOAD, 0);
        let length = match read(&mut buffer[HEADROOM..]) {
            Ok(0) => return Ok(Ok(0)),
            Ok(length) => length,
            Err(error) => return Ok(Err(error)),
        };
        let (mut inner, mut outer) = (Vec::with_capacity(16), Vec::with_capacity(16));
        header(length, &mut inner);
        if *tunnel {
            websocket::write_header(websocket::BINARY, inner.len() + length, &mut outer);
        }
        outer.append(&mut inner);
        let start = HEADROOM - outer.len();
        buffer[start..HEADROOM].copy_from_slice(&outer);
        half.write_all(&buffer[start..HEADROOM + length]).await?;
        half.flush().await?;
        Ok(Ok(length))
    }

    /// Ends this direction.
    pub(super) async fn shutdown(&self) {
        // The client may be gone.
        let _ = self.0.lock().await.half.shutdown().await;
    }
}

impl Output {
    async fn message(&mut self, opcode: u8, content: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(websocket::LONGEST_HEADER + content.len());
        websocket::write_header(opcode, content.len(), &mut bytes);
        bytes.extend_from_slice(content);
        self.half.write_all(&bytes).await?;
        self.half.flush().await
    }
}

/// What a session receives on one of its streams, in pieces; `None` at the end.
pub(super) type Input = tokio::sync::mpsc::Receiver<Bytes>;

/// The limit of pieces that wait for a stream's reader. Together with [`CHUNK`] it bounds the memory of a stream whose
/// reader is slow: then nothing more is read from the connection.
pub(super) const PIECES: usize = 4;
