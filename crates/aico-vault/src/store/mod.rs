//! The stores of a space (`docs/spec/vault-stores.md`): a database, chunked files for what is too long for it, and sealed
//! files that are written in any order (`docs/spec/tree.md`).

mod blocks;
mod file;
mod history;
mod sqlite;
mod step;

pub(crate) use blocks::{BlockFile, BlockStore, NewFile};
pub(crate) use file::{FileId, FileReader, FileStore, FileWriter, FinishedFile};
pub(crate) use history::{History, sweep as sweep_histories};
pub(crate) use sqlite::{Commit, Database, UNCLEAR};
pub(crate) use step::Step;
