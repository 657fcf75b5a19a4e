//! Manifests, indexes and configurations: read within limits and verified; unsupported kinds are refused by name.

use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};

use crate::digest::Digest;
use crate::error::{Doing, Error, Kind, Result};
use crate::store::MAX_DOCUMENT;
use crate::store::{image_config, remove_nulls};

/// The most bytes of one archive's documents kept in memory; further ones are parked in files.
pub(super) const MAX_KEPT: usize = 16 << 20;
/// A document of at most this many bytes is read leniently. The tree for that takes many times as much memory.
const MAX_LENIENT: usize = 1 << 20;
/// The most layers that overlayfs(5) accepts.
const MAX_LAYERS: usize = 500;

/// An open blob with its length.
pub(super) struct Opened<'a> {
    pub(super) reader: Box<dyn Read + 'a>,
    pub(super) size: u64,
}

/// The blobs of one source.
pub(super) trait Blobs {
    /// Opens a blob; `None` when the source does not have it (yet). The bytes are not verified.
    fn open(&self, digest: &Digest) -> Result<Option<Opened<'_>>>;

    /// Opens a manifest, index or configuration.
    fn open_document(&self, digest: &Digest, _descriptor: &Descriptor) -> Result<Option<Opened<'_>>> {
        self.open(digest)
    }

    /// Returns whether reading is cheap enough to verify even blobs that are not needed.
    fn is_cheap(&self) -> bool {
        true
    }
}

/// A document that leads to other documents.
#[derive(Debug)]
pub(super) enum Document {
    Index(Box<ImageIndex>),
    Manifest(Box<ImageManifest>),
}

/// Reads and verifies the small blob of `descriptor`.
///
/// # Errors
/// `NotFound` only when the blob is missing; `Corrupt` when its bytes differ; `Invalid` beyond [`MAX_DOCUMENT`].
pub(super) fn fetch(blobs: &dyn Blobs, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let digest = digest_of(descriptor)?;
    if descriptor.size() > MAX_DOCUMENT {
        return Err(too_big(&digest.to_string(), descriptor.size()));
    }
    let embedded = embedded(descriptor, &digest)?;
    let bytes = match (blobs.open_document(&digest, descriptor)?, embedded) {
        (Some(opened), _) => read_within(opened.reader, &digest.to_string())?,
        (None, Some(data)) => data,
        (None, None) => return Err(missing(&digest)),
    };
    check(&bytes, descriptor, &digest)?;
    Ok(bytes)
}

/// Reads a whole document of at most [`MAX_DOCUMENT`] bytes.
pub(super) fn read_within(reader: impl Read, name: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).doing(|| format!("read {name}"))?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(too_big(name, bytes.len() as u64));
    }
    Ok(bytes)
}

/// The digest in a descriptor, in the only form that may become a path.
pub(super) fn digest_of(descriptor: &Descriptor) -> Result<Digest> {
    let text = descriptor.digest().to_string();
    if !text.starts_with("sha256:") {
        let doing = format!("digest {:?} is not a sha256 one", text.chars().take(80).collect::<String>());
        return Err(Error::new(Kind::Unsupported, doing));
    }
    Digest::parse(&text)
}

/// The error for a missing blob.
pub(super) fn missing(digest: &Digest) -> Error {
    Error::new(Kind::NotFound, format!("blob {digest} is missing"))
        .hint("the image is incomplete; write it again, with all its blobs")
}

fn too_big(name: &str, size: u64) -> Error {
    Error::invalid(format!(
        "{name} has {size} bytes or more; a manifest, index or configuration may have {MAX_DOCUMENT}"
    ))
}

/// SPEC(image 1.1 descriptor.md #embedded-content): the bytes in `data` must be those of the blob.
fn embedded(descriptor: &Descriptor, digest: &Digest) -> Result<Option<Vec<u8>>> {
    let Some(text) = descriptor.data() else { return Ok(None) };
    let data = STANDARD.decode(text).map_err(|_| {
        Error::new(Kind::Corrupt, format!("the data embedded for blob {digest} is not base64"))
    })?;
    check(&data, descriptor, digest).map_err(|e| e.doing("check the data embedded in a descriptor"))?;
    Ok(Some(data))
}

fn check(bytes: &[u8], descriptor: &Descriptor, digest: &Digest) -> Result<()> {
    if bytes.len() as u64 != descriptor.size() {
        return Err(wrong_size(digest, descriptor.size(), bytes.len() as u64));
    }
    let actual = Digest::of(bytes);
    if actual != *digest {
        return Err(wrong_digest(digest, &actual));
    }
    Ok(())
}

/// The error for a size that differs from the descriptor's.
pub(super) fn wrong_size(digest: &Digest, promised: u64, actual: u64) -> Error {
    Error::new(Kind::Corrupt, format!("blob {digest} has {actual} bytes; its descriptor says {promised}"))
        .hint("the image is damaged; download it again")
}

/// The error for bytes that do not have the expected digest.
pub(super) fn wrong_digest(promised: &Digest, actual: &Digest) -> Error {
    Error::new(Kind::Corrupt, format!("blob {promised} is damaged: its bytes have digest {actual}"))
        .hint("the image is damaged; download it again")
}

/// The fields that determine the kind of a document.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

/// Determines the kind of a document from its fields, and refuses one that could be read as two kinds (CVE-2021-41190).
pub(super) fn parse(bytes: &[u8], claimed: Option<&str>) -> Result<Document> {
    let outline: Outline = serde_json::from_slice(bytes).doing(|| "read a manifest")?;
    if outline.fs_layers.is_some() || outline.schema_version == Some(1) {
        let doing = "the manifest is of docker's schema 1, which docker itself no longer supports";
        return Err(
            Error::new(Kind::Unsupported, doing).hint("push or save the image again with a newer docker")
        );
    }
    let is_index = outline.manifests.is_some();
    let is_manifest = outline.layers.is_some() || outline.config.is_some();
    if is_index && is_manifest {
        return Err(Error::new(Kind::Corrupt, "the document is both an index and a manifest"));
    }
    for media_type in [outline.media_type.as_deref(), claimed].into_iter().flatten() {
        check_media_type(&bare(media_type), is_index)?;
    }
    if is_index {
        return read_lenient(bytes).map(|index| Document::Index(Box::new(index))).doing(|| "read an index");
    }
    let manifest: ImageManifest = read_lenient(bytes).doing(|| "read a manifest")?;
    check_manifest(&manifest)?;
    Ok(Document::Manifest(Box::new(manifest)))
}

/// Reads a document as Go's parser does: a field that is null or absent has an empty value. Sizes and digests stay required.
fn read_lenient<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    let strict = serde_json::from_slice(bytes);
    if strict.is_ok() || bytes.len() > MAX_LENIENT {
        return strict;
    }
    let mut document: Value = serde_json::from_slice(bytes)?;
    remove_nulls(&mut document);
    let Some(fields) = document.as_object_mut() else { return strict };
    fields.entry("schemaVersion").or_insert_with(|| json!(2));
    match fields.get_mut("manifests") {
        Some(manifests) => manifests.as_array_mut().into_iter().flatten().for_each(complete),
        None => {
            let layers = fields.entry("layers").or_insert_with(|| json!([]));
            layers.as_array_mut().into_iter().flatten().for_each(complete);
            fields.get_mut("config").into_iter().for_each(complete);
        }
    }
    serde_json::from_value(document)
}

/// Completes a descriptor.
fn complete(descriptor: &mut Value) {
    let Some(fields) = descriptor.as_object_mut() else { return };
    fields.entry("mediaType").or_insert_with(|| json!(""));
    if let Some(platform) = fields.get_mut("platform").and_then(Value::as_object_mut) {
        platform.entry("architecture").or_insert_with(|| json!(""));
        platform.entry("os").or_insert_with(|| json!(""));
    }
}

/// A media type without its parameters, in lower case (RFC 9110 section 8.3.1).
fn bare(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn check_media_type(media_type: &str, is_index: bool) -> Result<()> {
    let says_index = match media_type {
        "application/vnd.oci.image.index.v1+json"
        | "application/vnd.docker.distribution.manifest.list.v2+json" => true,
        "application/vnd.oci.image.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v2+json" => false,
        "" => return Ok(()),
        other => return Err(not_an_image(other)),
    };
    if says_index != is_index {
        let doing = format!("the document is not of its claimed type {media_type}");
        return Err(Error::new(Kind::Corrupt, doing));
    }
    Ok(())
}

fn not_an_image(media_type: &str) -> Error {
    let short: String = media_type.chars().take(120).collect();
    Error::new(Kind::Unsupported, format!("{short:?} is not a runnable image"))
}

fn check_manifest(manifest: &ImageManifest) -> Result<()> {
    let config = manifest.config().media_type().as_ref();
    match bare(config).as_str() {
        "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json" => {}
        // What old registries and clients made of the type, which docker takes. It says nothing, so the content decides: the
        // configuration must have as many layers as the manifest.
        "" | "application/octet-stream" | "application/json" | "text/html" | "text/plain"
            if manifest.artifact_type().is_none() => {}
        _ => {
            let artifact = manifest.artifact_type().as_ref().map_or(config, AsRef::as_ref);
            return Err(not_an_image(artifact));
        }
    }
    if manifest.layers().len() > MAX_LAYERS {
        let doing = format!("the image has {} layers; overlayfs takes {MAX_LAYERS}", manifest.layers().len());
        return Err(Error::new(Kind::Unsupported, doing));
    }
    manifest.layers().iter().try_for_each(|layer| check_layer_type(layer.media_type().as_ref()))
}

/// The compression of a layer is detected from its bytes; its type shows only whether it is a tar of files.
fn check_layer_type(media_type: &str) -> Result<()> {
    let media_type = &bare(media_type);
    if media_type.ends_with("+encrypted") {
        return Err(Error::new(Kind::Unsupported, format!("a layer is encrypted ({media_type})"))
            .hint("decrypt the image first, for example with skopeo copy --decryption-key"));
    }
    let bare = ["+gzip", "+zstd", ".gzip", ".zstd"].iter().find_map(|end| media_type.strip_suffix(end));
    match bare.unwrap_or(media_type) {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar" => Ok(()),
        // These say no more than that there are bytes, or a tar.
        ""
        | "application/octet-stream"
        | "application/tar"
        | "application/x-tar"
        | "application/gzip"
        | "application/x-gzip"
        | "application/zstd" => Ok(()),
        _ => {
            let short: String = media_type.chars().take(120).collect();
            Err(Error::new(Kind::Unsupported, format!("a layer has the unknown type {short:?}")))
        }
    }
}

/// Parses a configuration and its diffIDs.
pub(super) fn parse_config(bytes: &[u8]) -> Result<(ImageConfiguration, Vec<Digest>)> {
    let config = image_config(bytes).doing(|| "read the configuration")?;
    let diff_ids =
        config.rootfs().diff_ids().iter().map(|text| Digest::parse(text)).collect::<Result<Vec<_>>>()?;
    if diff_ids.len() > MAX_LAYERS {
        let doing = format!("the image has {} layers; overlayfs takes {MAX_LAYERS}", diff_ids.len());
        return Err(Error::new(Kind::Unsupported, doing));
    }
    Ok((config, diff_ids))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const CONFIG: &str = r#"{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,
        "digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}"#;

    fn kind_of(json: &str, claimed: Option<&str>) -> Kind {
        parse(json.as_bytes(), claimed).unwrap_err().kind()
    }

    #[test]
    fn cve_2021_41190_a_document_is_either_index_or_manifest() {
        let both = format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"manifests":[]}}"#);
        assert_eq!(kind_of(&both, None), Kind::Corrupt);
        let manifest = format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[]}}"#);
        assert!(matches!(parse(manifest.as_bytes(), Some(MANIFEST)).unwrap(), Document::Manifest(_)));
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        assert_eq!(kind_of(index, Some(MANIFEST)), Kind::Corrupt);
        assert!(matches!(parse(index.as_bytes(), None).unwrap(), Document::Index(_)));
    }

    #[test]
    fn odd_media_types_of_images_are_taken_and_those_of_artifacts_are_not() {
        let read = |config: &str, layer: &str, more: &str| {
            let layer = CONFIG.replace("application/vnd.oci.image.config.v1+json", layer);
            let config = CONFIG.replace("application/vnd.oci.image.config.v1+json", config);
            let text = format!(r#"{{"schemaVersion":2,{more}"config":{config},"layers":[{layer}]}}"#);
            parse(text.as_bytes(), None).map(drop)
        };
        let (config, layer) =
            ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar");
        for odd in [
            "application/octet-stream",
            "application/json",
            "text/html",
            "text/plain; charset=utf-8",
            "",
            "Application/vnd.OCI.image.config.v1+JSON",
            "application/vnd.docker.container.image.v1+json; charset=utf-8",
        ] {
            read(odd, layer, "").unwrap();
        }
        for odd in [
            "application/octet-stream",
            "application/x-tar",
            "application/tar+gzip",
            "application/x-gzip",
            "",
            "application/vnd.docker.image.rootfs.diff.tar.zstd",
            "application/vnd.docker.image.rootfs.diff.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar+GZIP; x=y",
        ] {
            read(config, odd, "").unwrap();
        }
        for bad in
            ["application/vnd.oci.empty.v1+json", "application/vnd.wasm.config.v0+json", "application/xml"]
        {
            assert_eq!(read(bad, layer, "").unwrap_err().kind(), Kind::Unsupported, "{bad}");
        }
        for bad in ["application/vnd.oci.empty.v1+json", "application/vnd.erofs.layer.v1", "text/spdx"] {
            assert_eq!(read(config, bad, "").unwrap_err().kind(), Kind::Unsupported, "{bad}");
        }
        let artifact = r#""artifactType":"application/vnd.example","#;
        assert_eq!(read("application/json", layer, artifact).unwrap_err().kind(), Kind::Unsupported);
    }

    #[test]
    fn null_and_absent_fields_of_manifests_are_empty() {
        let read = |text: &str| parse(text.as_bytes(), None);
        for text in [
            format!(r#"{{"config":{CONFIG},"layers":null,"annotations":null,"subject":null}}"#),
            format!(r#"{{"schemaVersion":2,"mediaType":"","config":{CONFIG}}}"#),
        ] {
            assert!(matches!(read(&text).unwrap(), Document::Manifest(_)), "{text}");
        }
        for platform in ["null", "{}", r#"{"os":"linux","architecture":null}"#, r#"{"variant":null,"os":""}"#]
        {
            let entry = CONFIG
                .replace("config.v1", "manifest.v1")
                .replace(r#""size""#, &format!(r#""platform":{platform},"size""#));
            let text = format!(r#"{{"mediaType":null,"manifests":[{entry}]}}"#);
            assert!(matches!(read(&text).unwrap(), Document::Index(_)), "{text}");
        }
        for bad in
            [r#"{"config":null,"layers":[]}"#, r#"{"config":{},"layers":[]}"#, r#"{"manifests":[{}]}"#, "{}"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn other_artifacts_are_refused_by_their_type() {
        let says = |json: &str| parse(json.as_bytes(), None).unwrap_err().chain();
        assert!(says(r#"{"schemaVersion":1,"fsLayers":[]}"#).contains("schema 1"));
        let helm = CONFIG.replace("application/vnd.oci.image.config", "application/vnd.cncf.helm.config");
        assert!(says(&format!(r#"{{"schemaVersion":2,"config":{helm},"layers":[]}}"#)).contains("helm"));
        let layer = CONFIG.replace("image.config.v1+json", "image.layer.v1.tar+gzip+encrypted");
        let encrypted = format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[{layer}]}}"#);
        assert!(says(&encrypted).contains("encrypted"));
        let layer = CONFIG.replace("image.config.v1+json", "image.squashfs");
        assert!(
            says(&format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[{layer}]}}"#))
                .contains("squashfs")
        );
    }

    proptest::proptest! {
        /// A valid manifest with some of its bytes replaced.
        #[test]
        fn a_spoilt_document_is_read_or_refused(at in 0usize..400, spoilt in "\\PC{0,8}", claimed in 0u8..2) {
            let layer = CONFIG.replace("image.config.v1+json", "image.layer.v1.tar+gzip");
            let mut text = format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[{layer}],"annotations":{{}}}}"#);
            let at = at.min(text.len());
            let end = (at + spoilt.len()).min(text.len());
            text.replace_range(at..end, &spoilt);
            let _ = parse(text.as_bytes(), (claimed == 1).then_some(MANIFEST));
            let _ = parse_config(text.as_bytes());
        }
    }
}
