//! `[profiles.*]`.

use super::{axis, named, qemu_axis};
use crate::base::words::unknown;
use crate::matrix::disruption::Disruption;
use crate::matrix::read::{Placed, Section};
use crate::matrix::schema::{BootMode, Guest, Nic, Profile, QemuSource};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

const STARTS: &[(&str, BootMode)] = &[
    ("checkpoint", BootMode::Checkpoint),
    ("boot", BootMode::Boot),
];
/// No figure of a profile may be 0: a check that does nothing shows nothing.
const COUNT: RangeInclusive<u32> = 1..=1_000_000;
/// A guest of 256 MiB holds the file in its memory, beside its system.
const TRANSFER_MIB: RangeInclusive<u32> = 1..=32;

/// What a profile may name.
pub(super) struct Tables<'a> {
    pub(super) cases: &'a [&'a str],
    pub(super) qemus: &'a BTreeMap<String, Option<QemuSource>>,
    pub(super) nics: &'a BTreeMap<String, Option<Nic>>,
    pub(super) guests: &'a BTreeMap<String, Option<Guest>>,
}

/// All profiles; those that are like another come after it.
pub(super) fn profiles(root: &Section, tables: &Tables) -> BTreeMap<String, Option<Profile>> {
    let mut all = named(root, "profiles", |_, section| match section.has("like") {
        true => None,
        false => profile(section, tables, None),
    });
    for (name, section) in root.tables("profiles") {
        let Some(like) = section.optional_string("like") else {
            continue;
        };
        let others = root.tables("profiles");
        let mut plain = others.iter().filter(|(_, other)| !other.has("like"));
        if plain.all(|(other, _)| other.get_ref() != like.get_ref()) {
            let there = others.iter().filter(|(_, other)| !other.has("like"));
            let there = there.map(|(other, _)| other.get_ref().as_str());
            let what = unknown("profile", like.get_ref(), there);
            section.mistake_at(&like, format!("`like`: {what}; it must stand by itself"));
        }
        // Where that one has a mistake, this one would only repeat it.
        if let Some(Some(parent)) = all.get(like.get_ref()).cloned() {
            let read = profile(&section, tables, Some(&parent));
            all.insert(name.into_inner(), read);
        }
    }
    all
}

/// A profile; what it does not name is its `parent`'s.
fn profile(section: &Section, tables: &Tables, parent: Option<&Profile>) -> Option<Profile> {
    section.allow(&[
        "like",
        "ping_count",
        "flood_count",
        "hotplug_cycles",
        "promisc_seconds",
        "migrations",
        "transfer_mib",
        "netperf_seconds",
        "on_one_guest",
        "on_one_nic",
        "nics_on_one_guest",
        "with_vhost",
        "cases",
        "starts",
        "after",
        "qemus",
        "nics",
        "guests",
    ]);
    let number = |key: &str, range: RangeInclusive<u32>, of: fn(&Profile) -> u32| match parent {
        Some(parent) if !section.has(key) => Some(of(parent)),
        _ => section.integer(key, range),
    };
    let ping_count = number("ping_count", COUNT, |p| p.ping_count);
    let flood_count = number("flood_count", COUNT, |p| p.flood_count);
    let hotplug_cycles = number("hotplug_cycles", COUNT, |p| p.hotplug_cycles);
    let promisc_seconds = number("promisc_seconds", COUNT, |p| p.promisc_seconds);
    let migrations = number("migrations", COUNT, |p| p.migrations);
    let transfer_mib = number("transfer_mib", TRANSFER_MIB, |p| p.transfer_mib);
    let netperf_seconds = match section.has("netperf_seconds") {
        true => section.optional_integer("netperf_seconds", COUNT),
        false => parent.and_then(|p| p.netperf_seconds),
    };
    let cases = |key: &str, of: fn(&Profile) -> Option<Vec<String>>| match section.has(key) {
        true => some_cases(section, key, tables.cases),
        false => parent.and_then(of),
    };
    let boot_modes = match section.has("starts") {
        true => section.choices("starts", STARTS),
        false => Some(parent.map_or(vec![BootMode::Checkpoint], |p| p.boot_modes.clone())),
    };
    let disruptions = match section.has("after") {
        true => section.choices("after", &Disruption::WORDS),
        false => Some(parent.map_or_else(Vec::new, |p| p.disruptions.clone())),
    };
    let qemus = match section.has("qemus") {
        true => (section.strings("qemus")).map(|names| qemu_axis(section, names, tables.qemus)),
        false => parent.and_then(|p| p.qemus.clone()),
    };
    let nics = match section.has("nics") {
        true => axis(section, "nics", "nic", "nics", tables.nics),
        false => parent.and_then(|p| p.nics.clone()),
    };
    let nics_on_one_guest = match section.has("nics_on_one_guest") {
        true => axis(section, "nics_on_one_guest", "nic", "nics", tables.nics),
        false => parent.map(|p| p.nics_on_one_guest.clone()),
    };
    let guests = match section.has("guests") {
        true => axis(section, "guests", "guest", "guests", tables.guests),
        false => parent.and_then(|p| p.guests.clone()),
    };
    Some(Profile {
        boot_modes: boot_modes?,
        disruptions: disruptions?,
        ping_count: ping_count?,
        flood_count: flood_count?,
        hotplug_cycles: hotplug_cycles?,
        promisc_seconds: promisc_seconds?,
        migrations: migrations?,
        transfer_mib: transfer_mib?,
        netperf_seconds,
        on_one_guest: cases("on_one_guest", |p| Some(p.on_one_guest.clone())).unwrap_or_default(),
        on_one_nic: cases("on_one_nic", |p| Some(p.on_one_nic.clone())).unwrap_or_default(),
        nics_on_one_guest: nics_on_one_guest.unwrap_or_default(),
        with_vhost: cases("with_vhost", |p| p.with_vhost.clone()),
        cases: cases("cases", |p| p.cases.clone()),
        qemus,
        nics,
        guests,
    })
}

fn some_cases(section: &Section, key: &str, there: &[&str]) -> Option<Vec<String>> {
    let names = section.strings(key)?;
    for case in &names {
        if !there.contains(&case.get_ref().as_str()) {
            let what = unknown("case", case.get_ref(), there.iter().copied());
            section.mistake_at(case, what);
        }
    }
    Some(names.into_iter().map(Placed::into_inner).collect())
}
