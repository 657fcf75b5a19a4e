//! The headers of streams, compressed by zlib with a dictionary: draft-mbelshe-httpbis-spdy-00, section 2.6.10.

use std::sync::LazyLock;

use bytes::{Buf, Bytes};
use flate2::{Decompress, FlushDecompress, Status};

use super::frame::BadFrame;

/// The limits of a stream's headers: their number, and their size in bytes when decompressed.
const COUNT_LIMIT: u32 = 64;
const SIZE_LIMIT: usize = 16 << 10;

/// The words of the dictionary that stand there behind their lengths.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";

/// The end of the dictionary.
const TAIL: &str = "10010120120220520630030230330430530630740240540640740840941041141241341441541641750250450520\
    3 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 \
    Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept \
    Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=\
    utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut dictionary = Vec::with_capacity(1423);
    for word in WORDS.split(' ') {
        dictionary.extend_from_slice(&(word.len() as u32).to_be_bytes());
        dictionary.extend(word.bytes().map(|byte| if byte == b'_' { b' ' } else { byte }));
    }
    dictionary.extend_from_slice(TAIL.as_bytes());
    dictionary
});

/// Decompresses the headers of a connection's streams, in the order in which they arrive.
#[derive(Debug)]
pub struct HeaderReader(Decompress);

impl Default for HeaderReader {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl HeaderReader {
    /// The headers of the next stream: names in lower case, and values.
    ///
    /// # Errors
    /// Data that is not zlib's, more headers than the limit, or a wrong length.
    pub fn read(&mut self, compressed: &[u8]) -> Result<Vec<(String, String)>, BadFrame> {
        let mut block = Bytes::from(self.inflate(compressed)?);
        let count = length(&mut block)?;
        if count > COUNT_LIMIT {
            return Err(BadFrame("too many headers"));
        }
        (0..count).map(|_| Ok((text(&mut block)?.to_ascii_lowercase(), text(&mut block)?))).collect()
    }

    fn inflate(&mut self, mut input: &[u8]) -> Result<Vec<u8>, BadFrame> {
        let broken = BadFrame("headers that cannot be decompressed");
        let mut output = Vec::with_capacity(512);
        loop {
            let before = (self.0.total_in(), output.len());
            let done = self.0.decompress_vec(input, &mut output, FlushDecompress::Sync);
            let consumed = usize::try_from(self.0.total_in() - before.0).map_err(|_| broken)?;
            input = input.get(consumed..).ok_or(broken)?;
            match done {
                Ok(Status::Ok | Status::BufError) if output.len() == output.capacity() => {
                    if output.len() >= SIZE_LIMIT {
                        return Err(BadFrame("headers that are too long"));
                    }
                    output.reserve(SIZE_LIMIT - output.len());
                }
                Ok(Status::Ok | Status::BufError) if input.is_empty() => return Ok(output),
                Ok(Status::Ok) if consumed > 0 || output.len() > before.1 => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| broken)?;
                }
                _ => return Err(broken),
            }
        }
    }
}

fn length(block: &mut Bytes) -> Result<u32, BadFrame> {
    block.try_get_u32().map_err(|_| BadFrame("headers that end early"))
}

fn text(block: &mut Bytes) -> Result<String, BadFrame> {
    let length = length(block)? as usize;
    if length > block.len() {
        return Err(BadFrame("headers that end early"));
    }
    String::from_utf8(block.split_to(length).into()).map_err(|_| BadFrame("headers that are not UTF-8"))
}

/// Writes the headers of the server's replies, which have none. A compressor would take a quarter of a megabyte for each
/// connection, so the bytes are stored: a zlib stream may consist of uncompressed blocks.
#[derive(Debug, Default)]
pub(crate) struct HeaderWriter {
    has_begun: bool,
}

impl HeaderWriter {
    /// The compressed headers of the next reply: none.
    pub(crate) fn empty(&mut self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16);
        if !self.has_begun {
            // RFC 1950: deflate with a window of 32 KiB, no dictionary.
            bytes.extend_from_slice(&[0x78, 0x01]);
            self.has_begun = true;
        }
        // RFC 1951, section 3.2.4: a stored block with the number of headers, 0, as four bytes; an empty one, which makes
        // readers pass on what they have.
        bytes.extend_from_slice(&[0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0]);
        bytes.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    fn block(headers: &[(&str, &str)]) -> Vec<u8> {
        let mut block = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&(text.len() as u32).to_be_bytes());
            block.extend_from_slice(text.as_bytes());
        }
        block
    }

    fn compress(with: &mut Compress, bytes: &[u8]) -> Vec<u8> {
        let mut output = Vec::with_capacity(64 << 10);
        with.compress_vec(bytes, &mut output, FlushCompress::Sync).unwrap();
        output
    }

    #[test]
    fn the_dictionary_is_that_of_the_protocol() {
        // The checksum by which compressed data names it.
        let mut compress = Compress::new(Compression::fast(), true);
        assert_eq!((DICTIONARY.len(), compress.set_dictionary(&DICTIONARY).unwrap()), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn headers_of_one_stream_after_the_other_are_read_with_and_without_the_dictionary() {
        for dictionary in [true, false] {
            let mut compressor = Compress::new(Compression::best(), true);
            if dictionary {
                compressor.set_dictionary(&DICTIONARY).unwrap();
            }
            let mut reader = HeaderReader::default();
            for number in 0..50 {
                let number = number.to_string();
                let sent = [("streamType", "data"), ("port", "80"), ("requestid", number.as_str())];
                let read = reader.read(&compress(&mut compressor, &block(&sent))).unwrap();
                let names: Vec<_> =
                    read.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                assert_eq!(names, [("streamtype", "data"), ("port", "80"), ("requestid", &number)]);
            }
        }
    }

    #[test]
    fn headers_that_would_take_much_memory_are_refused() {
        let refused = |bytes: &[u8]| {
            let mut compressor = Compress::new(Compression::best(), true);
            HeaderReader::default().read(&compress(&mut compressor, bytes)).unwrap_err().0
        };
        assert_eq!(refused(&block(&[("a", &"x".repeat(1 << 20))])), "headers that are too long");
        assert_eq!(refused(&block(&[("a", "b"); 65])), "too many headers");
        assert_eq!(refused(b"\0\0\0\x01\xff\xff\xff\xff"), "headers that end early");
        assert_eq!(
            HeaderReader::default().read(b"not zlib").unwrap_err().0,
            "headers that cannot be decompressed"
        );
        assert!(HeaderReader::default().read(b"").is_err());
    }

    #[test]
    fn replies_are_read_by_zlib() {
        let mut writer = HeaderWriter::default();
        let mut inflater = Decompress::new(true);
        for _ in 0..3 {
            let mut output = Vec::with_capacity(16);
            inflater.decompress_vec(&writer.empty(), &mut output, FlushDecompress::Sync).unwrap();
            assert_eq!(output, [0; 4]);
        }
    }
}
