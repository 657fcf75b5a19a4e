//! A client of the streaming server, as kubelet and crictl are: SPDY/3.1, WebSocket, and SPDY in WebSocket messages.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};

/// Longer than any answer takes; a test that hangs fails by it.
const LIMIT: Duration = Duration::from_secs(60);

/// The answer to a request, and the connection it came over.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) socket: TcpStream,
    /// What came behind the head.
    pub(crate) rest: Vec<u8>,
}

/// Connects to the server of a URL.
pub(crate) fn connect(url: &str) -> TcpStream {
    let address = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.set_write_timeout(Some(LIMIT)).unwrap();
    socket
}

/// Makes a request with these headers.
pub(crate) fn request(url: &str, method: &str, headers: &[(&str, &str)]) -> Answer {
    let path = &url[url.find("//").unwrap() + 2..];
    let path = &path[path.find('/').unwrap()..];
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    exchange(connect(url), format!("{method} {path} HTTP/1.1\r\nHost: node\r\n{headers}\r\n").as_bytes())
}

/// Sends a request, and reads the head of the answer.
pub(crate) fn exchange(mut socket: TcpStream, request: &[u8]) -> Answer {
    socket.write_all(request).unwrap();
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            break end;
        }
        let mut buffer = [0; 1024];
        let length = socket.read(&mut buffer).unwrap();
        assert!(length > 0, "the answer ends early: {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&buffer[..length]);
    };
    let rest = bytes.split_off(end + 4);
    let head = String::from_utf8(bytes).unwrap().to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, socket, rest }
}

/// The bytes of a connection after its upgrade.
struct Bytes {
    socket: TcpStream,
    rest: VecDeque<u8>,
    tunnel: bool,
}

impl Bytes {
    fn new(answer: Answer, tunnel: bool) -> Self {
        Self { socket: answer.socket, rest: answer.rest.into(), tunnel }
    }

    fn write(&mut self, bytes: &[u8]) {
        let framed = if self.tunnel { masked(2, bytes) } else { bytes.to_vec() };
        self.socket.write_all(&framed).unwrap();
    }

    /// Exactly so many bytes; `None` at the end of the connection.
    fn read(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.rest.len() < length {
            if self.tunnel {
                let (opcode, message) = read_message(&mut self.socket)?;
                if opcode == 8 {
                    return None;
                }
                self.rest.extend(message);
                continue;
            }
            let mut buffer = vec![0; 64 << 10];
            match self.socket.read(&mut buffer) {
                Ok(0) => return None,
                Ok(length) => self.rest.extend(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
        Some(self.rest.drain(..length).collect())
    }
}

/// What the server sends on a SPDY connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Reply(u32),
    Data(u32, Vec<u8>),
    /// The server's direction of a stream has ended.
    End(u32),
    Reset(u32),
    Ping(u32),
    GoAway,
}

/// A SPDY connection.
pub(crate) struct Spdy {
    bytes: Bytes,
    compress: Compress,
    next: u32,
    /// What `next` returns before it reads.
    ahead: VecDeque<Event>,
}

impl Spdy {
    /// Opens a session of a URL by this protocol.
    pub(crate) fn connect(url: &str, protocol: &str) -> Self {
        let headers =
            [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", protocol)];
        let answer = request(url, "POST", &headers);
        assert_eq!(answer.status, 101, "{}", answer.head);
        assert!(answer.head.contains(&format!("x-stream-protocol-version: {protocol}")), "{}", answer.head);
        Self::over(Bytes::new(answer, false))
    }

    /// Opens a port-forward in WebSocket messages.
    pub(crate) fn tunnel(url: &str) -> Self {
        Self::over(Bytes::new(upgrade(url, "SPDY/3.1+portforward.k8s.io"), true))
    }

    fn over(bytes: Bytes) -> Self {
        Self { bytes, compress: Compress::new(Compression::best(), true), next: 1, ahead: VecDeque::new() }
    }

    /// The connection, to do with it what no client does.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.bytes.socket
    }

    /// Opens a stream; does not wait for the reply.
    pub(crate) fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let mut block = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&(text.len() as u32).to_be_bytes());
            block.extend_from_slice(text.as_bytes());
        }
        let mut compressed = Vec::with_capacity(block.len() + 1024);
        self.compress.compress_vec(&block, &mut compressed, FlushCompress::Sync).unwrap();
        let stream = self.next;
        self.next += 2;
        let content = [&stream.to_be_bytes(), &[0; 6][..], &compressed].concat();
        self.control(1, &content);
        stream
    }

    fn control(&mut self, kind: u8, content: &[u8]) {
        let length = (content.len() as u32).to_be_bytes();
        self.raw(&[&[0x80, 3, 0, kind, 0], &length[1..], content].concat());
    }

    /// Sends bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.write(bytes);
    }

    /// Sends data on a stream.
    pub(crate) fn send(&mut self, stream: u32, data: &[u8]) {
        let length = (data.len() as u32).to_be_bytes();
        self.raw(&[&stream.to_be_bytes()[..], &[0], &length[1..], data].concat());
    }

    /// Ends the client's direction of a stream.
    pub(crate) fn end(&mut self, stream: u32) {
        self.raw(&[&stream.to_be_bytes(), &[1, 0, 0, 0][..]].concat());
    }

    /// Ends a stream in both directions.
    pub(crate) fn reset(&mut self, stream: u32) {
        self.control(3, &[stream.to_be_bytes(), 5_u32.to_be_bytes()].concat());
    }

    /// Sends a ping.
    pub(crate) fn ping(&mut self, id: u32) {
        self.control(6, &id.to_be_bytes());
    }

    /// What the server sends next; `None` at the end of the connection.
    pub(crate) fn next(&mut self) -> Option<Event> {
        while self.ahead.is_empty() {
            let header = self.bytes.read(8)?;
            let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
            let content = self.bytes.read(length)?;
            let number = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().unwrap()) & 0x7fff_ffff;
            let event = match (header[0] & 0x80, header[3]) {
                (0, _) => {
                    let stream = number(&header);
                    self.ahead.extend((!content.is_empty()).then_some(Event::Data(stream, content)));
                    self.ahead.extend((header[4] & 1 == 1).then_some(Event::End(stream)));
                    continue;
                }
                (_, 2) => Event::Reply(number(&content)),
                (_, 3) => Event::Reset(number(&content)),
                (_, 6) => Event::Ping(number(&content)),
                (_, 7) => Event::GoAway,
                (_, kind) => panic!("a frame of type {kind}"),
            };
            assert_eq!(header[..2], [0x80, 3], "not SPDY/3");
            self.ahead.push_back(event);
        }
        self.ahead.pop_front()
    }
}

/// What came out of a session.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// The text on the error stream.
    pub(crate) status: String,
}

impl Outcome {
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The exit code in the status.
    pub(crate) fn code(&self) -> i32 {
        if self.status.contains(r#""status":"Success""#) {
            return 0;
        }
        assert!(self.status.contains("NonZeroExitCode"), "{}", self.status);
        let (_, rest) = self.status.split_once("exit status ").unwrap();
        rest.split('"').next().unwrap().parse().unwrap()
    }
}

/// A session with a command or a container over SPDY.
pub(crate) struct Session {
    pub(crate) spdy: Spdy,
    /// The streams by their names.
    streams: BTreeMap<String, u32>,
    seen: Outcome,
    ended: Vec<u32>,
}

impl Session {
    /// Opens a stream for errors and those that are named, such as `stdin stdout resize`.
    pub(crate) fn start(url: &str, protocol: &str, streams: &str) -> Self {
        let mut spdy = Spdy::connect(url, protocol);
        let names = std::iter::once("error").chain(streams.split(' '));
        let streams = names.map(|name| (name.to_owned(), spdy.open(&[("streamtype", name)]))).collect();
        Self { spdy, streams, seen: Outcome::default(), ended: Vec::new() }
    }

    /// The number of a stream.
    pub(crate) fn stream(&self, name: &str) -> u32 {
        self.streams[name]
    }

    /// Sends data on the stream of this name.
    pub(crate) fn send(&mut self, name: &str, data: &[u8]) {
        self.spdy.send(self.stream(name), data);
    }

    pub(crate) fn end_input(&mut self) {
        self.spdy.end(self.stream("stdin"));
    }

    /// Takes what the server sends next; false at the end of the connection or of the session.
    fn step(&mut self) -> bool {
        let name =
            |stream| self.streams.iter().find(|(_, known)| **known == stream).map(|(name, _)| name.as_str());
        match self.spdy.next() {
            Some(Event::Data(stream, data)) => match name(stream) {
                Some("stdout") => self.seen.stdout.extend(data),
                Some("stderr") => self.seen.stderr.extend(data),
                Some("error") => self.seen.status.push_str(&String::from_utf8(data).unwrap()),
                other => panic!("data on {other:?}"),
            },
            Some(Event::End(stream)) => self.ended.push(stream),
            Some(Event::Reply(_) | Event::Ping(_)) => {}
            Some(Event::GoAway) | None => return false,
            Some(other) => panic!("{other:?}"),
        }
        true
    }

    /// Waits until standard output contains a text, and takes what came until then.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        while !self.seen.stdout().contains(text) {
            assert!(self.step(), "the session ended before {text:?}: {:?}", self.seen);
        }
        String::from_utf8_lossy(&std::mem::take(&mut self.seen.stdout)).into_owned()
    }

    /// Waits for the end of the session: every stream of output ends before the connection does.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Outcome {
        while self.step() {}
        for (name, stream) in self.streams.iter().filter(|(name, _)| *name != "stdin" && *name != "resize") {
            assert!(self.ended.contains(stream), "{name} was not ended: {:?}", self.seen);
        }
        self.seen
    }

    /// Leaves without a word.
    pub(crate) fn vanish(self) {
        self.spdy.socket().shutdown(Shutdown::Both).unwrap();
    }
}

/// A session over WebSocket.
pub(crate) struct WebSocket {
    pub(crate) socket: TcpStream,
    /// What came behind the head of the answer.
    rest: VecDeque<u8>,
    base64: bool,
}

/// Upgrades a connection to WebSocket with this subprotocol.
fn upgrade(url: &str, protocol: &str) -> Answer {
    let headers = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Protocol", protocol),
    ];
    let answer = request(url, "GET", &headers);
    assert_eq!(answer.status, 101, "{}", answer.head);
    assert!(answer.head.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{}", answer.head);
    assert!(answer.head.contains(&protocol.to_lowercase()), "{}", answer.head);
    answer
}

impl WebSocket {
    pub(crate) fn connect(url: &str, protocol: &str) -> Self {
        let Answer { socket, rest, .. } = upgrade(url, protocol);
        Self { socket, rest: rest.into(), base64: protocol.contains("base64") }
    }

    /// Sends a message on a channel.
    pub(crate) fn send(&mut self, channel: u8, data: &[u8]) {
        use base64::Engine;
        let message = match self.base64 {
            true => format!("{channel}{}", base64::prelude::BASE64_STANDARD.encode(data)).into_bytes(),
            false => [&[channel], data].concat(),
        };
        self.socket.write_all(&masked(if self.base64 { 1 } else { 2 }, &message)).unwrap();
    }

    /// The next message: its channel and its data. `None` at the end, with the status of the close.
    pub(crate) fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        use base64::Engine;
        match read_message(&mut (&mut self.rest).chain(&self.socket))? {
            (8, status) => {
                assert_eq!(status, 1000_u16.to_be_bytes());
                None
            }
            (10, data) => Some((255, data)),
            (opcode, message) => {
                assert_eq!(opcode, if self.base64 { 1 } else { 2 });
                let (channel, data) = message.split_first().unwrap();
                match self.base64 {
                    true => Some((channel - b'0', base64::prelude::BASE64_STANDARD.decode(data).unwrap())),
                    false => Some((*channel, data.to_vec())),
                }
            }
        }
    }

    /// Waits for the end of the session.
    pub(crate) fn finish(mut self) -> Outcome {
        let mut seen = Outcome::default();
        while let Some((channel, data)) = self.next() {
            match channel {
                1 => seen.stdout.extend(data),
                2 => seen.stderr.extend(data),
                3 => seen.status.push_str(&String::from_utf8(data).unwrap()),
                other => panic!("channel {other}"),
            }
        }
        seen
    }
}

/// A client's frame with a whole message.
pub(crate) fn masked(opcode: u8, message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match message.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        long @ 126..65536 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(long as u16).to_be_bytes());
        }
        longer => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(longer as u64).to_be_bytes());
        }
    }
    let mask = [0xa1, 0xb2, 0xc3, 0xd4];
    frame.extend_from_slice(&mask);
    frame.extend(message.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A server's frame: its opcode and content. `None` at the end of the connection.
fn read_message(socket: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut exactly = |length: usize| {
        let mut bytes = vec![0; length];
        socket.read_exact(&mut bytes).ok().map(|()| bytes)
    };
    let head = exactly(2)?;
    assert!(head[0] & 0x80 != 0 && head[1] & 0x80 == 0, "{head:?}");
    let length = match head[1] {
        126 => u16::from_be_bytes(exactly(2)?.try_into().unwrap()).into(),
        127 => u64::from_be_bytes(exactly(8)?.try_into().unwrap()) as usize,
        short => short.into(),
    };
    Some((head[0] & 0xf, exactly(length)?))
}
