//! The program as people and scripts meet it, and as attackers do. Every test has a home, a key folder and a backend of
//! its own; nothing here touches the user's.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

mod asleep;
mod audit;
mod backup;
mod canary;
mod config;
mod contract;
mod crash;
#[path = "../../../aico-vault/tests/it/crash/disk/mod.rs"]
mod crash_disk;
mod disk;
mod doctor;
mod door;
mod enrol;
mod export;
mod faults;
mod fetch;
mod flood;
mod hardening;
mod home;
mod import;
mod keys;
mod kit;
mod layers;
mod lock;
mod memory;
mod migrate;
mod mount;
mod owner;
mod pty;
mod python_aico;
mod query;
mod rotate;
mod sealed;
mod sealed_under_vault;
mod sensitivity;
mod service;
#[path = "../../../aico-vault/tests/it/session.rs"]
mod session;
#[path = "../../../aico-vault/tests/it/tpm.rs"]
mod soft_tpm;
mod tamper;
mod tcp;
mod tpm;
mod verify;
