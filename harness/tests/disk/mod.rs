//! A guest of a disk image: partition table, GRUB and a file system, with the built image's kernel and
//! userspace in it, as no release may be handed out with this project.

use super::own::Own;
use super::{changed_matrix, expect_words};
use cpio::NewcBuilder;
use harness::guest::image::KERNEL_CMDLINE;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// GRUB's own parts, of Debian's package grub-pc-bin.
const GRUB: &str = "/usr/lib/grub/i386-pc";
/// Where the partition begins, and what there is in front of it for GRUB, sectors.
const BEGIN: u32 = 2048;
const SECTOR: u64 = 512;
/// The partition's size, MiB: three times what is in it.
const SIZE: u32 = 160;
/// A trial that boots the disk takes 7 s under TCG, on a loaded host more.
const TRIAL_ENDS: Duration = Duration::from_secs(240);

/// Runs a command that must succeed.
fn done(command: &mut Command) {
    let output = command.output();
    let output = output.unwrap_or_else(|e| {
        panic!("{command:?}: {e}; `cargo xtask test` installs what the tests need")
    });
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Adds a directory or a file to one more archive behind the initramfs (buffer-format.rst of the kernel).
fn add(archive: &mut Vec<u8>, name: &str, mode: u32, content: &str) {
    let size = content.len().try_into().expect("small");
    let mut entry = NewcBuilder::new(name).mode(mode).write(archive, size);
    entry.write_all(content.as_bytes()).expect("written");
    entry.finish().expect("written");
}

/// A disk image for `own`, whose guest agent has that configuration.
fn disk(own: &Own, agent: &str) -> PathBuf {
    let root = own.directory.path().join("root");
    let boot = root.join("boot");
    fs::create_dir_all(boot.join("grub")).expect("made");
    fs::copy(&own.kernel, boot.join("kernel")).expect("copied");
    let mut initrd = fs::read(own.kernel.with_file_name("initrd")).expect("read");
    add(&mut initrd, "etc/qemu", 0o40_755, "");
    add(&mut initrd, "etc/qemu/qemu-ga.conf", 0o100_644, agent);
    cpio::newc::trailer(&mut initrd).expect("written");
    fs::write(boot.join("initrd"), initrd).expect("written");
    let menu = format!("linux /boot/kernel {KERNEL_CMDLINE}\ninitrd /boot/initrd\nboot\n");
    fs::write(boot.join("grub/grub.cfg"), menu).expect("written");

    let core = own.directory.path().join("core.img");
    done(
        Command::new("grub-mkimage")
            .args(["-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o"])
            .arg(&core)
            .args(["biosdisk", "part_msdos", "ext2", "linux", "normal"]),
    );
    let path = own.directory.path().join("disk.img");
    let image = File::create(&path).expect("made");
    let begin = u64::from(BEGIN) * SECTOR;
    let size = u64::from(SIZE) << 20;
    image.set_len(begin + size).expect("set");
    done(
        Command::new("/sbin/mkfs.ext4")
            .args(["-q", "-F", "-d"])
            .arg(&root)
            .args(["-E", &format!("offset={begin}")])
            .arg(&path)
            .arg(format!("{SIZE}M")),
    );
    // GRUB's two parts are made to lie so: boot code without the table, the rest from sector 1 on.
    let code = fs::read(Path::new(GRUB).join("boot.img")).expect("of grub-pc-bin");
    let core = fs::read(core).expect("made");
    assert!(core.len() as u64 <= begin - SECTOR, "GRUB needs more room");
    let any_place = [0xfe, 0xff, 0xff];
    let mut partition = vec![0x80];
    partition.extend(any_place);
    partition.push(0x83);
    partition.extend(any_place);
    partition.extend(BEGIN.to_le_bytes());
    partition.extend((SIZE * 2048).to_le_bytes());
    for (bytes, place) in [
        (&code[..440], 0),
        (&partition, 446),
        (&[0x55, 0xaa], 510),
        (&core, SECTOR),
    ] {
        image.write_all_at(bytes, place).expect("written");
    }
    path
}

/// The shipped matrix, in which RHEL 9 is that disk.
fn on_disk(own: &Own, disk: &Path) -> String {
    let table = "[guests.rhel9]";
    let image = format!("{table}\nimage = {disk:?}");
    changed_matrix(own.directory.path(), table, &image)
}

#[test]
fn a_disk_image_boots_by_its_own_loader_and_is_not_written() {
    let own = Own::new();
    let image = disk(&own, "");
    let matrix = on_disk(&own, &image);
    let before = fs::read(&image).expect("read");
    // A NIC that is there at boot, and one that comes later.
    for trial in [
        "mac_change::virtio::rhel9::tap",
        "hotplug_qmp::e1000::rhel9::tap",
    ] {
        let status = own.run(trial, Some(&matrix)).ended_within(TRIAL_ENDS);
        let said = own.said();
        assert_eq!(status.code(), Some(0), "{said}");
        expect_words(&said, &[trial, "1 passed, 0 failed, 0 skipped"]);
        assert!(!said.contains("Stand-in"), "it is no stand-in: {said}");
    }
    assert!(before == fs::read(&image).expect("read"), "it was written");
}

#[test]
fn an_image_whose_agent_may_run_nothing_cannot_be_tested() {
    let own = Own::new();
    // The second is the first's name from QEMU 8.1 on.
    let rule = "guest-exec,guest-exec-status";
    let image = disk(
        &own,
        &format!("[general]\nblacklist={rule}\nblock-rpcs={rule}\n"),
    );
    let matrix = on_disk(&own, &image);
    let trial = "driver::virtio::rhel9::tap";
    let status = own.run(trial, Some(&matrix)).ended_within(TRIAL_ENDS);
    let said = own.said();
    assert_eq!(status.code(), Some(3), "{said}");
    expect_words(&said, &["may not do guest-exec", "/etc/sysconfig/qemu-ga"]);
}
