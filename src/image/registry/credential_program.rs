//! docker's credential helpers: `docker-credential-<name> get`, the host on standard input, JSON on standard output.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde::Deserialize;

use super::credentials::Login;
use crate::error::{Doing, Error, Kind, Result};

/// A helper may ask a server; it cannot ask a user.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks the helper called `name` for the login of `host`; `None` when it knows none.
pub(super) fn get(name: &str, host: &str) -> Result<Option<Login>> {
    let program = format!("docker-credential-{name}");
    if name.is_empty() || name.contains('/') {
        return Err(Error::invalid(format!("{name:?} cannot be the name of a credential helper")));
    }
    let doing = || format!("run {program}");
    let mut command = Command::new(&program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().doing(doing)?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that reads nothing is judged by what it answers.
        let _ = input.write_all(host.as_bytes());
    }
    let (sender, answer) = mpsc::channel();
    if let Some(output) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut text = String::new();
            let read = output.take(1 << 20).read_to_string(&mut text);
            sender.send(read.map(|_| text))
        });
    }
    let Ok(text) = answer.recv_timeout(PATIENCE) else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(Error::new(Kind::TimedOut, format!("{program} does not answer")));
    };
    let status = child.wait().doing(doing)?;
    let text = text.doing(doing)?;
    if !status.success() {
        // The helpers' own words for "none": the one failure that is none.
        if text.contains("credentials not found") {
            return Ok(None);
        }
        let short: String = text.trim().chars().take(200).collect();
        return Err(Error::new(Kind::Denied, format!("{program} gives no login for {host}: {short}")));
    }
    let answer: Answer = serde_json::from_str(&text).doing(|| format!("read what {program} says"))?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Login::Identity(answer.secret),
        _ => Login::Password { username: answer.username, password: answer.secret },
    }))
}
