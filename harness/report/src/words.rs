//! A word that is one of a list: the nearest one is named where another was given.

use clap::builder::{EnumValueParser, PossibleValue, TypedValueParser};
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command, ValueEnum};
use std::ffi::OsStr;

/// How alike two words must be for one to be meant by the other; 1 is the same.
const ALIKE: f64 = 0.5;

/// Those of `candidates` that are alike enough to `word` to be worth suggesting, with how alike they
/// are (1 is the same), the likeliest first.
pub fn alike<S: AsRef<str>>(word: &str, candidates: impl IntoIterator<Item = S>) -> Vec<(f64, S)> {
    let mut scored: Vec<(f64, S)> = candidates
        .into_iter()
        .map(|other| {
            let likeness = strsim::normalized_damerau_levenshtein(other.as_ref(), word);
            (likeness, other)
        })
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored
}

/// The word of `allowed` that is most like `word`, if any is alike enough.
pub fn nearest<'a>(word: &str, allowed: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    alike(word, allowed).first().map(|(_, other)| *other)
}

/// "unknown KIND `WORD`", the nearest allowed word if one is near, and all that is allowed.
pub fn unknown<'a>(kind: &str, word: &str, allowed: impl IntoIterator<Item = &'a str>) -> String {
    let allowed: Vec<&str> = allowed.into_iter().collect();
    let nearest = match nearest(word, allowed.iter().copied()) {
        Some(nearest) => format!(", did you mean `{nearest}`?"),
        None => String::new(),
    };
    let allowed = match allowed.as_slice() {
        [] => "none exists".to_owned(),
        words => format!("allowed: {}", words.join(", ")),
    };
    format!("unknown {kind} `{word}`{nearest} ({allowed})")
}

/// Reads a flag's value as clap itself does, but names the nearest word in its error for short words too:
/// clap sees no likeness between `kmv` and `kvm`.
#[derive(Clone)]
pub struct OneOf<T: ValueEnum + Clone + Send + Sync + 'static>(EnumValueParser<T>);

impl<T: ValueEnum + Clone + Send + Sync + 'static> OneOf<T> {
    /// Of `T`'s words.
    #[expect(clippy::new_without_default, reason = "clap's parsers are made so")]
    pub fn new() -> Self {
        OneOf(EnumValueParser::new())
    }
}

impl<T: ValueEnum + Clone + Send + Sync + 'static> TypedValueParser for OneOf<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        let parsed = self.0.parse_ref(command, argument, value);
        parsed.map_err(|mut error| {
            let words: Vec<PossibleValue> = self.possible_values().into_iter().flatten().collect();
            let words = words.iter().map(PossibleValue::get_name);
            if let Some(nearest) = nearest(&value.to_string_lossy(), words) {
                let nearest = ContextValue::String(nearest.to_owned());
                error.insert(ContextKind::SuggestedValue, nearest);
            }
            error
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        self.0.possible_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Clone, ValueEnum)]
    enum Accelerator {
        Kvm,
        Tcg,
    }

    #[derive(Parser)]
    struct Line {
        #[arg(long, value_parser = OneOf::<Accelerator>::new())]
        accel: Accelerator,
    }

    #[test]
    fn the_nearest_word_is_named_if_one_is_near() {
        assert_eq!(
            unknown("profile", "smok", ["full", "smoke"]),
            "unknown profile `smok`, did you mean `smoke`? (allowed: full, smoke)"
        );
        assert_eq!(
            unknown("profile", "x", ["full", "smoke"]),
            "unknown profile `x` (allowed: full, smoke)"
        );
        assert_eq!(
            unknown("profile", "x", []),
            "unknown profile `x` (none exists)"
        );
    }

    #[test]
    fn a_flag_names_it_too() {
        let parse = |word| Line::try_parse_from(["x", "--accel", word]);
        assert!(matches!(parse("kvm").unwrap().accel, Accelerator::Kvm));
        let error = parse("kmv").err().unwrap().to_string();
        assert!(
            error.contains("[possible values: kvm, tcg]") && error.contains("'kvm'"),
            "{error}"
        );
        let error = parse("xen").err().unwrap().to_string();
        assert!(!error.contains("tip:"), "{error}");
    }
}
