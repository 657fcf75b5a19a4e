//! Runs another program with bytes on its standard input, reads text from its standard output, and limits its time.

use std::io::{Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::error::{Doing, Error, Kind, Result};

/// The most bytes of output that are read.
const MAX_OUTPUT: u64 = 1 << 20;

/// Runs `command` with `input` and waits for its output and exit.
///
/// # Errors
/// `NotFound` when there is no such program, `TimedOut` when it does not finish in time; it is killed then.
pub(super) fn ask(command: &mut Command, input: &[u8], patience: Duration) -> Result<(ExitStatus, String)> {
    let program = command.get_program().to_string_lossy().into_owned();
    let doing = || format!("run {program}");
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = spawned.doing(doing)?;
    let (sender, answer) = mpsc::channel();
    let (pipe, output, input) = (child.stdin.take(), child.stdout.take(), input.to_vec());
    let thread = std::thread::Builder::new().name("ask".to_owned());
    let started = thread.spawn(move || {
        // A program that does not read its input may still succeed.
        let _ = pipe.map(|mut pipe| pipe.write_all(&input));
        let mut bytes = Vec::new();
        let read = output.map_or(Ok(0), |output| output.take(MAX_OUTPUT).read_to_end(&mut bytes));
        sender.send(read.map(|_| String::from_utf8_lossy(&bytes).into_owned()))
    });
    if let Err(error) = started {
        let _ = child.kill();
        let _ = child.wait();
        return Err(error).doing(|| format!("{}: start a thread", doing()));
    }
    let Ok(text) = answer.recv_timeout(patience) else {
        let _ = child.kill();
        let _ = child.wait();
        let seconds = patience.as_secs();
        return Err(Error::new(Kind::TimedOut, format!("{program} does not answer within {seconds} s")));
    };
    let status = child.wait().doing(doing)?;
    Ok((status, text.doing(doing)?))
}
