//! Passwords: what stretching may cost on this machine, and a slot's secret from a password
//! (`docs/spec/vault.md`, Passwords).

use std::fs;
use std::time::{Duration, Instant};

use aico_crypto::{Password, Random, SALT_BYTES, STRETCH_COST_BYTES, SlotSecret, StretchCost};

use crate::Error;
use crate::header::Slot;

/// How long an unlocking may take on the machine that it was calibrated on.
const TARGET: Duration = Duration::from_secs(3);
/// Memory that stays free beside the stretching, in MiB.
const MARGIN_MIB: u64 = 32;

/// The dearest *master* set that this machine bears: up to `most_mib` and half of its free memory, and about three
/// seconds. Never less than the floor; [`Error::Memory`] where even that is not free.
pub(crate) fn calibrate(most_mib: u32) -> Result<StretchCost, Error> {
    let floor = StretchCost::master_with(StretchCost::FLOOR_MIB);
    check_memory(floor)?;
    let most = u64::from(most_mib).min(free_mib() / 2);
    if most < u64::from(2 * StretchCost::FLOOR_MIB) {
        return Ok(floor);
    }
    let began = Instant::now();
    Password::parse("a trial")?.stretch(&[0; SALT_BYTES], floor)?;
    let trial = began.elapsed();
    let bearable = (0..).map(|halvings| StretchCost::MASTER.memory_mib() >> halvings).find(|mib| {
        let factor = mib / StretchCost::FLOOR_MIB;
        factor <= 1 || (u64::from(*mib) <= most && trial * factor <= TARGET)
    });
    Ok(StretchCost::master_with(bearable.unwrap_or(StretchCost::FLOOR_MIB)))
}

/// A secret and the parameters from which the same password makes it again: `cost(12) ‖ salt(16)`.
pub(crate) fn new_password(
    password: &Password,
    cost: StretchCost,
    random: &dyn Random,
) -> Result<(SlotSecret, Vec<u8>), Error> {
    let mut salt = [0; SALT_BYTES];
    random.fill(&mut salt)?;
    let secret = stretch(password, &salt, cost)?;
    Ok((secret, [cost.encode().as_slice(), &salt].concat()))
}

/// The slot's secret, if the password is the right one.
pub(crate) fn password_secret(slot: &Slot, password: &Password) -> Result<SlotSecret, Error> {
    let damaged = || Error::damaged("the vault's header", "the parameters of the password do not decode");
    let (cost, salt) = slot.parameters().split_first_chunk::<STRETCH_COST_BYTES>().ok_or_else(damaged)?;
    let salt = salt.try_into().map_err(|_| damaged())?;
    stretch(password, salt, StretchCost::decode(cost).map_err(|_| damaged())?)
}

fn stretch(password: &Password, salt: &[u8; SALT_BYTES], cost: StretchCost) -> Result<SlotSecret, Error> {
    check_memory(cost)?;
    password.stretch(salt, cost).map_err(|error| match error {
        aico_crypto::Error::Memory => not_enough(cost),
        other => other.into(),
    })
}

/// Refuses before the kernel has to kill somebody.
fn check_memory(cost: StretchCost) -> Result<(), Error> {
    if free_mib() < u64::from(cost.memory_mib()) + MARGIN_MIB { Err(not_enough(cost)) } else { Ok(()) }
}

fn not_enough(cost: StretchCost) -> Error {
    Error::Memory { needed_mib: u64::from(cost.memory_mib()) + MARGIN_MIB, free_mib: free_mib() }
}

/// Memory in MiB that this process can still get: the machine's, or what its control group leaves.
fn free_mib() -> u64 {
    let of_machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available(&text));
    let of_group = fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| left_in_group(&text));
    of_machine.into_iter().chain(of_group).min().unwrap_or(u64::MAX)
}

/// `MemAvailable`, in MiB.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? / 1024)
}

/// What the control group (version 2) leaves, in MiB; `None` where it has no limit.
fn left_in_group(cgroup: &str) -> Option<u64> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let read = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup{path}/{name}")).ok()?.trim().parse::<u64>().ok();
    Some(read("memory.max")?.saturating_sub(read("memory.current")?) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_holds_and_the_limit_too() {
        assert_eq!(calibrate(64).unwrap().memory_mib(), 64);
        assert_eq!(calibrate(1).unwrap().memory_mib(), 64);
        assert!((64..=128).contains(&calibrate(128).unwrap().memory_mib()));
    }

    #[test]
    fn too_little_memory_is_a_refusal() {
        let all = StretchCost::master_with(4096);
        if free_mib() > 4096 + MARGIN_MIB {
            assert!(check_memory(all).is_ok());
        } else {
            assert!(matches!(check_memory(all), Err(Error::Memory { needed_mib: 4128, .. })));
        }
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:   2048000 kB\n"), Some(2000));
        assert_eq!(available("MemAvailable: many"), None);
        assert_eq!(left_in_group("1:name=systemd:/x\n"), None);
    }
}
