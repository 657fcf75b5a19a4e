//! `coracle completions`, and the whole help on one page.

use std::process::ExitCode;

use super::{Context, full, report};
use crate::error::Result;

/// Print completions for a shell
#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Print the help of every verb
#[derive(Debug, clap::Args)]
pub(super) struct HelpAllArgs {}

/// The text that `completions` and `help-all` print.
trait Page {
    fn page(&self) -> String;
}

impl Page for CompletionsArgs {
    fn page(&self) -> String {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut full(), "coracle", &mut script);
        String::from_utf8_lossy(&script).into_owned()
    }
}

impl Page for HelpAllArgs {
    fn page(&self) -> String {
        let mut command = full();
        command.build();
        let help = |c: &clap::Command| c.clone().render_long_help().to_string();
        let verbs = command
            .get_subcommands()
            .filter(|c| !c.is_hide_set())
            .map(|c| format!("\n## {}\n\n{}", c.get_name(), help(c)));
        verbs.fold(help(&command), |page, verb| page + &verb)
    }
}

/// Runs `coracle completions` and `coracle help-all`.
#[expect(private_bounds, reason = "the two verbs of this file share it")]
pub(super) fn run(_context: &Context, args: &impl Page) -> Result<ExitCode> {
    report::print(&args.page())?;
    Ok(ExitCode::SUCCESS)
}
