use crate::{Action, AuditSink, Capability, Event, Grant, Permit, Principal, What};

/// What policy says to one request. It is worth nothing until it is recorded.
#[derive(Debug)]
#[must_use = "a decision that is not recorded decides nothing"]
pub struct Decision {
    event: Event,
    principal: Principal,
    capability: Capability,
    denied: Option<String>,
}

/// A denial that was recorded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Denied {
    /// Why, in words for a person.
    pub reason: String,
}

/// Decides whether `principal` may do `capability` now. What no grant covers is denied.
pub fn decide(principal: &Principal, grants: &[Grant], capability: Capability, now_ms: u64) -> Decision {
    let allowed = may_itself(principal, &capability)
        || grants.iter().any(|grant| grant.covers(principal.identity(), &capability, now_ms));
    let denied = (!allowed).then(|| {
        let name = principal.identity().name();
        format!("no grant lets `{name}` do {} here", capability.action.as_str())
    });
    let what = match &denied {
        None => What::Allowed(capability.clone()),
        Some(reason) => What::Denied(capability.clone(), reason.clone()),
    };
    let event = Event { at_ms: now_ms, who: Some(principal.clone()), what };
    Decision { event, principal: principal.clone(), capability, denied }
}

/// The backend enrols its own command line at the first start; beyond that it does nothing for itself.
fn may_itself(principal: &Principal, capability: &Capability) -> bool {
    principal.is_itself() && capability.action == Action::Enrol
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
            Some(reason) => Err(Denied { reason }),
            None => Ok(Permit::new(self.event, self.principal, self.capability, receipt)),
        })
    }
}
