//! The models of `docs/spec/model/` speak of the protocol that the code speaks: same labels, same order.

use std::collections::BTreeSet;
use std::fs;

use ed25519_dalek::{Verifier, VerifyingKey};

use crate::vectors::{h, kdf, read, root, unhex};

fn model(name: &str) -> String {
    fs::read_to_string(root().join("docs/spec/model").join(format!("{name}.vp"))).unwrap()
}

/// The right side of `name = …` in the model.
fn definition<'a>(model: &'a str, name: &str) -> &'a str {
    let line = model.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(" = "));
    line.unwrap_or_else(|| panic!("the model has no {name}"))
}

fn inside<'a>(text: &'a str, function: &str) -> Vec<&'a str> {
    let arguments = text.strip_prefix(function).and_then(|rest| rest.strip_prefix('(')?.strip_suffix(')'));
    arguments.unwrap_or_else(|| panic!("{text} is not {function}(…)")).split(", ").collect()
}

#[test]
fn the_models_use_the_codes_labels_and_all_of_the_handshakes() {
    let labels: BTreeSet<&str> = aico_crypto::ALL_LABELS.iter().flat_map(|labels| labels.iter().copied()).collect();
    let of_code = |constant: &str| match constant {
        "l_responder" => "AICO-HS1 responder signature\0".to_owned(),
        "l_initiator" => "AICO-HS1 initiator signature\0".to_owned(),
        other => other[2..].replace('_', " "),
    };
    for entry in fs::read_dir(root().join("docs/spec/model")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("l_"));
        let used: BTreeSet<String> = words.map(of_code).collect();
        for label in &used {
            assert!(
                labels.contains(label.as_str()),
                "{} has a label that the code does not have: {label:?}",
                path.display()
            );
        }
        if path.ends_with("handshake.vp") {
            for needed in ["hs key i", "hs key r", "fin i", "fin r", "master", "traffic"] {
                assert!(used.contains(needed), "{needed:?}");
            }
        }
    }
}

/// The transcript of the model, computed with the values of the vectors: every hash, signature and confirmation has to
/// come out as the code's.
#[test]
fn the_models_transcript_is_the_codes() {
    let (text, v) = (model("handshake"), read("handshake-classical.json"));
    let value = |name: &str| match name {
        "gr" => unhex(&v["responder"]["identity"]),
        "idi" => unhex(&v["initiator"]["identity"]),
        "sigr" => unhex(&v["sig_r"]),
        "sgi" => unhex(&v["sig_i"]),
        "finr" => unhex(&v["fin_r"]),
        "fni" => unhex(&v["fin_i"]),
        th if th.starts_with("th") => unhex(&v[th]),
        other => panic!("{other} has no value"),
    };
    for number in 3..=8u8 {
        let name = format!("th{number}");
        let arguments = inside(definition(&text, &name), "HASH");
        let parts: Vec<Vec<u8>> = arguments.into_iter().map(value).collect();
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        assert_eq!(h(b'0' + number, &parts), unhex(&v[&name]), "{name}");
    }
    assert_eq!(definition(&text, "th2"), "HASH(HASH(ni, ei), nr, er)", "all of HELLO, then all of REPLY in the clear");

    let label = |constant: &str| {
        if constant == "l_responder" { "AICO-HS1 responder signature\0" } else { "AICO-HS1 initiator signature\0" }
    };
    let signature = |by: &str, over: &str, signed: &str| {
        let (constant, transcript) = over.split_once(", ").unwrap();
        let key = unhex(&v[by]["identity"])[1..33].try_into().unwrap();
        let message = [label(constant).as_bytes(), &value(transcript)].concat();
        let signature = unhex(&v[signed])[..].try_into().unwrap();
        VerifyingKey::from_bytes(&key).unwrap().verify(&message, &signature).unwrap();
    };
    signature("responder", between(definition(&text, "sigr"), "SIGN(r, CONCAT(", "))"), "sig_r");
    let check = text.lines().find_map(|line| line.trim().strip_prefix("_ = SIGNVERIF(gi, CONCAT(")).unwrap();
    signature("initiator", check.strip_suffix("), sgi)?").unwrap(), "sig_i");

    let fin_r = inside(definition(&text, "finr"), "MAC");
    assert_eq!(fin_r[0], "fr");
    assert_eq!(kdf(&unhex(&v["f_r"]), "fin", &value(fin_r[1]), 32), unhex(&v["fin_r"]));
    assert!(text.contains("ASSERT(fni, MAC(fi, th7))?"));
    assert_eq!(kdf(&unhex(&v["f_i"]), "fin", &value("th7"), 32), unhex(&v["fin_i"]));

    for (name, label, over) in
        [("k_r", "hs key r", "th2"), ("k_i", "hs key i", "th2"), ("f_r", "fin r", "th2"), ("f_i", "fin i", "th2")]
    {
        let constant = format!("l_{}", label.replace(' ', "_"));
        let wanted = format!("{} = HKDF(hs, {constant}, {over})", name.replace('_', ""));
        assert!(text.contains(&wanted), "{wanted}");
        assert_eq!(kdf(&unhex(&v["hs"]), label, &value(over), 32), unhex(&v[name]));
    }
    assert!(text.contains("ms = HKDF(hs, l_master, th8)"));
    assert_eq!(kdf(&unhex(&v["hs"]), "master", &value("th8"), 64), unhex(&v["ms"]));
}

fn between<'a>(text: &'a str, front: &str, back: &str) -> &'a str {
    text.strip_prefix(front).and_then(|text| text.strip_suffix(back)).unwrap()
}
