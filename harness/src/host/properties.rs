//! Whether a QEMU takes the properties that the matrix gives NICs and machines. It is asked itself: it is
//! started with such a machine and NIC, but without a guest, and says at once what it refuses.

use super::cache_file;
use super::qemu_facts::{self, QemuFacts};
use crate::base::deadline::Limit;
use crate::base::error::{CannotRun, find};
use crate::base::json;
use crate::base::words::alike;
use crate::matrix::schema::{Machine, Matrix, Nic, Property};
use crate::net::addr::Mac;
use crate::vm::cmdline::{NicSpec, USB_CONTROLLER, iommu_device, is_usb};
use crate::vm::qemu::Qemu;
use crate::vm::standard;
use crate::vm::wire::{Closed, Wire};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// QEMU builds a machine within 0.2 s; from a cold disk under full load it may take some seconds.
const BUILT: Limit = Limit {
    what: "QEMU to build a machine with the NIC's properties",
    seconds: 20.0,
};

/// A NIC that a QEMU refuses on a machine, for its properties or the machine's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal<'m> {
    /// The NIC.
    pub nic: &'m Nic,
    /// The machine.
    pub machine: Machine,
    /// QEMU's words, and what was probably meant.
    pub words: String,
}

impl Refusal<'_> {
    /// The line for a user, with the place in the matrix file `path`.
    pub fn mistake(&self, path: &Path, qemu: &Qemu, facts: &QemuFacts) -> String {
        let (key, property) = self.culprit();
        format!(
            "{}:{}: [nics.{}]: `{key}`: QEMU {} ({}) refuses `{property}` on {}: {}",
            path.display(),
            property.line,
            self.nic.name,
            facts.version,
            qemu.program.display(),
            self.machine.name(),
            self.words
        )
    }

    /// The reason for a skip, where this QEMU is one of several.
    pub fn reason(&self, facts: &QemuFacts) -> String {
        let (_, property) = self.culprit();
        format!(
            "QEMU {} refuses `{property}`: {}",
            facts.version, self.words
        )
    }

    /// The property that QEMU names, with the key of its list; the first, where QEMU names none.
    fn culprit(&self) -> (&'static str, &Property) {
        let variant = &self.nic.variant;
        let own = variant.properties.iter().map(|one| ("properties", one));
        let machines = variant.machine_properties.iter();
        let mut all = own.chain(machines.map(|one| ("machine_properties", one)));
        let named = |(_, property): &(&str, &Property)| names(&self.words, &property.key);
        all.clone()
            .find(named)
            .or_else(|| all.next())
            .expect("a NIC without properties is not asked about")
    }
}

/// Whether `text` has `word` as a whole word.
fn names(text: &str, word: &str) -> bool {
    let within = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        !before.ends_with(within) && !after.starts_with(within)
    })
}

/// What `qemu` refuses of the NICs on the axis that have properties. Answers are cached in `cache_dir`
/// until QEMU changes. Of a device or a machine type that it lacks it is not asked.
///
/// # Errors
/// [`CannotRun`], when it does not answer.
pub fn refusals<'m>(
    qemu: &Qemu,
    facts: &QemuFacts,
    matrix: &'m Matrix,
    cache_dir: &Path,
) -> anyhow::Result<Vec<Refusal<'m>>> {
    let mut questions = matrix.variants();
    questions.retain(|(nic, machine)| {
        facts.has_device(&nic.device) && facts.machines.iter().any(|has| has == machine.name())
    });
    let mut cache = Cache::read(qemu, cache_dir);
    let missing: Vec<_> = (questions.iter())
        .filter(|(nic, machine)| !cache.answers.contains_key(&question(&[nic], *machine)))
        .copied()
        .collect();
    let mut groups: BTreeMap<String, (Machine, Vec<&Nic>)> = BTreeMap::new();
    for (nic, machine) in missing {
        let alike = format!("{:?}", machine_arguments(nic, machine));
        let group = groups.entry(alike).or_insert((machine, Vec::new()));
        group.1.push(nic);
    }
    for (machine, nics) in groups.into_values() {
        // Mostly all is well, and one start tells so.
        let together = of(qemu, &nics, machine)?;
        for nic in &nics {
            let answer = match (&together, nics.len()) {
                (Some(_), 2..) => of(qemu, &[nic], machine)?,
                (answer, _) => answer.clone(),
            };
            cache.answers.insert(question(&[nic], machine), answer);
        }
    }
    cache.write();
    let refused = |(nic, machine): &(&'m Nic, Machine)| {
        let words = cache.answers.get(&question(&[nic], *machine))?.clone()?;
        Some(Refusal {
            nic,
            machine: *machine,
            words,
        })
    };
    Ok(questions.iter().filter_map(refused).collect())
}

/// What QEMU's words are when it is started with `nics`, which have the same machine properties, on
/// `machine`; nothing when it takes them.
///
/// # Errors
/// [`CannotRun`], when it neither answers nor ends.
fn of(qemu: &Qemu, nics: &[&Nic], machine: Machine) -> anyhow::Result<Option<String>> {
    let mut command = qemu.command(arguments(nics, machine));
    let qmp = command.stdio()?;
    command.own_group();
    let mut process = command.start()?;
    let wire = Wire::new(qmp, io::sink(), true)?;
    // The greeting may come before the machine is built, an answer does not.
    let built = wire
        .greeting(BUILT.start())
        .and_then(|_| wire.call_raw("qmp_capabilities", json!({}), BUILT));
    let Err(error) = built else {
        // Nothing of it is wanted any more.
        process.end();
        return Ok(None);
    };
    if find::<Closed>(&error).is_none() || !process.await_end(BUILT.start()) {
        let words = format!("{}: {error:#}", qemu.program.display());
        return Err(CannotRun(words).into());
    }
    process.end();
    let death = process.death();
    let death = death.ok_or_else(|| CannotRun(format!("QEMU's end is unknown: {error:#}")))?;
    let words = match plain(&death.stderr) {
        words if words.is_empty() => death.to_string(),
        words => words,
    };
    let meant = nics
        .iter()
        .find_map(|nic| meant(qemu, nic, machine, &words));
    Ok(Some(match meant {
        Some(meant) => format!("{words} (did you mean `{meant}`?)"),
        None => words,
    }))
}

/// QEMU's arguments for a machine with `nics`, without the program.
fn arguments(nics: &[&Nic], machine: Machine) -> Vec<OsString> {
    let mut words: Vec<String> = nics
        .first()
        .map_or_else(Vec::new, |nic| machine_arguments(nic, machine));
    let plain = ["-nodefaults", "-no-user-config", "-display", "none", "-S"];
    words.extend(plain.map(str::to_owned));
    words.extend(["-qmp", "stdio"].map(str::to_owned));
    if nics.iter().any(|nic| is_usb(&nic.device)) {
        words.extend(["-device".into(), format!("qemu-xhci,id={USB_CONTROLLER}")]);
    }
    for (place, nic) in (0..).zip(nics) {
        let spec = NicSpec {
            place,
            id: format!("nic{place}"),
            device: nic.device.clone(),
            mac: Mac([0x52, 0x54, 0, 0, 0, place]),
            tap: String::new(),
            vhost: false,
            bare_tap: false,
            queues: 1,
            properties: standard::words(&nic.variant.properties),
            hotplug: false,
        };
        let netdev = spec.netdev_id();
        // A hub is in every QEMU, and needs nothing of the host.
        words.extend([
            "-netdev".into(),
            format!("hubport,id={netdev},hubid={place}"),
        ]);
        words.extend(["-device".into(), spec.device(machine)]);
    }
    words.into_iter().map(OsString::from).collect()
}

/// The part of the arguments that NICs of one machine share.
fn machine_arguments(nic: &Nic, machine: Machine) -> Vec<String> {
    let mut text = format!("{},accel=tcg:kvm", machine.name());
    for property in &nic.variant.machine_properties {
        text += &format!(",{property}");
    }
    let mut words = vec!["-machine".into(), text];
    if nic.variant.iommu {
        words.extend(["-device".into(), iommu_device()]);
    }
    words
}

/// A key for the cache.
fn question(nics: &[&Nic], machine: Machine) -> String {
    let words = arguments(nics, machine);
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

/// What QEMU said, on one line, without its name, its warnings and our own words, which it repeats.
fn plain(stderr: &str) -> String {
    let lines = stderr.lines().filter_map(|line| {
        let said = match line.split_once(": ") {
            Some((program, said)) if !program.contains(' ') => said,
            _ => line,
        };
        let said = match said.strip_prefix("-device ") {
            Some(rest) => rest.split_once(": ").map_or(rest, |(_, said)| said),
            None => said,
        };
        (!said.starts_with("warning: ")).then_some(said.trim())
    });
    lines.collect::<Vec<_>>().join("; ")
}

/// What a property was probably meant to be that QEMU, by its `words`, does not know.
fn meant(qemu: &Qemu, nic: &Nic, machine: Machine, words: &str) -> Option<String> {
    let (_, unknown) = words.split_once("Property '")?;
    let (unknown, rest) = unknown.split_once('\'')?;
    let (of, unknown) = unknown.rsplit_once('.')?;
    if !rest.starts_with(" not found") {
        return None;
    }
    let question = match of == nic.device {
        true => ["-device".to_owned(), format!("{},help", nic.device)],
        false => ["-machine".to_owned(), format!("{},help", machine.name())],
    };
    let output = qemu.command(question).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // Lines such as `  packed=<bool>           - on/off (default: false)`.
    let known = text
        .lines()
        .filter_map(|line| line.trim().split_once("=<"))
        .map(|(name, _)| name.to_owned());
    alike(unknown, known)
        .into_iter()
        .next()
        .map(|(_, best)| best)
}

/// Answers of one QEMU: QEMU's words by the question, or none where it takes all.
#[derive(Default, Serialize, Deserialize)]
struct Cache {
    key: String,
    answers: BTreeMap<String, Option<String>>,
    #[serde(skip)]
    file: Option<PathBuf>,
}

impl Cache {
    /// What was answered before by the same QEMU. Without a key, nothing shows whether it is the same.
    fn read(qemu: &Qemu, directory: &Path) -> Cache {
        let Some(key) = qemu_facts::key(qemu) else {
            return Cache::default();
        };
        let file = cache_file(directory, "properties", qemu);
        let read = std::fs::read(&file)
            .ok()
            .and_then(|text| serde_json::from_slice::<Cache>(&text).ok());
        let answers = read
            .filter(|cache| cache.key == key)
            .map_or_else(BTreeMap::new, |cache| cache.answers);
        Cache {
            key,
            answers,
            file: Some(file),
        }
    }

    fn write(&self) {
        if let Some(file) = &self.file {
            // A cache that cannot be written costs only that QEMU is asked again.
            let _ = json::write_whole(file, self);
        }
    }
}

#[cfg(test)]
mod tests;
