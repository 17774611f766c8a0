//! The locks and atomics of the code whose interleavings are tested: those of `parking_lot` and the
//! standard library or, with the feature `schedules`, those of `shuttle`, which runs one thread at a
//! time and chooses the next one at each operation (`disk/testing/schedules.rs`).

#[cfg(not(feature = "schedules"))]
pub(super) use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
#[cfg(not(feature = "schedules"))]
pub(super) use std::sync::atomic::{AtomicBool, AtomicU64};

#[cfg(feature = "schedules")]
pub(super) use controlled::{Mutex, RwLock, RwLockWriteGuard};
#[cfg(feature = "schedules")]
pub(super) use shuttle::sync::atomic::{AtomicBool, AtomicU64};

#[cfg(feature = "schedules")]
mod controlled {
    use shuttle::sync;
    pub(in crate::disk) use shuttle::sync::RwLockWriteGuard;

    /// With the interface of `parking_lot`: no thread panics while it holds a lock.
    #[derive(Debug, Default)]
    pub(in crate::disk) struct Mutex<T>(sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(in crate::disk) fn new(value: T) -> Self {
            Self(sync::Mutex::new(value))
        }

        pub(in crate::disk) fn lock(&self) -> sync::MutexGuard<'_, T> {
            self.0.lock().expect("no thread panics")
        }
    }

    /// With the interface of `parking_lot`.
    #[derive(Debug, Default)]
    pub(in crate::disk) struct RwLock<T>(sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(in crate::disk) fn new(value: T) -> Self {
            Self(sync::RwLock::new(value))
        }

        pub(in crate::disk) fn read(&self) -> sync::RwLockReadGuard<'_, T> {
            self.0.read().expect("no thread panics")
        }

        pub(in crate::disk) fn write(&self) -> RwLockWriteGuard<'_, T> {
            self.0.write().expect("no thread panics")
        }
    }
}
