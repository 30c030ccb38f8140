//! How sensitive data is, by its category, and what follows from that (`docs/manual/configuration.md`, Data).

use aico_proto::Padding;

use crate::{Action, Need, Resource};

/// How sensitive data is, the more the later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sensitivity {
    /// The owner's tool reads it with nobody there.
    Ordinary,
    /// What nothing else is said of.
    #[default]
    Personal,
    /// The owner has to be there anew; its size is hidden; every reading is on disk in the log before it begins.
    Secret,
}

impl Sensitivity {
    /// How present the owner must be.
    #[must_use]
    pub fn need(self, action: Action) -> Need {
        match (self, action) {
            (Self::Ordinary, Action::ReadData | Action::ListData) => Need::Nothing,
            (Self::Secret, Action::ReadData | Action::ListData | Action::RemoveData) => Need::Fresh,
            _ => action.need(),
        }
    }

    /// Bytes that a value of `bytes` takes up where it is stored.
    #[must_use]
    pub fn stored_bytes(self, bytes: u64) -> u64 {
        match self {
            Self::Secret => usize::try_from(bytes).map_or(bytes, |bytes| Padding::Padme.padded(bytes) as u64),
            Self::Ordinary | Self::Personal => bytes,
        }
    }
}

/// The categories that are not [`Sensitivity::Personal`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sensitivities {
    ordinary: Vec<String>,
    secret: Vec<String>,
}

impl Sensitivities {
    /// From the names of categories; one that is in both is secret.
    #[must_use]
    pub fn new(ordinary: Vec<String>, secret: Vec<String>) -> Self {
        Self { ordinary, secret }
    }

    /// That of a category.
    #[must_use]
    pub fn of(&self, category: &str) -> Sensitivity {
        let has = |names: &[String]| names.iter().any(|name| name == category);
        match (has(&self.secret), has(&self.ordinary)) {
            (true, _) => Sensitivity::Secret,
            (false, true) => Sensitivity::Ordinary,
            (false, false) => Sensitivity::Personal,
        }
    }

    /// The highest that a resource can touch.
    #[must_use]
    pub fn of_resource(&self, resource: &Resource) -> Sensitivity {
        match (resource, resource.category()) {
            (_, Some(category)) => self.of(category),
            (Resource::Values(prefix), None) if self.secret.iter().any(|name| name.starts_with(prefix.as_str())) => {
                Sensitivity::Secret
            }
            _ => Sensitivity::Personal,
        }
    }

    /// The names of those that are secret.
    #[must_use]
    pub fn secret(&self) -> &[String] {
        &self.secret
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_could_name_something_secret_is_secret() {
        let set = Sensitivities::new(vec!["weather".to_owned()], vec!["diary".to_owned()]);
        let of = |prefix: &str| set.of_resource(&Resource::Values(prefix.to_owned()));
        for secret in ["", "d", "diary", "diary/", "diary/2026"] {
            assert_eq!(of(secret), Sensitivity::Secret, "{secret}");
        }
        assert_eq!((of("diaryx/"), of("diaryx"), of("x")), Default::default());
        assert_eq!((of("weather/"), of("weather")), (Sensitivity::Ordinary, Sensitivity::Personal));
        assert_eq!(set.of_resource(&Resource::System), Sensitivity::Personal);
        assert_eq!(Sensitivities::default().of_resource(&Resource::Values(String::new())), Sensitivity::Personal);
    }

    #[test]
    fn a_secret_value_shows_little_of_its_size() {
        assert_eq!((Sensitivity::Personal.stored_bytes(1000), Sensitivity::Secret.stored_bytes(0)), (1000, 256));
        for bytes in [1, 255, 256, 4000, 1 << 20, (1 << 30) + 7] {
            let stored = Sensitivity::Secret.stored_bytes(bytes);
            assert!(stored > bytes && (stored == 256 || stored <= bytes + bytes / 8), "{bytes} {stored}");
        }
    }
}
