//! Every committed input of every target, and each of them cut and flipped a little.
use std::fs;
use std::path::Path;

#[test]
fn no_input_of_the_corpora_does_harm() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, target) in aico_fuzz_targets::TARGETS {
        let inputs = fs::read_dir(corpora.join(name)).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
        let inputs: Vec<Vec<u8>> = inputs.collect();
        assert!(!inputs.is_empty(), "{name} has a corpus");
        for (number, input) in inputs.iter().enumerate() {
            target(input);
            let at = number * 7919 % input.len().max(1);
            target(input.get(..at).unwrap_or_default());
            let mut flipped = input.clone();
            flipped.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (number % 8));
            target(&flipped);
        }
    }
    let known: Vec<&str> = aico_fuzz_targets::TARGETS.iter().map(|(name, _)| *name).collect();
    for entry in fs::read_dir(corpora).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(&name.as_str()), "the corpus {name} has no target");
    }
}
