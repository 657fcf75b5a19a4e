//! Devices by CDI name: applies the edits of a vendor's CDI file to a container's spec. SPEC(cdi 1.0)

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hook, Hooks, LinuxDeviceCgroup, Mount, Spec};
use serde::Deserialize;
use serde_json::{Map, Value};
use yaml_rust2::Yaml;

use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;
use crate::spec::devices;

/// The directories of CDI files; a device in a later directory hides one of the same name in an earlier directory.
const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

#[derive(Debug, Deserialize)]
struct Document {
    kind: String,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
}

#[derive(Debug, Deserialize)]
struct Device {
    name: String,
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Bind>,
    hooks: Vec<Hooked>,
    additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: PathBuf,
    host_path: Option<PathBuf>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    file_mode: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bind {
    host_path: PathBuf,
    container_path: PathBuf,
    #[serde(default)]
    options: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hooked {
    hook_name: String,
    path: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<i64>,
}

/// Applies the edits of these devices to a spec, with the files in /etc/cdi and /var/run/cdi.
///
/// # Errors
/// `NotFound` when no valid file defines a device; `Invalid` when the edits of a device are contradictory.
pub(super) fn inject(names: &[String], spec: &mut Spec) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    inject_from(&DIRECTORIES.map(PathBuf::from), names, spec)
}

/// As [`inject`], with the files in these directories.
///
/// # Errors
/// `NotFound` when no valid file defines a device; `Invalid` when the edits of a device are contradictory.
pub fn inject_from(directories: &[PathBuf], names: &[String], spec: &mut Spec) -> Result<()> {
    let (documents, unusable) = load(directories);
    let mut kinds_done: Vec<&str> = Vec::new();
    for name in names {
        let missing = || Error::new(Kind::NotFound, format!("there is no CDI device {name}"));
        let (kind, device) = name.split_once('=').ok_or_else(missing)?;
        let of_kind = documents.iter().rev().filter(|document| document.kind == kind);
        let found =
            of_kind.clone().find_map(|d| d.devices.iter().find(|own| own.name == device).map(|own| (d, own)));
        let (document, device) = found.ok_or_else(|| {
            let places: Vec<_> = directories.iter().map(|d| d.display().to_string()).collect();
            let hint = format!("its vendor's file belongs into {}", places.join(" or "));
            match unusable.first() {
                None => missing().hint(hint),
                Some(why) => missing().because(why.clone()).hint(hint),
            }
        })?;
        // The edits of the whole file are applied once.
        if !kinds_done.contains(&kind) {
            kinds_done.push(kind);
            apply(&document.edits, spec).map_err(|e| e.doing(format!("add CDI device {name}")))?;
        }
        apply(&device.edits, spec).map_err(|e| e.doing(format!("add CDI device {name}")))?;
    }
    Ok(())
}

/// All valid documents, and the errors of the other files: a broken file of one vendor must not disable the devices of
/// others.
fn load(directories: &[PathBuf]) -> (Vec<Document>, Vec<String>) {
    let (mut documents, mut unusable) = (Vec::new(), Vec::new());
    for directory in directories {
        let mut files: Vec<_> =
            std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        files.sort();
        let is_document =
            |path: &&PathBuf| path.extension().is_some_and(|e| e == "json" || e == "yaml" || e == "yml");
        for file in files.iter().filter(is_document) {
            match read(file) {
                Ok(document) => documents.push(document),
                Err(error) => unusable.push(error.chain()),
            }
        }
    }
    (documents, unusable)
}

/// Parses JSON files, too: JSON is a subset of YAML.
fn read(file: &Path) -> Result<Document> {
    let doing = || format!("parse {}", file.display());
    let text =
        private::read_named(file, crate::yaml::LONGEST).doing(|| format!("read {}", file.display()))?;
    let text =
        String::from_utf8(text).map_err(|e| Error::invalid(format!("read {}", file.display())).because(e))?;
    let yaml = crate::yaml::load(&text).doing(doing)?;
    serde_json::from_value(value(yaml)).map_err(|e| Error::invalid(doing()).because(e))
}

fn value(yaml: Yaml) -> Value {
    match yaml {
        Yaml::Real(text) => text.parse::<f64>().map_or(Value::Null, Value::from),
        Yaml::Integer(number) => Value::from(number),
        Yaml::String(text) => Value::String(text),
        Yaml::Boolean(truth) => Value::Bool(truth),
        Yaml::Array(list) => list.into_iter().map(value).collect(),
        Yaml::Hash(hash) => {
            let pairs = hash.into_iter().filter_map(|(key, v)| Some((key.into_string()?, value(v))));
            Value::Object(pairs.collect::<Map<_, _>>())
        }
        Yaml::Alias(_) | Yaml::Null | Yaml::BadValue => Value::Null,
    }
}

fn apply(edits: &Edits, spec: &mut Spec) -> Result<()> {
    if let Some(process) = spec.process_mut() {
        let mut env = process.env().clone().unwrap_or_default();
        for entry in &edits.env {
            let name = entry.split('=').next().unwrap_or_default();
            env.retain(|own| own.split('=').next() != Some(name));
            env.push(entry.clone());
        }
        process.set_env(Some(env));
        let mut user = process.user().clone();
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        groups.extend(edits.additional_gids.iter().filter(|gid| **gid != 0));
        user.set_additional_gids(Some(groups));
        process.set_user(user);
    }
    edits.device_nodes.iter().try_for_each(|node| add_node(node, spec))?;
    let binds = edits.mounts.iter().map(|bind| {
        let mut mount = Mount::default();
        let options = if bind.options.is_empty() { vec!["rbind".to_owned()] } else { bind.options.clone() };
        mount
            .set_typ(Some("bind".to_owned()))
            .set_source(Some(bind.host_path.clone()))
            .set_destination(bind.container_path.clone())
            .set_options(Some(options));
        mount
    });
    spec.mounts_mut().get_or_insert_default().extend(binds);
    edits.hooks.iter().try_for_each(|hook| add_hook(hook, spec))
}

fn add_node(node: &Node, spec: &mut Spec) -> Result<()> {
    let host = node.host_path.as_ref().unwrap_or(&node.path);
    let Some(linux) = spec.linux_mut() else { return Ok(()) };
    for mut device in devices::below(host, &node.path)? {
        let (uid, gid) = (node.uid.or(device.uid()), node.gid.or(device.gid()));
        let mode = node.file_mode.or(device.file_mode());
        device.set_uid(uid).set_gid(gid).set_file_mode(mode);
        let mut rule = LinuxDeviceCgroup::from(&device);
        rule.set_access(Some(node.permissions.clone().unwrap_or_else(|| "rwm".to_owned())));
        linux.devices_mut().get_or_insert_default().push(device);
        linux.resources_mut().get_or_insert_default().devices_mut().get_or_insert_default().push(rule);
    }
    Ok(())
}

fn add_hook(hooked: &Hooked, spec: &mut Spec) -> Result<()> {
    let mut hook = Hook::default();
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    hook.set_path(hooked.path.clone())
        .set_args(some(&hooked.args))
        .set_env(some(&hooked.env))
        .set_timeout(hooked.timeout);
    let mut hooks: Hooks = spec.hooks().clone().unwrap_or_default();
    let push =
        |list: &Option<Vec<Hook>>| Some(list.iter().flatten().cloned().chain([hook.clone()]).collect());
    match hooked.hook_name.as_str() {
        "prestart" => hooks.set_prestart(push(hooks.prestart())),
        "createRuntime" => hooks.set_create_runtime(push(hooks.create_runtime())),
        "createContainer" => hooks.set_create_container(push(hooks.create_container())),
        "startContainer" => hooks.set_start_container(push(hooks.start_container())),
        "poststart" => hooks.set_poststart(push(hooks.poststart())),
        "poststop" => hooks.set_poststop(push(hooks.poststop())),
        other => return Err(Error::invalid(format!("there is no hook {other:?}"))),
    };
    spec.set_hooks(Some(hooks));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "cdiVersion: 0.6.0\nkind: acme.com/tpu\ncontainerEdits:\n  env: [ALL=1]\ndevices:\n\
        - name: '0'\n  containerEdits:\n    env: [TPU=0]\n    deviceNodes:\n    - path: /dev/tpu0\n      hostPath: /dev/null\n      \
        permissions: rw\n    mounts:\n    - hostPath: /usr/lib\n      containerPath: /opt/lib\n      options: [ro, rbind]\n    \
        hooks:\n    - hookName: createRuntime\n      path: /bin/true\n";

    fn with_files(files: &[(&str, &str)], names: &[&str]) -> Result<Spec> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let mut spec = crate::spec::template::spec().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        inject_from(&[directory.path().to_owned()], &names, &mut spec).map(|()| spec)
    }

    #[test]
    fn what_a_device_needs_is_added() {
        let spec = with_files(&[("acme.yaml", YAML)], &["acme.com/tpu=0"]).unwrap();
        let env = spec.process().as_ref().unwrap().env().clone().unwrap();
        assert!(env.contains(&"ALL=1".to_owned()) && env.contains(&"TPU=0".to_owned()), "{env:?}");
        let linux = spec.linux().clone().unwrap();
        let device = linux.devices().as_ref().unwrap().last().unwrap().clone();
        assert_eq!((device.path().to_str(), device.major(), device.minor()), (Some("/dev/tpu0"), 1, 3));
        let rule = linux.resources().as_ref().unwrap().devices().as_ref().unwrap().last().unwrap().clone();
        assert_eq!((rule.allow(), rule.access().as_deref()), (true, Some("rw")));
        let mount = spec.mounts().as_ref().unwrap().last().unwrap().clone();
        assert_eq!(mount.destination(), Path::new("/opt/lib"));
        assert_eq!(spec.hooks().as_ref().unwrap().create_runtime().as_ref().unwrap().len(), 1);
    }

    #[test]
    fn json_is_read_and_what_is_not_there_is_refused() {
        let json = r#"{"cdiVersion":"0.6.0","kind":"acme.com/gpu","devices":[{"name":"all","containerEdits":{"env":["G=1"]}}]}"#;
        assert!(with_files(&[("a.json", json)], &["acme.com/gpu=all"]).is_ok());
        let error = with_files(&[("a.json", json)], &["acme.com/gpu=1"]).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        let error = with_files(&[("a.json", "{")], &["acme.com/gpu=1"]).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.chain().contains("a.json"), "{error:?}");
    }

    /// Hostile files: none of them may hang or crash the daemon, or disable another vendor's device.
    #[test]
    fn files_that_cannot_be_used_leave_the_devices_of_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        rustix::fs::mknodat(rustix::fs::CWD, path("fifo.yaml"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("zero.json")).unwrap();
        std::os::unix::fs::symlink("nowhere", path("gone.json")).unwrap();
        std::fs::create_dir(path("directory.yaml")).unwrap();
        std::fs::File::create(path("huge.yaml")).unwrap().set_len(1 << 40).unwrap();
        for (name, text) in [
            ("deep.json", "[".repeat(1 << 20)),
            ("deep.yaml", "- ".repeat(1 << 18)),
            ("bomb.yaml", "a: &a [x,x]\nb: &b [*a,*a]\n".to_owned()),
            ("text.yaml", "\u{0}\u{1}".to_owned()),
            ("none.yaml", String::new()),
            ("wrong.yaml", "kind: [a]\ndevices: 7\n".to_owned()),
            ("acme.yaml", YAML.to_owned()),
        ] {
            std::fs::write(path(name), text).unwrap();
        }
        std::fs::write(path("bytes.yaml"), [0xff, 0xfe, 0]).unwrap();
        let inject = |name: &str| {
            let mut spec = crate::spec::template::spec().unwrap();
            inject_from(&[directory.path().to_owned()], &[name.to_owned()], &mut spec)
        };
        inject("acme.com/tpu=0").unwrap();
        let error = inject("acme.com/tpu=1").unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
    }
}
