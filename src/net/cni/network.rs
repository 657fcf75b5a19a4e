//! Network configurations: choosing the file, and parsing it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::{Doing, Error, Kind, Result};

/// A network: a list of plugins that run one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    name: String,
    /// The CNI versions that the configuration offers.
    versions: Vec<String>,
    plugins: Vec<Plugin>,
    /// True if the configuration forbids GC (`disableGC`).
    no_garbage_collection: bool,
}

/// One plugin of a network, with its configuration.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plugin {
    /// The program's name.
    pub(super) program: String,
    /// The configuration, as in the file.
    pub(super) config: Map<String, Value>,
}

impl Network {
    /// The first usable configuration, by file name, of the first directory that has one. An unusable file does not
    /// hide those after it.
    pub(super) fn load(directories: &[PathBuf]) -> Result<Self> {
        let mut problems = Vec::new();
        for directory in directories {
            for file in files(directory)? {
                match read(&file) {
                    Ok(network) => return Ok(network),
                    Err(error) => problems.push(error.chain()),
                }
            }
        }
        let places: Vec<_> = directories.iter().map(|d| d.display().to_string()).collect();
        let mut message = format!("there is no network configuration in {}", places.join(", "));
        for problem in problems {
            message.push_str(&format!("; {problem}"));
        }
        Err(Error::new(Kind::NotFound, message)
            .hint("a network add-on, such as K3s's flannel or calico, writes one; it may still be starting"))
    }

    /// Parses a list of plugins, or a single plugin, which is taken as a list of one.
    ///
    /// # Errors
    /// `Invalid`, naming the field that is missing or malformed.
    pub fn parse(value: Value) -> Result<Self> {
        let Value::Object(mut top) = value else { return Err(Error::invalid("it is not a JSON object")) };
        let name = match top.get("name") {
            Some(Value::String(name)) if is_name(name) => name.clone(),
            Some(other) => return Err(Error::invalid(format!("name: {other} is not the name of a network"))),
            None => return Err(Error::invalid("name is missing")),
        };
        let versions = versions(&top)?;
        let no_garbage_collection = top.get("disableGC").and_then(Value::as_bool).unwrap_or(false);
        let plugins = match top.remove("plugins") {
            None => vec![plugin(Value::Object(top))?],
            Some(Value::Array(list)) if list.is_empty() => return Err(Error::invalid("plugins is empty")),
            Some(Value::Array(list)) => list.into_iter().map(plugin).collect::<Result<_>>()?,
            Some(_) => return Err(Error::invalid("plugins is not a list")),
        };
        Ok(Self { name, versions, plugins, no_garbage_collection })
    }

    /// The network's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn versions(&self) -> Vec<&str> {
        self.versions.iter().map(String::as_str).collect()
    }

    pub(super) fn plugins(&self) -> &[Plugin] {
        &self.plugins
    }

    pub(super) fn collects_garbage(&self) -> bool {
        !self.no_garbage_collection
    }

    /// The same network with only this version, so that DEL uses the version of ADD.
    pub(super) fn with_version(self, version: &str) -> Self {
        Self { versions: vec![version.to_owned()], ..self }
    }

    /// The network in the form that [`Network::parse`] reads.
    pub(super) fn value(&self) -> Value {
        let plugins: Vec<_> = self.plugins.iter().map(|p| &p.config).collect();
        json!({
            "name": self.name,
            "cniVersions": self.versions,
            "disableGC": self.no_garbage_collection,
            "plugins": plugins,
        })
    }
}

/// The configuration files of a directory, sorted by name; none when it does not exist.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let doing = || format!("read {}", directory.display());
    let entries = match std::fs::read_dir(directory) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        other => other.doing(doing)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.doing(doing)?.path();
        let kind = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if ["conf", "conflist", "json"].contains(&kind) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<Network> {
    let doing = || format!("use the network configuration {}", file.display());
    let text = std::fs::read(file).doing(doing)?;
    let value = serde_json::from_slice(&text).doing(doing)?;
    Network::parse(value).doing(doing)
}

fn plugin(value: Value) -> Result<Plugin> {
    let Value::Object(config) = value else { return Err(Error::invalid("a plugin is not a JSON object")) };
    match config.get("type") {
        Some(Value::String(program)) if is_name(program) => Ok(Plugin { program: program.clone(), config }),
        Some(other) => Err(Error::invalid(format!("type: {other} is not the name of a plugin"))),
        None => Err(Error::invalid("a plugin has no type")),
    }
}

/// `cniVersions`, else `cniVersion`. A file without either predates versions of the interface.
fn versions(top: &Map<String, Value>) -> Result<Vec<String>> {
    let refuse = |value: &Value| Error::invalid(format!("cniVersion: {value} is not a version"));
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| refuse(value));
    match (top.get("cniVersions"), top.get("cniVersion")) {
        (Some(Value::Array(list)), _) if !list.is_empty() => list.iter().map(text).collect(),
        (_, Some(one)) => Ok(vec![text(one)?]),
        _ => Ok(vec!["0.1.0".to_owned()]),
    }
}

/// Returns whether `text` is a safe name: plugins use the network's name in file names, and a program's name must not
/// lead out of its directory.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}
