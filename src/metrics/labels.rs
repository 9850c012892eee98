//! What the series of a metric are labelled with: enums, and ids of what one configuration lists.

use crate::ids::{ClassId, Country, Label, LocaleId, PageId, ProviderId, SourceId};

/// The label values of one configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Labels {
    /// Configured providers, in order.
    pub providers: Vec<&'static str>,
    /// Configured classes, in order.
    pub classes: Vec<&'static str>,
    /// Locales of the pages, in the order of their ids.
    pub locales: Vec<&'static str>,
    /// Accepted `source` values of beacons, in order.
    pub beacon_sources: Vec<&'static str>,
    /// Accepted pages of RUM beacons, in order.
    pub rum_pages: Vec<&'static str>,
}

/// The value of one label: its position among all of them.
pub(crate) trait Dimension: Copy {
    /// The texts of all values under one configuration, by position.
    fn values(labels: &Labels) -> Vec<&'static str>;

    /// The position in [`values`](Self::values).
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

/// Ids whose first value is `other`, with their list.
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

/// The values of up to three labels, which together name one series.
pub(crate) trait Dimensions: Copy {
    /// The texts of all values of each label under one configuration.
    fn lists(labels: &Labels) -> Vec<Vec<&'static str>>;

    /// The position among all combinations. The last label varies fastest.
    fn index(self, lengths: Lengths) -> usize;
}

/// The number of values of the second and the third label; 1 without that label.
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
