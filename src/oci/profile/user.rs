//! Who a container runs as: `name|uid[:group|gid]`, looked up in the container's own /etc/passwd and /etc/group.
//!
//! The image's files are not to be trusted: they are opened beneath the root (a link to the host's leads nowhere),
//! have to be regular (a FIFO would hang, a device could do anything), and are read up to a limit (CVE-2026-47262).

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use crate::error::{Doing, Error, Kind, Result};

/// The most that is read of such a file, in bytes.
const LIMIT: u64 = 1 << 20;

/// A user, found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory; `/` when unknown.
    pub home: String,
}

impl Default for Resolved {
    fn default() -> Self {
        Self { uid: 0, gid: 0, groups: Vec::new(), home: "/root".to_owned() }
    }
}

/// The two files of a root filesystem.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Databases {
    passwd: String,
    group: String,
}

impl Databases {
    /// Reads them; a root without them has none.
    ///
    /// # Errors
    /// One is not a regular file, or cannot be read.
    pub fn read(root: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(root, flags, Mode::empty()).doing(|| format!("open {}", root.display()))?;
        Ok(Self { passwd: read_beneath(&root, "etc/passwd")?, group: read_beneath(&root, "etc/group")? })
    }

    /// Looks a user up; an empty one is root.
    ///
    /// # Errors
    /// `NotFound` for a name that is in neither file.
    pub fn resolve(&self, user: &str) -> Result<Resolved> {
        let (user, group) = user.split_once(':').map_or((user, None), |(u, g)| (u, Some(g)));
        let user = if user.is_empty() { "0" } else { user };
        let entry = self.passwd_entry(user);
        let number = user.parse::<u32>().ok();
        let (uid, gid) = match (&entry, number) {
            (Some(entry), _) => (entry.uid, entry.gid),
            (None, Some(uid)) => (uid, 0),
            (None, None) => return Err(absent("user", user, "/etc/passwd")),
        };
        let home = entry.as_ref().map(|e| e.home).filter(|h| !h.is_empty());
        let home = home.unwrap_or(if uid == 0 { "/root" } else { "/" }).to_owned();
        match group.filter(|g| !g.is_empty()) {
            // A group that is named is the only one.
            Some(group) => Ok(Resolved { uid, gid: self.group(group)?, groups: Vec::new(), home }),
            None => Ok(Resolved {
                uid,
                gid,
                groups: entry.map(|e| self.groups_of(e.name)).unwrap_or_default(),
                home,
            }),
        }
    }

    /// A group's id, by name or number.
    ///
    /// # Errors
    /// `NotFound` for a name that is not there.
    pub fn group(&self, group: &str) -> Result<u32> {
        let found =
            fields(&self.group).find(|f| f.first() == Some(&group)).and_then(|f| f.get(2)?.parse().ok());
        found.or_else(|| group.parse().ok()).ok_or_else(|| absent("group", group, "/etc/group"))
    }

    fn passwd_entry(&self, user: &str) -> Option<Entry<'_>> {
        let entries = || fields(&self.passwd).filter_map(Entry::parse);
        entries().find(|e| e.name == user).or_else(|| {
            let uid: u32 = user.parse().ok()?;
            entries().find(|e| e.uid == uid)
        })
    }

    fn groups_of(&self, name: &str) -> Vec<u32> {
        let member = |f: &Vec<&str>| f.get(3).is_some_and(|members| members.split(',').any(|m| m == name));
        fields(&self.group).filter(member).filter_map(|f| f.get(2)?.parse().ok()).collect()
    }
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Entry<'a> {
    fn parse(fields: Vec<&'a str>) -> Option<Self> {
        Some(Self {
            name: fields.first()?,
            uid: fields.get(2)?.parse().ok()?,
            gid: fields.get(3)?.parse().ok()?,
            home: fields.get(5).copied().unwrap_or_default(),
        })
    }
}

fn fields(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter(|l| !l.starts_with('#')).map(|line| line.split(':').collect())
}

fn absent(what: &str, name: &str, file: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no {what} {name:?} in the container's {file}"))
        .hint(format!("give a number, or add the {what} to the image"))
}

fn read_beneath(root: &OwnedFd, path: &str) -> Result<String> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let doing = || format!("read the container's /{path}");
    let fd = match openat2(root.as_fd(), path, flags, Mode::empty(), resolve) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        other => other.doing(doing)?,
    };
    let stat = fstat(&fd).doing(doing)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::invalid(format!("the container's /{path} is not a regular file")));
    }
    let mut bytes = Vec::new();
    std::fs::File::from(fd).take(LIMIT + 1).read_to_end(&mut bytes).doing(doing)?;
    if bytes.len() as u64 > LIMIT {
        return Err(Error::invalid(format!("the container's /{path} has more than {LIMIT} bytes")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The home directory of a user by the root's /etc/passwd; `/` when it does not say.
pub fn home_of(root: &Path, uid: u32) -> String {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let passwd = rustix::fs::open(root, flags, Mode::empty())
        .ok()
        .and_then(|root| read_beneath(&root, "etc/passwd").ok());
    let databases = Databases { passwd: passwd.unwrap_or_default(), group: String::new() };
    databases.resolve(&uid.to_string()).map_or_else(|_| "/".to_owned(), |user| user.home)
}

/// Sets HOME in an environment that has none, as runc does.
pub fn complete_home(process: &mut oci_spec::runtime::Process, root: &Path) {
    let env = process.env().as_deref().unwrap_or_default();
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        let mut env = env.to_vec();
        env.push(format!("HOME={}", home_of(root, process.user().uid())));
        process.set_env(Some(env));
    }
}

/// Opens what is at a path beneath a root (`O_PATH`), links followed inside it only.
///
/// # Errors
/// The errno of openat2.
pub fn open_beneath(root: &Path, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, root, flags | OFlags::DIRECTORY, Mode::empty())?;
    openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn databases() -> Databases {
        Databases {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:Web:/var/www:/bin/sh\n".into(),
            group: "root:x:0:\nwww:x:44:\naudio:x:29:web,other\n".into(),
        }
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let found = databases().resolve("web").unwrap();
        assert_eq!(found, Resolved { uid: 33, gid: 44, groups: vec![29], home: "/var/www".into() });
        assert_eq!(databases().resolve("33").unwrap(), found);
        assert_eq!(databases().resolve("").unwrap(), Resolved::default());
        let unknown = databases().resolve("1000").unwrap();
        assert_eq!((unknown.uid, unknown.gid, unknown.home.as_str()), (1000, 0, "/"));
    }

    #[test]
    fn a_group_that_is_named_is_the_only_one() {
        let found = databases().resolve("web:audio").unwrap();
        assert_eq!((found.gid, found.groups), (29, vec![]));
        assert_eq!(databases().resolve("web:7").unwrap().gid, 7);
        for bad in ["nobody", "web:nogroup"] {
            assert_eq!(databases().resolve(bad).unwrap_err().kind(), Kind::NotFound);
        }
    }

    #[test]
    fn links_and_fifos_in_the_image_lead_nowhere() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", etc.join("group")).unwrap();
        rustix::fs::mknodat(CWD, etc.join("passwd"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        assert!(Databases::read(root.path()).unwrap_err().to_string().contains("not a regular file"));
        std::fs::remove_file(etc.join("passwd")).unwrap();
        std::fs::write(etc.join("passwd"), "inside:x:7:7::/:\n").unwrap();
        // The link now leads to the image's own passwd, not the host's.
        assert!(Databases::read(root.path()).unwrap().group.contains("inside"));
    }
}
