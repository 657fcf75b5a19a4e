//! Decompression; the format is detected from the first bytes, not from the media type.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::GzDecoder;
use lz4_flex::frame::FrameDecoder;
use lzma_rust2::XzReader;

use super::limits::Limits;
use crate::error::{Error, Kind};

/// Bytes of compressed data held at once.
const BUFFER: usize = 32 * 1024;

/// KiB that the xz decoder needs besides its dictionary.
const XZ_OVERHEAD: u32 = 1 << 10;

/// The number of first bytes needed to detect any known format.
const HEAD: usize = 10;

/// Reads plain, gzip, zstd, bzip2, lz4 or xz data and returns it uncompressed.
///
/// Several members or frames in a row count as one stream; zeros after gzip and skippable zstd frames are skipped. Data
/// that ends too early or has trailing garbage is an error, and so is exceeding the limits. It holds the decoder's window
/// and 32 KiB in memory: up to 4 MiB for bzip2, 8 MiB for lz4, and what [`Limits::zstd_window_log`] allows for zstd and xz.
pub struct Decoder<R: Read> {
    form: Form<R>,
    limits: Limits,
    given: u64,
}

enum Form<R: Read> {
    Unread(R),
    Plain(Input<R>),
    Gzip(Box<GzDecoder<Input<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Input<R>>>),
    Bzip2(Box<MultiBzDecoder<Input<R>>>),
    Lz4(Box<FrameDecoder<Input<R>>>),
    Xz(Box<XzReader<Input<R>>>),
    Over,
}

type Input<R> = BufReader<Counted<Chain<Cursor<Vec<u8>>, R>>>;

/// Counts the bytes from the reader, and records whether an error came from it.
struct Counted<R> {
    inner: R,
    count: u64,
    /// The last bytes read.
    tail: [u8; 8],
    failed: bool,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.inner.read(buffer);
        match &result {
            Ok(count) => {
                self.count += *count as u64;
                for byte in &buffer[count.saturating_sub(self.tail.len())..*count] {
                    self.tail.rotate_left(1);
                    self.tail[7] = *byte;
                }
            }
            Err(error) => self.failed = error.kind() != io::ErrorKind::Interrupted,
        }
        result
    }
}

impl<R: Read> std::fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("given", &self.given).finish_non_exhaustive()
    }
}

impl<R: Read> Decoder<R> {
    /// Reads from `reader` within the default limits.
    pub fn new(reader: R) -> Self {
        Self::with_limits(reader, &Limits::default())
    }

    /// Reads from `reader`; only the limits of window and ratio matter here.
    pub fn with_limits(reader: R, limits: &Limits) -> Self {
        Self { form: Form::Unread(reader), limits: *limits, given: 0 }
    }

    fn sniff(&mut self, mut reader: R) -> io::Result<Form<R>> {
        let mut head = Vec::with_capacity(HEAD);
        reader.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
        let form = form_of(&head);
        let input = Counted { inner: Cursor::new(head).chain(reader), count: 0, tail: [1; 8], failed: false };
        let input = BufReader::with_capacity(BUFFER, input);
        Ok(match form {
            Magic::Plain => Form::Plain(input),
            Magic::Gzip => Form::Gzip(Box::new(GzDecoder::new(input))),
            Magic::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(self.limits.zstd_window_log)?;
                Form::Zstd(Box::new(decoder))
            }
            Magic::Bzip2 => Form::Bzip2(Box::new(MultiBzDecoder::new(input))),
            Magic::Lz4 => Form::Lz4(Box::new(FrameDecoder::new(input))),
            Magic::Xz => {
                let most = (1 << self.limits.zstd_window_log.min(30) >> 10) + XZ_OVERHEAD;
                Form::Xz(Box::new(XzReader::new_mem_limit(input, true, most)))
            }
        })
    }

    fn read_form(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.form = match std::mem::replace(&mut self.form, Form::Over) {
                Form::Unread(reader) => self.sniff(reader)?,
                Form::Over => return Ok(0),
                Form::Plain(mut input) => {
                    let result = input.read(buffer);
                    self.form = Form::Plain(input);
                    return result;
                }
                Form::Zstd(mut decoder) => {
                    let result = decoder.read(buffer);
                    let failed = decoder.get_ref().get_ref().failed;
                    self.form = Form::Zstd(decoder);
                    return result.map_err(|error| self.damaged("zstd", failed, error));
                }
                Form::Bzip2(mut decoder) => {
                    let result = decoder.read(buffer);
                    let failed = decoder.get_ref().get_ref().failed;
                    self.form = Form::Bzip2(decoder);
                    return result.map_err(|error| self.damaged("bzip2", failed, error));
                }
                Form::Xz(mut decoder) => {
                    let result = decoder.read(buffer);
                    let failed = decoder.inner().get_ref().failed;
                    self.form = Form::Xz(decoder);
                    return result.map_err(|error| self.damaged("xz", failed, error));
                }
                Form::Lz4(mut decoder) => match decoder.read(buffer) {
                    Ok(0) => next_frame(decoder.into_inner())?,
                    result => {
                        let failed = decoder.get_ref().get_ref().failed;
                        self.form = Form::Lz4(decoder);
                        return result.map_err(|error| self.damaged("lz4", failed, error));
                    }
                },
                Form::Gzip(mut decoder) => match decoder.read(buffer) {
                    Ok(0) => next_member(decoder.into_inner())?,
                    result => {
                        let failed = decoder.get_ref().get_ref().failed;
                        self.form = Form::Gzip(decoder);
                        return result.map_err(|error| self.damaged("gzip", failed, error));
                    }
                },
            }
        }
    }

    fn damaged(&self, form: &str, failed_below: bool, error: io::Error) -> io::Error {
        if failed_below || error.kind() == io::ErrorKind::Interrupted {
            return error;
        }
        let text = error.to_string();
        if text.contains("too much memory") || text.contains("needed memory too big") {
            let most = 1u64 << self.limits.zstd_window_log;
            let window = format!("the layer's {form} data needs a window of more than {most} bytes");
            let error = Error::new(Kind::Unsupported, window);
            return io::Error::other(
                error.hint("compress the image at a lower level, without --long and --ultra"),
            );
        }
        let what = match error.kind() {
            io::ErrorKind::UnexpectedEof => "ends too early",
            _ => "is damaged",
        };
        io::Error::other(
            Error::new(Kind::Corrupt, format!("the {form} data of the layer {what}")).because(error),
        )
    }

    fn taken(&self) -> u64 {
        match &self.form {
            Form::Plain(input) => input.get_ref().count,
            Form::Gzip(decoder) => decoder.get_ref().get_ref().count,
            Form::Zstd(decoder) => decoder.get_ref().get_ref().count,
            Form::Bzip2(decoder) => decoder.get_ref().get_ref().count,
            Form::Lz4(decoder) => decoder.get_ref().get_ref().count,
            Form::Xz(decoder) => decoder.inner().get_ref().count,
            Form::Unread(_) | Form::Over => u64::MAX,
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.read_form(buffer)?;
        self.given = self.given.saturating_add(count as u64);
        let limits = &self.limits;
        if self.given > limits.ratio_from && self.given / limits.ratio.max(1) > self.taken() {
            let ratio = limits.ratio;
            let bomb =
                Error::invalid(format!("the layer grows by more than {ratio} times when uncompressed"));
            return Err(io::Error::other(bomb.hint("raise the ratio limit if the image is trusted")));
        }
        Ok(count)
    }
}

/// Handles the data after an lz4 frame: another frame, or nothing. The decoder takes the end of the data for the end of the
/// frame; a frame ends with four zeros, and after them a checksum or not.
fn next_frame<R: Read>(mut input: Input<R>) -> io::Result<Form<R>> {
    if !input.fill_buf()?.is_empty() {
        return Ok(Form::Lz4(Box::new(FrameDecoder::new(input))));
    }
    match input.get_ref().tail {
        [0, 0, 0, 0, ..] | [.., 0, 0, 0, 0] => Ok(Form::Over),
        _ => Err(io::Error::other(Error::new(Kind::Corrupt, "the lz4 data of the layer ends too early"))),
    }
}

/// Handles the data after a gzip member: another member, nothing, or nothing but zeros.
fn next_member<R: Read>(mut input: Input<R>) -> io::Result<Form<R>> {
    let mut padded = false;
    loop {
        let buffered = input.fill_buf()?;
        match buffered.first() {
            None => return Ok(Form::Over),
            Some(0) => {
                padded = true;
                let zeros = buffered.iter().take_while(|b| **b == 0).count();
                input.consume(zeros);
            }
            Some(0x1f) if !padded => return Ok(Form::Gzip(Box::new(GzDecoder::new(input)))),
            Some(_) => {
                let error =
                    Error::new(Kind::Corrupt, "the gzip data of the layer is followed by something else");
                return Err(io::Error::other(error));
            }
        }
    }
}

enum Magic {
    Plain,
    Gzip,
    Zstd,
    Bzip2,
    Lz4,
    Xz,
}

fn form_of(head: &[u8]) -> Magic {
    match head {
        [0x1f, 0x8b, 8, ..] => Magic::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Magic::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Magic::Xz,
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59] => Magic::Bzip2,
        [0x04, 0x22, 0x4d, 0x18, ..] => Magic::Lz4,
        _ => Magic::Plain,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        zstd::encode_all(data, 1).unwrap()
    }

    fn bzip2(data: &[u8]) -> Vec<u8> {
        let mut encoder = ::bzip2::write::BzEncoder::new(Vec::new(), ::bzip2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn lz4(data: &[u8]) -> Vec<u8> {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn xz_with(data: &[u8], window: u32) -> Vec<u8> {
        let mut options = lzma_rust2::XzOptions::with_preset(1);
        options.lzma_options.dict_size = window;
        let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn xz(data: &[u8]) -> Vec<u8> {
        xz_with(data, 1 << 20)
    }

    fn decoded(data: &[u8]) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        Decoder::new(data).read_to_end(&mut all).map(|_| all)
    }

    /// Returns one byte at a time, so that magic numbers and members straddle reads.
    struct Drip<'a>(&'a [u8]);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(1);
            self.0.read(&mut buffer[..most])
        }
    }

    #[test]
    fn members_and_frames_in_a_row_are_one_stream() {
        let skippable = [0x5e, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        let streams = [
            b"one two".to_vec(),
            [gzip(b"one "), gzip(b""), gzip(b"two")].concat(),
            [gzip(b"one two"), vec![0; 700]].concat(),
            [zstd(b"one "), skippable.to_vec(), zstd(b"two")].concat(),
            [skippable.to_vec(), zstd(b"one two"), skippable.to_vec()].concat(),
            [bzip2(b"one "), bzip2(b"two")].concat(),
            [lz4(b"one "), lz4(b""), lz4(b"two")].concat(),
            [xz(b"one "), xz(b"two")].concat(),
        ];
        for stream in &streams {
            assert_eq!(decoded(stream).unwrap(), b"one two");
            let mut dripped = Vec::new();
            Decoder::new(Drip(stream)).read_to_end(&mut dripped).unwrap();
            assert_eq!(dripped, b"one two");
        }
        assert_eq!(decoded(b"").unwrap(), b"");
        assert_eq!(decoded(&gzip(b"")).unwrap(), b"");
    }

    #[test]
    fn compressed_data_cut_off_anywhere_is_an_error() {
        let data: Vec<u8> = (0..5000u32).flat_map(|n| (n * n).to_le_bytes()).collect();
        for whole in [gzip(&data), zstd(&data), bzip2(&data), lz4(&data), xz(&data)] {
            for end in (10..whole.len()).step_by(37).chain([whole.len() - 1]) {
                assert!(decoded(&whole[..end]).is_err(), "{end} of {}", whole.len());
            }
        }
    }

    #[test]
    fn damage_and_trailing_garbage_are_errors() {
        let mut flipped = gzip(&[7; 5000]);
        let last = flipped.len() - 6;
        flipped[last] ^= 1;
        assert!(decoded(&flipped).is_err(), "the checksum at the end");
        assert!(decoded(&[gzip(b"x"), b"garbage".to_vec()].concat()).is_err());
        assert!(decoded(&[gzip(b"x"), vec![0; 9], gzip(b"y")].concat()).is_err());
        for whole in [zstd(b"x"), bzip2(b"x"), lz4(b"x"), xz(b"x")] {
            assert!(decoded(&[whole, b"garbage".to_vec()].concat()).is_err());
        }
        for (name, mut whole) in
            [("bzip2", bzip2(&[7; 5000])), ("lz4", lz4(&[7; 5000])), ("xz", xz(&[7; 5000]))]
        {
            let middle = whole.len() / 2;
            whole[middle] ^= 1;
            let error = decoded(&whole).unwrap_err().to_string();
            assert!(error.contains(&format!("the {name} data of the layer")), "{error}");
        }
        assert!(decoded(b"\xfd7zXZ\0abcdef").unwrap_err().to_string().contains("xz"));
    }

    #[test]
    fn a_zstd_window_beyond_the_cap_is_named() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(24).unwrap();
        encoder.write_all(&vec![1; 20 << 20]).unwrap();
        let error = decoded(&encoder.finish().unwrap()).unwrap_err().to_string();
        assert!(error.contains("window of more than 8388608 bytes"), "{error}");
        assert!(decoded(&xz_with(b"x", 8 << 20)).is_ok());
        let error = decoded(&xz_with(b"x", 16 << 20)).unwrap_err().to_string();
        assert!(error.contains("xz data needs a window of more than 8388608 bytes"), "{error}");
    }

    #[test]
    fn a_bomb_is_stopped_soon_after_the_threshold() {
        let limits = Limits { ratio: 50, ratio_from: 1 << 20, ..Limits::default() };
        let zeros = vec![0; 8 << 20];
        for bomb in [gzip(&zeros), zstd(&zeros), bzip2(&zeros), lz4(&zeros), xz(&zeros)] {
            let mut seen = Vec::new();
            let error = Decoder::with_limits(&bomb[..], &limits).read_to_end(&mut seen).unwrap_err();
            assert!(error.to_string().contains("50 times"), "{error}");
            assert!(seen.len() <= 2 << 20);
        }
    }

    #[test]
    fn errors_of_the_reader_itself_pass_unchanged() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from_raw_os_error(libc::ECONNRESET))
            }
        }
        let half = gzip(&[9; 4000]);
        let mut decoder = Decoder::new(half[..15].chain(Broken));
        let error = decoder.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
    }
}
