//! The formats that processes exchange: messages, plans, records on disk. The other process may be another release,
//! so each of them begins with a version, and a reader that does not know the version reports it by name and changes
//! nothing. This file is the only place that defines the versions and the framing.
//!
//! ```text
//! binary   0xC0 | tag of the format u8 | version u16 LE | body
//! JSON     {"version": N, ...}
//! text     version=N, then key=value, one a line
//! ```
//!
//! Version 1 of most formats is what releases wrote before there were versions: it has no head, and none of it begins
//! with 0xC0.
//!
//! A change of what is written needs a higher version here, a reader for the version before (an upgrade must find its
//! containers), and golden bytes for the new one: see [`golden`](super::golden).

use std::fmt;

#[cfg(feature = "node")]
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Kind};

/// The first byte of every binary format.
const MARK: u8 = 0xC0;

/// The length of the head of every binary format, in bytes.
pub const HEAD: usize = 4;

/// The version of what a client and a keeper, or a parent and the process it launches, exchange. It is one number,
/// because a client that knows its keeper speaks it sends plans without asking again.
const WIRE: u16 = 2;

/// A format: its name in messages, and the version that this program writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// The name, as in "version 3 of {name}".
    pub name: &'static str,
    /// Distinguishes binary formats.
    tag: u8,
    /// The version that this program writes.
    pub version: u16,
    /// The oldest version that this program reads.
    oldest: u16,
}

/// Messages between a client and the keeper, its launcher, its standby and its successor.
pub const KEEPER_PROTOCOL: Format = Format::new("the keeper's protocol", b'K', WIRE);
/// The plan of a process, as the keeper gets it, and the messages between that process and its parent.
pub const PLAN: Format = Format::new("the plan of a process", b'P', WIRE);
/// The keeper's record of a container on disk.
pub const KEEPER_RECORD: Format = Format::new("the keeper's record of a container", b'R', 2).reads_from(1);
/// The state that a keeper passes to the program it executes in its place.
pub const KEEPER_SNAPSHOT: Format = Format::new("the keeper's state", b'S', 3).reads_from(2);
/// How a container ended.
pub const EXIT: Format = Format::new("the record of a container's end", b'E', 2).reads_from(1);
/// The messages by which a client asks which version its keeper speaks, and has it execute the client's program: the
/// same in all versions.
pub const GREETING: Format = Format::new("the keeper's greeting", b'H', 1);
/// The state of a pod.
pub const SANDBOX_RECORD: Format = Format::new("the record of a pod", b'p', 2).reads_from(1);
/// The state of a pod's container.
pub const CONTAINER_RECORD: Format = Format::new("the record of a pod's container", b'c', 2).reads_from(1);
/// kubelet's request for a pod or a container.
pub const POD_REQUEST: Format = Format::new("the request for a pod or container", b'q', 2).reads_from(1);
/// An interface that is attached to a network.
pub const ATTACHMENT: Format = Format::new("the record of an attached interface", b'n', 2).reads_from(1);
/// The object `coracle` of a container's state.json, whose other keys are runc's.
pub const STATE: Format = Format::new("the state of a container", b's', 1).reads_from(0);
/// The directories of a cgroup that is being created.
pub const CGROUP_NOTE: Format = Format::new("the note of a container's cgroup", b'g', 2).reads_from(1);
/// The archives of images that were imported.
pub const ARCHIVES: Format = Format::new("the list of imported archives", b'a', 3).reads_from(1);

/// Why a message or record cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// Its version is unknown to this program.
    Version {
        /// The format.
        format: Format,
        /// The version.
        found: u16,
    },
    /// It is damaged.
    Damaged {
        /// The format.
        format: Format,
        /// What is wrong.
        why: String,
    },
}

impl Format {
    const fn new(name: &'static str, tag: u8, version: u16) -> Self {
        Self { name, tag, version, oldest: version }
    }

    const fn reads_from(self, oldest: u16) -> Self {
        Self { oldest, ..self }
    }

    /// Whether this program can read that version.
    pub fn reads(self, version: u16) -> bool {
        (self.oldest..=self.version).contains(&version)
    }

    /// The head of this binary format.
    pub fn head(self) -> [u8; HEAD] {
        let [low, high] = self.version.to_le_bytes();
        [MARK, self.tag, low, high]
    }

    /// Splits binary data into its version and its body, whether this program can read that version or not. Data
    /// without a head has version 1.
    ///
    /// # Errors
    /// `Damaged` when the head is incomplete, or belongs to another format.
    pub fn split(self, bytes: &[u8]) -> Result<(u16, &[u8]), Unreadable> {
        match *bytes {
            [MARK, tag, low, high, ref body @ ..] if tag == self.tag => {
                Ok((u16::from_le_bytes([low, high]), body))
            }
            [MARK, tag, _, _, ..] => Err(self.damaged(format!("it begins as format {:?}", char::from(tag)))),
            [] | [MARK, ..] => Err(self.damaged("its head is cut off")),
            _ => Ok((1, bytes)),
        }
    }

    /// As [`Format::split`], for a version that this program reads.
    ///
    /// # Errors
    /// `Version` for another one, `Damaged` as in `split`.
    pub fn open(self, bytes: &[u8]) -> Result<(u16, &[u8]), Unreadable> {
        let (version, body) = self.split(bytes)?;
        self.check(version).map(|()| (version, body))
    }

    /// # Errors
    /// `Version` for a version that this program does not read.
    pub fn check(self, found: u16) -> Result<(), Unreadable> {
        match self.reads(found) {
            true => Ok(()),
            false => Err(Unreadable::Version { format: self, found }),
        }
    }

    /// An error that names this format.
    pub fn damaged(self, why: impl fmt::Display) -> Unreadable {
        Unreadable::Damaged { format: self, why: why.to_string() }
    }

    /// Encodes a value: a head and a body in postcard.
    ///
    /// # Errors
    /// `Damaged` when the value cannot be encoded.
    #[cfg(feature = "node")]
    pub fn encode(self, body: &impl Serialize) -> Result<Vec<u8>, Unreadable> {
        postcard::to_extend(body, self.head().to_vec()).map_err(|e| self.damaged(e))
    }

    /// Decodes what [`Format::encode`] wrote in this version: the whole body, without trailing bytes.
    ///
    /// # Errors
    /// `Version` for any other version, `Damaged`.
    #[cfg(feature = "node")]
    pub fn decode<'a, T: Deserialize<'a>>(self, bytes: &'a [u8]) -> Result<T, Unreadable> {
        match self.split(bytes)? {
            (version, body) if version == self.version => self.read_body(body),
            (found, _) => Err(Unreadable::Version { format: self, found }),
        }
    }

    /// Decodes a body in postcard: all of it, without trailing bytes.
    ///
    /// # Errors
    /// `Damaged`.
    #[cfg(feature = "node")]
    pub fn read_body<'a, T: Deserialize<'a>>(self, body: &'a [u8]) -> Result<T, Unreadable> {
        match postcard::take_from_bytes(body) {
            Ok((value, [])) => Ok(value),
            Ok(_) => Err(self.damaged("there is something behind its end")),
            Err(error) => Err(self.damaged(error)),
        }
    }

    /// Encodes a structure as JSON that begins with the version.
    ///
    /// # Errors
    /// `Damaged` when the value is not a structure.
    pub fn to_json(self, body: &impl Serialize) -> Result<Vec<u8>, Unreadable> {
        #[derive(Serialize)]
        struct Versioned<'a, T> {
            version: u16,
            #[serde(flatten)]
            body: &'a T,
        }
        serde_json::to_vec(&Versioned { version: self.version, body }).map_err(|e| self.damaged(e))
    }

    /// Decodes JSON; without a version it is version 1.
    ///
    /// # Errors
    /// `Version` for a version that this program does not read, `Damaged`.
    pub fn from_json<T: DeserializeOwned>(self, text: &[u8]) -> Result<T, Unreadable> {
        self.check(self.json_version(text)?)?;
        serde_json::from_slice(text).map_err(|e| self.damaged(e))
    }

    /// The version of JSON text, whether this program can read it or not.
    ///
    /// # Errors
    /// `Damaged` when it is not JSON, or its version is not a number.
    pub fn json_version(self, text: &[u8]) -> Result<u16, Unreadable> {
        #[derive(serde::Deserialize)]
        struct Head {
            version: Option<u16>,
        }
        let head: Head = serde_json::from_slice(text).map_err(|e| self.damaged(e))?;
        Ok(head.version.unwrap_or(1))
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { format, found } if format.oldest == format.version => {
                write!(
                    f,
                    "it is version {found} of {}, and this program knows version {}",
                    format.name, format.version
                )
            }
            Self::Version { format, found } => write!(
                f,
                "it is version {found} of {}, and this program knows versions {} to {}",
                format.name, format.oldest, format.version
            ),
            Self::Damaged { format, why } => write!(f, "it is not {}: {why}", format.name),
        }
    }
}

impl std::error::Error for Unreadable {}

impl Unreadable {
    /// Whether another release wrote it, so that it must not be changed.
    pub fn is_of_another_release(&self) -> bool {
        matches!(self, Self::Version { .. })
    }

    /// Converts to an error: `Unsupported` when another release wrote the data, else `Corrupt`.
    pub fn while_doing(self, doing: impl Into<std::borrow::Cow<'static, str>>) -> Error {
        let kind = if self.is_of_another_release() { Kind::Unsupported } else { Kind::Corrupt };
        let hint = self.hint();
        let error = Error::new(kind, doing).because(self);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Version { format, found } if *found > format.version => {
                Some("a newer release wrote it and it was left as it is: install that release again")
            }
            Self::Version { .. } => {
                Some("an older release wrote it and it was left as it is: upgrade by the release in between")
            }
            Self::Damaged { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_is_not_known_is_named() {
        let mut bytes = KEEPER_RECORD.head().to_vec();
        bytes[2] = 9;
        let error = KEEPER_RECORD.open(&bytes).unwrap_err();
        assert!(error.is_of_another_release());
        assert_eq!(
            error.to_string(),
            "it is version 9 of the keeper's record of a container, and this program knows versions 1 to 2"
        );
        let error = error.while_doing("read x");
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.first_hint().unwrap().contains("a newer release wrote it"));
    }

    #[test]
    fn what_has_no_head_is_of_the_first_version() {
        assert_eq!(KEEPER_RECORD.open(b"\x03box"), Ok((1, &b"\x03box"[..])));
        assert!(KEEPER_PROTOCOL.open(b"\x03box").unwrap_err().is_of_another_release());
        assert!(!KEEPER_RECORD.open(&[MARK, b'R', 2]).unwrap_err().is_of_another_release());
        assert!(!KEEPER_RECORD.open(&KEEPER_PROTOCOL.head()).unwrap_err().is_of_another_release());
        assert!(KEEPER_RECORD.open(b"").is_err());
    }

    #[test]
    fn json_begins_with_its_version_and_reads_without_one() {
        #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
        struct Body {
            name: String,
        }
        let body = Body { name: "x".to_owned() };
        let text = SANDBOX_RECORD.to_json(&body).unwrap();
        assert_eq!(text, br#"{"version":2,"name":"x"}"#);
        assert_eq!(SANDBOX_RECORD.from_json::<Body>(&text), Ok(body));
        assert_eq!(SANDBOX_RECORD.from_json::<Body>(br#"{"name":"x"}"#).unwrap().name, "x");
        let error = SANDBOX_RECORD.from_json::<Body>(br#"{"version":3,"other":1}"#).unwrap_err();
        assert!(
            error.is_of_another_release() && error.to_string().contains("version 3 of the record of a pod")
        );
        for damaged in [&b"{"[..], b"", br#"{"version":"x"}"#, br#"{"version":-1,"name":"x"}"#, b"[]"] {
            assert!(!SANDBOX_RECORD.from_json::<Body>(damaged).unwrap_err().is_of_another_release());
        }
    }

    #[test]
    fn tags_tell_the_formats_apart() {
        let all = [
            GREETING,
            KEEPER_PROTOCOL,
            PLAN,
            KEEPER_RECORD,
            KEEPER_SNAPSHOT,
            EXIT,
            SANDBOX_RECORD,
            CONTAINER_RECORD,
            POD_REQUEST,
            ATTACHMENT,
            STATE,
            CGROUP_NOTE,
            ARCHIVES,
        ];
        let tags: std::collections::BTreeSet<u8> = all.iter().map(|format| format.tag).collect();
        assert_eq!(tags.len(), all.len());
    }
}
