//! The directives in two fields of one response: Cache-Control, which is for all caches, and the targeted field (RFC
//! 9213), which is for the pulling CDN.

use http::HeaderValue;

use crate::wire::cache_control::CacheControl;

/// Directives and their field value, which is made once for a configuration.
#[derive(Debug, Clone)]
pub(super) struct PreparedField {
    directives: CacheControl<'static>,
    value: Option<HeaderValue>,
}

impl PreparedField {
    pub(super) fn new(mut directives: CacheControl<'static>) -> Self {
        directives.settle();
        let value = directives.settled_value();
        Self { directives, value }
    }

    pub(super) fn field(&self) -> Field<'_> {
        Field { directives: self.directives.clone(), prepared: self.value.as_ref() }
    }
}

/// The directives of one field, and the field's value if it is prepared.
pub(super) struct Field<'a> {
    pub(super) directives: CacheControl<'a>,
    prepared: Option<&'a HeaderValue>,
}

impl<'a> Field<'a> {
    /// Creates a field from the origin's directives. Contradictions between directives stay.
    pub(super) fn of_origin(directives: CacheControl<'a>) -> Self {
        Self { directives, prepared: None }
    }

    /// Creates a field to emit. Contradictions between directives are resolved.
    pub(super) fn new(mut directives: CacheControl<'a>) -> Self {
        directives.settle();
        Self { directives, prepared: None }
    }

    pub(super) fn change(&mut self, change: impl FnOnce(&mut CacheControl<'a>)) {
        change(&mut self.directives);
        self.directives.settle();
        self.prepared = None;
    }

    /// Returns the value to emit, or `None` if there is no directive.
    pub(super) fn value(&self) -> Option<HeaderValue> {
        self.prepared.cloned().or_else(|| self.directives.settled_value())
    }
}

/// Cache-Control and the targeted field of one response.
pub(super) struct FieldPair<'a> {
    pub(super) cache_control: Field<'a>,
    pub(super) targeted: Option<Field<'a>>,
}

impl<'a> FieldPair<'a> {
    /// Returns the directives that the pulling CDN obeys.
    pub(super) fn obeyed(&self) -> &CacheControl<'a> {
        self.targeted.as_ref().map_or(&self.cache_control.directives, |targeted| &targeted.directives)
    }

    pub(super) fn each(&self) -> impl Iterator<Item = &CacheControl<'a>> {
        std::iter::once(&self.cache_control).chain(&self.targeted).map(|field| &field.directives)
    }
}

/// The directives that a class's rule sets, in place of the origin's directives or in addition to them.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) cache_control: PreparedField,
    pub(super) targeted: Option<PreparedField>,
}

impl Rule {
    /// Creates a rule with the same directives for all caches and without a targeted field.
    pub(super) fn for_all(directives: CacheControl<'static>) -> Self {
        Self { cache_control: PreparedField::new(directives), targeted: None }
    }

    pub(super) fn fields(&self) -> FieldPair<'_> {
        FieldPair {
            cache_control: self.cache_control.field(),
            targeted: self.targeted.as_ref().map(PreparedField::field),
        }
    }

    /// Adds the rule's lifetime, `immutable` and stale windows (stale-while-revalidate, stale-if-error) to the origin's
    /// directives. The origin's directives must not have a lifetime.
    pub(super) fn complete<'a>(&self, origin: FieldPair<'a>) -> FieldPair<'a> {
        let FieldPair { cache_control: Field { mut directives, .. }, targeted } = origin;
        let rule = &self.cache_control.directives;
        directives.max_age = rule.max_age;
        directives.s_maxage = rule.s_maxage;
        directives.stale_while_revalidate = directives.stale_while_revalidate.or(rule.stale_while_revalidate);
        directives.stale_if_error = directives.stale_if_error.or(rule.stale_if_error);
        directives.immutable |= rule.immutable;
        let targeted = (targeted.is_some() || self.targeted.is_some()).then(|| {
            // The origin's directives in Cache-Control are repeated here, because a CDN that reads its targeted field
            // does not read Cache-Control.
            let mut repeated = targeted.map(|field| field.directives).unwrap_or_default();
            repeated.max_age = self.lifetime();
            repeated.take_conditions(&directives);
            Field::new(repeated)
        });
        FieldPair { cache_control: Field::new(directives), targeted }
    }

    /// Returns the lifetime for the pulling CDN, in seconds.
    fn lifetime(&self) -> Option<u64> {
        let all = &self.cache_control.directives;
        self.targeted.as_ref().and_then(|field| field.directives.max_age).or(all.s_maxage).or(all.max_age)
    }
}
