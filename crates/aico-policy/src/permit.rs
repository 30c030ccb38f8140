use std::time::Duration;

use crate::{Capability, Event, Principal, Receipt};

/// The right to do one thing once. A recorded [`crate::Decision`] makes it, a vault consumes it.
///
/// It cannot be forged:
/// ```compile_fail,E0451
/// # fn f(event: aico_policy::Event, principal: aico_policy::Principal,
/// #      capability: aico_policy::Capability, receipt: aico_policy::Receipt) {
/// let permit = aico_policy::Permit { event, principal, capability, receipt };
/// # }
/// ```
/// ```compile_fail,E0624
/// # fn f(event: aico_policy::Event, principal: aico_policy::Principal,
/// #      capability: aico_policy::Capability, receipt: aico_policy::Receipt) {
/// let permit = aico_policy::Permit::new(event, principal, capability, receipt);
/// # }
/// ```
/// It cannot be cloned:
/// ```compile_fail,E0599
/// # fn f(permit: aico_policy::Permit) {
/// let second = permit.clone();
/// # }
/// ```
/// It cannot be used twice:
/// ```compile_fail,E0382
/// # fn consume(permit: aico_policy::Permit) {}
/// # fn f(permit: aico_policy::Permit) {
/// consume(permit);
/// consume(permit);
/// # }
/// ```
/// It cannot be had without a record:
/// ```compile_fail,E0599
/// # fn f(decision: aico_policy::Decision) {
/// let permit = decision.permit();
/// # }
/// ```
/// And a decision that nobody records is noticed:
/// ```compile_fail
/// # #![deny(unused_must_use)]
/// # fn f(principal: &aico_policy::Principal, capability: aico_policy::Capability) {
/// aico_policy::decide(principal, &[], capability, &aico_policy::Circumstances::default());
/// # }
/// # fn main() {}
/// ```
/// What does compile is the way from a decision through a log:
/// ```
/// # fn f<S: aico_policy::AuditSink>(decision: aico_policy::Decision, log: &S) -> Result<(), S::Error> {
/// if let Ok(permit) = decision.record(log)? {
///     assert!(permit.bounds().bytes > 0);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Permit {
    event: Event,
    principal: Principal,
    capability: Capability,
    receipt: Receipt,
}

/// How far one permit goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of a value.
    pub bytes: u64,
    /// Time from the permit's first use.
    pub time: Duration,
}

impl Permit {
    pub(crate) fn new(event: Event, principal: Principal, capability: Capability, receipt: Receipt) -> Self {
        Self { event, principal, capability, receipt }
    }

    /// The event that the log must hold.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Where the log says that it holds it.
    #[must_use]
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// Who may.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// What.
    #[must_use]
    pub fn capability(&self) -> &Capability {
        &self.capability
    }

    /// How far: one value of up to 1 TiB within a day.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        Bounds { bytes: 1 << 40, time: Duration::from_secs(24 * 3600) }
    }
}
