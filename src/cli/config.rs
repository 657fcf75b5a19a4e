//! `coracle config`: what `coracle serve` would be told.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Context, Overrides, report};
use crate::error::{Doing, Result};
use crate::serve::config::{self, CgroupDriver, Config};

/// Print the configuration of `coracle serve`, as TOML
#[derive(Debug, clap::Args)]
pub(super) struct ConfigArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Print a configuration file with every key and what it is for
    #[arg(long)]
    default: bool,
}

/// Where the configuration is.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ConfigFile {
    /// The configuration; config.d/*.toml beside it is read too [default: /etc/coracle/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    /// The configuration, and over it what was said on the command line or in the environment.
    ///
    /// # Errors
    /// A file says something that cannot be.
    pub(super) fn load(&self, overrides: &Overrides) -> Result<Config> {
        let file = self.config.clone().unwrap_or_else(|| config::FILE.into());
        let mut config = config::load(&file, self.config.is_some())?;
        let paths = [
            (&overrides.root, &mut config.root),
            (&overrides.store, &mut config.store),
            (&overrides.run, &mut config.run),
        ];
        for (path, setting) in paths {
            if let Some(path) = path {
                *setting = std::path::absolute(path).doing(|| format!("find {}", path.display()))?;
            }
        }
        if overrides.systemd_cgroup {
            config.cgroup_driver = CgroupDriver::Systemd;
        }
        Ok(config)
    }
}

/// Runs the verb.
pub(super) fn run(context: &Context, args: &ConfigArgs) -> Result<ExitCode> {
    if args.default {
        report::print(config::DEFAULT)?;
    } else {
        report::print(&config::to_toml(&args.config.load(&context.overrides)?)?)?;
    }
    Ok(ExitCode::SUCCESS)
}
