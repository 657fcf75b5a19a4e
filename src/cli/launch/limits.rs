//! `--cpus` and `--ulimit`.

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

use crate::error::{Error, Result};

/// Parses a number of processors as a quota of a 100 ms period: `1.5` is 150000 of 100000 microseconds.
///
/// # Errors
/// `Invalid` unless it is a positive number.
pub(super) fn cpus(text: &str) -> Result<i64> {
    let number: f64 = text.parse().unwrap_or(f64::NAN);
    if !(0.01..=1_000_000.0).contains(&number) {
        return Err(Error::invalid(format!("--cpus: {text:?} is not a number of processors"))
            .hint("write a number such as 0.5 or 2"));
    }
    Ok((number * 100_000.0).round() as i64)
}

/// Parses `name=soft[:hard]`; -1 and `unlimited` mean no limit.
///
/// # Errors
/// `Invalid` for an unknown name or a malformed number.
pub(super) fn ulimit(text: &str) -> Result<PosixRlimit> {
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
    fn limits_have_a_soft_and_a_hard_side() {
        let limit = ulimit("nofile=1024:4096").unwrap();
        assert_eq!((limit.typ(), limit.soft(), limit.hard()), (PosixRlimitType::RlimitNofile, 1024, 4096));
        assert_eq!(ulimit("core=-1").unwrap().hard(), u64::MAX);
        for bad in ["nofile", "nofile=", "nofile=5:1", "flying=1", "nofile=a"] {
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
