//! Who may use whom: reads the sources and fails when the table below is broken, or when a folder and what stands beside it
//! use each other.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers from the bottom up. A module uses only modules of lower layers; those of one layer do not know each
/// other. A module that is in no layer is an error: place it here first.
const LAYERS: &[&[&str]] = &[
    &["sys"],
    &["error", "id", "undo"],
    &["digest", "linux", "log", "yaml"],
    &["cgroup", "seccomp", "record"],
    &["launch", "spec", "store"],
    &["oci", "image", "net", "keeper"],
    &["pod"],
    &["serve"],
    &["check", "status"],
    &["switch"],
    &["cli"],
];

/// Uses inside one layer that are meant.
const SIBLINGS: &[(&str, &str)] = &[("error", "id"), ("id", "error")];

/// Crates that only some places may name: crate, the path prefixes below `src/`, the reason.
const FENCES: &[(&str, &[&str], &str)] = &[
    ("clap", &["cli"], "arguments are parsed once, at the edge"),
    ("clap_complete", &["cli"], "completions come from the same definition"),
    ("clap_mangen", &["cli"], "the manual comes from the same definition"),
    ("indicatif", &["cli"], "only the command line draws progress"),
    ("libcontainer", &["launch/toolbox.rs"], "a toolbox of the plan side, never of the hot path"),
    ("cgroups_rs", &["cgroup/"], "v1, hybrid and systemd stay behind our own cgroup type"),
    ("seccompiler", &["seccomp/"], "the one compiler of profiles"),
    ("tokio", &["serve/", "image/registry/"], "below serve everything blocks"),
    ("tokio_rustls", &["image/registry/"], "only what talks to registries knows the network"),
    (
        "hyper",
        &["image/registry/", "serve/metrics/"],
        "only what talks to registries or Prometheus speaks HTTP",
    ),
    (
        "hyper_util",
        &["image/registry/", "serve/metrics/"],
        "only what talks to registries or Prometheus speaks HTTP",
    ),
    (
        "rustls",
        &["image/registry/", "serve/streaming.rs"],
        "only what talks to registries or streams knows TLS",
    ),
    ("yaml_rust2", &["yaml.rs", "image/registry/", "pod/cdi.rs"], "one file of K3s is YAML, and CDI's are"),
    ("coracle_cri", &["serve/", "pod/"], "what kubelet says is for whoever answers it"),
    ("tonic", &[], "gRPC lives in cri/"),
    ("prost", &[], "gRPC lives in cri/"),
    ("async_std", &[], "there is one runtime, and it is at the edge"),
    ("anyhow", &[], "there is one error type"),
    ("thiserror", &[], "there is one error type"),
];

/// Crates that a place must not name.
const BANS: &[(&str, &str, &str)] = &[
    ("sys/", "serde_json", "system calls know no formats"),
    ("sys/", "serde", "system calls know no formats"),
    ("keeper/", "serde_json", "the keeper parses nothing"),
    ("keeper/", "tokio", "the keeper is one thread and one poll loop"),
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] =
    &["utils", "util", "helpers", "helper", "common", "manager", "misc", "base", "impls"];

const MOST_LINES: usize = 600;

#[test]
fn each_module_uses_only_lower_layers() {
    let broken: Vec<_> =
        sources("src").iter().flat_map(|file| broken_layers(&file.path, &file.code)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn rooms_use_each_other_in_one_direction() {
    let circles = circles(&sources("src"));
    assert!(circles.is_empty(), "files of different rooms use each other: {circles:#?}");
}

#[test]
fn each_module_stands_in_the_layer_table() {
    let lib = fs::read_to_string(here("src/lib.rs")).unwrap();
    let declared = lib.lines().filter_map(|l| l.trim().strip_prefix("pub mod ")?.strip_suffix(';'));
    let missing: Vec<_> = declared.filter(|module| layer_of(module).is_none()).collect();
    assert!(missing.is_empty(), "not in the layer table: {missing:?}");
}

#[test]
fn crates_stay_behind_their_fences() {
    let broken: Vec<_> =
        sources("src").iter().flat_map(|file| broken_fences(&file.path, &file.code)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn unsafe_code_is_only_in_sys() {
    let all = ["src", "cri/src", "tests", "benches"].into_iter().flat_map(sources);
    let outside =
        all.filter(|file| !file.path.starts_with("src/sys/") && words(&file.code).any(|w| w == "unsafe"));
    let outside: Vec<_> = outside.map(|file| file.path).collect();
    assert!(outside.is_empty(), "unsafe outside src/sys/: {outside:?}");
}

#[test]
fn no_file_is_longer_than_the_limit() {
    let all = ["src", "cri/src", "tests", "benches"].into_iter().flat_map(sources);
    let long: Vec<_> =
        all.filter(|f| f.lines > MOST_LINES).map(|f| format!("{}: {} lines", f.path, f.lines)).collect();
    assert!(long.is_empty(), "longer than {MOST_LINES} lines: {long:#?}");
}

#[test]
fn no_module_has_an_empty_name() {
    let empty: Vec<_> =
        sources("src").into_iter().map(|file| file.path).filter(|path| has_empty_name(path)).collect();
    assert!(empty.is_empty(), "names that say nothing: {empty:?}");
}

#[test]
fn main_is_a_table_of_contents() {
    let main = fs::read_to_string(here("src/main.rs")).unwrap();
    assert!(main.lines().count() <= 30, "src/main.rs only calls into the library");
}

mod the_checks_themselves {
    use super::*;

    #[test]
    fn a_use_upwards_is_found() {
        let upwards = code_of("use crate::cli::Context;\n");
        assert_eq!(broken_layers("src/oci/kill.rs", &upwards), ["src/oci/kill.rs: oci must not use cli"]);
        let listed = code_of("use crate::{error::Result, image::{self, Reference}};\n");
        assert_eq!(broken_layers("src/oci/kill.rs", &listed), ["src/oci/kill.rs: oci must not use image"]);
        let inline = code_of("fn f() { crate::pod::stop() }\n");
        assert_eq!(
            broken_layers("src/launch/apply.rs", &inline),
            ["src/launch/apply.rs: launch must not use pod"]
        );
        let relative = code_of("use super::super::image::Reference;\n");
        assert_eq!(broken_layers("src/oci/kill.rs", &relative), ["src/oci/kill.rs: oci must not use image"]);
    }

    #[test]
    fn a_circle_between_rooms_is_found_and_one_inside_a_room_passes() {
        let file = |path: &str, text: &str| Source { path: path.to_owned(), lines: 1, code: code_of(text) };
        let room = |text: &str| {
            let all = [
                file("src/keeper/client/mod.rs", "use crate::error::Error;\nmod start;\nuse start::go;\n"),
                file("src/keeper/client/start.rs", text),
                file("src/keeper/start.rs", "use super::client::{Client, start::go};\n"),
                file("src/keeper/one.rs", "use super::two::Two;\n"),
                file("src/keeper/two.rs", "use crate::keeper::one;\n"),
            ];
            circles(&all)
        };
        assert_eq!(room("use super::Client;\nuse crate::keeper::Order;\n"), [""; 0]);
        for back in [
            "use super::super::start::begin;\n",
            "use crate::{error::Error, keeper::{one::One, start}};\n",
            "fn f() { crate::keeper::start::begin() }\n",
        ] {
            assert_eq!(room(back), ["keeper: client, start"], "{back}");
        }
    }

    #[test]
    fn a_use_downwards_passes() {
        let code = code_of("use crate::{error::Result, launch::plan::Plan};\nuse super::bundle;\n");
        assert_eq!(broken_layers("src/oci/kill.rs", &code), [""; 0]);
    }

    #[test]
    fn tests_comments_and_strings_are_not_read() {
        let code = code_of(
            "// crate::cli\n/* crate::cli /* nested */ crate::cli */\nconst A: &str = \"crate::cli\";\n\
             const B: &str = r#\"crate::cli \"quoted\" \"#;\nconst C: char = '\"';\nfn f<'a>(x: &'a str) {}\n\
             #[cfg(test)]\nmod tests {\n    use crate::cli;\n    fn g() { let _ = \"}\"; }\n}\n",
        );
        assert_eq!(broken_layers("src/oci/kill.rs", &code), [""; 0]);
        let after = code_of("#[cfg(test)]\nmod tests { use crate::cli; }\nuse crate::serve;\n");
        assert_eq!(broken_layers("src/oci/kill.rs", &after), ["src/oci/kill.rs: oci must not use serve"]);
    }

    #[test]
    fn a_crate_outside_its_fence_is_found() {
        let code = code_of("use clap::Parser;\nfn f() { libcontainer::x() }\n");
        assert_eq!(broken_fences("src/image/pull.rs", &code).len(), 2);
        assert_eq!(broken_fences("src/cli/pull.rs", &code_of("use clap::Parser;\n")), [""; 0]);
        assert_eq!(broken_fences("src/sys/mount.rs", &code_of("use serde_json::Value;\n")).len(), 1);
    }

    #[test]
    fn an_empty_name_is_found() {
        assert!(has_empty_name("src/oci/utils.rs") && has_empty_name("src/common/mod.rs"));
        assert!(!has_empty_name("src/oci/kill.rs"));
    }
}

pub(crate) struct Source {
    pub(crate) path: String,
    lines: usize,
    pub(crate) code: String,
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Every Rust file below a folder of the repository, without comments, strings and test code.
pub(crate) fn sources(folder: &str) -> Vec<Source> {
    let mut files = Vec::new();
    let mut folders = vec![here(folder)];
    while let Some(dir) = folders.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files.iter().map(|path| read_source(path)).collect()
}

fn read_source(path: &Path) -> Source {
    let text = fs::read_to_string(path).unwrap();
    let path = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_str().unwrap().to_owned();
    Source { path, lines: text.lines().count(), code: code_of(&text) }
}

/// The code alone: comments, strings and `#[cfg(test)]` items are blanked.
fn code_of(text: &str) -> String {
    without_tests(&without_comments_and_strings(text))
}

fn without_comments_and_strings(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped =
            comment_length(rest).or_else(|| string_length(rest, &code)).or_else(|| char_length(rest));
        match skipped {
            Some(length) => {
                code.push_str("\"\"");
                rest = &rest[length..];
            }
            None => {
                code.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    code
}

fn comment_length(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    let mut depth = 0_usize;
    for at in 0..text.len() {
        match text.as_bytes().get(at..at + 2) {
            Some(b"/*") => depth += 1,
            Some(b"*/") => depth -= 1,
            _ => {}
        }
        if depth == 0 && at > 0 {
            return Some(at + 2);
        }
    }
    Some(text.len())
}

fn string_length(text: &str, before: &str) -> Option<usize> {
    let starts_word = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let body =
        text.strip_prefix('b').or_else(|| text.strip_prefix('c')).filter(|_| starts_word).unwrap_or(text);
    let prefix = text.len() - body.len();
    if let Some(raw) = body.strip_prefix('r').filter(|_| starts_word) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let inner = raw[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let length = inner.find(&end).map_or(inner.len(), |at| at + end.len());
        return Some(prefix + 1 + hashes + 1 + length);
    }
    let inner = body.strip_prefix('"')?;
    let mut escaped = false;
    for (at, c) in inner.char_indices() {
        match c {
            '"' if !escaped => return Some(prefix + 1 + at + 1),
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    Some(text.len())
}

/// A character literal; a lifetime is none.
fn char_length(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    if inner.starts_with('\\') {
        return inner[2..].find('\'').map(|at| 1 + 2 + at + 1);
    }
    let c = inner.chars().next()?;
    inner[c.len_utf8()..].starts_with('\'').then_some(1 + c.len_utf8() + 1)
}

/// Cuts each item under `#[cfg(test)]`: to its closing brace, or to its semicolon if that comes first.
fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = item_end(rest);
        rest = &rest[end..];
    }
    kept.push_str(rest);
    kept
}

fn item_end(item: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in item.char_indices() {
        match c {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    item.len()
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The module below `src/` that a file belongs to.
fn module_of(path: &str) -> &str {
    let inside = path.strip_prefix("src/").unwrap_or(path);
    inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
}

fn broken_layers(path: &str, code: &str) -> Vec<String> {
    let user = module_of(path);
    if ["lib", "main"].contains(&user) {
        return Vec::new();
    }
    let used = used_modules(path, code);
    let mut used: Vec<_> = used.iter().filter(|module| *module != user && !may_use(user, module)).collect();
    used.sort();
    used.iter().map(|module| format!("{path}: {user} must not use {module}")).collect()
}

fn may_use(user: &str, used: &str) -> bool {
    if user == "keeper" {
        return ["launch", "linux", "record", "error", "id", "sys"].contains(&used);
    }
    let lower = matches!((layer_of(user), layer_of(used)), (Some(high), Some(low)) if low < high);
    lower || SIBLINGS.contains(&(user, used))
}

/// Every module named as `crate::m`, in `use crate::{m::..}`, as `coracle::m`, or by climbing with `super`.
fn used_modules(path: &str, code: &str) -> BTreeSet<String> {
    let flat: String = code.split_whitespace().collect::<Vec<_>>().join(" ").replace(":: ", "::");
    // The number of supers from the file's own module up to the crate; `mod.rs` is one level higher.
    let depth =
        path.strip_prefix("src/").unwrap_or(path).trim_end_matches("/mod.rs").matches('/').count() + 1;
    let climb = "super::".repeat(depth);
    let mut found = BTreeSet::new();
    for prefix in ["crate::", "coracle::", climb.as_str()] {
        for (at, _) in flat.match_indices(prefix) {
            let is_whole_word =
                !flat[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '$');
            if is_whole_word {
                found.extend(heads(&flat[at + prefix.len()..]));
            }
        }
    }
    found
}

/// The circles between a folder and its neighbours, as `parent: member, member`. Those between files of one folder are not
/// among them, nor is what a `mod.rs` uses of the files beside it.
fn circles(files: &[Source]) -> Vec<String> {
    let modules: BTreeSet<Vec<String>> = files.iter().map(|file| module_path(&file.path)).collect();
    let mut uses: BTreeSet<(Vec<String>, Vec<String>)> = BTreeSet::new();
    for file in files {
        let user = module_path(&file.path);
        for used in used_paths(&user, &file.code) {
            let common = user.iter().zip(&used).take_while(|(a, b)| a == b).count();
            let (from, to) = (user.get(..=common), used.get(..=common));
            if let (Some(from), Some(to)) = (from, to)
                && is_module(&modules, to)
            {
                uses.insert((from.to_vec(), to.to_vec()));
            }
        }
    }
    let is_folder =
        |module: &Vec<String>| modules.iter().any(|m| m.len() > module.len() && m.starts_with(module));
    let members: BTreeSet<&Vec<String>> = uses.iter().map(|(from, _)| from).collect();
    let circle_of = |member: &Vec<String>| -> BTreeSet<Vec<String>> {
        let reached = reach(&uses, member);
        reached.iter().filter(|other| reach(&uses, other).contains(member)).cloned().collect()
    };
    let found =
        members.into_iter().map(circle_of).filter(|circle| circle.len() > 1 && circle.iter().any(is_folder));
    let named = found.map(|circle| {
        let parent = circle.first().map(|member| member[..member.len() - 1].join("/")).unwrap_or_default();
        let names: Vec<_> = circle.iter().filter_map(|member| member.last().cloned()).collect();
        format!("{parent}: {}", names.join(", "))
    });
    named.collect::<BTreeSet<_>>().into_iter().collect()
}

fn is_module(modules: &BTreeSet<Vec<String>>, path: &[String]) -> bool {
    modules.iter().any(|module| module.starts_with(path))
}

/// What a member uses, and what that uses, and so on.
fn reach(uses: &BTreeSet<(Vec<String>, Vec<String>)>, from: &Vec<String>) -> BTreeSet<Vec<String>> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(member) = next.pop() {
        for (_, used) in uses.iter().filter(|(user, _)| user == member) {
            if reached.insert(used.clone()) {
                next.push(used);
            }
        }
    }
    reached
}

/// A file's module: `src/keeper/client/start.rs` is `keeper`, `client`, `start`.
fn module_path(path: &str) -> Vec<String> {
    let inside = path.strip_prefix("src/").unwrap_or(path).trim_end_matches(".rs").trim_end_matches("/mod");
    inside.split('/').map(str::to_owned).collect()
}

/// Every path from the crate or by `super`, as seen from the crate.
fn used_paths(user: &[String], code: &str) -> Vec<Vec<String>> {
    let flat: String = code.split_whitespace().collect::<Vec<_>>().join(" ").replace(":: ", "::");
    let mut found = Vec::new();
    for (prefix, climbs) in [("crate::", false), ("super::", true)] {
        for (at, _) in flat.match_indices(prefix) {
            let begins =
                !flat[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '$');
            if !begins {
                continue;
            }
            let mut rest = &flat[at..];
            let mut base = if climbs { user.to_vec() } else { Vec::new() };
            while let Some(behind) = rest.strip_prefix("super::") {
                base.pop();
                rest = behind;
            }
            rest = rest.strip_prefix("crate::").unwrap_or(rest);
            paths_of_tree(rest, &base, &mut found);
        }
    }
    found
}

/// Takes a tree of paths as in `use`, and answers what stands behind it.
fn paths_of_tree<'t>(tree: &'t str, base: &[String], found: &mut Vec<Vec<String>>) -> &'t str {
    let tree = tree.trim_start();
    if let Some(mut rest) = tree.strip_prefix('{') {
        loop {
            rest = paths_of_tree(rest, base, found).trim_start();
            match rest.strip_prefix(',') {
                Some(behind) => rest = behind,
                None => return rest.strip_prefix('}').unwrap_or(rest),
            }
            if let Some(behind) = rest.trim_start().strip_prefix('}') {
                return behind;
            }
        }
    }
    let length = tree.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(tree.len());
    let (name, rest) = tree.split_at(length);
    let mut path = base.to_vec();
    path.extend((!name.is_empty() && name != "self").then(|| name.to_owned()));
    match rest.strip_prefix("::") {
        Some(deeper) => paths_of_tree(deeper, &path, found),
        None => {
            found.push(path);
            rest.trim_start()
                .strip_prefix("as ")
                .map_or(rest, |alias| alias.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'))
        }
    }
}

/// The first names of a path, or of each path in a braced list.
fn heads(path: &str) -> Vec<String> {
    let Some(list) = path.strip_prefix('{') else {
        return words(path)
            .next()
            .map(str::to_owned)
            .filter(|w| path.starts_with(w.as_str()))
            .into_iter()
            .collect();
    };
    let mut depth = 0_usize;
    let mut names = Vec::new();
    let mut at_start = true;
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            c if depth == 0 && at_start && !c.is_whitespace() => {
                at_start = false;
                names.extend(words(&list[at..]).next().map(str::to_owned));
            }
            _ => {}
        }
    }
    names
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty())
}

fn broken_fences(path: &str, code: &str) -> Vec<String> {
    let inside = path.strip_prefix("src/").unwrap_or(path);
    let names = |name: &str| code.match_indices(name).any(|(at, _)| is_crate_path(code, at, name));
    let fenced = FENCES.iter().filter(|(name, inside_of, _)| {
        !inside_of.iter().any(|prefix| inside.starts_with(prefix)) && names(name)
    });
    let banned = BANS.iter().filter(|(prefix, name, _)| inside.starts_with(prefix) && names(name));
    let fenced = fenced.map(|(name, _, reason)| format!("{path}: must not name {name}: {reason}"));
    fenced.chain(banned.map(|(_, name, reason)| format!("{path}: must not name {name}: {reason}"))).collect()
}

/// Whether the name at this place is a crate's, as in `clap::Parser` or `use clap;`.
fn is_crate_path(code: &str, at: usize, name: &str) -> bool {
    let before = code[..at].trim_end();
    let after = code[at + name.len()..].trim_start();
    let starts = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
        && (!before.ends_with("::") || before.ends_with(" ::"));
    starts && (after.starts_with("::") || (before.ends_with("use") && after.starts_with([';', ' '])))
}

fn has_empty_name(path: &str) -> bool {
    path.split('/').any(|part| EMPTY_NAMES.contains(&part.trim_end_matches(".rs")))
}
