//! `coracle create`

use std::path::PathBuf;
use std::process::ExitCode;

use super::Context;
use crate::error::Result;
use crate::id::ContainerId;
use crate::oci::{bundle, create};

/// Create a container from a bundle; `start` runs it
#[derive(Debug, clap::Args)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

/// Flags that create and run share
#[derive(Debug, clap::Args)]
pub(super) struct CommonArgs {
    /// The bundle: a directory with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Unix socket that receives the terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// File to write the pid of the first process to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Use chroot instead of pivot_root, as for a root in an initramfs
    #[arg(long)]
    no_pivot: bool,
    /// Keep the session keyring
    #[arg(long)]
    no_new_keyring: bool,
    /// Pass descriptors 3 to 2+N to the container
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
}

impl CommonArgs {
    /// Reads the bundle. Descriptors of systemd's socket activation (LISTEN_FDS) are passed to the payload, as runc
    /// does.
    pub(super) fn load(&self) -> Result<(oci_spec::runtime::Spec, create::CreateOptions)> {
        let (bundle, mut spec) = bundle::load(&self.bundle)?;
        let mut preserve_fds = self.preserve_fds;
        let listening = std::env::var("LISTEN_FDS").ok().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
        if listening > 0 {
            preserve_fds += listening;
            if let Some(process) = spec.process_mut() {
                let mut env = process.env().clone().unwrap_or_default();
                env.extend([format!("LISTEN_FDS={listening}"), "LISTEN_PID=1".to_owned()]);
                process.set_env(Some(env));
            }
        }
        let absolute = |path: &Option<PathBuf>| path.as_ref().and_then(|p| std::path::absolute(p).ok());
        let options = create::CreateOptions {
            bundle,
            console_socket: absolute(&self.console_socket),
            pid_file: absolute(&self.pid_file),
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            in_pod: false,
            preserve_fds,
            root: None,
            parent: None,
        };
        Ok((spec, options))
    }
}

/// Runs `coracle create`.
pub(super) fn run(context: &Context, args: &CreateArgs) -> Result<ExitCode> {
    let id = ContainerId::parse(&args.id)?;
    let (spec, options) = args.common.load()?;
    create::create(&context.runtime(), &id, &spec, &options)
        .map_err(|e| e.doing(format!("create container {id}")))?;
    Ok(ExitCode::SUCCESS)
}
