//! What the runs on this machine use: each says so in the name of a socket, and reads the others' names. The kernel
//! takes a name away when its process ends, whatever ended it.

use super::need::Need;
use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What the names begin with. They are abstract ones (unix(7)), and so in no directory; each network namespace has
/// its own, and so a container too, unless it has the machine's.
const PREFIX: &str = "nicmatrix-slots/";

/// What is read of other names at most: another user may make as many as he likes.
const MOST: usize = 64;

/// The names, for this process.
pub struct Ledger {
    prefix: String,
    own: Mutex<Option<(Need, UnixDatagram)>>,
}

impl Ledger {
    /// This machine's.
    pub fn of_machine() -> Ledger {
        Ledger::with(PREFIX.into())
    }

    fn with(prefix: String) -> Ledger {
        Ledger {
            prefix,
            own: Mutex::new(None),
        }
    }

    /// Says what this run uses now; what others use, each.
    ///
    /// # Errors
    /// A kernel that does not show its sockets, or refuses one.
    pub fn exchange(&self, own: Need) -> Result<Vec<Need>> {
        self.say(own)?;
        let file = "/proc/self/net/unix";
        let sockets = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
        Ok(others(&sockets, &self.prefix, std::process::id()))
    }

    fn say(&self, need: Need) -> Result<()> {
        let mut own = self.own.lock();
        if own.as_ref().is_some_and(|(said, _)| *said == need) {
            return Ok(());
        }
        // The new name comes before the old one goes: others may see both, and take the larger.
        *own = match need {
            Need::NONE => None,
            need => {
                let name = format!("{}{}", self.prefix, name(std::process::id(), need));
                let address = SocketAddr::from_abstract_name(&name)?;
                let socket = UnixDatagram::bind_addr(&address).with_context(|| name)?;
                Some((need, socket))
            }
        };
        Ok(())
    }
}

/// The process, and what it uses: thousandths of a processor, MiB, tasks. Descriptors are each run's own.
fn name(process: u32, need: Need) -> String {
    let Need {
        processors,
        memory_mib,
        tasks,
        descriptors: _,
    } = need;
    format!("{process}/{processors}/{memory_mib}/{tasks}")
}

fn parse(name: &str) -> Option<(u32, Need)> {
    let mut parts = name.split('/');
    let process = parts.next()?.parse().ok()?;
    let need = Need {
        processors: parts.next()?.parse().ok()?,
        memory_mib: parts.next()?.parse().ok()?,
        tasks: parts.next()?.parse().ok()?,
        descriptors: 0,
    };
    parts.next().is_none().then_some((process, need))
}

/// What processes but `this` use, each, by the kernel's list of sockets (proc_pid_net(5)), in which an abstract name
/// begins with `@`.
fn others(sockets: &str, prefix: &str, this: u32) -> Vec<Need> {
    let mut found: Vec<(u32, Need)> = Vec::new();
    let names = sockets
        .lines()
        .filter_map(|line| line.split_once(" @")?.1.strip_prefix(prefix));
    for (process, need) in names.filter_map(parse).take(MOST) {
        match found.iter_mut().find(|(known, _)| *known == process) {
            _ if process == this => {}
            Some((_, known)) => *known = known.max(need),
            None => found.push((process, need)),
        }
    }
    found.into_iter().map(|(_, need)| need).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(processors: u32) -> Need {
        Need {
            processors,
            memory_mib: 500,
            tasks: 9,
            descriptors: 0,
        }
    }

    #[test]
    fn each_sees_what_the_others_use_until_they_end() {
        let prefix = format!("nicmatrix-test-{}/", std::process::id());
        let ledger = Ledger::with(prefix.clone());
        assert_eq!(ledger.exchange(need(1)).unwrap(), []);
        let other = |process, processors| {
            let name = format!("{prefix}{}", name(process, need(processors)));
            let address = SocketAddr::from_abstract_name(name).unwrap();
            UnixDatagram::bind_addr(&address).unwrap()
        };
        let first = other(7, 3);
        assert_eq!(ledger.exchange(need(2)).unwrap(), [need(3)]);
        // It is about to use less.
        let second = other(7, 1);
        assert_eq!(ledger.exchange(need(2)).unwrap(), [need(3)]);
        drop(first);
        assert_eq!(ledger.exchange(Need::NONE).unwrap(), [need(1)]);
        drop(second);
        assert_eq!(ledger.exchange(Need::NONE).unwrap(), []);
    }

    #[test]
    fn names_that_are_none_of_a_run_say_nothing() {
        let list = "Num RefCount Protocol Flags Type St Inode Path\n\
                    0: 00000002 00000000 00000000 0002 01 1 @p/8/1000/200/3\n\
                    0: 00000002 00000000 00000000 0002 01 2 @p/8/1000/200\n\
                    0: 00000002 00000000 00000000 0002 01 3 @p/9/1/2/3/4\n\
                    0: 00000002 00000000 00000000 0002 01 4 @p/-1/x/2/3\n\
                    0: 00000002 00000000 00000000 0002 01 5 /p/10/1/2/3\n\
                    0: 00000002 00000000 00000000 0002 01 6\n\
                    0: 00000002 00000000 00000000 0002 01 7 @p/11/1/2/3\n";
        let eight = Need {
            processors: 1000,
            memory_mib: 200,
            tasks: 3,
            descriptors: 0,
        };
        assert_eq!(others(list, "p/", 11), [eight]);
        assert_eq!(others(list, "p/", 8).len(), 1);
        assert_eq!(others(list, "q/", 8), []);
    }
}
