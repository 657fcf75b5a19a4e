//! `coracle image tag`: adds names to an image.

use std::process::ExitCode;

use crate::cli::Context;
use crate::error::{Error, Kind, Result};
use crate::store::Store;
use crate::store::reference::Reference;

#[derive(Debug, clap::Args)]
pub(super) struct TagArgs {
    /// A name, an id or its first digits
    #[arg(value_name = "NAME|ID")]
    image: String,
    /// New names; if another image has one, it loses it
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// Runs the verb.
pub(super) fn run(ctx: &Context, args: &TagArgs) -> Result<ExitCode> {
    let names = args.names.iter().map(|name| tag_of(name)).collect::<Result<Vec<_>>>()?;
    let store = Store::open(&ctx.store)?;
    let image = store.find(&args.image)?;
    store
        .tag(&image.manifest, &names)?
        .ok_or_else(|| Error::new(Kind::NotFound, format!("image {} was removed meanwhile", image.id)))?;
    Ok(ExitCode::SUCCESS)
}

/// Parses a name that can be given to an image; a digest cannot, because it belongs to its content.
fn tag_of(name: &str) -> Result<String> {
    let reference = Reference::parse(name)?;
    if reference.digest().is_some() {
        return Err(Error::invalid(format!("{name} has a digest, which cannot be given to an image")));
    }
    Ok(reference.to_string())
}
