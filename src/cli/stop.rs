//! `coracle stop`

use std::process::ExitCode;
use std::time::Duration;

use super::{Context, report};
use crate::error::Result;
use crate::id::ContainerId;
use crate::keeper::client::Client;
use crate::oci::kill::parse_signal;
use crate::oci::stop;

/// Stop containers: with the stop signal of their image or SIGTERM, then with SIGKILL
#[derive(Debug, clap::Args)]
pub(super) struct StopArgs {
    /// Seconds until it is killed
    #[arg(short, long = "time", value_name = "SECONDS", default_value_t = 10)]
    time: u32,
    /// Send this signal first
    #[arg(short, long)]
    signal: Option<String>,
    /// Names of the containers
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Runs `coracle stop`.
pub(super) fn run(context: &Context, args: &StopArgs) -> Result<ExitCode> {
    let asked = args.signal.as_deref().map(parse_signal).transpose()?;
    Ok(report::each(&args.names, |name| {
        let id = ContainerId::parse(name)?;
        let of_image = |text: Option<&str>| text.and_then(|t| parse_signal(t).ok()).unwrap_or(libc::SIGTERM);
        let choose = |text: Option<&str>| asked.unwrap_or_else(|| of_image(text));
        // Subscribe before the container can end: the keeper reports the end when all output is logged and the exit
        // recorded.
        let keeper =
            Client::connect_for(&context.run, &id).and_then(|keeper| keeper.subscribe(name).map(|()| keeper));
        stop::stop(&context.runtime(), &id, Duration::from_secs(args.time.into()), choose)
            .map_err(|e| e.doing(format!("stop container {id}")))?;
        if let Ok(keeper) = keeper {
            // Any reply will do: no such container, its exit, or the end of the connection.
            let _ = keeper.receive_exit();
        }
        report::print(&format!("{name}\n"))
    }))
}
