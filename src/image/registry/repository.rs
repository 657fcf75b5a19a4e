//! The documents and blobs of one repository, from whichever endpoint has them.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderName};

use super::download::{Download, Source};
use super::endpoint::Endpoint;
use super::fault::{Again, Fault, wait};
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

/// Tries for the first answer of all.
const FIRST_TRIES: u32 = 3;

/// A manifest or index as a registry gave it; its bytes are those of its digest.
#[derive(Debug, Clone)]
pub(in crate::image) struct Found {
    pub(in crate::image) bytes: Vec<u8>,
    pub(in crate::image) media_type: Option<String>,
    pub(in crate::image) digest: Digest,
}

/// A repository.
pub(in crate::image) struct Repository<'a> {
    pub(super) session: Session<'a>,
    pub(super) endpoints: Vec<Endpoint>,
    /// Endpoints that could not be reached are asked last from then on.
    down: Mutex<BTreeSet<usize>>,
    pub(super) progress: &'a dyn Progress,
    pub(super) was_cut: AtomicBool,
    /// Something was answered: what fails from then on is a bad link, not a wrong name.
    is_up: AtomicBool,
    name: String,
}

/// Which endpoints may be asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    /// What a tag means.
    Tags,
    /// What is checked by its digest.
    Digests,
}

impl<'a> Repository<'a> {
    /// The repository of `reference`. Nothing is asked yet.
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
    pub(in crate::image) fn tagged(&self, tag: &str) -> Result<Found> {
        self.manifest(&format!("manifests/{tag}"), None)
    }

    /// The manifest or index with this digest.
    pub(in crate::image) fn by_digest(&self, digest: &Digest) -> Result<Found> {
        self.manifest(&format!("manifests/{digest}"), Some(digest))
    }

    /// What `tag` means now, by the word of the registry alone; `None` when it does not say.
    pub(in crate::image) fn digest_of_tag(&self, tag: &str) -> Result<Option<Digest>> {
        let ask = Ask { method: Method::HEAD, accept: Some(MANIFESTS), ..Ask::default() };
        self.anywhere(For::Tags, |wire, endpoint| {
            let answer = self.session.ask(wire, endpoint, &format!("manifests/{tag}"), &ask)?;
            let said = answer.headers.get("docker-content-digest").and_then(|value| value.to_str().ok());
            let digest = said.and_then(|text| Digest::parse(text).ok());
            wire.keep(answer);
            Ok(digest)
        })
    }

    /// The index of what refers to `digest`, by the API or by the tag that stands in for it
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
        sources.extend(urls.iter().cloned().map(Source::Stranger));
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

    /// Whether some transfer did not come through in one go.
    pub(in crate::image) fn was_cut(&self) -> bool {
        self.was_cut.load(Ordering::Relaxed)
    }

    fn manifest(&self, what: &str, digest: Option<&Digest>) -> Result<Found> {
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
    ) -> Result<Found, Fault> {
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
        let text = |name| answer.headers.get(name).and_then(|value| value.to_str().ok());
        let media_type =
            text(CONTENT_TYPE).map(|value| value.split(';').next().unwrap_or(value).trim().to_owned());
        let said = text(HeaderName::from_static("docker-content-digest")).and_then(|d| Digest::parse(d).ok());
        wire.keep(answer);
        let actual = Digest::of(&bytes);
        match digest.copied().or(said) {
            // Another copy of it may be whole.
            Some(promised) if promised != actual => Err(Fault::passing(wrong_digest(&promised, &actual))),
            _ => Ok(Found { bytes, media_type, digest: actual }),
        }
    }

    /// Asks one endpoint after the other, and all of them again as long as that may help.
    fn anywhere<T>(&self, which: For, ask: impl Fn(&mut Wire, &Endpoint) -> Result<T, Fault>) -> Result<T> {
        let timing = &self.session.options.timing;
        let mut wire = self.session.wire()?;
        let mut hopeless = BTreeSet::new();
        let mut number = 0;
        let result = loop {
            number += 1;
            let mut passing: Option<Fault> = None;
            let mut last = None;
            for index in self.order() {
                let Some(endpoint) = self.endpoints.get(index) else { continue };
                let may = if which == For::Tags { endpoint.resolves } else { endpoint.serves };
                if !may || hopeless.contains(&index) {
                    continue;
                }
                match ask(&mut wire, endpoint) {
                    Ok(answer) => {
                        self.is_up.store(true, Ordering::Relaxed);
                        self.session.put_back(wire);
                        return Ok(answer);
                    }
                    Err(fault) if fault.again == Again::Never => {
                        hopeless.insert(index);
                        last = Some(fault.error);
                    }
                    Err(fault) => {
                        self.note_down(index, &fault);
                        passing = Some(fault);
                    }
                }
            }
            if let Err(reason) = self.session.options.cancel.check() {
                break Err(reason);
            }
            match (passing, last) {
                (Some(fault), _) if number >= self.tries() => break Err(fault.error),
                (Some(fault), _) => {
                    let wait = wait(timing, number, fault.again);
                    let seconds = wait.as_secs_f32();
                    self.progress.warn(&format!("{}; trying again in {seconds:.1} s", fault.error.chain()));
                    if let Err(reason) = wire.pause(wait) {
                        break Err(reason);
                    }
                }
                (None, Some(error)) => break Err(error),
                (None, None) => break Err(self.nobody(which)),
            }
        };
        self.session.put_back(wire);
        result.map_err(|error: Error| error.doing(format!("ask for {}", self.name)))
    }

    /// Nobody waits a minute to learn that an address is wrong.
    fn tries(&self) -> u32 {
        let most = self.session.options.timing.tries;
        if self.is_up.load(Ordering::Relaxed) { most } else { most.min(FIRST_TRIES) }
    }

    fn nobody(&self, which: For) -> Error {
        let what = if which == For::Tags { "says what a tag means" } else { "serves images" };
        Error::new(Kind::Unsupported, format!("no configured place of {} {what}", self.name))
            .hint("see `capabilities` in hosts.toml")
    }

    /// The endpoints, those that were down last.
    fn order(&self) -> Vec<usize> {
        let down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        let mut order: Vec<usize> = (0..self.endpoints.len()).collect();
        order.sort_by_key(|index| down.contains(index));
        order
    }

    /// Remembers that an endpoint was down, when there are others.
    pub(super) fn note_down(&self, index: usize, fault: &Fault) {
        if self.endpoints.len() > 1 && fault.again == Again::Soon {
            self.down.lock().unwrap_or_else(PoisonError::into_inner).insert(index);
        }
    }
}
