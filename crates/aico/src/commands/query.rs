//! `aico query`: questions over the access history.

use aico_net::{Client, Error as NetError};
use aico_proto::message::{Part, QueryAnswer, Request, from_json};
use serde_json::{Map, Value};

use crate::commands::finish;
use crate::error::Error;
use crate::places::connect;
use crate::ui;

/// What is asked where nothing is.
const TABLES: &str = "SELECT table_name AS \"table\", column_name AS \"column\", data_type AS \"type\" FROM duckdb_columns() \
     WHERE database_name = 'history' AND NOT internal ORDER BY table_name, column_index";
/// Longest answer that is taken.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Longest text of a cell in a table, in characters; `--json` has all of it.
const MAX_CELL_CHARS: usize = 80;

pub(crate) async fn query(sql: Option<String>, json: bool) -> Result<(), Error> {
    let mut client = connect().await?;
    let request = Request::Query { sql: sql.unwrap_or_else(|| TABLES.to_owned()) };
    let head: QueryAnswer = client.ask(&request).await?;
    let rows = receive(&mut client).await?;
    if json {
        rows.into_iter().for_each(|row| ui::line(&Value::Object(object(&head, row)).to_string()));
    } else {
        table(&head, &rows).iter().for_each(|line| ui::line(line));
    }
    if head.more {
        ui::error_line("there is more: an answer has at most 10,000 rows and 4 MiB");
    }
    finish(client).await
}

async fn receive(client: &mut Client) -> Result<Vec<Vec<Value>>, Error> {
    let mut bytes = Vec::new();
    loop {
        match Part::parse(client.next_part().await?).map_err(NetError::from)? {
            Part::Data(data) if bytes.len() + data.len() <= MAX_BYTES => bytes.extend_from_slice(data),
            Part::End(length) if length == bytes.len() as u64 => break,
            Part::Failure(json) => {
                return Err(NetError::Failure(from_json(json).map_err(NetError::from)?).into());
            }
            _ => return Err(NetError::UnexpectedMessage.into()),
        }
    }
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Ok(lines.map(serde_json::from_slice).collect::<Result<_, _>>()?)
}

/// A row with its columns' names; of two with one name, the later has its number behind it.
fn object(head: &QueryAnswer, row: Vec<Value>) -> Map<String, Value> {
    let mut object = Map::new();
    for (number, (column, value)) in head.columns.iter().zip(row).enumerate() {
        let mut name = column.name.clone();
        while object.contains_key(&name) {
            name = format!("{name}_{number}");
        }
        object.insert(name, value);
    }
    object
}

/// Columns as wide as what is in them, numbers to the right.
fn table(head: &QueryAnswer, rows: &[Vec<Value>]) -> Vec<String> {
    let names: Vec<String> = head.columns.iter().map(|column| cut(&column.name)).collect();
    let cells: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(cell).collect()).collect();
    let right: Vec<bool> = (0..names.len()).map(|at| is_numbers(rows, at)).collect();
    let longest = |(at, name): (usize, &String)| {
        let of_rows = cells.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
        name.chars().count().max(of_rows.unwrap_or_default())
    };
    let widths: Vec<usize> = names.iter().enumerate().map(longest).collect();
    let line = |row: &[String]| {
        let pad = |((cell, width), right): ((&String, &usize), &bool)| {
            if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        };
        let padded: Vec<String> = row.iter().zip(&widths).zip(&right).map(pad).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let rule = widths.iter().map(|width| "─".repeat(*width)).collect::<Vec<_>>().join("  ");
    [line(&names), rule].into_iter().chain(cells.iter().map(|row| line(row))).collect()
}

fn is_numbers(rows: &[Vec<Value>], at: usize) -> bool {
    let mut values = rows.iter().filter_map(|row| row.get(at)).filter(|value| !value.is_null()).peekable();
    values.peek().is_some() && values.all(Value::is_number)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::String(text) => cut(text),
        other => cut(&other.to_string()),
    }
}

/// As a terminal may show it, on one line and not too long.
fn cut(text: &str) -> String {
    let shown = ui::printable(text);
    match shown.char_indices().nth(MAX_CELL_CHARS) {
        None => shown,
        Some(_) => shown.chars().take(MAX_CELL_CHARS - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use aico_proto::message::QueryColumn;
    use serde_json::json;

    use super::*;

    fn head(names: &[&str]) -> QueryAnswer {
        let column = |name: &&str| QueryColumn { name: (*name).to_owned(), of_type: "VARCHAR".to_owned() };
        QueryAnswer { columns: names.iter().map(column).collect(), rows: 0, more: false }
    }

    #[test]
    fn a_table_is_aligned_and_drives_no_terminal() {
        let rows =
            [vec![json!("a\x1b[2J"), json!(7), Value::Null], vec![json!("é"), json!(-10), json!("x".repeat(90))]];
        let lines = table(&head(&["who", "n", "why"]), &rows);
        assert_eq!(lines[0], "who           n  why");
        assert_eq!(lines[2], "a\\u{1b}[2J    7  NULL");
        assert_eq!(lines[3], format!("é           -10  {}…", "x".repeat(79)));
        assert!(lines.iter().all(|line| !line.contains('\x1b')));
        assert_eq!(table(&head(&["a"]), &[]), ["a", "─"]);
    }

    #[test]
    fn columns_of_one_name_are_both_there() {
        let object = object(&head(&["a", "a", "a_1"]), vec![json!(1), json!(2), json!(3)]);
        assert_eq!(Value::Object(object), json!({ "a": 1, "a_1": 2, "a_1_2": 3 }));
    }
}
