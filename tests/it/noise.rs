//! Noise on the sockets: bytes that no client of ours sends, and messages whose fields are wrong. What answers goes on
//! answering, and nothing is left of it.

use std::io::Write;
use std::os::unix::net::UnixStream;

use coracle_cri::v1::*;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with,
};

use crate::keeper::Kept;
use crate::support::{Serve, container, pod_on_host};

/// Numbers that look random and are the same in every run (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.roll(256)).unwrap()
    }

    /// These bytes with some of them changed, left out, doubled or cut off.
    fn spoil(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut spoiled = bytes.to_vec();
        for _ in 0..=self.roll(4) {
            let at = self.roll(spoiled.len().max(1));
            match self.roll(5) {
                _ if spoiled.is_empty() => spoiled.push(self.byte()),
                0 => spoiled[at] = self.byte(),
                1 => drop(spoiled.remove(at)),
                2 => spoiled.insert(at, [0, 1, 0x7f, 0x80, 0xff][self.roll(5)]),
                3 => spoiled.truncate(at),
                _ => spoiled[at] ^= 1 << self.roll(8),
            }
        }
        spoiled
    }
}

#[test]
fn a_keeper_goes_on_whatever_comes_on_its_socket() {
    needs!(root, launch_verb);
    let kept = Kept::new();
    kept.launch("first", &[], "exec sleep 1000");
    let (keeper, _) = kept.keeper();
    let address = SocketAddrUnix::new(kept.run_dir().join("keeper.sock")).unwrap();
    let mut dice = Dice(0x5eed);
    for round in 0..600 {
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        connect(&socket, &address).unwrap();
        for _ in 0..=dice.roll(3) {
            // The first byte says which request it is; what follows is a name, a path or a number.
            // 11 is a keeper that wants to take over, which is no noise.
            let mut bytes = vec![[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 0x80, 0xff][round % 14]];
            bytes.extend(dice.spoil(b"\x05first\x01\x00\x01\x0b/etc/passwd\x00"));
            if round % 50 == 0 {
                bytes.resize(100_000, 0xff);
            }
            // It may have hung up already.
            let _ = send(&socket, &bytes, SendFlags::NOSIGNAL);
        }
    }
    assert_eq!(kept.keeper().0, keeper, "it is the same keeper");
    kept.launch("second", &[], "exit 7");
    assert_eq!(kept.wait("second"), 7);
}

#[test]
fn a_daemon_goes_on_whatever_a_request_holds() {
    needs!(root, busybox);
    use coracle_cri::Message;
    let serve = Serve::new();
    let pid = serve.pid();
    let pod = pod_on_host("noise");
    let id = serve.run_pod(&pod);
    let create = CreateContainerRequest {
        pod_sandbox_id: id.clone(),
        config: Some(container(&pod, "noise", "exit 0")),
        sandbox_config: Some(pod.clone()),
    };
    let (create, run) =
        (create.encode_to_vec(), RunPodSandboxRequest { config: Some(pod), ..Default::default() });
    let run = run.encode_to_vec();
    let mut dice = Dice(0xcafe);
    let (mut sent, mut made) = (0, 0);
    while sent < 150 {
        if let Ok(request) = CreateContainerRequest::decode(&*dice.spoil(&create)) {
            sent += 1;
            made += usize::from(serve.run(serve.runtime().create_container(request)).is_ok());
        }
        if let Ok(request) = RunPodSandboxRequest::decode(&*dice.spoil(&run)) {
            sent += 1;
            made += usize::from(serve.run(serve.runtime().run_pod_sandbox(request)).is_ok());
        }
    }
    // And what is no HTTP/2 at all.
    for _ in 0..100 {
        let mut stream = UnixStream::connect(serve.socket()).unwrap();
        let _ = stream.write_all(&dice.spoil(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"));
    }
    assert!(made > 0, "some of it is harmless");
    assert_eq!(serve.pid(), pid);
    assert!(!serve.log().contains("panicked"), "{}", serve.log());
    serve.run(serve.runtime().version(VersionRequest::default())).unwrap();
    serve.removes_all();
    serve.is_clean();
}
