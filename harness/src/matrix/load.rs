//! From the text of `matrix.toml` to a [`Matrix`].

mod known;
mod profile;

use super::offload::OFFLOADS;
use super::properties;
use super::read::{Placed, Reader, Section, YES_NO};
use super::schema::{
    Axes, BootRom, Dialect, Guest, Interrupts, Machine, Matrix, MatrixError, Nic, NicOverride,
    QemuSource,
};
use crate::base::words::unknown;
use profile::Tables;
use report::flags::HostChoice;
use report::name::DEFAULT_QEMU;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::de::DeTable;

const BOOT_ROMS: &[(&str, BootRom)] = &[
    ("no", BootRom::No),
    ("bios", BootRom::Bios),
    ("both", BootRom::Both),
];
const SWITCH: &[(&str, bool)] = &[("off", false), ("on", true)];
const MACHINES: &[(&str, Machine)] = &[("pc", Machine::Pc), ("q35", Machine::Q35)];

/// From IPv4's least MTU to the longest that an IPv4 packet can use.
const MTU: RangeInclusive<u32> = 68..=65535;
/// MiB: a Linux guest needs tens; 1 TiB is beyond any that this is for.
const MEMORY: RangeInclusive<u32> = 32..=1 << 20;
/// MiB: two guests of 256 MiB at a time, each with a peer, and a page cache beside them.
const LAB_MEMORY_MIB: u32 = 3072;
const LAB_MEMORY: RangeInclusive<u32> = 1024..=1 << 20;

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
        "host", "lab", "axes", "qemu", "nics", "guests", "profiles", "exclude", "expect",
    ]);
    let qemus = named(root, "qemu", |name, section| qemu(name, section, path));
    let nics = named(root, "nics", nic);
    let guests = named(root, "guests", |name, section| {
        guest(name, section, path, &nics)
    });
    let tables = Tables {
        cases,
        qemus: &qemus,
        nics: &nics,
        guests: &guests,
    };
    let profiles = profile::profiles(root, &tables);

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
    section.allow(&["qemu", "nic", "guest", "vhost", "zcopy"]);
    let qemu_axis = match section.has("qemu") {
        true => section
            .strings("qemu")
            .map(|names| qemu_axis(&section, names, &qemus)),
        false => Some(vec![DEFAULT_QEMU.to_owned()]),
    };
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
            qemu: qemu_axis?,
            nic: nic_axis?,
            guest: guest_axis?,
            vhost: vhost?,
            zcopy: zcopy?,
        },
        qemus: values(qemus),
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

/// The QEMUs' names in `names`: each has a table, but for the default one.
fn qemu_axis(
    section: &Section,
    names: Vec<Placed<String>>,
    qemus: &BTreeMap<String, Option<QemuSource>>,
) -> Vec<String> {
    let names = names.into_iter().filter(|name| {
        let known = name.get_ref() == DEFAULT_QEMU || qemus.contains_key(name.get_ref());
        if !known {
            let there = std::iter::once(DEFAULT_QEMU).chain(qemus.keys().map(String::as_str));
            let what = unknown("QEMU", name.get_ref(), there);
            let missing = format!("{what}: there is no [qemu.{}] table", name.get_ref());
            section.mistake_at(name, missing);
        }
        known
    });
    names.map(Placed::into_inner).collect()
}

fn qemu(name: &str, section: &Section, path: &Path) -> Option<QemuSource> {
    section.allow(&["binary", "firmware", "suite"]);
    if name == DEFAULT_QEMU {
        section.mistake(
            "that is the name of the QEMU of this machine or of --qemu PATH: give this one another",
        );
    }
    let suite = section.optional_string("suite");
    if let Some(suite) = suite {
        expect_suite(section, &suite, "trixie-backports");
        for key in ["binary", "firmware"] {
            if section.has(key) {
                section.mistake_at(&suite, format!("`suite` cannot be combined with `{key}`"));
            }
        }
        return Some(QemuSource::Suite(suite.into_inner()));
    }
    if !section.has("binary") {
        section.mistake("it needs `binary`, a QEMU's program, or `suite`, a suite of Debian whose QEMU is fetched");
        return None;
    }
    let program = file(section, "binary", path);
    let mut firmware = Vec::new();
    for given in section.optional_strings("firmware").unwrap_or_default() {
        let directory = path.parent().unwrap_or(Path::new("")).join(given.get_ref());
        if !directory.is_dir() {
            let what = format!("`firmware`: there is no directory {}", directory.display());
            section.mistake_at(&given, what);
        }
        firmware.push(directory);
    }
    Some(QemuSource::Binary {
        program: program?,
        firmware,
    })
}

/// Notes a mistake where `suite` cannot be the name of one; `example` is.
fn expect_suite(section: &Section, suite: &Placed<String>, example: &str) {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if !suite.get_ref().chars().all(plain) {
        let what = format!(
            "`suite` is the name of a suite of Debian, such as {example}: letters, digits, `-` and `.`"
        );
        section.mistake_at(suite, what);
    }
}

fn nic(name: &str, section: &Section) -> Option<Nic> {
    section.allow(&[
        "device",
        "driver",
        "max_mtu",
        "offloads",
        "shows_mac",
        "takes_mac",
        "interrupts",
        "boot_rom",
        "properties",
        "machine_properties",
        "iommu",
        "vnet_hdr",
    ]);
    let device = section.string("device");
    let driver = section.string("driver");
    let max_mtu = section.integer("max_mtu", MTU);
    if !section.has("offloads") {
        section.mistake("the key `offloads` is missing");
    }
    let device = device?.into_inner();
    Some(Nic {
        name: name.into(),
        variant: properties::variant(section, &device),
        device,
        driver: driver?.into_inner(),
        max_mtu: max_mtu?,
        offloads: offloads(section)?,
        shows_mac: section.optional_choice("shows_mac", YES_NO).unwrap_or(true),
        takes_mac: section.optional_choice("takes_mac", YES_NO).unwrap_or(true),
        interrupts: section.optional_choice("interrupts", Interrupts::WORDS),
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
        expect_suite(section, suite, "bullseye");
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
        section.allow(&["driver", "max_mtu", "offloads", "interrupts"]);
        if !nics.contains_key(nic.get_ref()) {
            let what = unknown("nic", nic.get_ref(), nics.keys().map(String::as_str));
            section.mistake_at(&nic, what);
        }
        let differs = NicOverride {
            driver: section.optional_string("driver").map(Placed::into_inner),
            max_mtu: section.optional_integer("max_mtu", MTU),
            offloads: offloads(&section),
            interrupts: section.optional_choice("interrupts", Interrupts::WORDS),
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

#[cfg(test)]
mod tests;
