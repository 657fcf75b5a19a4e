//! Pax extended headers: `LENGTH KEY=VALUE\n` records, POSIX pax(1).

use std::collections::BTreeMap;

use super::entry::Mtime;
use super::header::id;
use super::number;
use super::sparse::PaxSparse;
use crate::error::{Error, Kind, Result};

/// The merged records before a member; later records win.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Mtime>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) sparse: PaxSparse,
}

impl Records {
    /// Parses a whole extended header.
    ///
    /// # Errors
    /// `Corrupt` when any record is malformed: readers that skip one see another archive (CVE-2026-32766).
    pub(super) fn parse(mut text: &[u8], max_segments: u32) -> Result<Self> {
        let mut records = Self::default();
        while !text.is_empty() {
            let (key, value, rest) = record(text).ok_or_else(|| malformed("frame", text))?;
            records.set(key, value, max_segments)?;
            text = rest;
        }
        Ok(records)
    }

    fn set(&mut self, key: &[u8], value: &[u8], max_segments: u32) -> Result<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.insert(xattr_name(name, key)?, value.to_vec());
            return Ok(());
        }
        if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            let name = url_decoded(name).ok_or_else(|| malformed("name", key))?;
            let value = base_64(value).ok_or_else(|| malformed("value", key))?;
            self.xattrs.insert(xattr_name(&name, key)?, value);
            return Ok(());
        }
        if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.set(name, value, max_segments).ok_or_else(|| malformed("value", key));
        }
        // POSIX: an empty value cancels an earlier record.
        let given = !value.is_empty();
        let checked = match key {
            b"path" => text_value(value, given, &mut self.path),
            b"linkpath" => text_value(value, given, &mut self.link),
            b"size" => replace(given.then(|| number::decimal(value)), &mut self.size),
            b"uid" => replace(given.then(|| number::decimal(value).and_then(id)), &mut self.uid),
            b"gid" => replace(given.then(|| number::decimal(value).and_then(id)), &mut self.gid),
            b"mtime" => replace(given.then(|| number::time(value)), &mut self.mtime),
            _ => Some(()),
        };
        checked.ok_or_else(|| malformed("value", key))
    }
}

fn replace<T>(value: Option<Option<T>>, place: &mut Option<T>) -> Option<()> {
    *place = match value {
        Some(parsed) => Some(parsed?),
        None => None,
    };
    Some(())
}

fn text_value(value: &[u8], given: bool, place: &mut Option<Vec<u8>>) -> Option<()> {
    replace(given.then(|| (!value.contains(&0)).then(|| value.to_vec())), place)
}

fn xattr_name(name: &[u8], key: &[u8]) -> Result<Vec<u8>> {
    if name.is_empty() || name.contains(&0) {
        return Err(malformed("name", key));
    }
    Ok(name.to_vec())
}

/// Splits off the first record: key, value, the rest. The length counts itself, the space and the newline.
fn record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = text.iter().take(12).position(|b| *b == b' ')?;
    let length = usize::try_from(number::decimal(&text[..space])?).ok()?;
    let body = text.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|b| *b == b'=').filter(|at| *at > 0)?;
    let key = &body[..equals];
    (!key.contains(&0)).then_some((key, &body[equals + 1..], &text[length..]))
}

fn malformed(what: &str, near: &[u8]) -> Error {
    let near = super::shown(&near[..near.len().min(60)]);
    Error::new(Kind::Corrupt, format!("the {what} of a pax record is malformed, near \"{near}\""))
}

fn url_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let hex = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.iter().copied();
    while let Some(byte) = rest.next() {
        decoded.push(if byte == b'%' { hex(rest.next()?)? << 4 | hex(rest.next()?)? } else { byte });
    }
    Some(decoded)
}

/// Base-64 with or without padding, as libarchive writes it.
fn base_64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().position(|b| *b == b'=').unwrap_or(text.len());
    if text.len() - end > 2 || !text[end..].iter().all(|b| *b == b'=') || end % 4 == 1 {
        return None;
    }
    let mut decoded = Vec::with_capacity(end / 4 * 3 + 2);
    let (mut bits, mut held) = (0u32, 0);
    for byte in &text[..end] {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            decoded.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<Records> {
        Records::parse(text, 10)
    }

    #[test]
    fn later_records_win_and_empty_ones_take_back() {
        let records = parse(b"9 path=a\n9 path=b\n9 size=7\n8 size=\n").unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"b"[..]));
        assert_eq!(records.size, None);
    }

    #[test]
    fn xattr_values_may_hold_equals_signs_newlines_and_nul() {
        let records = parse(b"30 SCHILY.xattr.user.x=a=\0\nb\0\n").unwrap();
        assert_eq!(records.xattrs.get(&b"user.x"[..]).unwrap(), b"a=\0\nb\0");
    }

    #[test]
    fn the_libarchive_form_of_xattrs_is_decoded() {
        let records = parse(b"35 LIBARCHIVE.xattr.user.a%20=AAEC\n").unwrap();
        assert_eq!(records.xattrs.get(&b"user.a "[..]).unwrap(), &[0, 1, 2]);
        assert_eq!(base_64(b"/w"), Some(vec![0xff]));
        assert_eq!(base_64(b"/w=="), Some(vec![0xff]));
        for bad in [&b"A"[..], b"AB===", b"A=B", b"A B"] {
            assert_eq!(base_64(bad), None, "{bad:?}");
        }
        assert!(parse(b"32 LIBARCHIVE.xattr.user.a%2=AA\n").is_err());
    }

    #[test]
    fn malformed_records_are_errors() {
        let bad: [&[u8]; 15] = [
            b"9 path=a",
            b"8 path=a\n",
            b"11 path=a\n",
            b"path=a\n",
            b"5 ab\n",
            b"4 =\n",
            b"-9 path=a\n",
            b"09999999999999999999 path=a\n",
            b" 9 path=a\n",
            b"11 path=\0a\n",
            b"11 size=1x\n",
            b"11 size=-1\n",
            b"18 uid=4294967295\n",
            b"0 \n",
            b"9 path=a\n\0\0\0",
        ];
        for text in bad {
            assert!(parse(text).is_err(), "{:?}", text.escape_ascii().to_string());
        }
    }
}
