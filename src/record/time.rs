//! Time stamps of records: nanoseconds since 1970, and RFC 3339 for people. The keeper stamps every batch of lines,
//! so formatting allocates only the text.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds since 1970, UTC.
pub fn now_ns() -> i64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Realtime);
    tv_sec.saturating_mul(1_000_000_000).saturating_add(tv_nsec)
}

/// Formats a time in UTC with nine digits of a second. The date is computed from days by the rule of the Gregorian
/// calendar, with years that begin in March: a leap day then is the last of its year.
pub fn rfc3339(ns: i64) -> String {
    let (days, of_day) = (ns.div_euclid(86_400_000_000_000), ns.rem_euclid(86_400_000_000_000));
    let (second, nano) = (of_day / 1_000_000_000, of_day % 1_000_000_000);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nano:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn times_are_as_chrono_writes_them(ns in any::<i64>()) {
            let time = chrono::DateTime::from_timestamp_nanos(ns);
            prop_assert_eq!(rfc3339(ns), time.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true));
        }
    }
}
