//! Filesystems that hang, as NFS without its server does: whoever has nothing to do with them does not wait for them.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coracle_cri::v1::*;
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use serde_json::json;
use tonic::Code;

use crate::support::{Sandbox, Serve, container, pod_on_host};

/// A FUSE filesystem whose server answers nothing: every access hangs until this is dropped.
struct Hung {
    at: PathBuf,
    /// Closed first: that ends what hangs.
    server: Option<OwnedFd>,
}

impl Hung {
    fn new(at: &Path) -> Self {
        std::fs::create_dir(at).unwrap();
        let server = open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        mount("hung", at, "fuse", MountFlags::empty(), options.as_c_str()).unwrap();
        Self { at: at.to_owned(), server: Some(server) }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        drop(self.server.take());
        let _ = unmount(&self.at, UnmountFlags::DETACH);
    }
}

#[track_caller]
fn soon<T>(what: &str, call: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let answer = call();
    assert!(began.elapsed() < Duration::from_secs(10), "{what} took {:?}", began.elapsed());
    answer
}

#[test]
fn a_start_that_waits_for_a_mount_that_hangs_is_given_up_and_leaves_nothing() {
    needs!(root, busybox, oci_verbs, fuse);
    let sandbox = Sandbox::new();
    let hung = Hung::new(&sandbox.path("hung"));
    let mount = json!({
        "destination": "/mnt", "type": "bind", "source": hung.at.join("below"), "options": ["rbind"]
    });
    let bundle = sandbox.bundle("minimal").with_pushed("/mounts", mount);
    let id = sandbox.id("box");
    let words = ["run".as_ref(), "--bundle".as_ref(), bundle.path().as_os_str(), id.as_ref()];
    let refused = sandbox.prepare(words).patience(Duration::from_secs(60)).go().fails();
    assert!(refused.stderr.contains("hang"), "{}", refused.stderr);
    drop(hung);
    assert!(sandbox.traces().is_empty(), "{:?}", sandbox.traces());
}

#[test]
fn a_volume_that_hangs_holds_up_no_other_pod_and_its_pod_goes_when_it_answers() {
    needs!(root, busybox, launch_verb, fuse);
    let serve = Serve::new();
    let hung = Hung::new(&serve.path("hung"));
    let pod = pod_on_host("hung");
    let id = serve.run_pod(&pod);
    let mounts = vec![Mount {
        host_path: hung.at.join("below").display().to_string(),
        container_path: "/mnt".to_owned(),
        ..Mount::default()
    }];
    let config = ContainerConfig { mounts, ..container(&pod, "hangs", "sleep 1000") };
    let request = CreateContainerRequest {
        pod_sandbox_id: id.clone(),
        config: Some(config),
        sandbox_config: Some(pod.clone()),
    };
    let mut runtime = serve.runtime();
    let hangs = serve.begin(async move {
        let id = runtime.create_container(request).await?.into_inner().container_id;
        runtime.start_container(StartContainerRequest { container_id: id }).await
    });
    serve.block_on(async { tokio::time::sleep(Duration::from_millis(500)).await });
    let other = soon("RunPodSandbox", || serve.run_pod(&pod_on_host("other")));
    let c = soon("a container of another pod", || {
        let pod = pod_on_host("other");
        serve.run_container(&other, &pod, &container(&pod, "box", "sleep 1000"))
    });
    assert_eq!(soon("ExecSync", || serve.output_in(&c, "echo here")), "here");
    soon("StopPodSandbox", || serve.try_stop_pod(&id).unwrap());
    let refused = serve.try_remove_pod(&id).unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
    drop(hung);
    assert!(serve.block_on(hangs).unwrap().is_err());
    soon("RemovePodSandbox", || serve.try_remove_pod(&id).unwrap());
    serve.removes_all();
}
