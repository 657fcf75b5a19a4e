//! Names and numbers of system calls: `tables/syscalls.txt`, parsed at compile time.
//!
//! A row has offsets into the text instead of string slices, so that the table needs no relocation at start-up and
//! stays in shared, clean pages.

use super::abi::Abi;

const TEXT: &str = include_str!("tables/syscalls.txt");

/// The number of a call that this ABI does not have.
const ABSENT: u32 = u32::MAX;

/// One system call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    start: u16,
    len: u8,
    multiplexer: u8,
    numbers: [u32; Abi::COUNT],
}

/// The multiplexer for a call of 32-bit x86 besides its own number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Multiplexed {
    /// Through socketcall(2) with this first argument.
    Socket(u8),
    /// Through ipc(2) with this first argument in the low 16 bits.
    Ipc(u8),
}

impl Row {
    /// The call's name.
    pub(super) fn name(&self) -> &'static str {
        let start = usize::from(self.start);
        TEXT.get(start..start + usize::from(self.len)).unwrap_or_default()
    }

    /// The number a filter sees on `abi`: for x32 with bit 30 set.
    pub(super) fn number(&self, abi: Abi) -> Option<u32> {
        let number = self.numbers[abi as usize];
        (number != ABSENT).then_some(number | abi.number_bits())
    }

    /// The multiplexer for this call on 32-bit x86, if any.
    pub(super) fn multiplexed(&self) -> Option<Multiplexed> {
        match self.multiplexer {
            0 => None,
            call if call & IPC != 0 => Some(Multiplexed::Ipc(call & !IPC)),
            call => Some(Multiplexed::Socket(call)),
        }
    }
}

/// Finds a call by name.
pub(super) fn find(name: &str) -> Option<&'static Row> {
    ROWS.binary_search_by(|row| row.name().cmp(name)).ok().map(|at| &ROWS[at])
}

/// The most similar known name, if it is similar enough to be meant.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let bound = (name.len() / 3).clamp(1, 4);
    ROWS.iter()
        .map(|row| (distance(name.as_bytes(), row.name().as_bytes()), row.name()))
        .min()
        .filter(|(distance, _)| *distance <= bound)
        .map(|(_, name)| name)
}

/// The edit distance (Levenshtein): how many bytes to insert, delete or replace.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Marks a multiplexer cell as a call of ipc(2).
const IPC: u8 = 0x80;

static ROWS: [Row; count_rows()] = parse_rows();

const fn count_rows() -> usize {
    let (text, mut at, mut count) = (TEXT.as_bytes(), 0, 0);
    while at < text.len() {
        if text[at] != b'#' {
            count += 1;
        }
        at = next_line(text, at);
    }
    count
}

const fn next_line(text: &[u8], mut at: usize) -> usize {
    while text[at] != b'\n' {
        at += 1;
    }
    at + 1
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "offsets and lengths are asserted to fit, while compiling"
)]
const fn parse_rows() -> [Row; count_rows()] {
    assert!(TEXT.len() < 0x1_0000, "offsets are 16 bits wide");
    let text = TEXT.as_bytes();
    let mut rows = [Row { start: 0, len: 0, multiplexer: 0, numbers: [ABSENT; Abi::COUNT] }; count_rows()];
    let (mut at, mut row) = (0, 0);
    while at < text.len() {
        if text[at] != b'#' {
            let end = end_of_word(text, at);
            assert!(end - at < 0x100, "name lengths are 8 bits wide");
            rows[row].start = at as u16;
            rows[row].len = (end - at) as u8;
            (rows[row].numbers, rows[row].multiplexer) = parse_cells(text, end + 1);
            assert!(row == 0 || is_before(text, &rows[row - 1], &rows[row]), "rows are sorted by name");
            row += 1;
        }
        at = next_line(text, at);
    }
    rows
}

const fn parse_cells(text: &[u8], mut at: usize) -> ([u32; Abi::COUNT], u8) {
    let mut numbers = [ABSENT; Abi::COUNT];
    let mut cell = 0;
    while cell < Abi::COUNT {
        numbers[cell] = parse_number(text, at);
        at = end_of_word(text, at) + 1;
        cell += 1;
    }
    let kind = text[at];
    assert!(kind == b'-' || kind == b's' || kind == b'i', "the last cell is -, s<number> or i<number>");
    if kind == b'-' {
        return (numbers, 0);
    }
    let call = parse_number(text, at + 1);
    assert!(0 < call && call < IPC as u32, "the multiplexer's argument is 7 bits wide");
    (numbers, call as u8 | if kind == b'i' { IPC } else { 0 })
}

const fn parse_number(text: &[u8], mut at: usize) -> u32 {
    if text[at] == b'-' {
        return ABSENT;
    }
    let mut number = 0;
    while text[at].is_ascii_digit() {
        number = number * 10 + (text[at] - b'0') as u32;
        at += 1;
    }
    assert!(text[at] == b' ' || text[at] == b'\n', "cells are decimal");
    number
}

const fn end_of_word(text: &[u8], mut at: usize) -> usize {
    while text[at] != b' ' && text[at] != b'\n' {
        at += 1;
    }
    at
}

const fn is_before(text: &[u8], a: &Row, b: &Row) -> bool {
    let mut i = 0;
    while i < a.len as usize && i < b.len as usize {
        let (x, y) = (text[a.start as usize + i], text[b.start as usize + i]);
        if x != y {
            return x < y;
        }
        i += 1;
    }
    a.len < b.len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_headers() {
        let numbers = |name: &str| Abi::ALL.map(|abi| find(name).unwrap().number(abi));
        let x32 = |number: u32| Some(0x4000_0000 | number);
        assert_eq!(numbers("read"), [Some(0), Some(3), x32(0), Some(3), Some(63)]);
        assert_eq!(numbers("execve"), [Some(59), Some(11), x32(520), Some(11), Some(221)]);
        assert_eq!(numbers("clone3"), [Some(435), Some(435), x32(435), Some(435), Some(435)]);
        assert_eq!(numbers("set_tls"), [None, None, None, Some(0xf_0005), None]);
        assert_eq!(numbers("swapcontext"), [None; 5]);
    }

    #[test]
    fn numbers_of_the_host_agree_with_libc() {
        let native = Abi::native().unwrap();
        for (name, number) in [
            ("write", libc::SYS_write),
            ("openat2", libc::SYS_openat2),
            ("keyctl", libc::SYS_keyctl),
            ("seccomp", libc::SYS_seccomp),
            ("mount_setattr", libc::SYS_mount_setattr),
        ] {
            assert_eq!(find(name).unwrap().number(native), u32::try_from(number).ok(), "{name}");
        }
    }

    #[test]
    fn no_two_calls_of_an_abi_share_a_number_except_the_known_alias() {
        for abi in Abi::ALL {
            let mut seen = std::collections::BTreeMap::new();
            for row in &ROWS {
                let Some(number) = row.number(abi) else { continue };
                if let Some(other) = seen.insert(number, row.name()) {
                    assert_eq!((other, row.name()), ("arm_sync_file_range", "sync_file_range2"), "{abi:?}");
                }
            }
        }
    }

    #[test]
    fn every_row_is_found_by_its_name() {
        assert!(ROWS.len() > 500);
        for row in &ROWS {
            assert_eq!(find(row.name()).unwrap().start, row.start);
        }
        assert!(find("").is_none());
        assert!(find("sokcet").is_none());
    }

    #[test]
    fn a_slip_of_the_finger_gets_the_name_that_was_meant() {
        assert_eq!(nearest("sokcet"), Some("socket"));
        assert_eq!(nearest("opneat2"), Some("openat2"));
        assert_eq!(nearest("clone33"), Some("clone3"));
        assert_eq!(nearest("frobnicate_the_widget"), None);
    }
}
