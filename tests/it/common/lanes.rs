//! Writers whose trail shows whether a copy is of one moment or a mixture of several.
//!
//! A lane is a ring of blocks that one writer goes through in order, again and again. Its `n`th
//! write (from 1) fills block `(n - 1) % blocks` with `n`. At any moment the ring holds the latest
//! `blocks` numbers without a gap, all in their places.

/// The bytes of write number `n`.
pub fn block(n: u64, len: usize) -> Vec<u8> {
    n.to_le_bytes().repeat(len / 8)
}

/// The number that a block holds, if all of the block holds it.
pub fn number(block: &[u8]) -> Option<u64> {
    let first: [u8; 8] = block[..8].try_into().ok()?;
    block.chunks(8).all(|c| c == first).then(|| u64::from_le_bytes(first))
}

/// The number of the last write in the ring `blocks`, or why it is not of one moment.
pub fn last_write<'a>(blocks: impl IntoIterator<Item = &'a [u8]>) -> Result<u64, String> {
    let mut found = Vec::new();
    for (i, block) in blocks.into_iter().enumerate() {
        found.push(number(block).ok_or_else(|| format!("half a write in block {i}"))?);
    }
    let len = found.len() as u64;
    let last = found.iter().copied().max().unwrap_or(0);
    for (i, n) in (0..).zip(found) {
        let expected = last.checked_sub(1 + i).map_or(0, |d| d / len * len + 1 + i);
        if n != expected {
            return Err(format!("block {i} holds {n} and not {expected}, the last is {last}"));
        }
    }
    Ok(last)
}
