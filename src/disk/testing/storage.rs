//! Overlays over storage that crashes and fails: what was promised must be kept.
//!
//! `SYNTHDISK_SEEDS=FROM..TO` runs other seeds than the default ones.

mod crash;
mod faults;
mod flips;
mod image_faults;
mod model;
mod recorder;

/// Pseudo-random numbers (splitmix64); the same seed gives the same numbers everywhere.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// True once in `n` times.
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The seeds to run: `SYNTHDISK_SEEDS`, else the first `count`.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("SYNTHDISK_SEEDS") else { return 0..count };
    let parsed = text.split_once("..").map(|(from, to)| (from.parse(), to.parse()));
    match parsed {
        Some((Ok(from), Ok(to))) => from..to,
        _ => panic!("SYNTHDISK_SEEDS must be FROM..TO, not '{text}'"),
    }
}

/// Run `test` for each seed; a failure names its seed. `test` returns how many `things` it tried;
/// their number is printed for `scripts/soak`.
fn for_each_seed(count: u64, things: &str, test: impl Fn(u64) -> u64 + std::panic::RefUnwindSafe) {
    let mut total = 0;
    for seed in seeds(count) {
        match std::panic::catch_unwind(|| test(seed)) {
            Ok(tried) => total += tried,
            Err(panic) => {
                eprintln!(
                    "failed with seed {seed}: run it alone with SYNTHDISK_SEEDS={seed}..{}",
                    seed + 1
                );
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(total > 0, "no {things}");
    println!("tested: {total} {things}");
}
