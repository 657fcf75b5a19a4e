//! Running one plugin: configuration on stdin, result or error object on stdout.

use std::io::{Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Doing, Error, Kind, Result};
use crate::linux::child::{memory_file, output_file, read_output, wait};

/// The most bytes a plugin may write; results have a few kilobytes.
const MAX_OUTPUT: u64 = 1 << 20;

/// The most bytes of its stderr, or characters of its message, in an error.
const SHOWN: usize = 4096;

/// Environment variables that a plugin must not inherit from this process.
const VARIABLES: [&str; 6] =
    ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"];

/// Finds a plugin by its program name.
pub(super) fn find(program: &str, directories: &[PathBuf]) -> Result<PathBuf> {
    let is_program = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    directories.iter().map(|d| d.join(program)).find(|path| is_program(path)).ok_or_else(|| {
        let places: Vec<_> = directories.iter().map(|d| d.display().to_string()).collect();
        Error::new(Kind::NotFound, format!("there is no network plugin {program} in {}", places.join(", ")))
            .hint("install the CNI plugins, as Debian's containernetworking-plugins, or name their directory")
    })
}

/// Runs a plugin and parses its result; `None` when it writes nothing.
pub(super) fn run(
    program: &Path,
    variables: &[(&str, String)],
    input: &Value,
    patience: Duration,
) -> Result<Option<Value>> {
    let mut command = Command::new(program);
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    // The plugin gets a process group of its own, so that a hanging one is killed together with its children.
    command.envs(variables.iter().map(|(k, v)| (*k, v))).process_group(0).current_dir("/");
    // Files in memory instead of pipes: a plugin that leaves a daemon behind, or does not read, cannot block us.
    let (mut stdin, mut stdout, mut stderr) =
        (memory_file()?, output_file(MAX_OUTPUT)?, output_file(MAX_OUTPUT)?);
    let text = serde_json::to_vec(input).doing(|| "write its configuration")?;
    stdin.write_all(&text).and_then(|()| stdin.rewind()).doing(|| "write its configuration")?;
    let copy = |file: &std::fs::File| file.try_clone().doing(|| "keep its output");
    command.stdin(stdin).stdout(copy(&stdout)?).stderr(copy(&stderr)?);
    let mut child = command.spawn().doing(|| "start it")?;
    let Some(status) = wait(&mut child, Some(patience))? else {
        let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        let _ = child.wait();
        return Err(Error::new(Kind::TimedOut, format!("it took longer than {patience:?} and was killed")));
    };
    if !status.success() && [&mut stdout, &mut stderr].into_iter().any(is_full) {
        // The plugin itself can only report that its write was not permitted.
        return Err(Error::new(
            Kind::System,
            format!("it failed after it wrote {MAX_OUTPUT} bytes, the limit"),
        ));
    }
    let said = text_of(&mut stdout)?;
    if status.success() {
        let answer = Some(said.trim()).filter(|t| !t.is_empty());
        return answer.map(|t| serde_json::from_str(t).doing(|| "parse its result")).transpose();
    }
    let complaint = text_of(&mut stderr)?;
    Err(failure(&said, &complaint).unwrap_or_else(|| Error::new(Kind::System, status.to_string())))
}

/// Returns whether the output file of a plugin is full.
fn is_full(file: &mut std::fs::File) -> bool {
    const AT_ONCE: u64 = 256 << 10;
    file.stream_position().is_ok_and(|position| position + AT_ONCE > MAX_OUTPUT)
}

fn text_of(file: &mut std::fs::File) -> Result<String> {
    Ok(String::from_utf8_lossy(&read_output(file)?).into_owned())
}

/// The error object of a plugin. SPEC(cni 1.1.0 #error)
#[derive(Deserialize)]
struct Failure {
    code: u32,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

/// The error of a failed plugin: its error object, or its output.
fn failure(stdout: &str, stderr: &str) -> Option<Error> {
    if let Ok(Failure { code, msg, details }) = serde_json::from_str(stdout) {
        let mut message = if msg.is_empty() { format!("code {code}") } else { msg };
        if !details.is_empty() {
            message.push_str(&format!(": {details}"));
        }
        // kubelet receives the message in an HTTP/2 header, which has little room.
        return Some(Error::new(kind(code), message.chars().take(SHOWN).collect::<String>()));
    }
    let written = if stderr.trim().is_empty() { stdout } else { stderr }.trim();
    let shown: String = written.chars().take(SHOWN).collect();
    (!shown.is_empty()).then(|| Error::new(Kind::System, shown))
}

/// The kind for a well-known code. SPEC(cni 1.1.0 #error)
fn kind(code: u32) -> Kind {
    match code {
        1 | 2 => Kind::Unsupported,
        3 => Kind::NotFound,
        4 | 6 | 7 => Kind::Invalid,
        11 | 50 | 51 => Kind::Busy,
        _ => Kind::System,
    }
}

/// The CNI versions that a plugin supports.
pub(super) fn versions(program: &Path, patience: Duration) -> Result<Vec<String>> {
    let variables = [("CNI_COMMAND", "VERSION".to_owned())];
    let answer = run(program, &variables, &json!({ "cniVersion": "1.1.0" }), patience)?;
    let list = answer.as_ref().and_then(|a| a.get("supportedVersions")).and_then(Value::as_array);
    Ok(list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect())
}
