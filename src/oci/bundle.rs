//! A bundle: a directory with `config.json`. SPEC(runtime 1.2 #filesystem-bundle)

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::error::{Doing, Error, Kind, Result};

/// The largest accepted configuration, in bytes.
const MAX_CONFIG: u64 = 16 << 20;

/// Reads a bundle's configuration; also returns the bundle's absolute path.
///
/// # Errors
/// `NotFound` if the bundle or its configuration does not exist, `Invalid` naming the field that is wrong.
pub fn load(bundle: &Path) -> Result<(PathBuf, Spec)> {
    let absolute = std::path::absolute(bundle).doing(|| format!("find the bundle {}", bundle.display()))?;
    let path = absolute.join("config.json");
    let hint =
        "a bundle is a directory with config.json and a root filesystem; `coracle spec` writes a config.json";
    let size = std::fs::metadata(&path)
        .doing(|| format!("read {}", path.display()))
        .map_err(|e| e.hint(hint))?
        .len();
    if size > MAX_CONFIG {
        return Err(Error::invalid(format!(
            "{} has {size} bytes: too large for a configuration",
            path.display()
        )));
    }
    let text = std::fs::read(&path).doing(|| format!("read {}", path.display())).map_err(|e| e.hint(hint))?;
    let mut spec = parse(&path, &text)?;
    let root = spec.root().as_ref().map(|root| absolute.join(root.path()));
    if let (Some(process), Some(root)) = (spec.process_mut(), root) {
        crate::spec::user::complete_home(process, &root);
    }
    Ok((absolute, spec))
}

fn parse(path: &Path, text: &[u8]) -> Result<Spec> {
    serde_json::from_slice(text).map_err(|e| {
        if e.is_syntax() || e.is_eof() {
            return Error::new(Kind::Invalid, format!("{} is not JSON", path.display())).because(e);
        }
        // Parse again with a tracker of the path, which is too slow for every start but names the field.
        let field =
            serde_path_to_error::deserialize::<_, Spec>(&mut serde_json::Deserializer::from_slice(text))
                .map_or_else(|e| e.path().to_string(), |_| String::new());
        let what = format!("{} is not a runtime configuration: {field}", path.display());
        Error::new(Kind::Invalid, what).because(e)
    })
}

/// Reads a `process.json` for `exec --process`.
///
/// # Errors
/// As [`load`].
pub fn load_process(path: &Path) -> Result<oci_spec::runtime::Process> {
    let text = std::fs::read(path).doing(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).map_err(|e| {
        Error::new(Kind::Invalid, format!("{} is not a valid process configuration", path.display()))
            .because(e)
    })
}
