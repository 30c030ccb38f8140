//! What a foreign database holds, read without running anything of it.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use aico_crypto::sha256;
use aico_ffi_reader::{Database, Source};
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{Trouble, row};
use crate::error::Error;

/// Most bytes of a row, a text or a blob.
pub(crate) const MAX_ROW_BYTES: i32 = 256 << 20;
/// Most tables of a database.
const MAX_TABLES: usize = 10_000;
/// Longest name that stands in a path as it is.
const MAX_NAME_BYTES: usize = 120;

/// A table with rows of its own.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) name: String,
    /// The first line of its value.
    head: Vec<u8>,
    select: String,
    columns: usize,
}

/// A database: its tables, and the description of all that is in it.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) tables: Vec<Table>,
    /// Virtual tables: their content is made by code.
    pub(crate) virtual_tables: Vec<String>,
    pub(crate) description: Vec<u8>,
}

#[derive(Serialize)]
struct Head<'a> {
    aico_table: u8,
    table: &'a str,
    sql: Box<RawValue>,
    rowid: bool,
    columns: Vec<Column>,
}

#[derive(Serialize)]
struct Column {
    name: String,
    #[serde(rename = "type")]
    declared: String,
    not_null: bool,
    default: Option<String>,
    primary_key: i64,
}

#[derive(Serialize)]
struct Description {
    aico_schema: u8,
    encoding: String,
    user_version: i64,
    application_id: i64,
    objects: Vec<Object>,
}

#[derive(Serialize)]
struct Object {
    kind: String,
    name: Box<RawValue>,
    table: Box<RawValue>,
    sql: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

/// Opens a database that somebody else wrote: nothing that its schema says is run, and nothing is written.
pub(crate) fn open(source: Arc<dyn Source>, path: &Path) -> Result<Database, Error> {
    let trouble = |error| Trouble::of(error, path);
    let database = Database::open(source).map_err(trouble)?;
    for (setting, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, true),
    ] {
        database.set_db_config(setting, on).map_err(trouble)?;
    }
    database.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_ROW_BYTES).map_err(trouble)?;
    database.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0).map_err(trouble)?;
    // A check constraint is code of the schema.
    for (name, value) in [("cell_size_check", true), ("query_only", true), ("ignore_check_constraints", true)] {
        database.pragma_update(None, name, value).map_err(trouble)?;
    }
    Ok(database)
}

impl Schema {
    pub(crate) fn read(database: &Database, path: &Path) -> Result<Self, Error> {
        let trouble = |error| Trouble::of(error, path);
        let mut schema = Self { tables: Vec::new(), virtual_tables: Vec::new(), description: Vec::new() };
        let number = |name| database.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(trouble);
        let mut description = Description {
            aico_schema: 1,
            encoding: database.pragma_query_value(None, "encoding", |row| row.get(0)).map_err(trouble)?,
            user_version: number("user_version")?,
            application_id: number("application_id")?,
            objects: Vec::new(),
        };
        let sql = "SELECT type, name, tbl_name, sql, coalesce(rootpage, 0) FROM sqlite_schema ORDER BY rowid";
        let mut statement = database.prepare(sql).map_err(trouble)?;
        let mut rows = statement.query([]).map_err(trouble)?;
        while let Some(row) = rows.next().map_err(trouble)? {
            let kind: String = row.get(0).map_err(trouble)?;
            let [name, table, sql] = [1, 2, 3].map(|at| raw_text(row, at));
            let (name, table, sql) = (name.map_err(trouble)?, table.map_err(trouble)?, sql.map_err(trouble)?);
            let mut value = None;
            if kind == "table" {
                let shown = row.get_ref(1).and_then(|name| Ok(name.as_bytes()?.to_vec())).map_err(trouble)?;
                let shown = String::from_utf8(shown).map_err(|_| Trouble::Name(path.to_owned()))?;
                if row.get::<_, i64>(4).map_err(trouble)? == 0 {
                    schema.virtual_tables.push(shown);
                } else {
                    check(database, &shown, path)?;
                    let table = Table::read(database, shown, sql.clone()).map_err(trouble)?;
                    value = Some(table.file_name());
                    schema.tables.push(table);
                }
            }
            description.objects.push(Object { kind, name, table, sql, value });
            if description.objects.len() > 4 * MAX_TABLES || schema.tables.len() > MAX_TABLES {
                return Err(Trouble::Damaged(path.to_owned(), format!("more than {MAX_TABLES} tables")).into());
            }
        }
        schema.description = serde_json::to_vec(&description)?;
        schema.description.push(b'\n');
        Ok(schema)
    }
}

/// Looks at every page of a table. Of one table only: a check of everything would run the code of virtual ones.
fn check(database: &Database, name: &str, path: &Path) -> Result<(), Error> {
    // SQLite takes a number for something else.
    if name.parse::<f64>().is_ok() {
        return Ok(());
    }
    let said =
        database.query_row(&format!("PRAGMA main.quick_check({})", quoted(name)), [], |row| row.get::<_, String>(0));
    match said.map_err(|error| Trouble::of(error, path))?.as_str() {
        "ok" => Ok(()),
        said => Err(Trouble::Damaged(path.to_owned(), said.to_owned()).into()),
    }
}

impl Table {
    fn read(database: &Database, name: String, sql: Box<RawValue>) -> Result<Self, rusqlite::Error> {
        let mut statement = database.prepare(
            "SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_xinfo(?1) WHERE hidden <> 2 ORDER BY cid",
        )?;
        let columns = statement.query_map([&name], |row| {
            Ok(Column {
                name: row.get(0)?,
                declared: row.get(1)?,
                not_null: row.get(2)?,
                default: row.get(3)?,
                primary_key: row.get(4)?,
            })
        })?;
        let columns: Vec<Column> = columns.collect::<Result<_, _>>()?;
        let of_table = format!("FROM main.{} NOT INDEXED", quoted(&name));
        // One of its three names, where no column has taken it; a table without row ids has none of them.
        let rowid = ["rowid", "_rowid_", "oid"].into_iter().find(|alias| {
            columns.iter().all(|column| !column.name.eq_ignore_ascii_case(alias))
                && database.prepare(&format!("SELECT {alias} {of_table}")).is_ok()
        });
        let wanted: Vec<String> =
            rowid.map(str::to_owned).into_iter().chain(columns.iter().map(|column| quoted(&column.name))).collect();
        let head = Head { aico_table: 1, table: &name, sql, rowid: rowid.is_some(), columns };
        let mut head =
            serde_json::to_vec(&head).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        head.push(b'\n');
        let select = format!("SELECT {} {of_table}", wanted.join(", "));
        Ok(Self { name, head, select, columns: wanted.len() })
    }

    /// Where the table is kept: below the category.
    pub(crate) fn file_name(&self) -> String {
        format!("{}.jsonl", encoded(&self.name))
    }

    /// Writes the table's value; how many rows it has.
    pub(crate) fn write(&self, database: &Database, path: &Path, out: &mut impl Write) -> Result<u64, Error> {
        let mut rows = 0;
        let written = |error| Error::io(format!("import table `{}`", self.name), error);
        out.write_all(&self.head).map_err(written)?;
        let mut statement = database.prepare(&self.select).map_err(|error| Trouble::of(error, path))?;
        let mut found = statement.query([]).map_err(|error| Trouble::of(error, path))?;
        while let Some(row) = found.next().map_err(|error| Trouble::at(error, path, &self.name, rows + 1))? {
            row::write(row, self.columns, out).map_err(written)?;
            rows += 1;
        }
        out.flush().map_err(written)?;
        Ok(rows)
    }

    /// Reads the value back, line by line, beside the rows.
    pub(crate) fn compare(
        &self,
        database: &Database,
        path: &Path,
        mut next_line: impl FnMut() -> io::Result<Vec<u8>>,
    ) -> Result<u64, Error> {
        let read = |error| Error::io(format!("read table `{}` back", self.name), error);
        let differs = |row| Error::from(Trouble::Differs(self.name.clone(), row));
        if next_line().map_err(read)? != self.head {
            return Err(differs(0));
        }
        let mut rows = 0;
        let mut statement = database.prepare(&self.select).map_err(|error| Trouble::of(error, path))?;
        let mut found = statement.query([]).map_err(|error| Trouble::of(error, path))?;
        while let Some(row) = found.next().map_err(|error| Trouble::at(error, path, &self.name, rows + 1))? {
            rows += 1;
            let line = next_line().map_err(read)?;
            if !row::holds(&line, row, self.columns).map_err(|error| Trouble::of(error, path))? {
                return Err(differs(rows));
            }
        }
        if next_line().map_err(read)?.is_empty() { Ok(rows) } else { Err(differs(rows + 1)) }
    }
}

/// Text of the schema as JSON.
fn raw_text(row: &rusqlite::Row<'_>, at: usize) -> Result<Box<RawValue>, rusqlite::Error> {
    let failed = |error: serde_json::Error| rusqlite::Error::ToSqlConversionFailure(error.into());
    let value = row.get_ref(at)?;
    let Some(bytes) = value.as_bytes_or_null()? else { return to_raw_value(&()).map_err(failed) };
    let mut json = Vec::new();
    row::write_text(bytes, &mut json).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let json = String::from_utf8(json).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    RawValue::from_string(json).map_err(failed)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A name as one segment of a path: letters, digits, `_`, `-`, space, and points inside stay; every other byte is `%` and two
/// digits. Too long ones end with `~` and a part of their SHA-256.
fn encoded(name: &str) -> String {
    let plain =
        |at: usize, byte: u8| byte.is_ascii_alphanumeric() || b"_- ".contains(&byte) || (byte == b'.' && at > 0);
    let mut out = String::new();
    for (at, byte) in name.bytes().enumerate() {
        out += &if plain(at, byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") };
    }
    if name.is_empty() {
        out.push('%');
    }
    if out.len() > MAX_NAME_BYTES {
        out.truncate(MAX_NAME_BYTES);
        out.push('~');
        out.extend(sha256(&[name.as_bytes()]).iter().take(16).map(|byte| format!("{byte:02x}")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_apart_and_inside_their_category() {
        for (name, wanted) in [
            ("users", "users"),
            ("my table-2.old", "my table-2.old"),
            ("a/b", "a%2fb"),
            ("..", "%2e."),
            (".hidden", "%2ehidden"),
            ("", "%"),
            ("%2f", "%252f"),
            ("a\nb\0", "a%0ab%00"),
            ("é~", "%c3%a9%7e"),
        ] {
            assert_eq!(encoded(name), wanted);
        }
        let (long, other) = ("x".repeat(1024), format!("{}y", "x".repeat(1023)));
        assert!(encoded(&long) != encoded(&other) && encoded(&long).len() == MAX_NAME_BYTES + 33);
        assert_eq!(encoded(&"x".repeat(MAX_NAME_BYTES)), "x".repeat(MAX_NAME_BYTES));
    }
}
