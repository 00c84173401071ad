//! What a checkpoint depends on: when any of it changes, so does the key, and another is made.

use crate::vm::accel::Accel;
use crate::vm::cmdline::{Boot, Ram, VmSpec};
use crate::vm::qemu::Qemu;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Raised when the same command line is saved or restored in another way.
const FORMAT: u32 = 1;

/// What every checkpoint of one run has in common: QEMU, its firmware and the processor.
pub struct Origin(String);

impl Origin {
    /// Of a QEMU with its `-L` directories.
    ///
    /// # Errors
    /// [`crate::base::error::CannotRun`] where QEMU cannot be executed.
    pub fn of(qemu: &Qemu, version: &str, accel: Accel) -> anyhow::Result<Origin> {
        let mut text = format!("format {FORMAT}\nqemu {version} {}\n", stamp(&qemu.program));
        let output = qemu.command(["-L", "help"]).output()?;
        for directory in String::from_utf8_lossy(&output.stdout).lines() {
            text += &files(Path::new(directory));
        }
        // KVM shows the guest this processor; TCG's is the same everywhere.
        if accel == Accel::Kvm {
            text += &processor();
        }
        Ok(Origin(text))
    }

    /// The name of the checkpoint of a VM that is saved as `spec` says after `preparation` was done in
    /// it, 32 hexadecimal digits.
    pub fn key(&self, spec: &VmSpec, preparation: &str) -> String {
        let mut text = format!("{}{preparation}\n", self.0);
        if let Boot::Kernel { kernel, initrd, .. } = &spec.boot {
            let _ = writeln!(text, "{} {}", stamp(kernel), stamp(initrd));
        }
        // The backend is the host's side of a NIC, and not saved.
        let mut guests_side = spec.clone();
        guests_side.ram = Ram::Anonymous;
        guests_side.restored = false;
        guests_side.nics.iter_mut().for_each(|nic| {
            nic.vhost = false;
            nic.tap.clear();
        });
        for argument in guests_side.arguments() {
            let _ = writeln!(text, "{}", argument.to_string_lossy());
        }
        let digest = format!("{:x}", Sha256::digest(text));
        digest[..32].to_owned()
    }
}

/// The name, outside of a lab, of a checkpoint that is called `key` inside: what the lab runs on is a part
/// of it. `image` is the digest of the lab's kernel and modules, `arguments` are those of its accelerator.
/// The guest counts the ticks of this machine's processor, also where QEMU emulates another.
pub fn of_lab(qemu: &Qemu, image: &str, arguments: &[&str], key: &str) -> String {
    let text = format!(
        "in a lab, format {FORMAT}\n{}\n{image}\n{}\n{}\n{key}\n",
        stamp(&qemu.program),
        arguments.join(" "),
        processor()
    );
    let digest = format!("{:x}", Sha256::digest(text));
    digest[..32].to_owned()
}

/// A file's name, size and time; enough to notice that it was replaced.
pub fn stamp(path: &Path) -> String {
    match path.metadata() {
        Ok(m) => format!(
            "{} {} {}.{}",
            path.display(),
            m.size(),
            m.mtime(),
            m.mtime_nsec()
        ),
        Err(_) => format!("{} missing", path.display()),
    }
}

/// Every firmware file in `directory`, with its stamp.
fn files(directory: &Path) -> String {
    let mut lines: Vec<String> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_file())
        .map(|entry| stamp(&entry.path()) + "\n")
        .collect();
    lines.sort();
    lines.concat()
}

/// The first processor as the kernel describes it, and the kernel, which decides what KVM offers.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let fixed = [
        "vendor_id",
        "cpu family",
        "model",
        "stepping",
        "microcode",
        "flags",
    ];
    let lines = info
        .lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| fixed.iter().any(|key| line.starts_with(key)));
    let release = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned());
    format!(
        "{}\n{}\n",
        lines.collect::<Vec<_>>().join("\n"),
        release.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::schema::Machine;
    use crate::vm::cmdline::tests::{nic, spec as with_nics};

    fn spec() -> VmSpec {
        with_nics(vec![nic("e1000")])
    }

    #[test]
    fn whatever_the_guest_can_see_changes_the_key_and_the_backend_does_not() {
        let origin = Origin("qemu 7.2".into());
        let key = |change: fn(&mut VmSpec)| {
            let mut spec = spec();
            change(&mut spec);
            origin.key(&spec, "")
        };
        let plain = key(|_| ());
        assert_eq!(plain.len(), 32);
        let same: [fn(&mut VmSpec); 3] = [
            |s| s.nics[0].tap = "tap7".into(),
            |s| s.nics[0].vhost = true,
            |s| s.ram = Ram::Shared("/elsewhere/ram".into()),
        ];
        for change in same {
            assert_eq!(key(change), plain);
        }
        let other: [fn(&mut VmSpec); 13] = [
            |s| s.machine = Machine::Pc,
            |s| s.machine_version = Some("pc-q35-7.2".into()),
            |s| s.accel = Accel::Kvm,
            |s| s.memory_mib = 512,
            |s| s.cpus = 4,
            |s| s.kernel_parameter("nosmp"),
            |s| s.nics[0].device = "rtl8139".into(),
            |s| s.nics[0].mac.0[5] = 9,
            |s| s.globals.push("e1000.autonegotiation=off".into()),
            |s| s.nics.clear(),
            |s| s.nics[0].properties.push("packed=on".into()),
            |s| s.machine_properties.push("hpet=off".into()),
            |s| s.iommu = true,
        ];
        for change in other {
            assert_ne!(key(change), plain);
        }
        assert_ne!(origin.key(&spec(), "ip link set eth0 up"), plain);
        let newer = Origin("qemu 8.2".into());
        assert_ne!(newer.key(&spec(), ""), plain);
    }

    #[test]
    fn what_a_lab_runs_on_is_a_part_of_its_checkpoints_names() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("qemu");
        let qemu = Qemu::at(program.clone());
        let plain = of_lab(&qemu, "image", &["-cpu", "x"], "key");
        assert_eq!(plain.len(), 32);
        assert_ne!(of_lab(&qemu, "other", &["-cpu", "x"], "key"), plain);
        assert_ne!(of_lab(&qemu, "image", &["-cpu", "y"], "key"), plain);
        assert_ne!(of_lab(&qemu, "image", &["-cpu", "x"], "yek"), plain);
        std::fs::write(program, "newer").unwrap();
        assert_ne!(of_lab(&qemu, "image", &["-cpu", "x"], "key"), plain);
    }

    #[test]
    fn a_kernel_or_firmware_file_that_changes_changes_the_key() {
        let directory = tempfile::tempdir().unwrap();
        let kernel = directory.path().join("vmlinux");
        let mut spec = spec();
        spec.boot = Boot::Kernel {
            kernel: kernel.clone(),
            initrd: "/nowhere".into(),
            parameters: Vec::new(),
        };
        let origin = Origin(String::new());
        let missing = origin.key(&spec, "");
        std::fs::write(&kernel, "one").unwrap();
        let (one, listed) = (origin.key(&spec, ""), files(directory.path()));
        std::fs::write(&kernel, "three").unwrap();
        assert!(missing != one && one != origin.key(&spec, ""));
        assert_ne!(listed, files(directory.path()));
    }
}
