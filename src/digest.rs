//! Digests: `sha256:` and 64 lowercase hex digits, checked once and then safe to use as a file name.

use std::fmt;
use std::io::{self, Write};

use crate::error::{Error, Result};

#[cfg(any(test, not(all(target_arch = "arm", feature = "node"))))]
use with_sha2::Sha256;

#[cfg(all(not(test), target_arch = "arm", feature = "node"))]
use with_ring::Sha256;

/// sha2 picks the processor's SHA instructions at run time; without them, on 64 bits, it is as fast as ring.
#[cfg(any(test, not(all(target_arch = "arm", feature = "node"))))]
mod with_sha2 {
    use sha2::Digest as _;

    #[derive(Clone, Default)]
    pub(super) struct Sha256(sha2::Sha256);

    impl Sha256 {
        pub(super) fn update(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }

        pub(super) fn finish(self) -> [u8; 32] {
            self.0.finalize().into()
        }
    }
}

/// ring has assembly for 32-bit ARM, where sha2 executes half as many instructions again (benches/README.md). That
/// matters only for images, so the OCI runtime alone is built without ring.
#[cfg(all(any(test, target_arch = "arm"), feature = "node"))]
mod with_ring {
    use ring::digest::{Context, SHA256};

    #[derive(Clone)]
    pub(super) struct Sha256(Context);

    impl Default for Sha256 {
        fn default() -> Self {
            Self(Context::new(&SHA256))
        }
    }

    impl Sha256 {
        pub(super) fn update(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }

        pub(super) fn finish(self) -> [u8; 32] {
            let mut raw = [0; 32];
            raw.copy_from_slice(self.0.finish().as_ref());
            raw
        }
    }
}

/// The sha256 digest of some bytes, written `sha256:<64 lowercase hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest with these 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Parses the one accepted form, so that no unchecked digest reaches a path (CVE-2024-3727).
    ///
    /// # Errors
    /// `Invalid` when it is anything else: another algorithm, upper case, a wrong length, a path.
    pub fn parse(text: &str) -> Result<Self> {
        Self::from_hex(text.strip_prefix("sha256:")).ok_or_else(|| {
            let short: String = text.chars().take(80).collect();
            Error::invalid(format!("digest {short:?} is not sha256: and 64 lowercase hex digits"))
        })
    }

    fn from_hex(hex: Option<&str>) -> Option<Self> {
        let hex = hex?.as_bytes();
        let mut raw = [0; 32];
        if hex.len() != 2 * raw.len() {
            return None;
        }
        for (byte, pair) in raw.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Some(Self(raw))
    }

    /// The 64 hex digits without the algorithm: the name of a blob's file.
    pub fn hex(&self) -> String {
        self.0
            .iter()
            .flat_map(|b| [b >> 4, b & 15])
            .map(|n| char::from(b"0123456789abcdef"[usize::from(n)]))
            .collect()
    }

    /// The 32 bytes themselves.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl std::str::FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

/// Computes a digest incrementally; also a [`Write`] that cannot fail.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// A hasher without input.
    pub fn new() -> Self {
        Self::default()
    }

    /// Hashes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes hashed.
    pub fn finish(self) -> Digest {
        Digest(self.0.finish())
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn the_digest_of_abc_is_the_published_one_whole_or_in_pieces() {
        assert_eq!(Digest::of(b"abc").to_string(), ABC);
        let mut hasher = Hasher::new();
        hasher.update(b"a");
        hasher.write_all(b"bc").unwrap();
        assert_eq!(hasher.finish(), Digest::parse(ABC).unwrap());
    }

    #[cfg(feature = "node")]
    proptest::proptest! {
        #[test]
        fn both_implementations_compute_the_same(
            pieces: Vec<Vec<u8>>
        ) {
            let (mut one, mut other) = (Sha256::default(), with_ring::Sha256::default());
            for piece in &pieces {
                one.update(piece);
                other.update(piece);
            }
            let digest = one.finish();
            proptest::prop_assert_eq!(digest, other.finish());
            proptest::prop_assert_eq!(Digest::of(&pieces.concat()), Digest(digest));
        }
    }

    #[test]
    fn cve_2024_3727_only_the_one_form_is_accepted() {
        let bare = &ABC[7..];
        let bad = [
            "".to_owned(),
            bare.to_owned(),
            format!("sha512:{bare}"),
            format!("SHA256:{bare}"),
            format!("sha256:{}", bare.to_uppercase()),
            format!("sha256:{}", &bare[1..]),
            format!("sha256:{bare}0"),
            format!("sha256:../../{}", &bare[6..]),
            format!("sha256:{}é", &bare[2..]),
            format!("sha256:{bare}\n"),
        ];
        for text in bad {
            assert!(Digest::parse(&text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn json_carries_the_text_form_and_is_checked() {
        let digest = Digest::of(b"abc");
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{ABC}\""));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        assert!(serde_json::from_str::<Digest>("\"sha256:../x\"").is_err());
    }
}
