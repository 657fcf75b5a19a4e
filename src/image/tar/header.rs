//! The 512-byte header block, as in ustar(5) and tar(5).

use super::entry::{Device, Mtime};
use super::number;
use crate::error::{Error, Kind, Result};

/// The unit of a tar stream, in bytes.
pub(super) const BLOCK: usize = 512;

/// A header block with a correct checksum.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header<'a>(&'a [u8; BLOCK]);

impl<'a> Header<'a> {
    /// Parses `block` as a header.
    ///
    /// # Errors
    /// `Corrupt` when the checksum is wrong: the block is not a header, or damaged.
    pub(super) fn parse(block: &'a [u8; BLOCK]) -> Result<Self> {
        let stored = number::field(&block[148..156]);
        let (head, tail) = (&block[..148], &block[156..]);
        let blanks = 8 * i64::from(b' ');
        let plain = blanks + head.iter().chain(tail).map(|b| i64::from(*b)).sum::<i64>();
        // Some old writers summed signed bytes.
        let signed = || blanks + head.iter().chain(tail).map(|b| i64::from(b.cast_signed())).sum::<i64>();
        if stored == Some(plain) || stored.is_some_and(|sum| sum == signed()) {
            return Ok(Self(block));
        }
        Err(Error::new(Kind::Corrupt, "the checksum of a tar header is wrong")
            .hint("this is not a tar archive, or it is damaged"))
    }

    /// The type flag.
    pub(super) fn flag(self) -> u8 {
        self.0[156]
    }

    /// The name, joined with the prefix where the dialect has one.
    pub(super) fn name(self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = match (&self.0[257..263], &self.0[508..]) {
            (b"ustar\0", b"tar\0") => text(&self.0[345..476]),
            (b"ustar\0", _) => text(&self.0[345..500]),
            _ => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// The link target.
    pub(super) fn link(self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    /// Bytes of data after this header, if the type has data.
    pub(super) fn size(self) -> Result<u64> {
        number::unsigned(&self.0[124..136]).ok_or_else(|| malformed("size"))
    }

    /// Permission bits.
    pub(super) fn mode(self) -> Result<u32> {
        let mode = number::unsigned(&self.0[100..108]).ok_or_else(|| malformed("mode"))?;
        // Some writers put the file type above the permissions; the flag has the type.
        u32::try_from(mode & 0o7777).map_err(|_| malformed("mode"))
    }

    /// The owner's user id.
    pub(super) fn uid(self) -> Result<u32> {
        number::unsigned(&self.0[108..116]).and_then(id).ok_or_else(|| malformed("uid"))
    }

    /// The group id.
    pub(super) fn gid(self) -> Result<u32> {
        number::unsigned(&self.0[116..124]).and_then(id).ok_or_else(|| malformed("gid"))
    }

    /// Modification time.
    pub(super) fn mtime(self) -> Result<Mtime> {
        let secs = number::field(&self.0[136..148]).ok_or_else(|| malformed("mtime"))?;
        Ok(Mtime { secs, nanos: 0 })
    }

    /// The device number, refused if it is too large for Linux.
    pub(super) fn device(self) -> Result<Device> {
        let part = |range: std::ops::Range<usize>, bits: u32| {
            number::unsigned(&self.0[range]).and_then(|n| u32::try_from(n).ok()).filter(|n| n >> bits == 0)
        };
        let (major, minor) = (part(329..337, 12), part(337..345, 20));
        let (Some(major), Some(minor)) = (major, minor) else { return Err(malformed("device number")) };
        Ok(Device { major, minor })
    }

    /// The fields of an old GNU sparse header: four segments, "more follow", the expanded size.
    pub(super) fn gnu_sparse(self) -> (&'a [u8], bool, Option<u64>) {
        (&self.0[386..482], self.0[482] != 0, number::unsigned(&self.0[483..495]))
    }
}

/// A user or group id that chown(2) accepts: -1 means "leave unchanged" there and is refused.
pub(super) fn id(number: u64) -> Option<u32> {
    u32::try_from(number).ok().filter(|id| *id != u32::MAX)
}

/// The bytes before the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

fn malformed(what: &str) -> Error {
    Error::new(Kind::Corrupt, format!("the {what} in a tar header is malformed or too big"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(fill: impl FnOnce(&mut [u8; BLOCK])) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        fill(&mut block);
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    #[test]
    fn a_flipped_bit_is_detected() {
        let mut good = block(|b| b[..3].copy_from_slice(b"abc"));
        assert!(Header::parse(&good).is_ok());
        good[1] ^= 1;
        assert_eq!(Header::parse(&good).unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn the_prefix_is_used_only_where_the_dialect_has_one() {
        let fill = |magic: &'static [u8], trailer: &'static [u8]| {
            block(move |b| {
                b[..4].copy_from_slice(b"name");
                b[345..351].copy_from_slice(b"prefix");
                b[257..257 + magic.len()].copy_from_slice(magic);
                b[508..508 + trailer.len()].copy_from_slice(trailer);
            })
        };
        assert_eq!(Header::parse(&fill(b"ustar\x0000", b"")).unwrap().name(), b"prefix/name");
        assert_eq!(Header::parse(&fill(b"ustar\0", b"tar\0")).unwrap().name(), b"prefix/name");
        assert_eq!(Header::parse(&fill(b"ustar  \0", b"")).unwrap().name(), b"name");
        assert_eq!(Header::parse(&fill(b"", b"")).unwrap().name(), b"name");
    }

    #[test]
    fn device_numbers_beyond_linux_are_refused() {
        let with = |major: &'static [u8; 8]| block(move |b| b[329..337].copy_from_slice(major));
        assert_eq!(Header::parse(&with(b"0007777\0")).unwrap().device().unwrap().major, 0o7777);
        assert!(Header::parse(&with(b"0010000\0")).unwrap().device().is_err());
        assert!(Header::parse(&with(&[0xff; 8])).unwrap().device().is_err());
    }

    #[test]
    fn the_id_that_chown_would_take_for_leave_is_refused() {
        let with = |uid: &'static [u8; 8]| block(move |b| b[108..116].copy_from_slice(uid));
        assert!(Header::parse(&with(b"\x80\0\0\0\xff\xff\xff\xff")).unwrap().uid().is_err());
        let largest = with(b"\x80\0\0\0\xff\xff\xff\xfe");
        assert_eq!(Header::parse(&largest).unwrap().uid().unwrap(), u32::MAX - 1);
    }
}
