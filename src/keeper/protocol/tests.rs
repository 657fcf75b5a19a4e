//! Golden bytes of the messages, and what is refused.

use super::*;
use crate::record::Exit;

#[test]
fn the_last_word_of_a_client_is_heard_though_it_left_something_unread() {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let kind = (AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let (ours, theirs) = socketpair(kind.0, kind.1, kind.2, None).unwrap();
    send(&ours, &Response::Done, &[]).unwrap();
    send(&theirs, &Request::List, &[]).unwrap();
    drop(theirs);
    let mut buffer = [0; 64];
    let (length, _) = receive(&ours, &mut buffer).unwrap();
    assert_eq!(decode::<Request>(&buffer[..length]), Ok(Request::List));
    assert_eq!(receive(&ours, &mut buffer).unwrap().0, 0);
}

#[test]
fn messages_survive_the_wire_and_noise_is_none() {
    let request = Request::Attach { id: "x".to_owned(), stdin: true };
    let bytes = KEEPER_PROTOCOL.encode(&request).unwrap();
    assert_eq!(decode::<Request>(&bytes), Ok(request));
    let bytes = KEEPER_PROTOCOL.encode(&Frame::Output(Stream::Stderr, b"text")).unwrap();
    assert_eq!(decode::<Frame<'_>>(&bytes), Ok(Frame::Output(Stream::Stderr, b"text")));
    assert!(decode::<Request>(&[0xff; 40]).is_err());
    assert!(decode::<Request>(&[]).is_err());
}

fn order() -> Order {
    Order {
        id: "box".to_owned(),
        log: Some("/var/log/box".into()),
        exit_file: Some("/run/box/exit".into()),
        exit_command: vec!["coracle".to_owned(), "rm".to_owned()],
        oom_file: Some("/sys/fs/cgroup/box/memory.events".into()),
        stdin: Stdin::Once,
        has_cgroup: true,
        has_console: false,
    }
}

fn exit() -> Exit {
    Exit { code: 137, signal: Some(9), oom: true, unknown: false, at_ns: 1_767_225_600_000_000_000 }
}

fn encoded(message: &impl Serialize) -> Vec<u8> {
    KEEPER_PROTOCOL.encode(message).unwrap()
}

/// A name for each: a request that is added fails to compile here.
fn name_of(request: &Request) -> &'static str {
    match request {
        Request::Launch(_) => "launch",
        Request::Keep => "keep",
        Request::GiveUp => "give-up",
        Request::Wait(_) => "wait",
        Request::Attach { .. } => "attach",
        Request::CloseStdin(_) => "close-stdin",
        Request::Resize { .. } => "resize",
        Request::Reopen(_) => "reopen",
        Request::Watch => "watch",
        Request::List => "list",
        Request::TakeOver => "take-over",
        Request::Adopt(_) => "adopt",
        Request::Resume { .. } => "resume",
        Request::Decide { .. } => "decide",
        Request::Settle(_) => "settle",
    }
}

fn requests() -> Vec<Request> {
    let id = || "box".to_owned();
    vec![
        Request::Launch(order()),
        Request::Launch(Order { id: id(), stdin: Stdin::Open, ..Order::default() }),
        Request::Keep,
        Request::GiveUp,
        Request::Wait(id()),
        Request::Attach { id: id(), stdin: true },
        Request::CloseStdin(id()),
        Request::Resize { id: id(), rows: 24, columns: 80 },
        Request::Reopen(id()),
        Request::Watch,
        Request::List,
        Request::TakeOver,
        Request::Adopt(7),
        Request::Resume { id: id(), console: true },
        Request::Decide { id: id(), keep: true },
        Request::Settle(id()),
    ]
}

fn name_of_response(response: &Response) -> &'static str {
    match response {
        Response::Spawned(_) => "spawned",
        Response::Done => "done",
        Response::Attached(_) => "attached",
        Response::Refused(Refusal::Unknown) => "unknown",
        Response::Refused(Refusal::Exists) => "exists",
        Response::Refused(Refusal::Closed) => "closed",
        Response::Refused(Refusal::Failed(_)) => "failed",
        Response::Exited(_) => "exited",
        Response::Listed(_) => "listed",
        Response::Ended(..) => "ended",
        Response::HandedOver => "handed-over",
    }
}

fn responses() -> Vec<Response> {
    vec![
        Response::Spawned(7),
        Response::Done,
        Response::Attached(Terms { terminal: true, stdin: false }),
        Response::Refused(Refusal::Unknown),
        Response::Refused(Refusal::Exists),
        Response::Refused(Refusal::Closed),
        Response::Refused(Refusal::Failed("why".to_owned())),
        Response::Exited(exit()),
        Response::Listed(vec![("box".to_owned(), 7)]),
        Response::Ended("box".to_owned(), exit()),
        Response::HandedOver,
    ]
}

fn frames() -> Vec<(&'static str, Frame<'static>)> {
    let name = |frame: &Frame<'_>| match frame {
        Frame::Output(..) => "output",
        Frame::Lost(_) => "lost",
        Frame::Exited(_) => "exited",
        Frame::Input(_) => "input",
        Frame::InputEnd => "input-end",
        Frame::Resize(..) => "resize",
    };
    let all = [
        Frame::Output(Stream::Stdout, b"out"),
        Frame::Output(Stream::Stderr, b"err"),
        Frame::Lost(70_000),
        Frame::Exited(exit()),
        Frame::Input(b"in"),
        Frame::InputEnd,
        Frame::Resize(24, 80),
    ];
    all.into_iter().map(|frame| (name(&frame), frame)).collect()
}

#[test]
fn golden_messages() {
    const GOLDEN: &str = "src/keeper/golden";
    use crate::record::golden::check;
    let samples: Vec<_> = requests().iter().map(|r| (name_of(r), encoded(r))).collect();
    check(GOLDEN, "request", KEEPER_PROTOCOL, &samples);
    let samples: Vec<_> = responses().iter().map(|r| (name_of_response(r), encoded(r))).collect();
    check(GOLDEN, "response", KEEPER_PROTOCOL, &samples);
    let samples: Vec<_> = frames().iter().map(|(name, frame)| (*name, encoded(frame))).collect();
    check(GOLDEN, "frame", KEEPER_PROTOCOL, &samples);
}

#[test]
fn what_is_cut_off_or_of_another_version_is_refused_by_name() {
    use crate::record::golden::refuses_what_it_does_not_know;
    for request in requests() {
        refuses_what_it_does_not_know(KEEPER_PROTOCOL, &encoded(&request), |bytes| {
            decode::<Request>(bytes).map(drop)
        });
    }
    refuses_what_it_does_not_know(KEEPER_PROTOCOL, &encoded(&Frame::Resize(24, 80)), |bytes| {
        decode::<Frame<'_>>(bytes).map(drop)
    });
}

proptest::proptest! {
    #[test]
    fn noise_is_an_error_and_never_a_panic(bytes: Vec<u8>, head: bool) {
        let bytes = if head { [&KEEPER_PROTOCOL.head(), &bytes[..]].concat() } else { bytes };
        let _ = decode::<Request>(&bytes);
        let _ = decode::<Response>(&bytes);
        if let Ok(frame) = decode::<Frame<'_>>(&bytes) {
            let again = encoded(&frame);
            proptest::prop_assert_eq!(decode(&again), Ok(frame));
        }
    }
}
