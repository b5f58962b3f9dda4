// SPDX-License-Identifier: GPL-2.0

//! Ways to take a lock whose holder may be a stopped CPU, or the code that was interrupted.
//!
//! | | waits | if the lock is taken | contexts |
//! |---|---|---|---|
//! | [`Wait`] | yes | | process, softirq, interrupts off; not NMI, not a panic |
//! | [`WaitOff`] | yes | | those of [`Wait`] that have interrupts off |
//! | [`Try`] | no | [`Busy`]: there is a later | any with interrupts off |
//! | [`Now`] | no | does without: there may be no later | any with interrupts off |

use core::convert::Infallible;

use kernel::{
    interrupt::LocalInterruptDisabled,
    prelude::*,
    sync::{
        lock::spinlock::{
            SpinLockGuard,
            SpinLockIrqGuard, //
        },
        SpinLockIrq, //
    },
};

/// A way to take a lock.
pub(crate) trait Access: Copy {
    /// The reason to come back later; uninhabited if there never is one.
    type Error;

    /// Whether a test may hold the lock's owner.
    const PATIENT: bool = true;

    /// Takes the lock; [`None`]: do without it.
    fn lock<'a, T>(self, lock: &'a SpinLockIrq<T>) -> Result<Option<Guard<'a, T>>, Self::Error>
    where
        Self: 'a;
}

/// Waits for the lock.
#[derive(Clone, Copy)]
pub(crate) struct Wait;

impl Access for Wait {
    type Error = Infallible;

    fn lock<'a, T>(self, lock: &'a SpinLockIrq<T>) -> Result<Option<Guard<'a, T>>, Infallible>
    where
        Self: 'a,
    {
        Ok(Some(Guard::Waited(lock.lock())))
    }
}

/// Waits for the lock, with interrupts off already.
#[derive(Clone, Copy)]
pub(crate) struct WaitOff<'o>(pub(crate) &'o LocalInterruptDisabled);

impl Access for WaitOff<'_> {
    type Error = Infallible;

    fn lock<'a, T>(self, lock: &'a SpinLockIrq<T>) -> Result<Option<Guard<'a, T>>, Infallible>
    where
        Self: 'a,
    {
        Ok(Some(Guard::Off(lock.lock_with(self.0))))
    }
}

/// Fails with [`Busy`] if the lock is taken.
#[derive(Clone, Copy)]
pub(crate) struct Try<'o>(pub(crate) &'o LocalInterruptDisabled);

impl Access for Try<'_> {
    type Error = Busy;

    fn lock<'a, T>(self, lock: &'a SpinLockIrq<T>) -> Result<Option<Guard<'a, T>>, Busy>
    where
        Self: 'a,
    {
        // Not `try_lock()`, which turns interrupts off and warns if that is tried in NMI.
        let guard = lock.try_lock_with(self.0).ok_or(Busy)?;
        Ok(Some(Guard::Off(guard)))
    }
}

/// Does without the lock if it is taken.
#[derive(Clone, Copy)]
pub(crate) struct Now<'o>(pub(crate) &'o LocalInterruptDisabled);

impl Access for Now<'_> {
    type Error = Infallible;

    const PATIENT: bool = false;

    fn lock<'a, T>(self, lock: &'a SpinLockIrq<T>) -> Result<Option<Guard<'a, T>>, Infallible>
    where
        Self: 'a,
    {
        Ok(lock.try_lock_with(self.0).map(Guard::Off))
    }
}

/// The lock is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Busy;

impl From<Busy> for Error {
    fn from(_: Busy) -> Self {
        EBUSY
    }
}

/// A lock that is held.
pub(crate) enum Guard<'a, T> {
    Waited(SpinLockIrqGuard<'a, T>),
    Off(SpinLockGuard<'a, T>),
}

impl<T> core::ops::Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Waited(guard) => guard,
            Self::Off(guard) => guard,
        }
    }
}

impl<T: Unpin> core::ops::DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match self {
            Self::Waited(guard) => guard,
            Self::Off(guard) => guard,
        }
    }
}
