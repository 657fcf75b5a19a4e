//! Encoding of records: a tag, then numbers in LEB128 and byte strings with a length prefix.

use super::{Attributes, Extent, Node, Record};
use crate::digest::Digest;

/// Appends `record` to `out`.
pub(super) fn encode(record: &Record<'_>, out: &mut Vec<u8>) {
    match record {
        Record::Raw(bytes) => {
            out.push(0);
            string(bytes, out);
        }
        Record::File { path, attributes, size, extents, crc } => {
            out.push(1);
            string(path, out);
            put_attributes(attributes, out);
            put_extents(*size, extents, out);
            out.extend(crc.to_le_bytes());
        }
        Record::Link { path, target } => {
            out.push(2);
            string(path, out);
            string(target, out);
        }
        Record::Symlink { path, attributes, target } => {
            out.push(3);
            string(path, out);
            put_attributes(attributes, out);
            string(target, out);
        }
        Record::Node { path, attributes, node } => {
            let (tag, major, minor) = match node {
                Node::Fifo => (4, 0, 0),
                Node::Char(major, minor) => (5, *major, *minor),
                Node::Block(major, minor) => (6, *major, *minor),
            };
            out.push(tag);
            string(path, out);
            put_attributes(attributes, out);
            number(major.into(), out);
            number(minor.into(), out);
        }
        Record::Dir { path, attributes, opaque } => {
            out.push(if attributes.is_some() { 7 } else { 8 });
            string(path, out);
            attributes.iter().for_each(|attributes| put_attributes(attributes, out));
            out.push(u8::from(*opaque));
        }
        Record::Whiteout { path } => {
            out.push(9);
            string(path, out);
        }
        Record::Gone { path } => {
            out.push(10);
            string(path, out);
        }
        Record::End { diff_id, tar_bytes } => {
            out.push(11);
            out.extend(diff_id.as_bytes());
            number(*tar_bytes, out);
        }
    }
}

/// Decodes one record from the front of `bytes`; `None` when it is malformed.
pub(super) fn decode<'a>(bytes: &mut &'a [u8]) -> Option<Record<'a>> {
    Some(match take(bytes, 1)?.first()? {
        0 => Record::Raw(get_string(bytes)?),
        1 => {
            let (path, attributes, size) = (get_string(bytes)?, get_attributes(bytes)?, get_number(bytes)?);
            let extents = match get_number(bytes)?.checked_sub(1) {
                None => vec![Extent { offset: 0, length: size }],
                Some(count) => {
                    let extent = |_| Some(Extent { offset: get_number(bytes)?, length: get_number(bytes)? });
                    (0..count).map(extent).collect::<Option<_>>()?
                }
            };
            let crc = u32::from_le_bytes(*take(bytes, 4)?.first_chunk()?);
            Record::File { path, attributes, size, extents, crc }
        }
        2 => Record::Link { path: get_string(bytes)?, target: get_string(bytes)? },
        3 => Record::Symlink {
            path: get_string(bytes)?,
            attributes: get_attributes(bytes)?,
            target: get_string(bytes)?,
        },
        tag @ 4..=6 => {
            let (path, attributes) = (get_string(bytes)?, get_attributes(bytes)?);
            let (major, minor) =
                (u32::try_from(get_number(bytes)?).ok()?, u32::try_from(get_number(bytes)?).ok()?);
            let node = match tag {
                4 => Node::Fifo,
                5 => Node::Char(major, minor),
                _ => Node::Block(major, minor),
            };
            Record::Node { path, attributes, node }
        }
        tag @ (7 | 8) => {
            let path = get_string(bytes)?;
            let attributes = if *tag == 7 { Some(get_attributes(bytes)?) } else { None };
            Record::Dir { path, attributes, opaque: *take(bytes, 1)?.first()? != 0 }
        }
        9 => Record::Whiteout { path: get_string(bytes)? },
        10 => Record::Gone { path: get_string(bytes)? },
        11 => Record::End {
            diff_id: Digest::from_bytes(*take(bytes, 32)?.first_chunk()?),
            tar_bytes: get_number(bytes)?,
        },
        _ => return None,
    })
}

/// Most files are one extent from the beginning to the end.
fn put_extents(size: u64, extents: &[Extent], out: &mut Vec<u8>) {
    number(size, out);
    if matches!(extents, [one] if one.offset == 0 && one.length == size) {
        return number(0, out);
    }
    number(1 + extents.len() as u64, out);
    for extent in extents {
        number(extent.offset, out);
        number(extent.length, out);
    }
}

fn put_attributes(attributes: &Attributes<'_>, out: &mut Vec<u8>) {
    let (secs, nanos) = attributes.mtime;
    for value in [attributes.mode, attributes.uid, attributes.gid, nanos] {
        number(value.into(), out);
    }
    out.extend(secs.to_le_bytes());
    number(attributes.xattrs.len() as u64, out);
    for (name, value) in &attributes.xattrs {
        string(name, out);
        string(value, out);
    }
}

fn get_attributes<'a>(bytes: &mut &'a [u8]) -> Option<Attributes<'a>> {
    let mut small = || u32::try_from(get_number(bytes)?).ok();
    let (mode, uid, gid, nanos) = (small()?, small()?, small()?, small()?);
    let secs = i64::from_le_bytes(*take(bytes, 8)?.first_chunk()?);
    let count = get_number(bytes)?;
    let xattrs = (0..count).map(|_| Some((get_string(bytes)?, get_string(bytes)?))).collect::<Option<_>>()?;
    Some(Attributes { mode, uid, gid, mtime: (secs, nanos), xattrs })
}

fn number(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn get_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *take(bytes, 1)?.first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn string(bytes: &[u8], out: &mut Vec<u8>) {
    number(bytes.len() as u64, out);
    out.extend(bytes);
}

fn get_string<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(get_number(bytes)?).ok()?;
    take(bytes, length)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_comes_back_and_no_piece_of_one_does() {
        let attributes = Attributes {
            mode: 0o4755,
            uid: 4_000_000_000,
            gid: 0,
            mtime: (-5, 999_999_999),
            xattrs: vec![(b"user.x", b"\0=")],
        };
        let extents = vec![Extent { offset: 9, length: 1 }, Extent { offset: 1 << 40, length: 7 }];
        let plain = vec![Extent { offset: 0, length: 300 }];
        let records = [
            Record::Raw(b"\0header"),
            Record::File { path: b"a/b", attributes: attributes.clone(), size: 1 << 41, extents, crc: 7 },
            Record::File { path: b"c", attributes: attributes.clone(), size: 300, extents: plain, crc: 8 },
            Record::Link { path: b"d", target: b"a/b" },
            Record::Symlink { path: b"e", attributes: attributes.clone(), target: b"../x" },
            Record::Node { path: b"f", attributes: attributes.clone(), node: Node::Block(8, 1) },
            Record::Node { path: b"g", attributes: attributes.clone(), node: Node::Fifo },
            Record::Dir { path: b"", attributes: Some(attributes), opaque: true },
            Record::Dir { path: b"h", attributes: None, opaque: false },
            Record::Whiteout { path: b"i" },
            Record::Gone { path: b"j" },
            Record::End { diff_id: Digest::of(b"k"), tar_bytes: 10240 },
        ];
        for record in records {
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            assert_eq!(decode(&mut bytes.as_slice()), Some(record.clone()));
            for end in 0..bytes.len() {
                assert_eq!(decode(&mut &bytes[..end]), None, "{record:?} cut at {end}");
            }
        }
        assert_eq!(decode(&mut &[99u8][..]), None);
        assert_eq!(
            decode(&mut &[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1][..]),
            None
        );
    }
}
