//! The plural form of a text for a number. A text has one form for each plural category that whole numbers below a
//! million have in the language. CLDR, the Unicode locale data, defines the categories. The crate `icu_plurals`
//! contains that data.
//!
//! French, Spanish, Italian, Portuguese and some other languages have a category only for whole millions. Locale files
//! have no form for this category. The page shows the form `other` instead. The script in the page also uses `other`
//! if `Intl.PluralRules` returns a category without a form.

pub(super) use icu_plurals::PluralCategory as Category;
use icu_plurals::PluralRules;
use icu_provider::prelude::icu_locale_core::LanguageIdentifier;

/// The numbers in which [`Plural::of`] looks for the categories of a language. Every category that a whole number below
/// a million can have also occurs among these numbers.
const SAMPLE: std::ops::RangeInclusive<u32> = 0..=200;

/// Returns the name of a category in CLDR and in locale files.
pub(super) fn name(category: Category) -> &'static str {
    match category {
        Category::Zero => "zero",
        Category::One => "one",
        Category::Two => "two",
        Category::Few => "few",
        Category::Many => "many",
        Category::Other => "other",
    }
}

/// The plural rules of a language.
#[derive(Debug)]
pub(super) struct Plural {
    rules: Option<PluralRules>,
    /// The categories in CLDR's order, each with the count of the numbers in [`SAMPLE`] that belong to the category.
    categories: Vec<(Category, usize)>,
}

impl Plural {
    /// Returns the rules for a BCP 47 tag. If the tag is malformed, only its first subtag is used. If `icu_plurals` has
    /// no data for the language, the only category is `other`.
    pub(super) fn of(language: &str) -> Self {
        let primary = || language.split(|character: char| !character.is_ascii_alphanumeric()).next();
        let mut language = LanguageIdentifier::try_from_locale_bytes(language.as_bytes())
            .or_else(|_| LanguageIdentifier::try_from_str(primary().unwrap_or_default()))
            .unwrap_or(LanguageIdentifier::UNKNOWN);
        // The script subtag is removed, because plural rules do not depend on the script. For a script that is not the
        // default of the language, such as in `sr-Latn`, `icu_plurals` would find no data.
        language.script = None;
        // The data has no entries for these old language tags, so each one is replaced by the current tag.
        let old_tags = [("iw", "he"), ("ji", "yi"), ("mo", "ro"), ("sh", "sr"), ("tl", "fil")];
        let renamed = old_tags.iter().find(|(old, _)| language.language.as_str() == *old);
        if let Some(tag) = renamed.and_then(|(_, tag)| tag.parse().ok()) {
            language.language = tag;
        }
        let rules = PluralRules::try_new_cardinal(language.into()).ok();
        let count = |category| SAMPLE.filter(|&number| category_of(rules.as_ref(), number) == category).count();
        let all = rules.iter().flat_map(PluralRules::categories);
        let mut categories: Vec<_> =
            all.map(|category| (category, count(category))).filter(|(_, count)| *count > 0).collect();
        if categories.is_empty() {
            categories.push((Category::Other, SAMPLE.count()));
        }
        Self { rules, categories }
    }

    /// Returns the categories that the language has for whole numbers below a million.
    pub(super) fn categories(&self) -> impl Iterator<Item = Category> {
        self.categories.iter().map(|(category, _)| *category)
    }

    /// Returns whether only one number of [`SAMPLE`] belongs to a category. The form for such a category is allowed to
    /// omit the number.
    pub(super) fn is_one_number(&self, category: Category) -> bool {
        self.categories.contains(&(category, 1))
    }

    /// Returns the category of a number. The result is always one of [`categories`](Self::categories).
    pub(super) fn category(&self, number: u32) -> Category {
        let category = category_of(self.rules.as_ref(), number);
        if self.categories().any(|needed| needed == category) { category } else { Category::Other }
    }
}

fn category_of(rules: Option<&PluralRules>, number: u32) -> Category {
    rules.map_or(Category::Other, |rules| rules.category_for(number))
}

#[cfg(test)]
mod tests {
    use super::Category::{Few, Many, One, Other, Two, Zero};
    use super::*;

    /// Checks CLDR's sample numbers, and the numbers at the borders between categories. For whole millions, some
    /// languages have the category `many` in CLDR.
    #[test]
    fn category_when_number_is_whole_then_equals_category_in_cldr_or_other_for_millions() {
        for (languages, category, numbers) in [
            ("ja zh zh-Hant ko xx", Other, &[0, 1, 2, 11, 100, 1_000_000][..]),
            ("en de nl sv es it tr en-GB en_GB pt-PT", One, &[1]),
            ("en de nl sv es it tr pt-PT", Other, &[0, 2, 11, 16, 21, 100, 101, 1_001, 1_000_000]),
            ("fr pt pt-BR", One, &[0, 1]),
            ("fr pt", Other, &[2, 17, 100, 1_001, 1_000_000]),
            ("he iw", One, &[1]),
            ("he", Two, &[2]),
            ("he", Other, &[0, 3, 10, 12, 17, 20, 101, 102]),
            ("cs sk", Few, &[2, 3, 4]),
            ("cs sk", Other, &[0, 5, 12, 22, 104]),
            ("pl", One, &[1]),
            ("pl", Few, &[2, 4, 22, 24, 32, 102, 1_002]),
            ("pl", Many, &[0, 5, 11, 12, 14, 19, 21, 31, 100, 101, 112, 1_000]),
            ("ru uk be", One, &[1, 21, 31, 81, 101, 1_001]),
            ("ru uk be", Few, &[2, 4, 22, 24, 32, 102, 1_002]),
            ("ru uk be", Many, &[0, 5, 11, 12, 14, 19, 111, 112, 100, 1_000]),
            ("ar", Zero, &[0]),
            ("ar", One, &[1]),
            ("ar", Two, &[2]),
            ("ar ar-EG", Few, &[3, 10, 103, 110, 1_003]),
            ("ar", Many, &[11, 26, 99, 111, 1_011]),
            ("ar", Other, &[100, 102, 200, 202, 1_000, 1_001, 1_002]),
            ("lt", One, &[1, 21, 31, 101, 1_001]),
            ("lt", Few, &[2, 9, 22, 29, 102, 1_002]),
            ("lt", Other, &[0, 10, 11, 19, 20, 30, 111, 119, 1_000]),
            ("ro", One, &[1]),
            ("sr sr-Latn sr-Latn-RS sr-Cyrl sh", Few, &[2, 4, 22, 102]),
            ("ro mo", Few, &[0, 2, 16, 19, 101, 119, 1_001]),
            ("ro", Other, &[20, 35, 100, 120, 1_000]),
            ("sl", One, &[1, 101, 201, 1_001]),
            ("sl", Two, &[2, 102, 202, 1_002]),
            ("sl", Few, &[3, 4, 103, 104, 1_003]),
            ("sl", Other, &[0, 5, 11, 12, 14, 100, 105, 1_000]),
        ] {
            for language in languages.split(' ') {
                let plural = Plural::of(language);
                for &number in numbers {
                    assert_eq!(plural.category(number), category, "{language} {number}");
                    assert!(plural.categories().any(|needed| needed == category), "{language} {number}");
                }
            }
        }
    }

    #[test]
    fn plural_rules_when_created_then_list_categories_and_single_number_categories() {
        for (language, needed, one_number) in [
            ("ja", "other", ""),
            ("en", "one other", "one"),
            ("fr", "one other", ""),
            ("es", "one other", "one"),
            ("pt-PT", "one other", "one"),
            ("he", "one two other", "one two"),
            ("cs", "one few other", "one"),
            ("pl", "one few many", "one"),
            ("ru", "one few many", ""),
            ("ar", "zero one two few many other", "zero one two"),
            ("lt", "one few other", ""),
            ("ro", "one few other", "one"),
            ("sl", "one two few other", ""),
            ("br", "one two few other", ""),
            ("cy", "zero one two few many other", "zero one two few many"),
            ("xx", "other", ""),
            ("not a tag", "other", ""),
        ] {
            let plural = Plural::of(language);
            let names = |all: &mut dyn Iterator<Item = Category>| all.map(name).collect::<Vec<_>>().join(" ");
            assert_eq!(names(&mut plural.categories()), needed, "{language}");
            let alone = names(&mut plural.categories().filter(|category| plural.is_one_number(*category)));
            assert_eq!(alone, one_number, "{language}");
        }
    }

    #[test]
    fn category_when_number_is_below_a_million_then_occurs_in_sample() {
        for language in "af am ar be bg br bs ca cs cy da dsb es fil fr ga gd gv he hr is it iu kw lag lt lv mk mt naq \
                         pl pt ro ru shi si sk sl sr tzm uk"
            .split_ascii_whitespace()
        {
            let plural = Plural::of(language);
            let needed: Vec<_> = plural.categories().collect();
            for number in (0..20_000).chain((20_000..1_000_000).step_by(97)).chain([100_000, 900_000]) {
                let category = category_of(plural.rules.as_ref(), number);
                assert!(needed.contains(&category), "{language} {number}: {category:?}");
            }
        }
    }
}
