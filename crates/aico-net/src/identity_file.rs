//! Identities in files: the backend's public one, which local clients pin, and a client's own secret one
//! (`docs/spec/vault.md`, Files outside the encrypted stores).

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use aico_crypto::{ComponentKind, Identity, IdentitySecret, Name, PublicKey};
use aico_proto::LocalIdentity;

use crate::Error;

const BACKEND_TAG: &str = "AICO-BACKEND-1";
const CLIENT_TAG: &str = "AICO-CLIENT-1";
/// Longest identity file in bytes.
const MAX_FILE_BYTES: u64 = 4096;

/// Writes the backend's public identity for local clients to pin, unless it stands there already. Other users can read
/// it where `also_others`.
pub fn write_backend_id(path: &Path, identity: &Identity, also_others: bool) -> Result<(), Error> {
    let line = format!("{BACKEND_TAG} {} {}\n", identity.key().to_text(), identity.name());
    if read(path).is_ok_and(|there| there == line) {
        return Ok(());
    }
    replace(path, &line)?;
    let mode = fs::Permissions::from_mode(if also_others { 0o644 } else { 0o600 });
    fs::set_permissions(path, mode).map_err(|error| Error::io_at("write", path, error))
}

/// Reads the identity that a backend left for local clients.
pub fn read_backend_id(path: &Path) -> Result<Identity, Error> {
    let text = read(path)?;
    parse_backend(&text).ok_or_else(|| Error::identity_file(path, "it does not hold a backend's identity"))
}

/// Writes a client's own identity with its secret, readable by its owner only.
pub fn write_client_key(path: &Path, identity: &LocalIdentity) -> Result<(), Error> {
    let (kind, name) = (identity.identity().kind().as_str(), identity.identity().name());
    let key = identity.identity().key().to_text();
    identity.secret().hazmat_to_file(|digits| {
        let line = format!(
            "# The identity of an AICO client. Whoever has this file can speak in its name.\n\
             # public key: {key}\n{CLIENT_TAG} {digits} {kind} {name}\n"
        );
        replace(path, &line)
    })
}

/// Writes the identity of a component that runs elsewhere: its own with its secret, and the backend's, which it pins.
pub fn write_component_file(path: &Path, identity: &LocalIdentity, backend: &Identity) -> Result<(), Error> {
    let own = identity.identity();
    identity.secret().hazmat_to_file(|digits| {
        let (kind, name) = (own.kind().as_str(), own.name());
        let line = format!(
            "# The identity of an AICO component. Whoever has this file can speak in its name.\n\
             # fingerprint: {}\n{CLIENT_TAG} {digits} {kind} {name}\n{BACKEND_TAG} {} {}\n",
            own.fingerprint(),
            backend.key().to_text(),
            backend.name()
        );
        replace(path, &line)
    })
}

/// Reads what [`write_component_file`] or [`write_client_key`] wrote; the second has no backend in it.
pub fn read_component_file(path: &Path) -> Result<(LocalIdentity, Option<Identity>), Error> {
    check_private(path)?;
    let text = read(path)?;
    let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (client, backend) = (lines.next().unwrap_or_default(), lines.next());
    if lines.next().is_some() {
        return Err(Error::identity_file(path, "it holds more than an identity and its backend"));
    }
    let client =
        parse_client(client).ok_or_else(|| Error::identity_file(path, "it does not hold a client's identity"))?;
    let bad = || Error::identity_file(path, "its second line does not hold a backend's identity");
    let backend = backend.map(|line| parse_backend(line).ok_or_else(bad)).transpose()?;
    Ok((client, backend))
}

/// Reads a client's own identity. A file that others can read is refused.
pub fn read_client_key(path: &Path) -> Result<LocalIdentity, Error> {
    read_component_file(path).map(|(client, _)| client)
}

fn check_private(path: &Path) -> Result<(), Error> {
    let metadata = fs::symlink_metadata(path).map_err(|error| Error::identity_file(path, error.to_string()))?;
    if !metadata.is_file() || metadata.mode() & 0o077 != 0 {
        return Err(Error::identity_file(path, "it must be a plain file that only its owner can read (mode 0600)"));
    }
    Ok(())
}

fn parse_client(line: &str) -> Option<LocalIdentity> {
    let (digits, rest) = fields(line, CLIENT_TAG)?;
    let (kind, name) = rest.split_once(' ')?;
    let secret = IdentitySecret::hazmat_from_file(digits).ok()?;
    let kind = ComponentKind::from_text(kind).ok()?;
    let identity = Identity::new(kind, *secret.public(), Name::parse(name).ok()?);
    LocalIdentity::new(secret, identity).ok()
}

fn parse_backend(line: &str) -> Option<Identity> {
    let (key, name) = fields(line, BACKEND_TAG)?;
    let (key, name) = (PublicKey::from_text(key).ok()?, Name::parse(name).ok()?);
    Some(Identity::new(ComponentKind::Backend, key, name))
}

/// The two parts behind `tag` in the only line that is not a comment.
fn fields<'a>(text: &'a str, tag: &str) -> Option<(&'a str, &'a str)> {
    let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let line = lines.next()?;
    match lines.next() {
        Some(_) => None,
        None => line.strip_prefix(tag)?.strip_prefix(' ')?.split_once(' '),
    }
}

fn read(path: &Path) -> Result<String, Error> {
    let failed = |error: std::io::Error| Error::identity_file(path, error.to_string());
    let mut text = String::new();
    File::open(path).map_err(failed)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE_BYTES { Err(Error::identity_file(path, "it is too long")) } else { Ok(text) }
}

/// Replaces a file in one step, on disk before this returns.
fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::io_at("write", path, error);
    let temporary = path.with_extension("tmp");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder).and_then(|f| f.sync_all())).map_err(failed)
}
