//! exec, attach and port-forward with real containers; the protocols are tested in cri/tests/wire/streaming.rs.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coracle_cri::v1::*;
use rustix::process::Signal;
use tonic::Code;

use super::pods_network;
use crate::keeper::end_keepers;
use crate::support::stream_client::{Event, Outcome, Session, Spdy, WebSocket, request};
use crate::support::{Serve, code, container, kernel_tells_ends, pod_on_host, pod_with, wait_until};

const V4: &str = "v4.channel.k8s.io";

/// A pod on the node's network with a container that runs this script.
fn box_of(serve: &Serve, script: &str) -> (String, String) {
    let pod = serve.logged(pod_on_host("one"));
    let id = serve.run_pod(&pod);
    let c = serve.run_container(&id, &pod, &container(&pod, "box", script));
    (id, c)
}

impl Serve {
    fn try_exec_url(&self, id: &str, script: &str, stdin: bool, tty: bool) -> Result<String, tonic::Status> {
        let request = ExecRequest {
            container_id: id.to_owned(),
            cmd: ["/bin/sh", "-c", script].map(str::to_owned).into(),
            tty,
            stdin,
            stdout: true,
            stderr: !tty,
        };
        self.run(self.runtime().exec(request)).map(|answer| answer.url)
    }

    /// The URL of a command.
    #[track_caller]
    fn exec_url(&self, id: &str, script: &str, stdin: bool) -> String {
        self.try_exec_url(id, script, stdin, false).unwrap()
    }

    /// Begins a command with a terminal.
    #[track_caller]
    fn exec_tty(&self, id: &str, script: &str) -> Session {
        Session::start(&self.try_exec_url(id, script, true, true).unwrap(), V4, "stdin stdout resize")
    }

    fn try_attach_url(&self, id: &str, stdin: bool, tty: bool) -> Result<String, tonic::Status> {
        let request = AttachRequest { container_id: id.to_owned(), stdin, tty, stdout: true, stderr: !tty };
        self.run(self.runtime().attach(request)).map(|answer| answer.url)
    }

    fn try_port_forward_url(&self, pod: &str) -> Result<String, tonic::Status> {
        let request = PortForwardRequest { pod_sandbox_id: pod.to_owned(), port: vec![] };
        self.run(self.runtime().port_forward(request)).map(|answer| answer.url)
    }

    /// Runs a command without input.
    #[track_caller]
    fn streamed(&self, id: &str, script: &str) -> Outcome {
        Session::start(&self.exec_url(id, script, false), V4, "stdout stderr").finish()
    }

    /// How many descriptors and threads the daemon has.
    fn held(&self) -> (usize, usize) {
        let count = |what| fs::read_dir(format!("/proc/{}/{what}", self.pid())).unwrap().count();
        (count("fd"), count("task"))
    }
}

/// Looks that no process of a container has this text in its command line.
fn is_gone(serve: &Serve, id: &str, text: &str) {
    wait_until(&format!("{text} to be gone"), || {
        let list = serve.output_in(id, "for d in /proc/[0-9]*; do tr '\\0' ' ' < $d/cmdline; echo; done");
        let others = list.lines().filter(|line| line.contains(text) && !line.contains("cmdline"));
        (others.count() == 0).then_some(())
    });
}

#[test]
fn commands_run_with_their_streams() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let (_, c) = box_of(&serve, "sleep 1000");
    let outcome = serve.streamed(&c, "echo out; echo err >&2; exit 7");
    assert_eq!(
        (outcome.stdout(), outcome.stderr(), outcome.code()),
        ("out\n".to_owned(), "err\n".to_owned(), 7)
    );
    assert_eq!(serve.streamed(&c, "kill -9 $$").code(), 137);
    // Not given: standard input is at its end.
    assert_eq!(serve.streamed(&c, "cat; echo $?").stdout(), "0\n");
    let mut session = Session::start(&serve.exec_url(&c, "cat", true), V4, "stdin stdout stderr");
    session.send("stdin", b"typed");
    session.end_input();
    let outcome = session.finish();
    assert_eq!((outcome.stdout(), outcome.code()), ("typed".to_owned(), 0));
    let mut socket = WebSocket::connect(&serve.exec_url(&c, "cat", true), "v5.channel.k8s.io");
    socket.send(0, b"typed");
    socket.send(255, &[0]);
    assert_eq!(socket.finish().stdout(), "typed");
    // It is in the container.
    assert_eq!(serve.streamed(&c, "readlink /proc/self/ns/mnt").stdout().trim(), {
        serve.output_in(&c, "readlink /proc/self/ns/mnt")
    });
    serve.removes_all();
}

#[test]
fn what_cannot_be_streamed_is_refused() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("one"));
    let id = serve.run_pod(&pod);
    let c = serve.try_create(&id, &pod, &container(&pod, "box", "sleep 1000")).unwrap();
    assert_eq!(code(serve.try_exec_url(&c, "true", false, false)), Code::FailedPrecondition);
    assert_eq!(code(serve.try_attach_url(&c, false, false)), Code::FailedPrecondition);
    assert_eq!(code(serve.try_exec_url("nothing", "true", false, false)), Code::NotFound);
    assert_eq!(code(serve.try_attach_url("nothing", false, false)), Code::NotFound);
    assert_eq!(code(serve.try_port_forward_url("nothing")), Code::NotFound);
    serve.try_start(&c).unwrap();
    let missing = ExecRequest {
        container_id: c.clone(),
        cmd: vec!["no-such-program".to_owned()],
        stdout: true,
        stderr: true,
        ..ExecRequest::default()
    };
    let url = serve.run(serve.runtime().exec(missing)).unwrap().url;
    let status = Session::start(&url, V4, "stdout stderr").finish().status;
    assert!(status.contains("executable file not found") && status.contains("no-such-program"), "{status}");
    // The container ends after the URL was made.
    let url = serve.exec_url(&c, "true", false);
    serve.try_stop(&c, 0).unwrap();
    let status = Session::start(&url, V4, "stdout stderr").finish().status;
    assert!(status.contains("error executing command in container"), "{status}");
    let url = serve.try_port_forward_url(&id).unwrap();
    assert_eq!(request(&url, "GET", &[]).status, 400);
    serve.try_stop_pod(&id).unwrap();
    assert_eq!(code(serve.try_port_forward_url(&id)), Code::FailedPrecondition);
    serve.removes_all();
}

#[test]
fn a_terminal_has_a_size_signals_and_an_end_of_input() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let (_, c) = box_of(&serve, "sleep 1000");
    let mut session =
        serve.exec_tty(&c, "trap 'stty size' WINCH; echo $TERM; tty; while :; do sleep 0.05; done");
    session.wait_for("/dev/pts/");
    session.send("resize", b"{\"Width\":132,\"Height\":43}\n");
    session.wait_for("43 132\r\n");
    session.send("resize", b"{\"Width\":80,\"Height\":25}\n");
    session.wait_for("25 80\r\n");
    // ^C
    session.send("stdin", b"\x03");
    assert_eq!(session.finish().code(), 130);
    let mut session = serve.exec_tty(&c, "echo $TERM; cat; echo end; exit 3");
    assert!(session.wait_for("\r\n").starts_with("xterm"));
    session.send("stdin", b"typed\n");
    session.wait_for("typed\r\ntyped\r\n");
    session.end_input();
    let outcome = session.finish();
    assert_eq!((outcome.stdout(), outcome.code()), ("end\r\n".to_owned(), 3));
    serve.removes_all();
}

/// The last output of a command with a terminal is not lost, however often it is tried.
#[test]
fn the_last_output_is_never_lost() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let (_, c) = box_of(&serve, "sleep 1000");
    for _ in 0..20 {
        let output = serve.exec_tty(&c, "seq 1 500").finish().stdout();
        assert!(output.ends_with("499\r\n500\r\n"), "it ends with {:?}", output.lines().next_back());
        let output = serve.streamed(&c, "seq 1 20000").stdout();
        assert!(output.ends_with("19999\n20000\n") && output.lines().count() == 20000);
    }
    serve.removes_all();
}

/// 256 MiB each way, while the daemon's memory stays small.
#[test]
fn much_data_needs_little_memory() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let (_, c) = box_of(&serve, "sleep 1000");
    serve.streamed(&c, "true");
    let peak = || {
        let status = fs::read_to_string(format!("/proc/{}/status", serve.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let before = peak();
    const SIZE: usize = 256 << 20;
    let url = serve.exec_url(&c, "dd if=/dev/zero bs=64k count=4096 2>/dev/null", false);
    let mut session = Session::start(&url, V4, "stdout stderr");
    let stdout = session.stream("stdout");
    let mut received = 0;
    loop {
        match session.spdy.next() {
            Some(Event::Data(stream, data)) if stream == stdout => received += data.len(),
            Some(Event::GoAway) | None => break,
            Some(_) => {}
        }
    }
    assert_eq!(received, SIZE);
    let mut session = Session::start(&serve.exec_url(&c, "wc -c", true), V4, "stdin stdout stderr");
    let piece = vec![0; 1 << 20];
    for _ in 0..SIZE >> 20 {
        session.send("stdin", &piece);
    }
    session.end_input();
    assert_eq!(session.finish().stdout().trim(), SIZE.to_string());
    let grown = peak().saturating_sub(before);
    assert!(grown < 1536, "the daemon's memory grew by {grown} KiB");
    serve.removes_all();
}

#[test]
fn what_a_vanished_client_leaves_ends() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let (_, c) = box_of(&serve, "sleep 1000");
    serve.streamed(&c, "true");
    let held = serve.held();
    for (tty, script) in
        [(false, "echo on; cat"), (true, "echo on; exec sleep 2001"), (false, "echo on; sleep 2002")]
    {
        let url = serve.try_exec_url(&c, script, true, tty).unwrap();
        let streams = if tty { "stdin stdout resize" } else { "stdin stdout stderr" };
        let mut session = Session::start(&url, V4, streams);
        session.wait_for("on");
        session.vanish();
    }
    for text in ["sleep 2001", "sleep 2002", "cat"] {
        is_gone(&serve, &c, text);
    }
    // What ignores the hangup goes on, as with nohup.
    let url = serve.exec_url(&c, "trap '' HUP; echo $$ on; exec sleep 2003", true);
    let mut session = Session::start(&url, V4, "stdin stdout stderr");
    let pid = session.wait_for("on").split(' ').next().unwrap().to_owned();
    session.vanish();
    std::thread::sleep(Duration::from_millis(300));
    assert!(serve.output_in(&c, &format!("tr '\\0' ' ' < /proc/{pid}/cmdline")).contains("sleep 2003"));
    serve.output_in(&c, &format!("kill {pid}"));
    wait_until("descriptors and threads to be as before", || {
        let (fds, threads) = serve.held();
        (fds <= held.0 && threads <= held.1).then_some(())
    });
    serve.removes_all();
}

#[test]
fn when_the_daemon_dies_its_commands_end() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let (_, c) = box_of(&serve, "sleep 1000");
    let mut sessions = Vec::new();
    for (tty, script) in [(false, "echo on; cat"), (true, "echo on; exec sleep 2001")] {
        let url = serve.try_exec_url(&c, script, true, tty).unwrap();
        let mut session =
            Session::start(&url, V4, if tty { "stdin stdout resize" } else { "stdin stdout stderr" });
        session.wait_for("on");
        sessions.push(session);
    }
    let root = format!("/proc/{}/root/proc", serve.pid_of(&c));
    serve.kill();
    for session in &mut sessions {
        // The connection is closed, and no status was told.
        while let Some(event) = session.spdy.next() {
            assert!(!matches!(event, Event::GoAway));
        }
    }
    let runs = |text: &str| {
        let entries = fs::read_dir(&root).unwrap().flatten();
        entries
            .filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok())
            .any(|line| line.contains(text))
    };
    wait_until("the commands to end", || (!runs("2001") && !runs("cat")).then_some(()));
    serve.start();
    assert_eq!(serve.streamed(&c, "echo again").stdout(), "again\n");
    serve.removes_all();
}

/// Types a line on a stream again and again while something is waited for.
fn while_typing(mut socket: &TcpStream, stream: u32, line: &str, wait: impl FnOnce()) {
    let (done, data) = (AtomicBool::new(false), format!("{line}\n"));
    let length = (data.len() as u32).to_be_bytes();
    let frame = [&stream.to_be_bytes()[..], &[0], &length[1..], data.as_bytes()].concat();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                socket.write_all(&frame).unwrap();
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        wait();
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn clients_attach_to_a_container() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("one"));
    let id = serve.run_pod(&pod);
    let script = "while read line; do echo got $line; echo err $line >&2; done; exit 6";
    let reads = ContainerConfig { stdin: true, stdin_once: true, ..container(&pod, "reads", script) };
    let c = serve.run_container(&id, &pod, &reads);
    let watch = |stdin| {
        let url = serve.try_attach_url(&c, stdin, false).unwrap();
        Session::start(&url, V4, if stdin { "stdin stdout stderr" } else { "stdout stderr" })
    };
    let (mut first, mut second) = (watch(true), watch(false));
    let (socket, stdin) = (first.spdy.socket().try_clone().unwrap(), first.stream("stdin"));
    // A client that attaches later than a line was typed does not see it.
    while_typing(&socket, stdin, "one", || {
        first.wait_for("got one\n");
        second.wait_for("got one\n");
    });
    // The keeper is killed; its standby has the container. What is typed at that moment may be lost with the keeper.
    let (keeper, _) = serve.kept().keeper();
    serve.kept().signal_keeper(Signal::KILL);
    wait_until("the standby to take over", || (serve.kept().keeper().0 != keeper).then_some(()));
    while_typing(&socket, stdin, "two", || {
        first.wait_for("got two\n");
        second.wait_for("got two\n");
    });
    // The end of the input ends the container (stdinOnce), and the container's end both sessions.
    first.end_input();
    let outcome = first.finish();
    assert!(outcome.stderr().contains("err one\n") && outcome.code() == 0, "{outcome:?}");
    assert_eq!(second.finish().code(), 0);
    // Its keeper was killed: older kernels do not tell another process how it ended.
    let codes = if kernel_tells_ends() { vec![6] } else { vec![6, 255] };
    assert!(codes.contains(&serve.exited(&c).exit_code));
    assert_eq!(code(serve.try_attach_url(&c, true, false)), Code::FailedPrecondition);
    serve.removes_all();
}

#[test]
fn an_attached_terminal_is_resized_and_left_running() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("one"));
    let id = serve.run_pod(&pod);
    let script = "trap 'stty size' WINCH; while :; do read -t 1 line && echo got $line; done";
    let config = ContainerConfig { stdin: true, tty: true, ..container(&pod, "shell", script) };
    let c = serve.run_container(&id, &pod, &config);
    for columns in [100, 101] {
        let url = serve.try_attach_url(&c, true, true).unwrap();
        let mut session = Session::start(&url, V4, "stdin stdout resize");
        session.send("resize", format!("{{\"Width\":{columns},\"Height\":30}}").as_bytes());
        session.wait_for(&format!("30 {columns}\r\n"));
        session.send("stdin", b"line\n");
        session.wait_for("got line\r\n");
        session.vanish();
        assert_eq!(serve.container_state(&c), ContainerState::ContainerRunning);
    }
    serve.removes_all();
}

/// Opens the two streams of a forwarded connection.
fn forward(spdy: &mut Spdy, port: u16, request: &str) -> (u32, u32) {
    let port = port.to_string();
    let mut open = |kind| spdy.open(&[("streamtype", kind), ("port", &port), ("requestid", request)]);
    (open("error"), open("data"))
}

/// Sends a text to a port, ends the input, and returns what comes back, and what is told of errors.
fn talk(spdy: &mut Spdy, port: u16, request: &str, text: &[u8]) -> (String, String) {
    let (error, data) = forward(spdy, port, request);
    spdy.send(data, text);
    spdy.end(data);
    let (mut received, mut errors) = (Vec::new(), Vec::new());
    loop {
        match spdy.next().unwrap() {
            Event::Data(stream, bytes) if stream == data => received.extend(bytes),
            Event::Data(stream, bytes) if stream == error => errors.extend(bytes),
            Event::End(stream) if stream == error => break,
            _ => {}
        }
    }
    (String::from_utf8(received).unwrap(), String::from_utf8(errors).unwrap())
}

#[test]
fn ports_of_pods_with_and_without_their_own_network_are_forwarded() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("host"));
    let on_host = serve.run_pod(&pod);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let mut text = Vec::new();
            socket.read_to_end(&mut text).unwrap();
            socket.write_all(&[b"echo ", &text[..]].concat()).unwrap();
        }
    });
    let mut spdy = Spdy::connect(&serve.try_port_forward_url(&on_host).unwrap(), "portforward.k8s.io");
    assert_eq!(talk(&mut spdy, port, "0", b"x"), ("echo x".to_owned(), String::new()));
    let mut spdy = Spdy::tunnel(&serve.try_port_forward_url(&on_host).unwrap());
    assert_eq!(talk(&mut spdy, port, "0", b"y"), ("echo y".to_owned(), String::new()));
    // A stream that is reset leaves the others alone.
    let (_, data) = forward(&mut spdy, port, "1");
    spdy.reset(data);
    spdy.ping(1);
    assert_eq!(talk(&mut spdy, port, "2", b"z").0, "echo z");
    serve.removes_all();
}

#[test]
fn ports_of_a_pods_own_network_are_reached_on_loopback() {
    needs!(root, busybox, launch_verb, cni_plugins);
    let serve = pods_network::node();
    let pod = serve.logged(pod_with("net", NamespaceOption::default()));
    let id = serve.run_pod(&pod);
    let script = "mkdir /www; echo here > /www/page; httpd -p 127.0.0.1:81 -h /www; httpd -p [::1]:82 -h /www; sleep 1000";
    let c = serve.run_container(&id, &pod, &container(&pod, "serves", script));
    wait_until("both servers to listen", || {
        let tcp = serve.output_in(&c, "cat /proc/net/tcp /proc/net/tcp6");
        (tcp.contains(":0051 ") && tcp.contains(":0052 ")).then_some(())
    });
    // The daemon's own network is another, and so is this test's: the URL is reached from there.
    let url = serve.try_port_forward_url(&id).unwrap();
    in_network_of(&serve, move || {
        let mut spdy = Spdy::connect(&url, "portforward.k8s.io");
        for port in [81, 82] {
            let (answer, errors) = talk(&mut spdy, port, &port.to_string(), b"GET /page HTTP/1.0\r\n\r\n");
            assert!(answer.ends_with("here\n") && errors.is_empty(), "{answer:?} {errors:?}");
        }
        let (received, errors) = talk(&mut spdy, 83, "2", b"nobody");
        assert!(received.is_empty() && errors.contains("error forwarding port 83"), "{errors}");
    });
    serve.removes_all();
}

/// Runs a client on a thread in the network of the daemon.
fn in_network_of(serve: &Serve, client: impl FnOnce() + Send) {
    let path = format!("/proc/{}/ns/net", serve.pid());
    coracle::net::namespace::within(path.as_ref(), || {
        client();
        Ok(())
    })
    .unwrap();
}

/// An idle session costs nothing: neither the daemon nor the keeper wakes up.
#[test]
fn an_idle_session_wakes_nobody_up() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let (_, c) = box_of(&serve, "sleep 1000");
    let mut session = Session::start(&serve.exec_url(&c, "echo on; cat", true), V4, "stdin stdout stderr");
    session.wait_for("on");
    let attach = serve.try_attach_url(&c, false, false).unwrap();
    let attached = Session::start(&attach, V4, "stdout stderr");
    let switches = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", serve.pid())).unwrap().flatten();
        let statuses = tasks.map(|task| fs::read_to_string(task.path().join("status")).unwrap_or_default());
        let counts = statuses.map(|status| {
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap_or("0");
            line.split_whitespace().next_back().unwrap().parse::<u64>().unwrap_or(0)
        });
        counts.sum::<u64>()
    };
    // Threads that served the calls end after some seconds, and memory is given back.
    let mut last = switches();
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        std::thread::sleep(Duration::from_secs(4));
        let now = switches();
        if now == last {
            break;
        }
        assert!(Instant::now() < deadline, "the daemon wakes up all the time");
        last = now;
    }
    session.send("stdin", b"still");
    session.wait_for("still");
    session.vanish();
    attached.vanish();
    serve.removes_all();
}

#[test]
fn with_tls_a_session_is_encrypted_and_clients_are_known() {
    needs!(root, busybox, launch_verb, openssl);
    let serve = Serve::stopped("");
    let dir = serve.path("tls");
    fs::create_dir_all(&dir).unwrap();
    let openssl = |args: &str| {
        let output = Command::new("openssl").args(args.split(' ')).current_dir(&dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    openssl(&format!("{new} -subj /CN=node -addext subjectAltName=IP:127.0.0.1 -keyout n.key -out n.crt"));
    openssl(&format!("{new} -subj /CN=authority -keyout ca.key -out ca.crt"));
    let signed = "-CA ca.crt -CAkey ca.key -addext basicConstraints=critical,CA:FALSE";
    openssl(&format!("{new} {signed} -subj /CN=kubelet -keyout c.key -out c.crt"));
    let path = |name: &str| dir.join(name).display().to_string();
    let config = |client: &str| {
        let (cert, key) = (path("n.crt"), path("n.key"));
        format!("[streaming]\ntls_cert = {cert:?}\ntls_key = {key:?}\n{client}")
    };
    serve.configure(&config(&format!("tls_client_ca = {:?}", path("ca.crt"))));
    serve.start();
    let (_, c) = box_of(&serve, "sleep 1000");
    let session = |client: &[&str]| {
        let url = serve.exec_url(&c, "echo secret", false);
        let rest = url.strip_prefix("https://").unwrap();
        let (address, path) = rest.split_once('/').unwrap();
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-quiet", "-verify_return_error", "-CAfile", "n.crt", "-connect", address]);
        openssl.args(client).current_dir(&dir);
        openssl.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = openssl.stderr(std::process::Stdio::null()).spawn().unwrap();
        let head = format!(
            "GET /{path} HTTP/1.1\r\nHost: n\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
        );
        let mut stdin = child.stdin.take().unwrap();
        // Refused clients are gone before they have written.
        let _ = stdin.write_all(head.as_bytes());
        std::thread::sleep(Duration::from_millis(1500));
        drop(stdin);
        String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
    };
    let answer = session(&["-cert", "c.crt", "-key", "c.key"]);
    assert!(answer.contains("101 Switching") && answer.contains("secret"), "{answer:?}");
    assert_eq!(session(&[]), "");
    serve.removes_all();
    assert!(serve.stop().success());
    // Half of a pair, and a key that is none.
    serve.configure(&format!("[streaming]\ntls_cert = {:?}\n", path("n.crt")));
    let refused = serve.prepare().go().fails();
    assert!(refused.stderr.contains("tls_cert and tls_key must both be given"), "{refused}");
    serve.configure(&config("").replace("n.key", "n.crt"));
    assert!(serve.prepare().go().fails().stderr.contains("read the key"));
    serve.configure("[streaming]\naddress = \"192.0.2.1:1\"\n");
    assert!(serve.prepare().go().fails().stderr.contains("listen on 192.0.2.1:1"));
    end_keepers(&serve.kept().run_dir());
}
