//! What a QEMU has, asked of itself over QMP.

use super::{build_id, cache_file};
use crate::base::deadline::Limit;
use crate::base::error::CannotRun;
use crate::base::json;
use crate::matrix::schema::Machine;
use crate::vm::qemu::Qemu;
use crate::vm::wire::{Closed, Wire};
use anyhow::{Context, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// QEMU answers within 0.1 s; from a cold disk under full load it may take some seconds.
const ANSWER: Limit = Limit {
    what: "an answer over QMP",
    seconds: 20.0,
};

/// For a program that has not answered as a QEMU to end by itself, with its last words on stderr.
const LAST_WORDS: Limit = Limit {
    what: "the program's end",
    seconds: 1.0,
};

/// Where builds of QEMU keep their modules. A module that comes or goes changes QEMU's devices, but not
/// its binary.
const MODULES: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/qemu",
    "/usr/lib/qemu",
    "/usr/lib64/qemu",
    "/usr/lib64/qemu-kvm",
];

/// OVMF with its variables in one file, as `-bios` takes it.
const UEFI: [&str; 2] = ["/usr/share/ovmf/OVMF.fd", "/usr/share/OVMF/OVMF.fd"];

/// iPXE as an EFI program that takes its NIC from the firmware: as Debian's package `ipxe` names it, and
/// as Fedora's `ipxe-bootimgs-x86` does.
const IPXE: [&str; 2] = ["snponly.efi", "ipxe-snponly-x86_64.efi"];

/// Where packages install it.
const IPXE_DIRECTORIES: [&str; 2] = ["/usr/lib/ipxe", "/usr/share/ipxe"];

/// The facts of one QEMU that decide whether a trial can run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QemuFacts {
    /// As `query-version` gives it, for example "7.2.22".
    pub version: String,
    /// `-device` models that it has (`-device help`).
    pub devices: Vec<String>,
    /// Machine types that it has.
    pub machines: Vec<String>,
    /// Whether it takes `-spice`.
    pub spice: bool,
    /// Whether it takes `-sandbox`.
    pub sandbox: bool,
    /// Which build it is, see `build_id`.
    pub build: Option<String>,
    /// OVMF: its own, or the one that is installed.
    pub uefi: Option<PathBuf>,
    /// iPXE as an EFI program, where it is installed.
    pub ipxe: Option<PathBuf>,
}

impl QemuFacts {
    /// Whether it has the `-device` model.
    pub fn has_device(&self, device: &str) -> bool {
        self.devices.iter().any(|has| has == device)
    }
}

/// The newest version of `machine` that both QEMUs have, for example `pc-q35-7.2`: on it a guest can move
/// from either to the other. `None` where they have none in common.
pub fn common_machine(machine: Machine, one: &QemuFacts, other: &QemuFacts) -> Option<String> {
    let prefix = match machine {
        Machine::Pc => "pc-i440fx-",
        Machine::Q35 => "pc-q35-",
    };
    let version = |name: &str| -> Option<Vec<u32>> {
        let parts = name.strip_prefix(prefix)?.split('.');
        parts.map(|part| part.parse().ok()).collect()
    };
    let both = one
        .machines
        .iter()
        .filter(|name| other.machines.contains(name));
    let versions = both.filter_map(|name| Some((version(name)?, name)));
    versions.max().map(|(_, name)| name.clone())
}

/// The facts of `qemu`, cached in `cache_dir` until its file, its modules or its firmware directories
/// change.
///
/// # Errors
/// [`CannotRun`], when it does not answer as a QEMU.
pub fn facts(qemu: &Qemu, cache_dir: &Path) -> anyhow::Result<QemuFacts> {
    let asked =
        cached(qemu, cache_dir).map_err(|e| anyhow::Error::new(CannotRun(format!("{e:#}"))))?;
    Ok(QemuFacts {
        version: asked.version,
        devices: asked.devices,
        machines: asked.machines,
        spice: asked.spice,
        sandbox: asked.sandbox,
        build: asked.build,
        uefi: (qemu.uefi.clone())
            .or_else(|| UEFI.map(PathBuf::from).into_iter().find(|f| f.is_file())),
        ipxe: ipxe(&qemu.firmware),
    })
}

/// iPXE as an EFI program: beside a QEMU's own boot ROMs, which packages keep in a directory of iPXE's,
/// or where it is installed.
fn ipxe(firmware: &[PathBuf]) -> Option<PathBuf> {
    let own = firmware
        .iter()
        .flat_map(|directory| [Some(directory.as_path()), directory.parent()])
        .flatten();
    own.chain(IPXE_DIRECTORIES.map(Path::new))
        .flat_map(|directory| IPXE.map(|name| directory.join(name)))
        .find(|file| file.is_file())
}

/// What a QEMU says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    version: String,
    devices: Vec<String>,
    machines: Vec<String>,
    spice: bool,
    sandbox: bool,
    /// Of an earlier version's answers there is none.
    build: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct CacheEntry {
    key: String,
    asked: Asked,
}

fn cached(qemu: &Qemu, cache_dir: &Path) -> anyhow::Result<Asked> {
    // Without a key, nothing shows whether it is still the same QEMU.
    let Some(key) = key(qemu) else {
        return ask(qemu, ANSWER);
    };
    let file = cache_file(cache_dir, "qemu", qemu);
    let entry = std::fs::read(&file)
        .ok()
        .and_then(|text| serde_json::from_slice::<CacheEntry>(&text).ok());
    if let Some(entry) = entry.filter(|entry| entry.key == key && entry.asked.build.is_some()) {
        return Ok(entry.asked);
    }
    let asked = ask(qemu, ANSWER)?;
    let entry = CacheEntry { key, asked };
    // A cache that cannot be written costs only that QEMU is asked again.
    let _ = json::write_whole(&file, &entry);
    Ok(entry.asked)
}

/// A text that changes when QEMU does; nothing for a script, which may start any QEMU.
pub(super) fn key(qemu: &Qemu) -> Option<String> {
    let Qemu {
        program, firmware, ..
    } = qemu;
    let mut start = [0; 2];
    File::open(program).ok()?.read_exact(&mut start).ok()?;
    if &start == b"#!" {
        return None;
    }
    let stamp = |path: &Path| {
        let m = path.metadata().ok()?;
        Some((m.ino(), m.size(), m.mtime(), m.mtime_nsec()))
    };
    let modules: Vec<_> = MODULES.iter().map(|dir| stamp(Path::new(dir))).collect();
    let binary = program.canonicalize().ok()?;
    Some(format!(
        "{binary:?} {:?} {modules:?} {firmware:?}",
        stamp(&binary)?
    ))
}

/// Starts a QEMU without a machine and asks it; each answer must come within `limit`.
fn ask(qemu: &Qemu, limit: Limit) -> anyhow::Result<Asked> {
    let mut command = qemu.command([
        "-machine",
        "none,accel=tcg:kvm",
        "-nodefaults",
        "-display",
        "none",
        "-qmp",
        "stdio",
    ]);
    let qmp = command.stdio()?;
    // A script may start other programs.
    command.own_group();
    let mut process = command.start()?;
    let wire = Wire::new(qmp, io::sink(), true)?;
    let answers = converse(&wire, limit).and_then(|answers| {
        expect_alone(process.pid())?;
        Ok(answers)
    });
    let patience = match &answers {
        Ok(_) => {
            // Whether it quits or is killed in the end is all the same.
            let _ = wire.call(&qapi::qmp::quit {}, limit);
            limit
        }
        Err(_) => LAST_WORDS,
    };
    process.await_end(patience.start());
    process.end();
    let program = qemu.program.display();
    let answers = answers.map_err(|error| {
        let Some(death) = process.death() else {
            return error;
        };
        let what = match error.chain().any(|cause| cause.is::<Closed>()) {
            true => format!("it ended before it answered QMP ({})", death.status),
            false => format!("{error:#}"),
        };
        anyhow!(
            "{program} does not work as a QEMU: {what}; {}",
            death.said()
        )
    })?;
    let mut asked = understand(&answers)
        .with_context(|| format!("cannot make sense of the answers of {program}"))?;
    asked.spice = has_spice(qemu)?;
    asked.build = build_id::of(&qemu.program);
    Ok(asked)
}

/// Whether `qemu` explains `-spice`: where SPICE is a module, no monitor command shows it.
fn has_spice(qemu: &Qemu) -> anyhow::Result<bool> {
    let explained = qemu.command(["-spice", "help"]).output()?;
    Ok(String::from_utf8_lossy(&explained.stdout).contains("disable-ticketing"))
}

/// A QEMU's answers.
struct Answers {
    version: Value,
    machines: Value,
    devices: Value,
    sandbox: bool,
}

fn converse(wire: &Wire, limit: Limit) -> anyhow::Result<Answers> {
    wire.greeting(limit.start())?;
    let ask = |name: &str, arguments| wire.call_raw(name, arguments, limit);
    ask("qmp_capabilities", json!({}))?;
    Ok(Answers {
        version: ask("query-version", json!({}))?,
        machines: ask("query-machines", json!({}))?,
        // It lists just what `-device` takes, with its modules' devices and with aliases;
        // `qom-list-types` has no aliases, and names devices that a user cannot add.
        devices: ask(
            "human-monitor-command",
            json!({ "command-line": "device_add help" }),
        )?,
        // A build or a kernel without seccomp has no such option.
        sandbox: ask("query-command-line-options", json!({ "option": "sandbox" })).is_ok(),
    })
}

/// A script that does not `exec` QEMU leaves it behind when it is killed. This is found out where the
/// kernel lists a process's children.
fn expect_alone(pid: u32) -> anyhow::Result<()> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    ensure!(
        children.map_or(true, |children| children.trim().is_empty()),
        "it starts QEMU as a child, which would outlive it: begin that line of the script with `exec`"
    );
    Ok(())
}

fn understand(answers: &Answers) -> anyhow::Result<Asked> {
    let Answers {
        version,
        machines,
        devices,
        sandbox,
    } = answers;
    let number = |part: &str| {
        version["qemu"][part]
            .as_u64()
            .with_context(|| format!("query-version gave {version}"))
    };
    let machines: Vec<String> = machines
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|machine| [&machine["name"], &machine["alias"]])
        .filter_map(|name| Some(name.as_str()?.to_string()))
        .collect();
    let devices = devices.as_str().map(device_names).unwrap_or_default();
    if machines.is_empty() || devices.is_empty() {
        bail!(
            "it lists {} machine types and {} devices",
            machines.len(),
            devices.len()
        );
    }
    Ok(Asked {
        version: format!(
            "{}.{}.{}",
            number("major")?,
            number("minor")?,
            number("micro")?
        ),
        devices,
        machines,
        spice: false,
        sandbox: *sandbox,
        build: None,
    })
}

/// From lines like `name "virtio-net-pci", bus PCI, alias "virtio-net"`.
fn device_names(help: &str) -> Vec<String> {
    let quoted = |line: &str, key: &str| {
        let (_, rest) = line.split_once(&format!("{key} \""))?;
        Some(rest.split_once('"')?.0.to_string())
    };
    help.lines()
        .filter(|line| line.starts_with("name "))
        .flat_map(|line| [quoted(line, "name"), quoted(line, ", alias")])
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests;
