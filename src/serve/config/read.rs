//! Loads the configuration: each file is checked alone, so that an error has a file and a line, and is then merged over the
//! defaults and the earlier files.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use toml::{Table, Value};

use super::Config;
use crate::error::{Doing, Error, Kind, Result};

/// Loads `file` and `config.d/*.toml` beside it. `file` may be missing unless `is_named`, that is, the user named it.
///
/// # Errors
/// `Invalid`, with file and line, for unknown keys and invalid values; `NotFound` when a named file is missing.
pub fn load(file: &Path, is_named: bool) -> Result<Config> {
    let mut whole = Table::try_from(Config::default()).map_err(bug)?;
    let directory = file.parent().unwrap_or(Path::new("/")).join("config.d");
    for path in std::iter::once(file.to_owned()).chain(parts(&directory)?) {
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound && !is_named => continue,
            other => other.doing(|| format!("read {}", path.display()))?,
        };
        merge(&mut whole, check(&path, &text)?);
    }
    Config::deserialize(whole).map_err(bug)
}

/// The configuration as TOML, including defaults.
///
/// # Errors
/// Never, as long as all values can be written as TOML.
pub fn to_toml(config: &Config) -> Result<String> {
    toml::to_string(config).map_err(bug)
}

fn bug(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Kind::Bug, "convert the configuration to or from TOML").because(error)
}

/// The files of `config.d`, sorted by name.
fn parts(directory: &Path) -> Result<Vec<PathBuf>> {
    let doing = || format!("list {}", directory.display());
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.doing(doing)?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>();
    let mut paths = paths.doing(doing)?;
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "toml"));
    paths.sort();
    Ok(paths)
}

/// Parses one file; every key and value must be valid.
fn check(path: &Path, text: &str) -> Result<Table> {
    if let Err(error) = toml::from_str::<Config>(text) {
        let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default();
        let (line, message) = (before.matches('\n').count() + 1, error.message());
        let error = Error::invalid(format!("{}:{line}: {}", path.display(), message.replace('\n', ", ")));
        return Err(match suggestion(message) {
            Some(near) => error.hint(format!("did you mean {near}?")),
            None => error.hint("`coracle config --default` shows every key with its meaning"),
        });
    }
    text.parse::<Table>().map_err(bug)
}

/// The key or value that the user may have meant, from serde's message: "unknown field `x`, expected one of `y`, `z`".
fn suggestion(message: &str) -> Option<String> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let typed = quoted.next().filter(|_| message.starts_with("unknown "))?;
    let near = quoted.map(|known| (strsim::levenshtein(typed, known), known)).min()?;
    (near.0 <= 1 + typed.chars().count() / 3).then(|| near.1.to_owned())
}

/// Merges tables; other values in `over` replace those in `below`.
fn merge(below: &mut Table, over: Table) {
    for (key, value) in over {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(over)) => merge(below, over),
            (_, value) => drop(below.insert(key, value)),
        }
    }
}

/// An absolute path, so that its meaning does not depend on the working directory.
pub(super) fn absolute<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(from)?;
    if path.is_absolute() {
        return Ok(path);
    }
    Err(D::Error::custom(format!("{:?} is not an absolute path", path.display().to_string())))
}

pub(super) fn some_absolute<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    absolute(from).map(Some)
}

pub(super) fn absolutes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
    #[derive(Deserialize)]
    struct One(#[serde(deserialize_with = "absolute")] PathBuf);
    Ok(Vec::<One>::deserialize(from)?.into_iter().map(|one| one.0).collect())
}

/// A timeout between a second and a day.
pub(super) fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    within(from, 1, 86_400, "seconds")
}

pub(super) fn tries<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    within(from, 1, 1000, "tries").map(|count| count as u32)
}

/// A number of concurrent calls. With fewer, slow calls would delay those that kubelet's health depends on; each running
/// call needs a thread.
pub(super) fn calls<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    within(from, 4, 512, "calls").map(|count| count as u32)
}

fn within<'de, D: Deserializer<'de>>(from: D, least: u64, most: u64, what: &str) -> Result<u64, D::Error> {
    let value = i64::deserialize(from)?;
    let fits = u64::try_from(value).ok().filter(|value| (least..=most).contains(value));
    fits.ok_or_else(|| D::Error::custom(format!("{value} {what} are not between {least} and {most}")))
}
