//! Programs of different releases: an old client and this keeper, an old or newer keeper and these clients, and records on
//! disk that another release wrote. Whatever is not understood is refused by name, and costs no container anything.
//!
//! The messages of version 1, which had no heads, are written down here as the release before sent them.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coracle::keeper::Frame;
use coracle::record::format::{CONTAINER_RECORD, EXIT, KEEPER_PROTOCOL, KEEPER_RECORD, SANDBOX_RECORD};
use coracle_cri::v1::ContainerState;
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    accept, bind, connect, listen, recvmsg, send, socket_with,
};
use rustix::process::Signal;

use crate::keeper::Kept;
use crate::launch::prepare;
use crate::support::{Run, Serve, container, copy_program, keeper_program, pod_on_host, wait_until};

/// `Reply::Refused(Refusal::Failed(text))` of version 1.
fn first_refusal(text: &str) -> Vec<u8> {
    [&[3, 3, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

/// `Request::Upgrade` of version 1, and its answer `Done`.
const FIRST_UPGRADE: [u8; 1] = [10];
const FIRST_DONE: [u8; 1] = [1];

/// The address of a keeper's socket; valid while the directory's descriptor lives.
fn address(run: &Path) -> (SocketAddrUnix, OwnedFd) {
    let directory = rustix::fs::open(run, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let path = format!("/proc/self/fd/{}/keeper.sock", directory.as_raw_fd());
    (SocketAddrUnix::new(path).unwrap(), directory)
}

fn seqpacket() -> OwnedFd {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

/// One message, and how many descriptors came along.
fn receive(socket: &OwnedFd) -> (Vec<u8>, usize) {
    let mut bytes = vec![0; 64 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [std::io::IoSliceMut::new(&mut bytes)];
    let length = recvmsg(socket, &mut into, &mut control, RecvFlags::empty()).map_or(0, |got| got.bytes);
    let fds = control.drain().map(|message| match message {
        rustix::net::RecvAncillaryMessage::ScmRights(passed) => passed.count(),
        _ => 0,
    });
    let fds = fds.sum();
    bytes.truncate(length);
    (bytes, fds)
}

/// A client that sends exactly these bytes.
struct Raw(OwnedFd);

impl Raw {
    fn connect(run: &Path) -> Self {
        let socket = seqpacket();
        let (address, _directory) = address(run);
        connect(&socket, &address).unwrap();
        let patience = Some(Duration::from_secs(20));
        rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, patience)
            .unwrap();
        Self(socket)
    }

    fn ask(&self, bytes: &[u8]) -> Vec<u8> {
        send(&self.0, bytes, SendFlags::NOSIGNAL).unwrap();
        receive(&self.0).0
    }
}

/// What a keeper of another release answers to each message.
type Answers = dyn Fn(&[u8]) -> Vec<u8> + Send + Sync;

/// A keeper of another release: it notes what it is asked.
struct Fake {
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    descriptors: Arc<Mutex<usize>>,
}

impl Fake {
    fn start(run: &Path, answers: Box<Answers>) -> Self {
        fs::create_dir_all(run).unwrap();
        let socket = seqpacket();
        let (address, _directory) = address(run);
        let _ = fs::remove_file(run.join("keeper.sock"));
        bind(&socket, &address).unwrap();
        listen(&socket, 16).unwrap();
        let fake = Self { heard: Arc::default(), descriptors: Arc::default() };
        let (heard, descriptors) = (Arc::clone(&fake.heard), Arc::clone(&fake.descriptors));
        let answers: Arc<Answers> = answers.into();
        let serve = move || {
            while let Ok(client) = accept(&socket) {
                let (heard, descriptors) = (Arc::clone(&heard), Arc::clone(&descriptors));
                let answers = Arc::clone(&answers);
                std::thread::spawn(move || {
                    loop {
                        let (bytes, fds) = receive(&client);
                        if bytes.is_empty() {
                            break;
                        }
                        let answer = answers(&bytes);
                        heard.lock().unwrap().push(bytes);
                        *descriptors.lock().unwrap() += fds;
                        let _ = send(&client, &answer, SendFlags::NOSIGNAL);
                    }
                });
            }
        };
        // It ends with the test binary.
        std::thread::spawn(serve);
        fake
    }

    /// Everything that it was asked but for the two questions that all versions know.
    fn requests(&self) -> Vec<Vec<u8>> {
        let known = |bytes: &Vec<u8>| bytes == &FIRST_UPGRADE || bytes.starts_with(b"\xc0H\x01\x00");
        self.heard.lock().unwrap().iter().filter(|bytes| !known(bytes)).cloned().collect()
    }
}

/// A keeper of version 1 that cannot be upgraded.
fn old_keeper(bytes: &[u8]) -> Vec<u8> {
    match bytes {
        b"\n" => FIRST_DONE.to_vec(),
        _ => first_refusal("the request cannot be read: is the client of another version?"),
    }
}

/// A keeper of the version after this one.
fn newer_keeper(bytes: &[u8]) -> Vec<u8> {
    let version = (KEEPER_PROTOCOL.version + 1).to_le_bytes();
    match bytes {
        b"\xc0H\x01\x00\x01" => [&b"\xc0H\x01\x00"[..], &version, b" and more"].concat(),
        _ => [&b"\xc0K"[..], &version, b"something"].concat(),
    }
}

#[test]
fn a_keeper_of_another_release_is_refused_by_name_and_asked_for_nothing() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    let asked_to_upgrade = |answers: fn(&[u8]) -> Vec<u8>, version: &str, hint: &str| {
        let fake = Fake::start(&kept.run_dir(), Box::new(answers));
        let words = |verb: &str| kept.sandbox.coracle([verb, &kept.sandbox.id("box")]);
        let launched =
            prepare(&kept.sandbox, "box", ["-d", "box", "/bin/true"]).patience(Duration::from_secs(60)).go();
        let told = format!("speaks version {version} of its protocol, this coracle version 2");
        assert!(launched.stderr.contains(hint), "{launched}");
        for output in [launched, words("wait"), words("attach")] {
            assert!(output.stderr.contains(&told), "{output}");
            assert_ne!(output.code(), Some(0), "{output}");
        }
        assert_eq!(kept.sandbox.status("box"), None, "nothing is left");
        assert_eq!(fake.requests(), [[0; 0]; 0]);
        assert_eq!(*fake.descriptors.lock().unwrap(), 0);
        fake.heard.lock().unwrap().contains(&FIRST_UPGRADE.to_vec())
    };
    assert!(asked_to_upgrade(old_keeper, "1", "install the same release of coracle-keeper"));
    assert!(!asked_to_upgrade(newer_keeper, "3", "install that release of coracle"), "it is not to go back");
    fs::remove_file(kept.run_dir().join("keeper.sock")).unwrap();
}

#[test]
fn a_daemon_does_not_start_beside_a_keeper_of_a_newer_release() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::stopped("");
    let fake = Fake::start(&serve.kept().run_dir(), Box::new(newer_keeper));
    let output = start_and_end(&serve);
    assert!(output.contains("speaks version 3 of its protocol, this coracle version 2"), "{output}");
    assert_eq!(fake.requests(), [[0; 0]; 0]);
    fs::remove_file(serve.kept().run_dir().join("keeper.sock")).unwrap();
}

/// Starts the daemon, which ends by itself: what it says.
fn start_and_end(serve: &Serve) -> String {
    let mut child = serve.command().spawn().unwrap();
    wait_until("coracle serve to end", || child.try_wait().unwrap());
    serve.log()
}

#[test]
fn an_old_keeper_is_asked_to_execute_its_program_first() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    let run = kept.run_dir();
    // As its program would: the keeper that was asked is this release's from then on.
    let upgrade = {
        let run = run.clone();
        move |bytes: &[u8]| {
            if bytes == FIRST_UPGRADE {
                fs::remove_file(run.join("keeper.sock")).unwrap();
                let started = Command::new(keeper_program()).arg("--run").arg(&run).status().unwrap();
                assert!(started.success());
            }
            old_keeper(bytes)
        }
    };
    let fake = Fake::start(&run, Box::new(upgrade));
    kept.launch("box", &[], "echo here; exit 4");
    assert_eq!(kept.wait("box"), 4);
    assert_eq!(kept.logs("box"), "here\n");
    assert_eq!(fake.requests(), [[0; 0]; 0]);
    assert!(fake.heard.lock().unwrap().contains(&FIRST_UPGRADE.to_vec()));
}

/// All requests of version 1 that do something, for the container `box` of one byte.
fn first_requests(id: &str) -> Vec<Vec<u8>> {
    let named = |kind: u8| [&[kind, u8::try_from(id.len()).unwrap()], id.as_bytes()].concat();
    let mut all = vec![vec![1], vec![2], vec![8], vec![9], vec![11]];
    all.extend([3, 5, 7, 15].map(named));
    // Attach with input, Resize, Adopt, Resume, Decide: give up.
    all.extend([[named(4), vec![1]].concat(), [named(6), vec![24, 80]].concat(), vec![12, 14]]);
    all.extend([[named(13), vec![0]].concat(), [named(14), vec![0]].concat()]);
    // Launch: log, exit file, command and the rest empty.
    all.push([named(0), vec![0; 7]].concat());
    all
}

#[test]
fn a_client_of_another_release_is_refused_by_name_and_changes_nothing() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("box", &["-i"], "echo begun; read x; echo ended $x; exit 6");
    kept.wait_for_log("box", "begun");
    let (run, id) = (kept.run_dir(), kept.sandbox.id("box"));
    let before = (kept.client().list().unwrap(), kept.keeper());
    for request in first_requests(&id) {
        let answer = Raw::connect(&run).ask(&request);
        let text = "the keeper speaks version 2 of its protocol, this coracle version 1: upgrade coracle";
        assert_eq!(answer, first_refusal(text), "{request:?}");
        // The same with the head of a version to come: the head of the answer says ours.
        let answer = Raw::connect(&run).ask(&[b"\xc0K\x03\x00", &request[..]].concat());
        assert!(answer.starts_with(&KEEPER_PROTOCOL.head()), "{request:?}: {answer:?}");
        assert!(
            String::from_utf8_lossy(&answer).contains("version 3 of the keeper's protocol"),
            "{answer:?}"
        );
    }
    // Cut off, too long, of another format, noise.
    let refused = |bytes: &[u8]| {
        let answer = Raw::connect(&run).ask(bytes);
        assert!(answer.starts_with(&KEEPER_PROTOCOL.head()) || answer.starts_with(&[3, 3]), "{answer:?}");
    };
    for noise in
        [&b"\xc0"[..], b"\xc0K\x02", b"\xc0K\x02\x00", b"\xc0R\x02\x00\x02", b"\xc0K\x02\x00\x02\x00"]
    {
        refused(noise);
    }
    refused(&[0xff; 4000]);
    assert_eq!((kept.client().list().unwrap(), kept.keeper()), before);
    let attached = kept.client().attach(&id, true).unwrap();
    attached.send(&Frame::Input(b"well\n")).unwrap();
    assert_eq!(kept.wait("box"), 6);
    assert_eq!(kept.logs("box"), "begun\nended well\n");
}

/// A keeper whose program is a file of the test's, with a container that would notice if its terminal ended.
fn keeper_with_own_program(kept: &Kept) -> PathBuf {
    let program = kept.sandbox.path("coracle-keeper");
    copy_program(keeper_program(), &program);
    let words = ["-d", "-t", "-i", "box", "/bin/sh", "-c", "echo begun; read x; echo got $x; exit 3"];
    prepare(&kept.sandbox, "box", words).env("CORACLE_KEEPER", &program).go().ok();
    kept.wait_for_log("box", "begun");
    program
}

/// Puts a script in the program's place, as a package manager would.
fn replace_by_script(program: &Path, script: &str) {
    let new = program.with_extension("new");
    fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, program).unwrap();
}

#[test]
fn after_a_downgrade_the_keeper_goes_on_until_a_program_that_knows_its_state_lies_there() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    let program = keeper_with_own_program(&kept);
    let before = kept.keeper();
    // As a keeper from before there were versions answers to what it does not know.
    replace_by_script(&program, "echo 'error: unknown argument \"--can-resume\"' >&2; exit 1");
    let upgrade = || Run::new(keeper_program()).arg("--upgrade").arg("--run").arg(kept.run_dir()).go();
    let refused = upgrade();
    assert!(refused.stderr.contains("does not know version 3 of the keeper's state"), "{refused}");
    assert!(refused.stderr.contains("its containers go on as before"), "{refused}");
    // So says the answer to an old program that asks, too.
    let answer = Raw::connect(&kept.run_dir()).ask(&FIRST_UPGRADE);
    assert!(answer.starts_with(&[3, 3]) && String::from_utf8_lossy(&answer).contains("cannot take over"));
    kept.signal_keeper(Signal::HUP);
    wait_until("the keeper to complain", || {
        let log = fs::read_to_string(kept.run_dir().join("keeper.log")).ok()?;
        (log.matches("upgrade: the program that lies there now cannot take over").count() == 3).then_some(())
    });
    assert_eq!(kept.keeper(), before);
    let new = program.with_extension("new");
    copy_program(keeper_program(), &new);
    fs::rename(new, &program).unwrap();
    upgrade().ok();
    wait_until("another standby", || (kept.keeper().1 != before.1).then_some(()));
    assert_eq!(kept.keeper().0, before.0, "its pid stays");
    let attached = kept.client().attach(&kept.sandbox.id("box"), true).unwrap();
    attached.send(&Frame::Input(b"it\n")).unwrap();
    assert_eq!(kept.wait("box"), 3, "its terminal was hung up");
    assert!(kept.logs("box").contains("got it"));
}

#[test]
fn a_program_that_does_not_answer_is_not_executed() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    let program = keeper_with_own_program(&kept);
    let before = kept.keeper();
    replace_by_script(&program, "exec sleep 1000");
    let refused = Run::new(keeper_program()).arg("--upgrade").arg("--run").arg(kept.run_dir()).go();
    assert!(refused.stderr.contains("does not answer"), "{refused}");
    assert_eq!(kept.keeper(), before);
    // Meanwhile and after it works as before.
    kept.client().close_stdin(&kept.sandbox.id("box")).unwrap();
    assert_eq!(kept.wait("box"), 3);
}

/// A file that another release might have written: the version raised, and behind it what this one does not understand.
fn of_next_release(path: &Path, version: u16) -> Vec<u8> {
    let whole = fs::read(path).unwrap();
    let next = version + 1;
    let other = match whole[0] {
        0xc0 => [&whole[..2], &next.to_le_bytes(), b"what nobody knows yet"].concat(),
        b'{' => format!(r#"{{"version":{next},"unknown":[]}}"#).into_bytes(),
        _ => format!("version={next}\nended=yes\n").into_bytes(),
    };
    fs::write(path, &other).unwrap();
    whole
}

#[test]
fn a_keeper_does_not_begin_where_another_release_has_left_records() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("box", &[], "while :; do sleep 0.02; done");
    let (keeper, standby) = kept.keeper();
    kept.signal_keeper(Signal::TERM);
    wait_until("both to be gone", || {
        let gone = |pid| !Path::new(&format!("/proc/{pid}/exe")).exists();
        (gone(keeper) && gone(standby)).then_some(())
    });
    let record = kept.run_dir().join("keeper").join(kept.sandbox.id("box")).join("record");
    let whole = of_next_release(&record, KEEPER_RECORD.version);
    let other = fs::read(&record).unwrap();
    let start = || Run::new(keeper_program()).arg("--run").arg(kept.run_dir()).go();
    let launched = || prepare(&kept.sandbox, "other", ["-d", "box", "/bin/true"]).go();
    for output in [start(), launched()] {
        assert_ne!(output.code(), Some(0), "{output}");
        assert!(output.stderr.contains("version 3 of the keeper's record of a container"), "{output}");
        assert_eq!(fs::read(&record).unwrap(), other);
    }
    assert_eq!(kept.sandbox.status("box").as_deref(), Some("running"));
    assert_eq!(kept.sandbox.status("other"), None);
    // The release that wrote it comes back.
    fs::write(&record, whole).unwrap();
    start().ok();
    assert_eq!(kept.client().list().unwrap().len(), 1);
    kept.sandbox.coracle(["stop", "-t", "0", &kept.sandbox.id("box")]).ok();
}

#[test]
fn a_daemon_does_not_begin_where_another_release_has_left_records() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("kept"));
    let id = serve.run_pod(&pod);
    let runs =
        serve.run_container(&id, &pod, &container(&pod, "runs", "while :; do echo tick; sleep 0.05; done"));
    let ends = serve.run_container(
        &id,
        &pod,
        &container(&pod, "ends", "while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 5"),
    );
    serve.output_in(&ends, "mkdir -p /tmp");
    let pid = serve.kept().client().list().unwrap().iter().find(|(id, _)| *id == ends).unwrap().1;
    serve.kill();
    fs::write(format!("/proc/{pid}/root/tmp/go"), "").unwrap();
    let exit = serve.sandbox().root().join(&ends).join("exit");
    wait_until("the exit file", || exit.exists().then_some(()));
    let directory = serve.kept().run_dir().join("pods").join(&id);
    let of_container = directory.join("containers").join(&runs).join("record");
    for (path, format) in
        [(directory.join("record"), SANDBOX_RECORD), (of_container, CONTAINER_RECORD), (exit, EXIT)]
    {
        let whole = of_next_release(&path, format.version);
        let other = fs::read(&path).unwrap();
        fs::remove_file(serve.path("serve.log")).ok();
        let said = start_and_end(&serve);
        let version = format!("version {} of {}", format.version + 1, format.name);
        assert!(said.contains(&version), "{version}: {said}");
        assert_eq!(fs::read(&path).unwrap(), other, "{}", path.display());
        fs::write(&path, whole).unwrap();
    }
    let lines = serve.log_of("runs").len();
    wait_until("the log to go on", || (serve.log_of("runs").len() > lines).then_some(()));
    // The release that wrote them comes back.
    serve.start();
    assert_eq!(serve.container_state(&runs), ContainerState::ContainerRunning);
    assert_eq!(serve.exited(&ends).exit_code, 5);
    serve.removes_all();
}

#[test]
fn what_the_release_before_wrote_of_an_end_is_read() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("box", &[], "exit 9");
    assert_eq!(kept.wait("box"), 9);
    let exit = kept.sandbox.root().join(kept.sandbox.id("box")).join("exit");
    let text = fs::read_to_string(&exit).unwrap();
    assert!(text.starts_with("version=2\ncode=9\n"), "{text}");
    fs::write(&exit, "code=9\noom=true\nunknown=false\nat=2026-01-02T03:04:05.000000000Z\n").unwrap();
    assert_eq!(kept.wait("box"), 9);
    let state = kept.sandbox.state("box");
    assert_eq!((&state["exitCode"], &state["oomKilled"]), (&9.into(), &true.into()));
    assert_eq!(state["finishedAt"], "2026-01-02T03:04:05.000000000Z");
    of_next_release(&exit, EXIT.version);
    let refused = kept.sandbox.coracle(["wait", &kept.sandbox.id("box")]);
    assert!(refused.stderr.contains("version 3 of the record of a container's end"), "{refused}");
    fs::write(&exit, text).unwrap();
    kept.rm("box");
}
