//! Downloads documents and blobs of one repository from any of its endpoints.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use hyper::Method;
use hyper::header::HeaderName;

use super::attempts::Attempts;
use super::download::{Download, Source};
use super::endpoint::Endpoint;
use super::fault::{Fault, Patience, Retry, wait};
use super::received;
use super::session::{Ask, Session};
use super::wire::Wire;
use super::{RegistryOptions, table};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::image::document::wrong_digest;
use crate::image::progress::Progress;
use crate::store::MAX_DOCUMENT;
use crate::store::reference::Reference;

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Attempts until the very first response.
const FIRST_TRIES: u32 = 3;

/// A manifest or index from a registry; its bytes have its digest.
#[derive(Debug, Clone)]
pub(in crate::image) struct Fetched {
    pub(in crate::image) bytes: Vec<u8>,
    pub(in crate::image) media_type: Option<String>,
    pub(in crate::image) digest: Digest,
}

/// A repository, with all its endpoints.
pub(in crate::image) struct Repository<'a> {
    pub(super) session: Session<'a>,
    pub(super) endpoints: Vec<Endpoint>,
    /// Endpoints that could not be reached are tried last from then on.
    down: Mutex<BTreeSet<usize>>,
    pub(super) progress: &'a dyn Progress,
    pub(super) was_cut: AtomicBool,
    /// There was a response: later failures come from a bad link, not from a wrong name.
    is_up: AtomicBool,
    name: String,
}

/// The endpoints that may be used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    /// Those that may resolve tags.
    Tags,
    /// Those that may serve content verified by digest.
    Digests,
}

impl<'a> Repository<'a> {
    /// The repository of `reference`. No request is sent yet.
    pub(in crate::image) fn new(
        options: &'a RegistryOptions,
        reference: &Reference,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        Ok(Self {
            session: Session::new(options),
            endpoints: table::endpoints(options, reference)?,
            down: Mutex::default(),
            progress,
            was_cut: AtomicBool::new(false),
            is_up: AtomicBool::new(false),
            name: format!("{}/{}", reference.registry(), reference.path()),
        })
    }

    /// The manifest or index that `tag` means now.
    pub(in crate::image) fn tagged(&self, tag: &str) -> Result<Fetched> {
        self.manifest(&format!("manifests/{tag}"), None)
    }

    /// The manifest or index with this digest.
    pub(in crate::image) fn by_digest(&self, digest: &Digest) -> Result<Fetched> {
        self.manifest(&format!("manifests/{digest}"), Some(digest))
    }

    /// The digest that `tag` means now, from the registry's header alone; `None` when it has none.
    pub(in crate::image) fn digest_of_tag(&self, tag: &str) -> Result<Option<Digest>> {
        let ask = Ask { method: Method::HEAD, accept: Some(MANIFESTS), ..Ask::default() };
        self.anywhere(For::Tags, |wire, endpoint| {
            let answer = self.session.ask(wire, endpoint, &format!("manifests/{tag}"), &ask)?;
            let header = answer.headers.get("docker-content-digest").and_then(|value| value.to_str().ok());
            let digest = header.and_then(|text| Digest::parse(text).ok());
            wire.keep(answer);
            Ok(digest)
        })
    }

    /// The index of the referrers of `digest`, by the API or by the fallback tag
    /// (SPEC(distribution 1.1 #listing-referrers)).
    pub(in crate::image) fn referrers(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        let accept = Some("application/vnd.oci.image.index.v1+json");
        let found = self.anywhere(For::Tags, |wire, endpoint| {
            self.document(wire, endpoint, &format!("referrers/{digest}"), None, accept)
        });
        let found = match found {
            Err(error) if error.kind() == Kind::NotFound => self.tagged(&format!("sha256-{}", digest.hex())),
            other => other,
        };
        match found {
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            other => other.map(|found| Some(found.bytes)),
        }
    }

    /// A blob to read, from byte `from` on; `urls` are tried when no endpoint has it. The bytes are not verified.
    pub(in crate::image) fn blob(
        &self,
        digest: &Digest,
        size: u64,
        from: u64,
        urls: &[String],
    ) -> Download<'_> {
        let served = |endpoint: &Endpoint| endpoint.serves;
        let order = self.order().into_iter().filter(|index| self.endpoints.get(*index).is_some_and(served));
        let mut sources: Vec<Source> = order.map(Source::Endpoint).collect();
        sources.extend(urls.iter().cloned().map(Source::Foreign));
        Download::new(self, *digest, size, from, sources)
    }

    /// A blob small enough for memory, verified.
    pub(in crate::image) fn small_blob(&self, digest: &Digest, size: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self.blob(digest, size, 0, &[]).take(MAX_DOCUMENT).read_to_end(&mut bytes);
        read.map_err(|error| match error.downcast::<Error>() {
            Ok(own) => own,
            Err(error) => Error::new(Kind::System, "read from the registry").because(error),
        })?;
        let actual = Digest::of(&bytes);
        if actual == *digest { Ok(bytes) } else { Err(wrong_digest(digest, &actual)) }
    }

    /// Returns whether some transfer was interrupted.
    pub(in crate::image) fn was_cut(&self) -> bool {
        self.was_cut.load(Ordering::Relaxed)
    }

    fn manifest(&self, what: &str, digest: Option<&Digest>) -> Result<Fetched> {
        let which = if digest.is_some() { For::Digests } else { For::Tags };
        self.anywhere(which, |wire, endpoint| self.document(wire, endpoint, what, digest, Some(MANIFESTS)))
    }

    fn document(
        &self,
        wire: &mut Wire,
        endpoint: &Endpoint,
        what: &str,
        digest: Option<&Digest>,
        accept: Option<&'static str>,
    ) -> Result<Fetched, Fault> {
        let ask = Ask { accept, is_verified: digest.is_some(), ..Ask::default() };
        let mut answer = self.session.ask(wire, endpoint, what, &ask)?;
        let mut bytes = Vec::new();
        while let Some(piece) = wire.next(&mut answer)? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > MAX_DOCUMENT {
                let doing = format!("{what} has more than the {MAX_DOCUMENT} bytes that a manifest may have");
                return Err(Error::invalid(doing).into());
            }
        }
        let media_type = received::media_type(&answer);
        let encoding = received::encoding(&answer);
        let header = answer.headers.get(HeaderName::from_static("docker-content-digest"));
        let header = header.and_then(|value| Digest::parse(value.to_str().ok()?).ok());
        wire.keep(answer);
        let bytes = received::decoded(bytes, encoding.as_deref(), MAX_DOCUMENT)?;
        // What is wrong with bytes of the right type is said by the digest, if it is known.
        let is_json = media_type.as_ref().is_some_and(|media_type| media_type.contains("json"));
        if digest.is_none() || bytes.is_empty() || !is_json {
            received::check_document(&bytes, media_type.as_deref())?;
        }
        let actual = Digest::of(&bytes);
        match digest.copied().or(header) {
            // Another endpoint's copy may be intact.
            Some(promised) if promised != actual => Err(Fault::transient(wrong_digest(&promised, &actual))),
            _ => Ok(Fetched { bytes, media_type, digest: actual }),
        }
    }

    /// Tries one endpoint after the other, and all of them again as long as that may help.
    fn anywhere<T>(&self, which: For, ask: impl Fn(&mut Wire, &Endpoint) -> Result<T, Fault>) -> Result<T> {
        let timing = &self.session.options.timing;
        let mut wire = self.session.wire()?;
        let mut hopeless = BTreeSet::new();
        let mut attempts = Attempts::default();
        let mut patience = Patience::default();
        let mut number = 0;
        let result = loop {
            number += 1;
            let mut transient: Option<(Retry, String)> = None;
            for index in self.order() {
                let Some(endpoint) = self.endpoints.get(index) else { continue };
                let may = if which == For::Tags { endpoint.resolves } else { endpoint.serves };
                if !may || hopeless.contains(&index) {
                    continue;
                }
                let fault = match ask(&mut wire, endpoint) {
                    Ok(answer) => {
                        self.is_up.store(true, Ordering::Relaxed);
                        self.session.put_back(wire);
                        return Ok(answer);
                    }
                    Err(fault) => fault,
                };
                if fault.may_pass() {
                    self.note_down(index, fault.retry);
                    transient = Some((fault.retry, fault.error.chain()));
                } else {
                    hopeless.insert(index);
                }
                let place = endpoint.url("");
                let is_reachable = self.session.has_answered(&place);
                attempts.note(place, fault, is_reachable);
            }
            if let Err(reason) = self.session.options.cancel.check() {
                break Err(reason);
            }
            match transient {
                Some((retry, text))
                    if number < self.tries() && !attempts.is_settled() && patience.allows(retry) =>
                {
                    let wait = wait(timing, number, retry);
                    let seconds = wait.as_secs_f32();
                    self.progress.warn(&format!("{text}; trying again in {seconds:.1} s"));
                    if let Err(reason) = wire.pause(wait) {
                        break Err(reason);
                    }
                }
                _ => break Err(attempts.into_error().unwrap_or_else(|| self.nobody(which))),
            }
        };
        self.session.put_back(wire);
        result.map_err(|error: Error| error.doing(format!("ask for {}", self.name)))
    }

    /// The number of attempts: low until the first response, so that a wrong address fails soon.
    fn tries(&self) -> u32 {
        let most = self.session.options.timing.tries;
        if self.is_up.load(Ordering::Relaxed) { most } else { most.min(FIRST_TRIES) }
    }

    fn nobody(&self, which: For) -> Error {
        let what = if which == For::Tags { "resolves tags" } else { "serves images" };
        Error::new(Kind::Unsupported, format!("no configured endpoint of {} {what}", self.name))
            .hint("see `capabilities` in hosts.toml")
    }

    /// The endpoints, those that were down last.
    fn order(&self) -> Vec<usize> {
        let down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        let mut order: Vec<usize> = (0..self.endpoints.len()).collect();
        order.sort_by_key(|index| down.contains(index));
        order
    }

    /// Records that an endpoint was down, if there are others.
    pub(super) fn note_down(&self, index: usize, retry: Retry) {
        if self.endpoints.len() > 1 && retry == Retry::Backoff {
            self.down.lock().unwrap_or_else(PoisonError::into_inner).insert(index);
        }
    }
}
