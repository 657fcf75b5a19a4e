//! Requests as they are on the wire, with the `:authority` of each family of clients: gRPC's C-core sends the path of the socket
//! percent-encoded, grpc-java and others send it bare, Go and Rust send `localhost`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::client::{Server, run};
use crate::node::Node;

const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;
const DATA: u8 = 0;

/// A frame of RFC 9113, section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

/// A string of RFC 7541, section 5.2, without Huffman's code.
fn string(text: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    match text.len() {
        length @ ..127 => all.push(length as u8),
        length => {
            let mut rest = length - 127;
            all.push(127);
            while rest >= 128 {
                all.push((rest % 128 + 128) as u8);
                rest /= 128;
            }
            all.push(rest as u8);
        }
    }
    [all, text.to_vec()].concat()
}

/// How a client writes the field `:authority`; RFC 7541, section 6.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// A literal whose name is in the static table, to be kept for later requests: C-core.
    Kept,
    /// A literal with its name.
    Named,
    /// A literal that must never be kept.
    Secret,
}

fn authority(form: Form, value: &[u8]) -> Vec<u8> {
    let name = match form {
        Form::Kept => vec![0x41],
        Form::Named => [vec![0x00], string(b":authority")].concat(),
        Form::Secret => vec![0x11],
    };
    [name, string(value)].concat()
}

/// Version, with this field for the authority.
fn request(stream: u32, authority: &[u8]) -> Vec<u8> {
    let field = |name: &[u8], value: &[u8]| [vec![0], string(name), string(value)].concat();
    let headers = [
        // `:method: POST` and `:scheme: http` of the static table.
        vec![0x83, 0x86],
        field(b":path", b"/runtime.v1.RuntimeService/Version"),
        authority.to_vec(),
        field(b"content-type", b"application/grpc"),
        field(b"te", b"trailers"),
    ];
    [frame(HEADERS, 4, stream, &headers.concat()), frame(DATA, 1, stream, &[0; 5])].concat()
}

/// What comes first for a stream: a message, or the error code of a reset.
fn answer(connection: &mut UnixStream, wanted: u32) -> Result<(), String> {
    loop {
        let mut head = [0; 9];
        connection.read_exact(&mut head).map_err(|error| error.to_string())?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        connection.read_exact(&mut payload).map_err(|error| error.to_string())?;
        match kind {
            SETTINGS if flags & 1 == 0 => connection.write_all(&frame(SETTINGS, 1, 0, &[])).unwrap(),
            GO_AWAY => return Err("the connection is closed".to_owned()),
            RESET if u32::from_be_bytes(stream) == wanted => return Err(format!("reset: {payload:?}")),
            DATA if u32::from_be_bytes(stream) == wanted && payload.len() > 5 => return Ok(()),
            _ => {}
        }
    }
}

fn connect(server: &Server) -> UnixStream {
    let mut connection = UnixStream::connect(&server.path).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    connection.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
    connection
}

/// Runs blocking work beside the server, which has this thread's runtime.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[test]
fn every_authority_is_accepted_in_every_form() {
    run(async {
        let server = Server::start(Node::default());
        let bare = server.path.to_str().unwrap().to_owned();
        let encoded = bare.trim_start_matches('/').replace('/', "%2F");
        let long = format!("/{}", "long/".repeat(400));
        let server = std::sync::Arc::new(server);
        let values = [
            "localhost",
            "",
            &bare,
            &encoded,
            &encoded.to_lowercase(),
            "%2Frun%2Fcoracle%2Fcoracle.sock",
            "unix:///run/coracle.sock",
            "unix:/run/x",
            "@abstract",
            "%00abstract",
            "a b",
            "[",
            "localhost:99999",
            "user:secret@host",
            "ünïx",
            "/run/with space/s",
            &long,
        ];
        for value in values.map(|value| value.as_bytes().to_vec()) {
            for form in [Form::Kept, Form::Named, Form::Secret] {
                let (server, shown) =
                    (std::sync::Arc::clone(&server), String::from_utf8_lossy(&value).into_owned());
                let value = value.clone();
                let answered = beside(move || {
                    let mut connection = connect(&server);
                    connection.write_all(&request(1, &authority(form, &value))).unwrap();
                    answer(&mut connection, 1)
                });
                assert_eq!(answered.await, Ok(()), "{form:?} {shown:?}");
            }
        }
    });
}

#[test]
fn an_authority_that_is_kept_is_accepted_again() {
    run(async {
        let server = Server::start(Node::default());
        let kept = authority(Form::Kept, server.path.to_str().unwrap().as_bytes());
        let answered = beside(move || {
            let mut connection = connect(&server);
            connection.write_all(&request(1, &kept)).unwrap();
            let first = answer(&mut connection, 1);
            // The first entry of the dynamic table.
            connection.write_all(&request(3, &[0xbe])).unwrap();
            (first, answer(&mut connection, 3))
        });
        assert_eq!(answered.await, (Ok(()), Ok(())));
    });
}

#[test]
fn a_request_without_an_authority_is_accepted_and_one_with_two_is_not() {
    run(async {
        let server = Server::start(Node::default());
        let answered = beside(move || {
            let mut connection = connect(&server);
            connection.write_all(&request(1, &[])).unwrap();
            let none = answer(&mut connection, 1);
            let two = [authority(Form::Named, b"/a"), authority(Form::Named, b"/b")].concat();
            connection.write_all(&request(3, &two)).unwrap();
            (none, answer(&mut connection, 3).is_err())
        });
        assert_eq!(answered.await, (Ok(()), true));
    });
}
