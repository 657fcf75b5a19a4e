//! Builds tar streams member by member, also the ones no honest writer makes.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use std::collections::BTreeMap;

use serde::Deserialize;

/// One member as an attack description or a test gives it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Member {
    /// `file`, `dir`, `symlink`, `link`, `char`, `block`, `fifo`, or one character: the raw type flag.
    pub(crate) r#type: String,
    pub(crate) name: String,
    pub(crate) link: String,
    pub(crate) data: String,
    /// Octal.
    pub(crate) mode: Option<String>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: u64,
    pub(crate) device: (u32, u32),
    /// Extended header records before it, in this order.
    pub(crate) pax: Vec<(String, String)>,
    /// The body of an extended header before it, as it is.
    pub(crate) raw_pax: Option<String>,
    /// A GNU long name before it.
    pub(crate) long_name: Option<String>,
    /// What the header says of its size, when it lies.
    pub(crate) size: Option<u64>,
    /// Old GNU sparse map: offset and length of up to four segments, and the size with holes.
    pub(crate) sparse: Vec<(u64, u64)>,
    pub(crate) real_size: u64,
    /// Sparse map blocks after the header, each with 21 one-byte segments.
    pub(crate) more_sparse: u64,
}

impl Member {
    pub(crate) fn new(kind: &str, name: &str) -> Self {
        Self { r#type: kind.into(), name: name.into(), mtime: 1_700_000_000, ..Self::default() }
    }

    pub(crate) fn file(name: &str, data: &str) -> Self {
        Self { data: data.into(), ..Self::new("file", name) }
    }

    pub(crate) fn dir(name: &str) -> Self {
        Self::new("dir", name)
    }

    pub(crate) fn linked(kind: &str, name: &str, link: &str) -> Self {
        Self { link: link.into(), ..Self::new(kind, name) }
    }

    pub(crate) fn mode(self, mode: &str) -> Self {
        Self { mode: Some(mode.into()), ..self }
    }

    pub(crate) fn pax(mut self, key: &str, value: &str) -> Self {
        self.pax.push((key.into(), value.into()));
        self
    }

    fn flag(&self) -> u8 {
        match self.r#type.as_str() {
            "file" => b'0',
            "link" => b'1',
            "symlink" => b'2',
            "char" => b'3',
            "block" => b'4',
            "dir" => b'5',
            "fifo" => b'6',
            raw => raw.bytes().next().unwrap(),
        }
    }

    fn write(&self, tar: &mut Vec<u8>) {
        let mut records = self.pax.clone();
        if self.name.len() > 100 && self.long_name.is_none() {
            records.push(("path".into(), self.name.clone()));
        }
        if self.link.len() > 100 {
            records.push(("linkpath".into(), self.link.clone()));
        }
        if !records.is_empty() {
            let body: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
            plain(tar, b'x', "pax", &body);
        }
        if let Some(raw) = &self.raw_pax {
            plain(tar, b'x', "pax", raw.as_bytes());
        }
        if let Some(long) = &self.long_name {
            plain(tar, b'L', "././@LongLink", &[long.as_bytes(), b"\0"].concat());
        }
        tar.extend_from_slice(&self.header());
        for _ in 0..self.more_sparse {
            tar.extend_from_slice(&endless_map());
        }
        tar.extend_from_slice(self.data.as_bytes());
        tar.resize(tar.len().next_multiple_of(512), 0);
    }

    fn header(&self) -> [u8; 512] {
        let mut block = [0; 512];
        text(&mut block, 0, 100, &self.name);
        let mode = self.mode.as_deref().unwrap_or(if self.flag() == b'5' { "755" } else { "644" });
        octal(&mut block, 100, 8, u64::from_str_radix(mode, 8).unwrap());
        octal(&mut block, 108, 8, u64::from(self.uid));
        octal(&mut block, 116, 8, u64::from(self.gid));
        octal(&mut block, 124, 12, self.size.unwrap_or(self.data.len() as u64));
        octal(&mut block, 136, 12, self.mtime);
        block[156] = self.flag();
        text(&mut block, 157, 100, &self.link);
        octal(&mut block, 329, 8, u64::from(self.device.0));
        octal(&mut block, 337, 8, u64::from(self.device.1));
        if self.flag() == b'S' {
            block[257..265].copy_from_slice(b"ustar  \0");
            for (at, (offset, length)) in self.sparse.iter().enumerate() {
                octal(&mut block, 386 + 24 * at, 12, *offset);
                octal(&mut block, 398 + 24 * at, 12, *length);
            }
            block[482] = u8::from(self.more_sparse > 0);
            octal(&mut block, 483, 12, self.real_size);
        } else {
            block[257..265].copy_from_slice(b"ustar\x0000");
        }
        sum(&mut block);
        block
    }
}

fn endless_map() -> [u8; 512] {
    let mut block = [0; 512];
    for at in 0..21 {
        octal(&mut block, 24 * at, 12, 0);
        octal(&mut block, 24 * at + 12, 12, 0);
    }
    block[504] = 1;
    block
}

fn text(block: &mut [u8; 512], at: usize, most: usize, text: &str) {
    let bytes = &text.as_bytes()[..text.len().min(most)];
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

fn octal(block: &mut [u8; 512], at: usize, width: usize, number: u64) {
    let digits = format!("{number:0width$o}\0", width = width - 1);
    assert_eq!(digits.len(), width, "{number} does not fit");
    block[at..at + width].copy_from_slice(digits.as_bytes());
}

fn sum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn plain(tar: &mut Vec<u8>, flag: u8, name: &str, body: &[u8]) {
    let mut block = [0; 512];
    text(&mut block, 0, 100, name);
    for (at, width) in [(100, 8), (108, 8), (116, 8), (136, 12)] {
        octal(&mut block, at, width, 0);
    }
    octal(&mut block, 124, 12, body.len() as u64);
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    sum(&mut block);
    tar.extend_from_slice(&block);
    tar.extend_from_slice(body);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// A pax record: its length counts its own digits.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let digits = (1..6).find(|n| (rest + n).to_string().len() == *n).unwrap();
    format!("{} {key}={value}\n", rest + digits).into_bytes()
}

/// The members as one archive.
pub(crate) fn tar(members: &[Member]) -> Vec<u8> {
    let mut tar = Vec::new();
    for member in members {
        member.write(&mut tar);
    }
    tar.extend_from_slice(&[0; 1024]);
    tar
}

/// A directory as a map from path to a line that says everything that counts.
pub(crate) fn snapshot(root: &std::path::Path) -> BTreeMap<Vec<u8>, String> {
    let mut all = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(path) = todo.pop() {
        let name =
            std::os::unix::ffi::OsStrExt::as_bytes(path.strip_prefix(root).unwrap().as_os_str()).to_vec();
        all.insert(name, described(&path));
        if path.symlink_metadata().unwrap().is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    all
}

/// What stands at a path: `whiteout`, or type, mode, owner, time, content, extended attributes.
pub(crate) fn described(path: &std::path::Path) -> String {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let Ok(meta) = path.symlink_metadata() else { return "absent".into() };
    let kind = meta.file_type();
    let what = if kind.is_char_device() && meta.rdev() == 0 {
        return "whiteout".into();
    } else if kind.is_dir() {
        "dir".to_owned()
    } else if kind.is_symlink() {
        format!("symlink to {}", path.read_link().unwrap().display())
    } else if kind.is_file() {
        let data = std::fs::read(path).unwrap();
        let data =
            if data.len() > 80 { coracle::image::digest::Digest::of(&data).hex().into() } else { data };
        format!("file \"{}\"", data.escape_ascii())
    } else if kind.is_fifo() {
        "fifo".to_owned()
    } else {
        format!("device {:x}", meta.rdev())
    };
    let (mode, uid, gid) = (meta.mode() & 0o7777, meta.uid(), meta.gid());
    let time = meta.mtime();
    format!("{what} {mode:04o} {uid}:{gid} @{time}.{:09}{}", meta.mtime_nsec(), xattrs(path))
}

fn xattrs(path: &std::path::Path) -> String {
    let mut names = vec![0; 65536];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let mut all = BTreeMap::new();
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65536];
        let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
        all.insert(name.escape_ascii().to_string(), value[..length].escape_ascii().to_string());
    }
    all.iter().map(|(name, value)| format!(" [{name}={value}]")).collect()
}
