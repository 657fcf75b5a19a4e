//! Imports a streamed archive: an OCI layout in a tar, the output of `docker save`, or both in one.

use std::io::Read;

use super::document::wrong_digest;
use super::job::{Job, Planned, plan};
use super::layer::{Decoder, Limits};
use super::layout::check_version;
use super::member_cache::{ByContent, Facts, MemberCache, blob_name};
use super::progress::Silent;
use super::resolve::{self, Selected};
use super::source::Stream;
use super::tar::{Archive, Entry, Kind as Member};
use super::unpack::{LayerDescriptor, Layers};
use super::{docker, document};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::store::ImageRecord;

/// K3s compresses its air-gap images with `zstd --long=25`. The window takes memory, but only one archive is read at a
/// time.
const ARCHIVE_WINDOW_LOG: u32 = 25;

type Tar = Archive<Decoder<Box<dyn Read>>>;

/// Imports the images of an archive.
pub(super) fn import(job: &Job<'_>, stream: Stream) -> Result<Vec<ImageRecord>> {
    let window = job.options.limits.zstd_window_log.max(ARCHIVE_WINDOW_LOG);
    let limits = Limits { zstd_window_log: window, ..job.options.limits };
    let decoder = Decoder::with_limits(stream.reader, &limits);
    let mut tar = Archive::new(decoder, job.options.limits.tar);
    let mut intake = Intake {
        job,
        label: stream.label,
        members: MemberCache::default(),
        layers: job.begin()?,
        plan: None,
        has_news: false,
    };
    let read = intake.read(&mut tar);
    read.map_err(|e| e.doing("read the archive"))?;
    tar.finish().map_err(|e| e.doing("read the archive"))?;
    intake.finish()
}

/// The members read so far.
struct Intake<'j, 'a> {
    job: &'j Job<'a>,
    label: Option<String>,
    members: MemberCache,
    layers: Layers<'a>,
    /// The layers to expect, once all documents that say so have come by.
    plan: Option<Vec<LayerDescriptor>>,
    /// A document was read since the last attempt to make a plan.
    has_news: bool,
}

impl<'a> Intake<'_, 'a> {
    fn read(&mut self, tar: &mut Tar) -> Result<()> {
        while let Some(entry) = tar.next_entry()? {
            let Some(name) = clean(&entry.name)? else { continue };
            match &entry.kind {
                Member::Dir => {}
                Member::File => self.file(name, &entry, tar)?,
                Member::Symlink(target) => {
                    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                    let target = [directory.as_bytes(), b"/", target].concat();
                    self.members.link(name, inside(&target)?)?;
                }
                Member::HardLink(target) => self.members.link(name, inside(target)?)?,
                _ => {
                    let doing = format!(
                        "{name:?} is neither a file, a directory nor a link, so this is not an image archive"
                    );
                    return Err(Error::invalid(doing));
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, name: String, entry: &Entry, tar: &mut Tar) -> Result<()> {
        if entry.sparse.is_some() {
            return Err(Error::invalid(format!("{name:?} is a sparse file; image archives have none")));
        }
        // Members of the layout before manifest.json, which docker still writes.
        if name.ends_with("/VERSION") || name.ends_with("/json") {
            return Ok(());
        }
        let mut data = Data { tar, piece: Vec::new(), at: 0 };
        if let Some(digest) = blob_of(&name) {
            let is_read = match self.expected(&digest)? {
                Some(descriptor) => {
                    self.layers.unpack_early(&descriptor, &mut data)?;
                    true
                }
                None => self.layers.recognise(&digest, entry.size, &mut data)?,
            };
            if is_read {
                return self.members.note(name, Facts { digest, size: entry.size });
            }
        }
        self.members.put(name.clone(), entry.size, &mut data, &self.layers.txn)?;
        self.has_news |= entry.size <= crate::store::MAX_DOCUMENT;
        match blob_of(&name).zip(self.members.facts(&name)) {
            Some((promised, facts)) if promised != facts.digest => {
                Err(wrong_digest(&promised, &facts.digest))
            }
            _ => Ok(()),
        }
    }

    /// The only layer that the blob is for, if all documents that describe it have been read already.
    fn expected(&mut self, blob: &Digest) -> Result<Option<LayerDescriptor>> {
        if self.plan.is_none() && std::mem::take(&mut self.has_news) {
            self.plan = self.try_plan()?;
        }
        let mut descriptors = self.plan.iter().flatten().filter(|descriptor| descriptor.blob == *blob);
        let Some(first) = descriptors.next() else { return Ok(None) };
        // On two different bases a layer may have to be unpacked twice.
        Ok(descriptors.all(|descriptor| descriptor.chain == first.chain).then(|| first.clone()))
    }

    fn try_plan(&self) -> Result<Option<Vec<LayerDescriptor>>> {
        if self.members.facts("index.json").is_none() {
            return Ok(None);
        }
        let planned = self.select().and_then(|selected| {
            selected.into_iter().map(|image| plan(image, &self.members)).collect::<Result<Vec<Planned>>>()
        });
        match planned {
            Ok(planned) => {
                let wanted = planned.into_iter().filter(|planned| self.job.wants(planned));
                Ok(Some(wanted.flat_map(|planned| planned.descriptors).collect()))
            }
            // The missing members may follow.
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn select(&self) -> Result<Vec<Selected>> {
        let choice = self.job.choice(self.label.as_deref());
        let index = self.document("index.json")?.unwrap_or_default();
        // The real selection, at the end, reports its warnings.
        resolve::select(&index, &self.members, &choice, &Silent)
    }

    fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let opened = self.members.open_name(name)?;
        opened.map(|opened| document::read_within(opened.reader, name)).transpose()
    }

    fn finish(self) -> Result<Vec<ImageRecord>> {
        if let Some(version) = self.document("oci-layout")? {
            check_version(&version)?;
        }
        if let Some(index) = self.document("index.json")? {
            let choice = self.job.choice(self.label.as_deref());
            let selected = resolve::select(&index, &self.members, &choice, self.job.progress)?;
            let selected = self.job.named(selected)?;
            return match self.job.known(&selected)? {
                Some(known) => Ok(known),
                None => self.job.finish(self.layers, selected, &self.members),
            };
        }
        if let Some(manifest) = self.document("manifest.json")? {
            let selected = docker::select(
                &manifest,
                &self.members,
                &self.job.choice(self.label.as_deref()),
                self.job.progress,
            )?;
            let selected = self.job.named(selected)?;
            return match self.job.known(&selected)? {
                Some(known) => Ok(known),
                None => self.job.finish(self.layers, selected, &ByContent(&self.members)),
            };
        }
        if self.members.facts("repositories").is_some() {
            let doing =
                "the archive was saved by a docker before 1.10, in a form that has no image configurations";
            return Err(Error::new(Kind::Unsupported, doing).hint("load and save it with a newer docker"));
        }
        Err(Error::invalid("the archive has neither index.json nor manifest.json").hint(
            "it must be an OCI layout or the output of `docker save`; a root file system is not an image",
        ))
    }
}

/// The digest in the name of a blob; `None` for other algorithms, which are not supported.
fn blob_of(name: &str) -> Option<Digest> {
    let digest = Digest::parse(&format!("sha256:{}", name.strip_prefix("blobs/sha256/")?)).ok()?;
    (blob_name(&digest) == name).then_some(digest)
}

/// A member's name relative to the top of the archive, without `./`; `None` for the top itself.
fn clean(name: &[u8]) -> Result<Option<String>> {
    let path = inside(name)?;
    Ok((!path.is_empty()).then_some(path))
}

/// Resolves `.` and `..` lexically, and refuses a path that would leave the archive.
pub(super) fn inside(path: &[u8]) -> Result<String> {
    let shown = || format!("{:?}", String::from_utf8_lossy(&path[..path.len().min(200)]));
    let text = std::str::from_utf8(path)
        .map_err(|_| Error::invalid(format!("the name {} in the archive is not UTF-8", shown())))?;
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_some() => {}
            ".." => return Err(Error::invalid(format!("the path {} leads out of the archive", shown()))),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// The data of the current member.
struct Data<'t> {
    tar: &'t mut Tar,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Data<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.piece.len() {
            self.at = 0;
            self.piece.clear();
            if let Some(piece) = self.tar.data().map_err(std::io::Error::other)? {
                self.piece.extend_from_slice(piece);
            }
        }
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_resolved_lexically_and_stay_inside() {
        assert_eq!(clean(b"./").unwrap(), None);
        assert_eq!(clean(b"./a//b/./c").unwrap().unwrap(), "a/b/c");
        assert_eq!(inside(b"x/../../y").map_err(|e| e.kind()), Err(Kind::Invalid));
        assert_eq!(inside(b"top/layer/../other/layer.tar").unwrap(), "top/other/layer.tar");
        assert_eq!(clean(b"/blobs/sha256/x").unwrap().unwrap(), "blobs/sha256/x");
        assert!(clean(b"../../etc/passwd").is_err());
        assert!(clean(b"\xff").is_err());
    }
}
