//! Small XML documents as trees. Attributes, comments and processing instructions are ignored, because Route 53 puts no
//! data there.

use std::fmt;

use quick_xml::Reader;
use quick_xml::escape::{escape, resolve_predefined_entity};
use quick_xml::events::Event;

/// The largest document, in bytes.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// The largest depth of nested elements.
const MAX_DEPTH: usize = 32;

/// An element with its text and its children. The `Display` form is XML.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Element {
    pub name: String,
    /// The text between the children, without white space at its ends.
    pub text: String,
    pub children: Vec<Element>,
}

impl Element {
    pub(super) fn new(name: &str, children: Vec<Self>) -> Self {
        Self { name: name.to_owned(), text: String::new(), children }
    }

    pub(super) fn with_text(name: &str, text: impl Into<String>) -> Self {
        Self { name: name.to_owned(), text: text.into(), children: Vec::new() }
    }

    /// Reads a document.
    ///
    /// # Errors
    /// Returns why the document is rejected.
    pub(super) fn parse(document: &[u8]) -> Result<Self, String> {
        if document.len() > MAX_BYTES {
            return Err(format!("it has more than {MAX_BYTES} bytes"));
        }
        let document = std::str::from_utf8(document).map_err(|error| error.to_string())?;
        let mut reader = Reader::from_str(document);
        reader.config_mut().expand_empty_elements = true;
        // The elements that have begun and have not ended. The first entry stands for the document, and has no name.
        let mut open = vec![Self::default()];
        loop {
            let event = reader.read_event().map_err(|error| error.to_string())?;
            let Some(last) = open.last_mut() else { return Err("an element ends twice".to_owned()) };
            match event {
                Event::Start(start) => {
                    if open.len() > MAX_DEPTH {
                        return Err(format!("it has more than {MAX_DEPTH} nested elements"));
                    }
                    open.push(Self::new(start.local_name().as_ref(), Vec::new()));
                }
                Event::End(_) => {
                    let ended = open.pop().unwrap_or_default();
                    let ended = Self { text: ended.text.trim().to_owned(), ..ended };
                    open.last_mut().ok_or("an element ends twice")?.children.push(ended);
                }
                Event::Text(text) => last.text += &text.xml10_content(),
                Event::CData(text) => last.text += &text.xml10_content(),
                Event::GeneralRef(reference) => match reference.resolve_char_ref() {
                    Ok(Some(character)) => last.text.push(character),
                    Ok(None) => {
                        let name = reference.xml10_content();
                        last.text += resolve_predefined_entity(&name).ok_or("it has an unknown entity")?;
                    }
                    Err(error) => return Err(error.to_string()),
                },
                Event::DocType(_) => return Err("it has a document type, which can define entities".to_owned()),
                Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
                Event::Eof => break,
            }
        }
        match open.as_mut_slice() {
            [document] if document.children.len() == 1 => Ok(document.children.remove(0)),
            [_] => Err("it does not have exactly one root element".to_owned()),
            _ => Err("it ends inside an element".to_owned()),
        }
    }

    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// Returns the text of the first child with this name.
    pub(super) fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str())
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>{}", self.name, escape(self.text.as_str()))?;
        self.children.iter().try_for_each(|child| child.fmt(f))?;
        write!(f, "</{}>", self.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn document_when_valid_then_tree_has_all_elements_and_texts() {
        let text = "<?xml version=\"1.0\"?>\n<!-- c --><a:Top xmlns:a='x'>\n <One>1 &amp; &#x41;<![CDATA[<]]> </One>\
                    <Two/>\n</a:Top>";
        let top = Element::parse(text.as_bytes()).expect("a document");
        assert_eq!((top.name.as_str(), top.text.as_str()), ("Top", ""));
        assert_eq!((top.text_of("One"), top.text_of("Two"), top.text_of("Three")), (Some("1 & A<"), Some(""), None));
        assert_eq!(top.to_string(), "<Top><One>1 &amp; A&lt;</One><Two></Two></Top>");
    }

    #[test]
    fn document_when_invalid_too_deep_or_too_large_then_is_rejected() {
        let deep = "<a>".repeat(40) + &"</a>".repeat(40);
        let large = format!("<a>{}</a>", " ".repeat(MAX_BYTES));
        for text in
            ["", "a", "<a>", "</a>", "<a></b>", "<a/><b/>", "<a>&x;</a>", "<!DOCTYPE a><a/>", "\u{1}", &deep, &large]
        {
            assert!(Element::parse(text.as_bytes()).is_err(), "{}", text.get(..20).unwrap_or(text));
        }
        assert!(Element::parse(b"<a>\xff</a>").is_err());
    }

    proptest! {
        #[test]
        fn document_when_arbitrary_then_is_read_without_panic(text in "(<[a/!?&;\\[\\]> ]{0,9}>?|[ -~]){0,40}") {
            let _ = Element::parse(text.as_bytes());
        }

        #[test]
        fn element_when_written_then_read_back_as_the_same_element(name in "[A-Za-z]{1,9}", text in "[!-~é]{0,20}") {
            let element = Element::new("Top", vec![Element::with_text(&name, text)]);
            prop_assert_eq!(Element::parse(element.to_string().as_bytes()), Ok(element));
        }
    }
}
