//! The slot that contains the active configuration.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Runtime;

/// Contains the active configuration. The slot exists as long as the process.
#[derive(Debug)]
pub struct Slot {
    runtime: ArcSwap<Runtime>,
}

impl Slot {
    pub fn new(runtime: Runtime) -> Self {
        Self { runtime: ArcSwap::from_pointee(runtime) }
    }

    pub fn load(&self) -> Arc<Runtime> {
        self.runtime.load_full()
    }

    /// Returns whether `runtime` is still active. This call costs less than a call of [`load`](Self::load).
    pub fn holds(&self, runtime: &Arc<Runtime>) -> bool {
        Arc::ptr_eq(&self.runtime.load(), runtime)
    }

    /// Activates another configuration. Requests in flight finish with their old configuration. The limiter and its
    /// queue stay in use, with the new limits.
    pub fn swap(&self, mut runtime: Runtime) {
        runtime.limiter = Arc::clone(&self.load().limiter);
        runtime.limiter.set_limits(runtime.settings.admission);
        self.runtime.store(Arc::new(runtime));
    }
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
