//! Plan items 9 and 14: the MTU, and that frames of exactly that size cross.

use super::faults::{self, AT_START, IN_TRAFFIC, TAP_UNPLUGGED, in_guest};
use super::{Case, Fault, Moment, Red};
use crate::base::deadline;
use crate::guest::dialect::Op;
use crate::guest::link::Link;
use crate::net::frame::{self, Frame, Icmp};
use crate::net::probe::{self, Sender};
use crate::net::{addr, bridge, sabotage};
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};

/// IPv4 and ICMP headers, bytes.
const HEADERS: u32 = 28;
/// The place of an address that no NIC has.
const NOBODY: u8 = 191;
/// Ethernet's header as a capture shows it, bytes.
const ETHERNET: usize = 14;

/// Frames from the host to the guest above a size are lost.
const SMALL_TAP: Fault = Fault {
    name: "small_tap",
    breaks: "the tap's MTU is lowered to 1000",
    inject: |bed| {
        let tap = bed.nic().tap.clone();
        sabotage::set_tap_mtu(&tap, 1000)
    },
    red: Red::Says("with the MTU at"),
    ..IN_TRAFFIC
};

const UNPLUGGED: Fault = Fault {
    red: Red::Says("replies came back"),
    ..TAP_UNPLUGGED
};

/// The guest's ping does not refuse: what is too large is sent as a packet that does cross, to somebody who does
/// not answer.
const LOST: Fault = Fault {
    name: "lost_not_refused",
    breaks: "the guest's ping sends less than it is told to, to an address that nobody has",
    inject: |bed| {
        let nobody = addr::guest(NOBODY);
        let lost = format!("exec \"$REAL\" -n -c 1 -W 1 {nobody}");
        let script = format!("case \"$*\" in *' -W 1 -s '*) {lost};; esac\nexec \"$REAL\" \"$@\"");
        faults::wrap(bed, "ping", &script)
    },
    red: Red::Says("did not refuse to send a packet"),
    ..IN_TRAFFIC
};

/// What drivers give their NICs to receive into, or a multiple of it, bytes; and the lengths about it that are tried, of
/// which one has room for Ethernet's checksum.
const BUFFER: u32 = 2048;
const BEFORE: u32 = 5;
const BEHIND: u32 = 1;

/// NICs that drop what is longer than a tagged frame of Ethernet's own MTU, until their driver has set a larger
/// one (RCTL.LPE).
const DROPS_LONG: [&str; 2] = ["e1000", "e1000e"];
/// Bytes of such a frame.
const TOO_LONG: usize = 1600;
/// The identifier of the echo requests by which that shows.
const ID: u16 = 0x6d74;

const LONG_TAKEN: Fault = Fault {
    name: "long_taken",
    breaks: "the NIC takes frames longer than Ethernet's: its driver has set a larger MTU",
    applies: |cell| DROPS_LONG.contains(&cell.nic.driver.as_str()),
    inject: |bed| {
        in_guest(bed, "ip link set dev DEV mtu 2000")?;
        bed.reach(deadline::FIRST_PING)
    },
    red: Red::Says("answered an echo request in a frame of 1600 bytes"),
    ..AT_START
};

/// Plan item 14.
pub static MTU_SET: Case = Case {
    name: "mtu_set",
    plan_item: "14",
    passes: "the MTU set (100 below the one that the driver begins with, then that one: 1400 and 1500 without host_mtu) reads back; an unfragmentable ping of exactly that size crosses both ways and shows as such on the wire; one byte more is refused",
    rearm: Some(faults::nothing),
    ops: &[Op::Address, Op::Mtu],
    faults: &[SMALL_TAP, LOST, UNPLUGGED],
    run: |bed| {
        let link = bed.up()?;
        bed.moment(Moment::Traffic)?;
        let own = bed.cell.nic.default_mtu();
        exactly(bed, &link, own - 100)?;
        exactly(bed, &link, own)
    },
    ..Case::PLAIN
};

/// Plan item 9.
pub static MTU_MAX: Case = Case {
    name: "mtu_max",
    plan_item: "9",
    passes: "the model's largest MTU reads back; an unfragmentable ping of exactly that size (at most the tap's 65521) crosses, and each that fills, or just does not, some buffers of 2 KiB each; one byte more is refused by the guest's kernel; e1000 and e1000e, at Ethernet's MTU, drop a frame of 1600 bytes",
    ops: &[Op::Address, Op::Mtu],
    faults: &[SMALL_TAP, LOST, UNPLUGGED, LONG_TAKEN],
    run: |bed| {
        let link = bed.up()?;
        let largest = bed.cell.nic.max_mtu;
        // Both sides must carry it; a bridge's ports default to Ethernet's 1500.
        bed.bridge
            .set_mtu(largest.max(bed.cell.nic.default_mtu()).min(bridge::MAX_MTU))?;
        if DROPS_LONG.contains(&link.driver.as_str()) {
            expect_dropped(bed)?;
        }
        bed.moment(Moment::Traffic)?;
        exactly(bed, &link, largest)?;
        around_buffers(bed, largest)
    },
    ..Case::PLAIN
};

/// Pings in frames about as long as one, two, four or eight buffers, with and without Ethernet's checksum, are answered.
fn around_buffers(bed: &Testbed, mtu: u32) -> anyhow::Result<()> {
    let ethernet = ETHERNET as u32;
    let frames = [1, 2, 4, 8].map(|count| count * BUFFER);
    let lengths = (frames.iter()).flat_map(|full| full - BEFORE..=full + BEHIND);
    for length in lengths.filter(|length| *length <= mtu + ethernet) {
        bed.expect_replies(1, length - ethernet - HEADERS)
            .with_context(|| format!("with the MTU at {mtu}, in a frame of {length} bytes"))?;
    }
    Ok(())
}

/// A frame that is too long for the NIC is not answered, and one behind it is.
fn expect_dropped(bed: &Testbed) -> anyhow::Result<()> {
    let guest = (bed.nic().mac, bed.address());
    bridge::set_neighbour_permanent(guest.1, guest.0)?;
    let (long, behind) = ((ID, 1), (ID, 2));
    let mark = bed.bridge_mark()?;
    let sender = Sender::open()?;
    sender.send(&probe::echo_with(
        guest,
        long,
        &[0; TOO_LONG - ETHERNET - HEADERS as usize],
    )?)?;
    sender.send(&probe::echo(guest, behind)?)?;
    let answers = |frame: &Frame, (id, seq)| frame.icmp() == Some(Icmp::EchoReply { id, seq });
    bed.await_on_bridge(mark, deadline::FIRST_PING.start(), |frame| {
        answers(frame, behind)
    })
    .context("after a frame that is too long for the NIC")?;
    let taken = bed
        .on_bridge(mark)?
        .iter()
        .any(|frame| answers(frame, long));
    ensure!(
        !taken,
        "at an MTU of {} the guest answered an echo request in a frame of {TOO_LONG} bytes, which {} drops",
        bed.link()?.mtu,
        bed.nic().device
    );
    bridge::flush_neighbour(guest.1)
}

/// Sets `mtu`, reads it back, and shows on the wire that exactly that much crosses.
fn exactly(bed: &mut Testbed, link: &Link, mtu: u32) -> anyhow::Result<()> {
    bed.apply(Op::Mtu, link, &mtu.to_string())?;
    let read = bed.link()?.mtu;
    ensure!(
        read == mtu,
        "the MTU was set to {mtu}, the guest reads back {read}"
    );
    // e1000 resets, and so negotiates its link anew.
    bed.reach(deadline::FIRST_PING)
        .map_err(|error| error.context(format!("0 replies came back with the MTU at {mtu}")))?;
    let fence = bed.fence()?;
    let crossing = mtu.min(bridge::MAX_MTU);
    let size = crossing - HEADERS;
    bed.guest_expect_answered(2, &format!("-M do -i 0.2 -s {size}"), addr::HOST)
        .with_context(|| {
            format!("with the MTU at {mtu}, to {crossing} bytes from the guest not all replies came back")
        })?;
    let ping = bed.ping().dont_fragment().count(2).interval(0.2).size(size);
    bed.expect_answered(&ping, 2)
        .with_context(|| format!("with the MTU at {mtu}, to {crossing} bytes from the host"))?;
    let expected = crossing as usize + ETHERNET;
    let frames = bed.wire()?.frames(fence)?;
    let from_guest = frames
        .iter()
        .filter(|f| f.direction == frame::Direction::FromGuest);
    let largest = from_guest.map(|f| f.length).max();
    ensure!(
        largest == Some(expected),
        "with the MTU at {mtu}, the largest frame of the guest on the wire has {largest:?} bytes, not {expected}"
    );
    expect_refused(bed, mtu)
}

/// Has the guest send one byte more than `mtu` allows, unfragmented: its kernel must refuse to, and nothing may
/// leave the NIC.
fn expect_refused(bed: &Testbed, mtu: u32) -> anyhow::Result<()> {
    let fence = bed.fence()?;
    let over = mtu - HEADERS + 1;
    let report = bed.guest_ping(&format!("-M do -c 1 -W 1 -s {over}"), addr::HOST)?;
    ensure!(
        report.is_refused_as_too_large(),
        "with the MTU at {mtu}, the guest's kernel did not refuse to send a packet of {} bytes that must not be \
         fragmented: {report}",
        mtu + 1
    );
    let left = bed.wire()?.count(fence, |frame| {
        frame.direction == frame::Direction::FromGuest
            && matches!(frame.icmp(), Some(frame::Icmp::EchoRequest { .. }))
    })?;
    ensure!(
        left == 0,
        "with the MTU at {mtu}, the guest refused a packet of {} bytes and sent {left} echo requests",
        mtu + 1
    );
    Ok(())
}
