//! What a child process may do: no more than it needs, so that a guest that takes over the program that serves it has
//! gained little.

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, User, setgroups, setresgid, setresuid};
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Has `command`'s program, and what it may start, do without every capability (capabilities(7)) but those of `keep`,
/// also if it is root's, and get none back by any program that it executes.
pub fn lessen<'a>(command: &'a mut Command, keep: &[Capability]) -> &'a mut Command {
    // Who may not drop any has none that an executed program would be given.
    let dropped: Vec<Capability> = match held(CapSet::Effective).contains(&Capability::CAP_SETPCAP)
    {
        true => held(CapSet::Bounding)
            .into_iter()
            .filter(|one| !keep.contains(one))
            .collect(),
        false => Vec::new(),
    };
    // SAFETY: prctl is an async-signal-safe system call, and nothing is allocated unless it fails.
    unsafe {
        command.pre_exec(move || {
            for capability in &dropped {
                // Root's are, once the program is executed, those of the bounding set.
                caps::drop(None, CapSet::Bounding, *capability)
                    .map_err(|_| io::Error::last_os_error())?;
            }
            Ok(prctl::set_no_new_privs()?)
        })
    }
}

/// As [`lessen`], and has the program run as the user `nobody` where there is such a user to become: as root, and not
/// in an ordinary user's namespace, where nobody else is. It dies with the calling thread all the same.
pub fn as_nobody<'a>(command: &'a mut Command, keep: &[Capability]) -> &'a mut Command {
    lessen(command, keep);
    let Some(nobody) = nobody() else {
        return command;
    };
    let kept: CapsHashSet = keep.iter().copied().collect();
    let failed = |_: caps::errors::CapsError| io::Error::last_os_error();
    // SAFETY: only async-signal-safe system calls are made, and nothing is allocated unless one fails.
    unsafe {
        command.pre_exec(move || {
            caps::securebits::set_keepcaps(true).map_err(failed)?;
            setgroups(&[])?;
            setresgid(nobody.1, nobody.1, nobody.1)?;
            setresuid(nobody.0, nobody.0, nobody.0)?;
            caps::set(None, CapSet::Permitted, &kept).map_err(failed)?;
            caps::set(None, CapSet::Inheritable, &kept).map_err(failed)?;
            caps::set(None, CapSet::Effective, &kept).map_err(failed)?;
            for capability in &kept {
                caps::raise(None, CapSet::Ambient, *capability).map_err(failed)?;
            }
            // A change of user took it back.
            Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)
        })
    }
}

/// `nobody`, where this process may become it.
fn nobody() -> Option<(Uid, Gid)> {
    let may = held(CapSet::Effective);
    if ![Capability::CAP_SETUID, Capability::CAP_SETGID]
        .iter()
        .all(|one| may.contains(one))
    {
        return None;
    }
    let user = User::from_name("nobody").ok()??;
    let maps = |file: &str, id: u32| fs::read_to_string(file).is_ok_and(|map| is_mapped(&map, id));
    let both = maps("/proc/self/uid_map", user.uid.as_raw())
        && maps("/proc/self/gid_map", user.gid.as_raw());
    both.then_some((user.uid, user.gid))
}

/// Whether an id is one of a user namespace, by its map: lines of first inside, first outside, count.
fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line
            .split_whitespace()
            .map_while(|word| word.parse::<u64>().ok());
        let (first, count) = (numbers.next(), numbers.nth(1));
        first
            .zip(count)
            .is_some_and(|(first, count)| (first..first + count).contains(&id.into()))
    })
}

fn held(set: CapSet) -> CapsHashSet {
    caps::read(None, set).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::child::{pdeath_command, run};

    /// What `/proc/self/status` of a child says of a field.
    fn shown(command: &mut Command, field: &str) -> String {
        let status = run(command.arg("/proc/self/status"), "coreutils", "").unwrap();
        let found = status.lines().find_map(|line| line.strip_prefix(field));
        found
            .unwrap_or_else(|| panic!("no {field} in {status}"))
            .trim()
            .to_owned()
    }

    #[test]
    fn a_child_has_those_capabilities_that_it_is_left_and_no_way_to_others() {
        let is_root = nix::unistd::geteuid().is_root();
        let left = if is_root {
            "0000000000001000"
        } else {
            "0000000000000000"
        };
        for field in ["CapEff:", "CapPrm:"] {
            let mut command = pdeath_command("cat");
            lessen(&mut command, &[Capability::CAP_NET_ADMIN]);
            assert_eq!(shown(&mut command, field), left);
        }
        assert_eq!(
            shown(lessen(&mut pdeath_command("cat"), &[]), "NoNewPrivs:"),
            "1"
        );
    }

    #[test]
    fn where_there_is_a_nobody_a_child_is_it() {
        let mut command = pdeath_command("cat");
        as_nobody(&mut command, &[Capability::CAP_NET_RAW]);
        let uids = shown(&mut command, "Uid:");
        let mut command = pdeath_command("cat");
        as_nobody(&mut command, &[Capability::CAP_NET_RAW]);
        let effective = shown(&mut command, "CapEff:");
        match nobody() {
            Some((uid, _)) => {
                assert_eq!(uids, vec![uid.to_string(); 4].join("\t"));
                assert_eq!(effective, "0000000000002000");
            }
            None => assert!(!uids.is_empty()),
        }
    }

    #[test]
    fn an_id_is_mapped_where_a_line_has_it() {
        assert!(is_mapped("         0          0 4294967295\n", 65534));
        assert!(!is_mapped("         0       1000          1\n", 65534));
        assert!(is_mapped("0 1000 1\n1 100000 65536\n", 65534));
        assert!(!is_mapped("", 0));
    }
}
