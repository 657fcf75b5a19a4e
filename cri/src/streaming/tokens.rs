//! Tokens: each URL can be used once, within a minute, and cannot be guessed.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::v1;

/// How long a URL can be used, as in the reference server.
const LIFETIME: Duration = Duration::from_mins(1);

/// The limit of URLs that wait to be used, as in the reference server.
const WAITING: usize = 1000;

/// What a URL was made for.
#[derive(Debug, Clone)]
pub(super) enum Prepared {
    Exec(v1::ExecRequest),
    Attach(v1::AttachRequest),
    PortForward(v1::PortForwardRequest),
}

impl Prepared {
    /// The first part of the URL's path.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }
}

/// The URLs that wait to be used. Nothing wakes up to forget those whose time is over: the next call does.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<String, (Instant, Prepared)>>);

impl Tokens {
    /// Makes a token for a session.
    ///
    /// # Errors
    /// `Busy` when too many wait; the kernel gives no random bytes.
    pub(super) fn add(&self, prepared: Prepared, now: Instant) -> Result<String> {
        let token = random()?;
        let mut waiting = self.lock();
        waiting.retain(|_, (made, _)| now.duration_since(*made) < LIFETIME);
        if waiting.len() >= WAITING {
            let message =
                format!("{WAITING} URLs for exec, attach or port-forward wait to be used; try again");
            return Err(Error::new(Kind::Busy, message));
        }
        waiting.insert(token.clone(), (now, prepared));
        Ok(token)
    }

    /// The kind of session for which `path` was made, if it waits to be used.
    pub(super) fn kind(&self, path: &str) -> Option<&'static str> {
        let (kind, token) = path.strip_prefix('/')?.split_once('/')?;
        self.lock().get(token).map(|(_, prepared)| prepared.name()).filter(|name| *name == kind)
    }

    /// What `path` was made for, as `/exec/TOKEN`. The token is used up then, but not by a path of another kind.
    pub(super) fn take(&self, path: &str, now: Instant) -> Option<Prepared> {
        let (kind, token) = path.strip_prefix('/')?.split_once('/')?;
        let mut waiting = self.lock();
        waiting.get(token).filter(|(_, prepared)| prepared.name() == kind)?;
        let (made, prepared) = waiting.remove(token)?;
        (now.duration_since(made) < LIFETIME).then_some(prepared)
    }

    /// No code that may panic runs under the lock, so a poisoned one guards an intact value.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, Prepared)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 128 random bits as text.
fn random() -> Result<String> {
    let mut bytes = [0; 16];
    let read = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    if read != Ok(bytes.len()) {
        return Err(Error::new(Kind::System, "get random bytes for a token"));
    }
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec() -> Prepared {
        Prepared::Exec(v1::ExecRequest { container_id: "c".into(), ..Default::default() })
    }

    #[test]
    fn a_token_works_once_within_a_minute_and_only_for_its_kind() {
        let (tokens, start) = (Tokens::default(), Instant::now());
        let token = tokens.add(exec(), start).unwrap();
        assert_eq!(token.len(), 32);
        assert!(tokens.take(&format!("/attach/{token}"), start).is_none());
        assert!(tokens.take(&format!("/exec/{token}x"), start).is_none());
        assert!(tokens.take(&format!("/exec/{token}"), start).is_some());
        assert!(tokens.take(&format!("/exec/{token}"), start).is_none(), "used twice");
        let token = tokens.add(exec(), start).unwrap();
        assert!(tokens.take(&format!("/exec/{token}"), start + LIFETIME).is_none(), "too late");
    }

    #[test]
    fn tokens_that_nobody_uses_are_limited_and_forgotten() {
        let (tokens, start) = (Tokens::default(), Instant::now());
        for _ in 0..WAITING {
            tokens.add(exec(), start).unwrap();
        }
        assert_eq!(tokens.add(exec(), start).unwrap_err().kind, Kind::Busy);
        tokens.add(exec(), start + LIFETIME).unwrap();
        assert_eq!(tokens.lock().len(), 1);
    }
}
