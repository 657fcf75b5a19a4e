//! What the registry would answer if nothing went wrong.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Content, Seen};

/// An answer, before faults.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    pub(super) fn json(value: &Value) -> Self {
        Self { status: 200, headers: Vec::new(), body: value.to_string().into_bytes() }
    }

    pub(super) fn unauthorized(challenge: String) -> Self {
        let mut answer = Self::error(401, "UNAUTHORIZED", "authentication required");
        answer.headers.push(("WWW-Authenticate".to_owned(), challenge));
        answer
    }

    fn error(status: u16, code: &str, message: &str) -> Self {
        let body = serde_json::json!({"errors": [{"code": code, "message": message}]});
        Self { status, ..Self::json(&body) }
    }
}

/// Answers a GET or HEAD below `/v2/`.
pub(super) fn to(request: &Seen, content: &Content) -> Answer {
    let path = request.path.split('?').next().unwrap_or_default();
    let Some(path) = path.strip_prefix("/v2/") else {
        return Answer::error(404, "NOT_FOUND", "no such page");
    };
    if let Some((repository, what)) = path.rsplit_once("/manifests/") {
        let Some((media_type, bytes)) = content.manifests.get(&format!("{repository}/{what}")) else {
            return Answer::error(404, "MANIFEST_UNKNOWN", "manifest unknown");
        };
        let digest = coracle::digest::Digest::of(bytes).to_string();
        let headers = vec![
            ("Content-Type".to_owned(), media_type.clone()),
            ("Docker-Content-Digest".to_owned(), digest),
        ];
        return Answer { status: 200, headers, body: bytes.clone() };
    }
    if let Some((repository, digest)) = path.rsplit_once("/referrers/") {
        return match content.manifests.get(&format!("{repository}/referrers/{digest}")) {
            Some((_, bytes)) => Answer { status: 200, headers: Vec::new(), body: bytes.clone() },
            None => Answer::error(404, "NOT_FOUND", "no such page"),
        };
    }
    match path.rsplit_once("/blobs/") {
        Some((_, digest)) => match content.blobs.get(digest) {
            Some(bytes) => ranged(&request.headers, bytes),
            None => Answer::error(404, "BLOB_UNKNOWN", "blob unknown to registry"),
        },
        None => Answer::error(404, "NOT_FOUND", "no such page"),
    }
}

fn ranged(headers: &BTreeMap<String, String>, bytes: &[u8]) -> Answer {
    let from =
        headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match from {
        None => Answer { status: 200, headers: Vec::new(), body: bytes.to_vec() },
        Some(from) if from < bytes.len() => {
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            let headers = vec![("Content-Range".to_owned(), range)];
            Answer { status: 206, headers, body: bytes[from..].to_vec() }
        }
        Some(_) => Answer::status(416),
    }
}
