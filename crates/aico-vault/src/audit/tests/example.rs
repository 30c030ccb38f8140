//! The bytes that the specification shows.

use aico_crypto::Random;

use super::*;
use crate::audit::names::Names;
use crate::audit::tail;

const SPECIFICATION: &str = include_str!("../../../../../docs/spec/audit-log.md");

/// Counts up from its first byte.
struct Counting(u8);

impl Random for Counting {
    fn fill(&self, out: &mut [u8]) -> Result<(), aico_crypto::Error> {
        (self.0..).zip(out).for_each(|(number, byte)| *byte = number);
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    let line = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    bytes.chunks(32).map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_examples_are_real() {
    let (key, log) = (LogKey::make(&Counting(0)).unwrap(), LogId(std::array::from_fn(|at| at as u8)));
    let names = Names::new(log, key.public().unwrap());
    let entry = Sealed::seal(&key.seal_key(), log, 0, b"hello", &Counting(0x80)).unwrap();
    let mut edge = edge::Edge::default();
    let empty = names.sign(Head { size: 0, root: edge.root() }, &key).unwrap();
    drop(edge.push(entry.leaf));
    let signed = names.sign(Head { size: 1, root: edge.root() }, &key).unwrap();
    let tail = [tail::header(log, 0), tail::batch(0, [&entry].into_iter(), &signed)].concat();
    let examples = [names.vkey(), names.note(&empty), names.note(&signed), hex(&entry.leaf.0), hex(&tail)];
    let missing: Vec<String> = examples.into_iter().filter(|example| !SPECIFICATION.contains(example)).collect();
    assert!(missing.is_empty(), "not in the specification:\n{}", missing.join("\n"));
}
