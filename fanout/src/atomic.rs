//! The atomics and cells of this crate: the standard ones, or loom's when a model is checked.

#[cfg(loom)]
pub(crate) use loom::{
    cell::UnsafeCell,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering, fence},
    },
};

#[cfg(not(loom))]
pub(crate) use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering, fence},
};

/// The standard cell with loom's interface, which hands out pointers for the time of a call
/// only, so that loom can see two accesses overlap.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    #[inline]
    pub(crate) fn with<V>(&self, read: impl FnOnce(*const T) -> V) -> V {
        read(self.0.get())
    }

    #[inline]
    pub(crate) fn with_mut<V>(&self, write: impl FnOnce(*mut T) -> V) -> V {
        write(self.0.get())
    }
}

/// Checks every run in which threads are interrupted at most `preemptions_max` times in all:
/// for models whose full set of runs takes minutes.
#[cfg(test)]
#[cfg(loom)]
pub(crate) fn model_within(preemptions_max: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions_max);
    model.check(run);
}
