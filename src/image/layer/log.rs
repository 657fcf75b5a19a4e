//! Writes the layer's record while the layer is applied, if a record is wanted.

use std::cell::RefCell;
use std::fs::File;
use std::rc::Rc;

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::store::index::{Record, Writer};

/// A record that several parts of the applier write to.
#[derive(Debug, Clone, Default)]
pub(super) struct Log(Option<Rc<RefCell<Writer>>>);

impl Log {
    /// Writes to `file`, or nowhere.
    pub(super) fn new(file: Option<File>) -> Result<Self> {
        let writer = file.map(Writer::new).transpose()?;
        Ok(Self(writer.map(|writer| Rc::new(RefCell::new(writer)))))
    }

    /// Adds bytes of the tar that are no file's data.
    pub(super) fn raw(&self, bytes: &[u8]) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |writer| writer.borrow_mut().raw(bytes))
    }

    /// Adds the record of a member.
    pub(super) fn put(&self, record: &Record<'_>) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |writer| writer.borrow_mut().put(record))
    }

    /// Returns whether a record is written.
    pub(super) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Ends the record; all other holders have been dropped.
    pub(super) fn finish(self, diff_id: Digest) -> Result<()> {
        let Some(writer) = self.0 else { return Ok(()) };
        let still_held = || Error::new(Kind::Bug, "the layer's record is still written to");
        Rc::into_inner(writer).ok_or_else(still_held)?.into_inner().finish(diff_id)
    }
}
