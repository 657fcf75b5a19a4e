//! Turns the `mounts` of a configuration into mount steps.
//!
//! libcontainer's `parse_mount` is not used here: it drops which flags were cleared, the order of propagation types,
//! `nosymfollow`, `tmpcopyup` and id maps, all of which mount_setattr(2) needs.

use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, Mount};

use super::opens::{Open, Opens};
use super::steps::{MountStep, PointKind, Source};
use super::text::{below, cleaned, cpath, cstring};
use crate::error::{Error, Result};
use crate::linux::id_map::IdMaps;
use crate::linux::{id_map, ids};
use crate::sys::mount::{
    ATTR_ATIME, ATTR_NOATIME, ATTR_NODEV, ATTR_NODIRATIME, ATTR_NOEXEC, ATTR_NOSUID, ATTR_NOSYMFOLLOW,
    ATTR_RDONLY, ATTR_STRICTATIME, MountAttr,
};

/// Mount options sorted by what the kernel does with them. SPEC(runtime 1.2 #linux-mount-options)
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MountOptions {
    /// `bind` (false) or `rbind` (true: recursive).
    pub(super) bind: Option<bool>,
    /// `remount`: change the existing mount.
    pub(super) remount: bool,
    /// Attributes of the mount.
    pub(super) attr: MountAttr,
    /// Attributes of the mount and of all mounts below it.
    pub(super) recursive_attr: Option<MountAttr>,
    /// Propagation types, each with whether it is recursive.
    pub(super) propagation: Vec<(u64, bool)>,
    /// `idmap` (false) or `ridmap` (true: recursive).
    pub(super) idmap: Option<bool>,
    /// `tmpcopyup`.
    pub(super) copy_up: bool,
    /// Options for the filesystem itself.
    pub(super) data: Vec<(String, Option<String>)>,
}

/// Option name, attribute bits, and whether the option sets or clears them. An access-time mode first clears the
/// whole access-time field.
const ATTRIBUTES: [(&str, u64, bool); 21] = [
    ("ro", ATTR_RDONLY, true),
    ("rw", ATTR_RDONLY, false),
    ("nosuid", ATTR_NOSUID, true),
    ("suid", ATTR_NOSUID, false),
    ("nodev", ATTR_NODEV, true),
    ("dev", ATTR_NODEV, false),
    ("noexec", ATTR_NOEXEC, true),
    ("exec", ATTR_NOEXEC, false),
    ("nosymfollow", ATTR_NOSYMFOLLOW, true),
    ("symfollow", ATTR_NOSYMFOLLOW, false),
    ("nodiratime", ATTR_NODIRATIME, true),
    ("diratime", ATTR_NODIRATIME, false),
    ("noatime", ATTR_NOATIME, true),
    ("strictatime", ATTR_STRICTATIME, true),
    ("relatime", 0, true),
    ("atime", ATTR_ATIME, false),
    ("norelatime", ATTR_ATIME, false),
    ("nostrictatime", ATTR_ATIME, false),
    ("defaults", 0, false),
    ("silent", 0, false),
    ("loud", 0, false),
];

const PROPAGATION: [(&str, u64); 4] = [
    ("shared", crate::sys::mount::SHARED),
    ("slave", crate::sys::mount::SLAVE),
    ("private", crate::sys::mount::PRIVATE),
    ("unbindable", crate::sys::mount::UNBINDABLE),
];

/// All options known here, not counting those of filesystems, for the verb `features`.
pub const MOUNT_OPTIONS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "lazytime",
    "loud",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "nolazytime",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rsuid",
    "rw",
    "shared",
    "slave",
    "strictatime",
    "suid",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// A propagation type by its name; a leading `r` means recursive.
pub(super) fn propagation(name: &str) -> Option<(u64, bool)> {
    let find = |name: &str| PROPAGATION.iter().find(|(n, _)| *n == name).map(|(_, flag)| *flag);
    find(name).map(|flag| (flag, false)).or_else(|| find(name.strip_prefix('r')?).map(|flag| (flag, true)))
}

impl MountOptions {
    /// Sorts a list of options; unknown ones are passed to the filesystem.
    pub(super) fn parse(options: &[String]) -> Self {
        let mut this = Self::default();
        for option in options {
            this.add(option);
        }
        this
    }

    fn add(&mut self, option: &str) {
        match option {
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "remount" => self.remount = true,
            "idmap" => self.idmap = Some(self.idmap.unwrap_or(false)),
            "ridmap" => self.idmap = Some(true),
            "tmpcopyup" => self.copy_up = true,
            _ => self.add_from_tables(option),
        }
    }

    fn add_from_tables(&mut self, option: &str) {
        let find = |name: &str| ATTRIBUTES.iter().find(|(n, ..)| *n == name);
        if let Some((name, bits, set)) = find(option) {
            apply_attribute(&mut self.attr, name, *bits, *set);
        } else if let Some(found) = propagation(option) {
            self.propagation.push(found);
        } else if let Some((name, bits, set)) = option.strip_prefix('r').and_then(find)
            && !matches!(*name, "defaults" | "silent" | "loud")
        {
            apply_attribute(self.recursive_attr.get_or_insert_default(), name, *bits, *set);
        } else {
            let (key, value) =
                option.split_once('=').map_or((option, None), |(k, v)| (k, Some(v.to_owned())));
            self.data.push((key.to_owned(), value));
        }
    }
}

fn apply_attribute(attr: &mut MountAttr, name: &str, bits: u64, set: bool) {
    if name.ends_with("atime") && !name.ends_with("diratime") {
        attr.set &= !ATTR_ATIME;
        attr.clear |= ATTR_ATIME;
        attr.set |= if set { bits } else { 0 };
    } else if set {
        attr.set |= bits;
        attr.clear &= !bits;
    } else {
        attr.clear |= bits;
        attr.set &= !bits;
    }
}

/// Facts that a mount step depends on besides the mount itself.
#[derive(Debug)]
pub(super) struct MountContext<'a> {
    /// The directory that relative bind sources start from.
    pub(super) bundle: &'a Path,
    /// The child will be in another user namespace, so the parent opens host trees for it.
    pub(super) parent_opens: bool,
    /// The propagation type set on trees that the parent opens.
    pub(super) propagation: u64,
    /// The container's own id maps, for an `idmap` option on a mount without maps of its own.
    pub(super) maps: Option<&'a IdMaps>,
    /// SELinux label for new filesystems.
    pub(super) mount_label: Option<&'a str>,
}

/// The step for one mount whose type is not `cgroup`.
///
/// # Errors
/// `Invalid` when the destination or the source is missing or not allowed.
pub(super) fn mount_step(mount: &Mount, context: &MountContext<'_>, opens: &mut Opens) -> Result<MountStep> {
    let options = MountOptions::parse(mount.options().as_deref().unwrap_or_default());
    let destination = mount.destination();
    let point = below("mounts: destination", destination)?;
    if point.makers.is_empty() {
        return Err(Error::invalid(format!("mounts: {destination:?} is the root filesystem itself")));
    }
    let fstype = mount.typ().as_deref().unwrap_or_default();
    let is_bind = options.bind.is_some() || fstype == "bind";
    check_below_proc(&point.path.to_string_lossy(), fstype, is_bind, mount)?;
    let (source, kind) = if options.remount {
        (Source::Existing, PointKind::LikeSource)
    } else if is_bind {
        (bind_source(mount, &options, context, opens)?, PointKind::LikeSource)
    } else {
        (filesystem_source(fstype, mount, &options, context)?, PointKind::Directory)
    };
    Ok(MountStep {
        source,
        point,
        kind,
        attr: options.attr,
        recursive_attr: options.recursive_attr,
        propagation: options.propagation,
        copy_up: options.copy_up,
        // If the image's /proc or /sys were a symbolic link, the filesystem would be mounted elsewhere
        // (CVE-2019-19921).
        no_symlinks: matches!(fstype, "proc" | "sysfs"),
    })
}

/// The files of /proc that a mount such as lxcfs's may cover; everything else below /proc stays the kernel's.
const COVERABLE: [&str; 12] = [
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/meminfo",
    "proc/stat",
    "proc/swaps",
    "proc/uptime",
    "proc/loadavg",
    "proc/slabinfo",
    "proc/net/dev",
    "proc/sys/kernel/ns_last_pid",
    "proc/sys/crypto/fips_enabled",
    "proc/cmdline",
];

fn check_below_proc(path: &str, fstype: &str, is_bind: bool, mount: &Mount) -> Result<()> {
    let refuse = |why: &str| {
        Err(Error::invalid(format!("mounts: {:?} {why}", mount.destination()))
            .hint("only single files such as /proc/meminfo may be covered"))
    };
    if path == "proc" && fstype != "proc" {
        let source = mount.source().as_deref().unwrap_or(Path::new(""));
        let on_proc = rustix::fs::statfs(source)
            .is_ok_and(|s| i128::from(s.f_type) == i128::from(libc::PROC_SUPER_MAGIC));
        return if is_bind && on_proc { Ok(()) } else { refuse("has to be a proc filesystem") };
    }
    if path.starts_with("proc/") && !COVERABLE.contains(&path) {
        return refuse("is inside /proc");
    }
    Ok(())
}

fn bind_source(
    mount: &Mount,
    options: &MountOptions,
    context: &MountContext<'_>,
    opens: &mut Opens,
) -> Result<Source> {
    let Some(source) = mount.source().as_ref().filter(|s| !s.as_os_str().is_empty()) else {
        return Err(Error::invalid(format!(
            "mounts: the bind mount on {:?} has no source",
            mount.destination()
        )));
    };
    // The kernel ignores them: what they ask for, such as not to follow a link, would not be done.
    let ignorable =
        ["async", "sync", "dirsync", "lazytime", "nolazytime", "mand", "nomand", "iversion", "noiversion"];
    if let Some((key, _)) = options.data.iter().find(|(key, _)| !ignorable.contains(&key.as_str())) {
        let destination = mount.destination();
        return Err(Error::invalid(format!("mounts: {destination:?}: a bind mount has no option {key:?}"))
            .hint("the options of a filesystem are set where it is mounted"));
    }
    let path = context.bundle.join(source);
    let recursive = options.bind.unwrap_or(true);
    let maps = idmap(mount, options, context)?;
    // The tree of `/` has the container's root on top once the child has attached that.
    let is_tree_of_root = recursive && is_root(&path);
    if maps.is_none() && !context.parent_opens && !is_tree_of_root {
        return Ok(Source::Host { path: cpath("mounts: source", &path)?, recursive });
    }
    Ok(Source::Opened(opens.push(Open::Tree {
        path,
        recursive,
        propagation: context.propagation,
        idmap: maps,
    })))
}

/// Whether a path names the root directory. Nothing is looked up, so a link to it is not recognised: a filesystem that hangs
/// would hang this process, which has no time limit here.
fn is_root(path: &Path) -> bool {
    cleaned(path) == Path::new("/")
}

fn idmap(
    mount: &Mount,
    options: &MountOptions,
    context: &MountContext<'_>,
) -> Result<Option<(IdMaps, bool)>> {
    let own = |maps: &Option<Vec<LinuxIdMapping>>| maps.clone().unwrap_or_default();
    let (uid, gid) = (own(mount.uid_mappings()), own(mount.gid_mappings()));
    let destination = mount.destination();
    if uid.is_empty() != gid.is_empty() {
        return Err(Error::invalid(format!("mounts: {destination:?} maps only one of uids and gids")));
    }
    if !uid.is_empty() {
        id_map::check(&format!("mounts: {destination:?}: uidMappings"), &uid)?;
        id_map::check(&format!("mounts: {destination:?}: gidMappings"), &gid)?;
        return Ok(Some((IdMaps::new(&uid, &gid), options.idmap.unwrap_or(false))));
    }
    match (options.idmap, context.maps) {
        (None, _) => Ok(None),
        (Some(recursive), Some(maps)) => Ok(Some((maps.clone(), recursive))),
        (Some(_), None) => Err(Error::invalid(format!("mounts: {destination:?} has idmap but no mappings"))
            .hint("give the mount uidMappings and gidMappings, or the container a user namespace")),
    }
}

/// The longest string that fsconfig(2) takes, in bytes.
const LONGEST_VALUE: usize = 255;

fn filesystem_source(
    fstype: &str,
    mount: &Mount,
    options: &MountOptions,
    context: &MountContext<'_>,
) -> Result<Source> {
    let destination = mount.destination();
    if fstype.is_empty() || fstype == "none" {
        return Err(Error::invalid(format!("mounts: {destination:?} has no type"))
            .hint("name a filesystem, or use the option bind or rbind"));
    }
    for (key, value) in options.data.iter().filter(|(key, _)| matches!(key.as_str(), "uid" | "gid")) {
        ids::parse_field(&format!("mounts: {destination:?}: {key}"), value.as_deref().unwrap_or_default())?;
    }
    let source = cpath("mounts: source", mount.source().as_deref().unwrap_or(Path::new(fstype)))?;
    if options.data.iter().any(|(_, value)| value.as_ref().is_some_and(|v| v.len() > LONGEST_VALUE)) {
        let join = |(key, value): &(String, Option<String>)| match value {
            Some(value) => format!("{key}={value}"),
            None => key.clone(),
        };
        let data = cstring("mounts: options", options.data.iter().map(join).collect::<Vec<_>>().join(","))?;
        return Ok(Source::Legacy { fstype: cstring("mounts: type", fstype)?, source, data });
    }
    let mut parameters = Vec::with_capacity(options.data.len() + 2);
    parameters.push((c"source".to_owned(), Some(source)));
    for (key, value) in &options.data {
        let value = value.as_ref().map(|v| cstring("mounts: options", v.as_str())).transpose()?;
        parameters.push((cstring("mounts: options", key.as_str())?, value));
    }
    if let Some(label) =
        context.mount_label.filter(|_| matches!(fstype, "tmpfs" | "devpts" | "mqueue" | "overlay"))
    {
        parameters.push((c"context".to_owned(), Some(cstring("linux.mountLabel", label)?)));
    }
    Ok(Source::Filesystem { fstype: cstring("mounts: type", fstype)?, parameters })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> MountOptions {
        MountOptions::parse(&text.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_sorted_into_flags_and_data() {
        let options = parse("nosuid,strictatime,mode=755,size=65536k,newinstance");
        assert_eq!(options.attr.set, ATTR_NOSUID | ATTR_STRICTATIME);
        assert_eq!(options.attr.clear, ATTR_ATIME);
        assert_eq!(
            options.data,
            [
                ("mode".to_owned(), Some("755".to_owned())),
                ("size".to_owned(), Some("65536k".to_owned())),
                ("newinstance".to_owned(), None)
            ]
        );
    }

    #[test]
    fn the_last_of_two_opposite_options_wins() {
        let options = parse("ro,rw,suid,nosuid");
        assert_eq!((options.attr.set, options.attr.clear), (ATTR_NOSUID, ATTR_RDONLY));
    }

    #[test]
    fn recursive_options_are_kept_apart() {
        let options = parse("rbind,rro,rslave,rnoatime");
        assert_eq!(options.bind, Some(true));
        assert_eq!(options.attr, MountAttr::default());
        let recursive = options.recursive_attr.unwrap();
        assert_eq!((recursive.set, recursive.clear), (ATTR_RDONLY | ATTR_NOATIME, ATTR_ATIME));
        assert_eq!(options.propagation, [(crate::sys::mount::SLAVE, true)]);
    }
}
