use serde_json::{Map, Value as Json, json};

use super::keys::{KEYS, Key, Kind};
use super::value::Value;

/// A JSON schema (draft 2020-12) of the file, for editors.
#[must_use]
pub fn json_schema() -> Json {
    let mut root = object();
    for key in KEYS.iter().filter(|key| !key.is_refused()) {
        let parts: Vec<&str> = key.path.split('.').collect();
        insert(&mut root, &parts, of(key));
    }
    if let Some(fields) = root.as_object_mut() {
        fields.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
        fields.insert("title".to_owned(), "security.yaml of AICO Security".into());
    }
    root
}

fn object() -> Json {
    json!({ "type": ["object", "null"], "properties": {}, "additionalProperties": false })
}

fn insert(at: &mut Json, parts: &[&str], schema: Json) {
    let Some((first, rest)) = parts.split_first() else { return };
    let Some(properties) = at.get_mut("properties").and_then(Json::as_object_mut) else { return };
    if rest.is_empty() {
        properties.insert((*first).to_owned(), schema);
        return;
    }
    insert(properties.entry((*first).to_owned()).or_insert_with(object), rest, schema);
}

fn of(key: &Key) -> Json {
    let mut schema = match &key.kind {
        Kind::Number { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::OneOf(words) => json!({ "enum": words }),
        Kind::SomeOf(words) => json!({ "type": "array", "items": { "enum": words }, "contains": { "const": "cli" } }),
        Kind::Categories => {
            json!({ "type": "array", "items": { "type": "string", "pattern": "^[^/]+$" }, "maxItems": 100 })
        }
        Kind::Loopback => json!({ "type": "string", "pattern": LOOPBACK }),
        Kind::Path => json!({ "type": "string", "minLength": 1 }),
        Kind::OnlyWord(word, _) => json!({ "const": word }),
        Kind::OnlyFlag(flag, _) => json!({ "const": flag }),
        Kind::Refused(_) => Json::Object(Map::new()),
    };
    if let Some(fields) = schema.as_object_mut() {
        fields.insert("description".to_owned(), key.doc.into());
        match key.default_value() {
            Value::Absent => {}
            Value::Number(number) => drop(fields.insert("default".to_owned(), number.into())),
            Value::Flag(flag) => drop(fields.insert("default".to_owned(), flag.into())),
            Value::Word(word) => drop(fields.insert("default".to_owned(), word.into())),
            Value::Words(words) => drop(fields.insert("default".to_owned(), words.into())),
        }
    }
    schema
}

/// An address of 127.0.0.0/8 or `[::1]`, and a port.
const LOOPBACK: &str = r"^(127(\.[0-9]{1,3}){3}|\[::1\]):[0-9]{1,5}$";
