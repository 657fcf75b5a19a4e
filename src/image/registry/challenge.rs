//! Parses `WWW-Authenticate`: the authentication schemes of a registry (RFC 9110 section 11.6.1).

/// An authentication scheme that a registry offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A name and a password.
    Basic,
    /// A token of the server at `realm`.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// Parses the challenges in one header; unknown schemes are left out.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut scheme = String::new();
    let mut parameters: Vec<(String, String)> = Vec::new();
    let mut rest = header.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let word_end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(word_end);
        let value = after.trim_start_matches([' ', '\t']).strip_prefix('=').filter(|_| !word.is_empty());
        rest = match value.and_then(value_of) {
            Some((value, after)) => {
                parameters.push((word.to_ascii_lowercase(), value));
                after
            }
            // Not a challenge: the rest cannot be parsed.
            None if word.is_empty() => break,
            None => {
                found.extend(challenge(&scheme, &parameters));
                word.clone_into(&mut scheme);
                parameters.clear();
                after
            }
        }
        .trim_start_matches([' ', '\t', ',']);
    }
    found.extend(challenge(&scheme, &parameters));
    found
}

/// A token or quoted string at the beginning of `text`, and the text after it.
fn value_of(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start_matches([' ', '\t']);
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

fn challenge(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let get = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    match scheme.to_ascii_lowercase().as_str() {
        "basic" => Some(Challenge::Basic),
        "bearer" => {
            Some(Challenge::Bearer { realm: get("realm")?, service: get("service"), scope: get("scope") })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        };
        for (header, meant) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
                vec![bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:a/b:pull,push"),
                )],
            ),
            (
                r#"Basic realm="x, y", bearer realm=http://a/t"#,
                vec![Challenge::Basic, bearer("http://a/t", None, None)],
            ),
            (r#"Negotiate, Basic realm="a\"b""#, vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (r#"Bearer service="x""#, vec![]),
            (r#"Bearer realm="x"#, vec![]),
            ("", vec![]),
            ("=,=\"", vec![]),
        ] {
            assert_eq!(parse(header), meant, "{header}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_read_to_its_end(header in "((Bearer|Basic|realm|service)?[ =,\"\\\\a-z]{0,6}){0,12}") {
            let _ = parse(&header);
        }
    }
}
