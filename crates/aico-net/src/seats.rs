//! Who sits where at a door. Whoever has proved nothing yet sits on a seat that the next one may need.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::Origin;

/// How far somebody has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Has not said a HELLO that was meant for us.
    Arriving,
    /// Knows us; the handshake is not over.
    Shaking,
    /// Has proved an identity.
    Open,
}

/// The seats of one door, by the order in which they were taken.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    taken: Mutex<BTreeMap<u64, Seat>>,
    /// The number of the next seat: none is given twice, so that who lost one cannot free another's.
    next: AtomicU64,
}

#[derive(Debug)]
struct Seat {
    room: Room,
    origin: Origin,
    displaced: Arc<Notify>,
}

/// One seat, free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    seats: Arc<Seats>,
    number: u64,
    displaced: Arc<Notify>,
}

impl Seats {
    /// A seat among those who arrive. There always is one: where `most` sit there, or `most_of_one` of this origin, the
    /// oldest of those who have the most goes, so that few cannot hold the door against many by being there first.
    pub(crate) fn arrive(self: &Arc<Self>, origin: Origin, most: usize, most_of_one: usize) -> Place {
        let mut seats = self.lock();
        make_room(&mut seats, Room::Arriving, origin, most, most_of_one);
        self.sit(&mut seats, Room::Arriving, origin)
    }

    /// A seat among those who have proved who they are; nobody goes for it.
    pub(crate) fn enter(self: &Arc<Self>, origin: Origin, most: usize, most_of_one: usize) -> Option<Place> {
        let mut seats = self.lock();
        let inside = || seats.values().filter(|seat| seat.room == Room::Open);
        let full = inside().count() >= most || inside().filter(|seat| seat.origin == origin).count() >= most_of_one;
        (!full).then(|| self.sit(&mut seats, Room::Open, origin))
    }

    fn sit(self: &Arc<Self>, seats: &mut BTreeMap<u64, Seat>, room: Room, origin: Origin) -> Place {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let displaced = Arc::new(Notify::new());
        seats.insert(number, Seat { room, origin, displaced: displaced.clone() });
        Place { seats: self.clone(), number, displaced }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Seat>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Goes on to those who know us, where the others cannot displace it.
    pub(crate) fn knows_us(&self, most: usize, most_of_one: usize) {
        let mut seats = self.seats.lock();
        // One that was displaced in the meantime has no seat to go on from.
        let Some(mut seat) = seats.remove(&self.number) else { return };
        make_room(&mut seats, Room::Shaking, seat.origin, most, most_of_one);
        seat.room = Room::Shaking;
        seats.insert(self.number, seat);
    }

    /// Returns when somebody else got this seat.
    pub(crate) async fn displaced(&self) {
        self.displaced.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.seats.lock().remove(&self.number);
    }
}

/// Displaces whoever has to go before one more of `origin` can sit in `room`.
fn make_room(seats: &mut BTreeMap<u64, Seat>, room: Room, origin: Origin, most: usize, most_of_one: usize) {
    let there = || seats.iter().filter(|(_, seat)| seat.room == room);
    let mut counts = HashMap::<Origin, usize>::new();
    there().for_each(|(_, seat)| *counts.entry(seat.origin).or_default() += 1);
    let count = |origin: Origin| counts.get(&origin).copied().unwrap_or_default();
    let goes = if count(origin) >= most_of_one {
        there().find(|(_, seat)| seat.origin == origin)
    } else if there().count() >= most {
        there().min_by_key(|(number, seat)| (Reverse(count(seat.origin)), **number))
    } else {
        None
    };
    if let Some(number) = goes.map(|(number, _)| *number)
        && let Some(seat) = seats.remove(&number)
    {
        seat.displaced.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(number: u8) -> Origin {
        Origin::Address([127, 0, 0, number].into())
    }

    async fn is_displaced(place: &Place) -> bool {
        tokio::time::timeout(std::time::Duration::from_millis(1), place.displaced()).await.is_ok()
    }

    #[tokio::test]
    async fn those_who_have_the_most_go_first_and_of_them_the_oldest() {
        let seats = Arc::new(Seats::default());
        let alone = seats.arrive(origin(1), 4, 3);
        let many: Vec<Place> = (0..3).map(|_| seats.arrive(origin(2), 4, 3)).collect();
        let next = seats.arrive(origin(3), 4, 3);
        assert!(is_displaced(&many[0]).await);
        for stays in [&alone, &many[1], &many[2], &next] {
            assert!(!is_displaced(stays).await);
        }
    }

    #[tokio::test]
    async fn one_origin_displaces_itself_when_it_has_its_share() {
        let seats = Arc::new(Seats::default());
        let alone = seats.arrive(origin(1), 100, 2);
        let many: Vec<Place> = (0..3).map(|_| seats.arrive(origin(2), 100, 2)).collect();
        assert!(is_displaced(&many[0]).await && !is_displaced(&many[1]).await && !is_displaced(&alone).await);
    }

    #[tokio::test]
    async fn whoever_knows_us_is_not_displaced_by_strangers() {
        let seats = Arc::new(Seats::default());
        let knows = seats.arrive(origin(1), 4, 4);
        knows.knows_us(4, 4);
        let strangers: Vec<Place> = (2..100).map(|number| seats.arrive(origin(number), 4, 4)).collect();
        assert!(!is_displaced(&knows).await && is_displaced(&strangers[0]).await);
        assert_eq!(seats.lock().len(), 1 + 4);
        drop((knows, strangers));
        assert!(seats.lock().is_empty());
    }

    #[tokio::test]
    async fn nobody_is_displaced_for_an_open_connection() {
        let seats = Arc::new(Seats::default());
        let open: Vec<Place> = (0..2).filter_map(|_| seats.enter(origin(1), 3, 2)).collect();
        assert!(open.len() == 2 && seats.enter(origin(1), 3, 2).is_none(), "its share");
        let other = seats.enter(origin(2), 3, 2);
        assert!(other.is_some() && seats.enter(origin(3), 3, 2).is_none(), "all");
        drop(open);
        assert!(seats.enter(origin(3), 3, 2).is_some());
    }
}
