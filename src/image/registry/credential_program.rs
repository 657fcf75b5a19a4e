//! docker's credential helpers: `docker-credential-<name> get`, the host on standard input, JSON on standard output.

use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use super::login::Login;
use crate::error::{Doing, Error, Kind, Result};
use crate::image::question::ask;

/// How long a helper may take: it may ask a server, but not a user.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperOutput {
    username: String,
    secret: String,
}

/// Asks the helper `name` for the login of `host`; `None` when it has none.
pub(super) fn get(name: &str, host: &str) -> Result<Option<Login>> {
    let program = format!("docker-credential-{name}");
    if name.is_empty() || name.contains('/') {
        return Err(Error::invalid(format!("{name:?} cannot be the name of a credential helper")));
    }
    let (status, text) = ask(Command::new(&program).arg("get"), host.as_bytes(), PATIENCE)?;
    if !status.success() {
        // The helpers' fixed text for "no login", the only failure that is not an error.
        if text.contains("credentials not found") {
            return Ok(None);
        }
        let short: String = text.trim().chars().take(200).collect();
        return Err(Error::new(Kind::Denied, format!("{program} gives no login for {host}: {short}")));
    }
    let answer: HelperOutput =
        serde_json::from_str(&text).doing(|| format!("parse the output of {program}"))?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Login::Identity(answer.secret),
        _ => Login::Password { username: answer.username, password: answer.secret },
    }))
}
