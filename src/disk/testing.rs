//! Tests of what must hold whatever fails, and whatever runs when. docs/RELIABILITY.md says how
//! often they were run and what they found.

// Under `shuttle`'s control, only what was written for it runs.
#[cfg(feature = "schedules")]
mod schedules;
#[cfg(not(feature = "schedules"))]
mod storage;
