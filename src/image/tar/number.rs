//! The number formats of tar headers.

use super::entry::Mtime;

/// A numeric header field: octal text, or base-256 when the top bit is set. `None` when it is malformed or too big.
pub(super) fn field(bytes: &[u8]) -> Option<i64> {
    match bytes.first() {
        Some(first) if first & 0x80 != 0 => base_256(bytes),
        _ => octal(bytes),
    }
}

/// Like [`field`], for values that cannot be negative.
pub(super) fn unsigned(bytes: &[u8]) -> Option<u64> {
    u64::try_from(field(bytes)?).ok()
}

fn octal(bytes: &[u8]) -> Option<i64> {
    let blank = |b: &u8| *b == b' ' || *b == 0;
    let start = bytes.iter().position(|b| !blank(b)).unwrap_or(bytes.len());
    let text = &bytes[start..];
    let end = text.iter().position(blank).unwrap_or(text.len());
    if !text[end..].iter().all(blank) {
        return None;
    }
    text[..end].iter().try_fold(0i64, |sum, digit| match digit {
        b'0'..=b'7' => sum.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// Two's complement, big endian; the top bit is only the mark.
fn base_256(bytes: &[u8]) -> Option<i64> {
    let negative = bytes[0] & 0x40 != 0;
    let first = if negative { bytes[0] | 0x80 } else { bytes[0] & 0x7f };
    let mut value = i128::from(if negative { -1i8 } else { 0 });
    for byte in std::iter::once(first).chain(bytes[1..].iter().copied()) {
        value = value << 8 | i128::from(byte);
    }
    i64::try_from(value).ok()
}

/// A decimal number of pax: digits only.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |sum, digit| match digit {
        b'0'..=b'9' => sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// A pax time: `[-]seconds[.fraction]`; digits beyond nanoseconds are cut off.
pub(super) fn time(text: &[u8]) -> Option<Mtime> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let dot = text.iter().position(|b| *b == b'.');
    let (whole, fraction) = dot.map_or((text, &b""[..]), |at| (&text[..at], &text[at + 1..]));
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    let secs = i64::try_from(decimal(whole)?).ok()?;
    Some(match (negative, nanos) {
        (false, _) => Mtime { secs, nanos },
        (true, 0) => Mtime { secs: -secs, nanos },
        (true, _) => Mtime { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_fields_may_be_padded_on_both_sides() {
        assert_eq!(field(b"0000644\0"), Some(0o644));
        assert_eq!(field(b"  644 \0 "), Some(0o644));
        assert_eq!(field(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(field(b"77777777777 "), Some(0o77_777_777_777));
        for bad in [&b"0000648\0"[..], b"-000644\0", b"644\x00644", b"0x1f\0\0\0\0"] {
            assert_eq!(field(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn base_256_fields_carry_sign_and_refuse_what_does_not_fit() {
        assert_eq!(field(&[0x80, 0, 0, 0, 0, 0, 0x10, 0]), Some(4096));
        assert_eq!(field(&[0xff; 8]), Some(-1));
        assert_eq!(field(&[0xff; 12]), Some(-1));
        let mut big = [0; 12];
        (big[0], big[3]) = (0x80, 1);
        assert_eq!(field(&big), None);
        big[3] = 0;
        big[4] = 0x7f;
        big[5..].fill(0xff);
        assert_eq!(field(&big), Some(i64::MAX));
        assert_eq!(unsigned(&[0xff; 12]), None);
    }

    #[test]
    fn times_may_be_negative_and_fractional() {
        assert_eq!(time(b"1700000000.5"), Some(Mtime { secs: 1_700_000_000, nanos: 500_000_000 }));
        assert_eq!(time(b"-1.25"), Some(Mtime { secs: -2, nanos: 750_000_000 }));
        assert_eq!(time(b"-7"), Some(Mtime { secs: -7, nanos: 0 }));
        assert_eq!(time(b"1.0000000019"), Some(Mtime { secs: 1, nanos: 1 }));
        for bad in [&b""[..], b"-", b".5", b"1.x", b"+1", b"1e3", b" 1", b"99999999999999999999"] {
            assert_eq!(time(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn decimal_numbers_are_digits_only() {
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        for bad in [&b""[..], b"18446744073709551616", b"-1", b"+1", b"1 ", b"0x1"] {
            assert_eq!(decimal(bad), None, "{bad:?}");
        }
    }
}
