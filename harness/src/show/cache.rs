//! `cache list` and `cache clear`: the saved guests, as text. Pure.

use crate::vm::checkpoint::store::Entry;
use std::fmt::Write;
use std::time::SystemTime;

/// All entries, the longest unused first, with a total, which is at most `limit` bytes.
pub fn list(entries: &[Entry], limit: u64, now: SystemTime) -> String {
    let mut text = String::new();
    for entry in entries {
        let age = now.duration_since(entry.used).unwrap_or_default();
        // A String cannot fail to be written to.
        let _ = writeln!(
            text,
            "{:>6} MiB  used {:>8} ago  {}",
            mib(entry.bytes),
            span(age.as_secs()),
            entry.what
        );
    }
    let total = entries.iter().map(|entry| entry.bytes).sum();
    let _ = writeln!(
        text,
        "{:>6} MiB in {}, of at most {} MiB",
        mib(total),
        checkpoints(entries.len()),
        mib(limit)
    );
    text
}

/// What was removed, and what is in use and so was left.
pub fn cleared(gone: &[Entry], kept: &[Entry]) -> String {
    let bytes = gone.iter().map(|entry| entry.bytes).sum();
    let mut text = format!("removed {}, {} MiB\n", checkpoints(gone.len()), mib(bytes));
    for entry in kept {
        let _ = writeln!(text, "left, as it is in use: {}", entry.what);
    }
    text
}

fn checkpoints(count: usize) -> String {
    match count {
        1 => "1 checkpoint".into(),
        count => format!("{count} checkpoints"),
    }
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// Seconds in the largest unit that leaves something before the point.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn entry(what: &str, mib: u64, age: u64, now: SystemTime) -> Entry {
        Entry {
            key: "k".into(),
            what: what.into(),
            bytes: mib << 20,
            used: now - Duration::from_secs(age),
        }
    }

    #[test]
    fn sizes_ages_and_a_total() {
        let now = SystemTime::now();
        let entries = [
            entry("half-made", 3, 200_000, now),
            entry("rhel9 with e1000 up", 151, 61, now),
        ];
        insta::assert_snapshot!(list(&entries, 12 << 30, now), @r"
             3 MiB  used      2 d ago  half-made
           151 MiB  used    1 min ago  rhel9 with e1000 up
           154 MiB in 2 checkpoints, of at most 12288 MiB
        ");
        insta::assert_snapshot!(cleared(&entries[..1], &entries[1..]), @r"
        removed 1 checkpoint, 3 MiB
        left, as it is in use: rhel9 with e1000 up
        ");
    }
}
