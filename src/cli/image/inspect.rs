//! `coracle image inspect`: show an image as JSON.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{print_json, summary};
use crate::cli::Context;
use crate::digest::Digest;
use crate::error::{Doing, Result};
use crate::store::Store;

#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// A name, an id or its first digits
    #[arg(value_name = "NAME|ID")]
    image: String,
}

/// Runs the verb.
pub(super) fn run(ctx: &Context, args: &InspectArgs) -> Result<ExitCode> {
    let store = Store::open(&ctx.store)?;
    let image = store.find(&args.image)?;
    let read = |digest: &Digest| -> Result<Value> {
        serde_json::from_slice(&store.blob(digest)?).doing(|| format!("read {digest}"))
    };
    let manifest = read(&image.manifest)?;
    let blobs = manifest["layers"].as_array().cloned().unwrap_or_default();
    let layers = store.layers(&image)?.into_iter().enumerate().map(|(index, layer)| {
        let blob = blobs.get(index).unwrap_or(&Value::Null);
        json!({
            "digest": blob["digest"],
            "mediaType": blob["mediaType"],
            "blobSize": blob["size"],
            "diffId": layer.diff_id,
            "size": layer.size_bytes,
            "path": store.lower_dir(layer.id),
        })
    });
    let mut whole = summary(&image);
    whole["layers"] = layers.collect();
    whole["config"] = read(&image.id)?;
    print_json(&whole)?;
    Ok(ExitCode::SUCCESS)
}
