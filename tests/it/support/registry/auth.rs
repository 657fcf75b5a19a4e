//! Who may come in.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Seen;
use super::answer::Answer;

/// What a registry asks for.
#[derive(Debug, Clone, Default)]
pub(crate) enum Auth {
    /// Nothing.
    #[default]
    Open,
    /// This name and password, `name:password`.
    Basic(&'static str),
    /// A token of `realm`, which is `/token` of this registry unless it is another's.
    Bearer { realm: Option<String>, login: Option<&'static str> },
}

/// The tokens given out.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) auth: Auth,
    /// The only good one is `token-<number>`.
    number: usize,
    /// How many requests it is still good for.
    uses: usize,
}

/// A token is good for so many requests.
const USES: usize = 3;

impl State {
    pub(crate) fn new(auth: Auth) -> Self {
        Self { auth, number: 0, uses: 0 }
    }

    /// A refusal, unless the request shows what it has to.
    pub(super) fn check(&mut self, request: &Seen, own: &str) -> Option<Answer> {
        let shown = request.headers.get("authorization").map_or("", String::as_str);
        match &self.auth {
            Auth::Open => None,
            Auth::Basic(login) => {
                (shown != basic(login)).then(|| Answer::unauthorized("Basic realm=\"the test\"".to_owned()))
            }
            Auth::Bearer { realm, .. } => {
                if shown == format!("Bearer token-{}", self.number) && self.uses > 0 {
                    self.uses -= 1;
                    return None;
                }
                let realm = realm.clone().unwrap_or_else(|| format!("{own}/token"));
                let challenge =
                    format!("Bearer realm=\"{realm}\",service=\"the, test\",scope=\"repository:x:pull\"");
                Some(Answer::unauthorized(challenge))
            }
        }
    }

    /// Gives out a token to whoever may have one.
    pub(super) fn token(&mut self, request: &Seen) -> Answer {
        let login = match &self.auth {
            Auth::Bearer { login, .. } => *login,
            _ => None,
        };
        let shown = request.headers.get("authorization").map_or("", String::as_str);
        let may = match login {
            None => true,
            // A refresh token comes by POST alone.
            Some(token) if token.starts_with("refresh:") => {
                request.method == "POST"
                    && form(&request.body).get("refresh_token").is_some_and(|t| *t == token[8..])
            }
            Some(login) => shown == basic(login),
        };
        if !may {
            return Answer::status(401);
        }
        self.number += 1;
        self.uses = USES;
        let key = if request.method == "POST" { "access_token" } else { "token" };
        Answer::json(&serde_json::json!({key: format!("token-{}", self.number), "expires_in": 300}))
    }
}

fn basic(login: &str) -> String {
    format!("Basic {}", STANDARD.encode(login))
}

fn form(body: &str) -> BTreeMap<String, String> {
    let plain = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    body.split('&').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (plain(k), plain(v))).collect()
}
