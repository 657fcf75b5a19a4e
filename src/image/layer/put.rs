//! Puts members into the tree, one function per type.

use std::io::Read;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::OnceLock;

use rustix::fs::{Advice, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::{self, Warnings};
use super::limits::Limits;
use super::log::Log;
use super::lookup::{At, Existing, lookup, system};
use super::name::{Name, clean, join, split};
use super::tree::{Dir, DirAttributes, For, Parent, Tree};
use super::{Applied, LowerLink};
use crate::digest::Digest;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::image::tar::{Archive, Device, Entry, Kind, Segment, shown};
use crate::store::index::{self, Extent, Record};

/// Bytes written to a file before writeback is started, so that dirty pages never pile up.
const WRITE_BEHIND: u64 = 2 << 20;

/// Puts members into a tree and counts them.
#[derive(Debug)]
pub(super) struct Putter<'l> {
    pub(super) tree: Tree,
    limits: &'l Limits,
    pub(super) warnings: Warnings,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) hides_all_lower: bool,
    log: Log,
}

impl<'l> Putter<'l> {
    pub(super) fn new(tree: Tree, limits: &'l Limits, log: Log) -> Self {
        let warnings = Warnings::default();
        Self { tree, limits, warnings, entries: 0, bytes: 0, hides_all_lower: false, log }
    }

    /// The result, once all members are in place.
    pub(super) fn applied(self, diff_id: Digest, implicit_dirs: bool) -> Applied {
        let Self { entries, bytes, hides_all_lower, .. } = self;
        let warnings = self.warnings.finish();
        Applied { diff_id, entries, bytes, implicit_dirs, hides_all_lower, warnings }
    }

    /// Applies one member; its data is read from `archive`.
    ///
    /// # Errors
    /// Any failure, with the member's name.
    pub(super) fn put<R: Read>(&mut self, entry: &Entry, archive: &mut Archive<R>) -> Result<()> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            let most = self.limits.entries;
            return Err(Error::invalid(format!("the layer has more than {most} members")));
        }
        self.put_named(entry, archive).map_err(|e| e.doing(format!("unpack \"{}\"", shown(&entry.name))))
    }

    fn put_named<R: Read>(&mut self, entry: &Entry, archive: &mut Archive<R>) -> Result<()> {
        let path = match Name::parse(&entry.name)? {
            Name::Ignored => return Ok(()),
            Name::Hides(path) => return self.tree.hide(&path),
            Name::HidesAllIn(path) => {
                self.hides_all_lower |= path.is_empty();
                return self.tree.hide_all_in(&path);
            }
            Name::Plain(path) => path,
        };
        if path.is_empty() {
            return self.root(entry);
        }
        let (parent, name) = split(&path);
        let parent = self.member_parent(parent)?;
        let at = parent.at(name);
        match &entry.kind {
            Kind::File => self.file(&parent, at, entry, archive),
            Kind::HardLink(target) => self.hard_link(&parent, at, entry, target),
            Kind::Symlink(target) => self.symlink(&parent, at, entry, target),
            Kind::Char(device) => self.device(&parent, at, entry, FileType::CharacterDevice, *device),
            Kind::Block(device) => self.device(&parent, at, entry, FileType::BlockDevice, *device),
            Kind::Dir => self.dir(&parent, at, entry),
            Kind::Fifo => self.node(&parent, at, entry, index::Node::Fifo),
        }
    }

    fn member_parent(&mut self, path: &[u8]) -> Result<Rc<Parent>> {
        let parent = self.tree.parent(path, For::Member)?;
        parent.ok_or_else(|| Error::new(ErrorKind::Bug, "a member's directory was not made"))
    }

    /// Runs `make`, and again after removing an existing file: the last member of a name wins.
    fn replacing<T>(
        &mut self,
        parent: &Parent,
        at: At<'_>,
        doing: &'static str,
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T> {
        match make() {
            Err(Errno::EXIST) => {
                self.tree.remove(at, &join(&parent.path, at.name))?;
                system(doing, make())
            }
            result => system(doing, result),
        }
    }

    fn root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Dir {
            return Err(Error::invalid("the root of the layer must be a directory"));
        }
        let root = system("open the layer's directory", self.tree.open(b"", OFlags::RDONLY))?;
        attributes::chown_at(At { dir: root.as_fd(), name: b"." }, entry)?;
        let set = attributes::of_dir(&root, entry, &mut self.warnings)?;
        self.tree.dirs.entry(Vec::new()).or_default().described = Some(described(entry, &set));
        Ok(())
    }

    fn dir(&mut self, parent: &Parent, at: At<'_>, entry: &Entry) -> Result<()> {
        let path = join(&parent.path, at.name);
        match rustix::fs::mkdirat(at.dir, at.name, Mode::RWXU) {
            Ok(()) => self.tree.note_dir(&path, Dir::default())?,
            Err(Errno::EXIST) if lookup(at)? == Existing::Dir => {}
            Err(Errno::EXIST) => {
                self.tree.remove(at, &path)?;
                self.tree.make_dir(at, &path, Dir::default())?;
                // The replaced file hid the lower directory of this name, which must stay hidden.
                self.tree.make_opaque(&path)?;
            }
            Err(error) => system("make a directory", Err(error))?,
        }
        attributes::chown_at(at, entry)?;
        let mut set = Vec::new();
        if !entry.xattrs.is_empty() {
            let fd = system("open a directory of the layer", self.tree.open(&path, OFlags::RDONLY))?;
            set = attributes::of_dir(&fd, entry, &mut self.warnings)?;
        }
        let dir = self.tree.dirs.entry(path).or_default();
        dir.only_hides = false;
        dir.described = Some(described(entry, &set));
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        parent: &Parent,
        at: At<'_>,
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<()> {
        let size = entry.sparse.as_ref().map_or(entry.size, |sparse| sparse.real_size);
        if size > self.limits.bytes {
            let most = self.limits.bytes;
            return Err(Error::invalid(format!("it has {size} bytes, more than the {most} allowed")));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(at.dir, at.name, flags, Mode::RUSR | Mode::WUSR);
        let fd = self.replacing(parent, at, "create the file", create)?;
        let plain = [Segment { offset: 0, length: entry.size }];
        let segments = entry.sparse.as_ref().map_or(&plain[..], |sparse| &sparse.segments);
        let crc = write_data(&fd, segments, archive)?;
        if entry.sparse.is_some() {
            system("set the size", rustix::fs::ftruncate(&fd, size))?;
        }
        self.bytes += entry.size;
        let attributes = attributes::of_file(&fd, entry, &mut self.warnings)?;
        let extents = segments.iter().map(|s| Extent { offset: s.offset, length: s.length }).collect();
        let path = join(&parent.path, at.name);
        self.log.put(&Record::File { path: &path, attributes, size, extents, crc })
    }

    fn symlink(&mut self, parent: &Parent, at: At<'_>, entry: &Entry, target: &[u8]) -> Result<()> {
        if target.is_empty() {
            return Err(Error::invalid("a symlink needs a target"));
        }
        self.replacing(parent, at, "create a symlink", || rustix::fs::symlinkat(target, at.dir, at.name))?;
        let attributes = attributes::of_node(at, entry, false, &mut self.warnings)?;
        self.log.put(&Record::Symlink { path: &join(&parent.path, at.name), attributes, target })
    }

    /// Adds a name. The entry's own attributes are ignored: the target has them already, and through a symlink they
    /// could reach another file (CVE-2021-32760).
    fn hard_link(&mut self, parent: &Parent, at: At<'_>, entry: &Entry, target: &[u8]) -> Result<()> {
        let clean = clean(target)?;
        let (target_parent, target_name) = split(&clean);
        let missing = || LowerLink { name: entry.name.clone(), target: target.to_vec() }.into_error();
        let Some(from) = self.tree.parent(target_parent, For::Lookup)? else { return Err(missing()) };
        let old = from.at(target_name);
        match lookup(old)? {
            _ if target_name.is_empty() => return Err(Error::invalid("a hard link to a directory")),
            Existing::Dir => return Err(Error::invalid("a hard link to a directory")),
            Existing::Nothing | Existing::Whiteout => return Err(missing()),
            Existing::Link | Existing::Other => {}
        }
        if from.path == parent.path && target_name == at.name {
            return Ok(());
        }
        // linkat(2) without AT_SYMLINK_FOLLOW: a symlink is linked itself.
        let link = || rustix::fs::linkat(old.dir, old.name, at.dir, at.name, AtFlags::empty());
        self.replacing(parent, at, "make a hard link", link)?;
        let target = join(&from.path, target_name);
        self.log.put(&Record::Link { path: &join(&parent.path, at.name), target: &target })
    }

    fn device(
        &mut self,
        parent: &Parent,
        at: At<'_>,
        entry: &Entry,
        kind: FileType,
        device: Device,
    ) -> Result<()> {
        let Device { major, minor } = device;
        if kind == FileType::CharacterDevice && (major, minor) == (0, 0) {
            let error = Error::invalid("the character device 0:0 would hide a file of lower layers");
            return Err(error.hint("an image hides files with a file named .wh.NAME"));
        }
        let node = match kind {
            FileType::CharacterDevice => index::Node::Char(major, minor),
            _ => index::Node::Block(major, minor),
        };
        match self.node(parent, at, entry, node) {
            Err(error) if error.kind() == ErrorKind::Denied && in_user_namespace() => {
                let name = shown(&entry.name);
                self.warnings.add(format!("\"{name}\": device skipped: not allowed in a user namespace"));
                Ok(())
            }
            result => result,
        }
    }

    fn node(&mut self, parent: &Parent, at: At<'_>, entry: &Entry, node: index::Node) -> Result<()> {
        let (kind, device) = match node {
            index::Node::Fifo => (FileType::Fifo, 0),
            index::Node::Char(major, minor) => (FileType::CharacterDevice, rustix::fs::makedev(major, minor)),
            index::Node::Block(major, minor) => (FileType::BlockDevice, rustix::fs::makedev(major, minor)),
        };
        let make = || rustix::fs::mknodat(at.dir, at.name, kind, Mode::RUSR | Mode::WUSR, device);
        self.replacing(parent, at, "make a device or pipe", make)?;
        let attributes = attributes::of_node(at, entry, true, &mut self.warnings)?;
        self.log.put(&Record::Node { path: &join(&parent.path, at.name), attributes, node })
    }

    /// Sets the delayed attributes of directories, the deepest first: a parent stays writable until its turn. Returns
    /// whether some directory was never described.
    ///
    /// # Errors
    /// The kernel's error.
    pub(super) fn finish_dirs(&self) -> Result<bool> {
        let mut implicit = false;
        for (path, dir) in self.tree.dirs.iter().rev() {
            implicit |= dir.described.is_none() && !path.is_empty();
            self.finish_dir(path, dir)
                .map_err(|error| error.doing(format!("finish the directory \"{}\"", shown(path))))?;
        }
        Ok(implicit)
    }

    fn finish_dir(&self, path: &[u8], dir: &Dir) -> Result<()> {
        let plain = DirAttributes { mode: 0o755, ..DirAttributes::default() };
        let described = dir.described.as_ref().unwrap_or(&plain);
        let fd = system("open a directory of the layer", self.tree.open(path, OFlags::RDONLY))?;
        system("set the mode", rustix::fs::fchmod(&fd, Mode::from_raw_mode(described.mode)))?;
        for (name, value) in &described.late_xattrs {
            match rustix::fs::fsetxattr(&fd, name.as_slice(), value, rustix::fs::XattrFlags::empty()) {
                Err(Errno::PERM | Errno::OPNOTSUPP) => {}
                result => system("set an extended attribute", result)?,
            }
        }
        system("set the time", rustix::fs::futimens(&fd, &attributes::times(described.mtime)))?;
        let attributes = match &dir.described {
            Some(described) => Some(attributes::of_described(&fd, described)?),
            // The layers below cannot give the root other attributes.
            None if path.is_empty() => Some(attributes::as_they_are(&fd)?),
            None => None,
        };
        self.log.put(&Record::Dir { path, attributes, opaque: dir.opaque })
    }
}

fn described(entry: &Entry, set: &[attributes::Pair<'_>]) -> DirAttributes {
    DirAttributes {
        mode: entry.mode,
        mtime: entry.mtime,
        owner: (entry.uid, entry.gid),
        xattrs: set.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
        late_xattrs: attributes::late(entry),
    }
}

/// Writes the member's data to the positions of the segments, which together have exactly its length; returns its
/// CRC-32.
fn write_data<R: Read>(fd: &OwnedFd, segments: &[Segment], archive: &mut Archive<R>) -> Result<u32> {
    let mut crc = crc32fast::Hasher::new();
    let mut segments = segments.iter().copied();
    let mut now = Segment { offset: 0, length: 0 };
    let (mut written, mut begun) = (0u64, 0u64);
    while let Some(mut piece) = archive.data()? {
        crc.update(piece);
        while !piece.is_empty() {
            while now.length == 0 {
                let next = segments.next();
                now =
                    next.ok_or_else(|| Error::new(ErrorKind::Bug, "a sparse map is shorter than its data"))?;
            }
            let most = usize::try_from(now.length).unwrap_or(usize::MAX).min(piece.len());
            let count = match rustix::io::pwrite(fd, &piece[..most], now.offset) {
                Err(Errno::INTR) => continue,
                result => system("write the file", result)?,
            };
            piece = &piece[count..];
            now.offset += count as u64;
            now.length -= count as u64;
            written += count as u64;
        }
        if written - begun >= WRITE_BEHIND {
            begun = written;
            begin_writing_out(fd);
        }
    }
    Ok(crc.finalize())
}

/// Starts writeback of dirty pages and drops clean ones from the cache, as posix_fadvise(2) does on `DONTNEED`. It is
/// only advice, so a failure is ignored.
fn begin_writing_out(fd: &OwnedFd) {
    let to_the_end: Option<NonZeroU64> = None;
    let _ = rustix::fs::fadvise(fd, 0, to_the_end, Advice::DontNeed);
}

/// Returns whether some ids of the system are not mapped here: then devices cannot be created, user_namespaces(7).
fn in_user_namespace() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        map.split_whitespace().ne(["0", "0", "4294967295"])
    })
}

/// Caches facts that cannot be read any more once only the layer's directory is reachable.
pub(in crate::image) fn cache_user_namespace() {
    in_user_namespace();
}
