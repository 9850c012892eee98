//! The content of the site: the data in `content.toml`, and the pages that are made from the data.

use std::fmt::Write as _;
use std::sync::LazyLock;

use serde::Deserialize;

use super::media::Palette;

/// The drawings, each with its path and its SVG text.
pub(super) const DRAWINGS: [(&str, &str); 3] = [
    ("/images/logo.svg", include_str!("assets/logo.svg")),
    ("/images/compass.svg", include_str!("assets/compass.svg")),
    ("/images/waves.svg", include_str!("assets/waves.svg")),
];
pub(super) const STYLE: &str = include_str!("assets/site.css");
/// The script that gets the shop's prices from the API and shows them.
pub(super) const SCRIPT: &str = include_str!("assets/site.js");

pub(super) static CONTENT: LazyLock<Content> =
    LazyLock::new(|| toml::from_str(include_str!("content.toml")).expect("content.toml is valid"));

#[derive(Debug, Deserialize)]
pub(super) struct Content {
    /// The articles, the newest first.
    #[serde(rename = "article")]
    pub(super) articles: Vec<Article>,
    #[serde(rename = "product")]
    pub(super) products: Vec<Product>,
    #[serde(rename = "picture")]
    pub(super) pictures: Vec<Picture>,
}

/// An article. Its page is `/articles/<slug>`.
#[derive(Debug, Deserialize)]
pub(super) struct Article {
    pub(super) slug: String,
    title: String,
    /// The summary that the front page shows.
    summary: String,
    /// The path of the picture.
    picture: String,
    /// The time of publication, as Unix time in seconds. The article's page has this time as Last-Modified.
    pub(super) published: u64,
    paragraphs: [String; 3],
}

/// A product of the shop. Its record is at `/api/products/<number>`. The first product has number 1.
#[derive(Debug, Deserialize)]
pub(super) struct Product {
    pub(super) name: String,
    /// The price in euro cents.
    pub(super) cents: u32,
    /// The path of the picture.
    pub(super) picture: String,
    pub(super) text: String,
}

/// A picture that `media` makes.
#[derive(Debug, Deserialize)]
pub(super) struct Picture {
    /// The path. Its extension decides the format.
    pub(super) path: String,
    #[serde(flatten)]
    pub(super) palette: Palette,
}

/// Returns a page with `inner` as its main content. Both arguments are HTML.
pub(super) fn page(title: &str, inner: &str) -> String {
    include_str!("assets/page.html").replace("{title}", title).replace("{inner}", inner)
}

/// Returns the page `/`.
pub(super) fn front() -> String {
    let mut inner = String::from(
        "<h1>Letters from a small coast</h1>\n<img src=\"/images/waves.svg\" alt=\"\">\n<ul class=\"cards\">\n",
    );
    for article in &CONTENT.articles {
        let Article { slug, title, summary, picture, .. } = article;
        let _ = writeln!(
            inner,
            "<li><a href=\"/articles/{slug}\"><img src=\"{picture}\" alt=\"\" loading=\"lazy\"></a>\
             <h2><a href=\"/articles/{slug}\">{title}</a></h2><p>{summary}</p></li>"
        );
    }
    inner.push_str("</ul>\n");
    page("Magazine", &inner)
}

/// Returns the page `/articles/<slug>` for the article at `index`, with links to the articles before and after it.
pub(super) fn article(index: usize, article: &Article) -> String {
    let Article { title, summary, picture, paragraphs, .. } = article;
    let mut inner = format!(
        "<article>\n<h1>{title}</h1>\n<p><em>{summary}</em></p>\n<img class=\"lead\" src=\"{picture}\" alt=\"\">\n"
    );
    for paragraph in paragraphs {
        let _ = writeln!(inner, "<p>{paragraph}</p>");
    }
    inner.push_str("</article>\n<p>");
    if let Some(newer) = index.checked_sub(1).and_then(|index| CONTENT.articles.get(index)) {
        let _ = write!(inner, "Newer: <a href=\"/articles/{}\">{}</a>. ", newer.slug, newer.title);
    }
    if let Some(older) = CONTENT.articles.get(index + 1) {
        let _ = write!(inner, "Older: <a href=\"/articles/{}\">{}</a>.", older.slug, older.title);
    }
    inner.push_str("</p>\n");
    page(title, &inner)
}

/// Returns the page `/shop`.
pub(super) fn shop() -> String {
    let mut inner = String::from("<h1>The shop on the quay</h1>\n<ul class=\"cards\">\n");
    for (number, Product { name, picture, text, .. }) in (1..).zip(&CONTENT.products) {
        let _ = writeln!(
            inner,
            "<li><img src=\"{picture}\" alt=\"\" loading=\"lazy\"><h2>{name}</h2><p>{text}</p>\
             <p class=\"price\" data-product=\"{number}\"><a href=\"/api/products/{number}\">price</a></p></li>"
        );
    }
    inner.push_str("</ul>\n");
    page("Shop", &inner)
}

/// Returns the page `/about`, which lists routes to try.
pub(super) fn about() -> String {
    page("About", include_str!("assets/about.html"))
}
