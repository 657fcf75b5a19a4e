//! Hooks: programs run at fixed points of a container's life, its state on their stdin.
//!
//! libcontainer's `run_hooks` is not used: it wants its own `State` type, throws the hook's output away and leaves a
//! thread behind for each timeout; a killed hook is never reaped. Here the hook's stderr goes into the error.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::Hook;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::steps::{HookStep, Slot, Step};
use super::text::{cpath, cstring};
use crate::error::{Doing, Error, Kind, Result};
use crate::sys::process::StringArray;

/// How much of a hook's stderr an error shows.
const SHOWN_STDERR: usize = 4096;

/// How much a hook may write to its stderr.
const LONGEST_STDERR: u64 = 1 << 20;

/// The step that runs hooks in the new process itself.
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

/// Runs hooks of one point in this process's namespaces, one after the other; the first that fails ends it.
///
/// # Errors
/// The hook cannot be run, fails, is killed, or takes longer than its timeout.
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
    // Files in memory, not pipes: a hook that leaves a daemon behind, or reads nothing, cannot make us wait.
    let mut said = output_file(LONGEST_STDERR)?;
    let mut stdin = memory_file()?;
    stdin
        .write_all(state.as_bytes())
        .and_then(|()| stdin.rewind())
        .doing(|| "write the container's state")?;
    let stderr = said.try_clone().doing(|| "keep its stderr")?;
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
    let text = output_of(&mut said).unwrap_or_default();
    let text: String = String::from_utf8_lossy(&text).trim().chars().take(SHOWN_STDERR).collect();
    Err(Error::new(
        Kind::System,
        if text.is_empty() { status.to_string() } else { format!("{status}: {text}") },
    ))
}

/// A file in memory, for what a child is to read or has to say.
///
/// # Errors
/// memfd_create(2) fails.
pub fn memory_file() -> Result<File> {
    memfd_create(c"hook", MemfdFlags::CLOEXEC).map(File::from).doing(|| "make a file in memory")
}

/// A file in memory that takes this many bytes of what a child has to say; more is an error for the child that writes
/// it. Without the limit a child that talks without end would take all memory.
///
/// # Errors
/// memfd_create(2) or the seal fails.
pub fn output_file(limit: u64) -> Result<File> {
    let doing = || "make a file in memory";
    let file = memfd_create(c"output", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map(File::from);
    let file = file.doing(doing)?;
    // It has its full length from the beginning, and may not grow: how much was written is its position.
    file.set_len(limit).doing(doing)?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL).doing(doing)?;
    Ok(file)
}

/// What was written to an [`output_file`].
///
/// # Errors
/// It cannot be read.
pub fn output_of(file: &mut File) -> Result<Vec<u8>> {
    let doing = || "read its output";
    let length = file.stream_position().doing(doing)?;
    let mut bytes = Vec::new();
    file.rewind().doing(doing)?;
    file.take(length).read_to_end(&mut bytes).doing(doing)?;
    Ok(bytes)
}

/// Waits for the end of a child, and no longer than `limit`; none when it still runs then.
///
/// # Errors
/// The child cannot be waited for.
pub fn wait(child: &mut Child, limit: Option<Duration>) -> Result<Option<ExitStatus>> {
    if let Some(limit) = limit {
        let deadline = Instant::now() + limit;
        let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).doing(|| "watch it")?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
                Ok(0) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) => break,
                Err(e) => return Err(e).doing(|| "wait for it"),
            }
        }
    }
    child.wait().map(Some).doing(|| "wait for it")
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
