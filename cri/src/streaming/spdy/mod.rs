//! The server's side of a SPDY/3.1 connection: streams that the client opens.
//!
//! SPDY's flow control is not used, because the clients (Go's spdystream) do not use it either. A stream whose reader is
//! slow makes the server stop reading from the connection once a few pieces wait: then the client's other streams wait, too.

pub mod frame;
pub mod headers;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, mpsc};

pub use frame::BadFrame;
use frame::{Decoder, Frame, Reset};
use headers::{HeaderReader, HeaderWriter};

use super::wire::{Input, PIECES, Sink, Source};

/// The limit of a connection's streams that are open at a time.
const STREAMS: usize = 512;

/// How many new streams may wait to be accepted.
const BACKLOG: usize = 16;

/// A stream that the client has opened; the reply to it has been sent.
#[derive(Debug)]
pub(super) struct Stream {
    /// Its number.
    pub(super) id: u32,
    headers: Vec<(String, String)>,
    /// What the client sends on it.
    pub(super) input: Input,
    /// Told when the client resets it.
    pub(super) reset: Arc<ResetFlag>,
}

impl Stream {
    /// A header, by its name in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Whether the client has reset a stream.
#[derive(Debug, Default)]
pub(super) struct ResetFlag {
    is_set: AtomicBool,
    notify: Notify,
}

impl ResetFlag {
    fn set(&self) {
        self.is_set.store(true, Ordering::Relaxed);
        self.notify.notify_one();
    }

    pub(super) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    /// Waits for the reset; one task at a time may wait.
    pub(super) async fn wait(&self) {
        while !self.is_set() {
            self.notify.notified().await;
        }
    }
}

/// Reads a connection and distributes what arrives to its streams.
#[derive(Debug)]
pub(super) struct Connection {
    source: Source,
    sink: Arc<Sink>,
    decoder: Decoder,
    /// None once no more streams are accepted: a session that is idle for days need not hold it.
    header_reader: Option<HeaderReader>,
    header_writer: HeaderWriter,
    last: u32,
    open: HashMap<u32, OpenStream>,
    /// Takes new streams; none once no more are accepted.
    accept: Option<mpsc::Sender<Stream>>,
}

#[derive(Debug)]
struct OpenStream {
    /// None once the client has ended its direction, or the reader is gone.
    data: Option<mpsc::Sender<Bytes>>,
    reset: Arc<ResetFlag>,
}

/// A connection, and the streams that its client opens.
pub(super) fn accept(source: Source, sink: Arc<Sink>) -> (Connection, mpsc::Receiver<Stream>) {
    let (sender, streams) = mpsc::channel(BACKLOG);
    let connection = Connection {
        source,
        sink,
        decoder: Decoder::default(),
        header_reader: Some(HeaderReader::default()),
        header_writer: HeaderWriter::default(),
        last: 0,
        open: HashMap::new(),
        accept: Some(sender),
    };
    (connection, streams)
}

impl Connection {
    /// Reads until the end of the connection.
    ///
    /// # Errors
    /// The connection is broken, or the client breaks the protocol.
    pub(super) async fn run(&mut self) -> io::Result<()> {
        let mut buffer = BytesMut::new();
        loop {
            tokio::select! {
                more = self.source.read(&mut buffer) => if !more? {
                    return Ok(());
                },
                () = no_longer_accepts(self.accept.as_ref()) => {
                    (self.accept, self.header_reader) = (None, None);
                }
            }
            while let Some(frame) = self.decoder.decode(&mut buffer).map_err(io::Error::other)? {
                if !self.take(frame).await? {
                    return Ok(());
                }
            }
        }
    }

    /// Returns false when the client is gone.
    async fn take(&mut self, frame: Frame) -> io::Result<bool> {
        match frame {
            Frame::Data { stream, data, fin } => {
                if !data.is_empty() && !self.deliver(stream, data).await {
                    return Ok(false);
                }
                if fin {
                    self.end_input(stream);
                }
            }
            Frame::SynStream { stream, headers, fin } => self.open(stream, &headers, fin).await?,
            Frame::Reset(stream) => {
                if let Some(stream) = self.open.remove(&stream) {
                    stream.reset.set();
                }
            }
            // Odd ones are the client's; the server sends none.
            Frame::Ping(id) if !id.is_multiple_of(2) => self.sink.write(&frame::ping(id)).await?,
            Frame::Ping(_) | Frame::GoAway | Frame::Other => {}
        }
        Ok(true)
    }

    /// Passes data on to its stream's reader; returns false when the client hangs up while the reader is busy.
    async fn deliver(&mut self, stream: u32, data: Bytes) -> bool {
        let Some(open) = self.open.get_mut(&stream) else { return true };
        let Some(sender) = &open.data else { return true };
        match self.source.unless_hung_up(sender.send(data)).await {
            Some(Ok(())) => true,
            Some(Err(_)) => {
                open.data = None;
                true
            }
            None => false,
        }
    }

    fn end_input(&mut self, stream: u32) {
        if let Some(open) = self.open.get_mut(&stream) {
            open.data = None;
        }
    }

    async fn open(&mut self, id: u32, headers: &[u8], fin: bool) -> io::Result<()> {
        let Some(reader) = &mut self.header_reader else {
            return self.sink.write(&frame::rst_stream(id, Reset::Refused)).await;
        };
        // Also those of a stream that is refused: the compression depends on all headers before.
        let headers = reader.read(headers).map_err(io::Error::other)?;
        if id.is_multiple_of(2) || id <= self.last {
            return self.sink.write(&frame::rst_stream(id, Reset::ProtocolError)).await;
        }
        self.last = id;
        self.forget_ended();
        let Some(accept) = self.accept.as_ref().filter(|_| self.open.len() < STREAMS) else {
            return self.sink.write(&frame::rst_stream(id, Reset::Refused)).await;
        };
        let (sender, input) = mpsc::channel(PIECES);
        let reset = Arc::<ResetFlag>::default();
        let stream = Stream { id, headers, input, reset: Arc::clone(&reset) };
        self.open.insert(id, OpenStream { data: (!fin).then_some(sender), reset });
        self.sink.write(&frame::syn_reply(id, &self.header_writer.empty())).await?;
        if accept.send(stream).await.is_err() {
            self.accept = None;
        }
        Ok(())
    }

    /// Forgets streams that nobody holds any more.
    fn forget_ended(&mut self) {
        if self.open.len() >= STREAMS / 2 {
            self.open.retain(|_, stream| Arc::strong_count(&stream.reset) > 1);
        }
    }
}

/// Waits until the session accepts no more streams.
async fn no_longer_accepts(accept: Option<&mpsc::Sender<Stream>>) {
    match accept {
        Some(accept) => accept.closed().await,
        None => std::future::pending().await,
    }
}

/// Ends the server's direction of a stream.
///
/// # Errors
/// The connection is broken.
pub(super) async fn finish(sink: &Sink, stream: u32) -> io::Result<()> {
    sink.write(&frame::data_header(stream, 0, true)).await
}

/// Writes a short text on a stream.
///
/// # Errors
/// The connection is broken.
pub(super) async fn write(sink: &Sink, stream: u32, text: &[u8]) -> io::Result<()> {
    sink.write(&[&frame::data_header(stream, text.len(), false), text].concat()).await
}
