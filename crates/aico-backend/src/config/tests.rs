use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use super::keys::{KEYS, Kind};
use super::*;

fn docs(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)
}

/// A file with one key set.
fn with(path: &str, value: &str) -> String {
    let parts: Vec<&str> = path.split('.').collect();
    let lines = parts.iter().enumerate().map(|(depth, part)| format!("{}{part}:", "  ".repeat(depth)));
    format!("{} {value}\n", lines.collect::<Vec<_>>().join("\n"))
}

fn refused(text: &str) -> ConfigError {
    Config::parse(text).unwrap_err()
}

#[test]
fn nothing_is_all_defaults_and_the_seeds_own_file_too() {
    for text in ["", "# nothing\n", "security:\n", "---\nsecurity:\n  transport:\n"] {
        assert_eq!(Config::parse(text).unwrap(), Config::default(), "{text}");
    }
    let seed = r#"
security:
  transport:
    # Cryptographic algorithms
    encryption: "xchacha20poly1305"
    key_exchange: "x25519"
    authentication: "ed25519"
    # Session management
    session_timeout: 3600        # 1 hour
    key_rotation_interval: 86400 # 24 hours
    max_message_size: 16777216   # 16MB
    # Network settings
    handshake_timeout: 30
    keepalive_interval: 60
    connection_retry_limit: 3
    # Security policies
    require_fresh_handshake: true
    allow_key_reuse: false
    enforce_message_ordering: true
"#;
    assert_eq!(Config::parse(seed).unwrap(), Config::default());
}

#[test]
fn every_key_takes_what_it_should_and_refuses_the_rest() {
    for key in KEYS.iter() {
        let (good, bad): (Vec<String>, &[&str]) = match &key.kind {
            Kind::Number { min, max } => {
                (vec![min.to_string(), max.to_string()], &["-1", "99999999999", "1.5", "x", "[1]", "\"60\""])
            }
            Kind::Flag => (vec!["true".into(), "false".into()], &["yes", "1", "\"true\"", "[]"]),
            Kind::OneOf(words) => (words.iter().map(|w| (*w).to_owned()).collect(), &["other", "1", "[]"]),
            Kind::SomeOf(_) => {
                (vec!["[cli]".into(), "[cli, studio]".into()], &["cli", "[frontend]", "[cli, robot]", "[[cli]]"])
            }
            Kind::Loopback => (
                vec!["127.0.0.1:0".into(), "\"[::1]:8771\"".into()],
                &["0.0.0.0:8771", "192.168.1.2:8771", "localhost:8771", "127.0.0.1", "\"[::]:1\""],
            ),
            Kind::Categories => (
                vec!["[]".into(), "[diary]".into(), "[\"b c\", \"no\", é, a]".into()],
                &["diary", "[a/b]", "[\"\"]", "[..]", "{a: b}", "[[a]]"],
            ),
            Kind::Path => (vec!["~/x.key".into(), "/a b/c".into()], &["[]", "{a: b}"]),
            Kind::OnlyWord(word, _) => (vec![(*word).to_owned()], &["aes256gcm", "none", "1"]),
            Kind::OnlyFlag(true, _) => (vec!["true".into()], &["false", "no"]),
            Kind::OnlyFlag(false, _) => (vec!["false".into()], &["true", "yes"]),
            Kind::Refused(_) => (Vec::new(), &["x", "\"\"", "[]"]),
        };
        for value in good {
            assert!(Config::parse(&with(key.path, &value)).is_ok(), "{} {value}", key.path);
        }
        for value in bad {
            let error = refused(&with(key.path, value));
            assert_eq!(error.line, key.path.split('.').count(), "{} {value}: {error}", key.path);
            assert!(error.message.contains(key.name()), "{error}");
        }
    }
}

#[test]
fn what_is_refused_for_a_reason_says_the_reason() {
    let message = |path: &str, value: &str| refused(&with(path, value)).message;
    assert!(message("security.transport.encryption", "aes").contains("only one spoken"));
    assert!(message("security.transport.allow_key_reuse", "true").contains("no resumption"));
    assert!(message("security.transport.enforce_message_ordering", "false").contains("attack"));
    assert!(message("security.components.backend.identity_file", "~/x").contains("sealed in the vault"));
    assert!(message("security.components.backend.listen_address", "0.0.0.0:1").contains("paired"));
}

#[test]
fn a_slip_of_the_finger_is_pointed_at() {
    for (text, line, hint) in [
        ("security:\n  transport:\n    sesion_timeout: 60\n", 3, "session_timeout"),
        ("security:\n  transprot:\n    padding: none\n", 2, "transport"),
        ("securty:\n", 1, "security"),
        ("\n\nsecurity:\n  components:\n    clii:\n      auto_reconnect: true\n", 5, "cli"),
        ("security:\n  vault:\n    stretch_memroy: 64\n", 3, "stretch_memory"),
    ] {
        let error = refused(text);
        assert_eq!(error.line, line, "{error}");
        assert_eq!(error.hint.as_deref(), Some(format!("did you mean `{hint}`?").as_str()));
    }
    assert_eq!(refused("security:\n  zzzzzz: 1\n").hint, None);
}

#[test]
fn hostile_files_are_refused() {
    let deep = format!("security: {}", "[".repeat(5000));
    let wide = format!("security:\n{}", "  a: 1\n".repeat(9000));
    let long = "# x\n".repeat(20_000);
    for text in [
        "a: &x 1\nb: *x\n",
        "security: &a\n  transport: *a\n",
        "security: !!python/object x\n",
        "security:\n  vault:\n    lock_on_suspend: true\n    lock_on_suspend: false\n",
        "security:\n---\nsecurity:\n  vault:\n    stretch_memory: 64\n---\nsecurity:\n  vault:\n",
        "security:\n\ttransport:\n",
        "\0",
        "[]",
        "security",
        "security: [1]",
        "? [a]\n: b\n",
        "security:\n  vault:\n    lock_on_suspend: \"tr\\u0001ue\"\n",
        deep.as_str(),
        wide.as_str(),
        long.as_str(),
    ] {
        assert!(Config::parse(text).is_err(), "{}", text.chars().take(60).collect::<String>());
    }
    assert!(
        Config::parse("\u{feff}security:\n").is_ok_and(|c| c == Config::default())
            || Config::parse("\u{feff}security:\n").is_err()
    );
}

#[test]
fn what_weakens_is_known() {
    let change = |path: &str, from: &str, to: &str| {
        let [from, to] = [from, to].map(|value| Config::parse(&with(path, value)).unwrap());
        let changes = from.changes(&to);
        assert_eq!(changes.len(), 1, "{path} {changes:?}");
        assert_eq!(changes[0].key, path);
        changes[0].weakens
    };
    for (name, strong, weak) in [
        ("transport.post_quantum", "true", "false"),
        ("transport.session_timeout", "60", "3600"),
        ("transport.key_rotation_interval", "60", "61"),
        ("transport.handshake_timeout", "5", "300"),
        ("transport.clock_skew", "refuse", "report"),
        ("transport.padding", "power-of-two", "none"),
        ("components.backend.listen_address", "", "127.0.0.1:1"),
        ("components.backend.allowed_components", "[cli]", "[cli, plugin]"),
        ("components.backend.security_level", "high", "standard"),
        ("components.cli.security_level", "high", "standard"),
        ("vault.lock_on_suspend", "true", "false"),
        ("vault.stretch_memory", "1024", "64"),
        ("vault.rotation_days", "90", "91"),
        ("data.ordinary", "[]", "[weather]"),
        ("data.secret", "[diary, health]", "[diary]"),
    ] {
        let path = format!("security.{name}");
        assert!(change(&path, strong, weak), "{name}");
        assert!(!change(&path, weak, strong), "{name} back");
    }
    let another_port = change("security.components.backend.listen_address", "127.0.0.1:1", "127.0.0.1:2");
    assert!(another_port, "somewhere else is as new as somewhere");
    assert!(!change("security.transport.keepalive_interval", "10", "20"));
}

#[test]
fn the_effective_configuration_reads_back() {
    assert_eq!(Config::parse(&Config::default().to_yaml()).unwrap(), Config::default());
    assert_eq!(Config::default().changes(&Config::default()), []);
}

/// `docs/security.example.yaml`, from the table.
fn example() -> String {
    let mut out = "# Every key of security.yaml with its default. What is commented out has none.\n".to_owned();
    let mut open: Vec<&str> = Vec::new();
    for key in KEYS.iter().filter(|key| !key.is_refused()) {
        let parts: Vec<&str> = key.path.split('.').collect();
        let (name, folders) = parts.split_last().unwrap();
        let same = open.iter().zip(folders).take_while(|(a, b)| a == b).count();
        for (depth, folder) in folders.iter().enumerate().skip(same) {
            out += &format!("{}{folder}:\n", "  ".repeat(depth));
        }
        open = folders.to_vec();
        let (indent, hidden) =
            ("  ".repeat(folders.len()), if key.default_value() == Value::Absent { "# " } else { "" });
        out += &format!("{indent}# {}\n{indent}{hidden}{name}: {}\n", key.doc, key.example());
    }
    out
}

#[test]
fn the_committed_schema_and_example_are_the_tables() {
    let schema = serde_json::to_string_pretty(&json_schema()).unwrap() + "\n";
    let files = [(docs("security.schema.json"), schema), (docs("security.example.yaml"), example())];
    for (path, wanted) in files {
        if std::env::var_os("AICO_WRITE_VECTORS").is_some() {
            fs::write(&path, &wanted).unwrap();
        }
        assert!(fs::read_to_string(&path).unwrap() == wanted, "{}; `./dev vectors` writes it anew", path.display());
    }
    assert_eq!(Config::parse(&example()).unwrap(), Config::default());
    let manual = fs::read_to_string(docs("manual/configuration.md")).unwrap();
    for key in KEYS.iter() {
        assert!(manual.contains(&format!("`{}`", key.name())), "the manual lacks {}", key.path);
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}", lines in "((security|transport|vault|padding|[a-z]{1,5}):( [\\[\\]{}a-z0-9\"&*!]{0,9})?\n {0,6}){0,9}") {
        let _ = Config::parse(&text);
        let _ = Config::parse(&lines);
    }

    #[test]
    fn whatever_is_set_reads_back(timeout in 61u64..86_400, memory in 64u64..4096, high: bool, path in "[a-z/~\"\\\\ ]{1,20}") {
        let level = if high { "high" } else { "standard" };
        let quoted = path.replace('\\', "\\\\").replace('"', "\\\"");
        let text = format!("security:\n  transport:\n    session_timeout: {timeout}\n  components:\n    cli:\n      identity_file: \"{quoted}\"\n      security_level: {level}\n  vault:\n    stretch_memory: {memory}\n");
        let config = Config::parse(&text).unwrap();
        prop_assert_eq!(config.identity_file("cli"), Some(PathBuf::from(&path)));
        prop_assert_eq!(Config::parse(&config.to_yaml()).unwrap(), config);
    }
}
