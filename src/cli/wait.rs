//! `coracle wait`

use std::process::ExitCode;

use super::{Context, report};
use crate::error::{Error, Kind, Result};
use crate::id::ContainerId;
use crate::keeper::client::Client;
use crate::record::{ContainerState, Exit, Layout};

/// Wait for containers of `launch --detach` to end, and print their exit codes
#[derive(Debug, clap::Args)]
pub(super) struct WaitArgs {
    /// Names of the containers
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Runs `coracle wait`.
pub(super) fn run(context: &Context, args: &WaitArgs) -> Result<ExitCode> {
    Ok(report::each(&args.names, |name| {
        let id = ContainerId::parse(name)?;
        let code = code(context, &id).map_err(|e| e.doing(format!("wait for container {id}")))?;
        report::print(&format!("{code}\n"))
    }))
}

fn code(context: &Context, id: &ContainerId) -> Result<u8> {
    let layout = Layout::new(&context.root, id);
    let exit = Client::connect_for(&context.run, id).and_then(|keeper| keeper.wait(id.as_str()));
    match exit {
        Ok(exit) => return Ok(exit.code),
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Unreachable) => {}
        Err(e) => return Err(e),
    }
    if let Some(exit) = Exit::load_of(&layout, &ContainerState::load(&layout)?)? {
        return Ok(exit.code);
    }
    Err(Error::new(Kind::WrongState, "the container is not managed by coracle-keeper")
        .hint("`wait` works only for containers of `launch --detach`"))
}
