//! `-v`, `--mount` and `--tmpfs`.

use std::path::Path;

use crate::cli::amounts;
use crate::error::{Error, Kind, Result};
use crate::spec::request::{MountRequest, MountSource};

/// The types of propagation. mount_namespaces(7)
const PROPAGATION: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// A mount with its options parsed.
fn mount(source: MountSource, target: &str, options: &[&str]) -> MountRequest {
    MountRequest {
        source,
        destination: target.into(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        root_propagation: None,
        uids: Vec::new(),
        gids: Vec::new(),
    }
}

/// Refuses two mounts at the same destination.
///
/// # Errors
/// `Invalid`, naming the destination.
pub(super) fn check_twice(mounts: &[MountRequest]) -> Result<()> {
    for (index, mount) in mounts.iter().enumerate() {
        if mounts[..index].iter().any(|earlier| earlier.destination == mount.destination) {
            return Err(Error::invalid(format!("{:?} is mounted twice", mount.destination)));
        }
    }
    Ok(())
}

/// Parses `-v SOURCE:TARGET[:OPTIONS]`. The source is a path, created as a directory if missing, as docker does.
///
/// # Errors
/// `Invalid` for anything else; `Unsupported` for named volumes.
pub(super) fn volume(text: &str, here: &Path) -> Result<MountRequest> {
    let wrong = |why: &str| {
        Error::invalid(format!("-v {text:?} {why}"))
            .hint("write /on/the/host:/in/the/container, with :ro for read-only")
    };
    let mut parts = text.split(':');
    let (Some(source), Some(target)) = (parts.next(), parts.next()) else {
        return Err(wrong("has no target"));
    };
    if source.is_empty() || !target.starts_with('/') {
        return Err(wrong("needs a source and an absolute target"));
    }
    if !source.starts_with(['/', '.']) {
        return Err(Error::new(
            Kind::Unsupported,
            format!("-v {text:?} names a volume, which do not exist here"),
        )
        .hint("write a path: /on/the/host, or ./below/this/directory"));
    }
    let mut options = vec!["rbind"];
    for option in parts.next().unwrap_or_default().split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" | "rw" | "nosuid" | "nodev" | "noexec" | "private" | "rprivate" | "shared" | "rshared"
            | "slave" | "rslave" => options.push(option),
            // Relabelling has a meaning only with SELinux; without it docker ignores the option too.
            "z" | "Z" => {}
            _ => return Err(wrong(&format!("has the unknown option {option:?}"))),
        }
    }
    if parts.next().is_some() {
        return Err(wrong("has too many parts"));
    }
    if options.contains(&"ro") && options.contains(&"rw") {
        return Err(wrong("is read-only and writable at once"));
    }
    if !options.iter().any(|o| o.contains("private") || o.contains("shared") || o.contains("slave")) {
        options.push("rprivate");
    }
    Ok(mount(MountSource::Host(here.join(source)), target, &options))
}

/// Parses `--tmpfs TARGET[:OPTIONS]`.
///
/// # Errors
/// `Invalid` for a relative target.
pub(super) fn tmpfs(text: &str) -> Result<MountRequest> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    if !target.starts_with('/') {
        return Err(Error::invalid(format!("--tmpfs {text:?} has no absolute target"))
            .hint("write /path[:size=64m,mode=1777]"));
    }
    let mut all = vec!["nosuid", "nodev", "noexec"];
    for option in options.split(',').filter(|o| !o.is_empty()) {
        if ["bind", "rbind", "remount"].contains(&option) || PROPAGATION.contains(&option) {
            return Err(Error::invalid(format!(
                "--tmpfs {text:?} has {option:?}, which is no option of a tmpfs"
            )));
        }
        let opposite = format!("no{option}");
        all.retain(|o| *o != opposite);
        all.push(option);
    }
    Ok(mount(MountSource::Tmpfs, target, &all))
}

/// Parses `--mount
/// type=bind|tmpfs,source=..,target=..[,readonly][,bind-propagation=..][,tmpfs-size=..][,tmpfs-mode=..]`.
///
/// # Errors
/// `Invalid` for an unknown key or a missing one.
pub(super) fn mount_flag(text: &str, here: &Path) -> Result<MountRequest> {
    let wrong = |why: String| {
        Error::invalid(format!("--mount {text:?} {why}"))
            .hint("write type=bind,source=/on/the/host,target=/inside")
    };
    let (mut kind, mut source, mut target) = (None, None, None);
    let mut options: Vec<String> = Vec::new();
    for part in text.split(',') {
        let (key, value) = part.split_once('=').map_or((part, None), |(k, v)| (k, Some(v)));
        match (key, value) {
            ("type", Some(value)) => kind = Some(value),
            ("source" | "src", Some(value)) => source = Some(value),
            ("target" | "destination" | "dst", Some(value)) => target = Some(value),
            ("readonly" | "ro", None | Some("true" | "1")) => options.push("ro".to_owned()),
            ("readonly" | "ro", Some("false" | "0")) => {}
            ("bind-propagation", Some(value)) if PROPAGATION.contains(&value) => {
                options.push(value.to_owned())
            }
            ("bind-propagation", Some(value)) => {
                return Err(wrong(format!("has no propagation {value:?}")).hint(PROPAGATION.join(", ")));
            }
            ("tmpfs-size", Some(value)) => {
                options.push(format!("size={}", amounts::bytes("--mount tmpfs-size", value)?));
            }
            ("tmpfs-mode", Some(value)) => options.push(format!("mode={value}")),
            _ => return Err(wrong(format!("has the unknown part {part:?}"))),
        }
    }
    let target =
        target.filter(|t| t.starts_with('/')).ok_or_else(|| wrong("has no absolute target".to_owned()))?;
    let mut all: Vec<&str> = options.iter().map(String::as_str).collect();
    match (kind, source.filter(|source| !source.is_empty())) {
        (Some("bind"), Some(source)) => {
            all.insert(0, "rbind");
            Ok(mount(MountSource::Host(here.join(source)), target, &all))
        }
        (Some("bind"), None) => Err(wrong("has no source".to_owned())),
        (Some("tmpfs"), None) => {
            all.extend(["nosuid", "nodev", "noexec"]);
            Ok(mount(MountSource::Tmpfs, target, &all))
        }
        (Some("tmpfs"), Some(_)) => Err(wrong("has a source, which a tmpfs does not take".to_owned())),
        (other, _) => Err(wrong(format!("has the type {:?}: bind and tmpfs are known", other.unwrap_or("")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(mount: &MountRequest) -> String {
        mount.options.join(",")
    }

    fn host(path: &str) -> MountSource {
        MountSource::Host(path.into())
    }

    #[test]
    fn volumes_are_bind_mounts() {
        let here = Path::new("/here");
        let mount = volume("/srv:/data:ro", here).unwrap();
        assert_eq!(mount.source, host("/srv"));
        assert_eq!(
            (mount.destination.to_str(), options(&mount).as_str()),
            (Some("/data"), "rbind,ro,rprivate")
        );
        assert_eq!(volume("./a:/b", here).unwrap().source, host("/here/./a"));
        for bad in ["/only", ":/x", "/a:b", "/a:/b:fast", "/a:/b:ro:rw", "name:/x"] {
            assert!(volume(bad, here).is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts_in_long_form() {
        let here = Path::new("/here");
        let mount = mount_flag("type=bind,src=/a,dst=/b,readonly", here).unwrap();
        assert_eq!(options(&mount), "rbind,ro");
        let mount = mount_flag("type=tmpfs,target=/t,tmpfs-size=1m", here).unwrap();
        assert!(options(&mount).contains("size=1048576"));
        for bad in [
            "",
            "type=bind,dst=/b",
            "type=x,dst=/b",
            "type=tmpfs,src=/a,dst=/b",
            "type=bind,src=/a",
            "what=1",
        ] {
            assert!(mount_flag(bad, here).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_tmpfs_is_closed_unless_opened() {
        assert_eq!(options(&tmpfs("/t:exec,size=1m").unwrap()), "nosuid,nodev,exec,size=1m");
        assert!(tmpfs("t").is_err());
    }
}
