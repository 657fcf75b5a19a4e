//! Names of members: cleaned, split, and separated into ordinary ones and whiteouts.

use crate::error::{Error, Result};
use crate::image::tar::shown;

/// The prefix of every whiteout's name (image-spec layer.md "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";

/// The meaning of a member's name. Paths have no leading slash, no empty, `.` or `..` part; the root is empty.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// An ordinary member at this path.
    Plain(Vec<u8>),
    /// Hides this path of the layers below.
    Hides(Vec<u8>),
    /// Hides everything that the layers below have in this directory.
    HidesAllIn(Vec<u8>),
    /// Metadata of AUFS, without meaning here.
    Ignored,
}

impl Name {
    /// Parses the name of a member.
    ///
    /// # Errors
    /// `Invalid` for a `..` that leads out of the layer, parts longer than any file system allows, and whiteouts without a name.
    pub(super) fn parse(raw: &[u8]) -> Result<Self> {
        let path = clean(raw)?;
        let (parent, last) = split(&path);
        if parent.split(|b| *b == b'/').chain([last]).any(is_aufs) {
            return Ok(Self::Ignored);
        }
        if parent.split(|b| *b == b'/').any(|part| part.starts_with(WHITEOUT)) {
            return Err(bad(raw, "has a whiteout as a directory"));
        }
        match last.strip_prefix(WHITEOUT) {
            None => Ok(Self::Plain(path)),
            Some(b".wh..opq") => Ok(Self::HidesAllIn(parent.to_vec())),
            Some(b"" | b"." | b"..") => Err(bad(raw, "is a whiteout of nothing")),
            Some(hidden) => Ok(Self::Hides(join(parent, hidden))),
        }
    }
}

fn is_aufs(part: &[u8]) -> bool {
    part.starts_with(b".wh..wh.") && part != b".wh..wh..opq"
}

/// A path without leading, trailing and double slashes and `.` parts. A `..` removes the part before it, whatever that
/// is, as in containerd and docker.
///
/// # Errors
/// `Invalid` for a `..` that leads out of the root, and parts longer than any file system allows.
pub(super) fn clean(raw: &[u8]) -> Result<Vec<u8>> {
    let mut path = Vec::with_capacity(raw.len());
    for part in raw.split(|b| *b == b'/') {
        match part {
            b"" | b"." => continue,
            b".." if path.is_empty() => {
                return Err(bad(raw, "has a \"..\" in it that leads out of the layer")
                    .hint("the image is broken or hostile"));
            }
            b".." => {
                path.truncate(split(&path).0.len());
                continue;
            }
            _ if part.len() > 255 => return Err(bad(raw, "has a part of more than 255 bytes")),
            _ if part.contains(&0) => return Err(bad(raw, "has a NUL byte in it")),
            _ => {}
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part);
    }
    Ok(path)
}

/// Splits a clean path into its directory and its last part.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Appends one part to a clean path.
pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

fn bad(raw: &[u8], why: &str) -> Error {
    Error::invalid(format!("the member name \"{}\" {why}", shown(raw)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(path: &[u8]) -> Name {
        Name::Plain(path.to_vec())
    }

    #[test]
    fn equal_paths_are_cleaned_to_one_form() {
        for raw in [&b"a/b"[..], b"/a/b", b"./a/b", b"a//b", b"a/./b", b"a/b/", b"//./a///b//."] {
            assert_eq!(Name::parse(raw).unwrap(), plain(b"a/b"), "{}", raw.escape_ascii());
        }
        for raw in [&b"x/../a/b"[..], b"a/x/../b", b"/a/b/x/..", b"x/y/../../a/./b", b"a/.wh.x/../b"] {
            assert_eq!(Name::parse(raw).unwrap(), plain(b"a/b"), "{}", raw.escape_ascii());
        }
        for raw in [&b""[..], b"/", b".", b"./", b"//.", b"a/..", b"a/b/../../"] {
            assert_eq!(Name::parse(raw).unwrap(), plain(b""));
        }
        assert_eq!(Name::parse(b"\xff\n/\x80").unwrap(), plain(b"\xff\n/\x80"));
        assert_eq!(Name::parse(b"..a/b..").unwrap(), plain(b"..a/b.."));
    }

    #[test]
    fn whiteouts_are_told_apart() {
        assert_eq!(Name::parse(b"a/.wh.b").unwrap(), Name::Hides(b"a/b".to_vec()));
        assert_eq!(Name::parse(b".wh.b/").unwrap(), Name::Hides(b"b".to_vec()));
        assert_eq!(Name::parse(b".wh....").unwrap(), Name::Hides(b"...".to_vec()));
        assert_eq!(Name::parse(b"a/.wh..wh..opq").unwrap(), Name::HidesAllIn(b"a".to_vec()));
        assert_eq!(Name::parse(b"/.wh..wh..opq").unwrap(), Name::HidesAllIn(Vec::new()));
        for aufs in [&b".wh..wh.aufs"[..], b".wh..wh.plnk/12.34", b"a/.wh..wh.orph"] {
            assert_eq!(Name::parse(aufs).unwrap(), Name::Ignored);
        }
    }

    #[test]
    fn names_that_escape_or_are_empty_are_refused() {
        let long = [b'x'; 256];
        let bad: [&[u8]; 9] =
            [b"..", b"../x", b"/../x", b"a/../../x", b"a/../..", b".wh.", b"a/.wh..", b".wh...", b".wh.a/b"];
        for raw in bad.iter().copied().chain([&long[..], b"a\0b"]) {
            assert!(Name::parse(raw).is_err(), "{}", raw.escape_ascii());
        }
        assert!(Name::parse(&long[1..]).is_ok());
    }
}
