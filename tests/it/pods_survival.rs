//! What pods survive: the end of the daemon at any moment, of the keeper, of everything.

use std::fs;
use std::time::Duration;

use coracle_cri::v1::*;

use crate::support::{Serve, container, pod_on_host, wait_until};

#[test]
fn a_restart_finds_everything_and_what_happened_meanwhile() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("kept"));
    let id = serve.run_pod(&pod);
    let runs =
        serve.run_container(&id, &pod, &container(&pod, "runs", "while :; do echo tick; sleep 0.05; done"));
    let ends = serve.run_container(
        &id,
        &pod,
        &container(&pod, "ends", "while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 5"),
    );
    let only_made = serve.try_create(&id, &pod, &container(&pod, "made", "sleep 100")).unwrap();
    serve.output_in(&ends, "mkdir -p /tmp");
    let pid = |id: &str| {
        let text = fs::read_to_string(serve.sandbox().root().join(id).join("state.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["init_process_pid"].as_i64().unwrap()
    };
    let (pid_of_ends, before) = (pid(&ends), serve.try_status(&runs).unwrap());
    serve.kill();
    fs::write(format!("/proc/{pid_of_ends}/root/tmp/go"), "").unwrap();
    wait_until("the container to end", || {
        (!fs::exists(format!("/proc/{pid_of_ends}")).unwrap()).then_some(())
    });
    let lines = serve.log_of("runs").len();
    wait_until("the log to go on", || (serve.log_of("runs").len() > lines).then_some(()));
    serve.start();
    assert_eq!(serve.try_status(&runs).unwrap(), before);
    let status = serve.exited(&ends);
    assert_eq!((status.exit_code, status.reason.as_str()), (5, "Error"));
    // A container that was made before is started after.
    assert_eq!(serve.container_state(&only_made), ContainerState::ContainerCreated);
    serve.try_start(&only_made).unwrap();
    assert_eq!(serve.output_in(&only_made, "echo here"), "here");
    serve.removes_all();
}

#[test]
fn killed_at_any_moment_nothing_is_lost_or_left() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    // Each round is cut a little later than the one before.
    for round in 0..16_u32 {
        let pod = serve.logged(pod_on_host(&format!("round{round}")));
        let pid = serve.pid();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(u64::from(round) * 1700));
            rustix::process::kill_process(
                rustix::process::Pid::from_raw(pid).unwrap(),
                rustix::process::Signal::KILL,
            )
        });
        let run = || -> Result<(), tonic::Status> {
            let id = serve.try_run_pod(&pod)?;
            let c = serve.try_create(&id, &pod, &container(&pod, "box", "sleep 1000"))?;
            serve.try_start(&c)?;
            serve.try_stop(&c, 0)?;
            serve.try_remove(&c)?;
            serve.try_stop_pod(&id)?;
            serve.try_remove_pod(&id)
        };
        let _ = run();
        killer.join().unwrap().unwrap();
        serve.wait();
        serve.start();
        // As kubelet does: what there is of the pod goes, and it is tried again.
        for id in serve.all().0 {
            serve.try_stop_pod(&id).unwrap();
            serve.try_remove_pod(&id).unwrap();
        }
        let id = serve.run_pod(&pod);
        let c = serve.run_container(&id, &pod, &container(&pod, "box", "sleep 1000"));
        assert_eq!(serve.output_in(&c, "echo fine"), "fine", "round {round}");
        serve.removes_all();
    }
}

#[test]
fn a_keeper_that_is_killed_takes_no_pod_with_it() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("kept"));
    let id = serve.run_pod(&pod);
    let c =
        serve.run_container(&id, &pod, &container(&pod, "box", "while :; do echo tick; sleep 0.05; done"));
    let (keeper, _) = serve.kept().keeper();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(keeper).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let lines = serve.log_of("box").len();
    wait_until("the log to go on", || (serve.log_of("box").len() > lines).then_some(()));
    assert_eq!(serve.container_state(&c), ContainerState::ContainerRunning);
    // The end is heard from the next keeper.
    serve.try_stop(&c, 0).unwrap();
    assert_eq!(serve.container_state(&c), ContainerState::ContainerExited);
    let other = serve.run_container(&id, &pod, &container(&pod, "other", "exit 0"));
    let status = serve.exited(&other);
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    serve.removes_all();
}

#[test]
fn after_a_reboot_the_writable_layers_of_pods_are_gone() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("gone"));
    let id = serve.run_pod(&pod);
    let c = serve.run_container(&id, &pod, &container(&pod, "box", "echo > /file; sleep 1000"));
    assert!(serve.path("store/containers").join(&c).exists());
    serve.try_stop(&c, 0).unwrap();
    let state = serve.sandbox().root().join(&c);
    wait_until("its state to be removed", || (!state.exists()).then_some(()));
    serve.stop();
    // What is in memory is gone, and no mount survives.
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let own = serve.kept().run_dir().join("pods");
    for mount in mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|at| at.starts_with(own.to_str().unwrap()))
    {
        rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
    fs::remove_dir_all(serve.kept().run_dir().join("pods")).unwrap();
    serve.start();
    assert_eq!(serve.all(), (Vec::new(), Vec::new()));
    assert!(!serve.path("store/containers").join(&c).exists());
    serve.is_clean();
}
