//! Any bytes as a streaming connection of SPDY or WebSocket: however they are cut, the same frames come out, none is larger than
//! what was received, and headers are bounded. The first byte chooses the protocol, the second how the rest is cut.
#![no_main]

use coracle_cri::streaming::bytes::BytesMut;
use coracle_cri::streaming::spdy::frame::{Decoder, Frame};
use coracle_cri::streaming::spdy::headers::HeaderReader;
use coracle_cri::streaming::websocket::frame as websocket;
use libfuzzer_sys::fuzz_target;

/// What came of a connection: the data by stream, the other frames in order, and whether it was refused.
#[derive(Debug, PartialEq, Eq, Default)]
struct Seen {
    data: Vec<(u32, Vec<u8>, bool)>,
    others: Vec<String>,
    refused: bool,
}

impl Seen {
    fn add(&mut self, stream: u32, data: &[u8], ends: bool, continues: bool) {
        match self.data.last_mut().filter(|last| continues && last.0 == stream && !last.2) {
            Some(last) => {
                last.1.extend_from_slice(data);
                last.2 = ends;
            }
            None => self.data.push((stream, data.to_vec(), ends)),
        }
    }
}

fn spdy(bytes: &[u8], step: usize) -> Seen {
    let (mut decoder, mut headers) = (Decoder::default(), HeaderReader::default());
    let (mut buffer, mut seen) = (BytesMut::new(), Seen::default());
    for piece in bytes.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(Frame::Data { stream, data, fin })) => seen.add(stream, &data, fin, true),
                Ok(Some(Frame::SynStream { stream, headers: compressed, fin })) => match headers.read(&compressed) {
                    Ok(read) => {
                        let size: usize = read.iter().map(|(name, value)| name.len() + value.len()).sum();
                        assert!(read.len() <= 64 && size <= 32 << 10, "{} headers of {size} bytes", read.len());
                        seen.others.push(format!("{stream} {read:?} {fin}"));
                    }
                    Err(_) => {
                        seen.refused = true;
                        return seen;
                    }
                },
                Ok(Some(other)) => seen.others.push(format!("{other:?}")),
                Ok(None) => break,
                Err(_) => {
                    seen.refused = true;
                    return seen;
                }
            }
        }
    }
    seen
}

fn web_socket(bytes: &[u8], step: usize) -> Seen {
    let mut decoder = websocket::Decoder::default();
    let (mut buffer, mut seen) = (BytesMut::new(), Seen::default());
    for piece in bytes.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(websocket::Frame::Part { data, first, last })) => seen.add(0, &data, last, !first),
                Ok(Some(other)) => seen.others.push(format!("{other:?}")),
                Ok(None) => break,
                Err(_) => {
                    seen.refused = true;
                    return seen;
                }
            }
        }
    }
    seen
}

fuzz_target!(|bytes: &[u8]| {
    let [protocol, step, rest @ ..] = bytes else { return };
    let read = if protocol % 2 == 0 { spdy } else { web_socket };
    let (whole, cut) = (read(rest, rest.len().max(1)), read(rest, usize::from(*step).max(1)));
    let length = |seen: &Seen| seen.data.iter().map(|(_, data, _)| data.len()).sum::<usize>();
    assert!(length(&whole) <= rest.len());
    // A refusal may come before or after the first part of the same frame.
    if !whole.refused && !cut.refused {
        assert_eq!(whole.others, cut.others);
        assert_eq!(length(&whole), length(&cut));
    }
    assert_eq!(whole.refused, cut.refused);
});
