//! Frames of SPDY/3.1 (draft-mbelshe-httpbis-spdy-00, section 2.2), as read from a client and as written to it.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

/// The length of a frame's header, in bytes.
pub(crate) const HEADER: usize = 8;

/// The limit of a control frame's content in bytes; those of kubelet and crictl have some hundred.
const CONTROL_LIMIT: usize = 16 << 10;

/// The version in a control frame's header: SPDY/3.1 has that of SPDY/3.
const VERSION: u16 = 3;

const FLAG_FIN: u8 = 1;

/// Types of control frames, by their numbers.
mod kind {
    pub(super) const SYN_STREAM: u16 = 1;
    pub(super) const SYN_REPLY: u16 = 2;
    pub(super) const RST_STREAM: u16 = 3;
    pub(super) const PING: u16 = 6;
    pub(super) const GOAWAY: u16 = 7;
}

/// Why a stream is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reset {
    /// The client breaks the protocol with it.
    ProtocolError = 1,
    /// The server does not accept it.
    Refused = 3,
    /// It is no longer needed.
    Cancel = 5,
}

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A part of a stream's data: what has arrived of a data frame. Only its last part carries the frame's FIN.
    Data {
        /// The stream.
        stream: u32,
        /// The bytes.
        data: Bytes,
        /// The client sends nothing more on this stream.
        fin: bool,
    },
    /// A new stream.
    SynStream {
        /// Its number: odd, and higher than those before it.
        stream: u32,
        /// The compressed headers.
        headers: Bytes,
        /// The client sends nothing on this stream.
        fin: bool,
    },
    /// The client has ended a stream in both directions.
    Reset(u32),
    /// To be sent back.
    Ping(u32),
    /// The client opens no more streams.
    GoAway,
    /// A frame without meaning for this server: settings, window sizes, replies to streams that it never opens.
    Other,
}

/// The bytes received are not SPDY, or break its rules: the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadFrame(pub &'static str);

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for BadFrame {}

/// Splits received bytes into frames. Data is passed on as it arrives, so that a frame of 16 MiB takes no more memory than
/// the buffer that it is read into.
#[derive(Debug, Default)]
pub struct Decoder {
    /// What is missing of a data frame.
    data: Option<DataFrame>,
}

#[derive(Debug, Clone, Copy)]
struct DataFrame {
    stream: u32,
    left: usize,
    fin: bool,
}

impl Decoder {
    /// Takes the next frame, or the next part of a data frame, from the front of `buffer`. `None` when more bytes are
    /// needed.
    ///
    /// # Errors
    /// A control frame of another version, of a wrong length or longer than the limit.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, BadFrame> {
        if let Some(frame) = self.data.take() {
            return Ok(self.part(frame, buffer));
        }
        let Some(header) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
        let first = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let (flags, length) = (header[4], u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize);
        if first >> 31 == 0 {
            buffer.advance(HEADER);
            let frame = DataFrame { stream: first, left: length, fin: flags & FLAG_FIN != 0 };
            return Ok(self.part(frame, buffer));
        }
        if (first >> 16) as u16 & 0x7fff != VERSION {
            return Err(BadFrame("a frame that is not of SPDY/3"));
        }
        if length > CONTROL_LIMIT {
            return Err(BadFrame("a control frame that is too long"));
        }
        if buffer.len() < HEADER + length {
            return Ok(None);
        }
        buffer.advance(HEADER);
        control(first as u16, flags, buffer.split_to(length).freeze()).map(Some)
    }

    fn part(&mut self, frame: DataFrame, buffer: &mut BytesMut) -> Option<Frame> {
        if buffer.is_empty() && frame.left > 0 {
            self.data = Some(frame);
            return None;
        }
        let data = buffer.split_to(frame.left.min(buffer.len())).freeze();
        let left = frame.left - data.len();
        if left > 0 {
            self.data = Some(DataFrame { left, ..frame });
        }
        Some(Frame::Data { stream: frame.stream, data, fin: frame.fin && left == 0 })
    }
}

fn control(kind: u16, flags: u8, mut content: Bytes) -> Result<Frame, BadFrame> {
    let short = |_| BadFrame("a control frame that is too short");
    match kind {
        kind::SYN_STREAM => {
            let stream = content.try_get_u32().map_err(short)? & 0x7fff_ffff;
            // The stream that it is associated with, its priority and its slot, which have no meaning here.
            content.try_get_u32().map_err(short)?;
            content.try_get_u16().map_err(short)?;
            Ok(Frame::SynStream { stream, headers: content, fin: flags & FLAG_FIN != 0 })
        }
        kind::RST_STREAM => Ok(Frame::Reset(content.try_get_u32().map_err(short)? & 0x7fff_ffff)),
        kind::PING => Ok(Frame::Ping(content.try_get_u32().map_err(short)?)),
        kind::GOAWAY => Ok(Frame::GoAway),
        _ => Ok(Frame::Other),
    }
}

/// The header of a data frame with so many bytes.
pub(crate) fn data_header(stream: u32, length: usize, fin: bool) -> [u8; HEADER] {
    header(stream, if fin { FLAG_FIN } else { 0 }, length)
}

/// The reply to a new stream, with these compressed headers.
pub(crate) fn syn_reply(stream: u32, headers: &[u8]) -> Vec<u8> {
    control_frame(kind::SYN_REPLY, &[&stream.to_be_bytes(), headers])
}

/// Ends a stream in both directions.
pub(crate) fn rst_stream(stream: u32, reset: Reset) -> Vec<u8> {
    control_frame(kind::RST_STREAM, &[&stream.to_be_bytes(), &(reset as u32).to_be_bytes()])
}

/// The reply to a ping.
pub(crate) fn ping(id: u32) -> Vec<u8> {
    control_frame(kind::PING, &[&id.to_be_bytes()])
}

/// Announces the end of the connection; `last` is the last stream that was accepted.
pub(crate) fn go_away(last: u32) -> Vec<u8> {
    control_frame(kind::GOAWAY, &[&last.to_be_bytes(), &0_u32.to_be_bytes()])
}

fn control_frame(kind: u16, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let first = 1 << 31 | u32::from(VERSION) << 16 | u32::from(kind);
    [&header(first, 0, content.len()), content.as_slice()].concat()
}

fn header(first: u32, flags: u8, length: usize) -> [u8; HEADER] {
    let [a, b, c, d] = first.to_be_bytes();
    let [.., x, y, z] = length.to_be_bytes();
    [a, b, c, d, flags, x, y, z]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_all(bytes: &[u8], step: usize) -> Result<Vec<Frame>, BadFrame> {
        let (mut decoder, mut buffer, mut frames) = (Decoder::default(), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = decoder.decode(&mut buffer)? {
                frames.push(frame);
            }
        }
        assert!(buffer.is_empty(), "{buffer:?}");
        Ok(frames)
    }

    #[test]
    fn frames_are_found_however_the_bytes_arrive() {
        let mut bytes = Vec::new();
        // SYN_STREAM 1 with FIN: stream, associated stream, priority and slot, then two bytes of headers.
        bytes.extend_from_slice(b"\x80\x03\x00\x01\x01\x00\x00\x0c\0\0\0\x01\0\0\0\0\0\0hi");
        bytes.extend_from_slice(b"\x00\x00\x00\x05\x00\x00\x00\x04data");
        bytes.extend_from_slice(b"\x00\x00\x00\x05\x01\x00\x00\x00");
        bytes.extend_from_slice(b"\x80\x03\x00\x06\x00\x00\x00\x04\0\0\0\x07");
        bytes.extend_from_slice(b"\x80\x03\x00\x03\x00\x00\x00\x08\0\0\0\x05\0\0\0\x05");
        bytes.extend_from_slice(b"\x80\x03\x00\x04\x00\x00\x00\x04\0\0\0\0");
        bytes.extend_from_slice(b"\x80\x03\x00\x07\x00\x00\x00\x08\0\0\0\x05\0\0\0\0");
        for step in [1, 2, 3, 7, 8, 9, bytes.len()] {
            let frames = decode_all(&bytes, step).unwrap();
            let (mut data, mut rest) = (Vec::new(), Vec::new());
            for frame in frames {
                match frame {
                    Frame::Data { stream: 5, data: part, fin } => {
                        data.extend_from_slice(&part);
                        assert_eq!(fin, part.is_empty());
                    }
                    other => rest.push(other),
                }
            }
            assert_eq!(data, b"data");
            let headers = Bytes::from_static(b"hi");
            let syn = Frame::SynStream { stream: 1, headers, fin: true };
            assert_eq!(rest, [syn, Frame::Ping(7), Frame::Reset(5), Frame::Other, Frame::GoAway]);
        }
    }

    #[test]
    fn what_is_not_spdy_is_refused() {
        assert!(decode_all(b"\x80\x02\x00\x06\x00\x00\x00\x04\0\0\0\x07", 64).is_err(), "SPDY/2");
        assert!(decode_all(b"\x80\x03\x00\x06\x00\x00\x00\x02\0\0", 64).is_err(), "a ping without a number");
        assert!(decode_all(b"\x80\x03\x00\x01\x00\xff\xff\xff", 64).is_err(), "16 MiB of headers");
    }

    #[test]
    fn control_frames_are_written_by_the_protocol() {
        assert_eq!(ping(2), b"\x80\x03\x00\x06\x00\x00\x00\x04\0\0\0\x02");
        assert_eq!(rst_stream(9, Reset::Cancel), b"\x80\x03\x00\x03\x00\x00\x00\x08\0\0\0\x09\0\0\0\x05");
        assert_eq!(go_away(3), b"\x80\x03\x00\x07\x00\x00\x00\x08\0\0\0\x03\0\0\0\0");
        assert_eq!(syn_reply(1, b"xy"), b"\x80\x03\x00\x02\x00\x00\x00\x06\0\0\0\x01xy");
        assert_eq!(data_header(7, 0x01_0203, true), *b"\0\0\0\x07\x01\x01\x02\x03");
    }
}
