//! Questions over the access history (`docs/spec/requests.md`, Questions).

use aico_net::Error as NetError;
use aico_policy::Action;
use aico_proto::message::{QueryAnswer, QueryColumn, to_json};
use aico_vault::{Answer, Column, Kind};
use serde_json::Value;
use tokio::task::block_in_place;

use crate::access::system_permit;
use crate::backend::Running;
use crate::error::{bad_request, failure};
use crate::gateway::Line;
use crate::gateway::data::send_value;
use crate::sessions::Caller;

/// Bytes of rows that go into one part.
const PIECE_BYTES: usize = 32 * 1024;

pub(crate) async fn query(running: &Running, caller: &Caller, sql: &str, line: &mut Line<'_>) -> Result<(), NetError> {
    let one_at_a_time = running.asking().acquire().await;
    let answer = block_in_place(|| {
        let permit = system_permit(running, caller, Action::ReadAudit)?;
        running.vault().query(permit, sql).map_err(|error| failure(&error))
    });
    drop(one_at_a_time);
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => return line.fail(&failure).await,
    };
    let column = |column: &Column| QueryColumn { name: column.name.clone(), of_type: column.of_type.clone() };
    let columns = answer.columns.iter().map(column).collect();
    let head = QueryAnswer { columns, rows: answer.rows.len() as u64, more: answer.more };
    if to_json(&head).is_err() {
        return line.fail(&bad_request("the names of the columns do not fit into an answer: ask for fewer")).await;
    }
    line.begin_answer(&head).await?;
    let rows = lines(&answer);
    let mut pieces = rows.chunks(PIECE_BYTES);
    let next = |chunk: &mut Vec<u8>| {
        chunk.clear();
        let piece = pieces.next();
        chunk.extend_from_slice(piece.unwrap_or_default());
        Ok(piece.is_some())
    };
    send_value(line, rows.len() as u64, next).await.map(drop)
}

/// The rows, a line of JSON each.
fn lines(answer: &Answer) -> Vec<u8> {
    let mut lines = Vec::new();
    for row in &answer.rows {
        let values = answer.columns.iter().zip(row).map(|(column, text)| value(column.kind, text.as_deref()));
        lines.extend_from_slice(Value::Array(values.collect()).to_string().as_bytes());
        lines.push(b'\n');
    }
    lines
}

/// A number that JSON readers keep as it is; everything else is its text.
fn value(kind: Kind, text: Option<&str>) -> Value {
    let Some(text) = text else { return Value::Null };
    let number = match kind {
        Kind::Text => None,
        Kind::Boolean => text.parse::<bool>().ok().map(Value::from),
        Kind::Integer => text.parse::<i64>().ok().map(Value::from),
        Kind::Fraction => text.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map(Value::from),
    };
    number.unwrap_or_else(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_what_they_are() {
        assert_eq!(value(Kind::Text, Some("7")), Value::from("7"));
        assert_eq!(value(Kind::Integer, Some("-7")), Value::from(-7));
        let large = "170141183460469231731687303715884105727";
        assert_eq!(value(Kind::Integer, Some(large)), Value::from(large));
        assert_eq!(value(Kind::Fraction, Some("0.5")), Value::from(0.5));
        assert_eq!(value(Kind::Fraction, Some("inf")), Value::from("inf"));
        assert_eq!(value(Kind::Boolean, Some("true")), Value::from(true));
        assert_eq!(value(Kind::Boolean, None), Value::Null);
    }
}
