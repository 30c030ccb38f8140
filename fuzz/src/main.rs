//! One program for all targets; `AICO_FUZZ_TARGET` names the one.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("AICO_FUZZ_TARGET").unwrap_or_default();
    let found = aico_fuzz_targets::TARGETS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("AICO_FUZZ_TARGET names no target: {name:?}")).1
});

fuzz_target!(|data: &[u8]| (*TARGET)(data));
