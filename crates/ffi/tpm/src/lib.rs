//! A small secret, sealed to this machine's TPM 2.0 (`docs/spec/vault.md`, TPM 2.0).
//!
//! It opens on the same TPM alone, and only while PCR 7, the Secure Boot state, is what it was. What is said to the TPM
//! goes through a session that is salted to its storage key: who listens on the bus has nothing. The TPM of the first
//! sealing is believed; from then on its storage key is known by name.
//!
//! The library's own buffers (tpm2-tss) are not ours to wipe.

mod sealed;

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tss_esapi::attributes::{ObjectAttributesBuilder, SessionAttributesBuilder};
use tss_esapi::constants::SessionType;
use tss_esapi::handles::{KeyHandle, ObjectHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    Digest, EccPoint, KeyedHashScheme, PcrSelectionList, PcrSelectionListBuilder, PcrSlot, Private, Public,
    PublicBuilder, PublicEccParametersBuilder, PublicKeyedHashParameters, SensitiveData, SymmetricDefinition,
    SymmetricDefinitionObject,
};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::traits::{Marshall, UnMarshall};
use tss_esapi::{Context, Error as TssError};
use zeroize::Zeroizing;

use sealed::Sealed;

/// The most bytes that can be sealed: the TPM's own limit for such an object.
pub const MAX_SECRET_BYTES: usize = 128;
/// Where the kernel offers a TPM to many programs at a time.
const DEVICE: &str = "/dev/tpmrm0";

/// Why something could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No TPM is looked for.
    #[error("it is turned off (`AICO_TPM=none`)")]
    Off,
    /// The machine has none.
    #[error("this machine has no TPM 2.0, or does not show it: {0} is not there")]
    Absent(String),
    /// The device is there and not for this user.
    #[error("this user may not use {0}: {1}; the group `tss` may, on most systems (`sudo usermod -aG tss USER`)")]
    NotAllowed(String, io::Error),
    /// What `AICO_TPM` says is no address.
    #[error("`{0}` is no TPM's address; `device:/dev/tpmrm0` is, for example")]
    Address(String),
    /// It is silent, or the connection broke.
    #[error("the TPM at {0} does not answer; is it still there? Start again to look anew")]
    Silent(String),
    /// Its owner has a password.
    #[error("the TPM's owner hierarchy has a password, and this program knows none")]
    OwnerPassword,
    /// It does not measure in SHA-256.
    #[error("the TPM has no SHA-256 bank of PCRs; the firmware's settings may have it")]
    NoSha256,
    /// Another TPM, or the same one cleared.
    #[error("this is not the TPM that sealed the slot, or it was cleared since")]
    AnotherTpm,
    /// The policy does not hold.
    #[error(
        "the Secure Boot state (PCR 7) is not what it was when the slot was made: firmware, its keys or Secure Boot itself \
         were changed. If that was you, open the vault by another way and make the slot anew"
    )]
    OtherState,
    /// Not what [`Tpm::seal`] gave.
    #[error("what the slot keeps is not a sealed key; it was damaged or written by something else")]
    Malformed,
    /// Whatever else the TPM answers.
    #[error("the TPM refused: {0}")]
    Refused(TssError),
}

impl Fault {
    /// Whether the machine, rather than its state, is in the way.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Off | Self::Absent(_))
    }
}

impl From<TssError> for Fault {
    fn from(error: TssError) -> Self {
        Self::Refused(error)
    }
}

/// A TPM, and the connection to it that its copies share.
#[derive(Clone)]
pub struct Tpm {
    address: Option<String>,
    line: Arc<Mutex<Option<Context>>>,
}

impl Tpm {
    /// None at all.
    #[must_use]
    pub fn none() -> Self {
        Self { address: None, line: Arc::default() }
    }

    /// The TPM at an address as tpm2-tss has them; without one the kernel's own, `none` for none.
    #[must_use]
    pub fn at(address: Option<&str>) -> Self {
        match address.filter(|address| !address.is_empty()) {
            Some("none") => Self::none(),
            Some(address) => Self { address: Some(address.to_owned()), line: Arc::default() },
            None => Self { address: Some(format!("device:{DEVICE}")), line: Arc::default() },
        }
    }

    /// Opens the connection and keeps it open: a process that is confined later still has it.
    pub fn connect(&self) -> Result<(), Fault> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if line.is_none() {
            *line = Some(self.open()?);
        }
        Ok(())
    }

    /// Seals to this TPM in its present Secure Boot state.
    pub fn seal(&self, secret: &[u8]) -> Result<Vec<u8>, Fault> {
        self.run(|context| {
            with_primary(context, |context, primary, name| {
                let (public, private) = with_session(context, SessionType::Hmac, primary, |context, session| {
                    let public = sealed_public(policy_of_now(context, session)?)?;
                    let made = said(context, session, Hidden::Both, |context| {
                        let secret = SensitiveData::try_from(secret)?;
                        context.create(primary, public, None, Some(secret), None, None)
                    })?;
                    Ok((made.out_public, made.out_private))
                })?;
                let (public, private) = (public.marshall()?, private.value().to_vec());
                Ok(Sealed { storage_key: name, public, private }.to_bytes())
            })
        })
    }

    /// Opens what [`Tpm::seal`] gave.
    pub fn unseal(&self, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let sealed = Sealed::parse(bytes).ok_or(Fault::Malformed)?;
        let public = Public::unmarshall(&sealed.public).map_err(|_| Fault::Malformed)?;
        let Public::KeyedHash { auth_policy, .. } = &public else { return Err(Fault::Malformed) };
        if public.marshall().ok().as_ref() != Some(&sealed.public) {
            return Err(Fault::Malformed);
        }
        let private = Private::try_from(sealed.private.clone()).map_err(|_| Fault::Malformed)?;
        self.run(|context| {
            with_primary(context, |context, primary, name| {
                if name != sealed.storage_key {
                    return Err(Fault::AnotherTpm);
                }
                let load = |context: &mut Context| context.load(primary, private.clone(), public.clone());
                // The storage key is the right one, so what it does not take is not what it sealed.
                let key = context.execute_with_session(Some(AuthSession::Password), load).map_err(not_sealed)?;
                then_flush(context, key.into(), |context| {
                    with_session(context, SessionType::Policy, primary, |context, session| {
                        let policy = PolicySession::try_from(session)?;
                        context.policy_pcr(policy, Digest::default(), secure_boot()?)?;
                        if context.policy_get_digest(policy)?.value() != auth_policy.value() {
                            return Err(Fault::OtherState);
                        }
                        let secret = said(context, session, Hidden::Answer, |context| context.unseal(key.into()))?;
                        Ok(Zeroizing::new(secret.value().to_vec()))
                    })
                })
            })
        })
    }

    /// Runs `work` on the connection; once more on a new one, if the old one was dead.
    fn run<T>(&self, work: impl Fn(&mut Context) -> Result<T, Fault>) -> Result<T, Fault> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let was_open = line.is_some();
        let mut context = line.take().map_or_else(|| self.open(), Ok)?;
        let mut done = work(&mut context);
        if was_open && done.as_ref().is_err_and(is_of_the_line) {
            drop(context);
            context = self.open()?;
            done = work(&mut context);
        }
        match done {
            Err(fault) if is_of_the_line(&fault) => Err(Fault::Silent(self.to_string())),
            done => {
                *line = Some(context);
                done
            }
        }
    }

    fn open(&self) -> Result<Context, Fault> {
        let address = self.address.as_deref().ok_or(Fault::Off)?;
        let way = TctiNameConf::from_str(address).map_err(|_| Fault::Address(address.to_owned()))?;
        if let Some(path) = address.strip_prefix("device:") {
            // In the kernel's words, which tpm2-tss does not hand on.
            let opened = std::fs::File::options().read(true).write(true).open(path);
            opened.map_err(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => Fault::NotAllowed(path.to_owned(), error),
                io::ErrorKind::NotFound => Fault::Absent(path.to_owned()),
                _ => Fault::Silent(self.to_string()),
            })?;
        }
        Context::new(way).map_err(|_| Fault::Silent(self.to_string()))
    }
}

impl fmt::Display for Tpm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.address.as_deref().unwrap_or("no address"))
    }
}

impl fmt::Debug for Tpm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tpm").field(&self.address).finish()
    }
}

/// Keeps tpm2-tss from writing to the standard error: what is worth telling is in [`Fault`]. Call it before the
/// process has a second thread; later it does nothing.
pub fn quiet() {
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads == 1 {
        #[expect(unsafe_code, reason = "the library is told by its environment only")]
        // SAFETY: nobody reads the environment meanwhile, since this is the only thread.
        unsafe {
            std::env::set_var("TSS2_LOG", "all+none");
        }
    }
}

/// Whether tpm2-tss rather than the TPM says so: its numbers are none of the TPM's.
fn is_of_the_line(fault: &Fault) -> bool {
    use tss_esapi::constants::response_code::Tss2ResponseCode::FormatZero;
    matches!(fault, Fault::Refused(TssError::Tss2Error(code @ FormatZero(_))) if code.kind().is_none())
}

fn not_sealed(error: TssError) -> Fault {
    let fault = Fault::Refused(error);
    if is_of_the_line(&fault) { fault } else { Fault::Malformed }
}

/// PCR 7 of the SHA-256 bank.
fn secure_boot() -> Result<PcrSelectionList, TssError> {
    PcrSelectionListBuilder::new().with_selection(HashingAlgorithm::Sha256, &[PcrSlot::Slot7]).build()
}

/// The digest of the policy that holds now, said through a session: nobody on the bus puts another policy there.
fn policy_of_now(context: &mut Context, session: AuthSession) -> Result<Digest, Fault> {
    let (_, there, _) = context.execute_without_session(|context| context.pcr_read(secure_boot()?))?;
    if there != secure_boot()? {
        return Err(Fault::NoSha256);
    }
    let trial = start(context, SessionType::Trial, None)?;
    then_flush(context, SessionHandle::from(trial).into(), |context| {
        let policy = PolicySession::try_from(trial)?;
        said(context, session, Hidden::Question, |context| {
            context.policy_pcr(policy, Digest::default(), secure_boot()?)
        })?;
        said(context, session, Hidden::Answer, |context| context.policy_get_digest(policy))
    })
}

/// Runs `work` with the storage key of this TPM and the key's name.
fn with_primary<T>(
    context: &mut Context,
    work: impl FnOnce(&mut Context, KeyHandle, Vec<u8>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let template = storage_template()?;
    let made = context.execute_with_session(Some(AuthSession::Password), |context| {
        context.create_primary(Hierarchy::Owner, template, None, None, None, None)
    });
    let primary = made.map_err(owner_fault)?.key_handle;
    then_flush(context, primary.into(), |context| {
        let name = context.tr_get_name(primary.into())?.value().to_vec();
        work(context, primary, name)
    })
}

fn owner_fault(error: TssError) -> Fault {
    use tss_esapi::constants::response_code::Tss2ResponseCodeKind::{AuthFail, BadAuth};
    match error {
        TssError::Tss2Error(code) if matches!(code.kind(), Some(AuthFail | BadAuth)) => Fault::OwnerPassword,
        other => Fault::Refused(other),
    }
}

/// Runs `work` with a session that is salted to `primary`.
fn with_session<T>(
    context: &mut Context,
    kind: SessionType,
    primary: KeyHandle,
    work: impl FnOnce(&mut Context, AuthSession) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let session = start(context, kind, Some(primary))?;
    then_flush(context, SessionHandle::from(session).into(), |context| work(context, session))
}

/// What of a command is encrypted; a TPM refuses more than the command has. All of it is authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hidden {
    Question,
    Answer,
    Both,
}

/// Says one command through `session`.
fn said<T>(
    context: &mut Context,
    session: AuthSession,
    hidden: Hidden,
    command: impl FnOnce(&mut Context) -> Result<T, TssError>,
) -> Result<T, Fault> {
    let (attributes, mask) = SessionAttributesBuilder::new()
        .with_decrypt(hidden != Hidden::Answer)
        .with_encrypt(hidden != Hidden::Question)
        .with_continue_session(true)
        .build();
    context.tr_sess_set_attributes(session, attributes, mask)?;
    Ok(context.execute_with_session(Some(session), command)?)
}

fn start(context: &mut Context, kind: SessionType, salt: Option<KeyHandle>) -> Result<AuthSession, Fault> {
    let (cipher, hash) = (SymmetricDefinition::AES_128_CFB, HashingAlgorithm::Sha256);
    let session =
        context.execute_without_session(|context| context.start_auth_session(salt, None, None, kind, cipher, hash))?;
    session.ok_or(Fault::Refused(TssError::WrapperError(tss_esapi::WrapperErrorKind::WrongValueFromTpm)))
}

/// Whatever comes of `work`, the TPM forgets `handle`: it has room for three.
fn then_flush<T>(
    context: &mut Context,
    handle: ObjectHandle,
    work: impl FnOnce(&mut Context) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let done = work(context);
    let flushed = context.execute_without_session(|context| context.flush_context(handle));
    let value = done?;
    flushed?;
    Ok(value)
}

/// The storage key: ECC P-256 and AES-128-CFB, always the same one on the same TPM.
fn storage_template() -> Result<Public, TssError> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()?;
    let cipher = SymmetricDefinitionObject::AES_128_CFB;
    let parameters = PublicEccParametersBuilder::new_restricted_decryption_key(cipher, EccCurve::NistP256).build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

/// A sealed object that only its policy opens.
fn sealed_public(policy: Digest) -> Result<Public, TssError> {
    let attributes =
        ObjectAttributesBuilder::new().with_fixed_tpm(true).with_fixed_parent(true).with_no_da(true).build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(policy)
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
        .with_keyed_hash_unique_identifier(Digest::default())
        .build()
}
