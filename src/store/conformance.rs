//! The rules for every [`LayerStore`], as a suite that a back end runs in its own tests.
//!
//! Each check names the broken rule and does not stop the next check, so one run reports all.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::layers::{LayerStore, Staged};
use super::record::LayerId;
use crate::error::{Doing, Error, Kind, Result};

/// A broken rule.
#[derive(Debug)]
pub struct Broken {
    /// The rule, in the words of `RULES`.
    pub rule: &'static str,
    /// How the back end breaks it.
    pub how: Error,
}

type Check = fn(&dyn LayerStore, &Path) -> Result<()>;

/// In the order of a layer's life.
const RULES: [(&str, Check); 8] = [
    ("a staged root is an empty directory of mode 0755", staged_is_empty),
    ("two staged layers of one transaction are separate", staged_are_apart),
    ("a staged layer is not present", staged_is_not_present),
    ("a placed layer is complete at its lower directory, with its record", placed_is_whole),
    ("a placed layer has left its transaction's directory", placed_has_moved),
    ("a number in use is not assigned again", taken_stays),
    ("a discarded layer has disappeared, and no other has", discarded_is_gone),
    ("discarding a missing layer succeeds, and so does syncing twice", discard_twice),
];

/// Runs all checks, each on a new back end from `make`, which returns it with a transaction's directory on the same
/// file system. Returns the broken rules: none for a back end that conforms.
///
/// # Errors
/// Those of `make`.
pub fn run<S: LayerStore>(mut make: impl FnMut() -> Result<(S, std::path::PathBuf)>) -> Result<Vec<Broken>> {
    let mut broken = Vec::new();
    for (rule, check) in RULES {
        let (store, transaction) = make()?;
        if let Err(how) = check(&store, &transaction) {
            broken.push(Broken { rule, how });
        }
    }
    Ok(broken)
}

fn ensure(holds: bool, otherwise: &'static str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::new(Kind::Bug, otherwise)) }
}

fn staged_is_empty(store: &dyn LayerStore, transaction: &Path) -> Result<()> {
    let staged = store.stage(transaction, 0)?;
    let names = super::entry_names(staged.root().as_fd()).doing(|| "list it")?;
    ensure(names.is_empty(), "it is not empty")?;
    let stat = rustix::fs::fstat(staged.root()).doing(|| "inspect it")?;
    ensure(stat.st_mode & 0o7777 == 0o755, "it has another mode")
}

fn staged_are_apart(store: &dyn LayerStore, transaction: &Path) -> Result<()> {
    let (one, two) = (store.stage(transaction, 0)?, store.stage(transaction, 1)?);
    fill(&one, "one")?;
    let names = super::entry_names(two.root().as_fd()).doing(|| "list it")?;
    ensure(names.is_empty() && one.path() != two.path(), "what is put into one shows in the other")
}

fn staged_is_not_present(store: &dyn LayerStore, transaction: &Path) -> Result<()> {
    fill(&store.stage(transaction, 0)?, "x")?;
    ensure(store.present()?.is_empty(), "it is listed")
}

fn placed_is_whole(store: &dyn LayerStore, transaction: &Path) -> Result<()> {
    let staged = store.stage(transaction, 0)?;
    fill(&staged, "content")?;
    store.place(&staged, LayerId(7))?;
    store.sync()?;
    ensure(store.present()? == [LayerId(7)], "it is not listed, or something else is")?;
    let read = |path: &Path| std::fs::read(path).doing(|| format!("read {}", path.display()));
    ensure(read(&store.lower(LayerId(7)).join("file"))? == b"content", "its file has other bytes")?;
    ensure(read(&store.index(LayerId(7)))? == b"record of content", "its record has other bytes")
}

fn placed_has_moved(store: &dyn LayerStore, transaction: &Path) -> Result<()> {
    let staged = store.stage(transaction, 0)?;
    fill(&staged, "x")?;
    store.place(&staged, LayerId(1))?;
    let left = std::fs::read_dir(transaction).doing(|| "list the transaction")?.count();
    ensure(left == 0, "the transaction still has something of it")
}

fn taken_stays(store: &dyn LayerStore, transaction: &Path) -> Result<()> {
    let (one, two) = (store.stage(transaction, 0)?, store.stage(transaction, 1)?);
    fill(&one, "first")?;
    fill(&two, "second")?;
    store.place(&one, LayerId(1))?;
    ensure(store.place(&two, LayerId(1)).is_err(), "it was given twice")?;
    let path = store.lower(LayerId(1)).join("file");
    ensure(std::fs::read(&path).is_ok_and(|bytes| bytes == b"first"), "the first layer was overwritten")
}

fn discarded_is_gone(store: &dyn LayerStore, transaction: &Path) -> Result<()> {
    for number in 0..3 {
        let staged = store.stage(transaction, number)?;
        fill(&staged, "x")?;
        store.place(&staged, LayerId(number.into()))?;
    }
    store.discard(LayerId(1))?;
    let mut present = store.present()?;
    present.sort_unstable();
    ensure(present == [LayerId(0), LayerId(2)], "the list is another one")?;
    let seen = |id| store.lower(LayerId(id)).join("file").exists();
    ensure(!seen(1) && seen(0) && seen(2), "the wrong files are there")
}

fn discard_twice(store: &dyn LayerStore, transaction: &Path) -> Result<()> {
    store.discard(LayerId(9))?;
    let staged = store.stage(transaction, 0)?;
    fill(&staged, "x")?;
    store.place(&staged, LayerId(9))?;
    store.discard(LayerId(9))?;
    store.discard(LayerId(9))?;
    store.sync()?;
    store.sync()
}

/// Puts one file and a record into a staged layer.
fn fill(staged: &Staged, content: &str) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(staged.root(), "file", flags, Mode::RUSR | Mode::WUSR);
    let file = file.doing(|| "make a file in it")?;
    rustix::io::write(&file, content.as_bytes()).doing(|| "write a file in it")?;
    let record = format!("record of {content}");
    rustix::io::write(staged.index()?, record.as_bytes()).doing(|| "write its record").map(drop)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::layers::OverlayLayers;
    use super::super::trash::Trash;
    use super::*;

    /// The overlay back end with one defect.
    #[derive(Debug)]
    struct Flawed {
        inner: OverlayLayers,
        flaw: &'static str,
        dir: tempfile::TempDir,
    }

    fn make(flaw: &'static str) -> Result<(Flawed, PathBuf)> {
        let dir = tempfile::tempdir().unwrap();
        for name in ["layers", "trash", "txn"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let inner = OverlayLayers::new(dir.path().join("layers"), Trash::new(dir.path().join("trash")));
        let txn = dir.path().join("txn");
        Ok((Flawed { inner, flaw, dir }, txn))
    }

    impl LayerStore for Flawed {
        fn stage(&self, inside: &Path, number: u32) -> Result<Staged> {
            let number = if self.flaw == "one root for all" { 0 } else { number };
            let staged = self.inner.stage(inside, number)?;
            if self.flaw == "leftovers" {
                std::fs::write(staged.path().join("left"), "").unwrap();
            }
            if self.flaw == "staged among the placed" {
                std::fs::create_dir_all(self.dir.path().join("layers/99")).unwrap();
            }
            Ok(staged)
        }

        fn place(&self, staged: &Staged, id: LayerId) -> Result<()> {
            match self.flaw {
                "copies" => {
                    let to = self.dir.path().join("layers").join(id.to_string());
                    std::fs::create_dir_all(to.join("fs")).unwrap();
                    std::fs::copy(staged.path().join("file"), to.join("fs/file")).unwrap();
                    std::fs::copy(staged.index_path(), to.join("files.idx")).unwrap();
                    Ok(())
                }
                "overwrites" => {
                    self.inner.discard(id)?;
                    self.inner.place(staged, id)
                }
                "loses the record" => {
                    std::fs::remove_file(staged.index_path()).unwrap();
                    self.inner.place(staged, id)
                }
                _ => self.inner.place(staged, id),
            }
        }

        fn sync(&self) -> Result<()> {
            self.inner.sync()
        }

        fn lower(&self, id: LayerId) -> PathBuf {
            self.inner.lower(id)
        }

        fn index(&self, id: LayerId) -> PathBuf {
            self.inner.index(id)
        }

        fn present(&self) -> Result<Vec<LayerId>> {
            self.inner.present()
        }

        fn discard(&self, id: LayerId) -> Result<()> {
            match self.flaw {
                "discards nothing" => Ok(()),
                "discards all" => {
                    for id in self.present()? {
                        self.inner.discard(id)?;
                    }
                    Ok(())
                }
                "insists" if !self.present()?.contains(&id) => {
                    Err(Error::new(Kind::NotFound, "no such layer"))
                }
                _ => self.inner.discard(id),
            }
        }
    }

    fn broken(flaw: &'static str) -> Vec<&'static str> {
        run(|| make(flaw)).unwrap().into_iter().map(|broken| broken.rule).collect()
    }

    #[test]
    fn the_overlay_back_end_conforms() {
        let broken = run(|| make("")).unwrap();
        assert!(broken.is_empty(), "{broken:?}");
    }

    #[test]
    fn each_defect_breaks_its_rule() {
        for (flaw, rule) in [
            ("leftovers", RULES[0].0),
            ("one root for all", RULES[1].0),
            ("staged among the placed", RULES[2].0),
            ("loses the record", RULES[3].0),
            ("copies", RULES[4].0),
            ("overwrites", RULES[5].0),
            ("discards nothing", RULES[6].0),
            ("discards all", RULES[6].0),
            ("insists", RULES[7].0),
        ] {
            assert!(broken(flaw).contains(&rule), "{flaw}: {:?}", broken(flaw));
        }
    }
}
