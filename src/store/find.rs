//! Finds the image that a user means by a name, an id, or the first digits of one.

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};

use super::record::ImageRecord;
use super::reference::Reference;

/// A text with fewer digits is never taken as the beginning of an id.
const MIN_DIGITS: usize = 4;

/// The one image that `name` means.
pub(super) fn find(images: &BTreeMap<Digest, ImageRecord>, name: &str) -> Result<ImageRecord> {
    let has = |own: &String| images.values().find(|image| image.names.contains(own));
    if let Some(image) = meanings(name).iter().find_map(has) {
        return Ok(image.clone());
    }
    let by_id: Vec<&ImageRecord> = images.values().filter(|image| has_digest(image, name)).collect();
    // One configuration may have been imported with two manifests, say gzip and zstd: both run the same.
    match by_id.first() {
        Some(first) if by_id.iter().all(|image| image.id == first.id) => Ok((*first).clone()),
        Some(_) => Err(Error::invalid(format!("{name:?} is the beginning of {} image ids", by_id.len()))
            .hint("give more digits; `coracle image ls` shows them")),
        None => Err(not_found(images, name)),
    }
}

/// All images that `name` means, which is a digest or its first digits: several manifests may have one configuration.
pub(super) fn all_by_digest(images: &BTreeMap<Digest, ImageRecord>, name: &str) -> Vec<ImageRecord> {
    images.values().filter(|image| has_digest(image, name)).cloned().collect()
}

/// The full name of `image` that `name` stands for; none if `name` is an id.
pub(super) fn name_of(image: &ImageRecord, name: &str) -> Option<String> {
    meanings(name).into_iter().find(|meant| image.names.contains(meant))
}

/// The full names that `name` can stand for, the preferred one first: docker's form, then one of an image that was
/// imported or built without a registry's name and is named localhost/..., which the user may leave out.
fn meanings(name: &str) -> Vec<String> {
    let Ok(reference) = Reference::parse(name) else { return Vec::new() };
    let full = reference.to_string();
    let local = Reference::parse(&format!("localhost/{name}")).map(|local| local.to_string());
    [Ok(full), local].into_iter().flatten().collect()
}

/// Returns whether `name` is a digest of `image`: whole, `repository@digest`, or the first digits.
fn has_digest(image: &ImageRecord, name: &str) -> bool {
    let text = name.rsplit_once('@').map_or(name, |(_, digest)| digest);
    if let Ok(digest) = Digest::parse(text) {
        let is_known_as = |own: &String| own.rsplit_once('@').is_some_and(|(_, own)| own == text);
        return image.id == digest || image.manifest == digest || image.repo_digests.iter().any(is_known_as);
    }
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    digits.len() >= MIN_DIGITS
        && digits.bytes().all(|b| b.is_ascii_hexdigit())
        && [image.id, image.manifest].iter().any(|own| own.hex().starts_with(digits))
}

fn not_found(images: &BTreeMap<Digest, ImageRecord>, name: &str) -> Error {
    let near: Vec<&str> = images
        .values()
        .flat_map(|image| &image.names)
        .filter(|own| is_near(own, name))
        .map(String::as_str)
        .take(3)
        .collect();
    let hint = match (near.is_empty(), images.is_empty()) {
        (false, _) => format!("did you mean {}?", near.join(" or ")),
        (true, true) => "the store is empty; import an image with `coracle image import`".to_owned(),
        (true, false) => "`coracle image ls` lists the images".to_owned(),
    };
    let short: String = name.chars().take(100).collect();
    Error::new(Kind::NotFound, format!("no image {short:?} in the store")).hint(hint)
}

/// Returns whether `typed` may be meant for `own`: a part of it, another tag, or one or two typing errors.
fn is_near(own: &str, typed: &str) -> bool {
    let repository = |name: &str| {
        let last = name.rsplit('/').next().unwrap_or(name);
        last.split([':', '@']).next().unwrap_or(last).to_owned()
    };
    let (ours, theirs) = (repository(own), repository(typed));
    !theirs.is_empty() && (ours.contains(&theirs) || distance(&ours, &theirs) <= 1 + ours.len() / 5)
}

/// The edit distance (Levenshtein): how many letters to change, insert or delete.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(128).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(128).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
