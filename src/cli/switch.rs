//! What `coracle k3s` and `coracle microk8s` have in common.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use serde_json::json;

use super::{Context, check, report};
use crate::check::{Probes, Report, Row, Runtime, State, Tree};
use crate::error::{Doing, Error, Kind, Result};
use crate::pod::one_line;
use crate::serve::config;
use crate::switch::{Change, Distribution, Images, Node};

#[derive(Debug, clap::Subcommand)]
pub(super) enum SwitchVerb {
    /// Show whether this node is ready for Coracle, and what would have to be done; exit code 1 if a row is an error
    Check(CheckArgs),
    /// Make Kubernetes use Coracle from its next start on; once done, it changes nothing
    Enable(EnableArgs),
    /// Undo what `enable` did
    Disable(DisableArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    sysroot: Sysroot,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct EnableArgs {
    #[command(flatten)]
    sysroot: Sysroot,
    #[command(flatten)]
    how: How,
    /// Import no images from containerd's store; kubelet pulls them again
    #[arg(long)]
    no_images: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct DisableArgs {
    #[command(flatten)]
    sysroot: Sysroot,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
struct Sysroot {
    /// Work on the files below this directory, such as those of an image; then no command is run
    #[arg(long, value_name = "DIR", default_value = "/")]
    sysroot: PathBuf,
}

#[derive(Debug, clap::Args)]
struct How {
    /// Print the steps, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Restart Kubernetes with the other runtime too, which ends all pods of this node
    #[arg(long)]
    restart: bool,
    /// Remove containerd's images, snapshots and records, once the node does not use containerd any more
    #[arg(long)]
    remove_containerd_data: bool,
}

impl Sysroot {
    fn node(&self, context: &Context, distribution: Distribution) -> Result<Node> {
        Node::read(distribution, &self.sysroot, context.overrides.store.as_deref())
    }
}

/// Runs `coracle k3s` or `coracle microk8s`.
pub(super) fn run(context: &Context, distribution: Distribution, verb: &SwitchVerb) -> Result<ExitCode> {
    let read = |sysroot: &Sysroot| sysroot.node(context, distribution);
    match verb {
        SwitchVerb::Check(args) => check(&read(&args.sysroot)?, args),
        SwitchVerb::Enable(args) => enable(args, || read(&args.sysroot)),
        SwitchVerb::Disable(args) => {
            let store = context.overrides.store.as_deref();
            let node = Node::read_to_disable(distribution, &args.sysroot.sysroot, store)?;
            for error in node.unreadable() {
                crate::log::warning(&format!(
                    "{}; what enable wrote is undone all the same",
                    one_line(error)
                ));
            }
            let changes = node.disable()?;
            let work = Work { how: &args.how, changes, is_enable: false, keeps_images: false, failed: 0 };
            work.run(&node, || read(&args.sysroot))
        }
    }
}

/// Imports the images and makes the changes. `read` reads the node.
fn enable(args: &EnableArgs, read: impl Fn() -> Result<Node>) -> Result<ExitCode> {
    let node = read()?;
    let (changes, keeps_images) = (node.enable()?, !args.no_images);
    let mut work = Work { how: &args.how, changes, is_enable: true, keeps_images, failed: 0 };
    if keeps_images {
        let images = node.images().map_err(|error| {
            error.doing("look for images of containerd's").hint("--no-images: kubelet pulls them again")
        })?;
        work.failed = match args.how.dry_run {
            true => plan_images(&images).map(|()| 0)?,
            false => import(&node, &images)?,
        };
    }
    work.run(&node, read)
}

fn plan_images(images: &Images) -> Result<()> {
    images.importable().try_for_each(|name| say(&format!("import {name} from containerd's store")))?;
    images.lost().try_for_each(|(name, why)| say(&format!("kubelet pulls {name} again: {why}")))
}

/// Imports the images, and returns how many imports failed.
fn import(node: &Node, images: &Images) -> Result<usize> {
    let mut failed = 0;
    for carried in images.import(&node.config().store, super::image::progress().as_ref())? {
        match carried.error {
            None => say(&format!("imported {}", carried.name))?,
            Some(error) => {
                failed += 1;
                crate::log::warning(&format!("import {}: {error}", carried.name));
            }
        }
    }
    images.lost().for_each(|(name, why)| crate::log::warning(&format!("{name} is not imported: {why}")));
    Ok(failed)
}

fn say(line: &str) -> Result<()> {
    report::print(&format!("{}\n", super::table::harmless(line)))
}

fn check(node: &Node, args: &CheckArgs) -> Result<ExitCode> {
    let mut rows = node.rows();
    match node.tree().is_this_machine() {
        true => rows.extend(machine()?),
        false => rows.push(Row::not_applicable("machine", "only the files of another machine are looked at")),
    }
    let report = Report { rows };
    let state = report.state();
    let text = match args.json {
        true => {
            let all =
                json!({ "version": 1, "enabled": node.is_enabled(), "state": state, "rows": report.rows });
            serde_json::to_string_pretty(&all).doing(|| "write the report")? + "\n"
        }
        false => check::rows_text(&report.rows, super::table::width()) + conclusion(state),
    };
    report::print(&text)?;
    Ok(if state == State::Error { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn conclusion(state: State) -> &'static str {
    match state {
        State::NotApplicable | State::Ok => "This node is ready.\n",
        State::Warning => "This node is ready; mind the warnings.\n",
        State::Error => "This node is not ready.\n",
    }
}

/// The warnings and errors of `coracle check`.
fn machine() -> Result<Vec<Row>> {
    let config = config::load(config::FILE.as_ref(), false)?;
    let probes = Probes::of_this_machine(&config.store);
    let runtime = Runtime::of_this_machine(&config, None);
    let report = Report::new(&Tree::new("/"), &config, &probes, &runtime);
    Ok(report.rows.into_iter().filter(|row| row.state >= State::Warning).collect())
}

/// The steps of `enable` or `disable`, but for the images.
struct Work<'a> {
    how: &'a How,
    changes: Vec<Change>,
    is_enable: bool,
    /// Whether containerd's images are kept, by importing them.
    keeps_images: bool,
    /// How many imports failed.
    failed: usize,
}

impl Work<'_> {
    /// Does the steps, or prints them. `read` reads the node again.
    fn run(&self, node: &Node, read: impl FnOnce() -> Result<Node>) -> Result<ExitCode> {
        if self.how.dry_run {
            return self.plan(node);
        }
        if self.how.remove_containerd_data && !self.is_enable {
            // As long as the node uses Coracle. containerd then has to pull all images again.
            removed(node)?;
        }
        Change::apply_all(&self.changes, node.tree())?;
        self.changes.iter().try_for_each(|change| say(&change.shown()))?;
        self.restart(node)?;
        if self.is_enable {
            self.leftovers(&read()?)?;
        }
        Ok(if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn plan(&self, node: &Node) -> Result<ExitCode> {
        for change in &self.changes {
            say(&change.shown())?;
            change.added().into_iter().try_for_each(|line| say(&format!("    {line}")))?;
        }
        node.commands(self.is_enable).into_iter().try_for_each(|command| say(&format!("run {command}")))?;
        if let Some((path, _)) = node.leftovers().filter(|_| self.how.remove_containerd_data) {
            match self.keeps_images && node.images()?.lost().next().is_some() {
                true => say(&format!("keep {}: not all of its images can be imported", path.display()))?,
                false => say(&format!("remove {}", path.display()))?,
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Runs the commands, or prints them for the user, who knows when the node's pods may end.
    fn restart(&self, node: &Node) -> Result<()> {
        let commands = node.commands(self.is_enable);
        if self.failed > 0 {
            crate::log::warning("images are missing, so nothing is restarted");
        } else if self.how.restart && node.tree().is_this_machine() && self.is_due(node) {
            return commands.iter().try_for_each(|command| execute(command));
        }
        if self.changes.is_empty() {
            return say("there is nothing to change");
        }
        say("then run, which ends all pods of this node:")?;
        commands.iter().try_for_each(|command| say(&format!("    {command}")))
    }

    /// Whether a restart changes anything: the files were changed, or were before and containerd still runs.
    fn is_due(&self, node: &Node) -> bool {
        !self.changes.is_empty() || (self.is_enable && node.is_containerd_running())
    }

    fn leftovers(&self, node: &Node) -> Result<()> {
        match node.leftovers() {
            Some(_) if self.how.remove_containerd_data => {
                if self.keeps_images {
                    node.images()?.all_imported().map_err(|error| {
                        error.hint("make room or correct the cause and try again; with --no-images kubelet pulls them again")
                    })?;
                }
                removed(node)
            }
            Some((path, size)) => {
                say(&format!("{} keeps {} of containerd's", path.display(), super::image::bytes(size)))
            }
            None => Ok(()),
        }
    }
}

fn removed(node: &Node) -> Result<()> {
    let freed = node.remove_leftovers()?;
    say(&format!("removed {} of containerd's data", super::image::bytes(freed)))
}

fn execute(command: &str) -> Result<()> {
    say(&format!("run {command}"))?;
    let mut words = command.split(' ');
    let program = words.next().unwrap_or_default();
    let doing = || format!("run {command}");
    let status = Command::new(program).args(words).status().doing(doing)?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::new(Kind::System, format!("{}: {status}", doing()))
            .hint("correct it, and run it and the commands after it by hand")),
    }
}
