//! Decisions and happenings in the audit log, and the permits that they gave (`docs/spec/audit-log.md`, Events).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aico_crypto::PseudonymKey;
use aico_policy::{Action, AuditSink, Capability, Event, Permit, Receipt, Resource, What};
use serde_json::{Map, Value, json};

use crate::Error;
use crate::audit::AuditLog;

/// Permits that were given and not used. More means that somebody collects them.
const MAX_OUTSTANDING: usize = 4096;
/// Longest text in an event.
const MAX_TEXT_BYTES: usize = 512;

/// The audit log, seen as the place where decisions become permits.
#[derive(Debug)]
pub struct Journal {
    log: AuditLog,
    pseudonyms: PseudonymKey,
    outstanding: Mutex<HashMap<u64, Event>>,
}

impl Journal {
    pub(crate) fn new(log: AuditLog, pseudonyms: PseudonymKey) -> Self {
        Self { log, pseudonyms, outstanding: Mutex::default() }
    }

    pub(crate) fn log(&self) -> &AuditLog {
        &self.log
    }

    /// Takes a permit in: it must be one that this log gave, and not used yet. What writes or is privileged is on disk
    /// in the log when this returns.
    pub(crate) fn redeem(&self, permit: &Permit) -> Result<(), Error> {
        let receipt = permit.receipt();
        if receipt.log != *self.log.log_id().as_bytes() {
            return Err(Error::Misuse("a receipt of another log"));
        }
        let given = self.outstanding.lock().unwrap_or_else(PoisonError::into_inner).remove(&receipt.index);
        if given.as_ref() != Some(permit.event()) {
            return Err(Error::Misuse("a permit that this log did not give, or that was used before"));
        }
        match permit.capability().action {
            Action::ReadData | Action::ListData | Action::ReadStatus | Action::ReadAudit => Ok(()),
            _ => self.log.wait_durable(receipt.index),
        }
    }

    /// Records how it ended.
    pub(crate) fn outcome(&self, at_ms: u64, of: u64, result: Result<u64, String>) -> Result<(), Error> {
        self.record(&Event { at_ms, who: None, what: What::Outcome { of, result } }).map(drop)
    }

    fn encode(&self, event: &Event) -> Result<Vec<u8>, Error> {
        let mut fields = Map::new();
        fields.insert("at_ms".to_owned(), event.at_ms.into());
        if let Some(who) = &event.who {
            let identity = who.identity();
            let who = json!({ "kind": identity.kind().as_str(), "key": identity.key().to_text() });
            fields.insert("who".to_owned(), who);
        }
        match &event.what {
            What::Allowed(capability) => self.put_capability(&mut fields, capability, "allowed"),
            What::Denied(capability, reason) => {
                self.put_capability(&mut fields, capability, "denied");
                fields.insert("reason".to_owned(), cut(reason));
            }
            What::Outcome { of, result } => {
                fields.insert("what".to_owned(), "outcome".into());
                fields.insert("of".to_owned(), (*of).into());
                match result {
                    Ok(bytes) => fields.insert("bytes".to_owned(), (*bytes).into()),
                    Err(reason) => fields.insert("failed".to_owned(), cut(reason)),
                };
            }
            What::System { word, detail } => {
                fields.insert("what".to_owned(), (*word).into());
                fields.insert("detail".to_owned(), cut(detail));
            }
            _ => return Err(Error::Misuse("an event that this version cannot write down")),
        }
        serde_json::to_vec(&Value::Object(fields)).map_err(|_| Error::Misuse("an event that does not encode"))
    }

    fn put_capability(&self, fields: &mut Map<String, Value>, capability: &Capability, verdict: &str) {
        fields.insert("what".to_owned(), capability.action.as_str().into());
        fields.insert("verdict".to_owned(), verdict.into());
        if let Some(category) = capability.resource.category() {
            fields.insert("category".to_owned(), cut(category));
        }
        match &capability.resource {
            Resource::Value(path) => {
                let pseudonym = self.pseudonyms.pseudonym(path.as_str().as_bytes());
                fields.insert("value".to_owned(), hex(&pseudonym).into());
            }
            Resource::Component(key) => {
                fields.insert("component".to_owned(), key.to_text().into());
            }
            Resource::Values(_) | Resource::System => {}
        }
    }
}

impl AuditSink for Journal {
    type Error = Error;

    fn record(&self, event: &Event) -> Result<Receipt, Error> {
        let given = self.log.record(&self.encode(event)?)?;
        let receipt = Receipt { log: *self.log.log_id().as_bytes(), index: given.index(), leaf: *given.leaf_hash() };
        if matches!(event.what, What::Allowed(_)) {
            let mut outstanding = self.outstanding.lock().unwrap_or_else(PoisonError::into_inner);
            if outstanding.len() >= MAX_OUTSTANDING {
                return Err(Error::Misuse("too many permits that nobody uses"));
            }
            outstanding.insert(receipt.index, event.clone());
        }
        Ok(receipt)
    }
}

fn cut(text: &str) -> Value {
    let (text, _rest) = text.split_at(text.floor_char_boundary(MAX_TEXT_BYTES));
    text.into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
