//! Whose service a system unit is, and the user that it runs as.

use std::env;
use std::fmt;
use std::path::PathBuf;

use super::ServiceError;
use super::plan::Call;

/// A user's name holds 32 bytes, and ours is theirs behind this.
const PREFIX: &str = "aico-";
const MAX_NAME_BYTES: usize = 32;
/// Longest line of the user database that is read, in bytes.
const MAX_LINE_BYTES: usize = 4096;

/// The person that the backend works for: a user name that is also safe in paths and units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner(String);

impl Owner {
    /// The named user, or who called `sudo`.
    pub(super) fn given_or_caller(given: Option<&str>) -> Result<Self, ServiceError> {
        match given {
            Some(name) => Self::parse(name),
            None => Self::parse(&env::var("SUDO_USER").map_err(|_| ServiceError::NoOwner)?),
        }
    }

    /// Letters, digits, `_`, `-` and `.`, a letter or `_` first, up to 27 bytes.
    pub(super) fn parse(name: &str) -> Result<Self, ServiceError> {
        let bad = |why| Err(ServiceError::Owner(name.to_owned(), why));
        let safe = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') || !name.chars().all(safe) {
            bad("a name has letters, digits, `_`, `-` and `.`, and a letter first")
        } else if name.len() > MAX_NAME_BYTES - PREFIX.len() {
            bad("the name is too long to put `aico-` before it")
        } else if name == "root" {
            bad("root reads everything anyway")
        } else if name.ends_with("-keys") {
            bad("its data folder would be another owner's key folder")
        } else {
            Ok(Self(name.to_owned()))
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The user that the backend runs as; its unit, its group and its folders are named after it.
    pub(super) fn service_user(&self) -> String {
        format!("{PREFIX}{}", self.0)
    }

    /// What that user's entry in the user database says of it.
    pub(super) fn comment(&self) -> String {
        format!("AICO Security of {}", self.0)
    }

    pub(super) fn data(&self) -> PathBuf {
        format!("/var/lib/{PREFIX}{}", self.0).into()
    }

    pub(super) fn keys(&self) -> PathBuf {
        format!("/var/lib/{PREFIX}{}-keys", self.0).into()
    }

    pub(super) fn run(&self) -> PathBuf {
        format!("/run/{PREFIX}{}", self.0).into()
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A line of the user database.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    comment: String,
    shell: String,
}

impl Account {
    /// Asks for a user by name; `None` where there is none.
    pub(super) fn of(name: &str) -> Result<Option<Self>, ServiceError> {
        let args = ["passwd", name].map(str::to_owned).to_vec();
        let call = Call { program: "getent", args, as_root: true };
        let output = call.output()?;
        match output.status.code() {
            Some(0) => {}
            Some(2) => return Ok(None),
            _ => return Err(call.failed(&output)),
        }
        let account = std::str::from_utf8(&output.stdout).ok().and_then(|text| Self::parse(text, name));
        let strange = || ServiceError::Command { call: call.to_string(), why: "its answer is no user".to_owned() };
        account.map(Some).ok_or_else(strange)
    }

    /// Reads `name:password:uid:gid:comment:home:shell`.
    fn parse(text: &str, name: &str) -> Option<Self> {
        let line = text.lines().next().filter(|line| line.len() <= MAX_LINE_BYTES)?;
        let fields: Vec<&str> = line.split(':').collect();
        let [found, _, uid, gid, comment, _, shell] = fields.as_slice() else { return None };
        let same = *found == name;
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?;
        let (uid, gid) = (number(uid)?, number(gid)?);
        same.then(|| Self { uid, gid, comment: (*comment).to_owned(), shell: (*shell).to_owned() })
    }

    /// Refuses a user that somebody can be, or that was made for something else.
    pub(super) fn must_be_for(&self, owner: &Owner, owners: &Self) -> Result<(), ServiceError> {
        let refuse = |why| Err(ServiceError::ForeignUser { user: owner.service_user(), why });
        if self.comment != owner.comment() {
            refuse("its comment is another")
        } else if !self.shell.ends_with("/nologin") {
            refuse("one can log in as it")
        } else if self.uid == 0 || self.uid == owners.uid {
            refuse("it has the number of root or of the owner")
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_are_safe_in_paths_and_units_are_taken() {
        for good in ["anna", "Anna", "_a", "a.b-c_9", "x".repeat(27).as_str()] {
            assert_eq!(Owner::parse(good).unwrap().as_str(), good);
        }
        let long = "x".repeat(28);
        let bad =
            ["", "root", "-a", ".a", "1", "a/b", "a b", "a%n", "a\nb", "a:b", "ä", "anna-keys", "a$", "../a", &long];
        for bad in bad {
            let error = Owner::parse(bad).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn no_two_owners_share_a_folder() {
        let (one, other) = (Owner::parse("anna").unwrap(), Owner::parse("anna.keys").unwrap());
        for folder in [one.data(), one.keys()] {
            assert!(folder != other.data() && folder != other.keys());
        }
        assert_eq!(one.keys().to_str(), Some("/var/lib/aico-anna-keys"));
    }

    #[test]
    fn lines_of_the_user_database() {
        let line = "aico-anna:x:998:997:AICO Security of anna:/nonexistent:/usr/sbin/nologin\n";
        let account = Account::parse(line, "aico-anna").unwrap();
        assert_eq!((account.uid, account.gid), (998, 997));
        let anna = Owner::parse("anna").unwrap();
        let owners = Account { uid: 1000, gid: 1000, comment: String::new(), shell: "/bin/bash".to_owned() };
        account.must_be_for(&anna, &owners).unwrap();
        for other in [
            Account { comment: "a person".to_owned(), ..Account::parse(line, "aico-anna").unwrap() },
            Account { shell: "/bin/sh".to_owned(), ..Account::parse(line, "aico-anna").unwrap() },
            Account { uid: 0, ..Account::parse(line, "aico-anna").unwrap() },
            Account { uid: 1000, ..Account::parse(line, "aico-anna").unwrap() },
        ] {
            other.must_be_for(&anna, &owners).unwrap_err();
        }
        for bad in
            ["", "a:x:1:1::/:", "a:x:-1:1:c:/:/s", "a:x:+1:1:c:/:/s", "a:x:4294967296:1:c:/:/s", "a:x:1:1:c:/:/s:t"]
        {
            assert_eq!(Account::parse(bad, "a").filter(|_| bad.len() > 12), None, "{bad}");
        }
        assert_eq!(Account::parse(line, "anna"), None, "another user's line");
        let long = format!("a:x:1:1:{}:/:/s", "c".repeat(MAX_LINE_BYTES));
        assert_eq!(Account::parse(&long, "a"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in "([a-c:]|[0-9]{1,11}|.){0,30}", name in ".{0,40}") {
            let _ = Account::parse(&text, "a");
            if let Ok(owner) = Owner::parse(&name) {
                prop_assert!(owner.data().parent() == Some("/var/lib".as_ref()));
            }
        }
    }
}
