//! The command line: global options here, one file per verb beside it.
//!
//! Only the parser of the requested verb is built: with twenty verbs of many flags each, building all would cost more
//! than most verbs do.

mod amounts;
#[cfg(feature = "node")]
mod attach;
#[cfg(feature = "node")]
mod check;
mod completions;
#[cfg(feature = "node")]
mod config;
mod create;
mod delete;
mod events;
mod exec;
mod features;
#[cfg(feature = "node")]
pub mod image;
#[cfg(feature = "node")]
mod k3s;
mod kill;
#[cfg(feature = "node")]
pub mod launch;
mod list;
#[cfg(feature = "node")]
mod logs;
mod man;
#[cfg(feature = "node")]
mod microk8s;
mod pause;
mod ps;
pub mod report;
mod resume;
#[cfg(feature = "node")]
mod rm;
mod run;
#[cfg(feature = "node")]
mod serve;
mod spec;
mod start;
mod state;
#[cfg(feature = "node")]
mod status;
#[cfg(feature = "node")]
mod stop;
#[cfg(feature = "node")]
mod switch;
#[cfg(feature = "node")]
mod table;
mod update;
mod version;
#[cfg(feature = "node")]
mod wait;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command, FromArgMatches};

use crate::error::Result;

/// The global options, which every verb gets besides its own arguments.
#[derive(Debug, Clone)]
pub struct Context {
    /// The directory with the OCI verbs' state, one subdirectory per container (`--root`, default
    /// `/run/coracle/containers`).
    pub root: PathBuf,
    #[cfg(feature = "node")]
    /// The image store and the writable layers (`--store`, default `/var/lib/coracle`).
    pub store: PathBuf,
    #[cfg(feature = "node")]
    /// The directory of the keeper's socket (`--run`, default `/run/coracle`).
    pub run: PathBuf,
    /// The directory of caches that may be removed at any time, such as compiled seccomp programs
    /// (`/run/coracle/cache`).
    pub cache: PathBuf,
    /// Ask systemd for a scope instead of creating cgroups ourselves (`--systemd-cgroup`).
    pub systemd_cgroup: bool,
    #[cfg(feature = "node")]
    /// Settings from the command line or the environment; they override the configuration of `serve`.
    pub overrides: Overrides,
}

#[cfg(feature = "node")]
/// Settings that the command line or the environment names; the others have their defaults.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--root`
    pub root: Option<PathBuf>,
    /// `--store`
    pub store: Option<PathBuf>,
    /// `--run`
    pub run: Option<PathBuf>,
    /// `--systemd-cgroup`
    pub systemd_cgroup: bool,
}

impl Context {
    /// The part that the OCI verbs need.
    pub fn runtime(&self) -> crate::oci::Runtime {
        crate::oci::Runtime {
            root: self.root.clone(),
            cache: self.cache.clone(),
            systemd_cgroup: self.systemd_cgroup,
        }
    }
}

// Options before the verb, as in runc. Not a doc comment: clap would show it as what coracle is.
#[derive(Debug, Args)]
struct GlobalArgs {
    /// Directory for the state of containers
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    #[cfg(feature = "node")]
    /// Directory of the image store
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    #[cfg(feature = "node")]
    /// Directory of the keeper's socket
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Write errors and warnings to this file too
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Format of the log file
    #[arg(long, value_enum, default_value_t)]
    log_format: report::LogFormat,
    /// Log debug messages
    #[arg(long)]
    debug: bool,
    /// Let systemd create the cgroups; linux.cgroupsPath then is slice:prefix:name
    #[arg(long)]
    systemd_cgroup: bool,
    /// Ignored: permissions are found out by trying
    #[arg(long, value_name = "true|false|auto")]
    rootless: Option<String>,
}

/// A verb: its parser and its function.
struct Verb {
    name: &'static str,
    parser: fn(Command) -> Command,
    run: fn(&Context, &clap::ArgMatches) -> Result<ExitCode>,
    /// Whether it enters containers, so that the executable has to be protected first (CVE-2019-5736).
    enters: bool,
}

macro_rules! verbs {
    ($($(#[$if:meta])* $name:literal $module:ident :: $args:ident $enters:literal),* $(,)?) => {
        &[$($(#[$if])* Verb {
            name: $name,
            parser: |command| $module::$args::augment_args(command),
            run: |context, matches| {
                let args = $module::$args::from_arg_matches(matches).map_err(report::usage)?;
                $module::run(context, &args)
            },
            enters: $enters,
        }),*]
    };
}

static VERBS: &[Verb] = verbs! {
    #[cfg(feature = "node")]
    "launch" launch::LaunchArgs true,
    #[cfg(feature = "node")]
    "image" image::ImageArgs false,
    #[cfg(feature = "node")]
    "serve" serve::ServeArgs true,
    #[cfg(feature = "node")]
    "config" config::ConfigArgs false,
    #[cfg(feature = "node")]
    "check" check::CheckArgs false,
    #[cfg(feature = "node")]
    "status" status::StatusArgs false,
    #[cfg(feature = "node")]
    "k3s" k3s::K3sArgs false,
    #[cfg(feature = "node")]
    "microk8s" microk8s::MicroK8sArgs false,
    #[cfg(feature = "node")]
    "logs" logs::LogsArgs false,
    #[cfg(feature = "node")]
    "attach" attach::AttachArgs false,
    #[cfg(feature = "node")]
    "stop" stop::StopArgs false,
    #[cfg(feature = "node")]
    "wait" wait::WaitArgs false,
    #[cfg(feature = "node")]
    "rm" rm::RmArgs false,
    "create" create::CreateArgs true,
    "start" start::StartArgs false,
    "run" run::RunArgs true,
    "exec" exec::ExecArgs true,
    "state" state::StateArgs false,
    "kill" kill::KillArgs false,
    "delete" delete::DeleteArgs false,
    "list" list::ListArgs false,
    "ps" ps::PsArgs false,
    "pause" pause::PauseArgs false,
    "resume" resume::ResumeArgs false,
    "update" update::UpdateArgs false,
    "events" events::EventsArgs false,
    "spec" spec::SpecArgs false,
    "features" features::FeaturesArgs false,
    "completions" completions::CompletionsArgs false,
    "help-all" completions::HelpAllArgs false,
    "man" man::ManArgs false,
};

/// Verbs for packagers, hidden from the help.
const HIDDEN: [&str; 2] = ["help-all", "man"];

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    #[cfg(feature = "node")]
    if crate::keeper::is_called_as_keeper() {
        return crate::keeper::main();
    }
    let args: Vec<OsString> = std::env::args_os().collect();
    let verb = find_verb(&args);
    // An argument that looks like a request for help may be the payload's, so only the verb decides.
    if verb.is_some_and(|verb| verb.enters)
        && let Err(error) = crate::launch::self_protect::ensure()
    {
        report::error(&error);
        return own_failure(verb);
    }
    let command = match verb {
        Some(verb) => base().subcommand((verb.parser)(Command::new(verb.name))),
        None => full(),
    };
    match command.try_get_matches_from(&args) {
        Ok(matches) => dispatch(&matches),
        Err(error) if error.use_stderr() => {
            report::parse_error(&error);
            own_failure(verb)
        }
        Err(error) => report::parse_error(&error),
    }
}

/// The exit codes of docker and podman for failures that are not the payload's.
const LAUNCH_FAILURE: u8 = 125;

/// The exit code for an invalid command line: `launch` has one of its own, because 1 may be its payload's.
fn own_failure(verb: Option<&Verb>) -> ExitCode {
    let is_launch = verb.is_some_and(|verb| verb.name == "launch");
    if is_launch { ExitCode::from(LAUNCH_FAILURE) } else { ExitCode::FAILURE }
}

fn dispatch(matches: &clap::ArgMatches) -> ExitCode {
    let global = match GlobalArgs::from_arg_matches(matches) {
        Ok(global) => global,
        Err(error) => return report::parse_error(&error),
    };
    report::log_to(global.log.clone(), global.log_format, global.debug);
    let Some((name, of_verb)) = matches.subcommand() else { return ExitCode::FAILURE };
    let Some(verb) = VERBS.iter().find(|verb| verb.name == name) else { return ExitCode::FAILURE };
    if verb.enters {
        // Drop the code pages of the command line parser, to lower the peak RSS of a start.
        crate::sys::memory::unmap_code();
    }
    match (verb.run)(&context(&global), of_verb) {
        Ok(code) => code,
        Err(error) => report::fail(&error),
    }
}

fn context(global: &GlobalArgs) -> Context {
    let directory = |flag: &Option<PathBuf>, variable: &str| {
        let from_environment = || std::env::var_os(variable).filter(|v| !v.is_empty()).map(PathBuf::from);
        flag.clone().or_else(from_environment)
    };
    let or = |path: &Option<PathBuf>, default: &str| path.clone().unwrap_or_else(|| default.into());
    let root = directory(&global.root, "CORACLE_ROOT");
    #[cfg(feature = "node")]
    let overrides = Overrides {
        root: root.clone(),
        store: directory(&global.store, "CORACLE_STORE"),
        run: directory(&global.run, "CORACLE_RUN"),
        systemd_cgroup: global.systemd_cgroup,
    };
    Context {
        root: or(&root, "/run/coracle/containers"),
        cache: PathBuf::from("/run/coracle/cache"),
        systemd_cgroup: global.systemd_cgroup,
        #[cfg(feature = "node")]
        store: or(&overrides.store, "/var/lib/coracle"),
        #[cfg(feature = "node")]
        run: or(&overrides.run, crate::keeper::RUN),
        #[cfg(feature = "node")]
        overrides,
    }
}

/// Finds the verb on the command line: the first word that is neither a global option nor the value of one.
fn find_verb(args: &[OsString]) -> Option<&'static Verb> {
    const WITH_VALUE: [&str; 6] = ["--root", "--store", "--run", "--log", "--log-format", "--rootless"];
    let mut words = args.iter().skip(1).map(|a| a.to_string_lossy());
    while let Some(word) = words.next() {
        if WITH_VALUE.contains(&word.as_ref()) {
            words.next();
        } else if !word.starts_with('-') {
            return VERBS.iter().find(|verb| verb.name == word);
        }
    }
    None
}

fn base() -> Command {
    let command = Command::new("coracle")
        .about("A container runtime for constrained devices")
        .version(version::TEXT)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true);
    GlobalArgs::augment_args(command)
}

/// The parser with all verbs, for help, completions and messages about unknown words.
fn full() -> Command {
    VERBS.iter().fold(base(), |command, verb| {
        let parser = (verb.parser)(Command::new(verb.name));
        command.subcommand(if HIDDEN.contains(&verb.name) { parser.hide(true) } else { parser })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parsers_are_sound() {
        full().debug_assert();
    }

    #[test]
    fn the_verb_is_found_behind_global_options() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        let name = |line: &str| find_verb(&words(line)).map(|verb| verb.name);
        assert_eq!(name("coracle --root run --debug state x"), Some("state"));
        assert_eq!(name("coracle --log=x run x"), Some("run"));
        assert_eq!(name("coracle --help"), None);
        assert_eq!(name("coracle fly"), None);
    }
}
