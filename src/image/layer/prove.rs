//! Unpacks and checks the result in every possible way: for tests and fuzzing.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use super::{Applied, Limits, apply_recorded};
use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;
use crate::store::index;

/// Unpacks `stream` into the empty directory `root` and writes its record to `record`; then compares the two, and
/// rebuilds the tar where that is possible.
///
/// # Errors
/// Those of [`super::apply`] for a layer that is refused; `Bug` when an accepted layer fails a check, which it names.
pub fn apply_and_prove(stream: impl Read, root: &Path, record: &Path, limits: &Limits) -> Result<Applied> {
    let doing = || format!("unpack to {}", root.display());
    let dir = File::open(root).doing(doing)?;
    let file = private::create(record, private::FILE).doing(doing)?;
    let applied = apply_recorded(stream, dir.as_fd(), Some(file), limits, &mut |_| {})?;
    let open = || File::open(record).doing(doing);
    let wrong = |what: String| Error::new(Kind::Bug, what);
    let mut flaws = Vec::new();
    let checked = index::check([open()?, open()?], dir.as_fd(), index::Depth::Content, &mut |flaw| {
        flaws.push(format!("\"{}\": {}", flaw.path.escape_ascii(), flaw.what));
    });
    let checked = checked.map_err(|error| wrong(format!("the new record is damaged: {}", error.chain())))?;
    if !flaws.is_empty() || checked.diff_id != Some(applied.diff_id) {
        return Err(wrong(format!("the new layer differs from its record: {flaws:?}")));
    }
    if index::is_whole(open()?, open()?)? {
        let digest = index::rebuild(open()?, dir.as_fd(), &mut std::io::sink())
            .map_err(|error| wrong(format!("the tar cannot be rebuilt: {}", error.chain())))?;
        if digest != applied.diff_id {
            return Err(wrong(format!("the rebuilt tar has digest {digest}")));
        }
    }
    Ok(applied)
}
