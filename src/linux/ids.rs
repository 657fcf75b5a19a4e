//! User and group ids as text: tells numbers from names and refuses everything else.
//!
//! A number is never looked up as a name: otherwise the line `1000:x:0:0::/:` of an image's /etc/passwd would make
//! user 1000 root (CVE-2016-3697, CVE-2026-46680). The largest number means "leave unchanged" to setresuid(2) and
//! chown(2): a process that is to become that user would stay root.

use crate::error::{Error, Result};

/// `(uid_t)-1`, which is not an id.
pub const NO_ID: u32 = u32::MAX;

/// The greatest number of supplementary groups of a process: as many as launch can set without allocating.
pub const MOST_GROUPS: usize = 256;

/// The longest name, in bytes: LOGIN_NAME_MAX of limits.h.
const LONGEST_NAME: usize = 256;

const RANGE: &str = "ids are decimal numbers from 0 to 4294967294";

/// Parses an id: decimal digits only. `None` for everything that is not an id, including 4294967295.
pub fn parse(text: &str) -> Option<u32> {
    is_number(text).then(|| text.parse().ok()).flatten().filter(|id| *id != NO_ID)
}

/// Parses an id of a flag or a field.
///
/// # Errors
/// `Invalid`, naming the field.
pub fn parse_field(field: &str, text: &str) -> Result<u32> {
    parse(text).ok_or_else(|| Error::invalid(format!("{field} {:?} is not an id", shown(text))).hint(RANGE))
}

/// Refuses the number that is not an id.
///
/// # Errors
/// `Invalid`, naming the field.
pub fn check(field: &str, id: u32) -> Result<()> {
    match id {
        NO_ID => Err(Error::invalid(format!("{field} {id} is not an id")).hint(RANGE)),
        _ => Ok(()),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A user or a group, as a configuration names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account<'a> {
    /// By number.
    Id(u32),
    /// By name, which is looked up.
    Name(&'a str),
}

impl<'a> Account<'a> {
    /// Parses a name or a number; `what` is "user" or "group", for messages.
    ///
    /// # Errors
    /// `Invalid` for a number that is not an id, and for text that is neither a number nor a possible name.
    pub fn parse(what: &str, text: &'a str) -> Result<Self> {
        let refuse = |why: &str| {
            Err(Error::invalid(format!("{what} {:?} {why}", shown(text)))
                .hint(format!("give a name of the container's /etc files, or a number: {RANGE}")))
        };
        match (is_number(text), parse(text)) {
            (true, Some(id)) => return Ok(Self::Id(id)),
            (true, None) => return refuse("is not an id"),
            (false, _) => {}
        }
        let separates = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ':' | ',' | '/');
        if text.is_empty() {
            return refuse("is empty");
        }
        if text.len() > LONGEST_NAME {
            return refuse("is longer than a name can be");
        }
        if text.starts_with(['-', '+', '~']) || text.contains(separates) || is_of_other_base(text) {
            return refuse("is neither a name nor an id");
        }
        Ok(Self::Name(text))
    }
}

/// Whether C would parse this as a number in another base, such as 0x10: some tools would take it for a name and some
/// for a number.
fn is_of_other_base(text: &str) -> bool {
    let digits = text.strip_prefix('0').and_then(|rest| rest.strip_prefix(['x', 'X', 'o', 'O', 'b', 'B']));
    digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// `user[:group]`, as image configurations and `--user` have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserSpec<'a> {
    /// The user; root if the text is empty.
    pub user: Account<'a>,
    /// The main group, if named.
    pub group: Option<Account<'a>>,
}

impl<'a> UserSpec<'a> {
    /// Parses `user[:group]`.
    ///
    /// # Errors
    /// As [`Account::parse`]; also for an empty part.
    pub fn parse(text: &'a str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self { user: Account::Id(0), group: None });
        }
        let (user, group) = text.split_once(':').map_or((text, None), |(u, g)| (u, Some(g)));
        let read = || {
            let group = group.map(|group| Account::parse("group", group)).transpose()?;
            Ok(Self { user: Account::parse("user", user)?, group })
        };
        read().map_err(|e: Error| e.doing(format!("read the user {:?}", shown(text))))
    }
}

/// Quotes text of an image or a request for a message; long text is cut.
fn shown(text: &str) -> String {
    const MOST: usize = 64;
    let mut short: String = text.chars().take(MOST).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_NUMBERS: [&str; 14] = [
        "",
        "-1",
        "+5",
        " 5",
        "5 ",
        "0x10",
        "1e3",
        "1.0",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "99999999999999999999999999999999999999999",
        "٣",
        "1\n",
    ];

    #[test]
    fn ids_are_digits_within_the_range() {
        for (text, id) in [("0", 0), ("1000", 1000), ("0010", 10), ("4294967294", u32::MAX - 1)] {
            assert_eq!(parse(text), Some(id));
        }
        for bad in NO_NUMBERS {
            assert_eq!(parse(bad), None, "{bad:?}");
            assert!(parse_field("uid", bad).unwrap_err().to_string().starts_with("uid "), "{bad:?}");
        }
        assert!(check("uid", NO_ID).is_err());
        check("uid", NO_ID - 1).unwrap();
    }

    #[test]
    fn what_looks_like_a_number_and_is_none_is_no_name_either() {
        for bad in NO_NUMBERS.iter().filter(|bad| !matches!(**bad, "1e3" | "1.0" | "٣")) {
            assert!(Account::parse("user", bad).is_err(), "{bad:?}");
        }
        let long = "x".repeat(257);
        for bad in ["-", "a:b", "a b", "a\0", "a\r", "a,b", "a/b", "0XfF", "0b01", "~x", long.as_str()] {
            assert!(Account::parse("group", bad).is_err(), "{bad:?}");
        }
        for name in ["web", "_apt", "www-data", "3proxy", "0day", "svc$", "a.b", "systemd-network"] {
            assert_eq!(Account::parse("user", name).unwrap(), Account::Name(name));
        }
    }

    #[test]
    fn parts_of_a_user_are_there_or_the_text_is_empty() {
        let parsed = UserSpec::parse("1000:web").unwrap();
        assert_eq!((parsed.user, parsed.group), (Account::Id(1000), Some(Account::Name("web"))));
        assert_eq!(UserSpec::parse("").unwrap(), UserSpec { user: Account::Id(0), group: None });
        for bad in ["1000:", ":1000", ":", "1:2:3", "web:-1", "4294967295:0", "0:4294967295"] {
            assert!(UserSpec::parse(bad).is_err(), "{bad:?}");
        }
    }
}
