//! Builds image layouts and archives, whole and broken, for the tests of the image store.
#![expect(clippy::unwrap_used, reason = "the parts that tests share fail as tests do")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use coracle::digest::Digest;
use serde_json::{Value, json};

/// What a layer's blob is compressed with.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Pack {
    Plain,
    Gzip,
    Zstd,
}

impl Pack {
    pub(crate) fn pack(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain => bytes.to_vec(),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Self::Zstd => zstd::encode_all(bytes, 3).unwrap(),
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// A member of a tar.
pub(crate) enum Member<'a> {
    File(&'a str, &'a [u8]),
    Program(&'a str, &'a [u8]),
    Dir(&'a str, u32),
    Symlink(&'a str, &'a str),
    HardLink(&'a str, &'a str),
    Fifo(&'a str),
}

/// A tar of `members`, closed by two zero blocks.
pub(crate) fn tar(members: &[Member<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for member in members {
        let (name, kind, mode, link, data): (&str, u8, u32, &str, &[u8]) = match member {
            Member::File(name, data) => (name, b'0', 0o644, "", data),
            Member::Program(name, data) => (name, b'0', 0o755, "", data),
            Member::Dir(name, mode) => (name, b'5', *mode, "", b""),
            Member::Symlink(name, target) => (name, b'2', 0o777, target, b""),
            Member::HardLink(name, target) => (name, b'1', 0o644, target, b""),
            Member::Fifo(name) => (name, b'6', 0o644, "", b""),
        };
        let mut block = [0u8; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(format!("{mode:07o}").as_bytes());
        block[108..115].copy_from_slice(b"0000000");
        block[116..123].copy_from_slice(b"0000000");
        block[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
        block[136..147].copy_from_slice(format!("{:011o}", 1_700_000_000).as_bytes());
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend(block);
        out.extend(data);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// A layout in the making: files by their path in it.
#[derive(Clone)]
pub(crate) struct Layout {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) index: Value,
}

/// An image to add to a layout.
pub(crate) struct Image<'a> {
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) pack: Pack,
    pub(crate) platform: &'a str,
    pub(crate) name: Option<&'a str>,
}

/// An image for this machine, with a file `etc/name` that holds its name and one layer above it.
pub(crate) fn image(name: &str) -> Image<'_> {
    let base = [Member::Dir("etc/", 0o755), Member::File("etc/name", name.as_bytes())];
    let top = [Member::Dir("bin/", 0o755), Member::File("bin/app", b"#!/bin/app")];
    Image { layers: vec![tar(&base), tar(&top)], pack: Pack::Gzip, platform: "", name: Some(name) }
}

pub(crate) fn sha(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

impl Layout {
    pub(crate) fn new() -> Self {
        let mut files = BTreeMap::new();
        files.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        let media_type = "application/vnd.oci.image.index.v1+json";
        Self { files, index: json!({"schemaVersion": 2, "mediaType": media_type, "manifests": []}) }
    }

    pub(crate) fn of(image: Image<'_>) -> Self {
        let mut layout = Self::new();
        layout.add(image);
        layout
    }

    /// Adds a blob and returns its descriptor.
    pub(crate) fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let descriptor = json!({"mediaType": media_type, "digest": sha(&bytes), "size": bytes.len()});
        self.files.insert(path_of(&descriptor), bytes);
        descriptor
    }

    /// Adds an image to the index and returns its descriptor there.
    pub(crate) fn add(&mut self, image: Image<'_>) -> Value {
        let mut descriptor = self.manifest(&image);
        if let Some(name) = image.name {
            descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        self.entries().push(descriptor.clone());
        descriptor
    }

    /// Adds an image's blobs and returns the descriptor of its manifest, with its platform.
    pub(crate) fn manifest(&mut self, image: &Image<'_>) -> Value {
        let platform = if image.platform.is_empty() {
            coracle::image::platform::host()
        } else {
            coracle::image::platform::parse(image.platform).unwrap()
        };
        let platform = serde_json::to_value(platform).unwrap();
        let diff_ids: Vec<String> = image.layers.iter().map(|layer| sha(layer)).collect();
        let mut config = platform.clone();
        config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        config["config"] = json!({"Cmd": ["/bin/app"], "Env": ["A=b"]});
        let layers: Vec<Value> = image
            .layers
            .iter()
            .map(|layer| self.blob(image.pack.media_type(), image.pack.pack(layer)))
            .collect();
        let config =
            self.blob("application/vnd.oci.image.config.v1+json", serde_json::to_vec(&config).unwrap());
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers});
        let mut descriptor = self.blob(manifest_type, serde_json::to_vec(&manifest).unwrap());
        descriptor["platform"] = platform;
        descriptor
    }

    pub(crate) fn entries(&mut self) -> &mut Vec<Value> {
        self.index["manifests"].as_array_mut().unwrap()
    }

    /// The blob that a descriptor names, parsed.
    pub(crate) fn json(&self, descriptor: &Value) -> Value {
        serde_json::from_slice(&self.files[&path_of(descriptor)]).unwrap()
    }

    /// Replaces the only image's manifest by an edited one, digests put right again.
    pub(crate) fn edit_manifest(&mut self, edit: impl FnOnce(&mut Value)) {
        let old = self.entries().remove(0);
        let mut manifest = self.json(&old);
        edit(&mut manifest);
        let mut new = self.blob(old["mediaType"].as_str().unwrap(), serde_json::to_vec(&manifest).unwrap());
        new["annotations"] = old["annotations"].clone();
        new["platform"] = old["platform"].clone();
        self.entries().push(new);
    }

    /// As [`Self::edit_manifest`], for the configuration.
    pub(crate) fn edit_config(&mut self, edit: impl FnOnce(&mut Value)) {
        let manifest = self.json(&self.index["manifests"][0].clone());
        let mut config = self.json(&manifest["config"]);
        edit(&mut config);
        let new = self.blob("application/vnd.oci.image.config.v1+json", serde_json::to_vec(&config).unwrap());
        self.edit_manifest(|manifest| manifest["config"] = new);
    }

    /// The path of the only image's layer `n`.
    pub(crate) fn layer(&self, n: usize) -> String {
        path_of(&self.json(&self.index["manifests"][0].clone())["layers"][n])
    }

    fn with_index(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = self.files.clone();
        files.entry("index.json".to_owned()).or_insert_with(|| serde_json::to_vec(&self.index).unwrap());
        files
    }

    pub(crate) fn write(&self, dir: &Path) {
        for (path, bytes) in self.with_index() {
            let path = dir.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }

    /// What [`Self::write`] wrote.
    pub(crate) fn read(dir: &Path) -> Self {
        let mut layout = Self::new();
        for entry in std::fs::read_dir(dir.join("blobs/sha256")).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("blobs/sha256/{}", path.file_name().unwrap().to_str().unwrap());
            layout.files.insert(name, std::fs::read(&path).unwrap());
        }
        layout.index = serde_json::from_slice(&std::fs::read(dir.join("index.json")).unwrap()).unwrap();
        layout
    }

    /// As a tar; `blobs` come before `index.json` in the alphabet, and with `index_first` after it.
    pub(crate) fn tar(&self, index_first: bool) -> Vec<u8> {
        let files = self.with_index();
        let mut names: Vec<&String> = files.keys().collect();
        if index_first {
            // The index, then documents, then layers.
            names.sort_by_key(|name| (name.starts_with("blobs"), !files[*name].starts_with(b"{"), *name));
        }
        let members: Vec<Member<'_>> =
            names.into_iter().map(|name| Member::File(name, &files[name])).collect();
        tar(&members)
    }
}

/// Where the blob of a descriptor lies.
pub(crate) fn path_of(descriptor: &Value) -> String {
    format!("blobs/{}", descriptor["digest"].as_str().unwrap().replace(':', "/"))
}

/// Files of a docker archive of one image: layers are named as old dockers did.
pub(crate) fn docker_archive(image: &Image<'_>, tag: &str) -> Vec<(String, Vec<u8>)> {
    let mut layout = Layout::new();
    let descriptor = layout.manifest(image);
    let manifest = layout.json(&descriptor);
    let config = layout.files[&path_of(&manifest["config"])].clone();
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let mut files = Vec::new();
    let mut paths = Vec::new();
    for (n, layer) in image.layers.iter().enumerate() {
        let path = format!("{}/layer.tar", Digest::of(format!("{n}{tag}").as_bytes()).hex());
        files.push((path.replace("layer.tar", "VERSION"), b"1.0".to_vec()));
        files.push((path.replace("layer.tar", "json"), b"{}".to_vec()));
        files.push((path.clone(), image.pack.pack(layer)));
        paths.push(path);
    }
    let tags = if tag.is_empty() { Value::Null } else { json!([tag]) };
    let manifest = json!([{"Config": config_name, "RepoTags": tags, "Layers": paths}]);
    files.push((config_name, config));
    files.push(("manifest.json".to_owned(), serde_json::to_vec(&manifest).unwrap()));
    files
}

/// A tar of plain files.
pub(crate) fn tar_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let members: Vec<Member<'_>> = files.iter().map(|(name, data)| Member::File(name, data)).collect();
    tar(&members)
}
