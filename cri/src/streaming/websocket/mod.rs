//! The server's side of a WebSocket connection whose messages begin with the number of a channel: `v5.channel.k8s.io` and
//! the versions before it.

pub mod frame;

use std::io;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use super::channels::Channel;
use super::wire::{Input, PIECES, Sink, Source};
use frame::{Decoder, Frame};

/// In version 5, a message on this channel ends the one that it names.
const END: u8 = 255;

/// A subprotocol, by what is different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subprotocol {
    /// 1, 4 or 5: since 4 the end of a session is told as JSON, since 5 a client can end its input.
    pub(super) version: u8,
    /// Text messages: the channel is a digit, and what follows is in Base64.
    pub(super) base64: bool,
}

/// Reads a connection and distributes what arrives to the channels.
#[derive(Debug)]
pub(super) struct Connection {
    source: Source,
    sink: Arc<Sink>,
    decoder: Decoder,
    subprotocol: Subprotocol,
    /// The channel of the message that is being received.
    channel: Option<u8>,
    /// Base64 characters of the message that are not yet a multiple of four.
    carry: Vec<u8>,
    stdin: Option<mpsc::Sender<Bytes>>,
    resize: Option<mpsc::Sender<Bytes>>,
}

/// A connection, and what the client sends on its channels: standard input, and sizes of its terminal.
pub(super) fn accept(
    source: Source,
    sink: Arc<Sink>,
    subprotocol: Subprotocol,
) -> (Connection, Input, Input) {
    let ((stdin, input), (resize, sizes)) = (mpsc::channel(PIECES), mpsc::channel(PIECES));
    let connection = Connection {
        source,
        sink,
        decoder: Decoder::default(),
        subprotocol,
        channel: None,
        carry: Vec::new(),
        stdin: Some(stdin),
        resize: Some(resize),
    };
    (connection, input, sizes)
}

impl Connection {
    /// Reads until the end of the connection.
    ///
    /// # Errors
    /// The connection is broken, or the client breaks the protocol.
    pub(super) async fn run(&mut self) -> io::Result<()> {
        let mut buffer = BytesMut::new();
        while self.source.read(&mut buffer).await? {
            while let Some(frame) = self.decoder.decode(&mut buffer).map_err(io::Error::other)? {
                match frame {
                    Frame::Part { data, first, last } => {
                        if !self.take(data, first, last).await? {
                            return Ok(());
                        }
                    }
                    Frame::Ping(data) => self.sink.write_message(frame::PONG, &data).await?,
                    Frame::Pong => {}
                    Frame::Close => return Ok(()),
                }
            }
        }
        Ok(())
    }

    /// Takes a part of a message; returns false when the client is gone.
    async fn take(&mut self, mut data: Bytes, first: bool, last: bool) -> io::Result<bool> {
        if first {
            (self.channel, self.carry) = (None, Vec::new());
        }
        if self.channel.is_none() && !data.is_empty() {
            let number = data.split_to(1)[0];
            self.channel = Some(if self.subprotocol.base64 { number.wrapping_sub(b'0') } else { number });
        }
        if self.subprotocol.base64 {
            data = self.decode(&data, last)?;
        }
        match self.channel {
            Some(END) if self.subprotocol.version >= 5 => {
                if data.contains(&(Channel::Stdin as u8)) {
                    self.stdin = None;
                }
                Ok(true)
            }
            Some(number) if !data.is_empty() => self.deliver(number, data).await,
            _ => Ok(true),
        }
    }

    fn decode(&mut self, data: &[u8], last: bool) -> io::Result<Bytes> {
        self.carry.extend_from_slice(data);
        let whole = if last { self.carry.len() } else { self.carry.len() / 4 * 4 };
        let decoded = BASE64_STANDARD.decode(&self.carry[..whole]).map_err(io::Error::other)?;
        self.carry.drain(..whole);
        Ok(decoded.into())
    }

    async fn deliver(&mut self, channel: u8, data: Bytes) -> io::Result<bool> {
        let slot = match channel {
            c if c == Channel::Stdin as u8 => &mut self.stdin,
            c if c == Channel::Resize as u8 => &mut self.resize,
            _ => return Ok(true),
        };
        let Some(sender) = slot else { return Ok(true) };
        match self.source.unless_hung_up(sender.send(data)).await {
            Some(Ok(())) => Ok(true),
            Some(Err(_)) => {
                *slot = None;
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

/// Writes a short message on a channel.
///
/// # Errors
/// The connection is broken.
pub(super) async fn write(
    sink: &Sink,
    subprotocol: Subprotocol,
    channel: Channel,
    data: &[u8],
) -> io::Result<()> {
    let (opcode, message) = match subprotocol.base64 {
        true => {
            let text = format!("{}{}", channel as u8, BASE64_STANDARD.encode(data));
            (frame::TEXT, text.into_bytes())
        }
        false => (frame::BINARY, [&[channel as u8], data].concat()),
    };
    sink.write_message(opcode, &message).await
}

/// Ends the connection in order: status 1000 of RFC 6455, section 7.4.1.
///
/// # Errors
/// The connection is broken.
pub(super) async fn close(sink: &Sink) -> io::Result<()> {
    sink.write_message(frame::CLOSE, &1000_u16.to_be_bytes()).await
}
