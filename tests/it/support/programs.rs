//! The programs under test: those that cargo built together with this test binary, or, where `CORACLE_UNDER_TEST` names a
//! directory, the `dist` builds in there. So these are measured without a `dist` build of the tests.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The directory that `CORACLE_UNDER_TEST` names.
static NAMED: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let folder = PathBuf::from(std::env::var_os("CORACLE_UNDER_TEST").filter(|value| !value.is_empty())?);
    let folder = folder.canonicalize().unwrap_or_else(|e| panic!("CORACLE_UNDER_TEST={folder:?}: {e}"));
    for name in ["coracle", "coracle-keeper"] {
        assert!(folder.join(name).is_file(), "CORACLE_UNDER_TEST={folder:?}: there is no {name}");
    }
    Some(folder)
});

static CORACLE: LazyLock<PathBuf> = LazyLock::new(|| built("coracle", env!("CARGO_BIN_EXE_coracle")));
static KEEPER: LazyLock<PathBuf> =
    LazyLock::new(|| built("coracle-keeper", env!("CARGO_BIN_EXE_coracle-keeper")));

fn built(name: &str, beside_the_tests: &str) -> PathBuf {
    NAMED.as_ref().map_or_else(|| beside_the_tests.into(), |folder| folder.join(name))
}

/// `coracle`, as an absolute path.
pub(crate) fn coracle_program() -> &'static Path {
    &CORACLE
}

/// `coracle-keeper`, as an absolute path; it lies beside `coracle`.
pub(crate) fn keeper_program() -> &'static Path {
    &KEEPER
}

/// Copies a program that is to be executed. Another process writes it: a descriptor of ours for writing would be inherited by
/// what other tests start at that moment, and the program could not be executed (ETXTBSY).
pub(crate) fn copy_program(program: &Path, to: &Path) {
    super::Run::new("cp").arg(program).arg(to).go().ok();
}

/// Whether the programs are of the profile `dist`, whose sizes and costs are promised. Cargo names a directory after it.
pub(crate) fn are_dist_builds() -> bool {
    NAMED.is_some() || CORACLE.parent().is_some_and(|directory| directory.ends_with("dist"))
}
