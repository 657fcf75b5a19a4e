//! Looks up the user of a container in the image's own /etc/passwd and /etc/group.
//!
//! The image's files are untrusted: they are opened beneath the root (so a symbolic link cannot lead to the host's),
//! have to be regular files (a FIFO would block, opening a device could have effects), and are read up to a limit
//! (CVE-2026-47262).

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use super::request::{GroupsFromImage, GroupsRequest, Principal, UserRequest};
use crate::error::{Doing, Error, Kind, Result};
use crate::linux::ids::{self, Account, UserSpec};

/// The greatest size of such a file, in bytes.
const LIMIT: u64 = 1 << 20;

/// A user, found in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory, for the variable HOME.
    pub home: Option<String>,
}

impl Default for ResolvedUser {
    fn default() -> Self {
        Self { uid: 0, gid: 0, groups: Vec::new(), home: Some("/root".to_owned()) }
    }
}

/// Resolves the user and the groups that a request names to ids. `of_image` is the image's `user[:group]`.
///
/// # Errors
/// `NotFound` for a name that the image does not have, `Invalid` for text that is neither a name nor an id.
pub fn resolve(
    user: &UserRequest,
    groups: &GroupsRequest,
    of_image: &str,
    databases: &Databases,
) -> Result<ResolvedUser> {
    let UserSpec { user, group } = match user {
        UserRequest::Image => UserSpec::parse(of_image)?,
        UserRequest::Named { user, group } => {
            UserSpec { user: user.account(), group: group.as_ref().map(Principal::account) }
        }
    };
    let mut found = databases.user(user)?;
    if let Some(group) = group {
        found.gid = databases.group_id(group)?;
    }
    let of_image = match (groups.from_image, group) {
        (GroupsFromImage::Always, _) | (GroupsFromImage::UnlessGroupIsNamed, None) => found.groups,
        (GroupsFromImage::UnlessGroupIsNamed, Some(_)) | (GroupsFromImage::Never, _) => Vec::new(),
    };
    let added = groups.added.iter().map(|group| databases.group_id(group.account()));
    // The supplementary groups include the main group: otherwise a program that drops the main group would gain
    // access to files that deny it to that group (CVE-2022-2989, CVE-2023-25173).
    found.groups = vec![found.gid];
    for group in of_image.into_iter().map(Ok).chain(added) {
        let group = group?;
        if found.groups.len() > ids::MOST_GROUPS {
            break; // The check of the configuration reports it.
        }
        if !found.groups.contains(&group) {
            found.groups.push(group);
        }
    }
    Ok(found)
}

impl Principal {
    /// Parses a name or a number; `what` is "user" or "group", for messages.
    ///
    /// # Errors
    /// As [`Account::parse`].
    pub fn parse(what: &str, text: &str) -> Result<Self> {
        Account::parse(what, text).map(Self::from)
    }

    fn account(&self) -> Account<'_> {
        match self {
            Self::Id(id) => Account::Id(*id),
            Self::Name(name) => Account::Name(name),
        }
    }
}

impl From<Account<'_>> for Principal {
    fn from(account: Account<'_>) -> Self {
        match account {
            Account::Id(id) => Self::Id(id),
            Account::Name(name) => Self::Name(name.to_owned()),
        }
    }
}

impl UserRequest {
    /// Parses `user[:group]`.
    ///
    /// # Errors
    /// As [`UserSpec::parse`].
    pub fn parse(text: &str) -> Result<Self> {
        let UserSpec { user, group } = UserSpec::parse(text)?;
        Ok(Self::Named { user: user.into(), group: group.map(Principal::from) })
    }
}

/// /etc/passwd and /etc/group of a root filesystem.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Databases {
    passwd: String,
    group: String,
}

impl Databases {
    /// Reads both files; a missing one counts as empty.
    ///
    /// # Errors
    /// One is not a regular file, or cannot be read.
    pub fn read(root: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(root, flags, Mode::empty()).doing(|| format!("open {}", root.display()))?;
        Ok(Self { passwd: read_beneath(&root, "etc/passwd")?, group: read_beneath(&root, "etc/group")? })
    }

    /// Looks up a user. A number needs no entry; if an entry has it as its uid, that entry determines the main group,
    /// the home directory and the supplementary groups, as in docker and containerd.
    ///
    /// # Errors
    /// `NotFound` for an unknown name, `Invalid` for one whose line has no valid ids.
    pub fn user(&self, user: Account<'_>) -> Result<ResolvedUser> {
        let (uid, entry) = match user {
            Account::Id(uid) => (uid, self.entries().find(|entry| entry.ids.is_some_and(|ids| ids.0 == uid))),
            Account::Name(name) => {
                let entry = self.entries().find(|entry| entry.name == name);
                let entry = entry.ok_or_else(|| absent("user", name, "/etc/passwd"))?;
                let (uid, _) = entry.ids.ok_or_else(|| malformed("user", name, "/etc/passwd"))?;
                (uid, Some(entry))
            }
        };
        let home = entry.as_ref().map(|entry| entry.home).filter(|home| is_home(home));
        let home = Some(home.unwrap_or(if uid == 0 { "/root" } else { "/" }).to_owned());
        let gid = entry.as_ref().and_then(|entry| entry.ids).map_or(0, |(_, gid)| gid);
        let groups = entry.map(|entry| self.groups_of(entry.name)).transpose()?.unwrap_or_default();
        Ok(ResolvedUser { uid, gid, groups, home })
    }

    /// A group's id, by name or number.
    ///
    /// # Errors
    /// `NotFound` for an unknown name, `Invalid` for one whose line has no valid id.
    pub fn group_id(&self, group: Account<'_>) -> Result<u32> {
        let name = match group {
            Account::Id(gid) => return Ok(gid),
            Account::Name(name) => name,
        };
        let line = lines(&self.group).find(|line| line.split(':').next() == Some(name));
        let line = line.ok_or_else(|| absent("group", name, "/etc/group"))?;
        let gid = line.split(':').nth(2).and_then(ids::parse);
        gid.ok_or_else(|| malformed("group", name, "/etc/group"))
    }

    fn entries(&self) -> impl Iterator<Item = PasswdEntry<'_>> {
        lines(&self.passwd).filter_map(PasswdEntry::parse)
    }

    /// The groups that list this user as a member. Lines without a valid id are ignored, as getgrent(3) does.
    fn groups_of(&self, name: &str) -> Result<Vec<u32>> {
        let mut groups = Vec::new();
        for line in lines(&self.group) {
            let mut fields = line.split(':').skip(2);
            let (gid, members) = (fields.next().and_then(ids::parse), fields.next().unwrap_or_default());
            let Some(gid) = gid.filter(|_| members.split(',').any(|member| member == name)) else { continue };
            if groups.contains(&gid) {
                continue;
            }
            if groups.len() == ids::MOST_GROUPS {
                let most = ids::MOST_GROUPS;
                let what =
                    format!("the user {name:?} has more than {most} groups in the container's /etc/group");
                return Err(Error::invalid(what));
            }
            groups.push(gid);
        }
        Ok(groups)
    }
}

/// A line of /etc/passwd; passwd(5).
struct PasswdEntry<'a> {
    name: &'a str,
    /// User and group id, if both are valid.
    ids: Option<(u32, u32)>,
    home: &'a str,
}

impl<'a> PasswdEntry<'a> {
    /// `None` for a line without a name: an empty name would match each group without members.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let mut id = |skipped| fields.nth(skipped).and_then(ids::parse);
        let (uid, gid) = (id(1), id(0));
        Some(Self { name, ids: uid.zip(gid), home: fields.nth(1).unwrap_or_default() })
    }
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with('#'))
}

/// Whether a field can be the value of HOME.
fn is_home(path: &str) -> bool {
    path.starts_with('/') && !path.contains(char::is_control)
}

fn absent(what: &str, name: &str, file: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no {what} {name:?} in the container's {file}"))
        .hint(format!("give a number, or add the {what} to the image"))
}

fn malformed(what: &str, name: &str, file: &str) -> Error {
    Error::invalid(format!("the line of {what} {name:?} in the container's {file} has no valid id"))
        .hint("ids are decimal numbers from 0 to 4294967294")
}

/// Reads a file of the image. Its type is checked before it is opened for reading, because opening a device may
/// already have effects.
fn read_beneath(root: &OwnedFd, path: &str) -> Result<String> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let doing = || format!("read the container's /{path}");
    let fd = match openat2(root.as_fd(), path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        other => other.doing(doing)?,
    };
    let stat = fstat(&fd).doing(doing)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::invalid(format!("the container's /{path} is not a regular file")));
    }
    let file = std::fs::File::open(format!("/proc/self/fd/{}", fd.as_raw_fd())).doing(doing)?;
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes).doing(doing)?;
    if bytes.len() as u64 > LIMIT {
        return Err(Error::invalid(format!("the container's /{path} has more than {LIMIT} bytes")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The home directory of a user in the root's /etc/passwd; `/` if it has none.
pub fn home_of(root: &Path, uid: u32) -> String {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let passwd = rustix::fs::open(root, flags, Mode::empty())
        .ok()
        .and_then(|root| read_beneath(&root, "etc/passwd").ok());
    let databases = Databases { passwd: passwd.unwrap_or_default(), group: String::new() };
    databases.user(Account::Id(uid)).ok().and_then(|user| user.home).unwrap_or_else(|| "/".to_owned())
}

/// Sets HOME in an environment without it, as runc does.
pub fn complete_home(process: &mut oci_spec::runtime::Process, root: &Path) {
    let env = process.env().as_deref().unwrap_or_default();
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        let mut env = env.to_vec();
        env.push(format!("HOME={}", home_of(root, process.user().uid())));
        process.set_env(Some(env));
    }
}

/// Opens a file beneath a root with `O_PATH`; symbolic links are followed inside the root only.
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

    impl Databases {
        /// As docker looks up `user[:group]`.
        fn resolve(&self, text: &str) -> Result<ResolvedUser> {
            resolve(&UserRequest::parse(text)?, &GroupsRequest::default(), "", self)
        }

        fn group(&self, text: &str) -> Result<u32> {
            self.group_id(Account::parse("group", text)?)
        }
    }

    fn databases() -> Databases {
        Databases {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:Web:/var/www:/bin/sh\n".into(),
            group: "root:x:0:\nwww:x:44:\naudio:x:29:web,other\n".into(),
        }
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let found = databases().resolve("web").unwrap();
        assert_eq!(
            found,
            ResolvedUser { uid: 33, gid: 44, groups: vec![44, 29], home: Some("/var/www".into()) }
        );
        assert_eq!(databases().resolve("33").unwrap(), found);
        assert_eq!(
            databases().resolve("").unwrap(),
            ResolvedUser { groups: vec![0], ..ResolvedUser::default() }
        );
        let unknown = databases().resolve("1000").unwrap();
        assert_eq!((unknown.uid, unknown.gid, unknown.home.as_deref()), (1000, 0, Some("/")));
    }

    #[test]
    fn a_group_that_is_named_is_the_only_one() {
        let found = databases().resolve("web:audio").unwrap();
        assert_eq!((found.gid, found.groups), (29, vec![29]));
        assert_eq!(databases().resolve("web:7").unwrap().gid, 7);
        for bad in ["nobody", "web:nogroup"] {
            assert_eq!(databases().resolve(bad).unwrap_err().kind(), Kind::NotFound);
        }
    }

    #[test]
    fn groups_of_the_image_come_as_asked() {
        let groups = |from_image, user: &str| {
            let groups = GroupsRequest { from_image, added: vec![Principal::Id(7), Principal::Id(29)] };
            resolve(&UserRequest::Image, &groups, user, &databases()).unwrap().groups
        };
        use GroupsFromImage::{Always, Never, UnlessGroupIsNamed};
        assert_eq!(groups(Always, "web:root"), [0, 29, 7]);
        assert_eq!(groups(UnlessGroupIsNamed, "web"), [44, 29, 7]);
        assert_eq!(groups(UnlessGroupIsNamed, "web:root"), [0, 7, 29]);
        assert_eq!(groups(Never, "web"), [44, 7, 29]);
    }

    #[test]
    fn a_number_is_never_a_name() {
        let hostile = Databases {
            passwd: "1000:x:0:0::/:\n:x:7:0::/:\nweb:x:33:44::/:\n".into(),
            group: "1000:x:0:\nwheel:x:10:\nroot:x:0:web\n".into(),
        };
        let found = hostile.resolve("1000").unwrap();
        assert_eq!(found, ResolvedUser { uid: 1000, gid: 0, groups: vec![0], home: Some("/".into()) });
        assert_eq!(hostile.resolve("web:1000").unwrap().gid, 1000);
        assert_eq!(hostile.group("1000").unwrap(), 1000);
        // The entry without a name is ignored: it would be a member of each group without members.
        assert_eq!(hostile.resolve("7").unwrap().groups, [0]);
    }

    #[test]
    fn ids_out_of_range_are_refused_wherever_they_stand() {
        let databases = Databases {
            passwd:
                "top:x:4294967295:0::/:\nbig:x:4294967296:0::/:\ngrp:x:5:4294967295::/:\nneg:x:-1:0::/:\n\
                plus:x:+5:0::/:\nshort:x\nempty:x:::::\nhex:x:0x10:0::/:\n+5:x:5:5::/:\n"
                    .into(),
            group: "top:x:4294967295:web\nshort\nneg:x:-1:\nempty:x::web\n".into(),
        };
        for bad in ["top", "big", "grp", "neg", "plus", "short", "empty", "hex", "4294967295", "4294967296"] {
            assert_eq!(databases.resolve(bad).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
        for bad in ["+5", "-1", " 5", "0x10", "1000:", ":1000", "0:4294967295", "0:top", "0:short", "0:neg"] {
            assert_eq!(databases.resolve(bad).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
        // A number needs no line, so errors in a line with that number do not matter.
        assert_eq!(databases.resolve("5").unwrap().gid, 5);
        assert_eq!(databases.groups_of("web").unwrap(), Vec::<u32>::new());
    }

    #[test]
    fn home_is_a_path_or_unknown() {
        let home = |field: &str| {
            let passwd = format!("web:x:33:44::{field}:/bin/sh\n");
            Databases { passwd, group: String::new() }.resolve("33").unwrap().home.unwrap()
        };
        assert_eq!(home("/srv/web"), "/srv/web");
        for bad in ["", "srv", "/a\0b", "/a\rb", "/a\x1bb"] {
            assert_eq!(home(bad), "/", "{bad:?}");
        }
    }

    #[test]
    fn groups_are_bounded() {
        let lines = |count: u32| (0..count).map(|n| format!("g{n}:x:{n}:web\n")).collect::<String>();
        let databases = |count| Databases { passwd: "web:x:33:44::/:\n".into(), group: lines(count) };
        assert_eq!(databases(256).user(Account::Name("web")).unwrap().groups.len(), 256);
        assert!(databases(257).resolve("web").unwrap_err().to_string().contains("more than 256 groups"));
        let same = Databases { group: "g:x:5:web\n".repeat(1000), ..databases(0) };
        assert_eq!(same.resolve("33").unwrap().groups, [44, 5]);
    }

    #[test]
    fn a_database_is_read_up_to_a_limit_and_only_when_it_is_a_file() {
        let root = tempfile::tempdir().unwrap();
        let passwd = root.path().join("etc/passwd");
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let refused = || Databases::read(root.path()).unwrap_err().to_string();
        std::fs::File::create(&passwd).unwrap().set_len(LIMIT + 1).unwrap();
        assert!(refused().contains("more than 1048576 bytes"));
        std::fs::remove_file(&passwd).unwrap();
        std::fs::create_dir(&passwd).unwrap();
        assert!(refused().contains("not a regular file"));
        std::fs::remove_dir(&passwd).unwrap();
        std::os::unix::fs::symlink("passwd", &passwd).unwrap();
        assert!(refused().contains("read the container's /etc/passwd"));
        std::fs::remove_file(&passwd).unwrap();
        let zero = rustix::fs::makedev(1, 5);
        rustix::fs::mknodat(CWD, &passwd, FileType::CharacterDevice, Mode::RUSR, zero).unwrap();
        assert!(refused().contains("not a regular file"));
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
        // The link leads to the image's own passwd, not the host's.
        assert!(Databases::read(root.path()).unwrap().group.contains("inside"));
    }
}
