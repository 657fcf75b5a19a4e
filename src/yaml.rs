//! Parses untrusted YAML.

use yaml_rust2::parser::{Event, Parser};
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
            Event::DocumentEnd | Event::StreamEnd => break,
            _ => {}
        }
    }
    let documents = YamlLoader::load_from_str(text).map_err(|error| Error::invalid(error.to_string()))?;
    Ok(documents.into_iter().next().unwrap_or(Yaml::Null))
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
