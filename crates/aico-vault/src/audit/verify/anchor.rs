//! What is remembered while the tree grows: how it stood at the checkpoint and at the anchor.

use super::check::Check;
use super::{Anchor, Anchored};
use crate::audit::Head;
use crate::audit::edge::Edge;
use crate::audit::names::Names;

/// Sees the tree after every entry.
pub(super) struct Witness<'a> {
    checkpoint_size: u64,
    at_checkpoint: Option<Edge>,
    anchor: Option<&'a Anchor>,
    anchor_head: Option<Head>,
    root_at_anchor: Option<[u8; 32]>,
}

impl<'a> Witness<'a> {
    /// A checkpoint given as an anchor that is not this log's is a finding at once.
    pub(super) fn new(checkpoint_size: u64, anchor: Option<&'a Anchor>, names: &Names, check: &mut Check<'_>) -> Self {
        let anchor_head = match anchor {
            None => None,
            Some(Anchor::Head(head)) => Some(*head),
            Some(Anchor::Checkpoint(note)) => match names.find_signature(note) {
                Ok(signed) => Some(signed.head),
                Err(what) => {
                    check.find_at("the checkpoint given".into(), "", what);
                    None
                }
            },
        };
        Self { checkpoint_size, at_checkpoint: None, anchor, anchor_head, root_at_anchor: None }
    }

    pub(super) fn see(&mut self, edge: &Edge) {
        if edge.size() == self.checkpoint_size {
            self.at_checkpoint = Some(edge.clone());
        }
        if self.anchor_head.is_some_and(|head| head.size == edge.size()) {
            self.root_at_anchor = Some(edge.root());
        }
    }

    /// The tree that the checkpoint is about; none if the log ends before it.
    pub(super) fn edge_at_checkpoint(&self) -> Option<&Edge> {
        self.at_checkpoint.as_ref()
    }

    /// Compares the log, which ends before entry `end`, with the anchor.
    pub(super) fn compare_anchor(&self, end: u64, check: &mut Check<'_>) {
        let Some(anchor) = self.anchor_head else { return };
        if end < anchor.size {
            let what =
                format!("rolled back: the log ends before entry {end}, its anchor knows {} entries", anchor.size);
            check.find_at("tail".into(), &format!("entry {end}"), &what);
        } else if self.root_at_anchor != Some(anchor.root) {
            let what = "rewritten: these are not the entries that its anchor knows";
            check.find_at("checkpoint".into(), &format!("entries before {}", anchor.size), what);
        }
    }

    pub(super) fn anchored(&self) -> Anchored {
        match (self.anchor, self.anchor_head) {
            (Some(Anchor::Head(_)), Some(head)) => Anchored::ByHead(head.size),
            (Some(Anchor::Checkpoint(_)), Some(head)) => Anchored::ByCheckpoint(head.size),
            _ => Anchored::No,
        }
    }
}
