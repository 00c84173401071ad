//! What a QEMU holds of the host: memory and descriptors, as the kernel counts them.

use super::process::Vm;
use crate::base::error::OrCannotRun as _;
use std::collections::BTreeMap;
use std::fs;

impl Vm {
    /// Peak resident memory so far, KiB.
    pub fn peak_kib(&self) -> Option<u64> {
        field(&self.told("status")?, "VmHWM:")
    }

    /// QEMU's memory, with what it shares counted in parts (`Pss`, proc(5)), KiB.
    pub fn unique_kib(&self) -> Option<u64> {
        field(&self.told("smaps_rollup")?, "Pss:")
    }

    /// Memory that QEMU has allocated for itself, resident: what is mapped by no file, but for the guest's memory and
    /// what is executed (TCG's translations), KiB.
    pub fn heap_kib(&self) -> Option<u64> {
        let guests = u64::from(self.spec.memory_mib) << 10;
        Some(heap_of(&self.told("smaps")?, guests))
    }

    /// How many descriptors QEMU has open, by what they are open on: a path, or a kind without its number, such as
    /// `socket` or `anon_inode:[eventfd]`.
    ///
    /// # Errors
    /// When QEMU's descriptors cannot be listed.
    pub fn descriptors(&self) -> anyhow::Result<BTreeMap<String, usize>> {
        let directory = format!("/proc/{}/fd", self.pid());
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&directory).or_cannot_run(|| format!("list {directory}"))? {
            // A descriptor may be closed while the directory is read.
            let Ok(target) = fs::read_link(entry?.path()) else {
                continue;
            };
            let target = target.to_string_lossy();
            let numbered = target
                .split_once(":[")
                .filter(|(_, inode)| inode.starts_with(|c: char| c.is_ascii_digit()));
            let kind = numbered.map_or(&*target, |(kind, _)| kind);
            *found.entry(kind.to_owned()).or_default() += 1;
        }
        Ok(found)
    }

    /// How many of them are open on `path`.
    ///
    /// # Errors
    /// As there.
    pub fn open_files(&self, path: &str) -> anyhow::Result<usize> {
        Ok(self.descriptors()?.get(path).copied().unwrap_or_default())
    }

    /// A file of QEMU's in `/proc` (proc(5)), where it can be read.
    fn told(&self, file: &str) -> Option<String> {
        fs::read_to_string(format!("/proc/{}/{file}", self.pid())).ok()
    }
}

/// The number of a line such as `Pss:   1234 kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What smaps(5) tells of the writable mappings without a file, smaller than `guests` KiB: their resident size, KiB.
fn heap_of(maps: &str, guests: u64) -> u64 {
    let (mut counts, mut sum) = (false, 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (first, second) = (words.next().unwrap_or_default(), words.next());
        let kib = || second.and_then(|number| number.parse::<u64>().ok());
        match first.strip_suffix(':') {
            Some("Size") => counts &= kib().is_some_and(|kib| kib < guests),
            Some("Rss") if counts => sum += kib().unwrap_or(0),
            Some(_) => {}
            // A mapping's head: 55d0c8a00000-55d0c8b00000 rw-p 00000000 00:00 0      [heap]
            None => {
                let is_anonymous = words.nth(2).is_none_or(|inode| inode == "0");
                counts = second == Some("rw-p") && is_anonymous;
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_qemus_mappings_its_own_memory_counts_and_the_guests_does_not() {
        let maps = "\
55d0c8a00000-55d0c8b00000 rw-p 00000000 00:00 0                          [heap]
Size:               1024 kB
Rss:                 700 kB
Pss:                 700 kB
VmFlags: rd wr mr mw me ac
7f0000000000-7f0010000000 rw-p 00000000 00:00 0
Size:             262144 kB
Rss:              100000 kB
7f0020000000-7f0020100000 rw-p 00000000 00:00 0
Size:               1024 kB
Rss:                  24 kB
7f0030000000-7f0040000000 rwxp 00000000 00:00 0
Size:              50000 kB
Rss:               40000 kB
7f0050000000-7f0050100000 rw-p 00100000 fd:00 1234                       /usr/bin/qemu-system-x86_64
Size:               1024 kB
Rss:                 500 kB
7f0060000000-7f0060100000 r--p 00000000 00:00 0                          [vvar]
Size:                 16 kB
Rss:                   4 kB
";
        assert_eq!(heap_of(maps, 256 << 10), 724);
        assert_eq!(field(maps, "Pss:"), Some(700));
        assert_eq!(field(maps, "Swap:"), None);
    }
}
