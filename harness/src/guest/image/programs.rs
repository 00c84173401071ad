//! The guest's programs, and the shared libraries that they need.

use crate::base::error::{CannotRun, OrCannotRun};
use crate::debian::tool::run;
use anyhow::{Context, Result, bail};
use goblin::elf::Elf;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the cases call, and what /init starts.
pub const PROGRAMS: [&str; 16] = [
    "bash",
    "bridge",
    "busybox",
    "dash",
    "dhclient",
    "ethtool",
    "ifconfig",
    "ip",
    "kexec",
    "kmod",
    "nc.openbsd",
    "ncat",
    "ping",
    "qemu-ga",
    "tc",
    "tcpdump",
];

/// Programs that are in the image only where the distribution has them.
pub const OPTIONAL: [&str; 2] = ["netperf", "netserver"];

/// What a library opens by its path: libcrypto does for ncat, which otherwise complains each time.
const OPENED: &str = "ossl-modules/legacy.so";

/// Busybox's commands that the image cannot do without.
const APPLETS: [&str; 7] = [
    "init", "modprobe", "mount", "sh", "udhcpc", "uevent", "vconfig",
];

/// Where Debian keeps programs and libraries, with and without a merged /usr.
const BIN: [&str; 4] = ["usr/sbin", "usr/bin", "sbin", "bin"];
const LIB: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// Path in the image and source of every program, of all libraries that they need, and of the dynamic
/// loader.
pub fn collect(root: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for program in PROGRAMS {
        let source = find(root, &BIN, program)
            .with_context(|| format!("the packages hold no program `{program}`"))
            .or_cannot_run(|| "build the guest image".into())?;
        add(root, &mut files, format!("bin/{program}"), source)
            .or_cannot_run(|| "build the guest image".into())?;
    }
    for program in OPTIONAL {
        if let Some(source) = optional(root, program) {
            add(root, &mut files, format!("bin/{program}"), source)
                .or_cannot_run(|| "build the guest image".into())?;
        }
    }
    if let Some(source) = find(root, &LIB, OPENED) {
        add(root, &mut files, format!("{}/{OPENED}", LIB[1]), source)
            .or_cannot_run(|| "build the guest image".into())?;
    }
    Ok(files)
}

/// Where an optional program is in the unpacked packages.
pub fn optional(root: &Path, program: &str) -> Option<PathBuf> {
    find(root, &BIN, program)
}

/// Busybox's commands; those for which there is a real program are among them.
pub fn applets(root: &Path) -> Result<Vec<String>> {
    let busybox = find(root, &BIN, "busybox")
        .context("the packages hold no program `busybox`")
        .or_cannot_run(|| "build the guest image".into())?;
    let list = run(Command::new(busybox).arg("--list"))
        .or_cannot_run(|| "ask busybox for its commands".into())?;
    let applets: Vec<String> = String::from_utf8_lossy(&list.stdout)
        .lines()
        .map(str::to_owned)
        .collect();
    match APPLETS.iter().find(|a| !applets.iter().any(|b| b == *a)) {
        None => Ok(applets),
        Some(missing) => bail!(CannotRun(format!(
            "cannot build the guest image: this distribution's busybox-static has no `{missing}`"
        ))),
    }
}

fn find(root: &Path, dirs: &[&str], name: &str) -> Option<PathBuf> {
    dirs.iter()
        .map(|dir| root.join(dir).join(name))
        .find(|path| path.is_file())
}

/// Adds a file and, where it is an ELF file, what it names in DT_NEEDED and PT_INTERP.
fn add(
    root: &Path,
    files: &mut BTreeMap<String, PathBuf>,
    path: String,
    source: PathBuf,
) -> Result<()> {
    let bytes = fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
    if files.insert(path.clone(), source).is_some() || !bytes.starts_with(b"\x7fELF") {
        return Ok(());
    }
    let elf = Elf::parse(&bytes).with_context(|| format!("{path} is a damaged ELF file"))?;
    // The loader is opened by its full path, libraries by name in the loader's own directories.
    if let Some(loader) = elf.interpreter {
        let loader = loader.trim_start_matches('/');
        let name = loader.rsplit('/').next().unwrap_or(loader);
        if !files.contains_key(loader) {
            let source = find(root, &LIB, name).with_context(|| {
                format!("{path} needs {name}, which is in none of the packages")
            })?;
            files.insert(loader.into(), source);
        }
    }
    for library in elf.libraries {
        // Loaded already.
        if library.starts_with("ld-linux") {
            continue;
        }
        let to = format!("{}/{library}", LIB[1]);
        if !files.contains_key(&to) {
            let Some(source) = find(root, &LIB, library) else {
                bail!("{path} needs {library}, which is in none of the packages");
            };
            add(root, files, to, source)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use goblin::elf::dynamic::{DT_NEEDED, DT_STRSZ, DT_STRTAB};
    use goblin::elf::program_header::{PT_DYNAMIC, PT_INTERP, PT_LOAD};

    /// A 64-bit ELF file that is nothing but program headers, its needs and perhaps its loader.
    fn elf(needs: &[&str], loader: Option<&str>) -> Vec<u8> {
        let mut strings = vec![0u8];
        let mut string = |text: &str| {
            let at = strings.len() as u64;
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        let mut dynamic: Vec<[u64; 2]> = needs.iter().map(|n| [DT_NEEDED, string(n)]).collect();
        let loader_at = loader.map(|l| (string(l), l.len() as u64 + 1));
        let (headers, dynamic_at) = (64u64, 64 + 3 * 56);
        let strings_at = dynamic_at + 16 * (dynamic.len() as u64 + 3);
        dynamic.push([DT_STRTAB, strings_at]);
        dynamic.push([DT_STRSZ, strings.len() as u64]);
        dynamic.push([0, 0]);
        let size = strings_at + strings.len() as u64;

        let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        out.extend_from_slice(&[3, 0, 62, 0, 1, 0, 0, 0]); // ET_DYN, x86-64
        for field in [0, headers, 0] {
            out.extend_from_slice(&u64::to_le_bytes(field)); // entry, program headers, sections
        }
        out.extend_from_slice(&[0, 0, 0, 0, 64, 0, 56, 0, 3, 0, 64, 0, 0, 0, 0, 0]);
        let mut segment = |kind: u32, at: u64, length: u64| {
            out.extend_from_slice(&kind.to_le_bytes());
            out.extend_from_slice(&4u32.to_le_bytes());
            for field in [at, at, at, length, length, 1] {
                out.extend_from_slice(&u64::to_le_bytes(field));
            }
        };
        segment(PT_LOAD, 0, size);
        segment(PT_DYNAMIC, dynamic_at, 16 * dynamic.len() as u64);
        match loader_at {
            Some((at, length)) => segment(PT_INTERP, strings_at + at, length),
            None => segment(0, 0, 0),
        }
        for field in dynamic.iter().flatten() {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&strings);
        out
    }

    #[test]
    fn libraries_come_with_what_they_need() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let lib = root.join(LIB[0]);
        fs::create_dir_all(&lib).unwrap();
        fs::create_dir_all(root.join("bin")).unwrap();
        let loader = "/lib64/ld-linux-x86-64.so.2";
        fs::write(
            root.join("bin/tool"),
            elf(&["liba.so.1", "libc.so.6"], Some(loader)),
        )
        .unwrap();
        fs::write(
            lib.join("liba.so.1"),
            elf(&["libb.so.1", "libc.so.6"], None),
        )
        .unwrap();
        fs::write(lib.join("libb.so.1"), elf(&["liba.so.1"], None)).unwrap();
        fs::write(lib.join("libc.so.6"), elf(&["ld-linux-x86-64.so.2"], None)).unwrap();
        fs::write(lib.join("libunused.so.1"), elf(&[], None)).unwrap();
        fs::write(lib.join("ld-linux-x86-64.so.2"), elf(&[], None)).unwrap();

        let mut files = BTreeMap::new();
        add(root, &mut files, "bin/tool".into(), root.join("bin/tool")).unwrap();
        assert_eq!(
            files.keys().map(String::as_str).collect::<Vec<_>>(),
            [
                "bin/tool",
                "lib/x86_64-linux-gnu/liba.so.1",
                "lib/x86_64-linux-gnu/libb.so.1",
                "lib/x86_64-linux-gnu/libc.so.6",
                "lib64/ld-linux-x86-64.so.2",
            ]
        );

        fs::remove_file(lib.join("libb.so.1")).unwrap();
        let mut files = BTreeMap::new();
        let error = add(root, &mut files, "bin/tool".into(), root.join("bin/tool")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "lib/x86_64-linux-gnu/liba.so.1 needs libb.so.1, which is in none of the packages"
        );
    }

    #[test]
    fn scripts_and_static_programs_need_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("x");
        fs::write(&source, "#!/bin/sh\n").unwrap();
        let mut files = BTreeMap::new();
        add(dir.path(), &mut files, "bin/x".into(), source.clone()).unwrap();
        fs::write(&source, elf(&[], None)).unwrap();
        add(dir.path(), &mut files, "bin/y".into(), source).unwrap();
        assert_eq!(files.len(), 2);
    }
}
