//! The kernel as QEMU boots it quickest, and the modules that the guest may need.

use crate::base::error::OrCannotRun;
use crate::debian::tool::run;
use anyhow::{Context, Result, bail, ensure};
use goblin::elf::Elf;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Drivers of every PCI and USB NIC that QEMU has, of the channels to the guest, and what the cases
/// load by name. A kernel may have one built in, or lack it.
pub const MODULES: [&str; 34] = [
    "8021q",
    "8139cp",
    "8139too",
    "acpiphp",
    "af_packet",
    "bonding",
    "bridge",
    "cdc_ether",
    "e100",
    "e1000",
    "e1000e",
    "ehci_pci",
    "igb",
    "igbvf",
    "macvlan",
    "ne2k_pci",
    "ohci_pci",
    "pciehp",
    "pcnet32",
    "r8169",
    "rndis_host",
    "sch_netem",
    "shpchp",
    "tulip",
    "uhci_hcd",
    "usbnet",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "virtio_pci",
    "virtio_rng",
    "virtio_scsi",
    "vmxnet3",
    "xhci_pci",
];

/// What the lab's kernel needs: its way to this machine's files, what the trials' networks are made
/// of, vhost, and KVM for the VMs inside it.
pub const LAB_MODULES: [&str; 20] = [
    "8021q",
    "9p",
    "9pnet_virtio",
    "af_packet",
    "bridge",
    "dummy",
    "kvm_amd",
    "kvm_intel",
    "nf_tables",
    "nft_compat",
    "nft_numgen",
    "nft_reject",
    "sch_netem",
    "tun",
    "veth",
    "vhost_net",
    "virtio_console",
    "virtio_pci",
    "virtio_rng",
    "vmgenid",
];

/// `XEN_ELFNOTE_PHYS32_ENTRY`: where a PVH loader enters the kernel.
const PVH_ENTRY_NOTE: u32 = 18;

/// Unpacks the kernel inside `bzimage` to `vmlinux`, or says why QEMU could not boot that.
pub fn unpack(bzimage: &Path, vmlinux: &Path) -> Result<Result<(), String>> {
    let image = fs::read(bzimage).or_cannot_run(|| format!("read {}", bzimage.display()))?;
    let (tool, payload) = match payload(&image) {
        Ok(found) => found,
        Err(why) => return Ok(Err(format!("{why:#}"))),
    };
    let packed = vmlinux.with_extension("packed");
    fs::write(&packed, payload).or_cannot_run(|| format!("write {}", packed.display()))?;
    decompress(tool, &packed, vmlinux)?;
    fs::remove_file(&packed)?;
    let kernel = fs::read(vmlinux).or_cannot_run(|| format!("read {}", vmlinux.display()))?;
    if let Err(why) = has_pvh_entry(&kernel) {
        fs::remove_file(vmlinux)?;
        return Ok(Err(format!("{why:#}")));
    }
    Ok(Ok(()))
}

/// The compressed kernel in a bzImage, found by its setup header (Documentation/arch/x86/boot.rst),
/// and the tool that unpacks it.
fn payload(image: &[u8]) -> Result<(&'static str, &[u8])> {
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?))
    };
    ensure!(
        image.get(0x202..0x206) == Some(b"HdrS"),
        "it has no Linux setup header"
    );
    let version = word(0x206).context("it ends in its setup header")? as u16;
    ensure!(
        version >= 0x208,
        "its boot protocol {version:#x} is older than 2.8 and does not say where the kernel is"
    );
    let offset = word(0x248).context("it ends in its setup header")? as usize;
    let length = word(0x24c).context("it ends in its setup header")? as usize;
    let setup_sectors = match image[0x1f1] {
        0 => 4,
        n => usize::from(n),
    };
    let start = (setup_sectors + 1) * 512 + offset;
    let packed = image
        .get(start..start + length)
        .context("it is shorter than its setup header says")?;
    let tool = match packed {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        // gzip keeps the unpacked size itself; the kernel's build adds it to all others.
        [0x1f, 0x8b, ..] => return Ok(("gzip", packed)),
        [a, b, c, d, ..] => {
            bail!("its payload begins with {a:02x}{b:02x}{c:02x}{d:02x}, no known compression")
        }
        _ => bail!("its payload is empty"),
    };
    Ok((tool, &packed[..packed.len() - 4]))
}

fn decompress(tool: &str, from: &Path, to: &Path) -> Result<()> {
    let input = File::open(from).or_cannot_run(|| format!("open {}", from.display()))?;
    let output = File::create(to).or_cannot_run(|| format!("create {}", to.display()))?;
    let done = crate::base::child::dies_with_parent(
        Command::new(tool)
            .args(["-d", "-c"])
            .stdin(input)
            .stdout(output)
            .stderr(Stdio::piped()),
    )
    .spawn()
    .and_then(std::process::Child::wait_with_output)
    .or_cannot_run(|| {
        format!(
            "start `{tool}` to unpack {} (is it installed?)",
            from.display()
        )
    })?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        Err(anyhow::anyhow!(
            "`{tool}` ended with {}: {said}",
            done.status
        ))
        .or_cannot_run(|| format!("unpack {}", from.display()))?;
    }
    Ok(())
}

fn has_pvh_entry(kernel: &[u8]) -> Result<()> {
    let elf = Elf::parse(kernel).context("its payload is no ELF file")?;
    ensure!(elf.is_64, "its payload is no 64-bit ELF file");
    elf.iter_note_headers(kernel)
        .into_iter()
        .flatten()
        .flatten()
        .find(|note| note.name == "Xen" && note.n_type == PVH_ENTRY_NOTE)
        .context("it has no PVH entry point (CONFIG_PVH)")?;
    Ok(())
}

/// Where the packages unpacked in `root` have the kernel: from Linux 7 on beside its modules.
pub fn packaged(root: &Path, modules: &Path, release: &str) -> PathBuf {
    let beside = modules.join("vmlinuz");
    match beside.is_file() {
        true => beside,
        false => root.join(format!("boot/vmlinuz-{release}")),
    }
}

/// The directory `lib/modules/RELEASE` under `root`, and the release.
pub fn modules_dir(root: &Path) -> Result<(PathBuf, String)> {
    ["usr/lib/modules", "lib/modules"]
        .iter()
        .filter_map(|dir| fs::read_dir(root.join(dir)).ok())
        .flatten()
        .flatten()
        .find(|entry| entry.path().join("kernel").is_dir())
        .and_then(|entry| Some((entry.path(), entry.file_name().into_string().ok()?)))
        .context("the kernel's packages hold no modules")
}

/// Copies the modules `names` and all that they depend on, uncompressed, to
/// `stage`/lib/modules/`release`, and writes the indexes that modprobe reads.
pub fn stage_modules(names: &[&str], modules: &Path, release: &str, stage: &Path) -> Result<()> {
    let everything = stage.join("all");
    let base = everything.join("lib/modules");
    fs::create_dir_all(&base).or_cannot_run(|| format!("create {}", base.display()))?;
    std::os::unix::fs::symlink(modules, base.join(release))?;
    depmod(&everything, release)?;
    let dep = modules.join("modules.dep");
    let dep = fs::read_to_string(&dep).or_cannot_run(|| format!("read {}", dep.display()))?;

    let target = stage.join("lib/modules").join(release);
    for module in closure(&dep, names) {
        let (plain, tool) = uncompressed(&module);
        let to = target.join(plain);
        if let Some(dir) = to.parent() {
            fs::create_dir_all(dir).or_cannot_run(|| format!("create {}", dir.display()))?;
        }
        let from = modules.join(&module);
        match tool {
            None => {
                fs::copy(&from, &to).or_cannot_run(|| format!("copy {}", from.display()))?;
            }
            Some(tool) => decompress(tool, &from, &to)?,
        }
    }
    for list in [
        "modules.builtin",
        "modules.builtin.modinfo",
        "modules.order",
    ] {
        fs::copy(modules.join(list), target.join(list)).or_cannot_run(|| format!("copy {list}"))?;
    }
    depmod(stage, release)?;
    fs::remove_file(target.join("modules.builtin.modinfo"))?;
    Ok(fs::remove_dir_all(everything)?)
}

fn depmod(base: &Path, release: &str) -> Result<()> {
    // An ordinary user's PATH often lacks the directory where kmod's tools are.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    run(Command::new("depmod")
        .env("PATH", path)
        .arg("-b")
        .arg(base)
        .arg(release))
    .or_cannot_run(|| "index the guest's kernel modules".into())?;
    Ok(())
}

/// A module's path without its compression's suffix, and the tool for that.
fn uncompressed(module: &str) -> (&str, Option<&'static str>) {
    for (suffix, tool) in [(".xz", "xz"), (".zst", "zstd"), (".gz", "gzip")] {
        if let Some(plain) = module.strip_suffix(suffix) {
            return (plain, Some(tool));
        }
    }
    (module, None)
}

/// The paths of `names` and of all that they depend on, by modules.dep (which lists every direct and
/// indirect dependency).
fn closure(modules_dep: &str, names: &[&str]) -> BTreeSet<String> {
    let mut by_name = BTreeMap::new();
    for (path, needs) in modules_dep.lines().filter_map(|line| line.split_once(':')) {
        let file = path.rsplit('/').next().unwrap_or(path);
        let name = uncompressed(file)
            .0
            .trim_end_matches(".ko")
            .replace('-', "_");
        by_name.insert(name, (path, needs));
    }
    names
        .iter()
        .filter_map(|name| by_name.get(*name))
        .flat_map(|(path, needs)| std::iter::once(*path).chain(needs.split_whitespace()))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage of two setup sectors whose payload follows 16 bytes into the protected-mode code.
    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * 512 + 16];
        image[0x1f1] = 2;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(b"the end of the protected-mode code");
        image
    }

    #[test]
    fn finds_the_payload_and_its_tool() {
        let zstd = b"\x28\xb5\x2f\xfd....\x01\x02\x03\x04";
        let image = bzimage(zstd);
        assert_eq!(payload(&image).unwrap(), ("zstd", &zstd[..8]));
        let gzip = b"\x1f\x8b......";
        assert_eq!(payload(&bzimage(gzip)).unwrap(), ("gzip", &gzip[..]));
    }

    #[test]
    fn a_file_that_is_no_kernel_says_what_is_wrong() {
        let why = |image: &[u8]| payload(image).unwrap_err().to_string();
        assert_eq!(why(b"#!/bin/sh"), "it has no Linux setup header");
        assert_eq!(
            why(&bzimage(b"BZh9....")),
            "its payload begins with 425a6839, no known compression"
        );
        let mut cut = bzimage(b"\x1f\x8b......");
        cut.truncate(3 * 512 + 20);
        assert_eq!(why(&cut), "it is shorter than its setup header says");
        let mut old = bzimage(b"\x1f\x8b......");
        old[0x206] = 7;
        assert!(why(&old).contains("older than 2.8"), "{}", why(&old));
    }

    #[test]
    fn a_payload_is_unpacked_and_refused_without_a_pvh_entry() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        fs::write(&plain, "not a kernel").unwrap();
        let gzip = run(Command::new("gzip").arg("-c").arg(&plain))
            .unwrap()
            .stdout;
        let (image, vmlinux) = (dir.path().join("bzImage"), dir.path().join("vmlinux"));
        fs::write(&image, bzimage(&gzip)).unwrap();
        let why = unpack(&image, &vmlinux).unwrap().unwrap_err();
        assert!(why.starts_with("its payload is no ELF file"), "{why}");
        assert!(!vmlinux.exists());
        assert!(!vmlinux.with_extension("packed").exists());
    }

    #[test]
    fn modules_come_with_what_they_need() {
        let dep = "\
kernel/drivers/net/virtio_net.ko.zst: kernel/net/core/failover.ko.zst kernel/drivers/virtio/virtio.ko.zst
kernel/net/core/failover.ko.zst:
kernel/drivers/virtio/virtio.ko.zst:
kernel/drivers/net/ethernet/8390/ne2k-pci.ko: kernel/drivers/net/ethernet/8390/8390.ko
kernel/sound/snd.ko:
";
        let found = closure(dep, &["virtio_net", "ne2k_pci", "nosuch"]);
        assert_eq!(
            found.iter().map(String::as_str).collect::<Vec<_>>(),
            [
                "kernel/drivers/net/ethernet/8390/8390.ko",
                "kernel/drivers/net/ethernet/8390/ne2k-pci.ko",
                "kernel/drivers/net/virtio_net.ko.zst",
                "kernel/drivers/virtio/virtio.ko.zst",
                "kernel/net/core/failover.ko.zst",
            ]
        );
        assert_eq!(uncompressed("a/b.ko.zst"), ("a/b.ko", Some("zstd")));
    }
}
