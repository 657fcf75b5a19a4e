//! Compiled programs on disk (tmpfs), by the profile they were compiled from.
//!
//! ```text
//! <cache>/<sha256 in hex>.bpf    magic, CRC-32 of the rest, number of instructions, instructions
//! ```
//! All numbers have the host's byte order, because files are read on the host that wrote them. The name is the digest of
//! the profile as canonical JSON, the build and the host's ABI. The CRC includes it, so that a file with a wrong name
//! counts as damaged.

use std::fs;
use std::io::Write;
use std::path::Path;

use libc::sock_filter;
use oci_spec::runtime::LinuxSeccomp;

use super::abi::Abi;
use super::assemble::MAX_INSTRUCTIONS;
use crate::digest::Hasher;
use crate::error::Result;
use crate::linux::private;

/// First bytes of a file.
const MAGIC: [u8; 4] = *b"CBPF";

/// Part of the key; increase it with every change of the compiler's output.
const REVISION: u32 = 1;

/// Bytes before the instructions, and per instruction.
const HEAD: usize = 12;
const INSTRUCTION: usize = 8;

/// The program for `profile` from `directory`; if it is not there, `compile` makes it and it is stored.
///
/// # Errors
/// Those of `compile`.
pub(super) fn load_or(
    directory: &Path,
    profile: &LinuxSeccomp,
    native: Abi,
    compile: impl FnOnce() -> Result<Vec<sock_filter>>,
) -> Result<Vec<sock_filter>> {
    let Some(key) = key(profile, native) else { return compile() };
    let path = directory.join(format!("{key}.bpf"));
    if let Some(instructions) = fs::read(&path).ok().and_then(|bytes| decode(&bytes, &key)) {
        return Ok(instructions);
    }
    let instructions = compile()?;
    // If the cache cannot be written (read-only, full, absent), only the next start is slower.
    let _ = write(directory, &path, &encode(&instructions, &key));
    Ok(instructions)
}

fn key(profile: &LinuxSeccomp, native: Abi) -> Option<String> {
    let json = serde_json::to_vec(profile).ok()?;
    let mut hasher = Hasher::new();
    hasher.update(format!("{} {REVISION} {native:?}\0", env!("CARGO_PKG_VERSION")).as_bytes());
    hasher.update(&json);
    Some(hasher.finish().hex())
}

/// Writes a file that every reader sees complete or not at all. It is not synced: the directory is a tmpfs, and the CRC
/// detects damage.
fn write(directory: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    // Unique among live processes and threads, so that concurrent starts do not write to the same file.
    let thread = rustix::thread::gettid().as_raw_nonzero();
    let temporary = directory.join(format!(".{thread}.tmp"));
    let written = (|| {
        private::create(&temporary, private::FILE)?.write_all(bytes)?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn encode(instructions: &[sock_filter], key: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(4 + instructions.len() * INSTRUCTION);
    body.extend(u32::try_from(instructions.len()).unwrap_or(u32::MAX).to_ne_bytes());
    for sock_filter { code, jt, jf, k } in instructions {
        body.extend(code.to_ne_bytes());
        body.extend([*jt, *jf]);
        body.extend(k.to_ne_bytes());
    }
    let mut bytes = Vec::with_capacity(8 + body.len());
    bytes.extend(MAGIC);
    bytes.extend(crc(&body, key).to_ne_bytes());
    bytes.extend(body);
    bytes
}

/// The instructions in `bytes`, or `None` if any bit was changed.
fn decode(bytes: &[u8], key: &str) -> Option<Vec<sock_filter>> {
    let head: &[u8; HEAD] = bytes.first_chunk()?;
    let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let count = usize::try_from(word(8)).ok()?;
    let is_whole = head.starts_with(&MAGIC)
        && (1..=MAX_INSTRUCTIONS).contains(&count)
        && bytes.len() == HEAD + count * INSTRUCTION
        && word(4) == crc(&bytes[8..], key);
    if !is_whole {
        return None;
    }
    let instructions = bytes[HEAD..].chunks_exact(INSTRUCTION).map(|raw| sock_filter {
        code: u16::from_ne_bytes([raw[0], raw[1]]),
        jt: raw[2],
        jf: raw[3],
        k: u32::from_ne_bytes([raw[4], raw[5], raw[6], raw[7]]),
    });
    Some(instructions.collect())
}

fn crc(body: &[u8], key: &str) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key.as_bytes());
    crc.update(body);
    crc.finalize()
}
