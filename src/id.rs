//! Names that are checked once, where they enter the program; inside it they need no further checks.

use std::fmt;

use crate::error::{Error, Result};

/// The longest container id, in bytes: it becomes a file name and a cgroup name.
const MAX_ID: usize = 255;

/// The id of a container: letters, digits and `_`, `+`, `-`, `.`, as runc accepts; it cannot lead out of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(String);

impl ContainerId {
    /// Checks `text`.
    ///
    /// # Errors
    /// `Invalid` when it is empty, too long, `.` or `..`, or has a byte outside the allowed set.
    pub fn parse(text: &str) -> Result<Self> {
        const HINT: &str = "use letters, digits, '_', '+', '-' and '.', at most 255 of them";
        let refuse =
            |why: &str| Err(Error::invalid(format!("container id {}: {why}", shown(text))).hint(HINT));
        if text.is_empty() {
            return refuse("is empty");
        }
        if text.len() > MAX_ID {
            return refuse("is too long");
        }
        if text == "." || text == ".." {
            return refuse("is a path, not a name");
        }
        match text.bytes().find(|b| !b.is_ascii_alphanumeric() && !b"_+-.".contains(b)) {
            Some(byte) => refuse(&format!("has the character {:?}", char::from(byte))),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Quotes bad input for a message: escaped, and cut so that a long one does not flood the terminal.
fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    format!("{short:?}")
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<std::path::Path> for ContainerId {
    fn as_ref(&self) -> &std::path::Path {
        self.0.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_people_use_are_accepted() {
        for good in ["web-1", "a", "0.1_x+y", "_", &"x".repeat(255)] {
            assert_eq!(ContainerId::parse(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn paths_and_control_characters_are_refused() {
        for bad in ["", ".", "..", "../x", "a/b", "a\nb", "a b", "é", "a\0", &"x".repeat(2000)] {
            assert!(ContainerId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
