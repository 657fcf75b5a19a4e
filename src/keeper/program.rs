//! The keeper's program: `coracle-keeper`, or `coracle` itself under that name.

use std::path::PathBuf;

use crate::launch::self_protect::own_path;

/// The keeper's name as a program, and the first argument (`argv[0]`) that makes `coracle` act as it.
pub(super) const NAME: &str = "coracle-keeper";

/// The variable that names the keeper's program.
pub(super) const VARIABLE: &str = "CORACLE_KEEPER";

/// Whether this program was started under the keeper's name: so that `coracle` alone, without `coracle-keeper` beside it,
/// is the keeper as well.
pub fn is_called_as_keeper() -> bool {
    let name = std::env::args_os().next().map(PathBuf::from);
    name.is_some_and(|path| path.file_name() == Some(NAME.as_ref()))
}

/// The keeper's program: the one that `CORACLE_KEEPER` names, or `coracle-keeper` in this program's directory, or this
/// program itself, which acts as the keeper under that name.
pub fn keeper_program() -> PathBuf {
    let named = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from);
    named.unwrap_or_else(|| {
        let own = own_path();
        let beside = own.as_ref().map(|own| own.with_file_name(NAME)).filter(|path| path.exists());
        beside.or(own).unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
    })
}
