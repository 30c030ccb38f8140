/// The durable steps of storing a value, and of a new key, in their order (`docs/spec/vault-stores.md`, Durable steps and
/// A new key).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    PartMade,
    ChunkWritten,
    FileSynced,
    FileRenamed,
    FolderSynced,
    RowsWritten,
    Committed,
    OldFileRemoved,
    CopyBegun,
    CopyEqual,
    CopyPublished,
    CopyCommitted,
    OldStoreRemoved,
    KeysDestroyed,
    ForgottenRemoved,
    SpaceRemoved,
}

#[cfg(not(test))]
impl Step {
    /// Marks the step as done; tests end the process here.
    pub(crate) fn done(self) {}
}

#[cfg(test)]
impl Step {
    /// Of storing a value.
    pub(crate) const OF_A_VALUE: [Self; 8] = [
        Self::PartMade,
        Self::ChunkWritten,
        Self::FileSynced,
        Self::FileRenamed,
        Self::FolderSynced,
        Self::RowsWritten,
        Self::Committed,
        Self::OldFileRemoved,
    ];

    /// The environment variable that names the step after which a test's child process ends.
    pub(crate) const STOP_AFTER: &str = "AICO_TEST_STOP_AFTER";

    pub(crate) fn done(self) {
        if std::env::var(Self::STOP_AFTER).is_ok_and(|step| step == format!("{self:?}")) {
            std::process::abort();
        }
    }
}
