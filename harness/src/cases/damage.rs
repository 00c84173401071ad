//! What no case looks at and every trial is judged by: frames that leave the guest's NIC damaged, and what
//! the guest's kernel says. Each breakage here leaves the case itself content.

use super::faults::{self, IN_TRAFFIC};
use super::promisc::FOREIGN_MAC;
use super::{Fault, Red};
use crate::matrix::{Backend, Cell};
use crate::net::addr;
use crate::net::forged;
use crate::net::probe::{self, Sender};

/// A VLAN that no guest joins.
const NOBODYS_VLAN: u16 = 77;

/// A frame is put between NIC and tap.
pub(super) const FORGED: Fault = Fault {
    applies: |cell| cell.backend == Backend::Tap && !tells_hashes(cell),
    ..IN_TRAFFIC
};

/// As [`FORGED`], of what only a NIC can send that leaves work to its tap.
const LEFT_TO_TAP: Fault = Fault {
    applies: |cell| (FORGED.applies)(cell) && faults::virtio(cell),
    ..FORGED
};

/// With hashes, virtio has a longer header before its frames, if the driver asks for it.
fn tells_hashes(cell: &Cell) -> bool {
    cell.nic.variant.property("hash") == Some("on")
}

/// The NIC sends a TCP segment whose checksum is wrong.
pub(super) const CHANGED_TCP: Fault = Fault {
    name: "changed_tcp",
    breaks: "the NIC sends a TCP segment whose checksum is wrong, and the host drops it without a word",
    inject: |bed| bed.forge(&[forged::changed_tcp(bed.nic().mac)?]),
    red: Red::Says("TCP segments (1,054 bytes) left the guest with a wrong checksum"),
    ..FORGED
};

/// The NIC sends a TCP segment over IPv6 whose checksum is wrong.
pub(super) const CHANGED_TCP6: Fault = Fault {
    name: "changed_tcp6",
    breaks: "the NIC sends a TCP segment over IPv6 whose checksum is wrong, and the host drops it without a word",
    inject: |bed| bed.forge(&[forged::changed_tcp6(bed.nic().mac)?]),
    red: Red::Says("TCP segments (1,074 bytes) left the guest with a wrong checksum"),
    ..FORGED
};

/// The NIC sends a UDP datagram whose checksum is wrong.
pub(super) const CHANGED_UDP: Fault = Fault {
    name: "changed_udp",
    breaks: "the NIC sends a UDP datagram whose checksum is wrong",
    inject: |bed| bed.forge(&[forged::changed_udp(bed.nic().mac)?]),
    red: Red::Says("UDP datagrams (1,042 bytes) left the guest with a wrong checksum"),
    ..FORGED
};

/// The NIC makes no UDP checksums.
pub(super) const BLANK_UDP: Fault = Fault {
    name: "blank_udp",
    breaks: "the NIC sends UDP datagrams without a checksum, which the host takes",
    inject: |bed| {
        let frame = forged::without_checksum(bed.nic().mac, forged::DISCARD)?;
        bed.forge(&[frame.clone(), frame.clone(), frame])
    },
    red: Red::Says("UDP datagrams left the guest without a checksum"),
    ..FORGED
};

/// The NIC sends an ICMP message whose checksum is wrong.
pub(super) const CHANGED_ICMP: Fault = Fault {
    name: "changed_icmp",
    breaks: "the NIC sends an ICMP message whose checksum is wrong",
    inject: |bed| bed.forge(&[forged::changed_icmp(bed.nic().mac)?]),
    red: Red::Says("ICMP messages (1,042 bytes) left the guest with a wrong checksum"),
    ..FORGED
};

/// The NIC sends an IPv4 header whose checksum is wrong.
pub(super) const CHANGED_IPV4: Fault = Fault {
    name: "changed_ipv4",
    breaks: "the NIC sends an IPv4 header whose checksum is wrong",
    inject: |bed| bed.forge(&[forged::changed_ipv4(bed.nic().mac)?]),
    red: Red::Says("IPv4 headers (1,042 bytes) left the guest with a wrong checksum"),
    ..FORGED
};

/// The NIC sends less of a packet than its header says.
pub(super) const CUT_SHORT: Fault = Fault {
    name: "cut_short",
    breaks: "the NIC sends less of a packet than its header says",
    inject: |bed| bed.forge(&[forged::cut_short(bed.nic().mac)?]),
    red: Red::Says("IP packets (942 bytes) left the guest with lengths that make no sense"),
    ..FORGED
};

/// The NIC sends a TCP segment of 60,000 bytes as one plain frame.
pub(super) const NEVER_CUT: Fault = Fault {
    name: "never_cut",
    breaks: "the NIC sends a TCP segment of 60,000 bytes as one plain frame, which tap and bridge carry",
    inject: |bed| bed.forge(&[forged::never_cut(bed.nic().mac)?]),
    red: Red::Says("left the guest longer than its MTU and not to be segmented"),
    ..FORGED
};

/// The NIC has its tap cut a TCP segment into frames longer than the MTU.
pub(super) const CUT_TOO_LONG: Fault = Fault {
    name: "cut_too_long",
    breaks: "the NIC has its tap cut a TCP segment into frames longer than the MTU",
    inject: |bed| bed.forge(&[forged::cut_too_long(bed.nic().mac)?]),
    red: Red::Says("left the guest with segments longer than its MTU"),
    ..LEFT_TO_TAP
};

/// The NIC leaves a TCP segment's checksum to its tap at a wrong place.
pub(super) const COMPLETED_ELSEWHERE: Fault = Fault {
    name: "completed_elsewhere",
    breaks: "the NIC leaves a TCP segment's checksum to its tap at a wrong place, which the host does not look at",
    inject: |bed| bed.forge(&[forged::completed_elsewhere(bed.nic().mac)?]),
    red: Red::Says("TCP segments (1,054 bytes) left the guest with a wrong checksum"),
    ..LEFT_TO_TAP
};

/// The NIC sends a frame with a MAC that is not its own.
pub(super) const FOREIGN_SOURCE: Fault = Fault {
    name: "foreign_source",
    breaks: "the NIC sends a frame with a MAC that is not its own",
    inject: |bed| bed.forge(&[forged::foreign(FOREIGN_MAC)]),
    red: Red::Says("left the guest with a source MAC that none of its NICs has"),
    ..FORGED
};

/// The NIC puts the tag of a VLAN that nobody is in on a frame.
pub(super) const TAGGED: Fault = Fault {
    name: "tagged",
    breaks: "the NIC puts the tag of a VLAN that nobody is in on a frame",
    inject: |bed| bed.forge(&[forged::tagged(bed.nic().mac, NOBODYS_VLAN)?]),
    red: Red::Says("left the guest in a VLAN that it has not joined"),
    ..FORGED
};

/// The NIC sends a frame twice.
pub(super) const SENT_TWICE: Fault = Fault {
    name: "sent_twice",
    breaks: "the NIC sends a frame twice",
    inject: |bed| {
        let frame = forged::numbered(bed.nic().mac)?;
        bed.forge(&[frame.clone(), frame])
    },
    red: Red::Says("left the guest twice"),
    ..FORGED
};

/// The NIC cuts segments and gives all the same identification.
pub(super) const CUT_ALIKE: Fault = Fault {
    name: "cut_alike",
    breaks: "the NIC gives two segments of a connection the same identification",
    inject: |bed| bed.forge(&forged::cut_alike(bed.nic().mac)?),
    red: Red::Says("left the guest with the identification of another segment"),
    ..FORGED
};

/// The NIC cuts segments and leaves the push flag in all.
pub(super) const CUT_PUSHING: Fault = Fault {
    name: "cut_pushing",
    breaks: "the NIC has four full segments of a connection push, one right behind the other",
    inject: |bed| {
        let mtu = bed.cell.nic.default_mtu();
        bed.forge(&forged::cut_pushing(bed.nic().mac, mtu)?)
    },
    red: Red::Says("left the guest with its push flag, as the three right before it"),
    ..FORGED
};

/// The NIC sends the answer to a later request first.
pub(super) const OVERTAKEN: Fault = Fault {
    name: "overtaken",
    breaks: "the NIC sends the answer to a later echo request first",
    inject: |bed| {
        // An address that no guest has, so that the guest does not answer.
        let nobody = (bed.nic().mac, addr::guest(100));
        let keys = [(1, 1), (1, 2)];
        let host = Sender::open()?;
        for key in keys {
            host.send(&probe::echo(nobody, key)?)?;
        }
        bed.forge(&[
            forged::answer(nobody, keys[1])?,
            forged::answer(nobody, keys[0])?,
        ])
    },
    red: Red::Says("left the guest after the reply to a later request"),
    ..FORGED
};

/// The NIC hands up a datagram otherwise than it came.
pub(super) const CHANGED_TO_GUEST: Fault = Fault {
    name: "changed_to_guest",
    breaks: "the NIC hands up a datagram otherwise than it came",
    inject: |bed| bed.forge_to_guest(&[forged::changed_from_host(bed.nic().mac)?]),
    red: Red::Says("Udp InCsumErrors 1"),
    ..FORGED
};

/// The NIC hands up less than came.
pub(super) const CUT_TO_GUEST: Fault = Fault {
    name: "cut_to_guest",
    breaks: "the NIC hands up less of a packet than came",
    inject: |bed| bed.forge_to_guest(&[forged::cut_from_host(bed.nic().mac)?]),
    red: Red::Says("IpExt InTruncatedPkts 1"),
    ..FORGED
};

/// The guest's kernel complains of the NIC.
pub(super) const HANG_TOLD: Fault = Fault {
    name: "hang_told",
    breaks: "the guest's kernel says that the NIC's transmit unit hangs",
    inject: |bed| {
        let line = "<3>e1000e 0000:00:02.0 eth0: Detected Hardware Unit Hang:";
        bed.agent.sh(&format!("echo '{line}' >/dev/kmsg")).map(drop)
    },
    red: Red::Says("the guest's console shows a transmit hang: "),
    ..IN_TRAFFIC
};
