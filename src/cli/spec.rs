//! `coracle spec`

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use super::Context;
use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;
use crate::spec::template;

/// Write an example config.json
#[derive(Debug, clap::Args)]
pub(super) struct SpecArgs {
    /// Directory to write it to
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// For a user without privileges: with a user namespace
    #[arg(long)]
    rootless: bool,
}

/// Runs `coracle spec`.
pub(super) fn run(_context: &Context, args: &SpecArgs) -> Result<ExitCode> {
    let path = args.bundle.join("config.json");
    let spec = if args.rootless { template::rootless()? } else { template::spec()? };
    let text = serde_json::to_string_pretty(&spec).doing(|| "write the configuration")?;
    let made = private::create_new(&path, private::SHARED_FILE);
    let mut file = match made {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Error::new(Kind::Exists, format!("{} already exists", path.display()))
                .hint("remove it first, or choose another --bundle"));
        }
        other => other.doing(|| format!("make {}", path.display()))?,
    };
    file.write_all(format!("{text}\n").as_bytes()).doing(|| format!("write {}", path.display()))?;
    Ok(ExitCode::SUCCESS)
}
