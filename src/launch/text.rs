//! Turns configuration text into what the kernel takes: C strings and paths below the root.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::steps::Below;
use crate::error::{Error, Result};

/// Converts the text of a configuration field to a C string.
///
/// # Errors
/// `Invalid`, naming the field, when the text holds a NUL byte.
pub(super) fn cstring(field: &str, text: impl Into<Vec<u8>>) -> Result<CString> {
    CString::new(text).map_err(|e| Error::invalid(format!("{field} holds a NUL byte")).because(e))
}

/// Converts a path to a C string.
///
/// # Errors
/// As [`cstring`].
pub(super) fn cpath(field: &str, path: &Path) -> Result<CString> {
    cstring(field, path.as_os_str().as_bytes())
}

/// The path without `.` and `..`, as if it had no symbolic links.
pub(super) fn cleaned(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut cleaned, component| {
        match component {
            Component::ParentDir => drop(cleaned.pop()),
            Component::CurDir => {}
            other => cleaned.push(other),
        }
        cleaned
    })
}

/// Converts a path as seen from the container's root: `.` and empty components are removed; `..` stops at the root,
/// as it does inside.
///
/// # Errors
/// `Invalid`, naming the field, when the path is empty or holds a NUL byte.
pub(super) fn below(field: &str, path: &Path) -> Result<Below> {
    if path.as_os_str().is_empty() {
        return Err(Error::invalid(format!("{field} is empty")));
    }
    let mut names: Vec<&[u8]> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.as_bytes()),
            Component::ParentDir => {
                names.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    let mut makers = Vec::with_capacity(names.len());
    let mut prefix: Vec<u8> = Vec::new();
    for name in &names {
        let parent = if prefix.is_empty() { b".".to_vec() } else { prefix.clone() };
        makers.push((cstring(field, parent)?, cstring(field, *name)?));
        if !prefix.is_empty() {
            prefix.push(b'/');
        }
        prefix.extend_from_slice(name);
    }
    let path = if prefix.is_empty() { b".".to_vec() } else { prefix };
    Ok(Below { path: cstring(field, path)?, makers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_cannot_leave_the_root() {
        for (given, clean) in
            [("/dev/pts", "dev/pts"), ("/", "."), ("../../etc", "etc"), ("/a/./b//../c/", "a/c")]
        {
            assert_eq!(below("x", Path::new(given)).unwrap().path.to_str().unwrap(), clean, "{given}");
        }
    }

    #[test]
    fn the_makers_build_a_path_from_the_root_down() {
        let below = below("x", Path::new("/a/b/c")).unwrap();
        let makers: Vec<_> =
            below.makers.iter().map(|(p, n)| (p.to_str().unwrap(), n.to_str().unwrap())).collect();
        assert_eq!(makers, [(".", "a"), ("a", "b"), ("a/b", "c")]);
    }
}
