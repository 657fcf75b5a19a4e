//! The profile for containers without one: the calls that Docker and containerd allow, as a table.
//!
//! It denies all other calls with EPERM. The table has the calls that ordinary programs use and that affect only the
//! caller's own namespaces; calls that affect the whole kernel (keyrings, modules, clocks, io_uring, raw hardware, new
//! namespaces) are left out, or allowed with the capability that guards them anyway.

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompOperator as Operator, LinuxSyscall,
};

/// Calls that are allowed under one condition.
struct Group {
    /// The reason why they are allowed, or only under the condition.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for the reader; the tests see to it that each group has one")
    )]
    why: &'static str,
    when: When,
    /// Separated by white space: one string needs no relocation, a slice of strings needs one per call.
    names: &'static str,
}

/// The condition of a group.
#[derive(Clone, Copy)]
enum When {
    Always,
    /// KERNEL(major.minor)
    Since(u32, u32),
    /// On a host of one of these architectures, as in [`std::env::consts::ARCH`].
    On(&'static [&'static str]),
    /// With one of these capabilities in the container's bounding set.
    With(&'static [Capability]),
}

const GROUPS: &[Group] = &[
    Group {
        why: "memory of the process itself; no huge-page or NUMA policy",
        when: When::Always,
        names: "brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap \
            mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect \
            process_mrelease remap_file_pages",
    },
    Group {
        why: "files by path: access is decided by permissions, not by the call",
        when: When::Always,
        names: "access chdir chmod chown chown32 creat faccessat faccessat2 fchdir fchmod fchmodat fchmodat2 fchown \
            fchown32 fchownat fstatat64 futimesat getcwd lchown lchown32 link linkat lstat lstat64 mkdir mkdirat mknod \
            mknodat name_to_handle_at newfstatat open openat openat2 readlink readlinkat rename renameat renameat2 rmdir \
            stat stat64 statfs statfs64 statx symlink symlinkat truncate truncate64 umask unlink unlinkat utime utimensat \
            utimensat_time64 utimes",
    },
    Group {
        why: "extended attributes: guarded by permissions and by capabilities per name space",
        when: When::Always,
        names: "fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat llistxattr \
            lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat",
    },
    Group {
        why: "open files: reading, writing, copying, locking, mapping of descriptors",
        when: When::Always,
        names: "_llseek cachestat close close_range copy_file_range dup dup2 dup3 fadvise64 fadvise64_64 fallocate fcntl \
            fcntl64 fdatasync flock fstat fstat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 getdents getdents64 ioctl \
            lseek pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readv sendfile sendfile64 \
            splice sync sync_file_range syncfs tee vmsplice write writev",
    },
    Group {
        why: "waiting for events; fanotify marks are useless without fanotify_init",
        when: When::Always,
        names: "_newselect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait \
            epoll_wait_old eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch poll \
            ppoll ppoll_time64 pselect6 pselect6_time64 select",
    },
    Group {
        why: "Linux AIO; io_uring is left out for its history of ways into the kernel",
        when: When::Always,
        names: "io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioprio_get ioprio_set",
    },
    Group {
        why: "sockets; socket and its way through socketcall have rules of their own. socketpair needs none: the \
            families that are left out make no pairs",
        when: When::Always,
        names: "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg \
            recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketpair",
    },
    Group {
        why: "System V and POSIX message passing, confined by the ipc namespace",
        when: When::Always,
        names: "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
            mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat \
            shmctl shmdt shmget",
    },
    Group {
        why: "processes of the own pid namespace; clone has a rule of its own",
        when: When::Always,
        names: "execve execveat exit exit_group fork kill pidfd_open pidfd_send_signal prctl restart_syscall tgkill tkill \
            vfork wait4 waitid waitpid",
    },
    Group {
        why: "threads, locks between them and their private memory",
        when: When::Always,
        names: "futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake get_robust_list get_thread_area gettid \
            rseq set_robust_list set_thread_area set_tid_address",
    },
    Group {
        why: "signals",
        when: When::Always,
        names: "alarm pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend \
            rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack signalfd signalfd4 sigprocmask sigreturn",
    },
    Group {
        why: "users, groups, capabilities, sessions: the kernel checks what the caller may become",
        when: When::Always,
        names: "capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getpgid getpgrp \
            getpid getppid getresgid getresgid32 getresuid getresuid32 getsid getuid getuid32 setfsgid setfsgid32 setfsuid \
            setfsuid32 setgid setgid32 setgroups setgroups32 setpgid setregid setregid32 setresgid setresgid32 setresuid \
            setresuid32 setreuid setreuid32 setsid setuid setuid32",
    },
    Group {
        why: "reading clocks and own timers; the kernel refuses to adjust without CAP_SYS_TIME",
        when: When::Always,
        names: "adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
            clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create timer_delete \
            timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime \
            timerfd_gettime64 timerfd_settime timerfd_settime64 times",
    },
    Group {
        why: "scheduling and limits; raising needs a capability",
        when: When::Always,
        names: "getcpu getpriority getrlimit getrusage prlimit64 sched_get_priority_max sched_get_priority_min \
            sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval \
            sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield \
            setpriority setrlimit ugetrlimit",
    },
    Group {
        why: "asking about the system, and random numbers; mounts can be looked at, not changed",
        when: When::Always,
        names: "getrandom listmount riscv_hwprobe statmount sysinfo uname",
    },
    Group {
        why: "giving up rights, which is always welcome",
        when: When::Always,
        names: "landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp",
    },
    Group {
        why: "returns from a user-space probe; the kernel answers only where it placed one",
        when: When::Always,
        names: "uretprobe",
    },
    Group {
        why: "before 4.8 a tracer could step around the filter of its tracee",
        when: When::Since(4, 8),
        names: "process_vm_readv process_vm_writev ptrace",
    },
    Group {
        why: "thread pointers, caches and argument orders of Arm",
        when: When::On(&["arm", "aarch64"]),
        names: "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
    },
    Group {
        why: "thread pointers of x86-64, and segments that Wine and old binaries need",
        when: When::On(&["x86_64"]),
        names: "arch_prctl modify_ldt",
    },
    Group { why: "segments that Wine and old binaries need", when: When::On(&["x86"]), names: "modify_ldt" },
    Group {
        why: "opens files beneath nothing: handles reach the whole file system",
        when: When::With(&[Capability::DacReadSearch]),
        names: "open_by_handle_at",
    },
    Group {
        why: "administration: mounts, namespaces, quotas, host name, security modules",
        when: When::With(&[Capability::SysAdmin]),
        names: "clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
            lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree quotactl quotactl_fd setdomainname \
            sethostname setns umount umount2 unshare",
    },
    Group {
        why: "programs in the kernel",
        when: When::With(&[Capability::SysAdmin, Capability::Bpf]),
        names: "bpf",
    },
    Group {
        why: "counters see other processes and the kernel",
        when: When::With(&[Capability::SysAdmin, Capability::Perfmon]),
        names: "perf_event_open",
    },
    Group {
        why: "the kernel's messages",
        when: When::With(&[Capability::SysAdmin, Capability::Syslog]),
        names: "syslog",
    },
    Group { why: "takes the machine down", when: When::With(&[Capability::SysBoot]), names: "reboot" },
    Group {
        why: "a way out for careless programs",
        when: When::With(&[Capability::SysChroot]),
        names: "chroot",
    },
    Group {
        why: "code in the kernel",
        when: When::With(&[Capability::SysModule]),
        names: "delete_module finit_module init_module",
    },
    Group {
        why: "accounting of the whole machine",
        when: When::With(&[Capability::SysPacct]),
        names: "acct",
    },
    Group {
        why: "looks into other processes",
        when: When::With(&[Capability::SysPtrace]),
        names: "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    },
    Group { why: "ports of the hardware", when: When::With(&[Capability::SysRawio]), names: "ioperm iopl" },
    Group {
        why: "there is one clock for all containers",
        when: When::With(&[Capability::SysTime]),
        names: "clock_settime clock_settime64 settimeofday stime",
    },
    Group { why: "takes terminals away", when: When::With(&[Capability::SysTtyConfig]), names: "vhangup" },
    Group {
        why: "NUMA policy takes memory from others",
        when: When::With(&[Capability::SysNice]),
        names: "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    },
];

/// The harmless personalities: the default, the one that reports a 32-bit machine, both with the old version format of
/// uname, and the query of the current one.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Every flag of clone(2) that creates a namespace.
const NEW_NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// The profile for a container without one, with `capabilities` in its bounding set, for this host and kernel.
pub fn default_profile(capabilities: &Capabilities) -> LinuxSeccomp {
    let release = rustix::system::uname();
    let kernel = release.release().to_str().ok().and_then(kernel_version);
    build(capabilities, std::env::consts::ARCH, kernel)
}

/// The first two numbers of a release such as `6.18.2-arch1`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// An unreadable kernel version counts as old.
fn build(capabilities: &Capabilities, arch: &str, kernel: Option<(u32, u32)>) -> LinuxSeccomp {
    let is_allowed = |group: &&Group| match group.when {
        When::Always => true,
        When::Since(major, minor) => kernel >= Some((major, minor)),
        When::On(arches) => arches.contains(&arch),
        When::With(any) => any.iter().any(|capability| capabilities.contains(capability)),
    };
    let names = GROUPS.iter().filter(is_allowed).flat_map(|group| group.names.split_ascii_whitespace());
    let mut syscalls = vec![allow(names.map(str::to_owned).collect(), None)];
    // This rule comes before the families: of several matching rules with conditions the first decides.
    if !socketcall_is_the_only_way(arch) {
        syscalls.push(no_socket_through_socketcall());
    }
    syscalls.extend(socket_families());
    syscalls.extend(PERSONALITIES.map(|value| allow_if("personality", arg(0, Operator::ScmpCmpEq, value))));
    if !capabilities.contains(&Capability::SysAdmin) {
        syscalls.push(allow_if("clone", arg(0, Operator::ScmpCmpMaskedEq, NEW_NAMESPACES)));
        // clone3 has its flags behind a pointer, which a filter cannot read: on ENOSYS libcs fall back to clone.
        syscalls.push(deny("clone3", libc::ENOSYS));
    }
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(Action::ScmpActErrno);
    profile.set_default_errno_ret(u32::try_from(libc::EPERM).ok());
    profile.set_architectures(Some(architectures(arch)));
    profile.set_syscalls(Some(syscalls));
    profile
}

/// All families except AF_VSOCK, which talks to the hypervisor past every network namespace, and AF_ALG, whose drivers
/// have a history of kernel exploits.
///
/// A 64-bit filter compares all 64 bits of an argument, but the kernel takes a family as `int` and drops the upper
/// half: to it 0x1_0000_0026 is AF_ALG. "Greater than AF_VSOCK" would allow that, so the families above it are listed
/// by masks that require an upper half of zero, up to 63 (the kernel numbers 46 of them).
fn socket_families() -> [LinuxSyscall; 6] {
    const ALG: u64 = libc::AF_ALG as u64;
    const VSOCK: u64 = libc::AF_VSOCK as u64;
    const { assert!(ALG == 38 && VSOCK == 40, "the ranges below leave out these two") }
    [
        arg(0, Operator::ScmpCmpLt, ALG),
        arg(0, Operator::ScmpCmpEq, ALG + 1),
        arg(0, Operator::ScmpCmpEq, VSOCK + 1),
        masked(0, !0x1, 42),
        masked(0, !0x3, 44),
        masked(0, !0xf, 48),
    ]
    .map(|family| allow_if("socket", family))
}

/// Denies creating sockets through socketcall(2), the older way of 32-bit x86, which every x86-64 program can use as
/// well (`int 0x80`). Its family is behind a pointer, which a filter cannot read, so AF_ALG and AF_VSOCK would be
/// available. ENOSYS makes a libc that supports both ways (musl) use socket(2); the calls on existing sockets stay
/// allowed.
///
/// The cost is that 32-bit x86 programs of a glibc built for kernels before 4.3, and those of Go, cannot create
/// sockets. Docker 29.4.2 had the same cost (moby#52494); it then moved the rule into AppArmor and SELinux policies
/// (moby#52547), which the hosts of this runtime do not have. A container that needs such sockets can use
/// `seccomp=FILE`.
fn no_socket_through_socketcall() -> LinuxSyscall {
    /// `SYS_SOCKET` of linux/net.h.
    const SYS_SOCKET: u64 = 1;
    let mut syscall = deny("socketcall", libc::ENOSYS);
    syscall.set_args(Some(vec![arg(0, Operator::ScmpCmpEq, SYS_SOCKET)]));
    syscall
}

/// Returns whether the ordinary programs of a host create sockets only through socketcall(2): those of a 32-bit x86
/// distribution. Denying it would leave every container there without network, so there the families are not
/// restricted.
fn socketcall_is_the_only_way(arch: &str) -> bool {
    arch == "x86"
}

/// The host's own architecture and the others whose programs it runs.
fn architectures(arch: &str) -> Vec<Arch> {
    match arch {
        "x86_64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        "x86" => vec![Arch::ScmpArchX86],
        "aarch64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        "arm" => vec![Arch::ScmpArchArm],
        _ => Vec::new(),
    }
}

fn allow(names: Vec<String>, args: Option<Vec<LinuxSeccompArg>>) -> LinuxSyscall {
    let mut syscall = LinuxSyscall::default();
    syscall.set_names(names).set_action(Action::ScmpActAllow).set_args(args);
    syscall
}

fn allow_if(name: &str, condition: LinuxSeccompArg) -> LinuxSyscall {
    allow(vec![name.to_owned()], Some(vec![condition]))
}

fn deny(name: &str, errno: i32) -> LinuxSyscall {
    let mut syscall = LinuxSyscall::default();
    syscall
        .set_names(vec![name.to_owned()])
        .set_action(Action::ScmpActErrno)
        .set_errno_ret(u32::try_from(errno).ok());
    syscall
}

/// The condition that the bits of the argument in `mask` equal those of `wanted`.
fn masked(index: usize, mask: u64, wanted: u64) -> LinuxSeccompArg {
    built(
        LinuxSeccompArgBuilder::default()
            .index(index)
            .op(Operator::ScmpCmpMaskedEq)
            .value(mask)
            .value_two(wanted),
    )
}

/// For `MASKED_EQ`, `value` is the mask and the masked argument must be 0.
fn arg(index: usize, op: Operator, value: u64) -> LinuxSeccompArg {
    built(LinuxSeccompArgBuilder::default().index(index).op(op).value(value))
}

fn built(condition: LinuxSeccompArgBuilder) -> LinuxSeccompArg {
    // Building cannot fail, because every field has a default; the type has no other constructor.
    condition.build().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::seccomp::{abi::Abi, table};

    fn names(profile: &LinuxSeccomp) -> BTreeSet<&str> {
        profile.syscalls().iter().flatten().flat_map(LinuxSyscall::names).map(String::as_str).collect()
    }

    fn with(capabilities: &[Capability]) -> LinuxSeccomp {
        build(&capabilities.iter().copied().collect(), "aarch64", Some((5, 10)))
    }

    #[test]
    fn every_group_has_a_reason_and_known_calls() {
        for group in GROUPS {
            assert!(!group.why.is_empty());
            for name in group.names.split_ascii_whitespace() {
                assert!(table::find(name).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn a_capability_brings_its_calls() {
        let plain = with(&[]);
        for name in [
            "mount",
            "bpf",
            "reboot",
            "chroot",
            "init_module",
            "settimeofday",
            "kcmp",
            "keyctl",
            "io_uring_setup",
        ] {
            assert!(!names(&plain).contains(name), "{name}");
        }
        assert!(
            names(&with(&[Capability::SysAdmin])).is_superset(&["mount", "bpf", "unshare", "syslog"].into())
        );
        assert!(names(&with(&[Capability::Bpf])).contains("bpf"));
        assert!(names(&with(&[Capability::SysChroot])).contains("chroot"));
        assert!(!names(&with(&[Capability::SysAdmin])).contains("keyctl"));
    }

    #[test]
    fn an_administrator_gets_clone3_for_real() {
        let denied = |profile: &LinuxSeccomp| {
            profile
                .syscalls()
                .iter()
                .flatten()
                .any(|s| s.action() == Action::ScmpActErrno && s.names()[0] == "clone3")
        };
        assert!(denied(&with(&[])));
        assert!(!denied(&with(&[Capability::SysAdmin])));
    }

    #[test]
    fn ptrace_comes_with_a_kernel_that_keeps_the_filter_or_with_the_capability() {
        let old = |capabilities: &[Capability]| {
            let profile = build(&capabilities.iter().copied().collect(), "arm", Some((4, 7)));
            names(&profile).contains("ptrace")
        };
        assert!(!old(&[]));
        assert!(old(&[Capability::SysPtrace]));
        assert!(names(&with(&[])).contains("ptrace"));
    }

    #[test]
    fn architectures_and_their_calls_follow_the_host() {
        let of = |arch| build(&Capabilities::new(), arch, Some((6, 1)));
        assert_eq!(
            of("aarch64").architectures().as_deref().unwrap(),
            [Arch::ScmpArchAarch64, Arch::ScmpArchArm]
        );
        assert!(names(&of("arm")).contains("set_tls"));
        assert!(!names(&of("arm")).contains("arch_prctl"));
        assert!(names(&of("x86_64")).contains("arch_prctl"));
        assert!(!names(&of("x86_64")).contains("set_tls"));
        assert!(Abi::native().is_ok());
    }

    #[test]
    fn releases_are_read_up_to_the_minor_number() {
        assert_eq!(kernel_version("6.18.2-arch1"), Some((6, 18)));
        assert_eq!(kernel_version("5.10-rc1"), Some((5, 10)));
        assert_eq!(kernel_version("next"), None);
    }
}
