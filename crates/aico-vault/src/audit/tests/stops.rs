//! A stop at every durable step, and at every step of what comes after it.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;
use crate::audit::disk::Step;

/// Lets `steps` steps happen and none after them, as a stopped process would.
fn stop_after(steps: usize) -> (Gate, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let gate =
        move |_: Step| if count.fetch_add(1, SeqCst) < steps { Ok(()) } else { Err(io::Error::other("stopped")) };
    (Arc::new(gate), taken)
}

/// Appends until the log has `end` entries, in batches that end at `stops`; the size of what was said to be on disk.
fn grow(store: &mut Store, keys: &Keys, stops: &[u64]) -> u64 {
    for stop in stops {
        let size = store.signed.head.size;
        if *stop > size {
            if store.append(sealed(keys, size, stop - size)).is_err() {
                return size;
            }
            store.publish_if_due();
        }
    }
    store.signed.head.size
}

/// Checks the log as the stop left it, opens it, checks that nothing that was on disk is lost, goes on, and checks again.
fn assert_survived(place: &Place, durable: u64, end: u64, what: &str) {
    assert!(place.verify().size >= durable, "{what}: before it is opened again");
    let log = place.reopen();
    let size = log.head().size;
    assert!(durable <= size && size <= end, "{what}: {durable} were on disk, {size} are left");
    assert_holds(&log, size);
    assert_eq!(log.trouble(), None);
    assert_eq!((place.verify().size, place.verify().notes), (size, Vec::new()), "{what}");
    for index in size..end + 3 {
        drop(log.record(&text(index)).unwrap());
    }
    log.close().unwrap();
    assert_holds(&place.reopen(), end + 3);
    assert_eq!(place.verify().size, end + 3, "{what}");
}

#[test]
fn nothing_durable_is_lost_at_any_stop() {
    let stops = [20, 200, 300, 610, 620, 1030];
    let mut steps = 0;
    loop {
        let place = Place::new();
        std::fs::create_dir(&place.path).unwrap();
        let (gate, taken) = stop_after(steps);
        let durable = place.create(&gate).ok().map(|mut store| grow(&mut store, &place.keys, &stops));
        if !place.path.join("tail").exists() {
            assert_eq!(durable, None);
            place.create(&always()).unwrap();
        }
        assert_survived(&place, durable.unwrap_or(0), 1030, &format!("after {steps} steps"));
        if taken.load(SeqCst) <= steps {
            break;
        }
        steps += 1;
    }
    assert!(steps > 80, "the scenario has {steps} steps");
}

#[test]
fn a_stop_while_an_earlier_one_is_repaired_loses_nothing() {
    let stops = [300];
    for first in 0.. {
        let mut finished = false;
        for second in (first % 3..).step_by(3) {
            let place = Place::new();
            place.create(&always()).unwrap();
            let (gate, taken) = stop_after(first);
            let durable = place.open(&gate).map(|mut store| grow(&mut store, &place.keys, &stops)).unwrap_or(0);
            finished = taken.load(SeqCst) <= first;
            let (gate, taken) = stop_after(second);
            drop(place.open(&gate));
            let repaired = taken.load(SeqCst) <= second;
            assert_survived(&place, durable, 300, &format!("after {first} and {second} steps"));
            if repaired {
                break;
            }
        }
        if finished {
            break;
        }
    }
}

/// A log whose next bundle fills a tile of the level above: 255 bundles.
fn nearly_full_tile() -> Place {
    let place = Place::new();
    let mut store = place.create(&always()).unwrap();
    let stops: Vec<u64> = (1..=255).map(|bundle| bundle * 256).step_by(4).chain([65_280]).collect();
    assert_eq!(grow(&mut store, &place.keys, &stops), 65_280);
    place
}

#[test]
fn stops_while_an_upper_tile_fills_lose_nothing() {
    let Place { _temporary, path, keys } = nearly_full_tile();
    let whole = path.with_extension("whole");
    std::fs::rename(&path, &whole).unwrap();
    let mut place = Place { _temporary, path, keys };
    for steps in 0.. {
        place.path = place.path.with_extension(steps.to_string());
        copy(&whole, &place.path);
        let (gate, taken) = stop_after(steps);
        let durable =
            place.open(&gate).map(|mut store| grow(&mut store, &place.keys, &[65_536, 66_100])).unwrap_or(65_280);
        assert_survived(&place, durable, 66_100, &format!("after {steps} steps"));
        std::fs::remove_dir_all(&place.path).unwrap();
        if taken.load(SeqCst) <= steps {
            break;
        }
    }
}

#[test]
fn a_batch_that_was_cut_is_dropped_and_no_other() {
    let place = Place::new();
    let mut store = place.create(&always()).unwrap();
    grow(&mut store, &place.keys, &[300, 310]);
    let before = std::fs::read(place.path.join("tail")).unwrap().len();
    grow(&mut store, &place.keys, &[315]);
    drop(store);
    let whole = std::fs::read(place.path.join("tail")).unwrap();
    for cut in (before + 1..whole.len()).step_by(7) {
        std::fs::write(place.path.join("tail"), &whole[..cut]).unwrap();
        let findings = verify(&place.path, &Expectations::default()).unwrap_err().to_string();
        assert!(
            findings.contains("the log ends in an incomplete record; start the backend to repair it"),
            "{findings}"
        );
        assert_holds(&place.reopen(), 310);
        assert_eq!(place.verify().size, 310);
    }
}

#[test]
fn damage_is_never_repaired_away() {
    let place = Place::new();
    let mut store = place.create(&always()).unwrap();
    grow(&mut store, &place.keys, &[300, 310, 315]);
    drop(store);
    for file in ["tail", "checkpoint", "vkey", "tile/1/000.p/1"] {
        let whole = std::fs::read(place.path.join(file)).unwrap();
        for at in (0..whole.len()).step_by(5) {
            let mut bad = whole.clone();
            bad[at] ^= 0x21;
            std::fs::write(place.path.join(file), &bad).unwrap();
            let error = AuditLog::open(&place.path, place.keys.log(), LOG).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. } | Error::Newer { .. }), "{file} {at}: {error}");
            assert_eq!(std::fs::read(place.path.join(file)).unwrap(), bad, "left for those who look into it");
        }
        std::fs::remove_file(place.path.join(file)).unwrap();
        assert!(place.open(&always()).is_err(), "{file} removed");
        std::fs::write(place.path.join(file), &whole).unwrap();
    }
    assert_holds(&place.reopen(), 315);
}

#[test]
fn another_key_another_log_and_a_second_writer_are_refused() {
    let place = Place::new();
    assert!(place.open(&always()).is_err(), "there is none");
    let log = AuditLog::create(&place.path, place.keys.log(), LOG).unwrap();
    let again = || AuditLog::open(&place.path, place.keys.log(), LOG);
    assert!(matches!(again(), Err(Error::Held { .. })));
    drop(log);
    drop(again().unwrap());
    assert!(AuditLog::open(&place.path, Keys::make().log(), LOG).is_err());
    assert!(AuditLog::open(&place.path, place.keys.log(), LogId([8; 16])).is_err());
    assert!(matches!(AuditLog::create(&place.path, place.keys.log(), LOG), Err(Error::Misuse(_))));
    let mut newer = std::fs::read(place.path.join("tail")).unwrap();
    newer[7] = 2;
    std::fs::write(place.path.join("tail"), newer).unwrap();
    assert!(matches!(again(), Err(Error::Newer { found: 2, known: 1, .. })));
}
