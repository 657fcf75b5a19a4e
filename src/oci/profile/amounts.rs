//! Amounts as people write them: sizes, processors, limits.

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

use crate::error::{Error, Result};

/// Bytes: a number with an optional unit b, k, m, g or t (and `kb`, `mb`, ... or `kib`, ...), powers of 1024.
///
/// # Errors
/// `Invalid` for what is not such an amount.
pub fn bytes(flag: &str, text: &str) -> Result<i64> {
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

/// Processors as a quota of a 100 ms period: `1.5` is 150000 of 100000 microseconds.
///
/// # Errors
/// `Invalid` for what is not a positive number.
pub fn cpus(text: &str) -> Result<i64> {
    let number: f64 = text.parse().unwrap_or(f64::NAN);
    if !(0.01..=1_000_000.0).contains(&number) {
        return Err(Error::invalid(format!("--cpus: {text:?} is not a number of processors"))
            .hint("write a number such as 0.5 or 2"));
    }
    Ok((number * 100_000.0).round() as i64)
}

/// `name=soft[:hard]`; -1 and `unlimited` are no limit.
///
/// # Errors
/// `Invalid` for an unknown name or what is not a number.
pub fn ulimit(text: &str) -> Result<PosixRlimit> {
    let wrong = |why: &str| {
        Error::invalid(format!("--ulimit {text:?} {why}"))
            .hint("write name=soft[:hard], such as nofile=1024:4096")
    };
    let (name, values) = text.split_once('=').ok_or_else(|| wrong("has no ="))?;
    let number = |value: &str| match value {
        "-1" | "unlimited" => Ok(u64::MAX),
        other => other.parse().map_err(|_| wrong("is not a number")),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if soft > hard {
        return Err(wrong("has a soft limit above the hard one"));
    }
    let typ: PosixRlimitType =
        format!("RLIMIT_{}", name.to_ascii_uppercase()).parse().map_err(|_| wrong("names no limit"))?;
    PosixRlimitBuilder::default()
        .typ(typ)
        .soft(soft)
        .hard(hard)
        .build()
        .map_err(|e| Error::invalid(format!("--ulimit {text:?}")).because(e))
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

    #[test]
    fn limits_have_a_soft_and_a_hard_side() {
        let limit = ulimit("nofile=1024:4096").unwrap();
        assert_eq!((limit.typ(), limit.soft(), limit.hard()), (PosixRlimitType::RlimitNofile, 1024, 4096));
        assert_eq!(ulimit("core=-1").unwrap().hard(), u64::MAX);
        for bad in ["nofile", "nofile=", "nofile=5:1", "wishes=1", "nofile=a"] {
            assert!(ulimit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn processors_become_a_quota() {
        assert_eq!(cpus("1.5").unwrap(), 150_000);
        for bad in ["0", "-1", "x", "inf", ""] {
            assert!(cpus(bad).is_err(), "{bad}");
        }
    }
}
