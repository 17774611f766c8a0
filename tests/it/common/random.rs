//! Random numbers that are the same each time.

/// Reproducible pseudo-random numbers (xorshift64*).
pub fn random(mut state: u64) -> impl FnMut() -> usize {
    move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) as usize
    }
}
