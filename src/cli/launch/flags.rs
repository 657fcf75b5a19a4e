//! The flags that configure a container, named as in docker and podman, and their conversion to a request.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, PosixRlimit};

use super::{devices, limits, mounts};
use crate::cli::amounts;
use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;
use crate::spec::defaults;
use crate::spec::request::{
    Capabilities, ContainerRequest, GroupsRequest, MountRequest, MountSource, NamespaceScopes, Principal,
    ProcessRequest, Profile, Scope, UserRequest, Variable,
};

/// The network of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum NetworkMode {
    /// Loopback only
    #[default]
    None,
    /// The host's
    Host,
}

#[derive(Debug, clap::Args)]
pub(super) struct ContainerArgs {
    /// Set an environment variable, or pass on one of the caller's
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    env: Vec<String>,
    /// Read environment variables from a file, one per line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Mount a directory or file of the host
    #[arg(short, long, value_name = "HOST:CONTAINER[:OPTIONS]")]
    volume: Vec<String>,
    /// Mount, in long form: type=bind|tmpfs,source=,target=,readonly
    #[arg(long, value_name = "KEY=VALUE,...")]
    mount: Vec<String>,
    /// Mount an empty directory in memory
    #[arg(long, value_name = "CONTAINER[:OPTIONS]")]
    tmpfs: Vec<String>,
    /// Start in this directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// Run as this user
    #[arg(short, long, value_name = "NAME|UID[:GROUP|GID]")]
    user: Option<String>,
    /// Add a supplementary group
    #[arg(long, value_name = "GROUP|GID")]
    group_add: Vec<String>,
    /// Host name inside
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Run this instead of the image's entrypoint
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// Limit memory, such as 64m
    #[arg(short, long, value_name = "SIZE", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Limit memory and swap together; -1 for no limit on swap
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Memory protected from reclaim
    #[arg(long, value_name = "SIZE")]
    memory_reservation: Option<String>,
    /// Limit the number of CPUs, such as 0.5
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// CPU weight relative to other containers, 1024 by default
    #[arg(short, long, value_name = "SHARES")]
    cpu_shares: Option<u64>,
    /// CPUs to run on, such as 0-2,4
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Limit the number of processes; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Make the root filesystem read-only
    #[arg(long)]
    read_only: bool,
    /// Grant a capability; ALL for every one
    #[arg(long, value_name = "NAME")]
    cap_add: Vec<String>,
    /// Drop a capability; ALL for every one
    #[arg(long, value_name = "NAME")]
    cap_drop: Vec<String>,
    /// seccomp=unconfined|FILE, no-new-privileges, apparmor=PROFILE, label=LABEL, systempaths=unconfined
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// Pass a device of the host to the container
    #[arg(long, value_name = "HOST[:CONTAINER[:rwm]]")]
    device: Vec<String>,
    /// Grant everything: all capabilities and devices, no masked paths, no seccomp filter
    #[arg(long)]
    privileged: bool,
    /// The network: loopback only, or the host's
    #[arg(long, alias = "network", value_enum, default_value_t)]
    net: NetworkMode,
    /// Limit a resource of each process, such as nofile=1024:4096
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// Add an annotation to the runtime configuration
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Vec<String>,
    /// Size of /dev/shm, 64m by default
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
    /// Set a sysctl of the container's namespaces
    #[arg(long, value_name = "KEY=VALUE")]
    sysctl: Vec<String>,
    /// OOM score adjustment, -1000 to 1000: the higher, the sooner the kernel kills it
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    oom_score_adj: Option<i32>,
    /// Put the container's cgroup below this one
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<PathBuf>,
}

impl ContainerArgs {
    /// Converts the flags to a request. `command` and `terminal` are separate arguments on the command line.
    ///
    /// # Errors
    /// `Invalid` naming the flag that is malformed.
    pub(super) fn request(&self, command: &[String], terminal: bool) -> Result<ContainerRequest> {
        let host_network = self.net == NetworkMode::Host;
        let network = if host_network { Scope::Host } else { Scope::Container };
        let masks = !self.privileged;
        let mut request = ContainerRequest {
            process: self.process(command, terminal)?,
            user: self.user.as_deref().map(UserRequest::parse).transpose()?.unwrap_or_default(),
            groups: self.groups()?,
            // Empty is as good as not given, as with docker.
            hostname: self.hostname.clone().filter(|name| !name.is_empty()),
            privileged: self.privileged,
            read_only_root: self.read_only,
            mounts: self.mounts()?,
            shm_size: self.shm_size()?,
            bind_sys: host_network,
            devices: self.device.iter().map(|text| devices::device(text)).collect::<Result<_>>()?,
            namespaces: NamespaceScopes { network, ..NamespaceScopes::default() },
            capabilities: Capabilities::parse(&self.cap_add, &self.cap_drop, &[])?,
            seccomp: Profile::RuntimeDefault,
            masked_paths: if masks { defaults::masked_paths() } else { Vec::new() },
            readonly_paths: if masks { defaults::readonly_paths() } else { Vec::new() },
            resources: self.resources()?,
            cgroup_parent: self.cgroup_parent.clone(),
            sysctls: pairs("--sysctl", &self.sysctl)?,
            annotations: pairs("--annotation", &self.annotation)?,
            ..ContainerRequest::default()
        };
        self.security_opt.iter().try_for_each(|option| security_option(&mut request, option))?;
        Ok(request)
    }

    fn process(&self, command: &[String], terminal: bool) -> Result<ProcessRequest> {
        // An empty entrypoint clears the image's.
        let entrypoint = self.entrypoint.iter().filter(|program| !program.is_empty()).cloned().collect();
        Ok(ProcessRequest {
            entrypoint: self.entrypoint.is_some().then_some(entrypoint),
            args: command.to_vec(),
            env: self.environment()?,
            working_dir: self.workdir.clone(),
            terminal,
            rlimits: self.rlimits()?,
            oom_score_adj: self.oom_score_adj,
            ..ProcessRequest::default()
        })
    }

    /// 0 is the default, as with docker: for a tmpfs it would mean no limit.
    fn shm_size(&self) -> Result<Option<i64>> {
        let size = self.shm_size.as_deref().map(|text| amounts::bytes("--shm-size", text)).transpose()?;
        Ok(size.filter(|size| *size > 0))
    }

    /// Of two limits of one resource the last counts.
    fn rlimits(&self) -> Result<Vec<PosixRlimit>> {
        let mut all: Vec<PosixRlimit> = Vec::new();
        for text in &self.ulimit {
            let limit = limits::ulimit(text)?;
            all.retain(|earlier| earlier.typ() != limit.typ());
            all.push(limit);
        }
        Ok(all)
    }

    fn groups(&self) -> Result<GroupsRequest> {
        let added = self.group_add.iter().map(|group| Principal::parse("group", group));
        Ok(GroupsRequest { added: added.collect::<Result<_>>()?, ..GroupsRequest::default() })
    }

    fn environment(&self) -> Result<Vec<Variable>> {
        let mut env = Vec::new();
        for file in &self.env_file {
            let text = std::fs::read_to_string(file).doing(|| format!("read {}", file.display()))?;
            let lines = text.lines().map(str::trim_start).filter(|l| !l.is_empty() && !l.starts_with('#'));
            for line in lines {
                env.extend(variable(line)?);
            }
        }
        for entry in &self.env {
            env.extend(variable(entry)?);
        }
        Ok(env)
    }

    fn mounts(&self) -> Result<Vec<MountRequest>> {
        let here = std::env::current_dir().doing(|| "find the working directory")?;
        let mut all = Vec::new();
        for text in &self.volume {
            all.push(mounts::volume(text, &here)?);
        }
        for text in &self.mount {
            let mount = mounts::mount_flag(text, &here)?;
            if let MountSource::Host(source) = &mount.source
                && !source.exists()
            {
                let what = format!("--mount: {} does not exist", source.display());
                return Err(Error::new(Kind::NotFound, what)
                    .hint("create it first, or use -v, which creates a directory"));
            }
            all.push(mount);
        }
        for text in &self.tmpfs {
            all.push(mounts::tmpfs(text)?);
        }
        mounts::check_twice(&all)?;
        Ok(all)
    }

    fn resources(&self) -> Result<LinuxResources> {
        let pids = self.pids_limit.map(|limit| {
            let mut pids = LinuxPids::default();
            pids.set_limit(limit);
            pids
        });
        let mut resources = LinuxResources::default();
        resources
            .set_memory(Some(self.memory()?).filter(|memory| *memory != LinuxMemory::default()))
            .set_cpu(Some(self.cpu()?).filter(|cpu| *cpu != LinuxCpu::default()))
            .set_pids(pids);
        Ok(resources)
    }

    fn memory(&self) -> Result<LinuxMemory> {
        let size =
            |flag: &str, text: &Option<String>| text.as_deref().map(|t| amounts::bytes(flag, t)).transpose();
        let mut memory = LinuxMemory::default();
        let limit = size("--memory", &self.memory)?;
        let reservation = size("--memory-reservation", &self.memory_reservation)?;
        let swap = match self.memory_swap.as_deref() {
            Some("-1") => Some(-1),
            _ => size("--memory-swap", &self.memory_swap)?,
        };
        if let (Some(limit), Some(swap)) = (limit, swap)
            && swap != -1
            && swap < limit
        {
            return Err(
                Error::invalid("--memory-swap is below --memory").hint("it limits memory and swap together")
            );
        }
        if limit.is_none() && swap.is_some_and(|swap| swap != -1) {
            return Err(
                Error::invalid("--memory-swap needs --memory").hint("it limits memory and swap together")
            );
        }
        if limit.is_some_and(|limit| reservation.is_some_and(|reserved| reserved > limit)) {
            return Err(Error::invalid("--memory-reservation is above --memory"));
        }
        memory.set_limit(limit).set_swap(swap).set_reservation(reservation);
        Ok(memory)
    }

    fn cpu(&self) -> Result<LinuxCpu> {
        let mut cpu = LinuxCpu::default();
        cpu.set_shares(self.cpu_shares).set_cpus(self.cpuset_cpus.clone());
        if let Some(text) = &self.cpus {
            cpu.set_quota(Some(limits::cpus(text)?)).set_period(Some(100_000));
        }
        Ok(cpu)
    }
}

/// Parses `KEY=VALUE`; a `KEY` alone takes the caller's value, or nothing if it is not set.
fn variable(text: &str) -> Result<Option<Variable>> {
    let variable = |name: &str, value: &str| Variable { name: name.to_owned(), value: value.into() };
    match text.split_once('=') {
        Some(("", _)) => Err(Error::invalid(format!("-e {text:?} has no variable name"))),
        Some((name, value)) => Ok(Some(variable(name, value))),
        None => Ok(std::env::var(text).ok().map(|value| variable(text, &value))),
    }
}

/// Creates the sources of `-v` that are missing as directories, as docker does.
///
/// # Errors
/// One cannot be created.
pub(super) fn make_sources(mounts: &[MountRequest]) -> Result<()> {
    let on_host = mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Host(path) => Some(path),
        MountSource::Image { .. } | MountSource::Tmpfs => None,
    });
    on_host.filter(|path| !path.exists()).try_for_each(|path| {
        private::make_dirs(path, private::SHARED_DIR).doing(|| format!("make {}", path.display()))
    })
}

fn pairs(flag: &str, list: &[String]) -> Result<BTreeMap<String, String>> {
    list.iter()
        .map(|text| match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Error::invalid(format!("{flag} {text:?} is not key=value"))),
        })
        .collect()
}

fn security_option(request: &mut ContainerRequest, text: &str) -> Result<()> {
    let (key, value) = text.split_once(['=', ':']).map_or((text, ""), |(k, v)| (k, v));
    match (key, value) {
        ("seccomp", "unconfined") => request.seccomp = Profile::Unconfined,
        ("seccomp", path) if !path.is_empty() => request.seccomp = Profile::Localhost(path.to_owned()),
        ("no-new-privileges", "" | "true") => request.process.no_new_privileges = true,
        ("no-new-privileges", "false") => request.process.no_new_privileges = false,
        ("apparmor", "unconfined") => request.apparmor = Profile::Unconfined,
        ("apparmor", name) if !name.is_empty() => request.apparmor = Profile::Localhost(name.to_owned()),
        ("label", "disable") => request.selinux_label = None,
        ("label", label) if !label.is_empty() => request.selinux_label = Some(label.to_owned()),
        ("systempaths", "unconfined") => {
            (request.masked_paths, request.readonly_paths) = (Vec::new(), Vec::new());
        }
        _ => {
            return Err(Error::invalid(format!("--security-opt {text:?} is not known")).hint(
                "seccomp=unconfined|FILE, no-new-privileges, apparmor=PROFILE, label=LABEL, systempaths=unconfined",
            ));
        }
    }
    Ok(())
}
