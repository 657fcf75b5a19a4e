//! The child's final message: the applied layer, or an error with its kind, chain and hint.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::super::layer::Applied;
use crate::error::{Doing, Error, Kind, Result};

/// The longest message, in bytes: fifty warnings and an error.
pub(super) const MAX_MESSAGE: u64 = 1 << 20;

/// The kinds by number; both processes run the same program.
const KINDS: [Kind; 12] = [
    Kind::NotFound,
    Kind::Exists,
    Kind::WrongState,
    Kind::Invalid,
    Kind::Denied,
    Kind::Unsupported,
    Kind::Busy,
    Kind::Corrupt,
    Kind::Unreachable,
    Kind::TimedOut,
    Kind::System,
    Kind::Bug,
];

#[derive(Serialize, Deserialize)]
enum Message {
    Applied(Applied),
    Failed {
        kind: usize,
        /// The outermost error first.
        chain: Vec<String>,
        hint: Option<String>,
        errno: Option<i32>,
    },
}

pub(super) fn send(result: Result<Applied>, to: &OwnedFd) -> Result<()> {
    let answer = match result {
        Ok(applied) => Message::Applied(applied),
        Err(error) => failed(&error),
    };
    let text = serde_json::to_vec(&answer).doing(|| "answer")?;
    File::from(to.try_clone().doing(|| "answer")?).write_all(&text).doing(|| "answer")
}

/// Parses the message in `text`; `None` if it is incomplete.
pub(super) fn read(text: &[u8]) -> Option<Result<Applied>> {
    Some(match serde_json::from_slice(text).ok()? {
        Message::Applied(applied) => Ok(applied),
        Message::Failed { kind, mut chain, hint, errno } => {
            let kind = KINDS.get(kind).copied().unwrap_or(Kind::Bug);
            let errno = errno.map(Errno::from_raw_os_error);
            if errno.is_some() && chain.len() > 1 {
                chain.pop();
            }
            let mut error = Error::new(kind, chain.pop().unwrap_or_default());
            if let Some(errno) = errno {
                error = error.because(errno);
            }
            if let Some(hint) = hint {
                error = error.hint(hint);
            }
            Err(chain.into_iter().rev().fold(error, Error::doing))
        }
    })
}

fn failed(error: &Error) -> Message {
    let (mut chain, mut errno) = (Vec::new(), None);
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        chain.push(cause.to_string());
        errno = match cause.downcast_ref::<std::io::Error>() {
            Some(error) => error.raw_os_error(),
            None => cause.downcast_ref::<Errno>().map(|errno| errno.raw_os_error()),
        };
        next = cause.source();
    }
    let kind = KINDS.iter().position(|kind| *kind == error.kind()).unwrap_or(KINDS.len());
    Message::Failed { kind, chain, hint: error.first_hint().map(str::to_owned), errno }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_kind_chain_hint_and_errno() {
        let error = Err::<(), _>(Errno::NOSPC)
            .doing(|| "write the file")
            .map_err(|error| error.hint("free some space").doing("unpack \"x\""))
            .unwrap_err();
        let Message::Failed { kind, chain, hint, errno } = failed(&error) else { unreachable!() };
        assert_eq!(errno, Some(libc::ENOSPC));
        let text = serde_json::to_vec(&Message::Failed { kind, chain, hint, errno }).unwrap();
        let back = read(&text).unwrap().unwrap_err();
        assert_eq!((back.kind(), back.chain()), (error.kind(), error.chain()));
        assert_eq!(back.first_hint(), Some("free some space"));
        let plain = Error::new(Kind::Corrupt, "the tar archive is damaged").doing("read it");
        let back = read(&serde_json::to_vec(&failed(&plain)).unwrap()).unwrap().unwrap_err();
        assert_eq!((back.kind(), back.chain()), (Kind::Corrupt, plain.chain()));
        assert!(read(&text[..text.len() / 2]).is_none());
        for kind in KINDS {
            let Message::Failed { kind: number, .. } = failed(&Error::new(kind, "x")) else { unreachable!() };
            assert_eq!(KINDS[number], kind);
        }
    }
}
