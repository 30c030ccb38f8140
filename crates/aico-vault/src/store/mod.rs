//! The stores of a space (`docs/spec/vault-stores.md`): a database, and chunked files for what is too long for it.

mod file;
mod history;
mod sqlite;
mod step;

pub(crate) use file::{FileId, FileReader, FileStore, FileWriter, FinishedFile};
pub(crate) use history::{History, sweep as sweep_histories};
pub(crate) use sqlite::{Commit, Database, UNCLEAR};
pub(crate) use step::Step;
