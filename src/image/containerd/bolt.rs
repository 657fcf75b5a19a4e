//! A reader of bbolt's files, in which containerd keeps its metadata.
//!
//! A file is an array of pages. The first two are metas: the valid one with the higher transaction id leads to the root
//! bucket, a B+tree of branch and leaf pages. A small bucket is inline: its only page is in the value.
//!
//! SPEC(go.etcd.io/bbolt: page.go, meta.go, bucket.go). Numbers are little-endian, as all machines that containerd runs on
//! write them, but for s390x.
//!
//! Each offset and length of the file is checked against its page, and a page can be read a few times only: a damaged or
//! hostile file leads to an error, never to an endless walk.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::error::{Doing, Error, Kind, Result};

const MAGIC: u32 = 0xed0c_daed;
const VERSION: u32 = 2;
/// The id of a page, its flags, its count of elements, and how many pages follow that belong to it.
const PAGE_HEADER: usize = 16;
const ELEMENT: usize = 16;
const META: usize = 64;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
/// The flag of an element whose value is a bucket.
const IS_BUCKET: u32 = 1;
/// The root page and the sequence number of a bucket.
const BUCKET_HEADER: usize = 16;
/// The deepest tree; one of bbolt's with 16 levels would have more than 4^16 pages.
const MAX_DEPTH: u32 = 16;
/// The largest page with those that belong to it, in bytes.
const MAX_PAGE: u64 = 16 << 20;
/// How often each page may be read on average.
const MAX_READS: u64 = 8;
/// The most that is read altogether, in bytes, also of a sparse file that seems huge. The names of 100 000 images are less.
const MAX_TOTAL: u64 = 64 << 20;

/// An open file, as it was at one moment.
#[derive(Debug)]
pub(super) struct Bolt {
    file: File,
    meta: Meta,
    /// The number of pages that may still be read.
    left: Cell<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Meta {
    page_size: u64,
    root: u64,
    transaction: u64,
}

/// A bucket.
#[derive(Debug, Clone)]
pub(super) enum Bucket {
    /// The number of its root page.
    Root(u64),
    /// Its only page.
    Inline(Vec<u8>),
}

/// A value of a bucket.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Bytes(Vec<u8>),
    Bucket(Bucket),
}

impl Bolt {
    /// Opens a file. It may be in use: [`Bolt::is_current`] says whether what was read is consistent.
    ///
    /// # Errors
    /// Those of open(2); `Corrupt` for another file than one of bbolt's.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty()).doing(|| "open it")?);
        let data = file.metadata().doing(|| "read its metadata")?;
        if !data.is_file() {
            return Err(Error::invalid("it is not a regular file"));
        }
        let meta = Meta::find(&file)?;
        let pages = (data.len() / meta.page_size).saturating_mul(MAX_READS).saturating_add(64);
        let left = Cell::new(pages.min(MAX_TOTAL / meta.page_size));
        Ok(Self { file, meta, left })
    }

    /// Whether no transaction has been committed since the file was opened. A transaction writes no page that the one before
    /// it uses, so all that was read until now then belongs together.
    pub(super) fn is_current(&self) -> bool {
        Meta::find(&self.file).is_ok_and(|meta| meta == self.meta)
    }

    /// The bucket at a path of names; `None` if there is none.
    ///
    /// # Errors
    /// `Corrupt` for a damaged file.
    pub(super) fn bucket(&self, path: &[&str]) -> Result<Option<Bucket>> {
        let mut bucket = Bucket::Root(self.meta.root);
        for name in path {
            let found = self.entries(&bucket)?.into_iter().find(|(key, _)| key == name.as_bytes());
            match found {
                Some((_, Value::Bucket(inner))) => bucket = inner,
                _ => return Ok(None),
            }
        }
        Ok(Some(bucket))
    }

    /// The keys and values of a bucket.
    ///
    /// # Errors
    /// `Corrupt` for a damaged file.
    pub(super) fn entries(&self, bucket: &Bucket) -> Result<Vec<(Vec<u8>, Value)>> {
        let mut found = Vec::new();
        match bucket {
            Bucket::Root(page) => self.walk(*page, 0, &mut found)?,
            Bucket::Inline(page) => read_leaf(page, &mut found)?,
        }
        Ok(found)
    }

    fn walk(&self, number: u64, depth: u32, found: &mut Vec<(Vec<u8>, Value)>) -> Result<()> {
        if depth == MAX_DEPTH {
            return Err(damaged(format!("its tree is more than {MAX_DEPTH} levels deep")));
        }
        let page = self.page(number)?;
        match flags(&page)? {
            LEAF => read_leaf(&page, found),
            BRANCH => (0..count(&page)?).try_for_each(|index| {
                let at = PAGE_HEADER + index * ELEMENT;
                self.walk(u64_at(&page, at + 8)?, depth + 1, found)
            }),
            other => Err(damaged(format!("page {number} has the flags {other:#x}"))),
        }
        .map_err(|error| {
            if depth == 0 { error.doing(format!("read the tree at page {number}")) } else { error }
        })
    }

    /// Reads a page and those that belong to it.
    fn page(&self, number: u64) -> Result<Vec<u8>> {
        let doing = || format!("read page {number}");
        let size = self.meta.page_size;
        let offset = number.checked_mul(size).ok_or_else(|| damaged(format!("there is no page {number}")))?;
        let mut header = [0; PAGE_HEADER];
        self.file.read_exact_at(&mut header, offset).doing(doing)?;
        if u64_at(&header, 0)? != number {
            return Err(damaged(format!("page {number} says that it is page {}", u64_at(&header, 0)?)));
        }
        let pages = u64::from(u32_at(&header, 12)?) + 1;
        let bytes = pages * size;
        let left = self.left.get().checked_sub(pages).filter(|_| bytes <= MAX_PAGE);
        self.left.set(left.ok_or_else(|| damaged("its pages lead in circles, or one is too large"))?);
        let bytes = usize::try_from(bytes).map_err(|_| damaged("a page is too large"))?;
        let mut page = vec![0; bytes];
        self.file.read_exact_at(&mut page, offset).doing(doing)?;
        Ok(page)
    }
}

impl Meta {
    /// The valid meta of the later transaction. Where the first is damaged, the page size is unknown, so the second is tried
    /// at each possible place, as bbolt does.
    fn find(file: &File) -> Result<Self> {
        let sizes = (0..16).map(|shift| 1024_u64 << shift);
        let first = Self::read(file, 0);
        let second = match first {
            Some(meta) => Self::read(file, meta.page_size),
            None => {
                sizes.filter_map(|size| Self::read(file, size).filter(|meta| meta.page_size == size)).next()
            }
        };
        first
            .into_iter()
            .chain(second)
            .max_by_key(|meta| meta.transaction)
            .ok_or_else(|| damaged("it is not one of bbolt's, or its first pages are damaged"))
    }

    fn read(file: &File, offset: u64) -> Option<Self> {
        let mut page = [0; PAGE_HEADER + META];
        file.read_exact_at(&mut page, offset).ok()?;
        let meta = page.get(PAGE_HEADER..)?;
        let is_valid = u32_at(meta, 0).ok()? == MAGIC
            && u32_at(meta, 4).ok()? == VERSION
            && u64_at(meta, 56).ok()? == fnv(meta.get(..56)?);
        let page_size = u64::from(u32_at(meta, 8).ok()?);
        let is_size = page_size.is_power_of_two() && (1024..=1 << 25).contains(&page_size);
        (is_valid && is_size).then_some(())?;
        Some(Self { page_size, root: u64_at(meta, 16).ok()?, transaction: u64_at(meta, 48).ok()? })
    }
}

/// FNV-1a with 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

fn read_leaf(page: &[u8], found: &mut Vec<(Vec<u8>, Value)>) -> Result<()> {
    if flags(page)? != LEAF {
        return Err(damaged(format!("a leaf has the flags {:#x}", flags(page)?)));
    }
    // Elements that overlap would multiply what is in the page.
    let mut left = page.len();
    for index in 0..count(page)? {
        let at = PAGE_HEADER + index * ELEMENT;
        let [kind, position, key, value] = [0, 4, 8, 12].map(|field| u32_at(page, at + field));
        let (position, key, value) = (position? as usize, key? as usize, value? as usize);
        let begin = at.saturating_add(position);
        let middle = begin.saturating_add(key);
        left = left
            .checked_sub(ELEMENT.saturating_add(key).saturating_add(value))
            .ok_or_else(|| damaged("the elements of a page overlap"))?;
        let bytes = slice(page, middle, value)?;
        let value = match kind? & IS_BUCKET {
            0 => Value::Bytes(bytes.to_vec()),
            _ => Value::Bucket(bucket(bytes)?),
        };
        found.push((slice(page, begin, key)?.to_vec(), value));
    }
    Ok(())
}

/// A bucket from a value: its root page, or zero and the page itself.
fn bucket(value: &[u8]) -> Result<Bucket> {
    match u64_at(value, 0)? {
        0 => slice(value, BUCKET_HEADER, value.len().saturating_sub(BUCKET_HEADER))
            .map(|page| Bucket::Inline(page.to_vec())),
        root => Ok(Bucket::Root(root)),
    }
}

fn flags(page: &[u8]) -> Result<u16> {
    Ok(u16::from_le_bytes(array(page, 8)?))
}

fn count(page: &[u8]) -> Result<usize> {
    Ok(usize::from(u16::from_le_bytes(array(page, 10)?)))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(array(bytes, at)?))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(array(bytes, at)?))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    slice(bytes, at, N)?.try_into().map_err(|_| damaged("a page ends early"))
}

fn slice(bytes: &[u8], at: usize, length: usize) -> Result<&[u8]> {
    let end = at.saturating_add(length);
    bytes.get(at..end).ok_or_else(|| damaged("a page points to bytes beyond its end"))
}

fn damaged(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Kind::Corrupt, what)
}

#[cfg(test)]
mod tests {
    use super::super::tests::golden;
    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    /// Reads everything there is.
    fn read_all(bolt: &Bolt, bucket: &Bucket, depth: u32) -> Result<usize> {
        let mut count = 0;
        for (_, value) in bolt.entries(bucket)? {
            count += match value {
                Value::Bucket(inner) if depth < 20 => 1 + read_all(bolt, &inner, depth + 1)?,
                _ => 1,
            };
        }
        Ok(count)
    }

    fn names(bytes: &[u8]) -> Result<Vec<String>> {
        let file = file(bytes);
        let bolt = Bolt::open(file.path())?;
        let root = bolt.bucket(&[])?.unwrap();
        read_all(&bolt, &root, 0)?;
        let images = bolt.bucket(&["v1", "k8s.io", "images"])?.ok_or_else(|| damaged("no images"))?;
        let entries = bolt.entries(&images)?;
        Ok(entries.into_iter().map(|(key, _)| String::from_utf8_lossy(&key).into_owned()).collect())
    }

    #[test]
    fn a_file_that_containerd_wrote_is_read_with_all_its_pages() {
        let (_dir, root) = golden();
        let bytes = std::fs::read(root.join(super::super::METADATA)).unwrap();
        let names = names(&bytes).unwrap();
        assert_eq!(names.len(), 156);
        assert!(names.contains(&"registry.example.com/team/application-150:v1.150".to_owned()));
        let file = file(&bytes);
        let bolt = Bolt::open(file.path()).unwrap();
        assert!(bolt.bucket(&["v1", "k8s.io", "none"]).unwrap().is_none());
        assert!(bolt.is_current());
        // As after another commit: the first meta with a later transaction.
        let mut later = bytes[..4096].to_vec();
        later[PAGE_HEADER + 48..PAGE_HEADER + 56].copy_from_slice(&9999_u64.to_le_bytes());
        let sum = fnv(&later[PAGE_HEADER..PAGE_HEADER + 56]);
        later[PAGE_HEADER + 56..PAGE_HEADER + 64].copy_from_slice(&sum.to_le_bytes());
        let writer = File::options().write(true).open(file.path()).unwrap();
        writer.write_all_at(&later, 0).unwrap();
        assert!(!bolt.is_current());
    }

    #[test]
    fn one_damaged_meta_is_survived_and_two_are_not() {
        let (_dir, root) = golden();
        let good = std::fs::read(root.join(super::super::METADATA)).unwrap();
        for place in [0, 4096] {
            let mut bytes = good.clone();
            bytes[place + PAGE_HEADER..][..8].fill(0);
            // The transaction before the last may have fewer images.
            assert!(names(&bytes).unwrap().len() > 150, "{place}");
        }
        let mut bytes = good;
        bytes[..8192].fill(0);
        assert_eq!(names(&bytes).unwrap_err().kind(), Kind::Corrupt);
        for other in [&b""[..], b"text", &[0xff; 9000]] {
            assert_eq!(names(other).unwrap_err().kind(), Kind::Corrupt);
        }
    }

    #[test]
    fn damage_leads_to_an_error_and_never_to_an_endless_walk() {
        let (_dir, root) = golden();
        let good = std::fs::read(root.join(super::super::METADATA)).unwrap();
        let mut refused = 0;
        // Every field of pages in use, one after the other, with values that lead astray.
        for page in [99, 174, 175, 179, 181, 184, 186, 187].map(|page| page * 4096) {
            for place in [8, 10, 12, 16, 20, 24, 28, 32] {
                for value in [0_u32, 2, 0xff, 181, 0xffff_ffff] {
                    let mut bytes = good.clone();
                    bytes[page + place..][..4].copy_from_slice(&value.to_le_bytes());
                    refused += usize::from(names(&bytes).is_err());
                }
            }
        }
        assert!(refused > 20, "{refused}");
        // A truncated file, at each page.
        for pages in (2..188).step_by(7) {
            let _ = names(&good[..pages * 4096]);
        }
    }

    #[test]
    fn a_branch_that_leads_to_itself_is_refused() {
        let (_dir, root) = golden();
        let good = std::fs::read(root.join(super::super::METADATA)).unwrap();
        let mut bytes = good;
        let page = bytes.chunks(4096).position(|page| page[8..10] == [1, 0]).unwrap();
        let at = page * 4096 + PAGE_HEADER + 8;
        bytes[at..at + 8].copy_from_slice(&(page as u64).to_le_bytes());
        let error = names(&bytes).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
    }

    #[test]
    fn elements_that_overlap_are_refused() {
        // Each of them is the whole rest of the page: 64 KiB would become 80 MiB.
        let mut page = vec![0; 64 << 10];
        let count = 2000_usize;
        page[8..10].copy_from_slice(&LEAF.to_le_bytes());
        page[10..12].copy_from_slice(&(count as u16).to_le_bytes());
        for index in 0..count {
            let at = PAGE_HEADER + index * ELEMENT;
            let begin = PAGE_HEADER + count * ELEMENT;
            let fields = [0, begin - at, 1, page.len() - begin - 1].map(|field| (field as u32).to_le_bytes());
            page[at..at + ELEMENT].copy_from_slice(&fields.concat());
        }
        let mut found = Vec::new();
        assert_eq!(read_leaf(&page, &mut found).unwrap_err().kind(), Kind::Corrupt);
        assert!(found.len() <= 2);
        // The same as the value of a bucket, inline.
        let value = [vec![0; BUCKET_HEADER], page].concat();
        let Bucket::Inline(page) = bucket(&value).unwrap() else { panic!("it is not inline") };
        assert_eq!(read_leaf(&page, &mut found).unwrap_err().kind(), Kind::Corrupt);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        /// Bytes anywhere in the pages after the metas.
        #[test]
        fn spoilt_files_are_read_or_refused(at in 8192_usize..188 * 4096, spoilt in proptest::collection::vec(0_u8.., 1..40)) {
            let (_dir, root) = golden();
            let mut bytes = std::fs::read(root.join(super::super::METADATA)).unwrap();
            let end = (at + spoilt.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&spoilt[..end - at]);
            let _ = names(&bytes);
        }
    }
}
