//! Tests of the configuration built from a request.

use std::path::Path;

use oci_spec::runtime::LinuxDeviceType;

use super::request::{MountRequest, MountSource, Propagation};
use super::*;
use crate::error::Kind;

fn resolved(sources: &[&str]) -> Resolved {
    let mut image = ImageConfig::default();
    image.set_cmd(Some(vec!["serve".to_owned()])).set_working_dir(Some("/srv".to_owned()));
    Resolved { image, sources: sources.iter().map(PathBuf::from).collect(), ..Resolved::default() }
}

fn mount_at(path: &str, root_propagation: Option<Propagation>) -> MountRequest {
    MountRequest {
        source: MountSource::Host("/s".into()),
        destination: path.into(),
        options: vec!["rbind".to_owned()],
        root_propagation,
        uids: Vec::new(),
        gids: Vec::new(),
    }
}

fn at<'a>(spec: &'a Spec, path: &str) -> Vec<&'a Mount> {
    spec.mounts().as_ref().unwrap().iter().filter(|m| m.destination() == Path::new(path)).collect()
}

#[test]
fn a_volume_takes_the_place_of_what_would_be_there() {
    let mounts = ["/dev/shm", "/sys/fs/cgroup", "/data"].map(|path| mount_at(path, None)).into();
    let request = ContainerRequest { mounts, ..ContainerRequest::default() };
    let mut resolved = resolved(&["/found/shm", "/found/cgroup", "/found/data"]);
    let file = |path: &str| mounts::mount(path, "bind", "/run/pod", &["bind"]);
    resolved.files = ["/dev/shm", "/etc/resolv.conf", "/dev/mqueue"].map(file).into();
    let spec = build(&request, &resolved).unwrap();
    let source = |path: &str| match at(&spec, path)[..] {
        [mount] => mount.source().clone().unwrap().display().to_string(),
        ref other => panic!("{path}: {other:?}"),
    };
    assert_eq!(source("/dev/shm"), "/found/shm");
    assert_eq!(source("/sys/fs/cgroup"), "/found/cgroup");
    assert_eq!(source("/data"), "/found/data");
    assert_eq!(source("/etc/resolv.conf"), "/run/pod");
    assert_eq!(source("/dev/mqueue"), "/run/pod");
}

#[test]
fn the_root_propagates_when_a_mount_does() {
    use Propagation::{Shared, Slave};
    let propagation = |wanted: &[Option<Propagation>]| {
        let mounts =
            wanted.iter().enumerate().map(|(n, wanted)| mount_at(&format!("/m{n}"), *wanted)).collect();
        let request = ContainerRequest { mounts, ..ContainerRequest::default() };
        assert_eq!(build(&request, &resolved(&[])).unwrap_err().kind(), Kind::Bug);
        let spec = build(&request, &resolved(&vec!["/s"; wanted.len()])).unwrap();
        spec.linux().as_ref().unwrap().rootfs_propagation().clone()
    };
    assert_eq!(propagation(&[None]), None);
    assert_eq!(propagation(&[None, Some(Slave)]).as_deref(), Some("rslave"));
    assert_eq!(propagation(&[Some(Slave), Some(Shared), None]).as_deref(), Some("rshared"));
}

#[test]
fn a_privileged_container_writes_to_sys_and_to_every_device() {
    let spec = |privileged: bool| {
        let mut resolved = resolved(&[]);
        let mut node = LinuxDevice::default();
        node.set_path("/dev/fuse".into()).set_typ(LinuxDeviceType::C).set_major(10).set_minor(229);
        resolved.devices = vec![(node, "rw".into())];
        build(&ContainerRequest { privileged, ..ContainerRequest::default() }, &resolved).unwrap()
    };
    let (plain, privileged) = (spec(false), spec(true));
    let access = |spec: &Spec| at(spec, "/sys")[0].options().clone().unwrap().pop().unwrap();
    assert_eq!((access(&plain), access(&privileged)), ("ro".to_owned(), "rw".to_owned()));
    let rules =
        |spec: &Spec| spec.linux().as_ref().unwrap().resources().as_ref().unwrap().devices().clone().unwrap();
    assert_eq!((rules(&plain)[0].allow(), rules(&privileged)[0].allow()), (false, true));
    assert_eq!((rules(&plain)[1].minor(), rules(&plain)[1].access().as_deref()), (Some(229), Some("rw")));
}
