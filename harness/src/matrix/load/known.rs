//! Reads `[[exclude]]` and `[[expect]]`.

use super::super::Backend;
use super::super::bound::Bound;
use super::super::known::{Exclude, Expectation, Scope, variants};
use super::super::read::{Placed, Section};
use super::super::schema::{Guest, Nic};
use crate::base::words::unknown;
use std::collections::{BTreeMap, BTreeSet};

/// The keys that choose trials.
const SCOPE: [&str; 9] = [
    "qemu", "to", "kernel", "nic", "driver", "guest", "backend", "case", "variant",
];

/// What an entry may name.
pub(super) struct There<'m> {
    pub(super) nics: &'m BTreeMap<String, Option<Nic>>,
    pub(super) guests: &'m BTreeMap<String, Option<Guest>>,
    pub(super) cases: &'m [&'m str],
}

impl There<'_> {
    /// The NICs' drivers, on whatever guest, each once.
    fn drivers(&self) -> Vec<&str> {
        let of_each = self.nics.values().flatten().map(|nic| &nic.driver);
        let overrides = (self.guests.values().flatten()).flat_map(|guest| guest.nics.values());
        let on_guests = overrides.filter_map(|nic| nic.driver.as_ref());
        let all: BTreeSet<&str> = of_each.chain(on_guests).map(String::as_str).collect();
        all.into_iter().collect()
    }
}

pub(super) fn exclude(section: &Section, there: &There) -> Option<Exclude> {
    section.allow(&[&SCOPE[..], &["reason", "link"]].concat());
    let scope = scope(section, there, "exclude every trial");
    let link = link(section);
    let reason = section.string("reason");
    Some(Exclude {
        scope,
        reason: reason?.into_inner(),
        link,
    })
}

pub(super) fn expectation(section: &Section, there: &There) -> Option<Expectation> {
    let own = ["message", "reason", "link", "until", "sometimes"];
    section.allow(&[&SCOPE[..], &own].concat());
    let scope = scope(section, there, "expect every trial to fail");
    let message = section.string("message");
    if let Some(blank) = message.as_ref().filter(|m| m.get_ref().trim().is_empty()) {
        section.mistake_at(blank, "`message` is blank, and every failure contains that");
    }
    let (reason, link) = (section.string("reason"), link(section));
    let until = section.optional_day("until");
    let sometimes = section.optional_bool("sometimes");
    Some(Expectation {
        scope,
        message: message?.into_inner(),
        reason: reason?.into_inner(),
        link,
        until,
        sometimes: sometimes.unwrap_or(false),
    })
}

/// Which trials an entry speaks of; `all` is what it would do without a key.
fn scope(section: &Section, there: &There, all: &str) -> Scope {
    if !SCOPE.iter().any(|key| section.has(key)) {
        let keys = SCOPE.join(", ");
        section.mistake(format!("it would {all}; give at least one of {keys}"));
    }
    let bound = |key: &str| {
        let text = section.optional_string(key)?;
        let bound = Bound::parse(text.get_ref());
        let noted = bound.map_err(|why| section.mistake_at(&text, format!("`{key}`: {why}")));
        noted.ok()
    };
    let words = |key: &str, allowed: Vec<&str>| -> Vec<String> {
        let words = section.one_or_more(key).unwrap_or_default();
        for word in &words {
            if !allowed.contains(&word.get_ref().as_str()) {
                let what = unknown(key, word.get_ref(), allowed.iter().copied());
                section.mistake_at(word, what);
            }
        }
        words.into_iter().map(Placed::into_inner).collect()
    };
    let backends = words("backend", Backend::ALL.map(Backend::name).to_vec());
    Scope {
        qemu: bound("qemu"),
        to: bound("to"),
        kernel: bound("kernel"),
        nics: words("nic", there.nics.keys().map(String::as_str).collect()),
        drivers: words("driver", there.drivers()),
        guests: words("guest", there.guests.keys().map(String::as_str).collect()),
        backends: (backends.iter())
            .filter_map(|name| Backend::from_name(name))
            .collect(),
        cases: words("case", there.cases.to_vec()),
        variants: words("variant", variants().collect()),
        line: section.line(),
    }
}

fn link(section: &Section) -> Option<String> {
    let link = section.optional_string("link")?;
    if !["https://", "http://"]
        .iter()
        .any(|web| link.get_ref().starts_with(web))
    {
        let what = format!(
            "`link` is `{}`, expected an address that begins with https:// or http://",
            link.get_ref()
        );
        section.mistake_at(&link, what);
    }
    Some(link.into_inner())
}
