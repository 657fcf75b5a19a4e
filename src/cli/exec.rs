//! `coracle exec`

use std::path::PathBuf;
use std::process::ExitCode;

use oci_spec::runtime::{Capability, LinuxCapabilities, Process, Spec};

use super::Context;
use crate::error::{Error, Kind, Result};
use crate::id::ContainerId;
use crate::linux::ids;
use crate::oci::{bundle, exec};

/// Run another process in a container
#[derive(Debug, clap::Args)]
pub(super) struct ExecArgs {
    /// Read the process from a file, as in config.json
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Set an environment variable
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// User and group
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Add a supplementary group
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<String>,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Return when the process runs
    #[arg(short, long)]
    detach: bool,
    /// File to write its pid to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Unix socket that receives the terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Add a capability
    #[arg(short, long, value_name = "NAME")]
    cap: Vec<String>,
    /// Set no_new_privs: it can gain no privileges
    #[arg(long)]
    no_new_privs: bool,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// Pass descriptors 3 to 2+N to the process
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Allow a paused container
    #[arg(long)]
    ignore_paused: bool,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
    /// Command and arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// The exit code of exec's own failures, the same as runc's.
const OWN_ERROR: u8 = 255;

/// Runs `coracle exec`.
pub(super) fn run(context: &Context, args: &ExecArgs) -> Result<ExitCode> {
    match enter(context, args) {
        Ok(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))),
        Err(error) => {
            super::report::error(&error);
            Ok(ExitCode::from(OWN_ERROR))
        }
    }
}

fn enter(context: &Context, args: &ExecArgs) -> Result<i32> {
    let id = ContainerId::parse(&args.id)?;
    let runtime = context.runtime();
    let work = || {
        let spec = exec::spec_of(&runtime, &id)?;
        let process = match &args.process {
            Some(file) => bundle::load_process(file)?,
            None => args.process(&spec)?,
        };
        let absolute = |path: &Option<PathBuf>| path.as_ref().and_then(|p| std::path::absolute(p).ok());
        let options = exec::ExecOptions {
            console_socket: absolute(&args.console_socket),
            pid_file: absolute(&args.pid_file),
            detach: args.detach,
            preserve_fds: args.preserve_fds,
            ignore_paused: args.ignore_paused,
            in_pod: false,
        };
        exec::exec(&runtime, &id, &process, &options)
    };
    work().map_err(|e| e.doing(format!("exec in container {id}")))
}

impl ExecArgs {
    /// The container's own process with the changes of the flags, as runc builds it.
    fn process(&self, spec: &Spec) -> Result<Process> {
        if self.command.is_empty() {
            return Err(Error::invalid("no command to run").hint("give a command, or --process"));
        }
        let Some(mut process) = spec.process().clone() else {
            return Err(Error::new(Kind::Corrupt, "the container's configuration has no process"));
        };
        process.set_args(Some(self.command.clone())).set_terminal(Some(self.tty));
        let mut env = process.env().clone().unwrap_or_default();
        env.extend(self.env.iter().cloned());
        process.set_env(Some(env));
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.clone());
        }
        if self.no_new_privs {
            process.set_no_new_privileges(Some(true));
        }
        if self.apparmor.is_some() {
            process.set_apparmor_profile(self.apparmor.clone());
        }
        if self.process_label.is_some() {
            process.set_selinux_label(self.process_label.clone());
        }
        self.set_user(&mut process)?;
        self.add_capabilities(&mut process)?;
        Ok(process)
    }

    fn set_user(&self, process: &mut Process) -> Result<()> {
        let mut user = process.user().clone();
        if let Some(text) = &self.user {
            let number = |part: &str| {
                ids::parse(part).ok_or_else(|| {
                    Error::invalid(format!("--user {text:?} is not uid[:gid]"))
                        .hint("ids are decimal numbers from 0 to 4294967294")
                })
            };
            let (uid, gid) = text.split_once(':').map_or((text.as_str(), None), |(u, g)| (u, Some(g)));
            user.set_uid(number(uid)?);
            if let Some(gid) = gid {
                user.set_gid(number(gid)?);
            }
        }
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        for group in &self.additional_gids {
            groups.push(ids::parse_field("--additional-gids", group)?);
        }
        user.set_additional_gids(Some(groups));
        process.set_user(user);
        Ok(())
    }

    fn add_capabilities(&self, process: &mut Process) -> Result<()> {
        if self.cap.is_empty() {
            return Ok(());
        }
        let mut added = std::collections::HashSet::new();
        for name in &self.cap {
            added.insert(crate::spec::security::capability(name)?);
        }
        let mut sets = process.capabilities().clone().unwrap_or_else(|| {
            let mut none = LinuxCapabilities::default();
            let empty = || Some(std::collections::HashSet::<Capability>::new());
            none.set_bounding(empty()).set_effective(empty()).set_permitted(empty());
            none.set_inheritable(empty()).set_ambient(empty());
            none
        });
        let with = |set: &Option<std::collections::HashSet<Capability>>| {
            Some(set.iter().flatten().copied().chain(added.iter().copied()).collect())
        };
        let (bounding, effective, permitted) =
            (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
        sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
        process.set_capabilities(Some(sets));
        Ok(())
    }
}
