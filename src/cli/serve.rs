//! `coracle serve`: the CRI endpoint that kubelet talks to.

use std::path::PathBuf;
use std::process::ExitCode;

use super::Context;
use super::config::ConfigFile;
use crate::error::Result;
use crate::serve;

/// Serve the Kubernetes CRI on a unix socket, for kubelet
#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// The socket, instead of the one in the configuration
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Runs until SIGTERM. SIGHUP reloads the configuration.
pub(super) fn run(context: &Context, args: &ServeArgs) -> Result<ExitCode> {
    let socket = args.socket.as_ref().map(std::path::absolute).transpose();
    let socket = crate::error::Doing::doing(socket, || "find the socket's directory")?;
    let (file, overrides) = (args.config.clone(), context.overrides.clone());
    serve::run(move || {
        let mut config = file.load(&overrides)?;
        config.socket = socket.clone().unwrap_or(config.socket);
        Ok(config)
    })?;
    Ok(ExitCode::SUCCESS)
}
