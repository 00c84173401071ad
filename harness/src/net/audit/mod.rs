//! Judges every frame that a guest sends, in every trial with a tap: what leaves a NIC must be whole whatever
//! the case looks at. A peer is no judge of it: a kernel trusts a checksum that a tap is left to complete,
//! and drops what is damaged without a word.
//!
//! A frame on a tap is the guest's by the way it went, which the kernel knows: what QEMU or vhost wrote. Its
//! source MAC says nothing, as a damaged one is looked for.

mod duplicates;
mod findings;
mod fragments;
mod order;
mod pushes;
mod transport;

pub use findings::Findings;

use super::addr::Mac;
use super::frame::Direction;
use super::ring::Raw;
use super::vnet_header::{self, Segmentation};
use duplicates::{Recent, Seen};
use findings::Kind;
use fragments::Fragments;
use order::Order;
use parking_lot::Mutex;
use pushes::Pushes;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use transport::{Datagram, Network, Verdict};

/// Ethernet's header without a VLAN tag, bytes.
const ETHERNET: usize = 14;
/// A VLAN tag, bytes.
const TAG: usize = 4;
/// EtherTypes of VLAN tags: 802.1Q and 802.1ad.
const TAGGED: [u16; 2] = [0x8100, 0x88a8];
/// Ethernet's shortest frame without its checksum: what is shorter is filled up to it, bytes.
const SHORTEST: usize = 60;
/// How long an IPv4 packet's identification is its own: a sender begins anew after 65,535, which takes longer.
const IDENTIFIES: Duration = Duration::from_secs(1);
/// usbnet adds a byte to a frame whose transfer would else end with a full USB packet (`usbnet_start_xmit`).
const USB_PADDING: usize = 1;

/// What a trial's guests may send: grows with what the case has them do.
#[derive(Debug, Default)]
struct Terms {
    macs: BTreeSet<Mac>,
    vlans: BTreeSet<u16>,
    mtu: u32,
    /// Whether its guests may answer in another order than they were asked.
    any_order: bool,
}

/// The witness of one trial, shared by its captures: what the guests may send, and what they sent.
#[derive(Debug, Clone, Default)]
pub struct Witness(Arc<Mutex<(Terms, Findings)>>);

impl Witness {
    /// A NIC of a guest may have this MAC, from now on.
    pub fn allow_mac(&self, mac: Mac) {
        self.0.lock().0.macs.insert(mac);
    }

    /// A guest may join this VLAN.
    pub fn allow_vlan(&self, id: u16) {
        self.0.lock().0.vlans.insert(id);
    }

    /// A guest's NIC may have an MTU of so many bytes. Frames of a larger one may be under way when it is
    /// lowered, so the largest counts.
    pub fn allow_mtu(&self, mtu: u32) {
        let terms = &mut self.0.lock().0;
        terms.mtu = terms.mtu.max(mtu);
    }

    /// Guests have several processors or queues, which answer echoes each for itself.
    pub fn allow_any_order(&self) {
        self.0.lock().0.any_order = true;
    }

    /// What has been found so far. Captures that still run are to be asked for their last frames first.
    pub fn findings(&self) -> Findings {
        self.0.lock().1.clone()
    }
}

/// Judges the frames of one tap.
#[derive(Debug)]
pub(super) struct Auditor {
    witness: Witness,
    fragments: Fragments,
    recent: Recent,
    order: Order,
    pushes: Pushes,
}

impl Auditor {
    pub(super) fn new(witness: &Witness) -> Auditor {
        Auditor {
            witness: witness.clone(),
            fragments: Fragments::default(),
            recent: Recent::default(),
            order: Order::default(),
            pushes: Pushes::default(),
        }
    }

    /// Frames that the capture lost.
    pub(super) fn lost(&mut self, frames: u64) {
        self.witness.0.lock().1.lost(frames);
    }

    /// Judges a frame, if it is the guest's.
    pub(super) fn judge(&mut self, raw: &Raw<'_>) {
        if raw.bytes.len() < ETHERNET {
            return;
        }
        if raw.direction != Direction::FromGuest {
            let (start, ethertype) = tags(raw, |_| ());
            if let Some(Some(network)) = network(&raw.bytes[start..], ethertype) {
                self.order.asked(&network);
            }
            return;
        }
        let (terms, findings) = &mut *self.witness.0.lock();
        findings.frame();
        let mut note = |kind, ok| findings.note(kind, ok, raw);

        let source = Mac(raw.bytes[6..12].try_into().unwrap_or_default());
        // A group never sends, whatever a guest was asked to call itself.
        note(
            Kind::Source,
            !source.is_group() && terms.macs.contains(&source),
        );
        let (start, ethertype) = tags(raw, |id| {
            note(Kind::Vlan, id == 0 || terms.vlans.contains(&id))
        });
        let mtu = terms.mtu as usize;
        match raw.left.segmentation {
            None => note(Kind::Size, raw.length <= start + mtu),
            // The kernel has refused those without a size (virtio_net_hdr_to_skb).
            Some(_) => note(Kind::Size, true),
        }

        let bytes = &raw.bytes[start..];
        let length = raw.length - start;
        let Some(network) = network(bytes, ethertype) else {
            return;
        };
        let Some(network) = network.filter(|network| fits(network, length, raw.length)) else {
            note(Kind::Malformed, false);
            return;
        };
        note(Kind::Malformed, true);
        if let Some(right) = network.checksum_is_right {
            note(Kind::Ipv4Checksum, right);
        }
        if let Some(seen) = self.recent.seen(&network, raw.time) {
            note(Kind::Duplicate, seen != Seen::Twice);
            if seen == Seen::Twice {
                return;
            }
            note(Kind::Identification, seen != Seen::Shares);
        }

        if let Some(in_order) = self.order.answers(&network) {
            note(Kind::Order, in_order || terms.any_order);
        }

        if let Some(at_the_end) = self.pushes.judge(&network, mtu) {
            note(Kind::Push, at_the_end);
        }

        let datagram = match network.fragment {
            None => Some(network.datagram(start)),
            Some(fragment) => match self.fragments.add(&network, fragment, raw.time) {
                fragments::Added::Whole(datagram) => Some(datagram),
                fragments::Added::Waits => None,
                fragments::Added::Unknown => {
                    findings.not_judged();
                    None
                }
            },
        };
        let Some(datagram) = datagram else { return };
        if let Some(segmentation) = raw.left.segmentation {
            let fits = segments_fit(&datagram, &network, segmentation, mtu);
            findings.note(Kind::Segments, fits, raw);
        }
        match datagram.judge(raw.left.partial) {
            Verdict::None => {}
            Verdict::Blank => findings.note(Kind::UdpBlank, false, raw),
            Verdict::Unknown => findings.not_judged(),
            Verdict::Malformed => findings.note(Kind::Malformed, false, raw),
            Verdict::Checksum(kind, right) => {
                findings.note(kind, right, raw);
                if kind == Kind::UdpChecksum {
                    findings.note(Kind::UdpBlank, true, raw);
                }
            }
        }
    }
}

/// The IP packet of a frame, none if there is none; within, none where it makes no sense.
fn network(bytes: &[u8], ethertype: u16) -> Option<Option<Network<'_>>> {
    match ethertype {
        0x0800 => Some(Network::ipv4(bytes)),
        0x86dd => Some(Network::ipv6(bytes)),
        _ => None,
    }
}

/// Where the frame's content begins and what it is, behind VLAN tags, each of which is shown to `tag`. The
/// outer one the kernel has taken out.
fn tags(raw: &Raw<'_>, mut tag: impl FnMut(u16)) -> (usize, u16) {
    if let Some((_, control)) = raw.vlan {
        tag(control & 0xfff);
    }
    let word = |at: usize| match raw.bytes.get(at..at + 2) {
        Some(&[a, b]) => u16::from_be_bytes([a, b]),
        _ => 0,
    };
    let mut start = ETHERNET;
    while TAGGED.contains(&word(start - 2)) && start + TAG <= raw.bytes.len() {
        tag(word(start) & 0xfff);
        start += TAG;
    }
    (start, word(start - 2))
}

/// Whether the packet fills the `length` bytes that the frame has for it, but for what fills up a short
/// frame.
fn fits(network: &Network<'_>, length: usize, frame: usize) -> bool {
    match length.checked_sub(network.length) {
        None => false,
        Some(rest) => frame <= SHORTEST || rest <= USB_PADDING,
    }
}

/// Whether the segments are of that protocol, and none is longer than the MTU.
fn segments_fit(
    datagram: &Datagram<'_>,
    network: &Network<'_>,
    segmentation: Segmentation,
    mtu: usize,
) -> bool {
    let expected = match (network.version, datagram.protocol) {
        (4, transport::TCP) => vnet_header::TCPV4,
        (6, transport::TCP) => vnet_header::TCPV6,
        (_, transport::UDP) => vnet_header::UDP,
        _ => return false,
    };
    let headers = network.header + datagram.header();
    segmentation.kind == expected && headers + usize::from(segmentation.size) <= mtu
}

#[cfg(test)]
mod tests;
