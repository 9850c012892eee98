//! Which form of a word goes with a number: CLDR's plural categories for whole numbers.
//!
//! The rules are those of `plurals.xml` (CLDR 46), without fractions, and without the form that French, Spanish, Italian and
//! Portuguese have for whole millions: no line is that long. In the browser `Intl.PluralRules` knows them.

/// A form that words have for some numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Category {
    Zero,
    One,
    Two,
    Few,
    Many,
    Other,
}

use Category::{Few, Many, One, Other, Two, Zero};

impl Category {
    /// As CLDR and locale files write it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Zero => "zero",
            One => "one",
            Two => "two",
            Few => "few",
            Many => "many",
            Other => "other",
        }
    }
}

/// How a language counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plural {
    /// Japanese: all numbers alike.
    Alike,
    /// English: 1, and the rest. So do most languages, and those that are not named here.
    Single,
    /// French: 0 and 1, and the rest.
    UpToOne,
    /// Hebrew: 1, 2, and the rest.
    Dual,
    /// Czech: 1, 2 to 4, and the rest.
    Czech,
    /// Polish: 1, then by the last digits.
    Polish,
    /// Russian: by the last digits alone.
    Russian,
    /// Arabic.
    Arabic,
}

impl Plural {
    /// By the primary subtag.
    pub(super) fn of(language: &str) -> Self {
        match language.split('-').next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "id" | "ja" | "ko" | "ms" | "th" | "vi" | "zh" => Self::Alike,
            "bn" | "fa" | "fr" | "hi" | "pt" => Self::UpToOne,
            "he" => Self::Dual,
            "cs" | "sk" => Self::Czech,
            "pl" => Self::Polish,
            "be" | "ru" | "uk" => Self::Russian,
            "ar" => Self::Arabic,
            _ => Self::Single,
        }
    }

    /// What the language needs for whole numbers.
    pub(super) fn categories(self) -> &'static [Category] {
        match self {
            Self::Alike => &[Other],
            Self::Single | Self::UpToOne => &[One, Other],
            Self::Dual => &[One, Two, Other],
            Self::Czech => &[One, Few, Other],
            Self::Polish | Self::Russian => &[One, Few, Many],
            Self::Arabic => &[Zero, One, Two, Few, Many, Other],
        }
    }

    /// Whether a form stands for one number only, so that it need not name it.
    pub(super) fn is_one_number(self, category: Category) -> bool {
        matches!(category, Zero | One | Two) && self != Self::Russian && (self, category) != (Self::UpToOne, One)
    }

    pub(super) fn category(self, number: u32) -> Category {
        let (last, last_two) = (number % 10, number % 100);
        let few = (2..=4).contains(&last) && !(12..=14).contains(&last_two);
        match self {
            Self::Alike => Other,
            Self::UpToOne if number == 0 => One,
            Self::Russian if last == 1 && last_two != 11 => One,
            Self::Polish | Self::Russian if few => Few,
            Self::Polish if number == 1 => One,
            Self::Polish | Self::Russian => Many,
            Self::Arabic if number == 0 => Zero,
            _ if number == 1 => One,
            Self::Dual | Self::Arabic if number == 2 => Two,
            Self::Czech if (2..=4).contains(&number) => Few,
            Self::Arabic if (3..=10).contains(&last_two) => Few,
            Self::Arabic if (11..=99).contains(&last_two) => Many,
            _ => Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CLDR's own samples of whole numbers, and the numbers at their borders.
    #[test]
    fn numbers_fall_where_cldr_puts_them() {
        for (languages, category, numbers) in [
            ("ja zh ko", Other, &[0, 1, 2, 11, 100, 1_000_000][..]),
            ("en de nl sv es it tr en-GB xx", One, &[1]),
            ("en de nl sv es it tr", Other, &[0, 2, 11, 16, 21, 100, 101, 1_001]),
            ("fr pt pt-BR", One, &[0, 1]),
            ("fr pt", Other, &[2, 17, 100, 1_001]),
            ("he", One, &[1]),
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
        ] {
            for language in languages.split(' ') {
                for &number in numbers {
                    let plural = Plural::of(language);
                    assert_eq!(plural.category(number), category, "{language} {number}");
                    assert!(plural.categories().contains(&category), "{language} {number}");
                }
            }
        }
    }

    #[test]
    fn every_category_that_a_language_needs_comes_up() {
        for language in ["ja", "en", "fr", "he", "cs", "pl", "ru", "ar"] {
            let plural = Plural::of(language);
            for &category in plural.categories() {
                let numbers = (0..1_000).filter(|&number| plural.category(number) == category).count();
                assert!(numbers > 0, "{language}: {category:?}");
                assert!(numbers == 1 || !plural.is_one_number(category), "{language}: {category:?} is not one number");
            }
        }
    }
}
