//! Text for people, as wide as their terminal.

use std::io::IsTerminal;

/// The width of lines that do not go to a terminal.
const USUAL: usize = 100;
/// The least width that is used, also on a narrower terminal.
const LEAST: usize = 40;

/// How many columns standard output has.
pub(super) fn width() -> usize {
    let out = std::io::stdout();
    let columns =
        rustix::termios::tcgetwinsize(&out).ok().filter(|_| out.is_terminal()).map(|size| size.ws_col);
    columns.map(usize::from).filter(|columns| *columns > 0).unwrap_or(USUAL).max(LEAST)
}

/// Breaks a text into lines of at most `width` characters, between words where possible.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().flat_map(shown).collect();
        while !word.is_empty() {
            let last = lines.last().map_or(0, |line| line.chars().count());
            let blank = usize::from(last > 0);
            if last + blank + word.len() <= width {
                push(&mut lines, blank, &word);
                word.clear();
            } else if last == 0 {
                let rest = word.split_off(width.max(1).min(word.len()));
                push(&mut lines, 0, &word);
                word = rest;
            } else {
                lines.push(String::new());
            }
        }
    }
    lines
}

/// A character that has no effect on the terminal: names of pods, images and files are chosen by others.
fn shown(c: char) -> Vec<char> {
    // The marks and overrides of the writing direction reorder what is on the line.
    let is_direction =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if c.is_control() || is_direction { c.escape_unicode().collect() } else { vec![c] }
}

/// A text of others that a terminal shows as it is.
pub(super) fn harmless(text: &str) -> String {
    text.chars().flat_map(|c| if c == '\n' { vec![c] } else { shown(c) }).collect()
}

fn push(lines: &mut [String], blank: usize, word: &[char]) {
    if let Some(line) = lines.last_mut() {
        line.extend(std::iter::repeat_n(' ', blank).chain(word.iter().copied()));
    }
}

/// Cells of fixed width, then a text that continues in its own column on further lines.
pub(super) fn row(cells: &[(&str, usize)], text: &str, width: usize) -> String {
    let begin: String = cells.iter().map(|(cell, width)| format!("{cell:width$}  ")).collect();
    let indent = begin.chars().count();
    // On a very narrow terminal the text has lines of its own.
    let (begin, indent) = if indent + 20 > width { (begin + "\n    ", 4) } else { (begin, indent) };
    let lines = wrap(text, width.saturating_sub(indent).max(1));
    let joined = lines.join(&format!("\n{:indent$}", ""));
    format!("{begin}{joined}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words_and_long_words_within() {
        assert_eq!(wrap("a bc def", 4), ["a bc", "def"]);
        assert_eq!(wrap("abcdefgh i", 3), ["abc", "def", "gh", "i"]);
        assert_eq!(wrap("", 5), [""]);
        assert_eq!(wrap("äöü äö", 3), ["äöü", "äö"]);
    }

    #[test]
    fn what_would_move_the_cursor_is_shown_as_its_number() {
        assert_eq!(wrap("a\u{1b}[2J\u{9b}1m\u{7f}", 80), ["a\\u{1b}[2J\\u{9b}1m\\u{7f}"]);
        assert_eq!(wrap("x\u{202e}y ä", 80), ["x\\u{202e}y ä"]);
        assert_eq!(harmless("a\rb\n\u{1b}c"), "a\\u{d}b\n\\u{1b}c");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let text = "one two three four five six seven eight nine ten";
        for width in 40..120 {
            let row = row(&[("warning", 7), ("kernel", 15)], text, width);
            assert!(row.lines().all(|line| line.trim_end().chars().count() <= width), "{width}: {row}");
            assert_eq!(row.split_whitespace().count(), 12, "{row}");
        }
    }
}
