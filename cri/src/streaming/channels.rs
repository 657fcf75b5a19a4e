//! The channels of a session, whichever protocol carries them.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::spdy::{self, frame};
use super::status::Ending;
use super::websocket::{self, Subprotocol};
use super::wire::{Input, PAYLOAD, Sink};

/// A channel, with its number in the WebSocket protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Channel {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    Error = 3,
    Resize = 4,
}

/// The channels of a session.
#[derive(Debug)]
pub(super) struct Channels {
    /// The client's standard input; none when it was not requested.
    pub(super) stdin: Option<Input>,
    /// Sizes of the client's terminal, as JSON.
    pub(super) resize: Option<Input>,
    /// To the client.
    pub(super) output: Output,
}

/// The channels to the client.
#[derive(Debug, Clone)]
pub(super) struct Output {
    pub(super) sink: Arc<Sink>,
    pub(super) carrier: Carrier,
}

/// What carries the channels.
#[derive(Debug, Clone)]
pub(super) enum Carrier {
    /// Streams of SPDY, by their channels; `json` when the end is told as JSON.
    Spdy { streams: HashMap<Channel, u32>, json: bool },
    /// Messages of WebSocket on these channels.
    WebSocket { subprotocol: Subprotocol, channels: Vec<Channel> },
}

impl Output {
    /// Reads what there is and sends it on a channel; discards it when the client did not ask for the channel. Returns the
    /// outcome of `read`: nothing was sent when it is an error or 0.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) async fn send(
        &self,
        channel: Channel,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize> + Send,
    ) -> io::Result<io::Result<usize>> {
        match &self.carrier {
            Carrier::Spdy { streams, .. } => match streams.get(&channel) {
                Some(&stream) => {
                    let header = |length, to: &mut Vec<u8>| {
                        to.extend_from_slice(&frame::data_header(stream, length, false));
                    };
                    self.sink.write_from(header, read).await
                }
                None => Ok(discard(read)),
            },
            Carrier::WebSocket { channels, .. } if !channels.contains(&channel) => Ok(discard(read)),
            Carrier::WebSocket { subprotocol, .. } if subprotocol.base64 => {
                let mut buffer = vec![0; PAYLOAD];
                match read(&mut buffer) {
                    Ok(length) if length > 0 => {
                        websocket::write(&self.sink, *subprotocol, channel, &buffer[..length]).await?;
                        Ok(Ok(length))
                    }
                    other => Ok(other),
                }
            }
            Carrier::WebSocket { .. } => {
                let header = |length, to: &mut Vec<u8>| {
                    websocket::frame::write_header(websocket::frame::BINARY, length + 1, to);
                    to.push(channel as u8);
                };
                self.sink.write_from(header, read).await
            }
        }
    }

    /// Tells the end of the session, and that nothing more comes on any channel.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) async fn finish(&self, ending: &Ending) -> io::Result<()> {
        match &self.carrier {
            Carrier::Spdy { streams, json } => {
                let text = if *json { Some(ending.to_json()) } else { ending.to_text() };
                // Output ends before the status is told, so that a client that leaves after the status has all of it.
                for channel in [Channel::Stdout, Channel::Stderr, Channel::Error] {
                    let Some(&stream) = streams.get(&channel) else { continue };
                    if let Some(text) = text.as_deref().filter(|_| channel == Channel::Error) {
                        spdy::write(&self.sink, stream, text).await?;
                    }
                    spdy::finish(&self.sink, stream).await?;
                }
                self.sink.write(&frame::go_away(streams.values().copied().max().unwrap_or(0))).await
            }
            Carrier::WebSocket { subprotocol, .. } => {
                let text = if subprotocol.version >= 4 { Some(ending.to_json()) } else { ending.to_text() };
                if let Some(text) = text {
                    websocket::write(&self.sink, *subprotocol, Channel::Error, &text).await?;
                }
                websocket::close(&self.sink).await
            }
        }
    }
}

fn discard(read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
    read(&mut [0; 4096])
}

/// The sizes in what a client sends on its channel for them: JSON values one after the other, cut anywhere.
#[derive(Debug, Default)]
pub(super) struct Sizes(Vec<u8>);

/// The limit of what is kept of a value that has not ended.
const SIZE_LIMIT: usize = 1024;

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

impl Sizes {
    /// The last size that is whole now, as columns and rows; none if there is none, or it makes no sense.
    pub(super) fn read(&mut self, data: &[u8]) -> Option<(u16, u16)> {
        self.0.extend_from_slice(data);
        let mut values = serde_json::Deserializer::from_slice(&self.0).into_iter::<Size>();
        let (mut last, mut taken) = (None, 0);
        while let Some(value) = values.next() {
            match value {
                Ok(size) => (last, taken) = (Some((size.width, size.height)), values.byte_offset()),
                Err(error) if error.is_eof() => {}
                Err(_) => taken = self.0.len(),
            }
        }
        self.0.drain(..taken);
        if self.0.len() > SIZE_LIMIT {
            self.0.clear();
        }
        last.filter(|(columns, rows)| *columns > 0 && *rows > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_however_they_are_cut() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.read(b"{\"Width\":80,\"Height\":24}\n"), Some((80, 24)));
        assert_eq!(sizes.read(b"{\"Width\":81,\"Hei"), None);
        assert_eq!(sizes.read(b"ght\":25}\n{\"Width\":82,\"Height\":26}{\"Wi"), Some((82, 26)));
        assert_eq!(sizes.read(b"dth\":0,\"Height\":0}"), None);
        assert_eq!(sizes.read(b"nonsense"), None);
        assert_eq!(sizes.read(b"{\"Width\":70000,\"Height\":1}"), None);
        assert_eq!(sizes.read(b"{\"Width\":9,\"Height\":8}"), Some((9, 8)));
    }
}
