//! The messages that are the same in all versions: by them a client finds out which version the keeper speaks before it
//! asks for anything, and has a keeper of another version execute its program anew.
//!
//! ```text
//! client   head of GREETING | 1: which version? | 2: execute the program anew
//! keeper   to 1   head | version of the protocol u16 LE
//!          to 2   head | 0, before it happens | 1, then a text: why it does not
//! ```
//!
//! Keepers of version 1, from before there were heads, know none of this. What they answer to it has no head; they execute
//! their program when they get the one request of theirs that is written down here.

use crate::record::format::{GREETING, KEEPER_PROTOCOL};

/// `Request::Upgrade` of version 1, and the answer.
const FIRST_UPGRADE: [u8; 1] = [10];
const FIRST_DONE: [u8; 1] = [1];

/// `Response::Refused(Refusal::Failed(..))` of version 1, but for its text.
const FIRST_REFUSED: [u8; 2] = [3, 3];

const ASK: u8 = 1;
const UPGRADE: u8 = 2;

/// What a client says first, or instead of everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::keeper) enum Greeting {
    /// Which version do you speak?
    Ask,
    /// Execute your program anew.
    Upgrade,
    /// The same, from a client of version 1.
    FirstUpgrade,
}

/// Whether the keeper executes its program anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::keeper) enum Upgraded {
    Yes,
    No(String),
}

impl Greeting {
    /// What is sent for it.
    pub(in crate::keeper) fn bytes(self) -> Vec<u8> {
        match self {
            Self::Ask => framed(&[ASK]),
            Self::Upgrade => framed(&[UPGRADE]),
            Self::FirstUpgrade => FIRST_UPGRADE.to_vec(),
        }
    }

    /// Reads it back; none for whatever else a client may send.
    pub(in crate::keeper) fn read(bytes: &[u8]) -> Option<Self> {
        if bytes == FIRST_UPGRADE {
            return Some(Self::FirstUpgrade);
        }
        match body(bytes) {
            Some([ASK]) => Some(Self::Ask),
            Some([UPGRADE]) => Some(Self::Upgrade),
            _ => None,
        }
    }
}

/// What stands behind the head; none without one.
fn body(bytes: &[u8]) -> Option<&[u8]> {
    bytes.strip_prefix(&GREETING.head())
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&GREETING.head(), body].concat()
}

/// The answer to [`Greeting::Ask`].
pub(in crate::keeper) fn own_version() -> Vec<u8> {
    framed(&KEEPER_PROTOCOL.version.to_le_bytes())
}

/// Reads the answer to [`Greeting::Ask`]: the version of the keeper's protocol.
pub(in crate::keeper) fn version(answer: &[u8]) -> u16 {
    match body(answer) {
        Some([low, high, ..]) => u16::from_le_bytes([*low, *high]),
        _ => 1,
    }
}

/// The answer to a request for an upgrade, for a client that asked with or without a head.
pub(in crate::keeper) fn upgraded(asked: Greeting, answer: &Upgraded) -> Vec<u8> {
    match (asked, answer) {
        (Greeting::FirstUpgrade, Upgraded::Yes) => FIRST_DONE.to_vec(),
        (Greeting::FirstUpgrade, Upgraded::No(why)) => first_refusal(why),
        (_, Upgraded::Yes) => framed(&[0]),
        (_, Upgraded::No(why)) => framed(&[&[1], why.as_bytes()].concat()),
    }
}

/// Reads that answer; none when it cannot be understood.
pub(in crate::keeper) fn read_upgraded(answer: &[u8]) -> Option<Upgraded> {
    if answer == FIRST_DONE {
        return Some(Upgraded::Yes);
    }
    match body(answer)? {
        [0] => Some(Upgraded::Yes),
        [1, why @ ..] => Some(Upgraded::No(String::from_utf8_lossy(why).into_owned())),
        _ => None,
    }
}

/// A refusal in the words of version 1: its clients show the text.
pub(in crate::keeper) fn first_refusal(why: &str) -> Vec<u8> {
    let text = postcard::to_allocvec(why).unwrap_or_default();
    [&FIRST_REFUSED[..], &text].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::golden;

    #[test]
    fn golden_greetings() {
        let no = Upgraded::No("why".to_owned());
        let samples = [
            ("ask", Greeting::Ask.bytes()),
            ("upgrade", Greeting::Upgrade.bytes()),
            ("upgraded", upgraded(Greeting::Upgrade, &Upgraded::Yes)),
            ("not-upgraded", upgraded(Greeting::Upgrade, &no)),
            // These must never change, for there is no other version of a greeting.
            ("first-upgrade", Greeting::FirstUpgrade.bytes()),
            ("first-upgraded", upgraded(Greeting::FirstUpgrade, &Upgraded::Yes)),
            ("first-not-upgraded", upgraded(Greeting::FirstUpgrade, &no)),
        ];
        golden::check("src/keeper/golden", "greeting", GREETING, &samples);
    }

    #[test]
    fn greetings_are_read_back_and_nothing_else_is_one() {
        for greeting in [Greeting::Ask, Greeting::Upgrade, Greeting::FirstUpgrade] {
            assert_eq!(Greeting::read(&greeting.bytes()), Some(greeting));
        }
        for other in [&b""[..], &[9], &framed(&[]), &framed(&[3]), &framed(&[1, 1]), &KEEPER_PROTOCOL.head()]
        {
            assert_eq!(Greeting::read(other), None, "{other:?}");
        }
        assert_eq!(version(&own_version()), KEEPER_PROTOCOL.version);
        for other in [&b""[..], &first_refusal("x"), &framed(&[9])] {
            assert_eq!(version(other), 1, "{other:?}");
        }
        for answer in [Upgraded::Yes, Upgraded::No("why".to_owned())] {
            assert_eq!(read_upgraded(&upgraded(Greeting::Upgrade, &answer)), Some(answer));
        }
        assert_eq!(read_upgraded(&first_refusal("x")), None);
    }
}
