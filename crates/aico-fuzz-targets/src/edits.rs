//! Inputs that are changes to something genuine: a cipher lets nothing else through to what is behind it.

/// Takes numbers off the front of an input.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl Input<'_> {
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn number(&mut self) -> Option<usize> {
        Some(usize::from(self.byte()?) << 8 | usize::from(self.byte()?))
    }

    /// At most `limit` bytes, as many as the input says.
    pub(crate) fn bytes(&mut self, limit: usize) -> Option<Vec<u8>> {
        let wanted = self.number()?.min(limit).min(self.0.len());
        let (bytes, rest) = self.0.split_at(wanted);
        self.0 = rest;
        Some(bytes.to_vec())
    }
}

/// Makes one change to `bytes`: flips, sets, cuts, grows, moves. Says whether they are different now.
pub(crate) fn edit(bytes: &mut Vec<u8>, input: &mut Input<'_>) -> Option<bool> {
    let before = bytes.clone();
    let (what, at, value) = (input.byte()?, input.number()?, input.byte()?);
    let place = if bytes.is_empty() { 0 } else { at % bytes.len() };
    match what % 5 {
        0 => bytes.iter_mut().skip(place).take(1).for_each(|byte| *byte ^= value),
        1 => bytes.truncate(place),
        2 => bytes.insert(place, value),
        3 => bytes.rotate_left(place),
        _ => bytes.iter_mut().skip(place).take(usize::from(value)).for_each(|byte| *byte = 0),
    }
    Some(*bytes != before)
}
