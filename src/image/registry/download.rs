//! Downloads a blob. Broken connections are resumed here: the reader gets all bytes, once, in order.

use std::io::{self, Read};
use std::sync::atomic::Ordering;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE};

use super::attempts::Attempts;
use super::fault::{Fault, Patience, Retry, wait};
use super::repository::Repository;
use super::session::Ask;
use super::wire::{Response, Wire};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::image::document::wrong_size;

/// Where a blob can be downloaded.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// An endpoint of the repository, by its index.
    Endpoint(usize),
    /// The URL of a foreign layer.
    Foreign(String),
}

/// A blob that is being read.
pub(in crate::image) struct Download<'a> {
    repository: &'a Repository<'a>,
    digest: Digest,
    size: u64,
    /// Bytes returned to the reader so far.
    at: u64,
    /// The remaining sources, the current one first; one that cannot serve the blob is removed.
    sources: Vec<Source>,
    wire: Option<Wire>,
    answer: Option<Response>,
    piece: Bytes,
    /// Bytes of the response that the reader has already, because the registry does not support ranges.
    repeated: u64,
    /// Attempts since the last new bytes, and the position then.
    tries: u32,
    stood_at: u64,
    patience: Patience,
    /// The position at which a request for the rest was refused, so that the whole blob is requested there.
    range_refused_at: Option<u64>,
    attempts: Attempts,
}

impl<'a> Download<'a> {
    pub(super) fn new(
        repository: &'a Repository<'a>,
        digest: Digest,
        size: u64,
        from: u64,
        sources: Vec<Source>,
    ) -> Self {
        Self {
            repository,
            digest,
            size,
            at: from,
            sources,
            wire: None,
            answer: None,
            piece: Bytes::new(),
            repeated: 0,
            tries: 0,
            stood_at: from,
            patience: Patience::default(),
            range_refused_at: None,
            attempts: Attempts::default(),
        }
    }

    /// Reads the next piece, with as many retries as needed.
    fn fill(&mut self) -> Result<()> {
        loop {
            match self.step() {
                Ok(()) => return Ok(()),
                Err(fault) => self.recover(fault)?,
            }
        }
    }

    fn step(&mut self) -> Result<(), Fault> {
        let mut wire = match self.wire.take() {
            Some(wire) => wire,
            None => self.repository.session.wire()?,
        };
        let result = self.step_with(&mut wire);
        self.wire = Some(wire);
        result
    }

    fn step_with(&mut self, wire: &mut Wire) -> Result<(), Fault> {
        if self.answer.is_none() {
            self.answer = Some(self.open(wire)?);
        }
        let Some(answer) = &mut self.answer else { return Ok(()) };
        while let Some(mut piece) = wire.next(answer)? {
            let known = self.repeated.min(piece.len() as u64);
            self.repeated -= known;
            let mut fresh = piece.split_off(usize::try_from(known).unwrap_or(usize::MAX));
            // Bytes beyond the expected size are ignored.
            let left = usize::try_from(self.size - self.at).unwrap_or(usize::MAX);
            fresh.truncate(left);
            if !fresh.is_empty() {
                self.piece = fresh;
                return Ok(());
            }
        }
        let doing = format!("the transfer ended after {} of {} bytes", self.at, self.size);
        Err(Fault::transient(Error::new(Kind::Unreachable, doing)))
    }

    /// Requests everything from `at` on from the first source.
    fn open(&mut self, wire: &mut Wire) -> Result<Response, Fault> {
        let session = &self.repository.session;
        let from = if self.range_refused_at == Some(self.at) { 0 } else { self.at };
        let ask = Ask { from, is_verified: true, ..Ask::default() };
        let what = format!("blobs/{}", self.digest);
        let answer = match self.sources.first() {
            Some(Source::Endpoint(index)) => match self.repository.endpoints.get(*index) {
                Some(endpoint) => session.ask(wire, endpoint, &what, &ask)?,
                None => return Err(Error::new(Kind::Bug, "there is no such endpoint").into()),
            },
            Some(Source::Foreign(url)) => session.ask_foreign(wire, url, &ask)?,
            None => {
                let doing = format!("no configured endpoint serves blob {}", self.digest);
                return Err(Error::new(Kind::NotFound, doing).into());
            }
        };
        let begin = begin_of(&answer, self.at, self.size, &self.digest)?;
        if begin > 0 {
            session.options.resumes.fetch_add(1, Ordering::Relaxed);
        }
        self.repeated = self.at - begin;
        Ok(answer)
    }

    /// Handles a fault: waits for a retry, moves on to another source, or gives up.
    fn recover(&mut self, fault: Fault) -> Result<()> {
        self.answer = None;
        self.repository.session.options.cancel.check()?;
        let timing = &self.repository.session.options.timing;
        if self.at > self.stood_at {
            (self.tries, self.stood_at, self.patience) = (0, self.at, Patience::default());
        }
        if self.is_range_refused(&fault) {
            let text = format!("layer {}: {}; starting from the beginning", self.digest, fault.error.chain());
            self.repository.progress.warn(&text);
            self.range_refused_at = Some(self.at);
            return Ok(());
        }
        self.tries += 1;
        let Some(source) = self.sources.first().cloned() else {
            return Err(fault.error.doing(format!("get blob {}", self.digest)));
        };
        let retry = fault.retry;
        let text = fault.error.chain();
        self.note(&source, fault);
        if retry == Retry::Never {
            self.sources.remove(0);
        }
        if self.sources.is_empty() || self.is_settled() {
            return Err(self.given_up(format!("get blob {}", self.digest)));
        }
        if retry == Retry::Never {
            return Ok(());
        }
        if self.at > 0 {
            self.repository.was_cut.store(true, Ordering::Relaxed);
        }
        if self.tries >= timing.tries {
            let doing =
                format!("get blob {}: gave up after {} tries without any progress", self.digest, self.tries);
            return Err(self
                .given_up(doing)
                .hint("try again; complete layers and kept parts are not downloaded again"));
        }
        if self.tries == 1 && self.at > 0 {
            let text = format!("layer {}: {text}; resuming at byte {}", self.digest, self.at);
            self.repository.progress.warn(&text);
        }
        if self.sources.len() > 1 {
            if let Some(Source::Endpoint(index)) = self.sources.first() {
                self.repository.note_down(*index, retry);
            }
            self.sources.rotate_left(1);
            // Another source may be up: wait only after all were tried.
            if !(self.tries as usize).is_multiple_of(self.sources.len()) {
                return Ok(());
            }
        }
        if !self.patience.allows(retry) {
            return Err(self.given_up(format!("get blob {}", self.digest)));
        }
        let pause = wait(timing, self.tries, retry);
        match &self.wire {
            Some(wire) => wire.pause(pause),
            None => Ok(()),
        }
    }
}

/// What the sources answered.
impl Download<'_> {
    /// Whether a server answered a request for the rest of the blob, but not as a server that supports ranges does: a
    /// storage server behind a registry may answer 400 for a moment, or send another part. The whole blob is requested
    /// once in its place.
    fn is_range_refused(&self, fault: &Fault) -> bool {
        self.at > 0
            && self.range_refused_at != Some(self.at)
            && fault.is_answer
            && fault.retry == Retry::Never
            && matches!(fault.error.kind(), Kind::Unsupported | Kind::Corrupt)
    }

    /// The URL of a source's repository, or of a foreign layer without its query.
    fn place(&self, source: &Source) -> String {
        match source {
            Source::Endpoint(index) => {
                self.repository.endpoints.get(*index).map_or_else(String::new, |endpoint| endpoint.url(""))
            }
            Source::Foreign(url) => url.split(['?', '#']).next().unwrap_or_default().to_owned(),
        }
    }

    fn note(&mut self, source: &Source, fault: Fault) {
        let place = self.place(source);
        let is_reachable = fault.is_answer || self.at > 0 || self.repository.session.has_answered(&place);
        self.attempts.note(place, fault, is_reachable);
    }

    /// Whether all sources were asked, and asking them again is pointless.
    fn is_settled(&self) -> bool {
        self.sources.iter().all(|source| self.attempts.has(&self.place(source))) && self.attempts.is_settled()
    }

    fn given_up(&mut self, doing: String) -> Error {
        let error = std::mem::take(&mut self.attempts).into_error();
        error.unwrap_or_else(|| Error::new(Kind::Bug, "no source was asked")).doing(doing)
    }
}

/// The byte of the blob where a response begins: 0 when the range was ignored (RFC 9110 section 14.2).
fn begin_of(answer: &Response, asked: u64, size: u64, digest: &Digest) -> Result<u64, Fault> {
    let text = |name| answer.headers.get(name).and_then(|value| value.to_str().ok());
    if answer.status != StatusCode::PARTIAL_CONTENT {
        let length = text(CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        return match length {
            Some(length) if length != size => Err(wrong_size(digest, size, length).into()),
            _ => Ok(0),
        };
    }
    // bytes 100-199/200
    let range = text(CONTENT_RANGE).and_then(|text| text.trim().strip_prefix("bytes "));
    let begin = range.and_then(|range| range.split('-').next()?.trim().parse::<u64>().ok());
    match begin {
        Some(begin) if begin <= asked => Ok(begin),
        _ => {
            let sent = text(CONTENT_RANGE)
                .map_or("a part without Content-Range".to_owned(), |sent| format!("{sent:?}"));
            let doing = format!("bytes from {asked} on were requested, but it sends {sent}");
            Err(Fault { error: Error::new(Kind::Corrupt, doing), retry: Retry::Never, is_answer: true })
        }
    }
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.size || buffer.is_empty() {
            return Ok(0);
        }
        if self.piece.is_empty() {
            self.fill().map_err(io::Error::other)?;
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        self.at += count as u64;
        Ok(count)
    }
}

impl Drop for Download<'_> {
    fn drop(&mut self) {
        let Some(mut wire) = self.wire.take() else { return };
        if let Some(answer) = self.answer.take() {
            wire.keep(answer);
        }
        self.repository.session.put_back(wire);
    }
}
