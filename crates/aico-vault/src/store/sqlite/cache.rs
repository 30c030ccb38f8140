//! Memory for pages: one budget for all databases of the process, by the size of the machine.

use std::fs;
use std::sync::OnceLock;

use rusqlite::Connection;

use crate::Error;

const LEAST_MIB: u64 = 8;
const MOST_MIB: u64 = 256;
/// The part of the machine's memory that pages may take.
const PART: u64 = 32;

/// Gives the connection its part in the budget. Each may fill all of it; when all of them together have, SQLite takes each
/// next page from the oldest of the connection that wants one (`soft_heap_limit`).
pub(super) fn bound(connection: &Connection) -> Result<(), Error> {
    let kib = budget_kib();
    connection.pragma_update_and_check(None, "soft_heap_limit", kib << 10, |_| Ok(()))?;
    // SQLite counts negative sizes in KiB.
    connection.pragma_update(None, "cache_size", -kib)?;
    Ok(())
}

pub(super) fn budget_kib() -> i64 {
    static BUDGET_MIB: OnceLock<u64> = OnceLock::new();
    let mib = *BUDGET_MIB.get_or_init(|| budget_mib(memory_mib().unwrap_or(0)));
    (mib << 10).cast_signed()
}

fn budget_mib(memory_mib: u64) -> u64 {
    (memory_mib / PART).clamp(LEAST_MIB, MOST_MIB)
}

/// The machine's memory, or what the control group may have of it.
fn memory_mib() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))?;
    let machine = kib.trim().parse::<u64>().ok()? >> 10;
    let group = fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| {
        let folder = text.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
        let most = fs::read_to_string(format!("/sys/fs/cgroup/{folder}/memory.max")).ok()?;
        Some(most.trim().parse::<u64>().ok()? >> 20)
    });
    Some(group.map_or(machine, |group| group.min(machine)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_follows_the_machine() {
        assert_eq!([128, 512, 2048, 8192, 65_536].map(budget_mib), [8, 16, 64, 256, 256]);
        assert!(memory_mib().unwrap() > 64);
    }
}
