use aico_crypto::ComponentKind;

use crate::{Action, AuditSink, Capability, Event, Grant, Need, Permit, Principal, Sensitivity, What};

/// What policy says to one request. It is worth nothing until it is recorded.
#[derive(Debug)]
#[must_use = "a decision that is not recorded decides nothing"]
pub struct Decision {
    event: Event,
    principal: Principal,
    capability: Capability,
    denied: Option<Denied>,
}

/// A denial that was recorded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Denied {
    /// Why, in words for a person.
    pub reason: String,
    /// What the owner could do to be allowed.
    pub missing: Option<Missing>,
}

/// What a denial lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The password, or a session that it opened.
    Authentication,
    /// A typed word on a terminal.
    Confirmation,
}

/// How the owner has shown to be there, the more the later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// Not at all.
    #[default]
    Unknown,
    /// By a session.
    Session,
    /// By typing a word on a terminal, just now.
    Confirmed,
    /// By the password or the recovery code, just now.
    Fresh,
}

/// What a decision depends on besides grants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// How the owner has shown to be there.
    pub presence: Presence,
    /// Whether a password is set.
    pub protected: bool,
    /// Milliseconds since 1970.
    pub now_ms: u64,
    /// How sensitive the data is that it is about.
    pub sensitivity: Sensitivity,
}

/// Decides whether `principal` may do `capability` now. What no grant covers is denied; what the owner's own tool may
/// do may need the owner besides.
pub fn decide(principal: &Principal, grants: &[Grant], capability: Capability, around: &Circumstances) -> Decision {
    let now_ms = around.now_ms;
    let granted = may_itself(principal, &capability)
        || grants.iter().any(|grant| grant.covers(principal.identity(), &capability, now_ms));
    let denied = if granted {
        lacks(principal, around.sensitivity.need(capability.action), around)
    } else {
        let name = principal.identity().name();
        Some(Denied { reason: format!("no grant lets `{name}` do {} here", capability.action.as_str()), missing: None })
    };
    let what = match &denied {
        None => What::Allowed(capability.clone()),
        Some(denied) => What::Denied(capability.clone(), denied.reason.clone()),
    };
    let event = Event { at_ms: now_ms, who: Some(principal.clone()), what };
    Decision { event, principal: principal.clone(), capability, denied }
}

/// The backend enrols its own command line at the first start; beyond that it does nothing for itself.
fn may_itself(principal: &Principal, capability: &Capability) -> bool {
    principal.is_itself() && capability.action == Action::Enrol
}

/// What the owner's own tool lacks. Other components act within their grants, with nobody there.
fn lacks(principal: &Principal, need: Need, around: &Circumstances) -> Option<Denied> {
    if principal.is_itself() || principal.identity().kind() != ComponentKind::Cli {
        return None;
    }
    let (least, missing, reason) = match (need, around.protected) {
        (Need::Nothing, _) | (Need::Session, false) => return None,
        (Need::Session, true) => (Presence::Session, Missing::Authentication, "this needs the password, or a session"),
        (Need::Fresh, true) => {
            (Presence::Fresh, Missing::Authentication, "this needs the password, whatever the session says")
        }
        (Need::Fresh, false) => (Presence::Confirmed, Missing::Confirmation, "this needs a word typed on a terminal"),
    };
    // A typed word counts for nothing once there is a password.
    let enough = around.presence >= least && !(around.protected && around.presence == Presence::Confirmed);
    (!enough).then(|| Denied { reason: reason.to_owned(), missing: Some(missing) })
}

impl Decision {
    /// Whether it allows.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.denied.is_none()
    }

    /// Records the decision in `log`; only then is there a permit, or a denial to show.
    pub fn record<S: AuditSink>(self, log: &S) -> Result<Result<Permit, Denied>, S::Error> {
        let receipt = log.record(&self.event)?;
        Ok(match self.denied {
            Some(denied) => Err(denied),
            None => Ok(Permit::new(self.event, self.principal, self.capability, receipt)),
        })
    }
}
