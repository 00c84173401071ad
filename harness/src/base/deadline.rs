//! Named deadlines, scaled by the measured speed of this host, which count only time in which the host let run
//! what is waited for.

use super::delay::{self, Meter};
use super::share::{excused, starved};
use std::fmt::Display;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How much slower than the reference this host runs guests; 1.0 until [`set_speed`].
static SPEED: OnceLock<f64> = OnceLock::new();

/// Sets the factor by which guest-bound limits are multiplied. The first call counts.
pub fn set_speed(factor: f64) {
    let _ = SPEED.set(factor.max(1.0));
}

/// The factor in force.
pub fn speed() -> f64 {
    SPEED.get().copied().unwrap_or(1.0)
}

/// A limit with a name; [`Limit::start`] makes it a [`Deadline`]. Limits are equal when they await the
/// same thing.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// What is awaited; reads after "waited 20 s for".
    pub what: &'static str,
    /// Seconds on the reference host: a 6.1 kernel in userspace 1.8 s after exec.
    pub seconds: f64,
}

/// From QEMU's exec to its QMP greeting. Some 50 ms; a loaded runner takes a few seconds.
pub const QMP_GREETING: Limit = Limit {
    what: "QEMU's QMP greeting",
    seconds: 30.0,
};
/// A QMP or HMP command that does no guest work.
pub const QMP_REPLY: Limit = Limit {
    what: "a QMP reply",
    seconds: 20.0,
};
/// A guest of 256 MiB written to a file; 15 ms without its memory.
pub const SAVED: Limit = Limit {
    what: "the guest to be saved",
    seconds: 60.0,
};
/// From `cont` to the agent's first answer: 3 s under TCG on the reference host; RHEL images 60 s.
pub const AGENT_UP: Limit = Limit {
    what: "the guest agent's first answer",
    seconds: 120.0,
};
/// From `reboot -f` or `system_reset` to QEMU's RESET: well under a second.
pub const RESET: Limit = Limit {
    what: "RESET",
    seconds: 20.0,
};
/// One agent request; guest-exec returns at once.
pub const AGENT_REPLY: Limit = Limit {
    what: "an answer of the guest agent",
    seconds: 30.0,
};
/// A guest command that is over in well under a second.
pub const GUEST_COMMAND: Limit = Limit {
    what: "a guest command to end",
    seconds: 60.0,
};
/// From hot-plug to the netdev; the guest's uevent, module load and probe: 1.7 s for an e1000.
pub const LINK_APPEARS: Limit = Limit {
    what: "the guest to show the NIC",
    seconds: 8.0,
};
/// From `device_del` to the netdev's end in the guest.
pub const LINK_GOES: Limit = Limit {
    what: "the guest to lose the NIC",
    seconds: 8.0,
};
/// `DEVICE_DELETED` after `device_del`: pciehp waits 5 s for the attention button.
pub const DEVICE_DELETED: Limit = Limit {
    what: "DEVICE_DELETED",
    seconds: 12.0,
};
/// operstate after a carrier change; e1000's watchdog looks every 2 s.
pub const OPERSTATE: Limit = Limit {
    what: "operstate to follow",
    seconds: 8.0,
};
/// Speed, duplex and negotiation after a change: e1000, e1000e and igb begin anew, and have a link after 2-4 s.
pub const LINK_SETTINGS: Limit = Limit {
    what: "the link's settings to follow",
    seconds: 12.0,
};
/// From the command to QEMU's SUSPEND: 0.2 s under TCG, in which the guest freezes its processes and devices.
pub const SUSPENDED: Limit = Limit {
    what: "SUSPEND",
    seconds: 20.0,
};
/// From the command until QEMU has stopped: the guest writes its memory to a disk, 2 s under TCG.
pub const HIBERNATED: Limit = Limit {
    what: "the guest's memory on its disk",
    seconds: 20.0,
};
/// From `system_wakeup` to QEMU's WAKEUP: it resets its devices in between.
pub const WOKEN: Limit = Limit {
    what: "WAKEUP",
    seconds: 10.0,
};
/// `kexec -l` of a kernel and an initramfs of 22 MiB: 1 s under TCG.
pub const KEXEC_LOADED: Limit = Limit {
    what: "the next kernel to be loaded",
    seconds: 60.0,
};
/// From `kexec -e` until the agent's port is closed, by the drivers' end or by the next kernel, which unpacks itself
/// first: 2 s under TCG.
pub const TAKEN_OVER: Limit = Limit {
    what: "the agent's port to be closed",
    seconds: 20.0,
};
/// A receive filter's way from the guest's kernel to the device: at once, or by the driver's queue of work.
pub const RX_FILTER: Limit = Limit {
    what: "the receive filter to follow",
    seconds: 4.0,
};
/// A veth pair's activation: at once, but behind the ends of other trials' namespaces.
pub const LINK_PASSES: Limit = Limit {
    what: "the link to pass frames",
    seconds: 10.0,
};
/// First reply on a NIC just brought up; e1000 negotiates its link for 3-4 s.
pub const FIRST_PING: Limit = Limit {
    what: "the first ping reply",
    seconds: 10.0,
};
/// From `cont` to the first DHCP message of what boots from a NIC: 2 s through SeaBIOS, 5 to 12 s through
/// OVMF under TCG; iPXE waits 15 s for a link.
pub const BOOT_CLIENT: Limit = Limit {
    what: "a DHCP message of what boots from the NIC",
    seconds: 60.0,
};
/// From that message to the first file that is asked for, and from one file to the next: 1 to 3 s for an
/// image's 41 MB under TCG.
pub const TFTP_REQUEST: Limit = Limit {
    what: "a TFTP request",
    seconds: 60.0,
};
/// From a boot ROM's last TFTP request to userspace: 9 s under TCG, most of it the kernel unpacking
/// itself.
pub const FETCHED_BOOTS: Limit = Limit {
    what: "userspace of what was fetched",
    seconds: 90.0,
};
/// A live migration of a guest's 256 MiB, of which some 100 are not empty; QEMU sends 128 MiB/s.
pub const MIGRATED: Limit = Limit {
    what: "the migration to end",
    seconds: 60.0,
};
/// From the source's end of a migration to the guest's running at the destination: some 10 ms.
pub const ARRIVED: Limit = Limit {
    what: "RESUME",
    seconds: 10.0,
};
/// From the guest's running at the destination to the first announcement of its NIC: QEMU's own comes
/// at once.
pub const ANNOUNCED: Limit = Limit {
    what: "the NIC's announcement",
    seconds: 5.0,
};
/// From the close of one of QEMU's sockets to its exit: it gives back its memory in between, and on a busy
/// machine waits its turn. It is waited for only where QEMU is about to end.
pub const QEMU_EXIT: Limit = Limit {
    what: "QEMU's exit",
    seconds: 5.0,
};
/// How long no ping may be answered while a guest moves; QEMU means to stop it for 0.3 s.
pub const DOWNTIME: Limit = Limit {
    what: "the guest to run again",
    seconds: 3.0,
};
/// SPICE_MIGRATE_COMPLETED after the migration's own end: at once.
pub const SPICE_TOLD: Limit = Limit {
    what: "SPICE_MIGRATE_COMPLETED",
    seconds: 3.0,
};
/// A SPICE server's answer to a client: some milliseconds.
pub const SPICE_GREETING: Limit = Limit {
    what: "the SPICE server's answer",
    seconds: 3.0,
};
/// DISCOVER to ACK with a client that backs off.
pub const DHCP_LEASE: Limit = Limit {
    what: "a DHCP lease",
    seconds: 12.0,
};
/// A test of netperf, beyond the time that it measures for; one that ends after so much traffic takes
/// up to 3 s under TCG.
pub const NETPERF: Limit = Limit {
    what: "netperf to end",
    seconds: 15.0,
};
/// A reply that ping did not wait for: it leaves after two round trips, a guest under TCG takes
/// some milliseconds a fragment.
pub const LATE_REPLY: Limit = Limit {
    what: "late replies on the wire",
    seconds: 2.0,
};
/// How long silence must last to count, after something that would have been answered in 10 ms.
pub const SILENCE: Limit = Limit {
    what: "silence on the wire",
    seconds: 2.0,
};
/// A connection, and the first MiB; 0.1 s, and rtl8139 carries some 5 MiB a second under TCG.
pub const TRANSFER: Limit = Limit {
    what: "the transfer",
    seconds: 12.0,
};
/// How long EDK2's PXE client may collect offers before it asks for a file, however fast the host is: it
/// takes one when a try ends, of which there are four of 4, 8, 16 and 32 s (`mPxeDhcpTimeout` in
/// NetworkPkg/UefiPxeBcDxe/PxeBcDhcp4.c, after the PXE specification 2.1).
pub const EDK2_OFFERS: Duration = Duration::from_secs(4 + 8 + 16 + 32);
/// Each further MiB of a transfer, seconds on the reference host.
pub const TRANSFER_MIB: f64 = 1.0;
/// How long after the last datagram no further one is on its way.
pub const DATAGRAM: Limit = Limit {
    what: "a datagram",
    seconds: 1.0,
};
/// How long a datagram may still be on its way when its sender has ended: it is in queues of a guest that a
/// busy host does not let run. Waited for only where one is missing.
pub const LATE_DATAGRAM: Limit = Limit {
    what: "late datagrams",
    seconds: 5.0,
};
/// Six changes of a NIC under traffic; under a second, but e1000 loses its link for 3-4 s with each.
pub const CHANGES: Limit = Limit {
    what: "the changes under traffic",
    seconds: 60.0,
};
/// One trial, everything included; a case may ask for more by its profile's figures.
pub const TRIAL: Limit = Limit {
    what: "the whole trial",
    seconds: 240.0,
};

impl PartialEq for Limit {
    fn eq(&self, other: &Limit) -> bool {
        self.what == other.what
    }
}

impl Eq for Limit {}

/// How many times its span a deadline lasts at most, where the host keeps what is waited for from running.
const MOST: u32 = 4;

/// Between two looks at how much the host has let run, once the span is over.
const LOOK: Duration = Duration::from_millis(20);

/// Between two looks at most, at what tells of no change.
const LOOK_MAX: Duration = Duration::from_secs(2);

impl Limit {
    /// Starts the clock, scaled by this host's speed.
    pub fn start(self) -> Deadline {
        self.start_with(Duration::ZERO)
    }

    /// Starts the clock with `more` on top, for work whose length is known.
    pub fn start_with(self, more: Duration) -> Deadline {
        delay::meter().note();
        Deadline {
            limit: self,
            started: Instant::now(),
            span: Duration::from_secs_f64(self.seconds * speed()) + more,
        }
    }
}

/// A running limit. Its time does not pass while the host keeps from running what the calling thread has started
/// ([`super::delay`]), up to four times the span in all. Where it is missed although the host gave no more than a
/// tenth of a processor, nothing is said of the NIC.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    limit: Limit,
    started: Instant,
    span: Duration,
}

impl Deadline {
    /// Time left, or `None` when it is over. It may be more later on: ask again.
    pub fn left(&self) -> Option<Duration> {
        self.left_on(&delay::meter())
    }

    /// As [`Deadline::left`], for what the thread of `meter` does.
    pub fn left_on(&self, meter: &Meter) -> Option<Duration> {
        self.left_by(|| meter.since(self.started))
    }

    fn left_by(&self, delay: impl FnOnce() -> Duration) -> Option<Duration> {
        let passed = self.started.elapsed();
        if passed < self.span {
            return Some(self.span - passed);
        }
        let whole = self.stretched(delay());
        (passed < whole).then(|| (whole - passed).max(LOOK))
    }

    /// Before another look at what tells of no change: lets half as long pass as has passed, at most [`LOOK_MAX`], so that
    /// looking takes little of what is looked at. False, and at once, when it is over.
    pub fn look_again(&self) -> bool {
        let Some(left) = self.left() else {
            return false;
        };
        let pause = (self.started.elapsed() / 2).clamp(LOOK, LOOK_MAX);
        std::thread::sleep(pause.min(left));
        true
    }

    /// How long it lasts with that delay since its start.
    fn stretched(&self, delayed: Duration) -> Duration {
        self.span + delayed.min(self.span * (MOST - 1))
    }

    /// How long it lasts, by what the host has kept from running up to now: what is measured from outside may
    /// take no longer.
    pub fn allowed(&self) -> Duration {
        self.stretched(delay::meter().since(self.started))
    }

    /// The whole span, of a host that lets everything run: how long something lasts that begins now, or what a
    /// program is given that has a clock of its own.
    pub fn span(&self) -> Duration {
        self.span
    }

    /// The error when it is over: a [`Missed`]. `seen` says what there was instead.
    pub fn missed(&self, seen: impl Display) -> anyhow::Error {
        self.missed_on(&delay::meter(), seen)
    }

    /// As [`Deadline::missed`], for what the thread of `meter` does.
    pub fn missed_on(&self, meter: &Meter, seen: impl Display) -> anyhow::Error {
        let missed = Missed {
            limit: self.limit,
            waited: self.started.elapsed(),
            seen: seen.to_string(),
        };
        self.excused_on(meter, missed.into())
    }

    /// As [`Until::excused`].
    pub fn excused(&self, error: anyhow::Error) -> anyhow::Error {
        self.excused_on(&delay::meter(), error)
    }

    fn excused_on(&self, meter: &Meter, error: anyhow::Error) -> anyhow::Error {
        let delayed = meter.since(self.started);
        excused(error, starved(self.started.elapsed(), delayed))
    }
}

/// The end of a wait.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// At that moment.
    Moment(Instant),
    /// When that is over.
    Deadline(Deadline),
}

impl From<Instant> for Until {
    fn from(moment: Instant) -> Until {
        Until::Moment(moment)
    }
}

impl From<Deadline> for Until {
    fn from(deadline: Deadline) -> Until {
        Until::Deadline(deadline)
    }
}

impl Until {
    /// Time left, or `None` when it is over; see [`Deadline::left`].
    pub fn left(&self) -> Option<Duration> {
        match self {
            Until::Moment(moment) => {
                let left = moment.saturating_duration_since(Instant::now());
                (!left.is_zero()).then_some(left)
            }
            Until::Deadline(deadline) => deadline.left(),
        }
    }

    /// Adds to the error of a wait in vain, which says what was seen, that the host let nothing run meanwhile,
    /// where that is so.
    pub fn excused(&self, error: anyhow::Error) -> anyhow::Error {
        match self {
            Until::Moment(_) => error,
            Until::Deadline(deadline) => deadline.excused(error),
        }
    }
}

/// A deadline that was missed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("waited {:.1} s for {}; {seen}", .waited.as_secs_f64(), .limit.what)]
pub struct Missed {
    /// Which.
    pub limit: Limit,
    /// How long it was waited for.
    pub waited: Duration,
    /// What there was instead.
    pub seen: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::find;

    #[test]
    fn a_missed_deadline_says_what_was_awaited_and_what_was_seen() {
        let deadline = Limit {
            what: "a reply",
            seconds: 0.0,
        }
        .start();
        assert!(deadline.left().is_none());
        let error = anyhow::Error::new(Missed {
            limit: deadline.limit,
            waited: Duration::from_millis(40),
            seen: "saw 3 ARP requests instead".into(),
        });
        assert_eq!(
            error.to_string(),
            "waited 0.0 s for a reply; saw 3 ARP requests instead"
        );
        let error = error.context("in round 2");
        let missed: &Missed = find(&error).unwrap();
        assert_eq!(missed.limit.what, "a reply");
        assert_ne!(missed.limit, FIRST_PING);
    }

    #[test]
    fn no_two_limits_await_the_same() {
        let (limits, _) = include_str!("deadline.rs")
            .split_once("impl PartialEq")
            .unwrap();
        let names = limits
            .lines()
            .filter_map(|line| line.trim().strip_prefix("what: "));
        let names: Vec<&str> = names.collect();
        let distinct: std::collections::BTreeSet<&&str> = names.iter().collect();
        assert!(names.len() > 20, "{names:?}");
        assert_eq!(distinct.len(), names.len(), "{names:?}");
    }

    #[test]
    fn extra_time_is_not_scaled_away() {
        let deadline = Limit {
            what: "x",
            seconds: 1.0,
        }
        .start_with(Duration::from_secs(9));
        assert!(deadline.span() >= Duration::from_secs(10));
        assert!(deadline.left().is_some());
    }

    /// A deadline that began so long ago.
    fn begun(ago: Duration, span: Duration) -> Deadline {
        Deadline {
            limit: FIRST_PING,
            started: Instant::now() - ago,
            span,
        }
    }

    #[test]
    fn time_in_which_the_host_let_nothing_run_does_not_count_up_to_a_bound() {
        let seconds = Duration::from_secs;
        let left = |ago, delayed: u64| {
            let left = begun(seconds(ago), seconds(10)).left_by(|| seconds(delayed));
            left.map(|left| left.as_secs_f64().round())
        };
        assert_eq!(left(4, 0), Some(6.0));
        assert_eq!(left(12, 0), None);
        assert_eq!(left(12, 5), Some(3.0));
        assert_eq!(left(16, 5), None);
        assert_eq!(left(39, 39), Some(1.0));
        assert_eq!(left(41, 41), None);
        // A meter that is asked is not asked before the span is over.
        let unasked = begun(seconds(1), seconds(10)).left_by(|| unreachable!());
        assert!(unasked.is_some());
    }
}
