//! Frames of the WebSocket protocol (RFC 6455, section 5), as read from a client and as written to it.
//!
//! Messages are passed on in the parts in which they arrive: none is ever held as a whole, whatever length it has.

use bytes::{Buf, Bytes, BytesMut};

use crate::streaming::spdy::BadFrame;

/// Opcodes.
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// The limit of a control frame's content, in bytes.
const CONTROL_LIMIT: u64 = 125;

/// The length of the longest header of a frame that a server writes.
pub(crate) const LONGEST_HEADER: usize = 10;

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A part of a message.
    Part {
        /// The bytes.
        data: Bytes,
        /// These are the message's first bytes.
        first: bool,
        /// These are its last bytes.
        last: bool,
    },
    /// To be sent back.
    Ping(Bytes),
    /// The answer to a ping, which this server never sends.
    Pong,
    /// The client ends the connection.
    Close,
}

/// Splits received bytes into frames and unmasks them.
#[derive(Debug, Default)]
pub struct Decoder {
    payload: Option<Payload>,
    /// A message has begun whose last frame has not come.
    in_message: bool,
}

/// What is missing of a frame of a message.
#[derive(Debug, Clone, Copy)]
struct Payload {
    left: u64,
    mask: u32,
    first: bool,
    fin: bool,
}

/// A frame's header.
struct Header {
    opcode: u8,
    fin: bool,
    length: u64,
    mask: u32,
    size: usize,
}

impl Decoder {
    /// Takes the next frame, or the next part of one, from the front of `buffer`. `None` when more bytes are needed.
    ///
    /// # Errors
    /// A frame that is not masked, has reserved bits or an unknown opcode, or does not fit into the message.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, BadFrame> {
        if let Some(payload) = self.payload.take() {
            return Ok(self.part(payload, buffer));
        }
        let Some(header) = read_header(buffer)? else { return Ok(None) };
        if header.opcode < CLOSE {
            let first = header.opcode != 0;
            if first == self.in_message {
                return Err(BadFrame("a message that begins within another, or goes on without a beginning"));
            }
            buffer.advance(header.size);
            self.in_message = !header.fin;
            let payload = Payload { left: header.length, mask: header.mask, first, fin: header.fin };
            return Ok(self.part(payload, buffer));
        }
        if !header.fin || header.length > CONTROL_LIMIT {
            return Err(BadFrame("a control frame that is split or too long"));
        }
        if buffer.len() < header.size + header.length as usize {
            return Ok(None);
        }
        buffer.advance(header.size);
        let mut content = buffer.split_to(header.length as usize);
        unmask(&mut content, header.mask);
        match header.opcode {
            CLOSE => Ok(Some(Frame::Close)),
            PING => Ok(Some(Frame::Ping(content.freeze()))),
            PONG => Ok(Some(Frame::Pong)),
            _ => Err(BadFrame("a frame with an unknown opcode")),
        }
    }

    fn part(&mut self, payload: Payload, buffer: &mut BytesMut) -> Option<Frame> {
        if buffer.is_empty() && payload.left > 0 {
            self.payload = Some(payload);
            return None;
        }
        let length = usize::try_from(payload.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let mut data = buffer.split_to(length);
        unmask(&mut data, payload.mask);
        let left = payload.left - length as u64;
        if left > 0 {
            let mask = payload.mask.rotate_left(8 * (length % 4) as u32);
            self.payload = Some(Payload { left, mask, first: false, fin: payload.fin });
        }
        Some(Frame::Part { data: data.freeze(), first: payload.first, last: payload.fin && left == 0 })
    }
}

fn read_header(buffer: &BytesMut) -> Result<Option<Header>, BadFrame> {
    let Some([first, second]) = buffer.first_chunk::<2>() else { return Ok(None) };
    let (fin, opcode, short) = (first & 0x80 != 0, first & 0xf, u64::from(second & 0x7f));
    if first & 0x70 != 0 {
        return Err(BadFrame("a frame with reserved bits"));
    }
    if second & 0x80 == 0 {
        return Err(BadFrame("a frame that is not masked"));
    }
    if !matches!(opcode, 0..=BINARY | CLOSE..=PONG) {
        return Err(BadFrame("a frame with an unknown opcode"));
    }
    let mut rest = &buffer[2..];
    let length = match short {
        126 => rest.try_get_u16().map(u64::from),
        127 => rest.try_get_u64(),
        _ => Ok(short),
    };
    let (Ok(length), Ok(mask)) = (length, rest.try_get_u32()) else { return Ok(None) };
    if length >> 63 != 0 {
        return Err(BadFrame("a frame of an impossible length"));
    }
    Ok(Some(Header { opcode, fin, length, mask, size: buffer.len() - rest.len() }))
}

fn unmask(data: &mut [u8], mask: u32) {
    let mask = mask.to_be_bytes();
    for (byte, mask) in data.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Writes the header of a frame with a whole message of `length` bytes.
pub(crate) fn write_header(opcode: u8, length: usize, to: &mut Vec<u8>) {
    to.push(0x80 | opcode);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..=125), _) => to.push(short),
        (_, Ok(length)) => {
            to.push(126);
            to.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            to.push(127);
            to.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's frame.
    fn frame(first: u8, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_header(0, data.len(), &mut bytes);
        bytes[0] = first;
        bytes[1] |= 0x80;
        let mask = [0x12, 0x34, 0x56, 0x78];
        bytes.extend_from_slice(&mask);
        bytes.extend(data.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    fn decode_all(bytes: &[u8], step: usize) -> Result<Vec<Frame>, BadFrame> {
        let (mut decoder, mut buffer, mut frames) = (Decoder::default(), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = decoder.decode(&mut buffer)? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn messages_are_found_however_their_bytes_arrive() {
        for size in [0, 1, 125, 126, 65535, 65536] {
            let message: Vec<u8> = (0..size).map(|i: u32| i as u8).collect();
            let (head, tail) = message.split_at(message.len() / 3);
            // In two frames, with a ping between them, and then a close.
            let mut bytes = frame(BINARY, head);
            bytes.extend(frame(0x80 | PING, b"alive?"));
            bytes.extend(frame(0x80, tail));
            bytes.extend(frame(0x80 | CLOSE, &[3, 0xe8]));
            for step in [1, 3, 4096, bytes.len()] {
                let (mut received, mut firsts, mut lasts, mut others) = (Vec::new(), 0, 0, Vec::new());
                for frame in decode_all(&bytes, step).unwrap() {
                    match frame {
                        Frame::Part { data, first, last } => {
                            assert!(!first || received.is_empty());
                            received.extend_from_slice(&data);
                            (firsts, lasts) = (firsts + usize::from(first), lasts + usize::from(last));
                        }
                        other => others.push(other),
                    }
                }
                assert!(received == message, "{size} bytes in steps of {step}");
                assert_eq!((firsts, lasts), (1, 1));
                assert_eq!(others, [Frame::Ping(Bytes::from_static(b"alive?")), Frame::Close]);
            }
        }
    }

    #[test]
    fn what_breaks_the_protocol_is_refused() {
        let refused = |bytes: &[u8]| decode_all(bytes, 64).unwrap_err().0;
        assert_eq!(refused(&[0x82, 0x01, b'x']), "a frame that is not masked");
        assert_eq!(refused(&frame(0xc2, b"x")), "a frame with reserved bits");
        assert_eq!(refused(&frame(0x83, b"x")), "a frame with an unknown opcode");
        assert_eq!(refused(&frame(0x8b, b"x")), "a frame with an unknown opcode");
        assert_eq!(refused(&frame(PING, b"x")), "a control frame that is split or too long");
        assert_eq!(refused(&frame(0x80 | PING, &[0; 126])), "a control frame that is split or too long");
        let within = "a message that begins within another, or goes on without a beginning";
        assert_eq!(refused(&frame(0x80, b"x")), within);
        assert_eq!(refused(&[frame(BINARY, b"x"), frame(BINARY, b"y")].concat()), within);
        assert_eq!(
            refused(&[0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]),
            "a frame of an impossible length"
        );
    }
}
