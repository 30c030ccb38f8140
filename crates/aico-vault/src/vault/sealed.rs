//! Keys of files that are sealed under the vault and lie outside of it (`docs/spec/sealed-file.md`, Under the vault).

use aico_crypto::{FileKey, OsRandom};
use aico_policy::{Action, Permit};

use super::{Unlocked, Vault};
use crate::Error;
use crate::sealed_file::UnderVault;

/// The name of their data key, which no path of a value has.
const KEY_NAME: &str = "./sealed";

impl Vault<Unlocked> {
    /// Makes the key of a file that is to be sealed, and what the file begins with.
    pub fn seal_file(&self, permit: Permit) -> Result<(UnderVault, FileKey), Error> {
        self.redeem(&permit, Action::SealFile)?;
        let made = self.state.make_file_key();
        self.state.outcome(&permit, made.as_ref().map(|_| 0));
        made
    }

    /// The key of a file that was sealed under this vault.
    ///
    /// # Errors
    /// [`Error::OtherVault`], [`Error::NoFileKey`], [`Error::Damaged`].
    pub fn open_file(&self, permit: Permit, front: &UnderVault) -> Result<FileKey, Error> {
        self.redeem(&permit, Action::OpenFile)?;
        let opened = self.state.open_file_key(front);
        self.state.outcome(&permit, opened.as_ref().map(|_| 0));
        opened
    }
}

impl Unlocked {
    fn make_file_key(&self) -> Result<(UnderVault, FileKey), Error> {
        let vault = self.keys().header.vault();
        let owner = self.owner();
        let _kept = owner.keys().hold();
        let key = owner.keys().named(KEY_NAME)?;
        UnderVault::make(&vault, (&key.id, &key.files), &OsRandom)
    }

    fn open_file_key(&self, front: &UnderVault) -> Result<FileKey, Error> {
        if front.vault() != self.keys().header.vault() {
            return Err(Error::OtherVault(front.vault()));
        }
        let owner = self.owner();
        let _kept = owner.keys().hold();
        let key = owner.keys().find_named(KEY_NAME)?.filter(|key| key.id == front.key_id());
        front.unwrap(&key.ok_or(Error::NoFileKey)?.files)
    }
}
