//! The runtime configuration that comes out.

use std::path::Path;

use oci_spec::runtime::{Capability, LinuxDevice, LinuxDeviceType, Mount, Spec, User};

use super::*;

fn place(sources: &[&str]) -> Place {
    let mut user = User::default();
    user.set_uid(1000).set_gid(1000);
    Place {
        root: "/run/rootfs".into(),
        image: ImageDefaults { cmd: vec!["serve".into()], ..ImageDefaults::default() },
        working_dir: Some("/srv".into()),
        hostname: "web-0".into(),
        user,
        cgroup: "/kubepods/pod1/c1".into(),
        sources: sources.iter().map(PathBuf::from).collect(),
        known_capabilities: [Capability::Kill, Capability::SysAdmin].into(),
        default_capabilities: [Capability::Kill].into(),
        ..Place::default()
    }
}

fn at<'a>(spec: &'a Spec, path: &str) -> Vec<&'a Mount> {
    spec.mounts().as_ref().unwrap().iter().filter(|m| m.destination() == Path::new(path)).collect()
}

fn options(mount: &Mount) -> String {
    mount.options().clone().unwrap().join(",")
}

#[test]
fn wishes_and_place_make_a_configuration() {
    let spec = wishes(|c| {
        c.envs = vec![
            v1::KeyValue { key: "A".into(), value: b"1".into() },
            v1::KeyValue { key: "RAW".into(), value: vec![0xff] },
        ];
        c.annotations = [("run.oci.handler".to_owned(), "x".to_owned())].into();
        let resources = v1::LinuxContainerResources {
            memory_limit_in_bytes: 1 << 20,
            oom_score_adj: 900,
            ..Default::default()
        };
        c.linux = Some(v1::LinuxContainerConfig { resources: Some(resources), security_context: None });
    })
    .unwrap()
    .spec(&place(&[]))
    .unwrap();
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.args().as_ref().unwrap(), &["serve"]);
    assert_eq!(process.cwd(), Path::new("/srv"));
    assert_eq!((process.user().uid(), process.oom_score_adj(), process.rlimits()), (1000, Some(900), &None));
    let env = process.env().as_ref().unwrap();
    assert!(env.contains(&"A=1".to_owned()) && !env.iter().any(|e| e.starts_with("RAW")));
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("/kubepods/pod1/c1")));
    let resources = linux.resources().as_ref().unwrap();
    assert_eq!(resources.memory().unwrap().limit(), Some(1 << 20));
    assert!(!resources.devices().as_ref().unwrap()[0].allow());
    assert_eq!((spec.annotations(), spec.hostname()), (&None, &None));
    assert_eq!(linux.rootfs_propagation(), &None);
}

#[test]
fn a_volume_takes_the_place_of_what_would_be_there() {
    let mount =
        |path: &str| v1::Mount { container_path: path.into(), host_path: "/s".into(), ..Default::default() };
    let all =
        wishes(|c| c.mounts = vec![mount("/dev/shm"), mount("/sys/fs/cgroup"), mount("/data")]).unwrap();
    let mut place = place(&["/found/data", "/found/shm", "/found/cgroup"]);
    for at in ["/dev/shm", "/etc/resolv.conf"] {
        let mut file = Mount::default();
        file.set_destination(at.into()).set_source(Some("/run/pod".into()));
        place.files.push(file);
    }
    let spec = all.spec(&place).unwrap();
    assert_eq!(at(&spec, "/dev/shm").len(), 1);
    assert_eq!(at(&spec, "/dev/shm")[0].source().as_deref(), Some(Path::new("/found/shm")));
    assert_eq!(at(&spec, "/sys/fs/cgroup")[0].typ().as_deref(), Some("bind"));
    assert_eq!(at(&spec, "/etc/resolv.conf")[0].source().as_deref(), Some(Path::new("/run/pod")));
    assert_eq!(at(&spec, "/data")[0].source().as_deref(), Some(Path::new("/found/data")));
}

#[test]
fn the_root_propagates_when_a_mount_does() {
    let propagation = |numbers: &[i32]| {
        let mounts = numbers.iter().map(|propagation| v1::Mount {
            container_path: format!("/m{propagation}"),
            host_path: "/s".into(),
            propagation: *propagation,
            ..Default::default()
        });
        let all = wishes(|c| c.mounts = mounts.collect()).unwrap();
        assert_eq!(all.spec(&place(&[])).unwrap_err().kind, Kind::Bug);
        let spec = all.spec(&place(&vec!["/s"; numbers.len()])).unwrap();
        spec.linux().as_ref().unwrap().rootfs_propagation().clone()
    };
    assert_eq!(propagation(&[0]), None);
    assert_eq!(propagation(&[0, 1]).as_deref(), Some("rslave"));
    assert_eq!(propagation(&[1, 2]).as_deref(), Some("rshared"));
}

#[test]
fn a_privileged_container_writes_to_sys_and_to_every_device() {
    let spec = |privileged: bool| {
        let mut place = place(&[]);
        let mut node = LinuxDevice::default();
        node.set_path("/dev/fuse".into()).set_typ(LinuxDeviceType::C).set_major(10).set_minor(229);
        place.devices = vec![(node, "rw".into())];
        secured(|c| c.privileged = privileged).unwrap().spec(&place).unwrap()
    };
    let (plain, privileged) = (spec(false), spec(true));
    assert!(options(at(&plain, "/sys")[0]).ends_with(",ro"));
    assert!(options(at(&privileged, "/sys")[0]).ends_with(",rw"));
    let rules =
        |spec: &Spec| spec.linux().as_ref().unwrap().resources().as_ref().unwrap().devices().clone().unwrap();
    assert_eq!((rules(&plain)[0].allow(), rules(&privileged)[0].allow()), (false, true));
    assert_eq!((rules(&plain)[1].minor(), rules(&plain)[1].access().as_deref()), (Some(229), Some("rw")));
    let capabilities = privileged.process().as_ref().unwrap().capabilities().clone().unwrap();
    assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 2);
}
