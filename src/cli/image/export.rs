//! `coracle image export`: write images as an OCI layout or as `docker save` does.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::Context;
use crate::error::Result;
use crate::image::export::{Format, Named, Target, export};
use crate::store::Store;

#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// Names to export; or ids, to export an image with all its names
    #[arg(required = true, value_name = "NAME|ID")]
    images: Vec<String>,
    /// The file or directory to write; `-` is standard output
    #[arg(short, long, value_name = "PATH|-")]
    output: PathBuf,
    /// An OCI layout in a tar, one in a directory, or the archive of `docker save` (which is an OCI layout too)
    #[arg(long, value_enum, default_value = "oci")]
    format: Shape,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Shape {
    #[value(alias = "oci-archive")]
    Oci,
    OciDir,
    #[value(alias = "docker-archive")]
    Docker,
}

/// Runs the verb.
pub(super) fn run(ctx: &Context, args: &ExportArgs) -> Result<ExitCode> {
    let store = Store::open(&ctx.store)?;
    let mut images: Vec<Named> = Vec::new();
    for name in &args.images {
        let (image, called) = store.find_named(name)?;
        let names = called.map_or_else(|| image.names.clone(), |name| vec![name]);
        match images.iter_mut().find(|known| known.image.manifest == image.manifest) {
            Some(known) => {
                let more: Vec<String> =
                    names.into_iter().filter(|name| !known.names.contains(name)).collect();
                known.names.extend(more);
            }
            None => images.push(Named { image, names }),
        }
    }
    let target = match (args.shape(), args.output == Path::new("-")) {
        (Shape::OciDir, _) => Target::Dir(args.output.clone()),
        (_, true) => Target::Stdout,
        (_, false) => Target::Archive(args.output.clone()),
    };
    let format = if args.format == Shape::Docker { Format::Docker } else { Format::Oci };
    export(&store, images, format, target)?;
    Ok(ExitCode::SUCCESS)
}

impl ExportArgs {
    /// Write a directory if the path ends in a slash or is a directory.
    fn shape(&self) -> Shape {
        let is_dir = self.output.as_os_str().as_encoded_bytes().ends_with(b"/") || self.output.is_dir();
        if self.format == Shape::Oci && is_dir { Shape::OciDir } else { self.format }
    }
}
