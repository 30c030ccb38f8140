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
            Action::ReadData
            | Action::ListData
            | Action::ReadInventory
            | Action::ReadStatus
            | Action::ReadAudit
            | Action::ReadIdentities
            | Action::ReadKeys
            | Action::ReadConfig => Ok(()),
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

#[cfg(test)]
mod tests {
    use aico_crypto::{ComponentKind, Identity, IdentitySecret, LogKey, Name, OsRandom};
    use aico_policy::{Circumstances, DataPath, Grant, Principal, decide};
    use aico_proto::LocalIdentity;

    use super::*;
    use crate::audit::LogId;

    fn journal(folder: &std::path::Path, id: u8) -> Journal {
        let key = LogKey::make(&OsRandom).unwrap();
        let log = AuditLog::create(&folder.join(format!("log{id}")), key, LogId::from_bytes([id; 16])).unwrap();
        Journal::new(log, PseudonymKey::make(&OsRandom).unwrap())
    }

    /// A log that says yes to everything and keeps nothing.
    struct Liar([u8; 16], u64);

    impl AuditSink for Liar {
        type Error = Error;

        fn record(&self, _event: &Event) -> Result<Receipt, Error> {
            Ok(Receipt { log: self.0, index: self.1, leaf: [0; 32] })
        }
    }

    fn permit<S: AuditSink<Error = Error>>(sink: &S, path: &str) -> Permit {
        let secret = IdentitySecret::make(&OsRandom).unwrap();
        let identity = Identity::new(ComponentKind::Cli, *secret.public(), Name::parse("cli").unwrap());
        let me = LocalIdentity::new(secret, identity).unwrap();
        let grants = [Grant::for_enrolment(me.identity(), 1)];
        let around = Circumstances { now_ms: 5, ..Circumstances::default() };
        let capability = Capability::new(Action::WriteData, Resource::Value(DataPath::parse(path).unwrap()));
        decide(&Principal::from_own_identity(&me), &grants, capability, &around).record(sink).unwrap().unwrap()
    }

    #[test]
    fn a_permit_is_good_once_and_on_disk_by_then() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(folder.path(), 1);
        let permit = permit(&journal, "notes/a");
        journal.redeem(&permit).unwrap();
        assert!(journal.log().head().size > permit.receipt().index);
        assert!(matches!(journal.redeem(&permit), Err(Error::Misuse(_))), "a second time");
    }

    #[test]
    fn permits_that_this_log_did_not_give_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (journal(folder.path(), 1), journal(folder.path(), 2));
        assert!(matches!(ours.redeem(&permit(&theirs, "notes/a")), Err(Error::Misuse(_))), "another log's");
        let real = permit(&ours, "notes/a");
        let forged = permit(&Liar([1; 16], real.receipt().index), "notes/b");
        assert!(matches!(ours.redeem(&forged), Err(Error::Misuse(_))), "a real receipt under another event");
        assert!(
            matches!(ours.redeem(&permit(&Liar([1; 16], 77), "notes/a")), Err(Error::Misuse(_))),
            "out of thin air"
        );
    }
}
