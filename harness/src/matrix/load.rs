//! From the text of `matrix.toml` to a [`Matrix`].

mod known;

use super::disruption::Disruption;
use super::offload::OFFLOADS;
use super::read::{Placed, Reader, Section};
use super::schema::{
    Axes, BootMode, BootRom, Dialect, Guest, Machine, Matrix, MatrixError, Nic, NicOverride,
    Profile,
};
use crate::base::words::unknown;
use report::flags::HostChoice;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::de::DeTable;

const YES_NO: &[(&str, bool)] = &[("yes", true), ("no", false)];
const BOOT_ROMS: &[(&str, BootRom)] = &[
    ("no", BootRom::No),
    ("bios", BootRom::Bios),
    ("both", BootRom::Both),
];
const SWITCH: &[(&str, bool)] = &[("off", false), ("on", true)];
const STARTS: &[(&str, BootMode)] = &[
    ("checkpoint", BootMode::Checkpoint),
    ("boot", BootMode::Boot),
];
const MACHINES: &[(&str, Machine)] = &[("pc", Machine::Pc), ("q35", Machine::Q35)];

/// From IPv4's least MTU to the longest that an IPv4 packet can use.
const MTU: RangeInclusive<u32> = 68..=65535;
/// MiB: a Linux guest needs tens; 1 TiB is beyond any that this is for.
const MEMORY: RangeInclusive<u32> = 32..=1 << 20;
/// MiB: two guests of 256 MiB at a time, each with a peer, and a page cache beside them.
const LAB_MEMORY_MIB: u32 = 3072;
const LAB_MEMORY: RangeInclusive<u32> = 1024..=1 << 20;
/// No figure of a profile may be 0: a check that does nothing shows nothing.
const COUNT: RangeInclusive<u32> = 1..=1_000_000;
/// A guest of 256 MiB holds the file in its memory, beside its system.
const TRANSFER_MIB: RangeInclusive<u32> = 1..=32;

/// Reads a matrix file; `cases` are the names of the cases there are. Relative paths in it are
/// taken from its directory.
pub fn load(path: &Path, cases: &[&str]) -> Result<Matrix, MatrixError> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        MatrixError(vec![format!(
            "cannot read the matrix file {}: {e}",
            path.display()
        )])
    })?;
    parse(&text, path, cases)
}

/// As [`load`], for a text; `path` is its name in messages.
pub fn parse(text: &str, path: &Path, cases: &[&str]) -> Result<Matrix, MatrixError> {
    let reader = Reader::new(text);
    let matrix = match DeTable::parse(text) {
        Ok(document) => read(&Section::root(&reader, &document), path, cases),
        Err(e) => {
            reader.mistake(e.span().unwrap_or(0..0), e.message().to_string());
            None
        }
    };
    let mistakes = reader.finish(path.display());
    match matrix {
        Some(matrix) if mistakes.is_empty() => Ok(matrix),
        _ => Err(MatrixError(mistakes)),
    }
}

/// The matrix. Where a mistake was noted, it lacks what was wrong, or is None.
fn read(root: &Section, path: &Path, cases: &[&str]) -> Option<Matrix> {
    root.allow(&[
        "host", "lab", "axes", "nics", "guests", "profiles", "exclude", "expect",
    ]);
    let nics = named(root, "nics", nic);
    let guests = named(root, "guests", |name, section| {
        guest(name, section, path, &nics)
    });
    let profiles = named(root, "profiles", |_, section| {
        profile(section, cases, &nics, &guests)
    });

    let host = root.optional_choice("host", HostChoice::WORDS);
    let lab_memory_mib = match root.has("lab") {
        false => None,
        true => {
            let lab = root.table("lab")?;
            lab.allow(&["memory"]);
            lab.integer("memory", LAB_MEMORY)
        }
    };
    let section = root.table("axes")?;
    section.allow(&["nic", "guest", "vhost", "zcopy"]);
    let nic_axis = axis(&section, "nic", "nic", "nics", &nics);
    let guest_axis = axis(&section, "guest", "guest", "guests", &guests);
    let vhost = section.choices("vhost", SWITCH);
    let zcopy = section.choices("zcopy", SWITCH);
    let there = known::There {
        nics: &nics,
        guests: &guests,
        cases,
    };
    let excludes = (root.table_array("exclude").iter())
        .filter_map(|section| known::exclude(section, &there).map(Arc::new))
        .collect();
    let expectations = (root.table_array("expect").iter())
        .filter_map(|section| known::expectation(section, &there).map(Arc::new))
        .collect();
    let matrix = Matrix {
        path: path.to_path_buf(),
        host: host.unwrap_or(HostChoice::Auto),
        lab_memory_mib: lab_memory_mib.unwrap_or(LAB_MEMORY_MIB),
        axes: Axes {
            nic: nic_axis?,
            guest: guest_axis?,
            vhost: vhost?,
            zcopy: zcopy?,
        },
        nics: values(nics),
        guests: values(guests),
        profiles: values(profiles),
        excludes,
        expectations,
    };
    // After another mistake this would only repeat it.
    if root.reader.is_clean() && matrix.points().next().is_none() {
        section.mistake(
            "these axes have no cell: `on` in vhost is for virtio NICs only, and `on` in zcopy for \
             vhost only; tap needs `off` in both",
        );
    }
    Some(matrix)
}

/// The tables of `[key.*]`. One with a mistake is there as None, so that it is not also reported
/// as missing.
fn named<T>(
    root: &Section,
    key: &str,
    mut read: impl FnMut(&str, &Section) -> Option<T>,
) -> BTreeMap<String, Option<T>> {
    let mut all = BTreeMap::new();
    for (name, section) in root.tables(key) {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.get_ref().is_empty() || !name.get_ref().chars().all(plain) {
            section.mistake_at(
                &name,
                "the name becomes part of a trial's name; allowed are letters, digits, `_` and `-`",
            );
        }
        let value = read(name.get_ref(), &section);
        all.insert(name.into_inner(), value);
    }
    all
}

fn values<T>(all: BTreeMap<String, Option<T>>) -> BTreeMap<String, T> {
    all.into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

/// The names in `key`, each of which must have a table; they are of a `kind`.
fn axis<T>(
    section: &Section,
    key: &str,
    kind: &str,
    table: &str,
    all: &BTreeMap<String, Option<T>>,
) -> Option<Vec<String>> {
    let names = section.strings(key)?;
    for name in &names {
        if !all.contains_key(name.get_ref()) {
            let what = unknown(kind, name.get_ref(), all.keys().map(String::as_str));
            let missing = format!("{what}: there is no [{table}.{}] table", name.get_ref());
            section.mistake_at(name, missing);
        }
    }
    // A name without a usable table has been reported; the cells are counted without it.
    Some(
        names
            .into_iter()
            .map(Placed::into_inner)
            .filter(|name| matches!(all.get(name), Some(Some(_))))
            .collect(),
    )
}

/// As [`axis`], of a key that may be absent and is called as the tables are.
fn optional_axis<T>(
    section: &Section,
    key: &str,
    kind: &str,
    all: &BTreeMap<String, Option<T>>,
) -> Option<Vec<String>> {
    section
        .has(key)
        .then(|| axis(section, key, kind, key, all))
        .flatten()
}

fn nic(name: &str, section: &Section) -> Option<Nic> {
    section.allow(&[
        "device",
        "driver",
        "max_mtu",
        "offloads",
        "shows_mac",
        "boot_rom",
    ]);
    let device = section.string("device");
    let driver = section.string("driver");
    let max_mtu = section.integer("max_mtu", MTU);
    if !section.has("offloads") {
        section.mistake("the key `offloads` is missing");
    }
    Some(Nic {
        name: name.into(),
        device: device?.into_inner(),
        driver: driver?.into_inner(),
        max_mtu: max_mtu?,
        offloads: offloads(section)?,
        shows_mac: section.optional_choice("shows_mac", YES_NO).unwrap_or(true),
        boot_rom: section
            .optional_choice("boot_rom", BOOT_ROMS)
            .unwrap_or(BootRom::Both),
    })
}

fn offloads(section: &Section) -> Option<Vec<String>> {
    let words = section.optional_strings("offloads")?;
    let known = OFFLOADS.map(|(short, _)| short);
    for word in &words {
        if !known.contains(&word.get_ref().as_str()) {
            let what = unknown("offload", word.get_ref(), known);
            section.mistake_at(word, what);
        }
    }
    Some(words.into_iter().map(Placed::into_inner).collect())
}

fn guest(
    name: &str,
    section: &Section,
    path: &Path,
    nics: &BTreeMap<String, Option<Nic>>,
) -> Option<Guest> {
    section.allow(&[
        "dialect", "machine", "memory", "suite", "kernel", "initrd", "image", "nics",
    ]);
    let dialect = section.choice("dialect", &Dialect::ALL.map(|d| (d.name(), d)));
    let machine = section.choice("machine", MACHINES);
    let memory_mib = section.integer("memory", MEMORY);
    let suite = section.optional_string("suite");
    if let Some(suite) = &suite {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if !suite.get_ref().chars().all(plain) {
            section.mistake_at(
                suite,
                "`suite` is the name of a suite of Debian, such as bullseye: letters, digits, `-` and `.`",
            );
        }
        if section.has("kernel") || section.has("image") {
            section.mistake_at(suite, "`suite` cannot be combined with `kernel` or `image`");
        }
    }
    let kernel = file(section, "kernel", path);
    let initrd = file(section, "initrd", path);
    let image = file(section, "image", path);
    if section.has("initrd") && !section.has("kernel") {
        section.mistake("`initrd` needs `kernel`");
    }
    let mut overrides = BTreeMap::new();
    for (nic, section) in section.tables("nics") {
        section.allow(&["driver", "max_mtu", "offloads"]);
        if !nics.contains_key(nic.get_ref()) {
            let what = unknown("nic", nic.get_ref(), nics.keys().map(String::as_str));
            section.mistake_at(&nic, what);
        }
        let differs = NicOverride {
            driver: section.optional_string("driver").map(Placed::into_inner),
            max_mtu: section.optional_integer("max_mtu", MTU),
            offloads: offloads(&section),
        };
        overrides.insert(nic.into_inner(), differs);
    }
    Some(Guest {
        name: name.into(),
        dialect: dialect?,
        machine: machine?,
        memory_mib: memory_mib?,
        suite: suite.map(Placed::into_inner),
        kernel,
        initrd,
        image,
        nics: overrides,
    })
}

/// A file that must exist.
fn file(section: &Section, key: &str, matrix: &Path) -> Option<PathBuf> {
    let given = section.optional_string(key)?;
    let directory = matrix.parent().unwrap_or(Path::new(""));
    let path = directory.join(given.get_ref());
    if !path.is_file() {
        let what = format!("`{key}`: there is no file {}", path.display());
        section.mistake_at(&given, what);
    }
    Some(path)
}

fn profile(
    section: &Section,
    cases: &[&str],
    nics: &BTreeMap<String, Option<Nic>>,
    guests: &BTreeMap<String, Option<Guest>>,
) -> Option<Profile> {
    section.allow(&[
        "ping_count",
        "flood_count",
        "hotplug_cycles",
        "promisc_seconds",
        "migrations",
        "transfer_mib",
        "netperf_seconds",
        "on_one_guest",
        "with_vhost",
        "cases",
        "starts",
        "after",
        "nics",
        "guests",
    ]);
    let ping_count = section.integer("ping_count", COUNT);
    let flood_count = section.integer("flood_count", COUNT);
    let hotplug_cycles = section.integer("hotplug_cycles", COUNT);
    let promisc_seconds = section.integer("promisc_seconds", COUNT);
    let migrations = section.integer("migrations", COUNT);
    let transfer_mib = section.integer("transfer_mib", TRANSFER_MIB);
    let netperf_seconds = section.optional_integer("netperf_seconds", COUNT);
    let some_cases = |key: &str| -> Option<Vec<String>> {
        let names = match section.has(key) {
            true => section.strings(key)?,
            false => return None,
        };
        for case in &names {
            if !cases.contains(&case.get_ref().as_str()) {
                let what = unknown("case", case.get_ref(), cases.iter().copied());
                section.mistake_at(case, what);
            }
        }
        Some(names.into_iter().map(Placed::into_inner).collect())
    };
    let starts = match section.has("starts") {
        true => section.choices("starts", STARTS),
        false => Some(vec![BootMode::Checkpoint]),
    };
    let after = match section.has("after") {
        true => section.choices("after", &Disruption::WORDS),
        false => Some(Vec::new()),
    };
    Some(Profile {
        boot_modes: starts?,
        disruptions: after?,
        ping_count: ping_count?,
        flood_count: flood_count?,
        hotplug_cycles: hotplug_cycles?,
        promisc_seconds: promisc_seconds?,
        migrations: migrations?,
        transfer_mib: transfer_mib?,
        netperf_seconds,
        on_one_guest: some_cases("on_one_guest").unwrap_or_default(),
        with_vhost: some_cases("with_vhost"),
        cases: some_cases("cases"),
        nics: optional_axis(section, "nics", "nic", nics),
        guests: optional_axis(section, "guests", "guest", guests),
    })
}

#[cfg(test)]
mod tests;
