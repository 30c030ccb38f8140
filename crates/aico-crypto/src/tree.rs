//! The key tree (`docs/spec/vault.md`, Keys): which key makes, derives or wraps which.

use base64ct::{Base64Unpadded, Encoding};
use zeroize::Zeroizing;

use crate::aead::{open_random, seal_random};
use crate::kdf::{kdf, same_bytes};
use crate::sign::SigningKey;
use crate::wrap::{WRAPPED_BYTES, unwrap, wrap};
use crate::{
    EphemeralSecret, Error, IdentitySecret, KxSecret, Label, PublicKey, Random, Secret, Signature, SignatureLabel,
};

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name(pub(crate) Secret<32>);
    };
    ($(#[$doc:meta])* random $name:ident) => {
        key!($(#[$doc])* $name);
        impl $name {
            /// Makes a random key.
            pub fn make(random: &dyn Random) -> Result<Self, Error> {
                Secret::make(random).map(Self)
            }
        }
    };
}

/// `$outer` wraps `$inner`: two methods, bound to the role and to a context.
macro_rules! wraps {
    ($outer:ident => $inner:ident as $role:literal, $wrap:ident, $unwrap:ident) => {
        impl $outer {
            #[doc = concat!("Wraps a [`", stringify!($inner), "`]; `context` says where it belongs.")]
            pub fn $wrap(
                &self,
                key: &$inner,
                context: &[u8],
                random: &dyn Random,
            ) -> Result<[u8; WRAPPED_BYTES], Error> {
                wrap(&self.0, $role, context, &key.0, random)
            }

            #[doc = concat!("Unwraps a [`", stringify!($inner), "`] that belongs to `context`.")]
            pub fn $unwrap(&self, wrapped: &[u8], context: &[u8]) -> Result<$inner, Error> {
                unwrap(&self.0, $role, context, wrapped).map($inner)
            }
        }
    };
}

key! {
    /// What an unlock method keeps: 32 random bytes in a key file or a platform's keyring.
    random SlotSecret
}
key! {
    /// Derived from a slot's secret and the slot's own description; wraps the root key.
    SlotKey
}
key! {
    /// The top of the tree: random, the same for the life of a vault's data.
    random RootKey
}
key! {
    /// Authenticates the vault's header.
    HeaderKey
}
key! {
    /// Seals this device's transport identity.
    IdentitySealKey
}
key! {
    /// The key of one space in one epoch.
    random SpaceKey
}
key! {
    /// The key of what is forgotten at a time: a conversation, or what else is in a category.
    random DataKey
}
key! {
    /// The raw key of a space's SQLCipher database.
    StoreKey
}
key! {
    /// The key of the system space's access history, a DuckDB file.
    HistoryKey
}
key! {
    /// The key of a space's working memory, a RocksDB store.
    MemoryKey
}
key! {
    /// Wraps the keys of a space's files.
    FileWrapKey
}
key! {
    /// The key of one file.
    random FileKey
}
key! {
    /// Stretched from a passphrase; wraps the key of one sealed file.
    SealedFileKey
}
key! {
    /// The audit log's own key: sealing and signing derive from it.
    random LogKey
}
key! {
    /// Seals the entries of the audit log.
    LogSealKey
}
key! {
    /// Turns a name into a pseudonym that means nothing once this key is destroyed.
    random PseudonymKey
}
key! {
    /// The seed of the key that signs grants.
    random GrantKey
}
key! {
    /// Authenticates what is written down while the vault is locked, one event; then it is erased for the next.
    random LockedKey
}

key! {
    /// What a slot and every root key of its vault share: a root key that is sealed to the slot comes from somebody who had
    /// the one before.
    VouchKey
}

wraps!(SlotKey => RootKey as "slot root", wrap_root, unwrap_root);
wraps!(RootKey => VouchKey as "root vouch", wrap_vouch, unwrap_vouch);
wraps!(RootKey => SpaceKey as "root space", wrap_space, unwrap_space);
wraps!(SpaceKey => LogKey as "space log", wrap_log, unwrap_log);
wraps!(SpaceKey => PseudonymKey as "space pseudonym", wrap_pseudonym, unwrap_pseudonym);
wraps!(SpaceKey => GrantKey as "space grant", wrap_grant, unwrap_grant);
wraps!(SpaceKey => LockedKey as "space locked", wrap_locked, unwrap_locked);
wraps!(SpaceKey => DataKey as "space data", wrap_data, unwrap_data);
wraps!(FileWrapKey => FileKey as "space file", wrap_file, unwrap_file);
wraps!(SealedFileKey => FileKey as "sealed file", wrap_file, unwrap_file);

impl SlotSecret {
    /// The slot's key; `context` is the vault's and the slot's description.
    #[must_use]
    pub fn slot_key(&self, context: &[u8]) -> SlotKey {
        SlotKey(kdf(self.0.bytes(), Label::SLOT_KEY, &[context]))
    }

    /// Hands the text form to `store`: `AICO-SLOT-1-` and 43 characters of base64.
    pub fn hazmat_to_platform<T>(&self, store: impl FnOnce(&str) -> T) -> T {
        let mut text = Zeroizing::new(String::from(SLOT_SECRET_PREFIX));
        let mut digits = Zeroizing::new([0u8; 43]);
        if let Ok(encoded) = Base64Unpadded::encode(self.0.bytes(), digits.as_mut_slice()) {
            text.push_str(encoded);
        }
        store(&text)
    }

    /// Reads what [`SlotSecret::hazmat_to_platform`] gave.
    pub fn hazmat_from_platform(text: &str) -> Result<Self, Error> {
        const WHAT: Error = Error::Text("slot secret (want `AICO-SLOT-1-` and 43 characters)");
        let digits = text.strip_prefix(SLOT_SECRET_PREFIX).ok_or(WHAT)?;
        let mut secret = Secret::<32>::zero();
        let decoded = Base64Unpadded::decode(digits, secret.bytes_mut()).map_err(|_| WHAT)?.len();
        if decoded == 32 { Ok(Self(secret)) } else { Err(WHAT) }
    }
}

const SLOT_SECRET_PREFIX: &str = "AICO-SLOT-1-";

impl SealedFileKey {
    pub(crate) fn of(stretched: &Secret<32>) -> Self {
        Self(kdf(stretched.bytes(), Label::SEALED_FILE, &[]))
    }

    /// Tells a wrong passphrase from a damaged file, and commits the file to its key; `header` is what stands before it.
    #[must_use]
    pub fn check_value(&self, header: &[u8]) -> [u8; 16] {
        *kdf::<16>(self.0.bytes(), Label::SEALED_CHECK, &[header]).bytes()
    }

    /// Whether `stored` is this key's check value.
    #[must_use]
    pub fn matches(&self, header: &[u8], stored: &[u8; 16]) -> bool {
        same_bytes(&self.check_value(header), stored)
    }
}

impl FileKey {
    /// Hands 64 hexadecimal digits to `send`: for the owner's command line, over a channel.
    pub fn hazmat_to_client<T>(&self, send: impl FnOnce(&str) -> T) -> T {
        with_hex(&self.0, send)
    }

    /// Reads what [`FileKey::hazmat_to_client`] gave.
    pub fn hazmat_from_backend(digits: &str) -> Result<Self, Error> {
        from_hex(digits).map(Self)
    }

    /// Seals the name of a sealed file; `header` is what stands before it.
    pub fn seal_name(&self, header: &[u8], name: &[u8], random: &dyn Random) -> Result<Vec<u8>, Error> {
        seal_random(&self.name_key(), header, name, random)
    }

    /// Opens the name of a sealed file.
    pub fn open_name(&self, header: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Error> {
        open_random(&self.name_key(), header, sealed)
    }

    fn name_key(&self) -> Secret<32> {
        kdf(self.0.bytes(), Label::SEALED_NAME, &[])
    }
}

impl SlotKey {
    /// Tells a wrong secret apart from a damaged slot, and commits the slot to its key.
    #[must_use]
    pub fn check_value(&self) -> [u8; 16] {
        *kdf::<16>(self.0.bytes(), Label::SLOT_CHECK, &[]).bytes()
    }

    /// Whether `stored` is this key's check value.
    #[must_use]
    pub fn matches(&self, stored: &[u8; 16]) -> bool {
        same_bytes(&self.check_value(), stored)
    }

    /// The slot's X25519 public key, to which a new root key can be sealed without the slot's secret.
    pub fn exchange_public(&self) -> Result<[u8; 32], Error> {
        Ok(*self.exchange_secret()?.public())
    }

    /// The slot's key to vouch with; the header keeps it wrapped under the root key.
    #[must_use]
    pub fn vouch_key(&self) -> VouchKey {
        VouchKey(kdf(self.0.bytes(), Label::SLOT_VOUCH, &[]))
    }

    /// Opens what [`seal_root_to_slot`] sealed to this slot.
    pub fn open_sealed_root(&self, sealed: &[u8; SEALED_ROOT_BYTES], context: &[u8]) -> Result<RootKey, Error> {
        let (ephemeral, wrapped) = sealed.split_first_chunk::<32>().ok_or(Error::Failed)?;
        let shared = self.exchange_secret()?.agree_as_responder(ephemeral)?;
        unwrap(&seal_key(&shared, &self.vouch_key()), SEALED_ROLE, context, wrapped).map(RootKey)
    }

    fn exchange_secret(&self) -> Result<EphemeralSecret, Error> {
        EphemeralSecret::from_seed(kdf(self.0.bytes(), Label::SLOT_EXCHANGE, &[]))
    }
}

/// Bytes of a root key that is sealed to a slot's public key.
pub const SEALED_ROOT_BYTES: usize = 32 + WRAPPED_BYTES;
const SEALED_ROLE: &str = "slot sealed root";

/// Seals a root key to the public key of a slot whose secret is not at hand: `ephemeral key(32) ‖ wrapped key(72)`.
///
/// The public key alone would let anybody seal a key of theirs: `vouch` shows the slot's owner that it is the vault's.
pub fn seal_root_to_slot(
    slot: &[u8; 32],
    vouch: &VouchKey,
    root: &RootKey,
    context: &[u8],
    random: &dyn Random,
) -> Result<[u8; SEALED_ROOT_BYTES], Error> {
    let ephemeral = EphemeralSecret::from_seed(Secret::make(random)?)?;
    let public = *ephemeral.public();
    let shared = ephemeral.agree_as_initiator(slot)?;
    let wrapped = wrap(&seal_key(&shared, vouch), SEALED_ROLE, context, &root.0, random)?;
    [public.as_slice(), &wrapped].concat().try_into().map_err(|_| Error::Failed)
}

fn seal_key(shared: &KxSecret, vouch: &VouchKey) -> Secret<32> {
    kdf(shared.bytes(), Label::SLOT_SEAL, &[vouch.0.bytes()])
}

impl RootKey {
    /// Whether two keys are the same, in constant time.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        same_bytes(self.0.bytes(), other.0.bytes())
    }

    /// The key of the header's authenticator.
    #[must_use]
    pub fn header_key(&self) -> HeaderKey {
        HeaderKey(kdf(self.0.bytes(), Label::HEADER, &[]))
    }

    /// The key that seals this device's transport identity.
    #[must_use]
    pub fn identity_seal_key(&self) -> IdentitySealKey {
        IdentitySealKey(kdf(self.0.bytes(), Label::IDENTITY_SEAL, &[]))
    }
}

impl HeaderKey {
    /// The authenticator of the header's bytes: keyed BLAKE2b-256.
    #[must_use]
    pub fn authenticate(&self, header: &[u8]) -> [u8; 32] {
        *kdf::<32>(self.0.bytes(), Label::HEADER, &[header]).bytes()
    }

    /// Checks an authenticator in constant time.
    pub fn verify(&self, header: &[u8], authenticator: &[u8; 32]) -> Result<(), Error> {
        if same_bytes(&self.authenticate(header), authenticator) { Ok(()) } else { Err(Error::Failed) }
    }
}

impl IdentitySealKey {
    /// Seals an identity's secret.
    pub fn seal(&self, identity: &IdentitySecret, random: &dyn Random) -> Result<Vec<u8>, Error> {
        seal_random(&self.0, b"device identity", identity.seed(), random)
    }

    /// Opens a sealed identity.
    pub fn open(&self, sealed: &[u8]) -> Result<IdentitySecret, Error> {
        let seed = Zeroizing::new(open_random(&self.0, b"device identity", sealed)?);
        IdentitySecret::from_seed(Secret::copy_of_slice(&seed)?)
    }
}

impl SpaceKey {
    /// The same key once more, for a second holder.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(Secret::copy_of(self.0.bytes()))
    }

    /// The key of the space's SQLCipher database.
    #[must_use]
    pub fn store_key(&self) -> StoreKey {
        StoreKey(kdf(self.0.bytes(), Label::STORE_SQLCIPHER, &[]))
    }

    /// The key of the space's access history.
    #[must_use]
    pub fn history_key(&self) -> HistoryKey {
        HistoryKey(kdf(self.0.bytes(), Label::STORE_DUCKDB, &[]))
    }

    /// The key of the space's working memory.
    #[must_use]
    pub fn memory_key(&self) -> MemoryKey {
        MemoryKey(kdf(self.0.bytes(), Label::STORE_ROCKSDB, &[]))
    }

    /// The key that wraps the keys of files that were written before there were data keys.
    #[must_use]
    pub fn file_wrap_key(&self) -> FileWrapKey {
        FileWrapKey(kdf(self.0.bytes(), Label::FILE_WRAP, &[]))
    }
}

impl DataKey {
    /// Seals a value that lies in the database for its place: `nonce(24) ‖ ciphertext ‖ tag(16)`.
    pub fn seal_value(&self, place: &[u8], value: &[u8], random: &dyn Random) -> Result<Vec<u8>, Error> {
        seal_random(&kdf(self.0.bytes(), Label::DATA_VALUE, &[]), place, value, random)
    }

    /// Opens a value.
    pub fn open_value(&self, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Error> {
        open_random(&kdf(self.0.bytes(), Label::DATA_VALUE, &[]), place, sealed)
    }

    /// The key that wraps file keys.
    #[must_use]
    pub fn file_wrap_key(&self) -> FileWrapKey {
        FileWrapKey(kdf(self.0.bytes(), Label::DATA_FILE_WRAP, &[]))
    }
}

impl StoreKey {
    /// The same key once more, for a second holder.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(Secret::copy_of(self.0.bytes()))
    }

    /// Hands SQLCipher's raw-key literal, `x'…'` with 64 hexadecimal digits, to `set`.
    pub fn hazmat_sqlcipher_literal<T>(&self, set: impl FnOnce(&[u8]) -> T) -> T {
        with_hex(&self.0, |digits| {
            let mut literal = Zeroizing::new(Vec::with_capacity(67));
            literal.extend_from_slice(b"x'");
            literal.extend_from_slice(digits.as_bytes());
            literal.push(b'\'');
            set(&literal)
        })
    }
}

impl HistoryKey {
    /// Lends the key itself, where it lies, to `run`: the cipher below DuckDB reads it there. No copy is made for it.
    pub fn hazmat_lent_to_duckdb<T>(&self, run: impl FnOnce(&[u8; 32]) -> T) -> T {
        run(self.0.bytes())
    }
}

impl MemoryKey {
    /// Lends the key itself, where it lies, to `open`: the file system below RocksDB derives its own from it.
    pub fn hazmat_lent_to_rocksdb<T>(&self, open: impl FnOnce(&[u8; 32]) -> T) -> T {
        open(self.0.bytes())
    }
}

impl LogKey {
    /// The key of the entries.
    #[must_use]
    pub fn seal_key(&self) -> LogSealKey {
        LogSealKey(kdf(self.0.bytes(), Label::LOG_SEAL, &[]))
    }

    /// The log's public key: what checkpoints are verified with.
    pub fn public(&self) -> Result<PublicKey, Error> {
        Ok(*self.signer()?.public())
    }

    /// Signs a checkpoint's text (a C2SP signed note, which separates itself).
    pub fn sign_note(&self, text: &str) -> Result<Signature, Error> {
        self.signer()?.sign_raw(text.as_bytes())
    }

    fn signer(&self) -> Result<SigningKey, Error> {
        SigningKey::from_seed(kdf(self.0.bytes(), Label::LOG_SIGN, &[]))
    }
}

impl LogSealKey {
    /// Seals one entry for its place: `nonce(24) ‖ ciphertext ‖ tag(16)`.
    pub fn seal(&self, place: &[u8], entry: &[u8], random: &dyn Random) -> Result<Vec<u8>, Error> {
        seal_random(&self.0, place, entry, random)
    }

    /// Opens one entry.
    pub fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Error> {
        open_random(&self.0, place, sealed)
    }
}

impl PseudonymKey {
    /// The pseudonym of `name`: 16 bytes.
    #[must_use]
    pub fn pseudonym(&self, name: &[u8]) -> [u8; 16] {
        *kdf::<16>(self.0.bytes(), Label::PSEUDONYM, &[name]).bytes()
    }
}

impl LockedKey {
    /// The authenticator of one line: 32 bytes.
    #[must_use]
    pub fn authenticate(&self, line: &[u8]) -> [u8; 32] {
        *kdf::<32>(self.0.bytes(), Label::LOCKED_MAC, &[line]).bytes()
    }

    /// The key of the next line; this one is wiped.
    #[must_use]
    pub fn into_next(self) -> Self {
        Self(kdf(self.0.bytes(), Label::LOCKED_NEXT, &[]))
    }

    /// Hands the 64 hexadecimal digits to `store`.
    pub fn hazmat_to_file<T>(&self, store: impl FnOnce(&str) -> T) -> T {
        with_hex(&self.0, store)
    }

    /// Reads what [`LockedKey::hazmat_to_file`] gave.
    pub fn hazmat_from_file(digits: &str) -> Result<Self, Error> {
        from_hex(digits).map(Self)
    }
}

impl GrantKey {
    /// The key that grants are verified with.
    pub fn public(&self) -> Result<PublicKey, Error> {
        Ok(*self.signer()?.public())
    }

    /// Signs a grant's bytes.
    pub fn sign(&self, grant: &[u8]) -> Result<Signature, Error> {
        self.signer()?.sign(SignatureLabel::GRANT, grant)
    }

    fn signer(&self) -> Result<SigningKey, Error> {
        SigningKey::from_seed(kdf(self.0.bytes(), Label::GRANT_SIGN, &[]))
    }
}

/// Hands the hexadecimal digits of a secret to `f` and wipes them.
pub(crate) fn with_hex<T>(secret: &Secret<32>, f: impl FnOnce(&str) -> T) -> T {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = Zeroizing::new(String::with_capacity(64));
    for byte in secret.bytes() {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from(DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0')));
        }
    }
    f(&text)
}

/// Reads 64 hexadecimal digits.
pub(crate) fn from_hex(digits: &str) -> Result<Secret<32>, Error> {
    let mut secret = Secret::<32>::zero();
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() {
        return Err(Error::Failed);
    }
    for (byte, [high, low]) in secret.bytes_mut().iter_mut().zip(pairs) {
        let digit = |c: u8| char::from(c).to_digit(16).ok_or(Error::Failed);
        *byte = ((digit(*high)? << 4) | digit(*low)?) as u8;
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OsRandom;

    #[test]
    fn a_wrap_belongs_to_its_place_and_role() {
        let (space, log) = (SpaceKey::make(&OsRandom).unwrap(), LogKey::make(&OsRandom).unwrap());
        let wrapped = space.wrap_log(&log, b"here", &OsRandom).unwrap();
        assert!(space.unwrap_log(&wrapped, b"here").unwrap().0.same_as(&log.0));
        assert!(space.unwrap_log(&wrapped, b"there").is_err(), "another place");
        assert!(space.unwrap_grant(&wrapped, b"here").is_err(), "another role");
        assert!(SpaceKey::make(&OsRandom).unwrap().unwrap_log(&wrapped, b"here").is_err(), "another key");
    }

    #[test]
    fn a_slot_secret_survives_its_text_form() {
        let secret = SlotSecret::make(&OsRandom).unwrap();
        let back = secret.hazmat_to_platform(SlotSecret::hazmat_from_platform).unwrap();
        assert!(back.0.same_as(&secret.0));
        for bad in ["", "AICO-SLOT-1-", "AICO-SLOT-1-AAAA", "AICO-SLOT-2-AAAA", &"A".repeat(4096)] {
            assert!(SlotSecret::hazmat_from_platform(bad).is_err());
        }
    }

    #[test]
    fn a_wrong_slot_secret_is_told_apart() {
        let (a, b) = (SlotSecret::make(&OsRandom).unwrap(), SlotSecret::make(&OsRandom).unwrap());
        let stored = a.slot_key(b"c").check_value();
        assert!(a.slot_key(b"c").matches(&stored));
        assert!(!b.slot_key(b"c").matches(&stored));
        assert!(!a.slot_key(b"d").matches(&stored));
    }

    #[test]
    fn a_root_key_can_be_sealed_to_a_slot_and_nobody_else() {
        let (root, secret) = (RootKey::make(&OsRandom).unwrap(), SlotSecret::make(&OsRandom).unwrap());
        let slot = secret.slot_key(b"slot");
        let sealed =
            seal_root_to_slot(&slot.exchange_public().unwrap(), &slot.vouch_key(), &root, b"slot", &OsRandom).unwrap();
        // Whoever has the public key and not what vouches seals nothing that the slot opens.
        let stranger = SlotSecret::make(&OsRandom).unwrap().slot_key(b"slot").vouch_key();
        let forged = seal_root_to_slot(&slot.exchange_public().unwrap(), &stranger, &root, b"slot", &OsRandom).unwrap();
        assert!(slot.open_sealed_root(&forged, b"slot").is_err());
        assert!(slot.open_sealed_root(&sealed, b"slot").unwrap().is_same(&root));
        assert!(slot.open_sealed_root(&sealed, b"other").is_err());
        assert!(SlotSecret::make(&OsRandom).unwrap().slot_key(b"slot").open_sealed_root(&sealed, b"slot").is_err());
        for at in [0, 31, 32, 60, SEALED_ROOT_BYTES - 1] {
            let mut changed = sealed;
            changed[at] ^= 1;
            assert!(slot.open_sealed_root(&changed, b"slot").is_err(), "byte {at}");
        }
        assert!(
            seal_root_to_slot(&[0; 32], &slot.vouch_key(), &root, b"slot", &OsRandom).is_err(),
            "a public key of small order"
        );
    }

    #[test]
    fn an_identity_survives_sealing_and_its_file() {
        let identity = IdentitySecret::make(&OsRandom).unwrap();
        let key = RootKey::make(&OsRandom).unwrap().identity_seal_key();
        let sealed = key.seal(&identity, &OsRandom).unwrap();
        assert_eq!(key.open(&sealed).unwrap().public(), identity.public());
        let back = identity.hazmat_to_file(IdentitySecret::hazmat_from_file).unwrap();
        assert_eq!(back.public(), identity.public());
        assert!(IdentitySecret::hazmat_from_file("zz").is_err());
    }

    #[test]
    fn the_sqlcipher_literal_has_its_shape() {
        let literal = SpaceKey::make(&OsRandom).unwrap().store_key().hazmat_sqlcipher_literal(<[u8]>::to_vec);
        assert_eq!(literal.len(), 67);
        assert!(literal.starts_with(b"x'") && literal.ends_with(b"'"));
    }
}
