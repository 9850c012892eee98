//! The slot that contains the active configuration.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use super::Runtime;

/// Contains the active configuration. The slot exists as long as the process.
#[derive(Debug)]
pub struct Slot {
    runtime: ArcSwap<Runtime>,
    /// The address of the active configuration. [`Slot::holds`] reads only this address, because a load of `runtime`
    /// takes two atomic instructions.
    address: AtomicUsize,
}

impl Slot {
    pub fn new(runtime: Runtime) -> Self {
        let runtime = Arc::new(runtime);
        Self { address: AtomicUsize::new(address(&runtime)), runtime: ArcSwap::new(runtime) }
    }

    pub fn load(&self) -> Arc<Runtime> {
        self.runtime.load_full()
    }

    /// Returns whether `runtime` is still active. This call costs less than a call of [`load`](Self::load).
    pub fn holds(&self, runtime: &Arc<Runtime>) -> bool {
        // The slot and the caller both hold a reference, so two different configurations never have the same address.
        self.address.load(Ordering::Acquire) == address(runtime)
    }

    /// Activates another configuration. Requests in flight finish with their old configuration. The limiter and its
    /// queue stay in use, with the new limits. Two threads must not call this function at the same time.
    pub fn swap(&self, mut runtime: Runtime) {
        runtime.limiter = Arc::clone(&self.load().limiter);
        runtime.limiter.set_limits(runtime.settings.admission);
        let runtime = Arc::new(runtime);
        let address = address(&runtime);
        self.runtime.store(runtime);
        // Until this store, a request can still get the old configuration.
        self.address.store(address, Ordering::Release);
    }
}

fn address(runtime: &Arc<Runtime>) -> usize {
    Arc::as_ptr(runtime).addr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::edge::admission::limiter::Entry;
    use crate::metrics::Metrics;

    fn runtime(max_in_flight: usize, metrics: &'static Metrics) -> Runtime {
        let mut settings = Settings::default();
        settings.admission.max_in_flight = max_in_flight;
        Runtime::build(settings, metrics, &Arc::default()).unwrap()
    }

    #[test]
    fn configuration_when_swapped_then_is_no_longer_held() {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new().unwrap()));
        let slot = Slot::new(runtime(1, metrics));
        let first = slot.load();
        assert!(slot.holds(&first));
        slot.swap(runtime(2, metrics));
        assert!(!slot.holds(&first) && slot.holds(&slot.load()));
    }

    #[test]
    fn requests_in_flight_when_configuration_is_swapped_then_stay_counted() {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new().unwrap()));
        let slot = Slot::new(runtime(1, metrics));
        let Entry::Admitted(first) = slot.load().limiter.enter() else { panic!("the first request got no permit") };
        slot.swap(runtime(2, metrics));
        let Entry::Admitted(_second) = slot.load().limiter.enter() else { panic!("the second request got no permit") };
        assert!(
            matches!(slot.load().limiter.enter(), Entry::Full(fault) if fault.waiting() == Some(0)),
            "after the swap, the first request is not counted"
        );
        drop(first);
        assert!(matches!(slot.load().limiter.enter(), Entry::Admitted(_)));
    }
}
