//! Members of an archive, kept until their use is known: small documents in memory, the others parked in the
//! transaction's directory, each with its real digest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read, Write};
use std::path::PathBuf;

use super::document::{Blobs, MAX_KEPT, Opened, wrong_digest};
use crate::digest::{Digest, Hasher};
use crate::error::{Cause, Doing, Error, Kind, Result};
use crate::store::{MAX_DOCUMENT, Transaction};

/// More members than any image archive has.
const MAX_ITEMS: usize = 100_000;

/// The storage of a member's bytes.
#[derive(Debug)]
enum Body {
    Memory(Vec<u8>),
    Parked(PathBuf),
    /// Not stored: they were needed only once, or the store has the layer.
    Dropped,
}

#[derive(Debug)]
struct Item {
    digest: Digest,
    size: u64,
    body: Body,
}

/// Digest and size of a file of the archive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// The members of an archive.
#[derive(Debug, Default)]
pub(super) struct MemberCache {
    items: BTreeMap<String, Item>,
    links: BTreeMap<String, String>,
    in_memory: usize,
}

impl MemberCache {
    /// Stores a file. Documents stay in memory, up to a total size; all else is parked.
    pub(super) fn put(
        &mut self,
        name: String,
        size: u64,
        mut from: impl Read,
        txn: &Transaction<'_>,
    ) -> Result<()> {
        let doing = || format!("read {name} from the archive");
        let mut head = Vec::new();
        if size <= MAX_DOCUMENT {
            from.by_ref().take(1).read_to_end(&mut head).map_err(|error| unwrapped(error).doing(doing()))?;
        }
        let is_document = matches!(head.first(), Some(b'{' | b'[')) && self.in_memory < MAX_KEPT;
        let from = Cursor::new(head).chain(from);
        let item = if is_document { in_memory(from, size) } else { parked(from, txn) }
            .map_err(|e| e.doing(doing()))?;
        if let Body::Memory(bytes) = &item.body {
            self.in_memory += bytes.len();
        }
        self.insert(name, item)
    }

    /// Records a file whose bytes are not needed again.
    pub(super) fn note(&mut self, name: String, facts: Facts) -> Result<()> {
        self.insert(name, Item { digest: facts.digest, size: facts.size, body: Body::Dropped })
    }

    /// Records that `name` is a link to `target`, both relative to the top of the archive.
    pub(super) fn link(&mut self, name: String, target: String) -> Result<()> {
        self.links.insert(name, target);
        self.check_count()
    }

    fn insert(&mut self, name: String, item: Item) -> Result<()> {
        match self.items.get_mut(&name) {
            // Archives that were appended to each other have the common blobs twice.
            Some(known) if known.digest == item.digest => {
                if matches!(known.body, Body::Dropped) {
                    *known = item;
                }
            }
            // Readers would disagree on which one counts.
            Some(_) => {
                return Err(Error::new(Kind::Corrupt, format!("{name} is in the archive twice")));
            }
            None => drop(self.items.insert(name, item)),
        }
        self.check_count()
    }

    fn check_count(&self) -> Result<()> {
        if self.items.len() + self.links.len() > MAX_ITEMS {
            return Err(Error::invalid(format!("the archive has more than {MAX_ITEMS} members")));
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Option<&Item> {
        let mut name = name;
        // Docker links layers to layers; a longer chain is a loop.
        for _ in 0..8 {
            match self.items.get(name) {
                Some(item) => return Some(item),
                None => name = self.links.get(name)?,
            }
        }
        None
    }

    /// Digest and size of the file `name`.
    pub(super) fn facts(&self, name: &str) -> Option<Facts> {
        self.find(name).map(|item| Facts { digest: item.digest, size: item.size })
    }

    /// Opens the file `name`.
    pub(super) fn open_name(&self, name: &str) -> Result<Option<Opened<'_>>> {
        let Some(item) = self.find(name) else { return Ok(None) };
        let reader: Box<dyn Read + '_> = match &item.body {
            Body::Memory(bytes) => Box::new(bytes.as_slice()),
            Body::Parked(path) => Box::new(File::open(path).doing(|| format!("open {}", path.display()))?),
            Body::Dropped => return Err(Error::new(Kind::Bug, format!("{name} was dropped, but is needed"))),
        };
        Ok(Some(Opened { reader, size: item.size }))
    }
}

/// Blobs by their names in an OCI layout.
impl Blobs for MemberCache {
    fn open(&self, digest: &Digest) -> Result<Option<Opened<'_>>> {
        let name = blob_name(digest);
        match self.facts(&name) {
            Some(facts) if facts.digest != *digest => Err(wrong_digest(digest, &facts.digest)),
            _ => self.open_name(&name),
        }
    }
}

/// The files of a docker archive, found by digest because their names mean nothing.
pub(super) struct ByContent<'a>(pub(super) &'a MemberCache);

impl Blobs for ByContent<'_> {
    fn open(&self, digest: &Digest) -> Result<Option<Opened<'_>>> {
        let found = self.0.items.iter().find(|(_, item)| item.digest == *digest);
        found.map_or(Ok(None), |(name, _)| self.0.open_name(name))
    }
}

/// The name of a blob in a layout.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn in_memory(mut from: impl Read, size: u64) -> Result<Item> {
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    from.read_to_end(&mut bytes).map_err(unwrapped)?;
    Ok(Item { digest: Digest::of(&bytes), size: bytes.len() as u64, body: Body::Memory(bytes) })
}

fn parked(mut from: impl Read, txn: &Transaction<'_>) -> Result<Item> {
    let (mut file, path) = txn.park()?;
    let (digest, size) = copy(&mut from, &mut file)?;
    Ok(Item { digest, size, body: Body::Parked(path) })
}

/// Unwraps an error of this crate that passed through a reader; wraps one of the system.
fn unwrapped(error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(own) => own,
        Err(error) => Error::new(Cause::kind(&error), "read it").because(error),
    }
}

/// Copies all of `from`; returns its digest and length.
pub(super) fn copy(from: &mut dyn Read, to: &mut dyn Write) -> Result<(Digest, u64)> {
    let mut buffer = vec![0; 64 << 10];
    let (mut hasher, mut size) = (Hasher::new(), 0);
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finish(), size)),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unwrapped(error)),
        };
        hasher.update(&buffer[..count]);
        to.write_all(&buffer[..count]).doing(|| "write it to the store")?;
        size += count as u64;
    }
}
