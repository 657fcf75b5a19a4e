//! The tar reader: returns members and their data from a stream.

use std::io::Read;

use super::entry::{Entry, Kind, Limits};
use super::header::{BLOCK, Header, text};
use super::pax::Records;
use super::shown;
use super::sparse::{DataMap, PaxMap, Segment, Sparse, old_descriptors};
use crate::error::{Cause, Error, Kind as ErrorKind, Result};

/// Bytes read at once, and the largest piece of data returned.
const BUFFER: usize = 64 * 1024;

/// A tar stream being read.
pub struct Archive<R> {
    blocks: Blocks<R>,
    limits: Limits,
    /// Data of the current member that was not returned yet, and the padding after it.
    left: u64,
    padding: usize,
    ended: bool,
    raw: Option<RawBytes>,
}

/// Receives all bytes of the stream except the data that [`Archive::data`] returns.
pub type RawBytes = Box<dyn FnMut(&[u8]) -> Result<()>>;

impl<R> std::fmt::Debug for Archive<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive")
            .field("left", &self.left)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// Extension headers that precede the header of their member.
#[derive(Default)]
struct Pending {
    records: Option<Records>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    bytes: u64,
}

impl<R: Read> Archive<R> {
    /// Reads members from `stream`.
    pub fn new(stream: R, limits: Limits) -> Self {
        Self { blocks: Blocks::new(stream), limits, left: 0, padding: 0, ended: false, raw: None }
    }

    /// Calls `raw` with every byte that [`Archive::data`] does not return, in the order of the stream: together with
    /// the data, they are the whole stream.
    #[must_use]
    pub fn with_raw(mut self, raw: RawBytes) -> Self {
        self.raw = Some(raw);
        self
    }

    /// The next member; unread data of the previous one is skipped. `None` at the end of the archive, which is two zero
    /// blocks or the end of the stream between two members.
    ///
    /// # Errors
    /// `Corrupt` when the stream is cut off or malformed, `Invalid` when a limit is exceeded or the type is unknown;
    /// else the error of reading.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        if self.ended {
            return Ok(None);
        }
        self.skip_data()?;
        let mut pending = Pending::default();
        loop {
            let Some(block) = self.header_block(&pending)? else { return Ok(None) };
            let header = Header::parse(&block)?;
            match header.flag() {
                b'x' | b'g' | b'L' | b'K' => self.extension(header, &mut pending)?,
                _ => {
                    let name = pending.name.clone().unwrap_or_else(|| header.name());
                    let phrase =
                        |error: Error| error.doing(format!("read the tar header of \"{}\"", shown(&name)));
                    return self.member(header, pending).map(Some).map_err(phrase);
                }
            }
        }
    }

    /// The next piece of the current member's data, at most 64 KiB; `None` when there is no more.
    ///
    /// # Errors
    /// `Corrupt` when the stream ends too early; else the error of reading.
    pub fn data(&mut self) -> Result<Option<&[u8]>> {
        if self.left == 0 {
            return Ok(None);
        }
        let piece = self.blocks.piece(self.left)?;
        self.left = self.left.saturating_sub(piece.len() as u64);
        Ok(Some(piece))
    }

    /// Skips unread data and the padding after it.
    fn skip_data(&mut self) -> Result<()> {
        self.left = self.left.saturating_add(std::mem::take(&mut self.padding) as u64);
        while self.left > 0 {
            let piece = self.blocks.piece(self.left)?;
            self.left = self.left.saturating_sub(piece.len() as u64);
            if let Some(raw) = &mut self.raw {
                raw(piece)?;
            }
        }
        Ok(())
    }

    /// One block that is no data.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let block = self.blocks.block()?.copied();
        if let (Some(block), Some(raw)) = (&block, &mut self.raw) {
            raw(block)?;
        }
        Ok(block)
    }

    /// Reads the bytes after the end of the archive, so that a digest over the stream covers them, and returns the
    /// reader.
    ///
    /// # Errors
    /// The error of reading.
    pub fn finish(mut self) -> Result<R> {
        while self.blocks.fill()? {
            let rest = self.blocks.start..self.blocks.end;
            if let Some(raw) = &mut self.raw {
                raw(&self.blocks.buffer[rest])?;
            }
            self.blocks.start = self.blocks.end;
        }
        Ok(self.blocks.stream)
    }

    fn header_block(&mut self, pending: &Pending) -> Result<Option<[u8; BLOCK]>> {
        let zero = |block: &[u8; BLOCK]| block.iter().all(|b| *b == 0);
        let first = self.block()?;
        match first {
            Some(block) if !zero(&block) => return Ok(Some(block)),
            Some(_) if self.block()?.is_some_and(|next| !zero(&next)) => {
                return Err(corrupt("there is a single zero block between two members"));
            }
            _ => {}
        }
        self.ended = true;
        if pending.bytes > 0 {
            return Err(corrupt("the archive ends after an extended header, before its member"));
        }
        Ok(None)
    }

    fn extension(&mut self, header: Header<'_>, pending: &mut Pending) -> Result<()> {
        let size = header.size()?;
        // At least one byte each, so that endless empty headers exceed the limit too.
        pending.bytes = pending.bytes.saturating_add(size.max(1));
        let most = self.limits.metadata_bytes;
        if pending.bytes > u64::from(most) {
            return Err(Error::invalid(format!(
                "extended tar headers of one member take more than {most} bytes"
            )));
        }
        self.expect_data(size);
        let mut body = Vec::new();
        while let Some(piece) = self.data()? {
            body.extend_from_slice(piece);
        }
        if let Some(raw) = &mut self.raw {
            raw(&body)?;
        }
        self.skip_data()?;
        let segments = self.limits.sparse_segments;
        let twice = match header.flag() {
            // Checked but not applied: other engines ignore all keys of global headers as well.
            b'g' => Records::parse(&body, segments).map(|_| false)?,
            b'x' => pending.records.replace(Records::parse(&body, segments)?).is_some(),
            b'L' => pending.name.replace(text(&body).to_vec()).is_some(),
            _ => pending.link.replace(text(&body).to_vec()).is_some(),
        };
        if twice { Err(corrupt("a member has two extended headers of one type")) } else { Ok(()) }
    }

    fn expect_data(&mut self, size: u64) {
        self.left = size;
        let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        self.padding = (BLOCK - over) % BLOCK;
    }

    fn member(&mut self, header: Header<'_>, pending: Pending) -> Result<Entry> {
        let records = pending.records.unwrap_or_default();
        let path = records.sparse.name.clone().or(records.path);
        let name = one_name(path, pending.name, || header.name())?;
        let kind = self.kind(header, &name, || one_name(records.link, pending.link, || header.link()))?;
        let size = match kind {
            // The size of other types is ignored: hard links repeat that of their target.
            Kind::File => records.size.map_or_else(|| header.size(), Ok)?,
            _ => 0,
        };
        self.expect_data(size);
        let mut entry = Entry {
            mode: header.mode()?,
            uid: records.uid.map_or_else(|| header.uid(), Ok)?,
            gid: records.gid.map_or_else(|| header.gid(), Ok)?,
            mtime: records.mtime.map_or_else(|| header.mtime(), Ok)?,
            xattrs: records.xattrs,
            sparse: None,
            size,
            name: self.short_enough(name)?,
            kind,
        };
        if entry.kind == Kind::File {
            entry.sparse = self.sparse(header, records.sparse.map()?)?;
            entry.size = self.left;
        }
        Ok(entry)
    }

    fn kind(&self, header: Header<'_>, name: &[u8], link: impl FnOnce() -> Result<Vec<u8>>) -> Result<Kind> {
        Ok(match header.flag() {
            // In the oldest dialect a name with a trailing slash is a directory.
            0 if name.ends_with(b"/") => Kind::Dir,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink(self.short_enough(link()?)?),
            b'2' => Kind::Symlink(self.short_enough(link()?)?),
            b'3' => Kind::Char(header.device()?),
            b'4' => Kind::Block(header.device()?),
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            other => {
                let other = std::ascii::escape_default(other);
                return Err(Error::invalid(format!("members of type '{other}' are not supported")));
            }
        })
    }

    fn short_enough(&self, name: Vec<u8>) -> Result<Vec<u8>> {
        let most = self.limits.path_bytes;
        if u32::try_from(name.len()).is_ok_and(|length| length <= most) {
            return Ok(name);
        }
        Err(Error::invalid(format!("a name in the archive is longer than {most} bytes")))
    }

    fn sparse(&mut self, header: Header<'_>, map: PaxMap) -> Result<Option<Sparse>> {
        let (segments, real_size) = match (header.flag(), map) {
            (b'S', PaxMap::Absent) => self.old_map(header)?,
            (b'S', _) => return Err(corrupt("a sparse file has two maps")),
            (_, PaxMap::Absent) => return Ok(None),
            (_, PaxMap::Here(segments, real_size)) => (segments, real_size),
            (_, PaxMap::InData(real_size)) => (self.map_in_data()?, real_size),
        };
        Sparse::checked(segments, real_size, self.left).map(Some)
    }

    fn old_map(&mut self, header: Header<'_>) -> Result<(Vec<Segment>, u64)> {
        let (table, mut more, real_size) = header.gnu_sparse();
        let real_size = real_size.ok_or_else(|| corrupt("the size of a sparse file is malformed"))?;
        let mut segments = Vec::new();
        old_descriptors(table, &mut segments, self.limits.sparse_segments)?;
        while more {
            let block = self.block()?.ok_or_else(cut_off)?;
            let before = segments.len();
            old_descriptors(&block[..504], &mut segments, self.limits.sparse_segments)?;
            more = block[504] != 0;
            if more && segments.len() == before {
                return Err(corrupt("the map of a sparse file goes on after its end"));
            }
        }
        Ok((segments, real_size))
    }

    fn map_in_data(&mut self) -> Result<Vec<Segment>> {
        let mut map = DataMap::default();
        loop {
            if self.left < BLOCK as u64 {
                return Err(corrupt("the map of a sparse file is cut off"));
            }
            let block = self.block()?.ok_or_else(cut_off)?;
            self.left -= BLOCK as u64;
            if let Some(segments) = map.feed(&block, self.limits.sparse_segments)? {
                return Ok(segments);
            }
        }
    }
}

/// A name that pax and GNU headers may both contain; readers disagree about which wins, so they must be equal.
fn one_name(pax: Option<Vec<u8>>, gnu: Option<Vec<u8>>, plain: impl FnOnce() -> Vec<u8>) -> Result<Vec<u8>> {
    match (pax, gnu) {
        (Some(pax), Some(gnu)) if pax != gnu => Err(corrupt("pax and GNU headers give one member two names")),
        (Some(name), _) | (None, Some(name)) => Ok(name),
        (None, None) => Ok(plain()),
    }
}

fn corrupt(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the tar archive is damaged: {why}"))
}

/// A read error; one of this crate that passed through [`std::io::Error`] keeps its kind and hint.
fn own(error: std::io::Error) -> Error {
    let kind = Cause::kind(&error);
    match error.downcast::<Error>() {
        Ok(error) => error.doing("read the stream"),
        Err(error) => Error::new(kind, "read the stream").because(error),
    }
}

fn cut_off() -> Error {
    corrupt("it ends in the middle of a member")
}

/// The stream in pieces that never split a block: the buffer is always filled completely, and has a whole number of
/// blocks.
struct Blocks<R> {
    stream: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<R: Read> Blocks<R> {
    fn new(stream: R) -> Self {
        Self { stream, buffer: vec![0; BUFFER].into_boxed_slice(), start: 0, end: 0 }
    }

    /// Ensures that the buffer is not empty; false at the end of the stream.
    fn fill(&mut self) -> Result<bool> {
        if self.start < self.end {
            return Ok(true);
        }
        (self.start, self.end) = (0, 0);
        while self.end < self.buffer.len() {
            match self.stream.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(own(error)),
            }
        }
        Ok(self.end > 0)
    }

    fn block(&mut self) -> Result<Option<&[u8; BLOCK]>> {
        if !self.fill()? {
            return Ok(None);
        }
        let block = self.buffer[self.start..self.end].first_chunk().ok_or_else(cut_off)?;
        self.start += BLOCK;
        Ok(Some(block))
    }

    fn piece(&mut self, most: u64) -> Result<&[u8]> {
        if !self.fill()? {
            return Err(cut_off());
        }
        let from = self.start;
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        self.start = self.end.min(from.saturating_add(most));
        Ok(&self.buffer[from..self.start])
    }
}

/// A member returned by [`list`]: the headers and the data that really followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The merged headers.
    pub entry: Entry,
    /// The data.
    pub data: Vec<u8>,
}

/// All members of an archive in memory: for tests and fuzzing, and small archives.
///
/// # Errors
/// Those of [`Archive::next_entry`].
pub fn list(bytes: &[u8], limits: Limits) -> Result<Vec<Member>> {
    let mut archive = Archive::new(bytes, limits);
    let mut members = Vec::new();
    while let Some(entry) = archive.next_entry()? {
        let mut data = Vec::new();
        while let Some(piece) = archive.data()? {
            data.extend_from_slice(piece);
        }
        members.push(Member { entry, data });
    }
    Ok(members)
}
