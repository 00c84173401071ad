//! The initramfs: a cpio archive in the kernel's "newc" format
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! It is two archives, which the kernel unpacks one after the other: the userspace, which the images of
//! all kernels share, and the modules. It is not compressed: under TCG the guest unpacks a compressed
//! one more slowly than QEMU loads the larger file (zstd 0.4 s, lz4 0.1 s slower to userspace).

use super::programs;
use crate::base::error::OrCannotRun;
use anyhow::Result;
use cpio::NewcBuilder;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

/// A file of our own: path, permissions, content.
type OurFile = (&'static str, u32, &'static str);

/// Those of a guest.
pub const FILES: [OurFile; 8] = [
    ("init", 0o755, include_str!("root/init")),
    ("bin/hotplug", 0o755, include_str!("root/hotplug")),
    ("bin/service", 0o755, include_str!("root/service")),
    (
        "bin/dhclient-script",
        0o755,
        include_str!("root/dhclient-script"),
    ),
    (
        "etc/udhcpc/default.script",
        0o755,
        include_str!("root/udhcpc-script"),
    ),
    ("etc/inittab", 0o644, include_str!("root/inittab")),
    ("etc/passwd", 0o644, include_str!("root/passwd")),
    ("etc/group", 0o644, include_str!("root/group")),
];

/// Those of the lab, beside a guest's.
pub const LAB_FILES: [OurFile; 1] = [("lab-init", 0o755, include_str!("root/lab-init"))];

/// Directories that hold nothing yet.
const EMPTY: [&str; 9] = [
    "dev",
    "etc/sysconfig/network-scripts",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "var/lib/dhcp",
    "var/log",
];

/// One `bin` for all: a program is found by every path that some script or program has built in.
pub const LINKS: [(&str, &str); 13] = [
    ("sbin", "bin"),
    ("usr/bin", "../bin"),
    ("usr/sbin", "../bin"),
    ("usr/lib", "../lib"),
    ("var/run", "../run"),
    // Not busybox: its shell prefers its own `ip`, `ping`, `nc` to the tools under test.
    ("bin/sh", "dash"),
    ("bin/nc", "nc.openbsd"),
    // kmod, as busybox's `modprobe -r` fails where a module that this one needs is used by another.
    ("bin/modprobe", "kmod"),
    ("bin/rmmod", "kmod"),
    ("bin/insmod", "kmod"),
    ("bin/lsmod", "kmod"),
    ("bin/modinfo", "kmod"),
    // Busybox's vconfig goes through the VLAN ioctl, as RHEL 6's does; the `vlan` package's is a
    // script around `ip link`.
    ("bin/vconfig", "busybox"),
];

/// Writes the initramfs of the unpacked packages in `root` and the modules in `modules` (the
/// directory that holds `lib`) to `to`: two archives, one after the other. Returns the length of the
/// first, the userspace, in bytes.
pub fn write(root: &Path, modules: &Path, to: &Path) -> Result<u64> {
    let cannot = || format!("write {}", to.display());
    let mut file = fs::File::create(to).or_cannot_run(cannot)?;
    let mut cpio = Cpio::new(io::BufWriter::new(&mut file));
    for dir in EMPTY {
        cpio.dir(dir).or_cannot_run(cannot)?;
    }
    // The kernel opens it for PID 1 before there is a devtmpfs.
    cpio.char_device("dev/console", 0o600, 5, 1)
        .or_cannot_run(cannot)?;
    for (path, mode, content) in FILES {
        cpio.file(path, mode, content.as_bytes())
            .or_cannot_run(cannot)?;
    }
    for (path, target) in LINKS {
        cpio.symlink(path, target).or_cannot_run(cannot)?;
    }
    for (path, source) in programs::collect(root)? {
        let content = fs::read(&source).or_cannot_run(|| format!("read {}", source.display()))?;
        cpio.file(&path, 0o755, &content).or_cannot_run(cannot)?;
    }
    for applet in programs::applets(root)? {
        cpio.symlink(&format!("bin/{applet}"), "busybox")
            .or_cannot_run(cannot)?;
    }
    cpio.finish().or_cannot_run(cannot)?;
    let userspace = file.metadata().or_cannot_run(cannot)?.len();
    write_modules(&file, &[], modules, to)?;
    Ok(userspace)
}

/// Writes to `to` what another initramfs `from` has in its first `userspace` bytes, with `files` and
/// the modules in `modules`.
pub fn write_with(
    from: &Path,
    userspace: u64,
    files: &[OurFile],
    modules: &Path,
    to: &Path,
) -> Result<()> {
    let cannot = || format!("write {}", to.display());
    let mut file = fs::File::create(to).or_cannot_run(cannot)?;
    let mut source = fs::File::open(from)
        .or_cannot_run(|| format!("read {}", from.display()))?
        .take(userspace);
    io::copy(&mut source, &mut file).or_cannot_run(cannot)?;
    write_modules(&file, files, modules, to)
}

/// Writes the archive of `files` and the modules behind what is in `file`, which is called `to`.
fn write_modules(file: &fs::File, files: &[OurFile], modules: &Path, to: &Path) -> Result<()> {
    let mut cpio = Cpio::new(io::BufWriter::new(file));
    for (path, mode, content) in files {
        cpio.file(path, *mode, content.as_bytes())
            .or_cannot_run(|| format!("write {}", to.display()))?;
    }
    add_tree(&mut cpio, modules, "lib/modules")?;
    cpio.finish()
        .or_cannot_run(|| format!("write {}", to.display()))
}

fn add_tree(cpio: &mut Cpio<impl Write>, base: &Path, dir: &str) -> Result<()> {
    let path = base.join(dir);
    let cannot = || format!("read {}", path.display());
    let mut entries: Vec<_> = fs::read_dir(&path)
        .and_then(Iterator::collect::<io::Result<_>>)
        .or_cannot_run(cannot)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = format!("{dir}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            add_tree(cpio, base, &name)?;
        } else {
            let content = fs::read(entry.path()).or_cannot_run(cannot)?;
            cpio.file(&name, 0o644, &content)
                .or_cannot_run(|| "write the initramfs".into())?;
        }
    }
    Ok(())
}

/// Writes a newc archive. Directories are made where a path needs them, and the first entry of a name
/// wins. Times are 0: the same content makes the same archive.
struct Cpio<W> {
    out: W,
    names: BTreeSet<String>,
}

impl<W: Write> Cpio<W> {
    fn new(out: W) -> Self {
        Cpio {
            out,
            names: BTreeSet::new(),
        }
    }

    fn dir(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, 0o040_755, (0, 0), &[])
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, 0o100_000 | mode, (0, 0), content)
    }

    fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, 0o120_777, (0, 0), target.as_bytes())
    }

    fn char_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) -> io::Result<()> {
        self.entry(path, 0o020_000 | mode, (major, minor), &[])
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), data: &[u8]) -> io::Result<()> {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.dir(parent)?;
        }
        if !self.names.insert(path.into()) {
            return Ok(());
        }
        let size = u32::try_from(data.len())
            .map_err(|_| io::Error::other(format!("{path} is larger than cpio's 4 GiB")))?;
        let mut entry = NewcBuilder::new(path)
            .ino(self.names.len() as u32)
            .mode(mode)
            .rdev_major(device.0)
            .rdev_minor(device.1)
            .write(&mut self.out, size);
        entry.write_all(data)?;
        entry.finish().map(drop)
    }

    fn finish(self) -> io::Result<()> {
        cpio::newc::trailer(self.out)?.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::NewcReader;

    #[test]
    fn headers_are_newc_and_everything_is_aligned() {
        let mut bytes = Vec::new();
        let mut cpio = Cpio::new(&mut bytes);
        cpio.file("a", 0o640, b"hello").unwrap();
        cpio.finish().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(
            text,
            [
                "070701",
                "00000001",                         // inode
                "000081a0",                         // regular, 0640
                "00000000000000000000000100000000", // owner, group, links, time
                "00000005",                         // size
                "00000000000000000000000000000000", // devices
                "00000002",                         // length of the name with its NUL
                "00000000",
                "a\0",
                "hello\0\0\0",
                "070701",
                "00000000",
                "00000000",
                "00000000000000000000000100000000",
                "00000000",
                "00000000000000000000000000000000",
                "0000000b",
                "00000000",
                "TRAILER!!!\0\0\0\0",
            ]
            .concat()
        );
    }

    /// (mode, device's minor number, name, data) of every entry.
    fn read_back(bytes: &[u8]) -> Vec<(u32, u32, String, String)> {
        let mut entries = Vec::new();
        let mut rest = io::Cursor::new(bytes);
        loop {
            let mut reader = NewcReader::new(rest).unwrap();
            let entry = reader.entry();
            if entry.is_trailer() {
                let end = reader.finish().unwrap().position();
                assert_eq!(end, bytes.len() as u64);
                return entries;
            }
            let mut read = (
                entry.mode(),
                entry.rdev_minor(),
                entry.name().into(),
                String::new(),
            );
            reader.read_to_string(&mut read.3).unwrap();
            entries.push(read);
            rest = reader.finish().unwrap();
        }
    }

    #[test]
    fn another_kernel_s_modules_follow_the_same_userspace() {
        let dir = tempfile::tempdir().unwrap();
        let modules = dir.path().join("lib/modules/6.12");
        fs::create_dir_all(&modules).unwrap();
        fs::write(modules.join("igb.ko"), "module").unwrap();
        let (own, other) = (dir.path().join("own"), dir.path().join("other"));
        fs::write(&own, "userspace and other modules").unwrap();
        write_with(&own, 12, &[], dir.path(), &other).unwrap();
        let written = fs::read(&other).unwrap();
        assert_eq!(&written[..12], b"userspace an");
        let names: Vec<String> = read_back(&written[12..])
            .into_iter()
            .map(|(_, _, name, _)| name)
            .collect();
        assert_eq!(
            names,
            [
                "lib",
                "lib/modules",
                "lib/modules/6.12",
                "lib/modules/6.12/igb.ko"
            ]
        );
    }

    #[test]
    fn directories_are_made_and_the_first_of_a_name_wins() {
        let mut bytes = Vec::new();
        let mut cpio = Cpio::new(&mut bytes);
        cpio.file("x/y/file", 0o755, b"content").unwrap();
        cpio.file("x/y/file", 0o644, b"too late").unwrap();
        cpio.symlink("x/link", "y/file").unwrap();
        cpio.char_device("dev/console", 0o600, 5, 1).unwrap();
        cpio.finish().unwrap();
        let entry = |mode, device, name: &str, data: &str| (mode, device, name.into(), data.into());
        assert_eq!(
            read_back(&bytes),
            [
                entry(0o040_755, 0, "x", ""),
                entry(0o040_755, 0, "x/y", ""),
                entry(0o100_755, 0, "x/y/file", "content"),
                entry(0o120_777, 0, "x/link", "y/file"),
                entry(0o040_755, 0, "dev", ""),
                entry(0o020_600, 1, "dev/console", ""),
            ]
        );
    }
}
