//! Converts values of the spec, which has v1's units, to v2's.

use crate::error::{Error, Result};

/// CPU shares (2 to 262144, default 1024) as cpu.weight (1 to 10000, default 100). A quadratic in the logarithm meets
/// both ends and the default, as in runc 1.3.2 and crun 1.24; the older linear conversion gave 39 for 1024. 0 means
/// "not set" and stays 0.
pub(crate) fn cpu_weight(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1..=2 => 1,
        262_144.. => 10_000,
        _ => {
            #[expect(clippy::cast_precision_loss, reason = "below 2^18: exact in an f64")]
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 1 and 10000 for all shares between 2 and 2^18"
            )]
            let weight = 10_f64.powf(exponent).ceil() as u64;
            weight
        }
    }
}

/// blkio.weight (10 to 1000) as io.weight (1 to 10000).
pub(crate) fn io_weight(blkio: u16) -> u64 {
    1 + (u64::from(blkio).saturating_sub(10)) * 9999 / 990
}

/// Converts memory+swap and memory, as v1 counts, to the swap limit of v2, in bytes; `None` means "leave unchanged", -1
/// "max". 0 means "not set" in both arguments.
///
/// # Errors
/// `Invalid` where the two do not determine a swap limit.
pub(crate) fn swap_limit(swap: i64, memory: i64) -> Result<Option<i64>> {
    let refuse = |why: String| Err(Error::invalid(format!("linux.resources.memory.swap: {why}")));
    match (memory, swap) {
        // v1 required memory+swap to be raised with memory, so "unlimited memory" alone means both.
        (-1, 0) | (_, -1) => Ok(Some(-1)),
        (_, 0) => Ok(None),
        (_, ..-1) => refuse(format!("{swap} is neither a size nor -1")),
        (-1, _) => Ok(Some(swap)),
        (0, _) => {
            refuse("needs linux.resources.memory.limit beside it: it counts memory and swap".to_owned())
        }
        _ if swap < memory => {
            refuse(format!("{swap} counts memory and swap and must not be below the limit {memory}"))
        }
        _ => Ok(Some(swap - memory)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights_as_runc_and_crun_convert_them() {
        for (shares, weight) in [
            (0, 0),
            (1, 1),
            (2, 1),
            (102, 17),
            (512, 59),
            (1024, 100),
            (2048, 174),
            (262_143, 10_000),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
    }

    #[test]
    fn weights_never_fall_as_shares_rise() {
        let all: Vec<u64> = (2..262_144).step_by(7).map(cpu_weight).collect();
        assert!(all.is_sorted());
        assert!(all.iter().all(|weight| (1..=10_000).contains(weight)));
    }

    #[test]
    fn block_weights_span_the_new_range() {
        for (blkio, io) in [(10, 1), (100, 910), (500, 4950), (1000, 10_000)] {
            assert_eq!(io_weight(blkio), io, "{blkio}");
        }
    }

    #[test]
    fn swap_is_what_is_left_after_memory() {
        for (swap, memory, alone) in [
            (0, 0, None),
            (0, 100, None),
            (0, -1, Some(-1)),
            (-1, 0, Some(-1)),
            (-1, 100, Some(-1)),
            (-1, -1, Some(-1)),
            (100, -1, Some(100)),
            (100, 100, Some(0)),
            (300, 100, Some(200)),
        ] {
            assert_eq!(swap_limit(swap, memory).unwrap(), alone, "{swap} {memory}");
        }
        for (swap, memory) in [(100, 0), (50, 100), (-2, 100)] {
            assert!(swap_limit(swap, memory).is_err(), "{swap} {memory}");
        }
    }
}
