//! The lab's QEMU command line, and the script that its init reads. Pure.

use super::INSIDE;
use super::shown::Shown;
use crate::base::words::quote;
use crate::vm::accel::Accel;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// File descriptor in QEMU of the console.
pub const SERIAL_FD: i32 = 4;
/// File descriptor in QEMU of the port between the harness outside and the harness inside.
pub const PORT_FD: i32 = 3;
/// File descriptor in QEMU of the console on which a shell listens.
pub const SHELL_FD: i32 = 5;
/// The port's name, as the lab's `/sys/class/virtio-ports` has it.
pub const PORT: &str = "nicmatrix.lab";
/// The name of the script that the lab's init reads, in the lab's own directory.
pub const START: &str = "start";

/// The lab's kernel parameters. As for guests (see [`crate::guest::image::KERNEL_CMDLINE`]), under TCG
/// a program that is always mapped at the same addresses is translated once.
const PARAMETERS: &str = "console=ttyS0 quiet panic=-1 rdinit=/lab-init norandmaps nokaslr \
     mitigations=off cryptomgr.notests random.trust_cpu=on apparmor=0 audit=0 kvm.halt_poll_ns=0";

/// How a lab's own code runs. Under TCG its processor has nested paging as well: without it, KVM inside keeps
/// page tables of its own for each guest, and each of the guest's page faults leaves the guest.
pub fn accelerator(accel: Accel) -> [&'static str; 4] {
    match accel {
        Accel::Kvm => accel.qemu_args(),
        Accel::Tcg => ["-accel", "tcg", "-cpu", "qemu64,+rdrand,-cx16,+npt"],
    }
}

/// A lab, before it is a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabSpec {
    /// How the lab's own code runs.
    pub accel: Accel,
    /// MiB.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Its kernel.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initrd: PathBuf,
    /// The directory with what it sees of the host's files, each under its own path ([`super::shown`]).
    pub shown: PathBuf,
    /// The host's directory that the lab may write to, under the same path inside.
    pub artifacts: PathBuf,
    /// The host's directory of checkpoints.
    pub checkpoints: PathBuf,
    /// The host's directory with the script.
    pub directory: PathBuf,
}

impl LabSpec {
    /// QEMU's arguments, without the program.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        let mut put = |text: &str| words.extend(text.split(' ').map(OsString::from));
        put("-name nicmatrix-lab -nodefaults -no-user-config -display none -no-reboot");
        put("-machine q35");
        for word in accelerator(self.accel) {
            put(word);
        }
        put(&format!("-m {}M -smp {}", self.memory_mib, self.cpus));
        put("-rtc base=utc,clock=host");
        put(&format!("-chardev socket,id=serial,fd={SERIAL_FD}"));
        put("-serial chardev:serial");
        put(&format!("-chardev socket,id=shell,fd={SHELL_FD}"));
        put("-serial chardev:shell");
        put("-device virtio-serial-pci,id=vser0");
        put(&format!("-chardev socket,id=lab,fd={PORT_FD}"));
        put(&format!("-device virtserialport,chardev=lab,name={PORT}"));
        put("-device virtio-rng-pci");
        words.extend(["-kernel".into(), (&self.kernel).into()]);
        words.extend(["-initrd".into(), (&self.initrd).into()]);
        words.extend(["-append".into(), PARAMETERS.into()]);
        let shares = [
            ("root", &self.shown, ",readonly=on"),
            ("lab", &self.directory, ",readonly=on"),
            ("artifacts", &self.artifacts, ""),
            ("checkpoints", &self.checkpoints, ",readonly=on"),
        ];
        for (tag, path, read_only) in shares {
            // What the lab's root creates belongs to the harness's user (security_model=none); files of
            // several devices must not share inode numbers.
            let path = path.to_string_lossy().replace(',', ",,");
            let share = format!(
                "local,id={tag},path={path},security_model=none,multidevs=remap{read_only}"
            );
            words.extend(["-fsdev".into(), share.into()]);
            let device = format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}");
            words.extend(["-device".into(), device.into()]);
        }
        words
    }
}

/// What differs from lab to lab inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartScript {
    /// vhost_net's `experimental_zcopytx`.
    pub zcopytx: bool,
    /// See [`LabSpec::artifacts`].
    pub artifacts: PathBuf,
    /// See [`LabSpec::checkpoints`].
    pub checkpoints: PathBuf,
    /// What must be seen inside, also below a directory that the lab covers, such as `/tmp`.
    pub shown: Shown,
    /// Variables for the harness inside.
    pub environment: Vec<(String, String)>,
    /// The harness.
    pub program: PathBuf,
}

impl StartScript {
    /// The script, for busybox's shell.
    pub fn script(&self) -> String {
        let path = |path: &Path| quote(&path.to_string_lossy());
        let Shown { paths, links } = &self.shown;
        let binds = paths.iter().map(|at| format!("\tbind {}\n", path(at)));
        let links = links
            .iter()
            .map(|(at, target)| format!("\tlink {} {}\n", path(target), path(at)));
        let visible: Vec<String> = binds.chain(links).collect();
        let environment: Vec<String> = (self.environment.iter())
            .map(|(name, value)| format!(" {}", quote(&format!("{name}={value}"))))
            .collect();
        format!(
            "zcopytx={}\nartifacts={}\ncheckpoints={}\nvisible() {{\n\t:\n{}}}\ninside() {{\n\tchroot /host env -i{} {} {}\n}}\n",
            u8::from(self.zcopytx),
            path(&self.artifacts),
            path(&self.checkpoints),
            visible.concat(),
            environment.concat(),
            path(&self.program),
            quote(INSIDE),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> LabSpec {
        LabSpec {
            accel: Accel::Tcg,
            memory_mib: 3072,
            cpus: 2,
            kernel: "/images/x/vmlinux".into(),
            initrd: "/images/x/lab-initrd".into(),
            shown: "/home, here/shown".into(),
            artifacts: "/home, here/runs/1".into(),
            checkpoints: "/home, here/checkpoints".into(),
            directory: "/home, here/lab/vhost".into(),
        }
    }

    #[test]
    fn the_command_line_in_full() {
        let words = spec().arguments();
        let text = crate::base::words::command_line(Path::new("qemu"), &words);
        insta::assert_snapshot!(text, @r"
        qemu \
          -name nicmatrix-lab \
          -nodefaults \
          -no-user-config \
          -display none \
          -no-reboot \
          -machine q35 \
          -accel tcg \
          -cpu qemu64,+rdrand,-cx16,+npt \
          -m 3072M \
          -smp 2 \
          -rtc base=utc,clock=host \
          -chardev socket,id=serial,fd=4 \
          -serial chardev:serial \
          -chardev socket,id=shell,fd=5 \
          -serial chardev:shell \
          -device virtio-serial-pci,id=vser0 \
          -chardev socket,id=lab,fd=3 \
          -device virtserialport,chardev=lab,name=nicmatrix.lab \
          -device virtio-rng-pci \
          -kernel /images/x/vmlinux \
          -initrd /images/x/lab-initrd \
          -append 'console=ttyS0 quiet panic=-1 rdinit=/lab-init norandmaps nokaslr mitigations=off cryptomgr.notests random.trust_cpu=on apparmor=0 audit=0 kvm.halt_poll_ns=0' \
          -fsdev 'local,id=root,path=/home,, here/shown,security_model=none,multidevs=remap,readonly=on' \
          -device virtio-9p-pci,fsdev=root,mount_tag=root \
          -fsdev 'local,id=lab,path=/home,, here/lab/vhost,security_model=none,multidevs=remap,readonly=on' \
          -device virtio-9p-pci,fsdev=lab,mount_tag=lab \
          -fsdev 'local,id=artifacts,path=/home,, here/runs/1,security_model=none,multidevs=remap' \
          -device virtio-9p-pci,fsdev=artifacts,mount_tag=artifacts \
          -fsdev 'local,id=checkpoints,path=/home,, here/checkpoints,security_model=none,multidevs=remap,readonly=on' \
          -device virtio-9p-pci,fsdev=checkpoints,mount_tag=checkpoints
        ");
    }

    #[test]
    fn whatever_a_path_holds_the_shell_takes_it_as_it_is() {
        let start = StartScript {
            zcopytx: true,
            artifacts: "/tmp/it's here/runs".into(),
            checkpoints: "/tmp/it's here/checkpoints".into(),
            shown: Shown {
                paths: ["/tmp/it's here".into()].into(),
                links: [("/tmp/it's there".into(), "it's here".into())].into(),
            },
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            program: "/tmp/it's here/nicmatrix".into(),
        };
        insta::assert_snapshot!(start.script(), @r"
        zcopytx=1
        artifacts='/tmp/it'\''s here/runs'
        checkpoints='/tmp/it'\''s here/checkpoints'
        visible() {
        	:
        	bind '/tmp/it'\''s here'
        	link 'it'\''s here' '/tmp/it'\''s there'
        }
        inside() {
        	chroot /host env -i 'PATH=/usr/bin:/bin' '/tmp/it'\''s here/nicmatrix' 'nicmatrix/inside'
        }
        ");
    }
}
