use aico_crypto::{Hasher, same_bytes};
use aico_policy::DataPath;
use rusqlite::OptionalExtension;

use super::UserData;
use crate::Error;
use crate::store::file::{FileId, FileReader};

/// A value on its way out.
#[derive(Debug)]
pub(crate) struct ValueReader {
    bytes: u64,
    sum: [u8; 32],
    hasher: Hasher,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Inline(Option<Vec<u8>>),
    File(FileReader),
}

struct Row {
    bytes: u64,
    sum: [u8; 32],
    file: Option<(FileId, Vec<u8>)>,
    content: Option<Vec<u8>>,
}

impl ValueReader {
    pub(super) fn open(data: &UserData, path: &DataPath) -> Result<Self, Error> {
        // A value that is replaced between the row's reading and the file's opening has lost its file: look again.
        let mut tries = 3;
        loop {
            let row = Self::row(data, path)?.ok_or(Error::NotFound)?;
            match (Self::from_row(data, row), tries) {
                (Err(Error::Damaged { .. }), 1..) => tries -= 1,
                (opened, _) => return opened,
            }
        }
    }

    fn row(data: &UserData, path: &DataPath) -> Result<Option<Row>, Error> {
        data.database().read(|connection| {
            let sql = "SELECT bytes, sum, file_id, file_key, content
                       FROM value LEFT JOIN inline_value ON inline_value.value = value.id WHERE path = ?1";
            let mut statement = connection.prepare_cached(sql)?;
            let row = statement.query_row([path.as_str()], |row| {
                let file = row.get::<_, Option<FileId>>(2)?.zip(row.get(3)?);
                let bytes = row.get::<_, i64>(0)?.cast_unsigned();
                Ok(Row { bytes, sum: row.get(1)?, file, content: row.get(4)? })
            });
            row.optional()
        })
    }

    fn from_row(data: &UserData, row: Row) -> Result<Self, Error> {
        let Row { bytes, sum, file, content } = row;
        let source = match (file, content) {
            (Some((id, wrapped)), _) => {
                let key = data.wrap.unwrap_file(&wrapped, &id).map_err(|_| damaged("its key does not open"))?;
                Source::File(FileReader::open(&data.files, &id, &data.space, &key, bytes)?)
            }
            (None, Some(content)) => Source::Inline(Some(content)),
            (None, None) => return Err(damaged("its content is missing")),
        };
        Ok(Self { bytes, sum, hasher: Hasher::new(), source })
    }

    /// Bytes of the value.
    #[must_use]
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Puts the next piece, at most 1 MiB, into `chunk`. False at the end, once the value's sum has been checked.
    pub(crate) fn next_chunk(&mut self, chunk: &mut Vec<u8>) -> Result<bool, Error> {
        let more = match &mut self.source {
            Source::File(file) => file.next_chunk(chunk)?,
            Source::Inline(content) => {
                *chunk = content.take().unwrap_or_default();
                !chunk.is_empty()
            }
        };
        self.hasher.update(chunk);
        if !more && !same_bytes(&self.hasher.finish(), &self.sum) {
            return Err(damaged("its sum is wrong"));
        }
        Ok(more)
    }
}

fn damaged(detail: &str) -> Error {
    Error::damaged("a value", detail)
}
