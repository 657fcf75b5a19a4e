//! Base64 as RFC 4648 section 4 has it: the only form in which a descriptor embeds its content.

/// Decodes `text`, which must be padded and have nothing else in it; `None` when it is anything else.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(4) {
        return None;
    }
    let padding = bytes.iter().rev().take_while(|b| **b == b'=').count();
    if padding > 2 {
        return None;
    }
    let mut decoded = Vec::with_capacity(bytes.len() / 4 * 3);
    let body = &bytes[..bytes.len() - padding];
    for group in body.chunks(4) {
        let bits =
            group.iter().try_fold(0u32, |bits, b| Some(bits << 6 | sextet(*b)?))? << (6 * (4 - group.len()));
        let [_, first, second, third] = bits.to_be_bytes();
        let whole = [first, second, third];
        let (kept, rest) = whole.split_at(group.len().saturating_sub(1));
        if rest.iter().any(|b| *b != 0) && group.len() < 4 {
            return None;
        }
        decoded.extend_from_slice(kept);
    }
    Some(decoded)
}

fn sextet(byte: u8) -> Option<u32> {
    let value = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc_decode_and_other_forms_do_not() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(decode(text).unwrap(), bytes.as_bytes());
        }
        for bad in ["Zg", "Zg=", "Z===", "====", "Zh==", "Z g=", "Zg==Zg==", "Zm9-", "Zm9\n"] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
    }
}
