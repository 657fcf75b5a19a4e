//! Mounts and devices.

use super::*;
use crate::spec::request::{MountRequest, MountSource, Propagation};

fn mounted(change: impl FnOnce(&mut v1::Mount)) -> Result<MountRequest> {
    let mut mount =
        v1::Mount { container_path: "/data".into(), host_path: "/srv/data".into(), ..Default::default() };
    change(&mut mount);
    created(|c| c.mounts = vec![mount]).map(|w| w.container.mounts[0].clone())
}

#[test]
fn mounts_become_options() {
    let options = |mount: MountRequest| mount.options.join(",");
    assert_eq!(options(mounted(|_| {}).unwrap()), "rbind,rprivate,rw");
    assert_eq!(options(mounted(|m| m.readonly = true).unwrap()), "rbind,rprivate,ro");
    let recursive = mounted(|m| {
        m.readonly = true;
        m.recursive_read_only = true;
    });
    assert_eq!(options(recursive.unwrap()), "rbind,rprivate,ro,rro");
    assert_eq!(options(mounted(|m| m.propagation = 1).unwrap()), "rbind,rslave,rw");
    assert_eq!(options(mounted(|m| m.propagation = 2).unwrap()), "rbind,rshared,rw");
    let mapped = mounted(|m| {
        m.uid_mappings = vec![range(0, 100_000, 10)];
        m.gid_mappings = vec![range(0, 100_000, 10)];
    });
    let mapped = mapped.unwrap();
    assert_eq!((mapped.uids[0].host_id(), mapped.gids.len()), (100_000, 1));
    assert_eq!(options(mapped), "rbind,rprivate,rw,idmap");
    let root = |propagation| mounted(|m| m.propagation = propagation).unwrap().root_propagation;
    assert_eq!([0, 1, 2].map(root), [None, Some(Propagation::Slave), Some(Propagation::Shared)]);
}

#[test]
fn mounts_that_contradict_themselves_are_refused() {
    refused(mounted(|m| m.container_path = "data".into()), "container_path");
    refused(mounted(|m| m.host_path.clear()), "neither host_path nor image");
    refused(mounted(|m| m.host_path = "srv".into()), "host_path");
    refused(mounted(|m| m.propagation = 7), "propagation");
    refused(mounted(|m| m.recursive_read_only = true), "without readonly");
    let shared = |m: &mut v1::Mount| (m.readonly, m.recursive_read_only, m.propagation) = (true, true, 1);
    refused(mounted(shared), "private propagation");
    refused(mounted(|m| m.uid_mappings = vec![range(0, 1, 1)]), "go together");
    refused(mounted(|m| m.image_sub_path = "a".into()), "image_sub_path without image");
}

#[test]
fn an_image_is_a_read_only_volume() {
    let image = |change: fn(&mut v1::Mount)| {
        mounted(|m| {
            m.host_path.clear();
            m.readonly = true;
            m.image = Some(v1::ImageSpec { image: "sha256:1".into(), ..Default::default() });
            change(m);
        })
    };
    let sub_path = |m: &mut v1::Mount| m.image_sub_path = "etc/nginx".into();
    let expected = MountSource::Image { image: "sha256:1".into(), sub_path: "etc/nginx".into() };
    assert_eq!(image(sub_path).unwrap().source, expected);
    refused(image(|m| m.readonly = false), "read-only");
    refused(image(|m| m.host_path = "/x".into()), "both set");
    refused(image(|m| m.image = Some(v1::ImageSpec::default())), "no name");
    refused(image(|m| m.image_sub_path = "../etc".into()), "image_sub_path");
    refused(image(|m| m.image_sub_path = "/etc".into()), "image_sub_path");
}

#[test]
fn a_mount_comes_before_what_lies_below_it() {
    let mount =
        |path: &str| v1::Mount { container_path: path.into(), host_path: "/s".into(), ..Default::default() };
    let all = created(|c| c.mounts = vec![mount("/a/b/c"), mount("/z"), mount("/a/b"), mount("/b")]).unwrap();
    let order: Vec<_> = all.container.mounts.iter().map(|m| m.destination.to_str().unwrap()).collect();
    assert_eq!(order, ["/z", "/b", "/a/b", "/a/b/c"]);
}

#[test]
fn devices_are_named_by_path_or_by_cdi() {
    let device = |host: &str, inside: &str, permissions: &str| v1::Device {
        host_path: host.into(),
        container_path: inside.into(),
        permissions: permissions.into(),
    };
    let one = |d| created(|c| c.devices = vec![d]).map(|w| w.container.devices[0].clone());
    let video = one(device("/dev/video0", "", "")).unwrap();
    assert_eq!((video.inside.to_str(), video.access.as_str()), (Some("/dev/video0"), "rwm"));
    refused(one(device("video0", "", "")), "host_path");
    refused(one(device("/dev/video0", "v", "")), "container_path");
    refused(one(device("/dev/video0", "", "rwx")), "rwx");
    let cdi = |names: &[&str], annotation: &str| {
        created(|c| {
            c.cdi_devices = names.iter().map(|n| v1::CdiDevice { name: (*n).into() }).collect();
            if !annotation.is_empty() {
                c.annotations.insert("cdi.k8s.io/plugin".into(), annotation.into());
            }
        })
        .map(|w| w.container.cdi_devices)
    };
    let gpu = "nvidia.com/gpu=0";
    assert_eq!(cdi(&[gpu, gpu], "nvidia.com/gpu=0,nvidia.com/gpu=all").unwrap(), [gpu, "nvidia.com/gpu=all"]);
    for bad in
        ["gpu", "nvidia.com=0", "nvidia.com/gpu=", "/gpu=0", "nvidia.com/gpu=0/..", "1v/gpu=0", "v/g=a b"]
    {
        refused(cdi(&[bad], ""), bad);
    }
}
