//! The parts of libcontainer in use: capability numbers, the default devices, and whether AppArmor is enabled.
//!
//! libcontainer 0.7 does not compile on 32-bit targets (its tty and device code takes `u64` for `dev_t` and `i64` for
//! `time_t`), and on others it takes a tenth of the build time. So it is a feature, which the packages enable.
//! Without it, `own` takes its place; a test compares both.

#[cfg(all(feature = "libcontainer", target_pointer_width = "64"))]
pub(crate) use libcontainer::{
    apparmor::is_enabled as apparmor_is_enabled, capabilities::CapabilityExt, rootfs::utils::default_devices,
};
#[cfg(not(all(feature = "libcontainer", target_pointer_width = "64")))]
pub(crate) use own::{CapabilityExt, apparmor_is_enabled, default_devices};

#[cfg(any(test, not(all(feature = "libcontainer", target_pointer_width = "64"))))]
mod own {
    use std::path::PathBuf;
    use std::{fs, io};

    use oci_spec::runtime::{Capability, LinuxDevice, LinuxDeviceType};

    /// The kernel's number of a capability of the specification.
    pub(crate) trait CapabilityExt {
        /// The kernel's.
        fn to_cap(&self) -> caps::Capability;
    }

    macro_rules! capabilities {
        ($($ours:ident = $kernels:ident,)+) => {
            impl CapabilityExt for Capability {
                fn to_cap(&self) -> caps::Capability {
                    match self {
                        $(Self::$ours => caps::Capability::$kernels,)+
                    }
                }
            }
        };
    }

    // capabilities(7), by number.
    capabilities! {
        Chown = CAP_CHOWN,
        DacOverride = CAP_DAC_OVERRIDE,
        DacReadSearch = CAP_DAC_READ_SEARCH,
        Fowner = CAP_FOWNER,
        Fsetid = CAP_FSETID,
        Kill = CAP_KILL,
        Setgid = CAP_SETGID,
        Setuid = CAP_SETUID,
        Setpcap = CAP_SETPCAP,
        LinuxImmutable = CAP_LINUX_IMMUTABLE,
        NetBindService = CAP_NET_BIND_SERVICE,
        NetBroadcast = CAP_NET_BROADCAST,
        NetAdmin = CAP_NET_ADMIN,
        NetRaw = CAP_NET_RAW,
        IpcLock = CAP_IPC_LOCK,
        IpcOwner = CAP_IPC_OWNER,
        SysModule = CAP_SYS_MODULE,
        SysRawio = CAP_SYS_RAWIO,
        SysChroot = CAP_SYS_CHROOT,
        SysPtrace = CAP_SYS_PTRACE,
        SysPacct = CAP_SYS_PACCT,
        SysAdmin = CAP_SYS_ADMIN,
        SysBoot = CAP_SYS_BOOT,
        SysNice = CAP_SYS_NICE,
        SysResource = CAP_SYS_RESOURCE,
        SysTime = CAP_SYS_TIME,
        SysTtyConfig = CAP_SYS_TTY_CONFIG,
        Mknod = CAP_MKNOD,
        Lease = CAP_LEASE,
        AuditWrite = CAP_AUDIT_WRITE,
        AuditControl = CAP_AUDIT_CONTROL,
        Setfcap = CAP_SETFCAP,
        MacOverride = CAP_MAC_OVERRIDE,
        MacAdmin = CAP_MAC_ADMIN,
        Syslog = CAP_SYSLOG,
        WakeAlarm = CAP_WAKE_ALARM,
        BlockSuspend = CAP_BLOCK_SUSPEND,
        AuditRead = CAP_AUDIT_READ,
        Perfmon = CAP_PERFMON,
        Bpf = CAP_BPF,
        CheckpointRestore = CAP_CHECKPOINT_RESTORE,
    }

    /// The devices that every container has. SPEC(runtime 1.2 #default-devices)
    pub(crate) fn default_devices() -> Vec<LinuxDevice> {
        const MEMORY: i64 = 1;
        const TERMINAL: i64 = 5;
        let devices = [
            ("/dev/null", MEMORY, 3),
            ("/dev/zero", MEMORY, 5),
            ("/dev/full", MEMORY, 7),
            ("/dev/tty", TERMINAL, 0),
            ("/dev/urandom", MEMORY, 9),
            ("/dev/random", MEMORY, 8),
        ];
        let device = |(path, major, minor): (&str, i64, i64)| {
            let mut device = LinuxDevice::default();
            device
                .set_path(PathBuf::from(path))
                .set_typ(LinuxDeviceType::C)
                .set_major(major)
                .set_minor(minor)
                .set_file_mode(Some(0o666));
            device
        };
        devices.map(device).into()
    }

    /// Whether AppArmor is enabled.
    ///
    /// # Errors
    /// The kernel is built without AppArmor.
    pub(crate) fn apparmor_is_enabled() -> io::Result<bool> {
        Ok(fs::read_to_string("/sys/module/apparmor/parameters/enabled")?.starts_with('Y'))
    }
}

#[cfg(all(test, target_pointer_width = "64"))]
mod tests {
    use libcontainer::{apparmor::is_enabled, capabilities::CapabilityExt, rootfs::utils::default_devices};

    use super::own;
    use oci_spec::runtime::Capability;

    #[test]
    fn own_answers_are_those_of_libcontainer() {
        let all = caps::all();
        assert!(all.len() >= 41, "{all:?}");
        for kernels in all {
            let theirs = <Capability as CapabilityExt>::from_cap(kernels);
            assert_eq!(own::CapabilityExt::to_cap(&theirs), kernels);
        }
        assert_eq!(own::default_devices(), default_devices());
        assert_eq!(own::apparmor_is_enabled().ok(), is_enabled().ok());
    }
}
