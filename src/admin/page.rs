//! The page at `/`.

use std::sync::LazyLock;

use crate::operators::document::Document;

pub(super) static PAGE: LazyLock<Document> = LazyLock::new(|| Document::new(include_str!("page.html")));

/// Returns the style sheet of the page, which the page of a bundle uses too.
pub(crate) fn style() -> &'static str {
    PAGE.style()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::document::check_document;

    #[test]
    fn page_when_built_then_keeps_the_rules_for_documents() {
        check_document(&PAGE);
    }
}
