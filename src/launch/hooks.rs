//! Hooks: programs that run at fixed points of a container's life and read its state from stdin.
//!
//! libcontainer's `run_hooks` is not used: it needs its own `State` type, discards the hook's output, leaves a thread
//! behind for each timeout, and never reaps a killed hook. Here the error contains the hook's stderr.

use std::io::{Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use oci_spec::runtime::Hook;

use super::steps::{HookStep, Slot, Step};
use super::text::{cpath, cstring};
use crate::error::{Doing, Error, Kind, Result};
use crate::linux::child::{memory_file, output_file, read_output, wait};
use crate::sys::process::StringArray;

/// Characters of a hook's stderr that an error shows.
const SHOWN_STDERR: usize = 4096;

/// Bytes that a hook may write to its stderr.
const LONGEST_STDERR: u64 = 1 << 20;

/// The step that runs hooks inside the new process's namespaces.
///
/// # Errors
/// `Invalid`, as [`check`].
pub fn inside(point: &'static str, hooks: &[Hook], state: Slot) -> Result<Step> {
    let mut steps = Vec::with_capacity(hooks.len());
    for hook in hooks {
        check(point, hook)?;
        let name = hook.path().to_string_lossy().into_owned();
        let args = hook.args().clone().filter(|a| !a.is_empty()).unwrap_or_else(|| vec![name]);
        let array = |list: &[String]| {
            list.iter()
                .map(|s| cstring("hooks", s.as_str()))
                .collect::<Result<Vec<_>>>()
                .map(StringArray::new)
        };
        steps.push(HookStep {
            path: cpath("hooks: path", hook.path())?,
            argv: array(&args)?,
            envp: array(hook.env().as_deref().unwrap_or_default())?,
            timeout_s: hook.timeout(),
        });
    }
    Ok(Step::RunHooks { point, hooks: steps, state })
}

/// Checks a hook's path and timeout.
///
/// # Errors
/// `Invalid` when the path is relative or the timeout not above zero. SPEC(runtime 1.2 #posix-platform-hooks)
pub fn check(point: &str, hook: &Hook) -> Result<()> {
    if !hook.path().is_absolute() {
        return Err(Error::invalid(format!("hooks.{point}: path {:?} is not absolute", hook.path())));
    }
    match hook.timeout() {
        Some(seconds) if seconds <= 0 => {
            Err(Error::invalid(format!("hooks.{point}: timeout {seconds} is not above zero")))
        }
        _ => Ok(()),
    }
}

/// Runs the hooks of one point in the caller's namespaces, in order, and stops at the first that fails.
///
/// # Errors
/// The hook cannot be started, fails, is killed, or exceeds its timeout.
pub fn run(point: &str, hooks: &[Hook], state: &str) -> Result<()> {
    for hook in hooks {
        check(point, hook)?;
        run_one(hook, state)
            .map_err(|e| e.doing(format!("run the {point} hook {}", hook.path().display())))?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &str) -> Result<()> {
    let mut command = Command::new(hook.path());
    if let Some((name, rest)) = hook.args().as_deref().and_then(<[_]>::split_first) {
        command.arg0(name).args(rest);
    }
    let env = hook.env().as_deref().unwrap_or_default();
    command.env_clear().envs(env.iter().filter_map(|e| e.split_once('=')));
    // Files in memory, not pipes: with pipes, a hook that leaves a daemon behind or reads nothing could block us.
    let mut stderr_file = output_file(LONGEST_STDERR)?;
    let mut stdin = memory_file()?;
    stdin
        .write_all(state.as_bytes())
        .and_then(|()| stdin.rewind())
        .doing(|| "write the container's state")?;
    let stderr = stderr_file.try_clone().doing(|| "duplicate its stderr")?;
    let child = command.stdin(stdin).stdout(Stdio::null()).stderr(stderr).spawn();
    let mut child = child.doing(|| "start it")?;
    let limit = hook.timeout().map(|seconds| Duration::from_secs(seconds.unsigned_abs()));
    let Some(status) = wait(&mut child, limit)? else {
        let _ = child.kill();
        let _ = child.wait();
        let limit = limit.unwrap_or_default();
        return Err(Error::new(Kind::TimedOut, format!("it took longer than {} s", limit.as_secs())));
    };
    if status.success() {
        return Ok(());
    }
    let text = read_output(&mut stderr_file).unwrap_or_default();
    let text: String = String::from_utf8_lossy(&text).trim().chars().take(SHOWN_STDERR).collect();
    Err(Error::new(
        Kind::System,
        if text.is_empty() { status.to_string() } else { format!("{status}: {text}") },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::HookBuilder;

    fn shell(script: &str, timeout: Option<i64>) -> Hook {
        let args: Vec<String> = ["sh", "-c", script].map(str::to_owned).into();
        let hook = HookBuilder::default().path("/bin/sh").args(args);
        match timeout {
            Some(seconds) => hook.timeout(seconds).build().unwrap(),
            None => hook.build().unwrap(),
        }
    }

    #[test]
    fn a_hook_reads_the_state_from_its_stdin() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("state");
        run("poststart", &[shell(&format!("cat > {}", out.display()), None)], "{\"id\":\"x\"}").unwrap();
        assert_eq!(std::fs::read_to_string(out).unwrap(), "{\"id\":\"x\"}");
    }

    #[test]
    fn a_failing_hook_says_why_on_stderr() {
        let error = run("prestart", &[shell("echo no such card >&2; exit 3", None)], "{}").unwrap_err();
        assert!(error.chain().contains("exit status: 3: no such card"), "{error:?}");
    }

    #[test]
    fn a_hook_that_hangs_is_killed_at_its_timeout() {
        let error = run("prestart", &[shell("exec sleep 60", Some(1))], "{}").unwrap_err();
        assert_eq!(error.kind(), Kind::TimedOut);
    }
}
