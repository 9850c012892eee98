//! The values of labels, and their positions in the tables of metrics. Some labels have fixed values, which are enums.
//! For other labels, for example providers and classes, the configuration lists the values.

use crate::ids::{ClassId, Country, Label, LocaleId, PageId, ProviderId, SourceId};

/// The label values of one configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Labels {
    /// The configured providers, in the order of the configuration.
    pub providers: Vec<&'static str>,
    /// The configured classes, in the order of the configuration.
    pub classes: Vec<&'static str>,
    /// The locales of the whoopsie pages, in the order of their ids.
    pub locales: Vec<&'static str>,
    /// The accepted `source` values of beacons, in the order of the configuration.
    pub beacon_sources: Vec<&'static str>,
    /// The pages whose load times (RUM) are counted by name, in the order of the configuration.
    pub rum_pages: Vec<&'static str>,
}

/// A value of one label. The value has a position among all values of the label.
pub(crate) trait Dimension: Copy {
    /// Returns the texts of all values under one configuration, in the order of the positions.
    fn values(labels: &Labels) -> Vec<&'static str>;

    /// Returns the position in [`values`](Self::values).
    fn position(self) -> usize;
}

impl<L: Label> Dimension for L {
    fn values(_: &Labels) -> Vec<&'static str> {
        Self::ALL.iter().map(|label| label.as_str()).collect()
    }

    fn position(self) -> usize {
        Label::position(self)
    }
}

impl Dimension for ProviderId {
    fn values(labels: &Labels) -> Vec<&'static str> {
        [&Self::RESERVED, labels.providers.as_slice()].concat()
    }

    fn position(self) -> usize {
        self.index()
    }
}

impl Dimension for LocaleId {
    fn values(labels: &Labels) -> Vec<&'static str> {
        labels.locales.clone()
    }

    fn position(self) -> usize {
        self.0.into()
    }
}

impl Dimension for Country {
    fn values(_: &Labels) -> Vec<&'static str> {
        Self::all().map(Self::as_str).collect()
    }

    fn position(self) -> usize {
        self.index()
    }
}

/// Implements [`Dimension`] for ids whose first value is `other`. The next values come from the given list.
macro_rules! configured {
    ($($id:ty => $list:ident),+) => {$(
        impl Dimension for $id {
            fn values(labels: &Labels) -> Vec<&'static str> {
                [&["other"], labels.$list.as_slice()].concat()
            }

            fn position(self) -> usize {
                self.index()
            }
        }
    )+};
}

configured!(ClassId => classes, SourceId => beacon_sources, PageId => rum_pages);

/// A combination of up to three label values, which identifies one series of a metric.
pub(crate) trait Dimensions: Copy {
    /// Returns one list for each label. The list contains the texts of all values of the label under one configuration.
    fn lists(labels: &Labels) -> Vec<Vec<&'static str>>;

    /// Returns the position among all combinations. The combinations are ordered by the first label, then by the second
    /// label, then by the third label.
    fn index(self, lengths: Lengths) -> usize;
}

/// The number of values of the second label, and the number of values of the third label. If a label does not exist,
/// its number is 1.
pub(crate) type Lengths = [usize; 2];

impl<A: Dimension> Dimensions for A {
    fn lists(labels: &Labels) -> Vec<Vec<&'static str>> {
        vec![A::values(labels)]
    }

    fn index(self, _: Lengths) -> usize {
        self.position()
    }
}

impl<A: Dimension, B: Dimension> Dimensions for (A, B) {
    fn lists(labels: &Labels) -> Vec<Vec<&'static str>> {
        vec![A::values(labels), B::values(labels)]
    }

    fn index(self, [second, _]: Lengths) -> usize {
        self.0.position() * second + self.1.position()
    }
}

impl<A: Dimension, B: Dimension, C: Dimension> Dimensions for (A, B, C) {
    fn lists(labels: &Labels) -> Vec<Vec<&'static str>> {
        vec![A::values(labels), B::values(labels), C::values(labels)]
    }

    fn index(self, [second, third]: Lengths) -> usize {
        (self.0.position() * second + self.1.position()) * third + self.2.position()
    }
}
