//! Parses untrusted YAML.

use yaml_rust2::parser::{Event, Parser};
use yaml_rust2::scanner::TScalarStyle;
use yaml_rust2::yaml::Hash;
use yaml_rust2::{Yaml, YamlLoader};

use crate::error::{Error, Result};

/// The greatest depth of nested lists and maps.
const DEPTH: usize = 64;

/// The largest accepted text, in bytes.
pub const LONGEST: u64 = 8 << 20;

/// Parses the first document of a text; `Null` if there is none.
///
/// The parser recurses for each level, so a few kilobytes of brackets would overflow the stack, and it copies the
/// value of an alias, so a few lines would use up all memory. Both are refused before parsing.
///
/// # Errors
/// `Invalid` with the line of the mistake.
pub fn load(text: &str) -> Result<Yaml> {
    walk(text, |_| {})?;
    let documents = YamlLoader::load_from_str(text).map_err(|error| Error::invalid(error.to_string()))?;
    Ok(documents.into_iter().next().unwrap_or(Yaml::Null))
}

/// Like [`load`], but each scalar except null is a string, as written: Go's parser puts `0123` and `yes` into a field of
/// text unchanged, where the types of YAML would make a number of one. Of equal keys the last one counts, as in Go.
///
/// # Errors
/// Those of [`load`].
pub fn load_as_text(text: &str) -> Result<Yaml> {
    let mut tree = Tree::default();
    walk(text, |event| tree.take(event))?;
    Ok(tree.root.unwrap_or(Yaml::Null))
}

/// The nodes of a document, built up from its events.
#[derive(Default)]
struct Tree {
    root: Option<Yaml>,
    /// The lists and maps that are not closed yet, and for a map the key whose value comes next.
    open: Vec<(Yaml, Option<Yaml>)>,
}

impl Tree {
    fn take(&mut self, event: Event) {
        match event {
            Event::SequenceStart(..) => self.open.push((Yaml::Array(Vec::new()), None)),
            Event::MappingStart(..) => self.open.push((Yaml::Hash(Hash::new()), None)),
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some((node, _)) = self.open.pop() {
                    self.add(node);
                }
            }
            Event::Scalar(text, style, ..) => {
                let is_null = style == TScalarStyle::Plain
                    && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL");
                self.add(if is_null { Yaml::Null } else { Yaml::String(text) });
            }
            _ => {}
        }
    }

    fn add(&mut self, node: Yaml) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some((Yaml::Array(list), _)) => list.push(node),
            Some((Yaml::Hash(map), key)) => match key.take() {
                None => *key = Some(node),
                Some(key) => drop(map.insert(key, node)),
            },
            Some(_) => {}
        }
    }
}

/// Passes each event of the first document on, within the limits.
fn walk(text: &str, mut take: impl FnMut(Event)) -> Result<()> {
    let mut depth = 0_usize;
    let mut parser = Parser::new(text.chars());
    loop {
        let (event, mark) = parser.next_token().map_err(|error| Error::invalid(error.to_string()))?;
        let refuse = |why: &str| Err(Error::invalid(format!("line {}: {why}", mark.line())));
        match event {
            Event::SequenceStart(..) | Event::MappingStart(..) if depth == DEPTH => {
                return refuse(&format!("more than {DEPTH} levels of lists and maps"));
            }
            Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
            Event::SequenceEnd | Event::MappingEnd => depth = depth.saturating_sub(1),
            Event::Alias(_) => return refuse("an alias; write what it stands for"),
            // Only the first document counts; what follows it need not even be well-formed.
            Event::DocumentEnd | Event::StreamEnd => return Ok(()),
            _ => {}
        }
        take(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_documents_are_read() {
        assert_eq!(load("a: [1, {b: c}]").unwrap()["a"][1]["b"].as_str(), Some("c"));
        assert_eq!(load("").unwrap(), Yaml::Null);
        assert!(load("{").is_err());
        assert!(load(&format!("{}1{}", "[".repeat(DEPTH), "]".repeat(DEPTH))).is_ok());
    }

    #[test]
    fn scalars_stay_as_written_where_text_is_asked_for() {
        let text = "a: 0123\nb: yes\nc: 1e3\nd:\ne: ~\nf: '~'\ng: [true, {h: 0x1f}]\na: 0456\n";
        let tree = load_as_text(text).unwrap();
        for (key, value) in [("a", "0456"), ("b", "yes"), ("c", "1e3"), ("f", "~")] {
            assert_eq!(tree[key].as_str(), Some(value), "{key}");
        }
        assert!(tree["d"].is_null() && tree["e"].is_null());
        assert_eq!((tree["g"][0].as_str(), tree["g"][1]["h"].as_str()), (Some("true"), Some("0x1f")));
        assert_eq!(load_as_text("").unwrap(), Yaml::Null);
        for bad in ["a: [", "{", "a: &b 1\nc: *b\n"] {
            assert!(load_as_text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn depth_and_aliases_are_refused() {
        for deep in ["[", "{a: ", "- "] {
            for levels in [DEPTH + 1, 100_000] {
                let error = load(&deep.repeat(levels)).unwrap_err();
                // Beyond some depth the scanner itself refuses.
                let chain = error.chain();
                assert!(chain.contains("levels") || chain.contains("recursion"), "{chain}");
            }
        }
        let bomb = "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n";
        assert!(load(bomb).unwrap_err().chain().contains("alias"));
    }
}
