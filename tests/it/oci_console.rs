//! Terminals: who gets which end, and what the payload sees of it.

use std::io::Write;

use serde_json::json;

use crate::support::{ConsoleSocket, Sandbox, read_terminal, wait_until};

/// A socket path must be short; the sandbox's own is.
fn socket(sandbox: &Sandbox) -> ConsoleSocket {
    ConsoleSocket::at(sandbox.path("console"))
}

fn option(socket: &ConsoleSocket) -> [&str; 2] {
    ["--console-socket", socket.path().to_str().unwrap()]
}

#[test]
fn the_terminal_is_sent_to_the_console_socket() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let socket = socket(&sandbox);
    sandbox.create_with(&sandbox.bundle("terminal"), "web", &option(&socket)).ok();
    let mut master = socket.receive();
    sandbox.runtime(["start", &sandbox.id("web")]).ok();
    assert_eq!(
        read_terminal(&mut master),
        "/dev/console\r\n33 111\r\n".replace("/dev/console", &tty(&sandbox))
    );
}

/// What the payload's terminal is called: crun and runc differ.
fn tty(sandbox: &Sandbox) -> String {
    let _ = sandbox;
    "/dev/pts/0".to_owned()
}

#[test]
fn what_is_typed_reaches_the_payload() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let socket = socket(&sandbox);
    let bundle = sandbox.bundle("terminal").script("stty -echo; read line; echo \"got $line\"");
    sandbox.run_detached(&bundle, "web", &option(&socket)).ok();
    let mut master = socket.receive();
    master.write_all(b"typed\n").unwrap();
    assert!(read_terminal(&mut master).ends_with("got typed\r\n"));
}

#[test]
fn the_terminal_controls_the_payload() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let socket = socket(&sandbox);
    let bundle =
        sandbox.bundle("terminal").script("trap 'echo interrupted; exit' INT; while :; do sleep 0.02; done");
    sandbox.run_detached(&bundle, "web", &option(&socket)).ok();
    let mut master = socket.receive();
    wait_until("the payload to be running", || (sandbox.status("web")? == "running").then_some(()));
    std::thread::sleep(std::time::Duration::from_millis(200));
    master.write_all(b"\x03").unwrap();
    assert!(read_terminal(&mut master).contains("interrupted"));
}

#[test]
fn the_console_device_is_the_terminal() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let socket = socket(&sandbox);
    let bundle = sandbox
        .bundle("terminal")
        .script("echo through the console >/dev/console; ls -l /proc/self/fd | wc -l");
    sandbox.run_detached(&bundle, "web", &option(&socket)).ok();
    assert!(read_terminal(&mut socket.receive()).starts_with("through the console\r\n"));
}

#[test]
fn exec_can_have_a_terminal_of_its_own() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    sandbox.run_detached(&sandbox.bundle("sleeping"), "web", &[]).ok();
    let socket = socket(&sandbox);
    let run = sandbox.prepare(["exec", "--tty", "--detach"]).args(option(&socket)).arg(sandbox.id("web"));
    run.args(["/bin/sh", "-c", "test -t 0 && test -t 1 && test -t 2 && echo yes"]).go().ok();
    assert_eq!(read_terminal(&mut socket.receive()), "yes\r\n");
}

#[test]
fn a_detached_terminal_needs_a_console_socket() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let output = sandbox.create(&sandbox.bundle("terminal"), "web").fails();
    assert!(output.stderr.contains("console"), "{output}");
    assert_eq!(sandbox.traces(), []);
}

#[test]
fn a_console_socket_without_a_terminal_is_refused() {
    needs!(root, busybox, oci_verbs);
    not_by!(Crun: "crun ignores the socket");
    let sandbox = Sandbox::new();
    let socket = socket(&sandbox);
    let bundle = sandbox.bundle("terminal").with("/process/terminal", json!(false));
    sandbox.create_with(&bundle, "web", &option(&socket)).fails();
    assert_eq!(sandbox.traces(), []);
}
