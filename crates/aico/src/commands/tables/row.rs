//! A row of a table as a line of JSON, and the way back (`docs/spec/imported-tables.md`).

use std::io::{self, Write};

use base64ct::{Base64, Encoding};
use rusqlite::types::ValueRef;
use serde::Deserialize;
use serde_json::value::RawValue;

/// How much of a blob is encoded at once; a multiple of three.
const BLOB_CHUNK: usize = 3 * 1024;

/// Writes a row as one line.
pub(crate) fn write(row: &rusqlite::Row<'_>, columns: usize, out: &mut impl Write) -> io::Result<()> {
    for at in 0..columns {
        out.write_all(if at == 0 { b"[" } else { b"," })?;
        write_value(row.get_ref(at).map_err(io::Error::other)?, out)?;
    }
    out.write_all(if columns == 0 { b"[]\n" } else { b"]\n" })
}

/// Text as JSON; what is not UTF-8 in base64.
pub(crate) fn write_text(text: &[u8], out: &mut impl Write) -> io::Result<()> {
    match std::str::from_utf8(text) {
        Ok(text) => Ok(serde_json::to_writer(out, text)?),
        Err(_) => write_bytes("text", text, out),
    }
}

fn write_value(value: ValueRef<'_>, out: &mut impl Write) -> io::Result<()> {
    match value {
        ValueRef::Null => out.write_all(b"null"),
        ValueRef::Integer(number) => write!(out, "{number}"),
        // The shortest digits that give the same bits again; always with a point or an exponent.
        ValueRef::Real(number) if number.is_finite() => write!(out, "{number:?}"),
        ValueRef::Real(number) => write!(out, "{{\"real\":\"{number}\"}}"),
        ValueRef::Text(text) => write_text(text, out),
        ValueRef::Blob(bytes) => write_bytes("blob", bytes, out),
    }
}

fn write_bytes(kind: &str, bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
    write!(out, "{{\"{kind}\":\"")?;
    for chunk in bytes.chunks(BLOB_CHUNK) {
        out.write_all(Base64::encode_string(chunk).as_bytes())?;
    }
    out.write_all(b"\"}")
}

/// Whether the line says exactly what the row holds: read by itself, and not made anew and compared.
pub(crate) fn holds(line: &[u8], row: &rusqlite::Row<'_>, columns: usize) -> Result<bool, rusqlite::Error> {
    let Ok(values) = serde_json::from_slice::<Vec<&RawValue>>(line) else { return Ok(false) };
    if values.len() != columns {
        return Ok(false);
    }
    for (at, value) in values.iter().enumerate() {
        if !is(value.get(), row.get_ref(at)?) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What is not a plain JSON value.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Tagged {
    Blob(String),
    Text(String),
    Real(String),
}

fn is(json: &str, value: ValueRef<'_>) -> bool {
    match value {
        ValueRef::Null => json == "null",
        ValueRef::Integer(number) => json.parse() == Ok(number),
        ValueRef::Real(number) if number.is_finite() => {
            // The bits: zero has a sign. A number without point or exponent would be an integer.
            json.contains(['.', 'e']) && json.parse::<f64>().is_ok_and(|read| read.to_bits() == number.to_bits())
        }
        ValueRef::Real(number) => match tagged(json) {
            Some(Tagged::Real(text)) => text.parse::<f64>().is_ok_and(|read| read.to_bits() == number.to_bits()),
            _ => false,
        },
        ValueRef::Text(bytes) => match tagged(json) {
            Some(Tagged::Text(text)) => Base64::decode_vec(&text).is_ok_and(|read| read == bytes),
            Some(_) => false,
            None => serde_json::from_str::<String>(json).is_ok_and(|read| read.as_bytes() == bytes),
        },
        ValueRef::Blob(bytes) => match tagged(json) {
            Some(Tagged::Blob(text)) => Base64::decode_vec(&text).is_ok_and(|read| read == bytes),
            _ => false,
        },
    }
}

fn tagged(json: &str) -> Option<Tagged> {
    json.starts_with('{').then(|| serde_json::from_str(json).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::Connection;
    use rusqlite::types::Value;

    use super::*;

    fn with_row<T>(values: &[Value], then: impl Fn(&rusqlite::Row<'_>) -> T) -> T {
        let connection = Connection::open_in_memory().unwrap();
        let places = vec!["?"; values.len()].join(",");
        let mut statement = connection.prepare(&format!("SELECT {places}")).unwrap();
        statement.query_row(rusqlite::params_from_iter(values), |row| Ok(then(row))).unwrap()
    }

    fn line(values: &[Value]) -> String {
        with_row(values, |row| {
            let mut out = Vec::new();
            write(row, values.len(), &mut out).unwrap();
            String::from_utf8(out).unwrap()
        })
    }

    #[test]
    fn each_kind_of_value_has_a_text_of_its_own() {
        use Value::{Blob, Integer, Null, Real, Text};
        let values = vec![
            Null,
            Integer(i64::MIN),
            Integer(9_007_199_254_740_993),
            Real(1.0),
            Real(-0.0),
            Real(1e300),
            Real(5e-324),
            Real(f64::INFINITY),
            Text("a\n\"\0é".to_owned()),
            Text("1".to_owned()),
            Blob(vec![0, 255, b'x']),
            Blob(Vec::new()),
        ];
        let wanted = "[null,-9223372036854775808,9007199254740993,1.0,-0.0,1e300,5e-324,{\"real\":\"inf\"},\
                      \"a\\n\\\"\\u0000é\",\"1\",{\"blob\":\"AP94\"},{\"blob\":\"\"}]\n";
        assert_eq!(line(&values), wanted);
        assert!(with_row(&values, |row| holds(wanted.as_bytes(), row, values.len()).unwrap()));
        let pairs: [(Value, &str); 14] = [
            (Integer(1), "1.0"),
            (Integer(1), "\"1\""),
            (Real(1.0), "1"),
            (Real(0.0), "-0.0"),
            (Real(0.1), "0.10000000000000002"),
            (Real(f64::INFINITY), "{\"real\":\"-inf\"}"),
            (Real(f64::INFINITY), "\"inf\""),
            (Text("a".to_owned()), "{\"blob\":\"YQ==\"}"),
            (Blob(b"a".to_vec()), "\"a\""),
            (Blob(b"a".to_vec()), "{\"text\":\"YQ==\"}"),
            (Blob(b"a".to_vec()), "{\"blob\":\"YQ\"}"),
            (Text("null".to_owned()), "null"),
            (Null, "\"null\""),
            (Null, "0"),
        ];
        for (value, other) in pairs {
            assert!(!with_row(std::slice::from_ref(&value), |row| holds(format!("[{other}]\n").as_bytes(), row, 1)
                .unwrap()));
        }
    }

    #[test]
    fn a_line_that_is_cut_or_longer_is_another_row() {
        let values = [Value::Integer(1), Value::Text("two".to_owned())];
        for other in ["", "[1]", "[1,\"two\",3]", "[1,\"two\"", "[1,\"two\"]]", "{}", "[1,\"twO\"]"] {
            assert!(!with_row(&values, |row| holds(other.as_bytes(), row, 2).unwrap()), "{other}");
        }
    }

    #[test]
    fn text_that_is_not_utf8_keeps_its_bytes() {
        let connection = Connection::open_in_memory().unwrap();
        let mut statement = connection.prepare("SELECT CAST(x'ff00fe61' AS TEXT)").unwrap();
        let told = statement.query_row([], |row| {
            let mut out = Vec::new();
            write(row, 1, &mut out).unwrap();
            Ok((holds(&out, row, 1)?, out))
        });
        assert_eq!(told.unwrap(), (true, b"[{\"text\":\"/wD+YQ==\"}]\n".to_vec()));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            any::<f64>().prop_filter("stored as null", |n| !n.is_nan()).prop_map(Value::Real),
            any::<String>().prop_map(Value::Text),
            proptest::collection::vec(any::<u8>(), 0..10_000).prop_map(Value::Blob),
        ]
    }

    proptest! {
        #[test]
        fn every_row_comes_back_exactly(values in proptest::collection::vec(any_value(), 1..8)) {
            let text = line(&values);
            prop_assert_eq!(text.matches('\n').count(), 1);
            prop_assert!(with_row(&values, |row| holds(text.as_bytes(), row, values.len()).unwrap()));
        }

        #[test]
        fn no_two_values_have_the_same_text(a in any_value(), b in any_value()) {
            let same = match (&a, &b) {
                (Value::Real(a), Value::Real(b)) => a.to_bits() == b.to_bits(),
                (a, b) => a == b,
            };
            prop_assert_eq!(line(&[a]) == line(&[b]), same);
        }
    }
}
