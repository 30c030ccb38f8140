//! For the fuzz targets: parsers that are reached through a cipher only.

use crate::Control;

/// The plaintext of a control record. What is taken has one encoding.
pub fn control(plaintext: &[u8]) {
    if let Ok(control) = Control::decode(plaintext) {
        let again = control.encode();
        // Codes that are not known become one that is; everything else comes back as it was.
        assert_eq!(Control::decode(&again).ok().as_ref(), Some(&control));
        assert!(again.len() == plaintext.len() || matches!(control, Control::Error { .. }));
    }
}
