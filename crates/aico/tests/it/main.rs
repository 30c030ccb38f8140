//! The program as people and scripts meet it, and as attackers do. Every test has a home, a key folder and a backend of
//! its own; nothing here touches the user's.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod audit;
mod canary;
mod contract;
mod crash;
mod disk;
mod door;
mod enrol;
mod home;
mod layers;
mod service;
mod tamper;
