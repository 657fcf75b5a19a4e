//! Sessions: the protocols, with commands of this machine in place of containers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use coracle_cri::v1;
use tonic::Code;

use crate::client::{Server, run, until};
use crate::node::Node;
use crate::stream_client::*;

const V4: &str = "v4.channel.k8s.io";

/// The URL of a command.
async fn exec(server: &Server, script: &str, stdin: bool) -> String {
    let cmd = ["sh", "-c", script].map(str::to_owned).into();
    let request =
        v1::ExecRequest { container_id: "c".into(), cmd, stdin, stdout: true, stderr: true, tty: false };
    server.runtime().await.exec(request).await.unwrap().into_inner().url
}

async fn port_forward(server: &Server) -> String {
    let request = v1::PortForwardRequest { pod_sandbox_id: "p".into(), port: vec![] };
    server.runtime().await.port_forward(request).await.unwrap().into_inner().url
}

/// Runs a client, which blocks, beside the server.
async fn client<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// What `crictl exec -i CONTAINER cat` of cri-tools 1.36 sends over SPDY, its standard input being `in put`.
const RECORDED: &[(&[u8], &str)] = &[
    (b"\x80\x03\x00\x01\x00\x00\x00\x2a\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00", "SYN_STREAM 1, 42 bytes"),
    (b"\x78\xf9\xe3\xc6\xa7\xc2", "zlib with the dictionary of SPDY/3"),
    (
        b"\x62\x60\x60\x60\x04\xa7\xb3\x92\xa2\xd4\xc4\x5c\x68\x51\xc2\x9a\x5a\x54\x94\x5f\x04\x00\x00\x00\xff\xff",
        "streamtype: error",
    ),
    (b"\x80\x03\x00\x01\x00\x00\x00\x17\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00", "SYN_STREAM 3, 23 bytes"),
    (b"\xc2\x2e\x55\x5c\x92\x92\x99\x07\x00\x00\x00\xff\xff", "streamtype: stdin"),
    (b"\x80\x03\x00\x01\x00\x00\x00\x19\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00", "SYN_STREAM 5, 25 bytes"),
    (b"\xc2\x2a\xc5\x56\x5c\x92\x92\x5f\x5a\x02\x00\x00\x00\xff\xff", "streamtype: stdout"),
    (b"\x80\x03\x00\x01\x00\x00\x00\x15\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00", "SYN_STREAM 7, 21 bytes"),
    (b"\xc2\x29\x97\x5a\x54\x04\x00\x00\x00\xff\xff", "streamtype: stderr"),
    (b"\x00\x00\x00\x03\x00\x00\x00\x07in put\n", "data on stream 3"),
    (b"\x00\x00\x00\x03\x01\x00\x00\x00", "the end of stream 3"),
];

#[test]
fn a_recorded_client_of_spdy_is_served() {
    run(async {
        let server = Server::with_streaming(Node::default());
        let url = exec(&server, "cat; exit 3", true).await;
        let received = client(move || {
            let path = url.rsplit_once(":").unwrap().1.split_once('/').unwrap().1.to_owned();
            // The connection of cri-tools, with its first frames right behind the head.
            let mut request = format!(
                "POST /{path} HTTP/1.1\r\nHost: 127.0.0.1:40171\r\nUser-Agent: Go-http-client/1.1\r\n\
                 Content-Length: 0\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
                 X-Stream-Protocol-Version: v5.channel.k8s.io\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\
                 X-Stream-Protocol-Version: v3.channel.k8s.io\r\nX-Stream-Protocol-Version: v2.channel.k8s.io\r\n\
                 X-Stream-Protocol-Version: channel.k8s.io\r\n\r\n"
            )
            .into_bytes();
            RECORDED.iter().for_each(|(bytes, _)| request.extend_from_slice(bytes));
            let mut answer = exchange(connect(&url), &request);
            assert!(answer.head.contains("x-stream-protocol-version: v4.channel.k8s.io"), "{}", answer.head);
            // The end of the client's direction is its leaving: it reads all until the announced end first.
            let mut bytes = answer.rest;
            while !bytes.ends_with(b"\x80\x03\x00\x07\x00\x00\x00\x08\0\0\0\x07\0\0\0\0") {
                let mut buffer = [0; 4096];
                let length = answer.socket.read(&mut buffer).unwrap();
                assert!(length > 0, "no GOAWAY: {:?}", String::from_utf8_lossy(&bytes));
                bytes.extend_from_slice(&buffer[..length]);
            }
            bytes
        })
        .await;
        let find = |part: &[u8]| received.windows(part.len()).position(|window| window == part);
        // Replies to all streams, the output, the end of stdout and stderr, then the status.
        assert_eq!(find(b"\x80\x03\x00\x02\x00\x00\x00\x14\0\0\0\x01\x78\x01"), Some(0));
        let data = find(b"\0\0\0\x05\0\0\0\x07in put\n").unwrap();
        let ends = [find(b"\0\0\0\x05\x01\0\0\0").unwrap(), find(b"\0\0\0\x07\x01\0\0\0").unwrap()];
        let status = find(br#""reason":"NonZeroExitCode""#).unwrap();
        assert!(data < ends[0] && ends[0] < ends[1] && ends[1] < status);
        assert!(find(b"\0\0\0\x01\x01\0\0\0").unwrap() > status, "the status is the last of its stream");
    });
}

/// What `crictl exec -i -r websocket CONTAINER cat` sends after the upgrade.
#[test]
fn a_recorded_client_of_websocket_is_served() {
    run(async {
        let server = Server::with_streaming(Node::default());
        let url = exec(&server, "cat", true).await;
        let outcome = client(move || {
            let mut socket = WebSocket::connect(&url, "v5.channel.k8s.io");
            // A masked binary message on channel 0, and the end of channel 0.
            socket.socket.write_all(b"\x82\x88\xe6\x5b\x9f\x8b\xe6\x32\xf1\xab\x96\x2e\xeb\x81").unwrap();
            socket.socket.write_all(b"\x82\x82\x88\xbd\x26\x43\x77\xbd").unwrap();
            socket.finish()
        })
        .await;
        assert_eq!((outcome.stdout(), outcome.code()), ("in put\n".to_owned(), 0));
    });
}

#[test]
fn every_protocol_tells_output_and_the_exit_code() {
    run(async {
        let server = Server::with_streaming(Node::default());
        let script = "echo out; echo err >&2; cat; exit 7";
        for protocol in [V4, "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"] {
            let url = exec(&server, script, true).await;
            let outcome = client(move || {
                let mut session = Session::start(&url, protocol, "stdin stdout stderr");
                session.send("stdin", b"typed");
                session.end_input();
                session.finish()
            })
            .await;
            assert_eq!((outcome.stdout(), outcome.stderr()), ("out\ntyped".to_owned(), "err\n".to_owned()));
            match protocol {
                V4 => assert_eq!(outcome.code(), 7),
                _ => assert_eq!(outcome.status, "command terminated with non-zero exit code: exit status 7"),
            }
        }
        for (protocol, is_json) in [
            ("v5.channel.k8s.io", true),
            (V4, true),
            ("v4.base64.channel.k8s.io", true),
            ("channel.k8s.io", false),
            ("base64.channel.k8s.io", false),
        ] {
            // Only version 5 can end the input.
            let reads = if protocol.starts_with("v5") { "cat" } else { "head -c 5" };
            let url = exec(&server, &script.replace("cat", reads), true).await;
            let outcome = client(move || {
                let mut socket = WebSocket::connect(&url, protocol);
                socket.send(0, b"typed");
                if protocol.starts_with("v5") {
                    socket.send(255, &[0]);
                }
                socket.finish()
            })
            .await;
            assert_eq!((outcome.stdout(), outcome.stderr()), ("out\ntyped".to_owned(), "err\n".to_owned()));
            match is_json {
                true => assert_eq!(outcome.code(), 7),
                false => assert!(outcome.status.ends_with("exit status 7"), "{}", outcome.status),
            }
        }
    });
}

#[test]
fn a_command_that_cannot_be_run_says_why() {
    run(async {
        let server = Server::with_streaming(Node::default());
        server.node.state().exec_fails = true;
        let url = exec(&server, "true", false).await;
        let outcome = client(move || Session::start(&url, V4, "stdout stderr").finish()).await;
        assert!(
            outcome.status.contains("error executing command in container: it fails"),
            "{}",
            outcome.status
        );
        assert!(outcome.status.contains(r#""reason":"InternalError""#), "{}", outcome.status);
    });
}

#[test]
fn a_url_works_once_and_only_for_what_it_was_made() {
    run(async {
        let server = Server::with_streaming(Node::default());
        let url = exec(&server, "true", false).await;
        assert!(url.starts_with("http://127.0.0.1:"), "{url}");
        client(move || {
            let spdy =
                [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", V4)];
            let status = |url: &str, headers: &[(&str, &str)]| request(url, "GET", headers).status;
            assert_eq!(status(&url.replace("/exec/", "/attach/"), &spdy), 404);
            assert_eq!(status(&format!("{url}0"), &spdy), 404);
            assert_eq!(status(&url.replace("/exec/", "/"), &spdy), 404);
            assert_eq!(request(&url, "DELETE", &spdy).status, 405);
            // What is no upgrade does not use the URL up.
            assert_eq!(status(&url, &[]), 400);
            assert_eq!(status(&url, &spdy[..2]), 400);
            let unknown = [spdy[0], spdy[1], ("X-Stream-Protocol-Version", "v9.channel.k8s.io")];
            let refused = request(&url, "POST", &unknown);
            assert_eq!(refused.status, 403);
            assert!(refused.head.contains("x-accepted-stream-protocol-versions: v4.channel.k8s.io"));
            // Of many at the same moment, one gets it.
            let answers: Vec<_> = (0..8)
                .map(|_| {
                    let url = url.clone();
                    std::thread::spawn(move || request(&url, "GET", &spdy).status)
                })
                .collect();
            let mut answers: Vec<_> = answers.into_iter().map(|answer| answer.join().unwrap()).collect();
            answers.sort_unstable();
            assert_eq!(answers, [&[101][..], &[404; 7]].concat());
        })
        .await;
    });
}

#[test]
fn bad_requests_get_no_url() {
    run(async {
        let server = Server::with_streaming(Node::default());
        let mut runtime = server.runtime().await;
        let good = v1::ExecRequest {
            container_id: "c".into(),
            cmd: vec!["true".into()],
            stdout: true,
            ..Default::default()
        };
        for bad in [
            v1::ExecRequest { cmd: vec![], ..good.clone() },
            v1::ExecRequest { stdout: false, ..good.clone() },
            v1::ExecRequest { tty: true, stderr: true, ..good.clone() },
            v1::ExecRequest { container_id: String::new(), ..good.clone() },
        ] {
            assert_eq!(runtime.exec(bad).await.unwrap_err().code(), Code::InvalidArgument);
        }
        let unknown = v1::ExecRequest { container_id: "unknown".into(), ..good };
        assert_eq!(runtime.exec(unknown).await.unwrap_err().code(), Code::NotFound);
        let none = Server::start(Node::default());
        let request = v1::PortForwardRequest { pod_sandbox_id: "p".into(), port: vec![] };
        let refused = none.runtime().await.port_forward(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
    });
}

/// 16 MiB in each direction at once, with a client that is slow to read.
#[test]
fn all_output_arrives_before_the_end() {
    run(async {
        let server = Server::with_streaming(Node::default());
        const SIZE: usize = 16 << 20;
        let url = exec(&server, &format!("head -c {SIZE} | tee /dev/stderr; echo end"), true).await;
        let outcome = client(move || {
            let mut session = Session::start(&url, V4, "stdin stdout stderr");
            let mut sending = session.spdy.socket().try_clone().unwrap();
            let stdin = session.stream("stdin");
            let sender = std::thread::spawn(move || {
                let data: Vec<u8> = (0..SIZE).map(|i| (i / 251) as u8).collect();
                for piece in data.chunks(1 << 20) {
                    let length = (piece.len() as u32).to_be_bytes();
                    sending
                        .write_all(&[&stdin.to_be_bytes()[..], &[0], &length[1..], piece].concat())
                        .unwrap();
                }
            });
            std::thread::sleep(Duration::from_millis(500));
            let outcome = {
                session.wait_for("");
                session.finish()
            };
            sender.join().unwrap();
            outcome
        })
        .await;
        assert_eq!(outcome.stdout.len(), SIZE + 4);
        assert!(outcome.stdout[..SIZE] == outcome.stderr[..], "the two streams differ");
        assert!(outcome.stderr.iter().enumerate().all(|(i, byte)| *byte == (i / 251) as u8));
        assert_eq!(outcome.code(), 0);
    });
}

/// The command ends while what it wrote waits for a client that reads nothing yet: no frame is cut, and nothing is lost.
#[test]
fn a_command_that_ends_before_its_client_reads_is_told_whole() {
    run(async {
        let server = Server::with_streaming(Node::default());
        for size in [3600, 3800, 3940, 3950, 3960, 3970, 4100, 20000].map(|kib: usize| kib << 10) {
            // With a size that fits into the buffers on the way the command ends at once; with more it is killed.
            let script =
                format!("yes 0123456789abcde | head -c {size} & sleep 0.4; kill $! 2>/dev/null; exit 3");
            let url = exec(&server, &script, false).await;
            let outcome = client(move || {
                let session = Session::start(&url, V4, "stdout stderr");
                std::thread::sleep(Duration::from_millis(900));
                session.finish()
            })
            .await;
            let whole = b"0123456789abcde\n".iter().cycle();
            assert!(outcome.stdout.iter().eq(whole.take(outcome.stdout.len())), "{size}: the output is cut");
            assert_eq!(outcome.code(), 3, "{size}");
        }
    });
}

#[test]
fn a_child_that_keeps_the_pipes_does_not_hold_up_the_end() {
    run(async {
        let server = Server::with_streaming(Node::default());
        let url = exec(&server, "sleep 30 & echo started; exit 4", false).await;
        let started = std::time::Instant::now();
        let outcome = client(move || Session::start(&url, V4, "stdout stderr").finish()).await;
        assert_eq!((outcome.stdout(), outcome.code()), ("started\n".to_owned(), 4));
        assert!(started.elapsed() < Duration::from_secs(20), "it waited for the child");
    });
}

/// The command closes its output long before it ends, or its input while the client still sends.
#[test]
fn streams_that_a_command_closes_are_no_end() {
    run(async {
        let server = Server::with_streaming(Node::default());
        let url = exec(&server, "exec <&- >&-; sleep 0.3; echo still >&2; exit 5", true).await;
        let outcome = client(move || {
            let mut session = Session::start(&url, V4, "stdin stdout stderr");
            for _ in 0..64 {
                session.send("stdin", &[0; 64 << 10]);
            }
            session.finish()
        })
        .await;
        assert_eq!((outcome.stderr(), outcome.code()), ("still\n".to_owned(), 5));
    });
}

#[test]
fn when_the_client_vanishes_its_command_is_hung_up_on_and_reaped() {
    run(async {
        let server = Server::with_streaming(Node::default());
        for protocol in [V4, "websocket"] {
            let url = exec(&server, "echo started; exec sleep 1000", true).await;
            client(move || match protocol {
                V4 => {
                    let mut session = Session::start(&url, V4, "stdin stdout stderr");
                    session.wait_for("started");
                    session.vanish();
                }
                _ => {
                    let mut socket = WebSocket::connect(&url, "v5.channel.k8s.io");
                    while socket.next() != Some((1, b"started\n".to_vec())) {}
                }
            })
            .await;
        }
        until(|| server.node.state().reaped.len() == 2).await;
        // SIGHUP
        assert_eq!(server.node.state().reaped, [129, 129]);
    });
}

/// The client may leave at any moment while its command is being started.
#[test]
fn a_command_whose_client_leaves_at_once_is_hung_up_on() {
    run(async {
        let server = Server::with_streaming(Node::default());
        for delay in 0..40_u64 {
            let url = exec(&server, "exec sleep 1000", true).await;
            client(move || {
                let session = Session::start(&url, V4, "stdin stdout stderr");
                std::thread::sleep(Duration::from_micros(100 * delay));
                session.vanish();
            })
            .await;
        }
        until(|| {
            let state = server.node.state();
            state.reaped.len() == state.started
        })
        .await;
        assert!(server.node.state().started > 10, "hardly any was started");
    });
}

/// The server does not read from the client then, and must find out all the same.
#[test]
fn a_client_that_vanishes_while_its_input_waits_is_noticed() {
    run(async {
        let server = Server::with_streaming(Node::default());
        for ends in [true, false] {
            let url = exec(&server, "exec sleep 1000", true).await;
            client(move || {
                let session = Session::start(&url, V4, "stdin stdout stderr");
                session.spdy.socket().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
                let frame =
                    [&session.stream("stdin").to_be_bytes(), &[0, 0, 0x10, 0][..], &[0; 4096]].concat();
                let mut socket = session.spdy.socket();
                while socket.write_all(&frame).is_ok() {}
                match ends {
                    true => session.spdy.socket().shutdown(Shutdown::Write).unwrap(),
                    false => session.vanish(),
                }
            })
            .await;
        }
        until(|| server.node.state().reaped.len() == 2).await;
    });
}

/// A client that does not read costs a bounded amount of memory, and others are served meanwhile.
#[test]
fn a_client_that_does_not_read_holds_up_nobody_else() {
    run(async {
        let server = Server::with_streaming(Node::default());
        let url = exec(&server, "yes", false).await;
        let stuck = client(move || Session::start(&url, V4, "stdout stderr")).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        for _ in 0..20 {
            let url = exec(&server, "echo ok", false).await;
            let outcome = client(move || Session::start(&url, V4, "stdout stderr").finish()).await;
            assert_eq!(outcome.stdout(), "ok\n");
        }
        client(move || stuck.vanish()).await;
        until(|| server.node.state().reaped.len() == 21).await;
    });
}

#[test]
fn pings_are_answered_and_the_unknown_is_ignored() {
    run(async {
        let server = Server::with_streaming(Node::default());
        let url = exec(&server, "cat", true).await;
        client(move || {
            let mut session = Session::start(&url, V4, "stdin stdout stderr");
            session.spdy.ping(7);
            while session.spdy.next() != Some(Event::Ping(7)) {}
            // SETTINGS, WINDOW_UPDATE, data of a stream that does not exist, a reset of another.
            session.spdy.raw(b"\x80\x03\x00\x04\x00\x00\x00\x0c\0\0\0\x01\0\0\0\x04\0\0\0\x64");
            session.spdy.raw(b"\x80\x03\x00\x09\x00\x00\x00\x08\0\0\0\x01\0\0\x10\0");
            session.spdy.send(99, b"nobody");
            session.spdy.reset(101);
            // More streams than a session has.
            for _ in 0..2 {
                let late = session.spdy.open(&[("streamtype", "stdout")]);
                while session.spdy.next() != Some(Event::Reset(late)) {}
            }
            session.send("stdin", b"here");
            session.end_input();
            assert_eq!(session.finish().stdout(), "here");
        })
        .await;
    });
}

#[test]
fn hostile_bytes_end_their_connection_and_nothing_else() {
    run(async {
        let server = Server::with_streaming(Node::default());
        let mut floods: Vec<Vec<u8>> = vec![
            b"\x80\x02\x00\x01\x00\x00\x00\x00".to_vec(),
            b"\x80\x03\x00\x01\x00\xff\xff\xff".to_vec(),
            b"\x80\x03\x00\x01\x00\x00\x00\x0e\0\0\0\x01\0\0\0\0\0\0\x78\x01\xff\xff".to_vec(),
            vec![0xff; 1 << 20],
            b"GET / HTTP/1.1\r\n\r\n".repeat(1000),
        ];
        // 16 MiB of zeros, compressed: as headers.
        let mut bomb = flate2::Compress::new(flate2::Compression::best(), true);
        let mut compressed = Vec::with_capacity(64 << 10);
        bomb.compress_vec(&vec![0; 16 << 20], &mut compressed, flate2::FlushCompress::Sync).unwrap();
        compressed.truncate(15 << 10);
        let length = (compressed.len() as u32 + 10).to_be_bytes();
        let header = [&b"\x80\x03\x00\x01\x00"[..], &length[1..], b"\0\0\0\x01\0\0\0\0\0\0"].concat();
        floods.push([header, compressed].concat());
        for flood in floods {
            let url = exec(&server, "cat", true).await;
            client(move || {
                let mut spdy = Spdy::connect(&url, V4);
                // The server may close in the middle.
                let _ = spdy.socket().write_all(&flood);
                while spdy.next().is_some() {}
            })
            .await;
        }
        // Far more streams than are allowed.
        let url = port_forward(&server).await;
        let refused = client(move || {
            let mut spdy = Spdy::connect(&url, "portforward.k8s.io");
            let streams = (0..600).map(|n| {
                let n = n.to_string();
                spdy.open(&[("streamtype", "error"), ("port", "80"), ("requestid", &n)])
            });
            let last = streams.last().unwrap();
            loop {
                match spdy.next() {
                    Some(Event::Reset(stream)) if stream == last => return true,
                    Some(Event::Reply(stream)) if stream == last => return false,
                    Some(_) => {}
                    None => return true,
                }
            }
        })
        .await;
        assert!(refused, "600 streams were accepted");
        // Frames that break the WebSocket protocol.
        for bad in
            [&b"\x82\x01x"[..], b"\xc2\x81\0\0\0\0x", b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0"]
        {
            let url = exec(&server, "cat", true).await;
            client(move || {
                let mut socket = WebSocket::connect(&url, "v5.channel.k8s.io");
                socket.socket.write_all(bad).unwrap();
                let mut rest = Vec::new();
                let _ = socket.socket.read_to_end(&mut rest);
            })
            .await;
        }
        let url = exec(&server, "echo alive", false).await;
        let outcome = client(move || Session::start(&url, V4, "stdout stderr").finish()).await;
        assert_eq!(outcome.stdout(), "alive\n");
    });
}

/// Opens a pair of streams for a port: the error stream and the data stream.
fn pair(spdy: &mut Spdy, port: u16, request: &str) -> (u32, u32) {
    let port = port.to_string();
    let open = |spdy: &mut Spdy, kind| match request {
        "" => spdy.open(&[("streamtype", kind), ("port", &port)]),
        id => spdy.open(&[("streamtype", kind), ("port", &port), ("requestid", id)]),
    };
    (open(spdy, "error"), open(spdy, "data"))
}

/// A server that sends back what it receives, at the end of it.
fn echo_server(listener: TcpListener) {
    for socket in listener.incoming() {
        std::thread::spawn(move || {
            let mut socket: TcpStream = socket.unwrap();
            let mut received = Vec::new();
            socket.read_to_end(&mut received).unwrap();
            socket.write_all(&received).unwrap();
        });
    }
}

#[test]
fn ports_are_forwarded_with_half_closes_many_at_a_time() {
    run(async {
        let server = Server::with_streaming(Node::default());
        // IPv6 alone, and IPv4.
        let listeners = ["[::1]:0", "127.0.0.1:0"].map(|address| TcpListener::bind(address).unwrap());
        let ports = listeners.each_ref().map(|listener| listener.local_addr().unwrap().port());
        for listener in listeners {
            std::thread::spawn(move || echo_server(listener));
        }
        for tunnel in [false, true] {
            let url = port_forward(&server).await;
            client(move || {
                let mut spdy =
                    if tunnel { Spdy::tunnel(&url) } else { Spdy::connect(&url, "portforward.k8s.io") };
                let pairs: Vec<_> = (0..100)
                    .map(|n| {
                        // Half of them without a number, as old clients.
                        let request = if n % 2 == 0 { String::new() } else { n.to_string() };
                        let (error, data) = pair(&mut spdy, ports[n % 3 % 2], &request);
                        spdy.end(error);
                        spdy.send(data, format!("request {n}").as_bytes());
                        (n, error, data)
                    })
                    .collect();
                pairs.iter().for_each(|(_, _, data)| spdy.end(*data));
                let mut received = std::collections::HashMap::<u32, Vec<u8>>::new();
                let mut ended = std::collections::HashSet::new();
                while ended.len() < 200 {
                    match spdy.next().expect("the connection ends early") {
                        Event::Data(stream, data) => received.entry(stream).or_default().extend(data),
                        Event::End(stream) => assert!(ended.insert(stream)),
                        Event::Reply(_) => {}
                        other => panic!("{other:?}"),
                    }
                }
                for (n, error, data) in pairs {
                    assert_eq!(received.get(&data), Some(&format!("request {n}").into_bytes()));
                    assert_eq!(received.get(&error), None);
                }
            })
            .await;
        }
    });
}

#[test]
fn a_port_that_nobody_serves_is_told_and_the_connection_goes_on() {
    run(async {
        let server = Server::with_streaming(Node::default());
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap().port();
        std::thread::spawn(move || echo_server(listener));
        let url = port_forward(&server).await;
        client(move || {
            let mut spdy = Spdy::connect(&url, "portforward.k8s.io");
            let (error, data) = pair(&mut spdy, closed, "1");
            let mut text = String::new();
            let (mut ended, mut reset) = (false, false);
            while !(ended && reset) {
                match spdy.next().unwrap() {
                    Event::Data(stream, bytes) if stream == error => {
                        text.push_str(&String::from_utf8(bytes).unwrap());
                    }
                    Event::End(stream) if stream == error => ended = true,
                    Event::Reset(stream) if stream == data => reset = true,
                    Event::Reply(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            assert!(text.starts_with(&format!("error forwarding port {closed} to pod p")), "{text}");
            assert!(
                text.contains("127.0.0.1") && text.contains("[::1]") && text.contains("refused"),
                "{text}"
            );
            // Streams that make no sense are reset.
            for headers in [
                &[("streamtype", "data"), ("port", "0")][..],
                &[("streamtype", "data"), ("port", "70000")],
                &[("streamtype", "data")],
                &[("streamtype", "stdin"), ("port", "80")],
            ] {
                let stream = spdy.open(headers);
                while spdy.next().unwrap() != Event::Reset(stream) {}
            }
            let (_, data) = pair(&mut spdy, open, "2");
            spdy.send(data, b"still");
            spdy.end(data);
            while spdy.next().unwrap() != Event::Data(data, b"still".to_vec()) {}
        })
        .await;
    });
}

/// A forward that ends in the middle of its output, by either side, leaves the others on the connection alone; no text on the
/// error stream makes the client give up all of them.
#[test]
fn a_forward_that_is_reset_leaves_the_others_alone() {
    run(async {
        let server = Server::with_streaming(Node::default());
        let floods = TcpListener::bind("127.0.0.1:0").unwrap();
        let echo = TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = [&floods, &echo].map(|listener| listener.local_addr().unwrap().port());
        std::thread::spawn(move || echo_server(echo));
        std::thread::spawn(move || {
            for socket in floods.incoming() {
                std::thread::spawn(move || {
                    let mut socket: TcpStream = socket.unwrap();
                    // What it receives is not read: closing it resets the connection.
                    let until = std::time::Instant::now() + Duration::from_millis(700);
                    socket.set_write_timeout(Some(Duration::from_millis(700))).unwrap();
                    while std::time::Instant::now() < until && socket.write_all(&[0x55; 4096]).is_ok() {}
                });
            }
        });
        for by_client in [true, false] {
            let url = port_forward(&server).await;
            client(move || {
                let mut spdy = Spdy::connect(&url, "portforward.k8s.io");
                let (error, flood) = pair(&mut spdy, ports[0], "1");
                spdy.send(flood, b"never read");
                std::thread::sleep(Duration::from_millis(if by_client { 300 } else { 1500 }));
                if by_client {
                    spdy.reset(flood);
                }
                let (_, data) = pair(&mut spdy, ports[1], "2");
                spdy.send(data, b"through");
                spdy.end(data);
                loop {
                    match spdy.next().expect("the connection ends") {
                        Event::Data(stream, bytes) if stream == data => {
                            assert_eq!(bytes, b"through");
                            break;
                        }
                        Event::Data(stream, bytes) => {
                            assert!(
                                stream == flood && bytes.iter().all(|byte| *byte == 0x55),
                                "a text: {bytes:?}"
                            );
                        }
                        Event::End(stream) | Event::Reset(stream) => {
                            assert!([error, flood].contains(&stream))
                        }
                        _ => {}
                    }
                }
            })
            .await;
        }
    });
}

#[test]
fn a_stream_that_the_client_resets_closes_its_connection_in_the_pod() {
    run(async {
        let server = Server::with_streaming(Node::default());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = port_forward(&server).await;
        client(move || {
            let mut spdy = Spdy::connect(&url, "portforward.k8s.io");
            for vanish in [false, true] {
                let (_, data) = pair(&mut spdy, port, if vanish { "2" } else { "1" });
                let (mut accepted, _) = listener.accept().unwrap();
                accepted.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                match vanish {
                    false => spdy.reset(data),
                    true => spdy.socket().shutdown(Shutdown::Both).unwrap(),
                }
                assert_eq!(accepted.read(&mut [0; 8]).unwrap_or(0), 0);
            }
        })
        .await;
    });
}

/// Anybody on the machine can connect: that must not keep kubelet out.
#[test]
fn connections_that_ask_for_nothing_keep_nobody_out() {
    run(async {
        let server = Server::with_streaming(Node::default());
        let url = exec(&server, "echo served", false).await;
        let outcome = client(move || {
            let mut idle: Vec<_> = (0..400).map(|_| connect(&url)).collect();
            let outcome = Session::start(&url, V4, "stdout stderr").finish();
            // The oldest were closed for the others.
            assert_eq!(idle[0].read(&mut [0; 8]).unwrap_or(0), 0);
            outcome
        })
        .await;
        assert_eq!(outcome.stdout(), "served\n");
    });
}

#[test]
fn a_hundred_sessions_run_at_a_time() {
    run(async {
        let server = Arc::new(Server::with_streaming(Node::default()));
        let mut clients = Vec::new();
        for _ in 0..100 {
            let url = exec(&server, "cat", true).await;
            clients.push(tokio::task::spawn_blocking(move || {
                let mut session = Session::start(&url, V4, "stdin stdout stderr");
                session.send("stdin", b"x");
                session.wait_for("x");
                session.end_input();
                session.finish().code()
            }));
        }
        for client in clients {
            assert_eq!(client.await.unwrap(), 0);
        }
        assert_eq!(server.node.state().reaped.len(), 100);
    });
}
