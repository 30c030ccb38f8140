//! What every sweep does: faults drawn from numbers that can be had again, on several disks at a time.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::{Fault, Numbers, Unsynced};

/// One fault.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// The call that it comes at, from 1.
    pub(crate) at: u64,
    pub(crate) fault: Fault,
    /// How the machine comes back, if it stops.
    pub(crate) unsynced: Option<Unsynced>,
    pub(crate) seed: u64,
}

pub(crate) const KINDS: [(Fault, Option<Unsynced>); 9] = [
    (Fault::Stop, Some(Unsynced::Lost)),
    (Fault::Stop, Some(Unsynced::Torn)),
    (Fault::Stop, Some(Unsynced::Kept)),
    (Fault::Broken, None),
    (Fault::Full, None),
    (Fault::NoSpace, None),
    (Fault::Broken, Some(Unsynced::Lost)),
    (Fault::Full, Some(Unsynced::Torn)),
    (Fault::Broken, Some(Unsynced::Torn)),
];

impl Case {
    /// Any fault at any of so many calls.
    pub(crate) fn any(calls: u64, numbers: &mut Numbers) -> Self {
        let (fault, unsynced) = KINDS[numbers.below(KINDS.len())];
        Self { at: 1 + numbers.below(calls as usize) as u64, fault, unsynced, seed: numbers.next() }
    }
}

/// A number that the environment gives.
pub(crate) fn given(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// From `AICO_CRASH_SEED`, which is printed, or others each time.
pub(crate) fn numbers() -> Numbers {
    let seed = given("AICO_CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
    eprintln!("AICO_CRASH_SEED={seed}");
    Numbers(seed)
}

/// The first disk, or a word that this machine gives none; CI has to.
pub(crate) fn or_skipped<M>(made: Result<M, String>) -> Option<M> {
    if let Err(why) = &made {
        assert!(std::env::var_os("CI").is_none(), "no FUSE here: {why}");
        eprintln!("skipped: this machine gives no FUSE: {why}");
    }
    made.ok()
}

/// Injects every case, as `inject` does it on a machine; `None` is one whose fault did not come. All have to be survived.
pub(crate) fn sweep<M>(
    cases: Vec<(&str, Case)>,
    (first, workers): (M, usize),
    another: impl Fn() -> M + Sync,
    inject: impl Fn(&mut M, &str, Case) -> Option<Result<(), String>> + Sync,
) {
    let (cases, found) = (Mutex::new(cases), Mutex::new((Vec::new(), BTreeMap::new())));
    let work = |mut machine: M| {
        loop {
            let Some((scene, case)) = cases.lock().unwrap().pop() else { return };
            let Some(result) = inject(&mut machine, scene, case) else { continue };
            let (wrong, per_scene) = &mut *found.lock().unwrap();
            *per_scene.entry(scene.to_owned()).or_insert(0) += 1;
            if let Err(error) = result {
                eprintln!("{scene} {case:?}: {error}");
                wrong.push((scene.to_owned(), case, error));
            }
        }
    };
    std::thread::scope(|threads| {
        (1..workers).for_each(|_| drop(threads.spawn(|| work(another()))));
        work(first);
    });
    let (wrong, per_scene) = found.into_inner().unwrap();
    let made: usize = per_scene.values().sum();
    eprintln!("injections {made} {per_scene:?}");
    eprintln!("unrecoverable states {}", wrong.len());
    assert!(wrong.is_empty(), "{} of {made}: {:#?}", wrong.len(), &wrong[..wrong.len().min(10)]);
}
