//! Steps as error messages: the middle of "cannot start the container: mount proc on /proc: ...".

use std::fmt;

use super::steps::Step;

#[expect(clippy::too_many_lines, reason = "a table: one line a step")]
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AwaitParent | Self::AwaitGo => f.write_str("wait for the parent"),
            Self::Join { path, .. } => write!(f, "join the namespace {path}"),
            Self::JoinProcess { .. } => f.write_str("join the container's namespaces"),
            Self::ForkInside => f.write_str("enter the container's PID namespace"),
            Self::PrivateNull => f.write_str("reopen /dev/null for the standard streams"),
            Self::BecomeNamespaceRoot { .. } => f.write_str("become root of the user namespace"),
            Self::UnshareCgroup => f.write_str("make a cgroup namespace"),
            Self::UnshareTime { .. } => f.write_str("make a time namespace"),
            Self::NewSession => f.write_str("make a session"),
            Self::SessionKeyring(_) => f.write_str("make a session keyring"),
            Self::LoopbackUp => f.write_str("bring the loopback interface up"),
            Self::Isolate { .. } => f.write_str("set the propagation of the mount namespace"),
            Self::AttachRoot { source } => write!(f, "mount the root filesystem {source}"),
            Self::Mount(mount) => write!(f, "mount {} on {}", mount.source, mount.point),
            Self::Device(device) => write!(f, "make the device {}", device.node),
            Self::Symlink { link, .. } => write!(f, "make the symbolic link {link}"),
            Self::Directory(path) => write!(f, "make the directory {path}"),
            Self::OpenProc(_) => f.write_str("open a private /proc"),
            Self::OpenTerminal { .. } => f.write_str("open the container's terminal"),
            Self::HooksPoint => f.write_str("wait for the createRuntime hooks"),
            Self::RunHooks { point, .. } => write!(f, "run the {point} hooks"),
            Self::Hostname(name) => write!(f, "set the hostname {}", name.to_string_lossy()),
            Self::Domainname(name) => write!(f, "set the domainname {}", name.to_string_lossy()),
            Self::Sysctl { path, value } => {
                write!(
                    f,
                    "set the sysctl {} to {:?}",
                    path.to_string_lossy().replace('/', "."),
                    value.to_string_lossy()
                )
            }
            Self::Mask(path) => write!(f, "mask {path}"),
            Self::ReadOnly(path) => write!(f, "make {path} read-only"),
            Self::PivotRoot { .. } => f.write_str("pivot to the root filesystem"),
            Self::MoveRoot | Self::Chroot(_) => f.write_str("change to the root filesystem"),
            Self::ReadOnlyRoot => f.write_str("make the root filesystem read-only"),
            Self::RootPropagation { .. } => f.write_str("set the propagation of the root filesystem"),
            Self::Rlimit { name, soft, hard, .. } => write!(f, "set {name} to {soft}:{hard}"),
            Self::Scheduler(_) => f.write_str("set the scheduler"),
            Self::IoPriority(_) => f.write_str("set the I/O priority"),
            Self::Personality(_) => f.write_str("set the personality"),
            Self::Umask(_) => f.write_str("set the umask"),
            Self::GiveStreams { .. } => f.write_str("give the standard streams to the user"),
            Self::TakeTerminal => f.write_str("make the terminal the standard streams"),
            Self::ExecLabel { system, value, .. } => {
                write!(f, "set the {system} label {:?}", value.to_string_lossy())
            }
            Self::NoNewPrivileges => f.write_str("set no_new_privs"),
            Self::BoundingSet { .. } => f.write_str("drop the bounding set"),
            Self::Identity(id) => write!(f, "become user {}:{}", id.uid, id.gid),
            Self::WorkingDirectory { path, .. } => {
                write!(f, "enter the working directory {}", path.to_string_lossy())
            }
            Self::FindProgram => f.write_str("find the executable"),
            Self::ReduceCapabilities { .. } => f.write_str("drop capabilities"),
            Self::Ready => f.write_str("report readiness"),
            Self::AwaitStart(_) => f.write_str("wait for the start"),
            Self::Seccomp(_) => f.write_str("install the seccomp filter"),
            Self::Capabilities(_) => f.write_str("set the capabilities"),
            Self::Execute => f.write_str("execute"),
        }
    }
}
