//! Checks what came instead of a document: a proxy or a captive portal may answer for the registry, with status 200.

use std::io::Read;

use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};

use super::fault::{Fault, Retry};
use super::wire::Response;
use crate::error::{Error, Kind};

/// The fields of which a manifest or an index has at least one.
const FIELDS: [&str; 5] = ["schemaVersion", "mediaType", "manifests", "layers", "config"];

/// The media type of a response, without parameters.
pub(super) fn media_type(answer: &Response) -> Option<String> {
    let value = answer.headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or(value).trim().to_owned())
}

/// The encoding of a response, unless it is the stored bytes.
pub(super) fn encoding(answer: &Response) -> Option<String> {
    let value = answer.headers.get(CONTENT_ENCODING)?;
    let value = String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase();
    (!value.is_empty() && value != "identity").then_some(value)
}

/// Undoes the encoding of a document, which a proxy may apply although it was not asked for.
pub(super) fn decoded(bytes: Vec<u8>, encoding: Option<&str>, most_bytes: u64) -> Result<Vec<u8>, Fault> {
    match encoding {
        None => return Ok(bytes),
        Some("gzip" | "x-gzip") => {}
        Some(other) => {
            let short: String = other.chars().take(40).collect();
            let doing = format!("it answers with the Content-Encoding {short:?}, which was not requested");
            return Err(instead(Error::new(Kind::Unsupported, doing)));
        }
    }
    let mut plain = Vec::new();
    let read = flate2::read::MultiGzDecoder::new(&bytes[..]).take(most_bytes + 1).read_to_end(&mut plain);
    if let Err(error) = read {
        let doing = "it answers with the Content-Encoding gzip, but the body is not gzip";
        return Err(instead(Error::new(Kind::Corrupt, doing).because(error)));
    }
    if plain.len() as u64 > most_bytes {
        let doing = format!("it answers with more than the {most_bytes} bytes that a manifest may have");
        return Err(instead(Error::invalid(doing)));
    }
    Ok(plain)
}

/// Refuses what cannot be a manifest or an index.
pub(super) fn check_document(bytes: &[u8], media_type: Option<&str>) -> Result<(), Fault> {
    match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(bytes) {
        Ok(object) if FIELDS.iter().any(|field| object.contains_key(*field)) => Ok(()),
        _ => Err(not_json(bytes, media_type, "a manifest")),
    }
}

/// The fault of a response that is not `wanted`.
pub(super) fn not_json(bytes: &[u8], media_type: Option<&str>, wanted: &str) -> Fault {
    let of_type = match media_type {
        Some(media_type) => {
            format!("of the media type {:?}", media_type.chars().take(80).collect::<String>())
        }
        None => "without a media type".to_owned(),
    };
    let doing = match bytes.len() {
        0 => format!("it answers with nothing, {of_type}, instead of {wanted}"),
        length => format!("it answers with {length} bytes {of_type} that are not {wanted}"),
    };
    instead(Error::new(Kind::Corrupt, doing))
}

/// The fault of one endpoint: another one may have the thing itself.
fn instead(error: Error) -> Fault {
    let error = error.hint("a proxy or a captive portal may have answered instead of the registry");
    Fault { error, retry: Retry::Never, is_answer: true }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_document_is_an_object_with_a_field_of_a_manifest() {
        for good in [r#"{"schemaVersion": 2}"#, r#"{"layers": []}"#, r#" {"mediaType": "x", "a": [1.5]} "#] {
            assert!(check_document(good.as_bytes(), None).is_ok(), "{good}");
        }
        for bad in ["", "<html>", "{", "[]", "null", "{}", r#"{"error": "log in"}"#, r#"{"layers": []"#] {
            let fault = check_document(bad.as_bytes(), Some("text/html")).unwrap_err();
            assert_eq!((fault.retry, fault.is_answer), (Retry::Never, true));
            let text = fault.error.chain();
            assert!(text.contains("text/html") && text.contains("a manifest"), "{text}");
        }
    }

    #[test]
    fn gzip_is_undone_within_the_limit_and_others_are_refused() {
        let packed = |size: usize| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&vec![b' '; size]).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(decoded(packed(100), Some("gzip"), 100).unwrap(), [b' '; 100]);
        assert_eq!(decoded(vec![1], None, 100).unwrap(), [1]);
        let refused = |bytes, encoding| decoded(bytes, Some(encoding), 100).unwrap_err().error.chain();
        assert!(refused(packed(101), "x-gzip").contains("more than the 100 bytes"));
        assert!(refused(packed(50)[..20].to_vec(), "gzip").contains("not gzip"));
        assert!(refused(packed(50), "br").contains(r#""br""#));
        assert!(refused(packed(50), "gzip, gzip").contains("not requested"));
    }
}
