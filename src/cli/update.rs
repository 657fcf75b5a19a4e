//! `coracle update`

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use super::Context;
use super::amounts::bytes;
use crate::error::{Doing, Error, Result};
use crate::id::ContainerId;

/// Change the limits of a running container
#[derive(Debug, clap::Args)]
pub(super) struct UpdateArgs {
    /// Read linux.resources as JSON from a file, or - for standard input
    #[arg(short, long, value_name = "FILE|-")]
    resources: Option<PathBuf>,
    /// Limit memory, in bytes or as 64m; -1 for none
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Memory protected from reclaim
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Limit memory and swap together; -1 for none
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// CPU weight relative to other containers
    #[arg(long, value_name = "SHARES", alias = "cpu-share")]
    cpu_shares: Option<u64>,
    /// Microseconds of CPU time per period; -1 for no limit
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Length of a period in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,
    /// CPUs to run on, such as 0-2,4
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// NUMA memory nodes to use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Limit the number of processes; -1 for none
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Weight of block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs `coracle update`.
pub(super) fn run(context: &Context, args: &UpdateArgs) -> Result<ExitCode> {
    let id = ContainerId::parse(&args.id)?;
    let resources = match &args.resources {
        Some(file) => read(file)?,
        None => args.resources()?,
    };
    crate::oci::ps::update(&context.runtime(), &id, &resources)
        .map_err(|e| e.doing(format!("update container {id}")))?;
    Ok(ExitCode::SUCCESS)
}

fn read(file: &PathBuf) -> Result<LinuxResources> {
    let mut text = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).doing(|| "read standard input")?;
    } else {
        text = std::fs::read_to_string(file).doing(|| format!("read {}", file.display()))?;
    }
    serde_json::from_str(&text).doing(|| format!("parse the resources in {}", file.display()))
}

impl UpdateArgs {
    fn resources(&self) -> Result<LinuxResources> {
        let size = |flag: &str, text: &Option<String>| match text.as_deref() {
            Some("-1") => Ok(Some(-1)),
            Some(text) => bytes(flag, text).map(Some),
            None => Ok(None),
        };
        let mut memory = LinuxMemory::default();
        memory.set_limit(size("--memory", &self.memory)?);
        memory.set_reservation(size("--memory-reservation", &self.memory_reservation)?);
        memory.set_swap(size("--memory-swap", &self.memory_swap)?);
        let mut cpu = LinuxCpu::default();
        cpu.set_shares(self.cpu_shares).set_quota(self.cpu_quota).set_period(self.cpu_period);
        cpu.set_cpus(self.cpuset_cpus.clone()).set_mems(self.cpuset_mems.clone());
        let mut resources = LinuxResources::default();
        resources.set_devices(None);
        if memory != LinuxMemory::default() {
            resources.set_memory(Some(memory));
        }
        if cpu != LinuxCpu::default() {
            resources.set_cpu(Some(cpu));
        }
        if let Some(limit) = self.pids_limit {
            let mut pids = LinuxPids::default();
            pids.set_limit(limit);
            resources.set_pids(Some(pids));
        }
        if self.blkio_weight.is_some() {
            let mut io = LinuxBlockIo::default();
            io.set_weight(self.blkio_weight);
            resources.set_block_io(Some(io));
        }
        let mut none = LinuxResources::default();
        none.set_devices(None);
        if resources == none {
            return Err(Error::invalid("nothing to update").hint("name a limit, or give --resources"));
        }
        Ok(resources)
    }
}
