//! `tests/conformance/CVE.md` is held to what it says: each row has a verdict, and the tests it names are there. So are
//! those that `SECURITY.md` and `README.md` name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    ids: Vec<String>,
    verdict: String,
    why: String,
    tests: Vec<String>,
}

/// What a row may say; CVE.md explains each.
const VERDICTS: [&str; 4] = ["holds", "no", "others", "limits"];

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// `CVE-2021-3156`, `GHSA-w2j5-3rcx-vx7x`; a question mark at the end says that nobody has looked it up.
fn is_id(text: &str) -> bool {
    let text = text.trim_end_matches('?');
    let number = |part: &str| part.len() >= 4 && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<_> = text.split('-').collect();
    match parts[..] {
        ["CVE", year, rest] => year.len() == 4 && number(year) && number(rest),
        ["GHSA", a, b, c] => [a, b, c].iter().all(|part| part.len() == 4),
        _ => false,
    }
}

/// The rows of all tables: `id | what went wrong | verdict | why | test`.
fn rows(text: &str) -> Result<Vec<Row>, String> {
    let lines = text.lines().filter(|line| line.starts_with('|') && !line.starts_with("|---"));
    let lines = lines.filter(|line| !line.starts_with("| id |") && !line.starts_with("| verdict |"));
    let rows =
        lines.filter(|line| !VERDICTS.iter().any(|verdict| line.starts_with(&format!("| {verdict} |"))));
    rows.map(row).collect()
}

fn row(line: &str) -> Result<Row, String> {
    let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
    let &[ids, what, verdict, why, tests] = &cells[..] else { return Err(format!("five cells: {line}")) };
    let ids: Vec<_> = ids.split(',').map(|id| id.trim().to_owned()).collect();
    let bad = |why: &str| Err(format!("{}: {why}", ids.join(", ")));
    let tests: Vec<_> = tests.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    if let Some(id) = ids.iter().find(|id| !is_id(id)) {
        return bad(&format!("{id:?} is no number"));
    }
    if !VERDICTS.contains(&verdict) {
        return bad(&format!("{verdict:?} is no verdict"));
    }
    if what.is_empty() || why.is_empty() {
        return bad("what went wrong, and why the verdict is as it is, has to be said");
    }
    if verdict == "holds" && tests.is_empty() {
        return bad("that it holds has to be shown by a test");
    }
    Ok(Row { ids, verdict: verdict.to_owned(), why: why.to_owned(), tests })
}

/// The tests of a file, by their names.
fn tests_in(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        is_test |= line == "#[test]";
        let name = line
            .trim_start_matches("pub(crate) ")
            .strip_prefix("fn ")
            .and_then(|rest| rest.split('(').next());
        if let Some(name) = name.filter(|_| std::mem::take(&mut is_test)) {
            found.push(name.to_owned());
        }
    }
    found
}

/// All tests of the tree with their modules: `cve::…`, `launch::exposure::tests::…`, `wire::rpcs::…`.
fn all_tests() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for root in ["tests/it", "src", "cri/src", "cri/tests"] {
        let mut folders = vec![top().join(root)];
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()) {
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|end| end == "rs") {
                    let module = module_of(path.strip_prefix(top().join(root)).unwrap());
                    for name in tests_in(&fs::read_to_string(&path).unwrap()) {
                        all.insert(format!("{module}{name}"));
                        all.insert(format!("{module}tests::{name}"));
                    }
                }
            }
        }
    }
    // A macro makes one of each description; `layer_attacks::every_description_has_its_test` sees to it.
    for path in fs::read_dir(top().join("oci-fixtures/attacks")).unwrap().flatten().map(|entry| entry.path())
    {
        if path.extension().is_some_and(|end| end == "json") {
            all.insert(format!(
                "layer_attacks::{}",
                path.file_stem().unwrap().to_str().unwrap().replace('-', "_")
            ));
        }
    }
    all
}

fn module_of(path: &Path) -> String {
    let parts = path.with_extension("");
    let parts =
        parts.iter().map(|part| part.to_str().unwrap()).filter(|part| !["mod", "main", "lib"].contains(part));
    parts.flat_map(|part| [part, "::"]).collect()
}

fn table() -> Vec<Row> {
    rows(&fs::read_to_string(top().join("tests/conformance/CVE.md")).unwrap()).unwrap()
}

#[test]
fn every_row_has_a_verdict_and_tests_that_exist() {
    let (rows, all) = (table(), all_tests());
    let ids = rows.iter().map(|row| row.ids.len()).sum::<usize>();
    assert!(ids > 150, "{ids} numbers: the table is not read as it is written");
    let missing: Vec<_> = rows
        .iter()
        .flat_map(|row| row.tests.iter().map(move |test| (row, test)))
        .filter(|(_, test)| !all.contains(*test))
        .map(|(row, test)| format!("{}: {test}", row.ids.join(", ")))
        .collect();
    assert!(missing.is_empty(), "there are no such tests: {missing:#?}");
}

/// `module::name`, `module::name_…` for the beginning of one, `module::` for all of a module.
fn names_a_test(all: &BTreeSet<String>, text: &str) -> bool {
    let start = text.trim_end_matches('…');
    let is_whole = start == text && !text.ends_with("::");
    all.iter().any(|test| if is_whole { test == text } else { test.starts_with(start) })
}

#[test]
fn promises_name_tests_that_exist() {
    let all = all_tests();
    for (file, least) in [("SECURITY.md", 30), ("README.md", 10)] {
        let text = fs::read_to_string(top().join(file)).unwrap();
        let named: Vec<_> = text.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect();
        assert!(named.len() >= least, "{file} names {} tests: it is not read as it is written", named.len());
        let missing: Vec<_> = named.into_iter().filter(|name| !names_a_test(&all, name)).collect();
        assert!(missing.is_empty(), "{file} names tests that do not exist: {missing:?}");
    }
    assert!(!names_a_test(&all, "cve_table::promises_name"));
    assert!(!names_a_test(&all, "cve_tables::"));
}

#[test]
fn no_number_stands_twice() {
    let mut count = BTreeMap::new();
    for id in table().into_iter().flat_map(|row| row.ids) {
        *count.entry(id.trim_end_matches('?').to_owned()).or_insert(0) += 1;
    }
    count.retain(|_, times| *times > 1);
    assert!(count.is_empty(), "{count:?}");
}

/// A test that is called by a number is found in the row of that number.
#[test]
fn every_test_of_a_number_stands_in_its_row() {
    let rows = table();
    let plain = |test: &str| test.replace("::tests::", "::");
    let numbered = all_tests().into_iter().map(|test| plain(&test)).filter_map(|test| {
        let mut words = test.rsplit("::").next()?.strip_prefix("cve_")?.split('_');
        Some((format!("CVE-{}-{}", words.next()?, words.next()?), test))
    });
    let stands = |id: &str, test: &str| {
        let of_id = rows.iter().filter(|row| row.ids.iter().any(|own| own.trim_end_matches('?') == id));
        of_id.flat_map(|row| &row.tests).any(|own| plain(own) == test)
    };
    let unknown: BTreeSet<_> = numbered.filter(|(id, test)| !stands(id, test)).collect();
    assert!(unknown.is_empty(), "not in CVE.md: {unknown:#?}");
}

#[test]
fn a_row_that_says_too_little_is_found() {
    let good = "| CVE-2019-5736, CVE-2020-14298? | it is written to | holds | sealed | `cve::x`, `cve::y` |";
    let row = rows(good).unwrap().remove(0);
    assert_eq!(row.tests, ["cve::x", "cve::y"]);
    assert_eq!((row.ids.len(), row.verdict.as_str(), row.why.as_str()), (2, "holds", "sealed"));
    for (bad, word) in [
        ("| CVE-2019-5736 | it is written to | | sealed | `cve::x` |", "verdict"),
        ("| CVE-2019-5736 | it is written to | maybe | sealed | `cve::x` |", "verdict"),
        ("| CVE-2019-5736 | it is written to | holds | sealed | |", "test"),
        ("| CVE-2019-5736 | it is written to | no | | |", "why"),
        ("| CVE-19-5736 | it is written to | no | sealed | |", "number"),
        ("| CVE-2019-5736 | it is written to | no |", "five"),
    ] {
        assert!(rows(bad).unwrap_err().contains(word), "{bad}");
    }
    assert_eq!(
        tests_in("#[test]\n#[ignore]\nfn a() {}\nfn b() {}\n    #[test]\n    pub(crate) fn c(x: u8) {}"),
        ["a", "c"]
    );
    assert_eq!(module_of(Path::new("launch/mod.rs")), "launch::");
}
