//! Names of images in an archive.

use std::collections::HashMap;

use crate::error::Result;
use crate::store::reference::{Reference, is_tag};

/// The full name, as containerd and docker write it.
const IMAGE_NAME: &str = "io.containerd.image.name";
/// SPEC(image 1.1 annotations.md): some writers put a full name here, others only a tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The normalised name in the annotations of an entry of `index.json`.
///
/// A bare tag becomes `localhost/<label>:<tag>`, where `label` is the name of the source; without a label it gives no
/// name.
///
/// # Errors
/// `Invalid` when the text cannot be a name.
pub(super) fn of_annotations(
    annotations: Option<&HashMap<String, String>>,
    label: Option<&str>,
) -> Result<Option<String>> {
    let find = |key: &str| annotations.and_then(|all| all.get(key)).map(String::as_str);
    let full = find(IMAGE_NAME).or_else(|| find(REF_NAME).filter(|name| !is_tag(name)));
    if let Some(name) = full {
        return Reference::parse(name).map(|reference| Some(reference.to_string()));
    }
    let local = label.and_then(repository).zip(find(REF_NAME));
    Ok(local.map(|(repository, tag)| format!("localhost/{repository}:{tag}")))
}

/// The label of a source, converted to a valid repository.
fn repository(label: &str) -> Option<String> {
    let path = label.to_lowercase();
    Reference::parse(&format!("localhost/{path}")).ok().map(|_| path)
}

/// The label of a file or directory: its name without the suffixes of archives; `app.tar.gz` gives `app`.
pub(super) fn label_of(path: &std::path::Path) -> Option<String> {
    let whole = path.canonicalize().ok()?;
    let mut name = whole.file_name()?.to_str()?;
    for end in [
        ".gz", ".tgz", ".zst", ".zstd", ".tzst", ".bz2", ".tbz", ".tbz2", ".lz4", ".tlz4", ".xz", ".txz",
        ".tar", ".oci",
    ] {
        let at = name.len().saturating_sub(end.len());
        if name.get(at..).is_some_and(|tail| tail.eq_ignore_ascii_case(end)) {
            name = &name[..at];
        }
    }
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(annotations: &[(&str, &str)], label: Option<&str>) -> Option<String> {
        let map = annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        of_annotations(Some(&map), label).unwrap()
    }

    #[test]
    fn the_names_of_every_writer_are_supported() {
        let busybox = Some("docker.io/library/busybox:1.36".to_owned());
        assert_eq!(name(&[(REF_NAME, "busybox:1.36")], None), busybox);
        assert_eq!(name(&[(REF_NAME, "docker.io/library/busybox:1.36")], Some("x")), busybox);
        assert_eq!(name(&[(IMAGE_NAME, "busybox:1.36"), (REF_NAME, "1.36")], Some("x")), busybox);
        assert_eq!(name(&[(REF_NAME, "1.36")], Some("Busybox")).unwrap(), "localhost/busybox:1.36");
        assert_eq!(name(&[(REF_NAME, "1.36")], None), None);
        assert_eq!(name(&[(REF_NAME, "1.36")], Some("my dir")), None);
        assert_eq!(name(&[], Some("x")), None);
        let bad = HashMap::from([(REF_NAME.to_owned(), "../../etc:x".to_owned())]);
        assert!(of_annotations(Some(&bad), None).is_err());
    }
}
