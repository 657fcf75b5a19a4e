//! `coracle config`: prints the configuration that `coracle serve` would use.

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
    /// Print a configuration file with every key and its meaning
    #[arg(long)]
    default: bool,
}

/// The configuration file.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ConfigFile {
    /// The configuration file; config.d/*.toml beside it is read too [default: /etc/coracle/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    /// Loads the configuration; the command line and the environment override it.
    ///
    /// # Errors
    /// A file cannot be read, or has an invalid setting.
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

/// Runs `coracle config`.
pub(super) fn run(context: &Context, args: &ConfigArgs) -> Result<ExitCode> {
    if args.default {
        report::print(config::DEFAULT)?;
    } else {
        report::print(&config::to_toml(&args.config.load(&context.overrides)?)?)?;
    }
    Ok(ExitCode::SUCCESS)
}
