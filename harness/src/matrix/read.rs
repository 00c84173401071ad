//! Reads TOML tables strictly: collects every mistake with its line, what is allowed and what was
//! probably meant.

use super::known::Day;
use crate::base::words::unknown;
use std::cell::RefCell;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};
use toml::value::Datetime;

/// A value with its place in the text.
pub(super) type Placed<T> = Spanned<T>;

/// A text being read, and the mistakes found so far.
pub(super) struct Reader<'t> {
    text: &'t str,
    mistakes: RefCell<Vec<(usize, String)>>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Reader {
            text,
            mistakes: RefCell::default(),
        }
    }

    /// Notes a mistake at `span`.
    pub(super) fn mistake(&self, span: Range<usize>, what: String) {
        let line = self.line(&span);
        self.mistakes.borrow_mut().push((line, what));
    }

    /// The line that `span` begins in, from 1.
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        1 + self.text[..span.start].matches('\n').count()
    }

    /// Whether there is no mistake so far.
    pub(super) fn is_clean(&self) -> bool {
        self.mistakes.borrow().is_empty()
    }

    /// The mistakes in the order of their lines, as `file:line: what`.
    pub(super) fn finish(self, file: impl Display) -> Vec<String> {
        let mut mistakes = self.mistakes.into_inner();
        mistakes.sort_by_key(|(line, _)| *line);
        mistakes
            .into_iter()
            .map(|(line, what)| format!("{file}:{line}: {what}"))
            .collect()
    }
}

/// The words of a switch.
pub(super) const YES_NO: &[(&str, bool)] = &[("yes", true), ("no", false)];

/// One table, named as it is in the text.
pub(super) struct Section<'r, 't> {
    pub(super) reader: &'r Reader<'t>,
    /// For example `[nics.e1000]`.
    pub(super) name: String,
    span: Range<usize>,
    table: &'r DeTable<'t>,
}

impl<'r, 't> Section<'r, 't> {
    /// The whole document.
    pub(super) fn root(reader: &'r Reader<'t>, table: &'r Spanned<DeTable<'t>>) -> Self {
        Section {
            reader,
            name: "the file".into(),
            span: table.span(),
            table: table.get_ref(),
        }
    }

    fn of(&self, name: String, value: &'r Spanned<DeValue<'t>>) -> Option<Self> {
        match value.get_ref() {
            DeValue::Table(table) => Some(Section {
                reader: self.reader,
                name,
                span: value.span(),
                table,
            }),
            other => {
                self.reader
                    .mistake(value.span(), wrong_type(&name, other, "a table"));
                None
            }
        }
    }

    /// Every key must be one of these.
    pub(super) fn allow(&self, keys: &[&str]) {
        for key in self.table.keys() {
            if !keys.contains(&key.get_ref().as_ref()) {
                let what = unknown("key", key.get_ref(), keys.iter().copied());
                self.reader
                    .mistake(key.span(), format!("{}: {what}", self.name));
            }
        }
    }

    /// Notes a mistake of the table as a whole.
    pub(super) fn mistake(&self, what: impl Display) {
        self.reader
            .mistake(self.span.clone(), format!("{}: {what}", self.name));
    }

    /// Notes a mistake of one value in it.
    pub(super) fn mistake_at<T>(&self, value: &Placed<T>, what: impl Display) {
        self.reader
            .mistake(value.span(), format!("{}: {what}", self.name));
    }

    /// The line that it begins on.
    pub(super) fn line(&self) -> usize {
        self.reader.line(&self.span)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The tables in the table `key`, `[key.*]`, each with its name.
    pub(super) fn tables(&self, key: &str) -> Vec<(Placed<String>, Section<'r, 't>)> {
        let prefix = match self
            .name
            .strip_prefix('[')
            .and_then(|n| n.strip_suffix(']'))
        {
            Some(parent) => format!("{parent}.{key}"),
            None => key.to_string(),
        };
        let Some(outer) = self
            .table
            .get(key)
            .and_then(|v| self.of(format!("[{prefix}]"), v))
        else {
            return Vec::new();
        };
        outer
            .table
            .iter()
            .filter_map(|(name, value)| {
                let section = self.of(format!("[{prefix}.{}]", name.get_ref()), value)?;
                let name = Spanned::new(name.span(), name.get_ref().to_string());
                Some((name, section))
            })
            .collect()
    }

    /// The table `key`, which must be there.
    pub(super) fn table(&self, key: &str) -> Option<Section<'r, 't>> {
        match self.table.get(key) {
            Some(value) => self.of(format!("[{key}]"), value),
            None => {
                self.mistake(format!("there is no [{key}] table"));
                None
            }
        }
    }

    /// The tables of the array of tables `key`, `[[key]]`.
    pub(super) fn table_array(&self, key: &str) -> Vec<Section<'r, 't>> {
        self.array(key, "an array of tables, [[...]]")
            .into_iter()
            .flat_map(|array| array.iter())
            .filter_map(|value| self.of(format!("[[{key}]]"), value))
            .collect()
    }

    /// A key that must be there.
    fn required(&self, key: &str) -> Option<&'r Spanned<DeValue<'t>>> {
        let value = self.table.get(key);
        if value.is_none() {
            self.mistake(format!("the key `{key}` is missing"));
        }
        value
    }

    fn array(&self, key: &str, wanted: &str) -> Option<&'r DeArray<'t>> {
        let value = self.table.get(key)?;
        match value.get_ref() {
            DeValue::Array(array) => Some(array),
            other => {
                self.mistake_at(value, wrong_type(&format!("`{key}`"), other, wanted));
                None
            }
        }
    }

    fn text(
        &self,
        key: &str,
        value: &'r Spanned<DeValue<'t>>,
        wanted: &str,
    ) -> Option<Placed<String>> {
        match value.get_ref() {
            DeValue::String(text) if text.is_empty() => {
                self.mistake_at(value, format!("`{key}` is empty, expected {wanted}"));
                None
            }
            DeValue::String(text) => Some(Spanned::new(value.span(), text.to_string())),
            other => {
                self.mistake_at(value, wrong_type(&format!("`{key}`"), other, wanted));
                None
            }
        }
    }

    /// A string that may be absent.
    pub(super) fn optional_string(&self, key: &str) -> Option<Placed<String>> {
        self.text(key, self.table.get(key)?, "a string")
    }

    /// A string that must be there.
    pub(super) fn string(&self, key: &str) -> Option<Placed<String>> {
        self.text(key, self.required(key)?, "a string")
    }

    /// A string that must be there and be one of the given words.
    pub(super) fn choice<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(key, self.required(key)?, &one_of(words))?;
        self.word(key, &text, words)
    }

    /// As [`Section::choice`], where it may be absent.
    pub(super) fn optional_choice<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Option<T> {
        self.has(key).then(|| self.choice(key, words)).flatten()
    }

    fn word<T: Copy>(&self, key: &str, text: &Placed<String>, words: &[(&str, T)]) -> Option<T> {
        let found = words.iter().find(|(word, _)| word == text.get_ref());
        if found.is_none() {
            let allowed = words.iter().map(|(word, _)| *word);
            self.mistake_at(text, unknown(key, text.get_ref(), allowed));
        }
        found.map(|(_, value)| *value)
    }

    /// A whole number within `range` that may be absent.
    pub(super) fn optional_integer(&self, key: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let value = self.table.get(key)?;
        let DeValue::Integer(integer) = value.get_ref() else {
            let wanted = format!("a whole number from {} to {}", range.start(), range.end());
            self.mistake_at(
                value,
                wrong_type(&format!("`{key}`"), value.get_ref(), &wanted),
            );
            return None;
        };
        let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let within = number
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| range.contains(n));
        if within.is_none() {
            self.mistake_at(
                value,
                format!(
                    "`{key}` is {integer}, allowed are {} to {}",
                    range.start(),
                    range.end()
                ),
            );
        }
        within
    }

    /// A whole number within `range` that must be there.
    pub(super) fn integer(&self, key: &str, range: RangeInclusive<u32>) -> Option<u32> {
        self.required(key)?;
        self.optional_integer(key, range)
    }

    fn list(&self, key: &str, item: &str) -> Option<Vec<Placed<String>>> {
        let mut strings: Vec<Placed<String>> = Vec::new();
        let array = self.array(key, &format!("a list, each item {item}"))?;
        for value in array.iter() {
            let Some(text) = self.text(key, value, item) else {
                continue;
            };
            if strings.iter().any(|s| s.get_ref() == text.get_ref()) {
                self.mistake_at(&text, format!("`{key}` has `{}` twice", text.get_ref()));
            } else {
                strings.push(text);
            }
        }
        Some(strings)
    }

    fn filled_list(&self, key: &str, item: &str) -> Option<Vec<Placed<String>>> {
        let value = self.required(key)?;
        if value.get_ref().as_array().is_some_and(|a| a.is_empty()) {
            self.mistake_at(value, format!("`{key}` is empty, so nothing would run"));
            return None;
        }
        self.list(key, item)
    }

    /// A list of distinct strings that may be absent.
    pub(super) fn optional_strings(&self, key: &str) -> Option<Vec<Placed<String>>> {
        self.list(key, "a string")
    }

    /// A list of distinct strings that must be there and hold at least one.
    pub(super) fn strings(&self, key: &str) -> Option<Vec<Placed<String>>> {
        self.filled_list(key, "a string")
    }

    /// A string, or a list of distinct ones that holds at least one; it may be absent.
    pub(super) fn one_or_more(&self, key: &str) -> Option<Vec<Placed<String>>> {
        let value = self.table.get(key)?;
        match value.get_ref() {
            DeValue::Array(array) if array.is_empty() => {
                self.mistake_at(
                    value,
                    format!("`{key}` is empty, so the entry matches nothing"),
                );
                None
            }
            DeValue::Array(_) => self.list(key, "a string"),
            _ => {
                let one = self.text(key, value, "a string or a list of strings")?;
                Some(vec![one])
            }
        }
    }

    /// true or false, which may be absent.
    pub(super) fn optional_bool(&self, key: &str) -> Option<bool> {
        let value = self.table.get(key)?;
        match value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            other => {
                let what = wrong_type(&format!("`{key}`"), other, "true or false");
                self.mistake_at(value, what);
                None
            }
        }
    }

    /// A date that may be absent.
    pub(super) fn optional_day(&self, key: &str) -> Option<Day> {
        let value = self.table.get(key)?;
        let date = match value.get_ref() {
            DeValue::Datetime(Datetime {
                date: Some(date),
                time: None,
                ..
            }) => date,
            other => {
                let wanted = "a date without quotes, such as 2027-03-31";
                self.mistake_at(value, wrong_type(&format!("`{key}`"), other, wanted));
                return None;
            }
        };
        Some(Day {
            year: date.year,
            month: date.month,
            day: date.day,
        })
    }

    /// As [`Section::strings`], each of the given words.
    pub(super) fn choices<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Option<Vec<T>> {
        let strings = self.filled_list(key, &one_of(words))?;
        Some(
            strings
                .iter()
                .filter_map(|text| self.word(key, text, words))
                .collect(),
        )
    }
}

/// For example `"off" or "on"`.
fn one_of<T>(words: &[(&str, T)]) -> String {
    let quoted: Vec<String> = words
        .iter()
        .map(|(word, _)| format!("\"{word}\""))
        .collect();
    quoted.join(" or ")
}

fn wrong_type(what: &str, value: &DeValue, wanted: &str) -> String {
    format!("{what} is of type {}, expected {wanted}", value.type_str())
}
