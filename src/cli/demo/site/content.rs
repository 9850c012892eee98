//! The content of the demo's site, a small coastal magazine with a shop: data, and the pages made from it.

use std::fmt::Write as _;

use super::media::Palette;

/// An article. Its page is `/articles/<slug>`.
#[derive(Debug)]
pub(super) struct Article {
    pub(super) slug: &'static str,
    pub(super) title: &'static str,
    /// For the front page.
    pub(super) summary: &'static str,
    /// The path of its picture.
    pub(super) picture: &'static str,
    /// Unix time in seconds, also the page's Last-Modified.
    pub(super) published: u64,
    pub(super) paragraphs: [&'static str; 3],
}

/// A product of the shop. Its record is `/api/products/<number>`, counted from 1.
#[derive(Debug)]
pub(super) struct Product {
    pub(super) name: &'static str,
    /// Price in euro cents.
    pub(super) cents: u32,
    /// The path of its picture.
    pub(super) picture: &'static str,
    pub(super) text: &'static str,
}

/// A picture made by `media`.
#[derive(Debug)]
pub(super) struct Picture {
    /// Its extension decides the format.
    pub(super) path: &'static str,
    pub(super) palette: Palette,
}

const fn palette(zenith: [u8; 3], horizon: [u8; 3], light: [u8; 3], deep: [u8; 3]) -> Palette {
    Palette { zenith, horizon, light, deep }
}

pub(super) const PICTURES: [Picture; 10] = [
    Picture {
        path: "/images/harbour.jpg",
        palette: palette([62, 92, 140], [240, 190, 140], [255, 236, 190], [20, 50, 80]),
    },
    Picture { path: "/images/lamp.png", palette: palette([24, 26, 48], [200, 120, 60], [255, 222, 140], [12, 16, 30]) },
    Picture {
        path: "/images/dunes.jpg",
        palette: palette([120, 170, 210], [236, 220, 180], [255, 250, 230], [150, 130, 90]),
    },
    Picture {
        path: "/images/kettle.png",
        palette: palette([90, 60, 50], [220, 170, 130], [250, 230, 210], [60, 34, 26]),
    },
    Picture {
        path: "/images/storm.jpg",
        palette: palette([40, 46, 54], [120, 130, 138], [214, 220, 222], [22, 34, 40]),
    },
    Picture {
        path: "/images/tidepool.png",
        palette: palette([80, 150, 160], [170, 220, 200], [240, 250, 220], [16, 70, 76]),
    },
    Picture {
        path: "/images/market.jpg",
        palette: palette([150, 110, 150], [250, 200, 170], [255, 240, 220], [90, 50, 70]),
    },
    Picture {
        path: "/images/rope.png",
        palette: palette([130, 120, 100], [210, 196, 160], [244, 236, 214], [70, 60, 44]),
    },
    Picture {
        path: "/images/morning.jpg",
        palette: palette([110, 140, 190], [255, 210, 190], [255, 246, 226], [60, 96, 130]),
    },
    Picture {
        path: "/images/ferry.png",
        palette: palette([70, 110, 120], [190, 210, 210], [250, 250, 240], [24, 60, 70]),
    },
];

/// Path and SVG text.
pub(super) const DRAWINGS: [(&str, &str); 3] = [
    (
        "/images/logo.svg",
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64" role="img"><title>A tern over a wave</title><path d="M4 22c12-10 20-6 28 4 8-10 16-14 28-4-12-3-20 2-28 14C24 24 16 19 4 22z" fill="#1d3b4a"/><path d="M4 50q7-8 14 0t14 0 14 0 14 0" fill="none" stroke="#2f7f93" stroke-width="4"/></svg>"##,
    ),
    (
        "/images/compass.svg",
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64" role="img"><title>A compass</title><circle cx="32" cy="32" r="28" fill="none" stroke="#1d3b4a" stroke-width="3"/><path d="M32 8l7 24H25z" fill="#c2512f"/><path d="M32 56l-7-24h14z" fill="#9fb4bb"/></svg>"##,
    ),
    (
        "/images/waves.svg",
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 240 40" role="img"><title>Three lines of waves</title><g fill="none" stroke="#2f7f93" stroke-width="2"><path d="M0 10q15-10 30 0t30 0 30 0 30 0 30 0 30 0 30 0 30 0"/><path d="M0 22q15-10 30 0t30 0 30 0 30 0 30 0 30 0 30 0 30 0" opacity=".7"/><path d="M0 34q15-10 30 0t30 0 30 0 30 0 30 0 30 0 30 0 30 0" opacity=".4"/></g></svg>"##,
    ),
];

/// The newest first.
pub(super) const ARTICLES: [Article; 12] = [
    Article {
        slug: "the-last-ferry",
        title: "The last ferry of the evening",
        summary: "Eleven minutes across the sound, with the same man at the rope for thirty years.",
        picture: "/images/ferry.png",
        published: 1_790_841_600,
        paragraphs: [
            "The last boat leaves at twenty to ten, and nobody on the island needs a clock to know it. Lights go on in the ticket hut, a chain is dropped, and the dog that belongs to no one walks down to see who has come home.",
            "Marten has handled the bow rope since the old hull was replaced. He says the crossing has not changed, only the bags: once they held bread and paraffin, now they hold parcels, and each of them seems to be the wrong size for a bicycle.",
            "There is talk of a bridge every ten years or so. It is drawn, argued over and rolled up again. Until then the evening is divided into the time before the ferry and the time after it, and both are quieter than anywhere on the mainland.",
        ],
    },
    Article {
        slug: "how-to-read-a-tide-table",
        title: "How to read a tide table",
        summary: "Four columns, two traps and one rule of twelfths that keeps your boots dry.",
        picture: "/images/tidepool.png",
        published: 1_789_632_000,
        paragraphs: [
            "A tide table looks like a railway timetable and lies in the same way: it tells you when the thing is meant to happen. Wind from the sea holds the water up, high pressure presses it down, and both can shift an hour that was printed a year ago.",
            "The rule of twelfths is older than the tables. In the first hour after low water a twelfth of the rise comes in, in the second two, then three, three, two and one. The middle two hours bring half of everything, which is when people are caught on the sandbank.",
            "The traps are the time zone and the datum. Tables often keep winter time throughout, and depths are measured from a level that the sea almost never reaches. Write both on the cover in pencil, and you will have read more of the booklet than most.",
        ],
    },
    Article {
        slug: "a-kettle-worth-mending",
        title: "A kettle worth mending",
        summary: "Copper, tin and an hour by the stove: why the third repair is the best one.",
        picture: "/images/kettle.png",
        published: 1_788_422_400,
        paragraphs: [
            "The kettle came with the house and leaked at the spout. A new one would have cost less than the solder, the flux and the afternoon, and so it was plain from the start that this was not a matter of money.",
            "Old copper forgives. Heat it until the flux runs clear, touch the seam with the tin, and the metal is drawn in by itself as ink is drawn into paper. If you have to push, it is too cold; if it drips, it is too hot, and you may start again.",
            "It has been mended twice since. Each seam is neater than the one before, and the kettle has become a record of somebody learning. It also boils water, a little before the new ones, and it sings a fourth lower than they do.",
        ],
    },
    Article {
        slug: "six-knots",
        title: "Six knots and when to leave them alone",
        summary: "The bowline is enough for most of a life. Here are five more for the rest of it.",
        picture: "/images/rope.png",
        published: 1_787_212_800,
        paragraphs: [
            "Anyone who shows you forty knots is selling a book. On our boat six are in use: the bowline for a loop, the clove hitch for a fender, the sheet bend for two ropes, the rolling hitch for a rope under load, the figure of eight as a stopper, and the cleat.",
            "Practise them behind your back and with wet gloves, since that is how they will be asked for. A knot that you must look at is half a knot. Say aloud what your hands do for the first week; after that your hands will be faster than the words.",
            "And learn when to tie none. A line that has to be let go in a hurry belongs round a cleat with two turns and a hand on it. Most of the trouble that we have seen in harbours was a very good knot in the wrong place.",
        ],
    },
    Article {
        slug: "market-day",
        title: "Market day in the rain",
        summary: "Smoked eel, second-hand oilskins and the best coffee under any tarpaulin on the coast.",
        picture: "/images/market.jpg",
        published: 1_786_003_200,
        paragraphs: [
            "Rain sorts a market. Those who stay have something to sell, those who come have something to buy, and the rest look on from the windows of the inn. By nine the square belongs to people who know each other's boots.",
            "Go to the far end first. The eel smoker starts with the largest fish and works down, and by noon he sells skins and opinions. The oilskins hang beside him, patched at the elbows, and smell so strongly of linseed that no moth has ever been seen there.",
            "The coffee stands in the middle, under a tarpaulin with a slope to it, so that every few minutes a gallon of water comes down behind the last in the queue. Regulars step forward without a break in what they are saying.",
        ],
    },
    Article {
        slug: "what-the-storm-left",
        title: "What the storm left behind",
        summary: "A morning's walk along the tide line after the wind had gone round to the north.",
        picture: "/images/storm.jpg",
        published: 1_784_793_600,
        paragraphs: [
            "The beach had moved. Where the steps used to end there was a drop as tall as a child, and the sand that had been there lay a mile farther on, smooth and pale, as if someone had ironed it and put it away on the wrong shelf.",
            "Along the line of weed lay eleven gloves, all of them left hands. There was a hatch cover with a name that none of us could place, a crate of onions still good to eat, and amber in crumbs too small for anything but a pocket.",
            "By evening the council had stretched a tape, two boys had built a fort from the hatch cover, and the sea was as flat as a tray. It always looks a little ashamed, the day after, though that may be our own manners.",
        ],
    },
    Article {
        slug: "keeping-a-lamp",
        title: "Keeping a lamp",
        summary: "Trim the wick, clean the glass, fill it in daylight: notes from a keeper's book.",
        picture: "/images/lamp.png",
        published: 1_783_584_000,
        paragraphs: [
            "The keeper's book has a page for every night and hardly a word on most. Lit at dusk, wind, weather, put out at dawn. Where something did go wrong the hand grows smaller rather than larger, as though the news had to fit into the same line.",
            "Three things are underlined. Trim the wick straight and take off the corners. Clean the glass with paper while it is warm and never when it is hot. Fill in daylight, for he who fills at night will light what he has spilt.",
            "The light has been electric since before any of us was born and now tends itself. Yet the instructions hold for the lamp on our own table, and on the nights when the line is down we find that we know them by heart.",
        ],
    },
    Article {
        slug: "walking-the-dunes",
        title: "Walking the dunes without moving them",
        summary: "Marram grass does the work. All it asks is that you keep to the boards.",
        picture: "/images/dunes.jpg",
        published: 1_782_374_400,
        paragraphs: [
            "A dune is a slow wave with grass for a crest. The grass catches sand, is buried by it, grows through and catches more, and in a hundred years there is a hill where there was a plank. One path worn across it undoes a decade.",
            "The boards are laid at an angle to the wind for that reason, and they wander where a straight line would be shorter. Follow them. The gaps are meant: beetles cross there, and the sand can pass below instead of piling up against a wall.",
            "Go early, when the prints of the night are still sharp. Fox, hare, a gull that landed and thought better of it. By ten the wind has wiped the slate, and what you see in the sand is only what you brought yourself.",
        ],
    },
    Article {
        slug: "bread-for-a-week-at-sea",
        title: "Bread for a week at sea",
        summary: "A loaf that is better on Thursday than on Monday, and how to keep it that way.",
        picture: "/images/morning.jpg",
        published: 1_781_164_800,
        paragraphs: [
            "Fresh bread is a harbour food. What you want on board is a heavy rye with a thick crust, baked two days before you sail and left alone until it has forgotten the oven. Cut on the first evening, it will stick to the knife; on the third it is right.",
            "Take equal weights of coarse rye and water, a fifth of that in sour dough, salt, and a spoonful of treacle if the crew is young. Let it stand overnight, bake it long and low, and turn the oven off with the loaf still inside.",
            "Wrap it in linen, then in waxed cloth, and hang the bundle where air can reach it. Mould starts where bread touches wood. A ship's baker we know swears that a loaf should swing, and we have not found him wrong yet.",
        ],
    },
    Article {
        slug: "the-harbour-in-winter",
        title: "The harbour in winter",
        summary: "Masts down, water still, and a hundred small jobs that were promised for spring.",
        picture: "/images/harbour.jpg",
        published: 1_779_955_200,
        paragraphs: [
            "In January the harbour is a drawing of itself. The masts are down, the pontoons are empty but for the pilot's launch, and the sound that you took for wind all summer turns out to have been halyards.",
            "Work goes on indoors. In the long shed someone is always planing something, and a radio is always between two stations. Boats stand in cradles with their plates off, like patients, and their owners walk round them and say what one says at bedsides.",
            "Then there is a day in March when the crane driver takes the cover from his seat. Nobody announces it. By noon there are cars along the whole of the quay, and every one of the hundred jobs is discovered not to have been done.",
        ],
    },
    Article {
        slug: "a-short-history-of-fog",
        title: "A short history of the fog signal",
        summary: "Bells, guns, gongs and a trumpet that could be heard by everyone but the ships.",
        picture: "/images/storm.jpg",
        published: 1_778_745_600,
        paragraphs: [
            "First there was a bell, rung by the keeper's wife, who is not named in the accounts although the rope is. Then a gun, every quarter of an hour, until it burst. Then a gong bought at an auction, which frightened the cattle and nobody else.",
            "The trumpet came in the year of the railway. It was driven by steam, took forty minutes to wake, and could be heard eleven miles inland. At sea, for reasons to do with layers of cold air, there was a belt of silence that began just where the rocks did.",
            "It was switched off for good some years ago, since every boat now carries a screen that sees through fog. People still say that they miss it. Asked when they last heard it, they think, and name a night when it had long been silent.",
        ],
    },
    Article {
        slug: "learning-to-row-again",
        title: "Learning to row again at fifty",
        summary: "You face where you have been. It turns out to be a good way to get somewhere.",
        picture: "/images/morning.jpg",
        published: 1_777_536_000,
        paragraphs: [
            "The first lesson is to sit still. A narrow boat answers every thought that you have about balance, and it answers late, so that you are always correcting a mistake from two mistakes ago. After an hour my shoulders had learned it and I had not.",
            "Rowing is the only way of travelling in which you see nothing but what you have passed. The wake tells you all there is to know: whether it was straight, whether both sides pulled alike, how long ago you started to hurry.",
            "By autumn I could cross the bay and come back before breakfast. I am not fast. A swan overtook me in September and looked round, I thought, with some concern. But the line behind me was as straight as a ruler all the way to the steps.",
        ],
    },
];

/// Everything in the shop.
pub(super) const PRODUCTS: [Product; 8] = [
    Product { name: "Storm lamp", cents: 4_900, picture: "/images/lamp.png", text: "Burns nine hours on one filling." },
    Product {
        name: "Copper kettle",
        cents: 8_900,
        picture: "/images/kettle.png",
        text: "Tinned inside; can be mended.",
    },
    Product {
        name: "Hemp rope, 10 m",
        cents: 1_850,
        picture: "/images/rope.png",
        text: "Three strands, both ends whipped.",
    },
    Product { name: "Pocket compass", cents: 3_200, picture: "/images/compass.svg", text: "Dry card in a brass case." },
    Product {
        name: "Tide calendar",
        cents: 1_200,
        picture: "/images/tidepool.png",
        text: "A year of water on one sheet.",
    },
    Product {
        name: "Waxed bread cloth",
        cents: 1_600,
        picture: "/images/morning.jpg",
        text: "Keeps a loaf for a week.",
    },
    Product { name: "Ferry print", cents: 2_400, picture: "/images/ferry.png", text: "Two colours, numbered by hand." },
    Product { name: "Dune honey, 250 g", cents: 750, picture: "/images/dunes.jpg", text: "Heather and sea lavender." },
];

/// The one style sheet.
pub(super) const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #1d3b4a; --paper: #fbf8f1; --edge: #2f7f93; }
@media (prefers-color-scheme: dark) { :root { --ink: #dbe7ea; --paper: #10222b; --edge: #7fc4d4; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1.05rem/1.6 Georgia, 'Times New Roman', serif; }
header, main, footer { max-width: 46rem; margin: 0 auto; padding: 1rem; }
header { display: flex; gap: 1rem; align-items: center; border-bottom: 2px solid var(--edge); }
header img { width: 3rem; height: 3rem; }
nav a { margin-right: 1rem; }
a { color: inherit; text-decoration-color: var(--edge); text-underline-offset: .2em; }
a:hover { color: var(--edge); }
img { max-width: 100%; height: auto; }
article img.lead { width: 100%; aspect-ratio: 3 / 2; object-fit: cover; border-radius: .25rem; }
h1 { line-height: 1.2; font-weight: 600; }
ul.cards { list-style: none; padding: 0; display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); }
ul.cards img { width: 100%; aspect-ratio: 4 / 3; object-fit: cover; border-radius: .25rem; }
ul.cards h2 { font-size: 1.1rem; margin: .5rem 0 0; }
ul.cards p { margin: .25rem 0 0; font-size: .95rem; }
.price { font-variant-numeric: tabular-nums; }
footer { font-size: .9rem; border-top: 1px solid var(--edge); }
@media (max-width: 30rem) { header { flex-wrap: wrap; } body { font-size: 1rem; } }
";

/// Fills in the shop's prices from the API.
pub(super) const SCRIPT: &str = "\
'use strict';
// Prices come from the API, so that the page can be cached while they change.
const euro = new Intl.NumberFormat(document.documentElement.lang, { style: 'currency', currency: 'EUR' });
async function prices() {
  const places = document.querySelectorAll('[data-product]');
  if (places.length === 0) return;
  const response = await fetch('/api/products');
  if (!response.ok) return;
  const { products } = await response.json();
  const by_number = new Map(products.map((product) => [String(product.number), product]));
  for (const place of places) {
    const product = by_number.get(place.dataset.product);
    if (product) place.textContent = euro.format(product.cents / 100);
  }
}
prices().catch(() => {});
";

/// A page with `inner` as its main content. Both arguments are HTML.
pub(super) fn page(title: &str, inner: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title} – Tern &amp; Tide</title>\n\
         <link rel=\"icon\" href=\"/images/logo.svg\" type=\"image/svg+xml\">\n<link rel=\"stylesheet\" href=\"/assets/site.css\">\n\
         <script src=\"/assets/site.js\" defer></script>\n</head>\n<body>\n<header>\n\
         <a href=\"/\"><img src=\"/images/logo.svg\" alt=\"Tern &amp; Tide\"></a>\n\
         <nav><a href=\"/\">Magazine</a> <a href=\"/shop\">Shop</a> <a href=\"/about\">About</a></nav>\n</header>\n\
         <main>\n{inner}</main>\n<footer>\n<p>Tern &amp; Tide is fictional: it is the site of edgeshim's demo.</p>\n</footer>\n\
         </body>\n</html>\n"
    )
}

/// `/`.
pub(super) fn front() -> String {
    let mut inner = String::from(
        "<h1>Letters from a small coast</h1>\n<img src=\"/images/waves.svg\" alt=\"\">\n<ul class=\"cards\">\n",
    );
    for article in &ARTICLES {
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

/// `/articles/<slug>` for the article at this index of [`ARTICLES`], with links to its neighbours.
pub(super) fn article(index: usize, article: &Article) -> String {
    let Article { title, summary, picture, paragraphs, .. } = article;
    let mut inner = format!(
        "<article>\n<h1>{title}</h1>\n<p><em>{summary}</em></p>\n<img class=\"lead\" src=\"{picture}\" alt=\"\">\n"
    );
    for paragraph in paragraphs {
        let _ = writeln!(inner, "<p>{paragraph}</p>");
    }
    inner.push_str("</article>\n<p>");
    if let Some(newer) = index.checked_sub(1).and_then(|index| ARTICLES.get(index)) {
        let _ = write!(inner, "Newer: <a href=\"/articles/{}\">{}</a>. ", newer.slug, newer.title);
    }
    if let Some(older) = ARTICLES.get(index + 1) {
        let _ = write!(inner, "Older: <a href=\"/articles/{}\">{}</a>.", older.slug, older.title);
    }
    inner.push_str("</p>\n");
    page(title, &inner)
}

/// `/shop`.
pub(super) fn shop() -> String {
    let mut inner = String::from("<h1>The shop on the quay</h1>\n<ul class=\"cards\">\n");
    for (number, Product { name, picture, text, .. }) in (1..).zip(&PRODUCTS) {
        let _ = writeln!(
            inner,
            "<li><img src=\"{picture}\" alt=\"\" loading=\"lazy\"><h2>{name}</h2><p>{text}</p>\
             <p class=\"price\" data-product=\"{number}\"><a href=\"/api/products/{number}\">price</a></p></li>"
        );
    }
    inner.push_str("</ul>\n");
    page("Shop", &inner)
}

/// `/about`, with a list of routes to try.
pub(super) fn about() -> String {
    let inner = "<h1>About these pages</h1>\n\
        <p>Tern &amp; Tide looks like a magazine but is a test site. Its pages, pictures and prices are the same on every start. It \
        compresses nothing and sets almost no caching headers: both are the job of the shim in front of it.</p>\n\
        <h2>Things to try</h2>\n<ul>\n\
        <li><a href=\"/slow?ms=800\">A slow response</a>, up to ten seconds</li>\n\
        <li><a href=\"/fail?status=503\">A failure</a>, any status from 500 to 599</li>\n\
        <li><a href=\"/stream\">A stream of ten events</a>, one every 200 ms</li>\n\
        <li><a href=\"/login\">A page that sets a cookie</a></li>\n\
        <li><a href=\"/private\">A page that asks for a password</a> and accepts any</li>\n\
        <li><a href=\"/api/echo\">Your request as the origin received it</a>; a POST also shows the size of its body</li>\n\
        <li><a href=\"/api/products\">The shop as JSON</a></li>\n\
        <li><a href=\"/assets/demo.woff2\">A file served as a font</a>, filled with random bytes</li>\n\
        <li><a href=\"/odd/two-lines\">Two Cache-Control lines that disagree</a></li>\n\
        <li><a href=\"/odd/expires\">Pragma and Expires</a>, as in HTTP/1.0</li>\n\
        <li><a href=\"/nowhere\">A page that does not exist</a></li>\n</ul>\n";
    page("About", inner)
}
