//! Sizes as people write them.

use crate::error::{Error, Result};

/// Parses bytes: a number with an optional unit b, k, m, g or t (and `kb`, `mb`, ... or `kib`, ...), powers of 1024.
///
/// # Errors
/// `Invalid` for any other text.
pub(super) fn bytes(flag: &str, text: &str) -> Result<i64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = lower[digits.len()..].trim_end_matches("ib").trim_end_matches('b');
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(wrong(flag, text)),
    };
    let number: f64 = digits.parse().map_err(|_| wrong(flag, text))?;
    let value = number * 1024_f64.powi(power);
    if !(0.0..=9e18).contains(&value) {
        return Err(wrong(flag, text));
    }
    Ok(value as i64)
}

fn wrong(flag: &str, text: &str) -> Error {
    Error::invalid(format!("{flag}: {text:?} is not a size"))
        .hint("write a number with k, m or g, such as 512m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, expected) in [
            ("512m", 512 << 20),
            ("1g", 1 << 30),
            ("1.5k", 1536),
            ("64MB", 64 << 20),
            ("2GiB", 2 << 30),
            ("7", 7),
            ("9b", 9),
        ] {
            assert_eq!(bytes("--memory", text).unwrap(), expected, "{text}");
        }
        for bad in ["", "m", "1x", "-1m", "1e400", "nan", "1 g"] {
            assert!(bytes("--memory", bad).is_err(), "{bad}");
        }
    }
}
