//! The first bytes of every file: its random identity, and a tag over them under the key that comes from it.

use aws_lc_rs::rand;

use crate::file::Fault;
use crate::key::{FileKey, ID_BYTES, Part, StoreKey, TAG_BYTES};
use crate::name::Name;

pub(crate) const HEADER_BYTES: usize = MAGIC.len() + ID_BYTES + TAG_BYTES;
const MAGIC: &[u8; 8] = b"aicomem\x01";

/// A new file's key, and its header.
pub(crate) fn make(store: &StoreKey, name: Name) -> Result<(FileKey, Vec<u8>), Fault> {
    let mut id = [0; ID_BYTES];
    rand::fill(&mut id)?;
    let key = store.file(&id, name)?;
    let mut header = [MAGIC.as_slice(), &id].concat();
    let aad = header.clone();
    key.seal(Part::Header, 0, &aad, &[], &mut header)?;
    Ok((key, header))
}

/// The key of the file that begins with `header`.
pub(crate) fn open(store: &StoreKey, name: Name, header: &[u8; HEADER_BYTES]) -> Result<FileKey, Fault> {
    let (magic, rest) = header.split_first_chunk::<8>().ok_or(Fault::Damaged)?;
    let (id, tag) = rest.split_first_chunk::<ID_BYTES>().ok_or(Fault::Damaged)?;
    if magic != MAGIC {
        return Err(Fault::Damaged);
    }
    let key = store.file(id, name)?;
    let aad = [magic.as_slice(), id].concat();
    key.open(Part::Header, 0, &aad, &mut tag.to_vec()).map_err(|_| Fault::Damaged)?;
    Ok(key)
}
