//! The manual pages of the configuration and the keeper, which are not verbs.

use std::path::Path;

use crate::linux::private;
use crate::serve::config;

/// Writes coracle-config.toml(5) and coracle-keeper(1).
pub(super) fn pages(directory: &Path) -> std::io::Result<()> {
    let page = config_page(config::DEFAULT);
    private::write(&directory.join("coracle-config.toml.5"), page, private::SHARED_FILE)?;
    keeper_page(directory)
}

/// The page of coracle-keeper, from its `--help` text.
fn keeper_page(directory: &Path) -> std::io::Result<()> {
    let help = crate::keeper::USAGE;
    let page = format!(
        ".TH coracle-keeper 1 \"\" \"coracle {}\"\n.SH NAME\ncoracle\\-keeper \\- the parent of a node's containers\n\
         .SH DESCRIPTION\n.nf\n{}.fi\n",
        env!("CARGO_PKG_VERSION"),
        help.lines().map(|line| escaped(line) + "\n").collect::<String>(),
    );
    private::write(&directory.join("coracle-keeper.1"), page, private::SHARED_FILE)
}

/// coracle-config.toml(5), from the commented default configuration: blocks of comments, each with its keys.
fn config_page(default: &str) -> String {
    let mut page = format!(
        ".TH coracle-config.toml 5 \"\" \"coracle {}\"\n.SH NAME\ncoracle-config.toml \\- configuration of coracle \
         serve\n.SH SYNOPSIS\n/etc/coracle/config.toml, /etc/coracle/config.d/*.toml\n.SH DESCRIPTION\n",
        env!("CARGO_PKG_VERSION")
    );
    for block in default.split("\n\n") {
        let (comments, keys): (Vec<&str>, Vec<&str>) = block.lines().partition(|line| line.starts_with("# "));
        let text =
            comments.iter().map(|line| escaped(line.trim_start_matches("# ")) + "\n").collect::<String>();
        let (sections, keys): (Vec<&str>, Vec<&str>) = keys.into_iter().partition(|key| key.starts_with('['));
        for section in sections {
            page += &format!(".SH \"{}\"\n", escaped(section));
        }
        let keys = keys.iter().map(|key| key.trim_start_matches('#')).filter(|key| !key.is_empty());
        let tags = keys.map(|key| format!("\\fB{}\\fR\n", escaped(key))).collect::<Vec<_>>();
        page += &match tags.split_first() {
            None => format!(".PP\n{text}"),
            Some((first, others)) => {
                let others = others.iter().map(|tag| format!(".TQ\n{tag}")).collect::<String>();
                format!(".TP\n{first}{others}{text}")
            }
        };
    }
    page + ".SH \"SEE ALSO\"\n.BR coracle-serve (1),\n.BR coracle-config (1)\n"
}

/// Escapes text for roff: a backslash, a dash, and a dot or quote at the beginning of a line.
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_configuration_is_in_its_page() {
        let page = config_page(config::DEFAULT);
        let keys = config::DEFAULT.lines().filter_map(|line| line.strip_prefix('#')?.split_once(" = "));
        let keys = keys.map(|(key, _)| key).filter(|key| !key.starts_with(' '));
        for key in keys.clone() {
            assert!(page.contains(&format!("\n\\fB{key} = ")), "{key}: {page}");
        }
        assert!(keys.count() > 20, "the default configuration is not read as it is written");
    }

    #[test]
    fn nothing_is_taken_for_a_command_of_roff() {
        assert_eq!(escaped(".so a-b\\c"), "\\&.so a\\-b\\ec");
        assert_eq!(escaped("'quoted"), "\\&'quoted");
    }
}
