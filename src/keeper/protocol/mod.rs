//! What clients and the keeper say to each other: one postcard value a message over a SOCK_SEQPACKET socket, behind the
//! head that names the version ([`KEEPER_PROTOCOL`]), descriptors by SCM_RIGHTS. A connection asks one thing after the
//! other; one that has attached speaks [`Frame`]s from then on.

mod greeting;
mod message;
mod socket;
mod state;

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

pub(in crate::keeper) use greeting::{
    Greeting, Upgraded, first_refusal, own_version, read_upgraded, upgraded, version,
};
pub use message::{Frame, Order, Stdin, Stream, Terms};
pub(in crate::keeper) use message::{Refusal, Request, Response};
pub(in crate::keeper) use socket::{address, containers};
pub(in crate::keeper) use state::{Holds, StateMessage};

use crate::record::format::{KEEPER_PROTOCOL, Unreadable};

/// The longest message, in bytes. Plans, which may be longer, come as files in memory.
pub(in crate::keeper) const MOST: usize = 64 << 10;

/// The longest piece of a stream in one frame, in bytes.
pub const MOST_DATA: usize = 16 << 10;

/// As many descriptors as the kernel passes in one message (SCM_MAX_FD).
const MOST_FDS: usize = 253;

/// Sends one message.
///
/// # Errors
/// The errno of sendmsg(2): `EAGAIN` when the socket does not block and is full, `EPIPE` when the other side is gone;
/// `EMSGSIZE` for what cannot be a message.
pub(in crate::keeper) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    fds: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let bytes = KEEPER_PROTOCOL.encode(message).map_err(|_| Errno::MSGSIZE)?;
    send_bytes(socket, &bytes, fds)
}

/// Sends one message as it is.
///
/// # Errors
/// As [`send`].
pub(in crate::keeper) fn send_bytes(
    socket: impl AsFd,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    if bytes.len() > MOST {
        return Err(Errno::MSGSIZE);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::MSGSIZE);
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Receives one message into `buffer`: its length and its descriptors; 0 bytes are the end.
///
/// # Errors
/// The errno of recvmsg(2); `EMSGSIZE` for one that was too long.
pub(in crate::keeper) fn receive(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Err(Errno::INTR) => {}
            // A peer that closes without having read everything resets the connection. The kernel reports that once, and
            // before the last message: receiving again gets that message, or the end.
            Err(Errno::CONNRESET) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            fds.extend(passed);
        }
    }
    match got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        true => Err(Errno::MSGSIZE),
        false => Ok((got.bytes, fds)),
    }
}

/// Reads a message back.
///
/// # Errors
/// It has another version, or is none.
pub(in crate::keeper) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Unreadable> {
    KEEPER_PROTOCOL.decode(bytes)
}

#[cfg(test)]
mod tests;
