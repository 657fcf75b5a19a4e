//! Volumes that an image asks for.

use std::path::Path;

use oci_spec::image::Config as ImageConfig;
use oci_spec::runtime::Mount;

use super::user;
use crate::error::{Doing, Result};
use crate::linux::private;

/// Mounts for the image's volumes that nothing of the user's covers (`is_covered`). Where the image has the directory, the
/// writable layer serves as well as a volume would; under a read-only root it is copied to memory. Where it has none, an
/// empty one below `directory` is bound.
///
/// # Errors
/// A directory cannot be made.
pub fn of_image(
    image: &ImageConfig,
    is_covered: &dyn Fn(&Path) -> bool,
    read_only: bool,
    directory: &Path,
    root: &Path,
) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for (number, target) in image.volumes().iter().flatten().enumerate() {
        let target = Path::new(target);
        if !target.is_absolute() || is_covered(target) {
            continue;
        }
        let mut mount = Mount::default();
        mount.set_destination(target.to_owned());
        let strings = |list: &[&str]| Some(list.iter().map(|s| (*s).to_owned()).collect());
        match (user::exists_beneath(root, target), read_only) {
            (true, false) => continue,
            (true, true) => {
                mount.set_typ(Some("tmpfs".to_owned())).set_source(Some("tmpfs".into()));
                mount.set_options(strings(&["nosuid", "nodev", "tmpcopyup"]));
            }
            (false, _) => {
                let source = directory.join(format!("volume{number}"));
                private::make_dirs(&source, private::SHARED_DIR)
                    .doing(|| format!("make {}", source.display()))?;
                mount.set_typ(Some("bind".to_owned())).set_source(Some(source));
                mount.set_options(strings(&["rbind", "rprivate"]));
            }
        }
        mounts.push(mount);
    }
    Ok(mounts)
}
