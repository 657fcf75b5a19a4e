//! A clock that jumps: a board without a battery begins in the past, and time servers put it right while containers run.
//!
//! The clock is the whole machine's, so these run in a guest of their own.

use std::time::{Duration, Instant};

use coracle_cri::v1::*;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use tonic::Code;

use crate::support::{Serve, container, pod_on_host, wait_until};

const YEAR: i64 = 365 * 24 * 3600;

/// Puts the clock back where it would be by now when this is dropped.
struct Clock {
    real: Timespec,
    since: Instant,
}

impl Clock {
    fn new() -> Self {
        Self { real: clock_gettime(ClockId::Realtime), since: Instant::now() }
    }

    fn jump(&self, seconds: i64) {
        let passed = i64::try_from(self.since.elapsed().as_secs()).unwrap();
        let to = Timespec { tv_sec: self.real.tv_sec + passed + seconds, tv_nsec: 0 };
        clock_settime(ClockId::Realtime, to).unwrap();
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.jump(0);
    }
}

/// Does something that takes this long, give or take what a slow guest adds.
#[track_caller]
fn takes<T>(what: &str, seconds: u64, call: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let answer = call();
    let took = began.elapsed();
    let expected = Duration::from_secs(seconds)..Duration::from_secs(seconds + 20);
    assert!(expected.contains(&took), "{what} took {took:?}");
    answer
}

#[test]
fn a_jump_lengthens_and_shortens_no_wait_and_loses_nothing() {
    needs!(root, busybox, launch_verb, guest);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("clock"));
    let id = serve.run_pod(&pod);
    let ticks =
        serve.run_container(&id, &pod, &container(&pod, "ticks", "while :; do echo tick; sleep 0.1; done"));
    let clock = Clock::new();
    for (round, jump) in [10 * YEAR, -20 * YEAR, 3600, -3600].into_iter().enumerate() {
        clock.jump(jump);
        let lines = serve.log_of("ticks").len();
        wait_until("the log to go on", || (serve.log_of("ticks").len() > lines + 3).then_some(()));
        assert_eq!(serve.container_state(&ticks), ContainerState::ContainerRunning);
        let slow = takes("ExecSync", 2, || {
            serve.try_exec(&ticks, "sleep 100", Some(Duration::from_secs(2))).unwrap_err()
        });
        assert_eq!(slow.code(), Code::DeadlineExceeded, "{slow}");
        let name = format!("stays{round}");
        let stays = serve.run_container(
            &id,
            &pod,
            &container(&pod, &name, "trap '' TERM; echo up; while :; do sleep 0.1; done"),
        );
        serve.logs(&name, "stdout F up");
        // The clock jumps while the stop waits for the end of the container.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(500));
                clock.jump(-jump);
            });
            takes("StopContainer", 2, || serve.try_stop(&stays, 2).unwrap());
        });
        let status = serve.exited(&stays);
        assert_eq!(status.exit_code, 137, "{status:?}");
    }
    // A daemon that starts in another time finds what was there.
    clock.jump(-20 * YEAR);
    serve.kill();
    serve.start();
    assert_eq!(serve.container_state(&ticks), ContainerState::ContainerRunning);
    assert_eq!(serve.output_in(&ticks, "echo here"), "here");
    serve.removes_all();
}
