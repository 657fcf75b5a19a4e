//! This runtime's own programs and sockets, and other runtimes on the machine.

use std::path::Path;
use std::process::Command;

use super::{Row, Tree};
use crate::error::{Error, Kind, Result};
use crate::keeper::client::{Client, keeper_program};
use crate::serve::config::Config;
use crate::serve::running;

/// What was found out of the running programs.
#[derive(Debug)]
pub struct Runtime {
    /// Why the configuration cannot be used.
    pub config_error: Option<Error>,
    /// The version that the keeper's program prints.
    pub keeper_version: Option<String>,
    /// Whether a keeper of this version of the protocol runs.
    pub keeper: Result<()>,
    /// Whether the daemon runs and has its socket.
    pub socket: std::io::Result<()>,
}

impl Runtime {
    /// Asks the running programs. `config_error` is the error of loading the configuration, if there was one.
    pub fn of_this_machine(config: &Config, config_error: Option<Error>) -> Self {
        let version = Command::new(keeper_program()).arg("--version").output().ok();
        let version = version.filter(|output| output.status.success());
        Self {
            config_error,
            keeper_version: version.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            keeper: Client::connect(&config.run).map(drop),
            socket: running::has_socket(&config.run, &config.socket),
        }
    }
}

pub(super) fn rows(tree: &Tree, config: &Config, runtime: &Runtime) -> Vec<Row> {
    vec![
        configuration(runtime),
        versions(tree, runtime),
        keeper(runtime),
        socket(&config.socket, runtime),
        others(tree),
    ]
}

fn configuration(runtime: &Runtime) -> Row {
    match &runtime.config_error {
        None => Row::ok("configuration", "it can be read"),
        Some(error) => Row::error("configuration", crate::pod::one_line(error))
            .advise("correct it; the other rows are of the defaults"),
    }
}

fn versions(tree: &Tree, runtime: &Runtime) -> Row {
    let own = env!("CARGO_PKG_VERSION");
    let replaced: Vec<String> = processes(tree)
        .into_iter()
        .filter(|process| process.is_replaced && process.is_ours())
        .map(|process| format!("{} (pid {})", process.name, process.pid))
        .collect();
    match &runtime.keeper_version {
        None => Row::error("programs", "the program coracle-keeper cannot be run")
            .advise("install it beside coracle"),
        Some(version) if !version.split_whitespace().any(|word| word == own) => {
            Row::error("programs", format!("coracle is {own}, and its keeper's program says {version}"))
                .advise("install both from one release")
        }
        Some(_) if !replaced.is_empty() => {
            Row::warning("programs", format!("an older program still runs: {}", replaced.join(", ")))
                .advise("systemctl restart coracle; containers go on")
        }
        Some(_) => Row::ok("programs", format!("coracle and its keeper are {own}")),
    }
}

fn keeper(runtime: &Runtime) -> Row {
    match &runtime.keeper {
        Ok(()) => Row::ok("keeper", "it runs and answers"),
        Err(error) if error.kind() == Kind::Unreachable => {
            Row::not_applicable("keeper", "none runs; the first container starts it")
        }
        Err(error) if error.kind() == Kind::Denied => Row::not_applicable("keeper", "only root can ask it"),
        Err(error) => Row::error("keeper", crate::pod::one_line(error)),
    }
}

fn socket(path: &Path, runtime: &Runtime) -> Row {
    let shown = path.display();
    match &runtime.socket {
        Ok(()) => Row::ok("socket", format!("coracle serve listens on {shown}")),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Row::not_applicable("socket", format!("only root can connect to {shown}"))
        }
        Err(_) => Row::warning("socket", format!("coracle serve does not listen on {shown}"))
            .advise("systemctl enable --now coracle"),
    }
}

/// A process that this check is about.
struct Process {
    pid: String,
    name: String,
    arguments: String,
    /// Its program's file was replaced since it started.
    is_replaced: bool,
}

impl Process {
    fn is_ours(&self) -> bool {
        self.name == "coracle-keeper" || (self.name == "coracle" && self.arguments.contains(" serve"))
    }
}

fn processes(tree: &Tree) -> Vec<Process> {
    let pids = tree.names("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let read = |pid: String| {
        let name = tree.text(format!("/proc/{pid}/comm"))?;
        let program = tree.entry(format!("/proc/{pid}/exe")).and_then(std::fs::read_link).unwrap_or_default();
        let arguments = tree.text(format!("/proc/{pid}/cmdline"))?.replace('\0', " ");
        let is_replaced = program.to_string_lossy().ends_with(" (deleted)");
        Some(Process { pid, name, arguments, is_replaced })
    };
    pids.filter_map(read).collect()
}

/// Other runtimes that kubelet may have used: their pods still run beside ours.
fn others(tree: &Tree) -> Row {
    let found: Vec<String> = processes(tree)
        .into_iter()
        .filter_map(|process| {
            let name = match process.name.as_str() {
                "containerd" if process.arguments.contains("k3s") => "K3s's containerd",
                "containerd" if process.arguments.contains("microk8s") => "MicroK8s's containerd",
                "containerd" => "containerd",
                "crio" => "CRI-O",
                _ => return None,
            };
            Some(format!("{name} (pid {})", process.pid))
        })
        .collect();
    match found.is_empty() {
        true => Row::ok("other runtimes", "none runs"),
        false => Row::warning("other runtimes", format!("{} runs: pods that it started go on beside those of Coracle, and hold their ports", found.join(", ")))
            .advise("after the switch end it with its pods (k3s-killall.sh, snap stop --disable microk8s.daemon-containerd, systemctl disable --now containerd or crio), unless Docker uses it"),
    }
}
