//! Plan item 15: a big file by UDP, in datagrams of netcat's size and of sizes that fit a frame.

use super::faults::{IN_TRAFFIC, LOSSY, TAP_UNPLUGGED, wrap};
use super::transfer::{self as files, ALTERED, SENT};
use super::{Case, Fault, Moment, Red};
use crate::base::deadline;
use crate::guest::agent::said;
use crate::guest::dialect::Op;
use crate::net::addr::HOST;
use crate::net::datagrams::{UdpSink, dropped_at};
use crate::net::sabotage;
use crate::net::transfer::{self, BLOCK};
use crate::testbed::Testbed;
use anyhow::ensure;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// IPv4's header without options and UDP's (RFC 791, RFC 768), bytes.
const HEADERS: usize = 20 + 8;
/// The most that a netcat puts into a datagram, bytes: IPv4's longest packet.
const DATAGRAM: usize = 1 << 16;
/// How many datagrams of each size that fits a frame, at most.
const FRAMES: usize = 512;

/// Plan item 15.
pub static UDP_TRANSFER: Case = Case {
    name: "udp_transfer",
    plan_item: "15",
    passes: "of a file of numbered blocks that the guest sends to the host, in netcat's datagrams of many frames, in such as fill a frame, and in such as are a byte shorter, nothing arrives corrupt, twice or after what was sent later, and nothing is lost but what the guest's or the host's kernel counted as dropped",
    ops: &[Op::Address],
    seconds: files::seconds,
    faults: &[
        Fault {
            red: Red::Says("corrupt"),
            ..ALTERED
        },
        Fault {
            red: Red::Says("were lost"),
            ..LOSSY
        },
        Fault {
            name: "rarely_lossy",
            breaks: "every 400th frame that the guest sends is dropped on its tap",
            inject: |bed| {
                let tap = bed.nic().tap.clone();
                sabotage::drop_every(&tap, 400)
            },
            red: Red::Says("were lost"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "odd_lost",
            breaks: "packets a byte shorter than the MTU are dropped on the tap",
            inject: |bed| {
                let tap = bed.nic().tap.clone();
                sabotage::drop_length(&tap, largest(bed) + HEADERS - 1)
            },
            red: Red::Says("were lost"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "overtaken",
            breaks: "the guest sends the first of the datagrams that fit a frame last",
            inject: |bed| {
                let script = "for word; do case $word in count=*) count=${word#count=};; esac; done; \
                              \"$REAL\" \"$@\" skip=1 count=$((count - 1)); \"$REAL\" \"$@\" count=1";
                wrap(bed, "dd", script)
            },
            red: Red::Says("came after a later one"),
            ..IN_TRAFFIC
        },
        Fault {
            red: Red::Says("were lost"),
            ..TAP_UNPLUGGED
        },
    ],
    run: udp_transfer,
    ..Case::PLAIN
};

/// Has the guest write a file of numbered blocks and send it by UDP: through netcat, whose datagrams are
/// fragmented by the guest's kernel, then in datagrams that the NIC itself may have to checksum.
fn udp_transfer(bed: &mut Testbed) -> anyhow::Result<()> {
    bed.up()?;
    let blocks = transfer::blocks(bed.profile.transfer_mib);
    files::make_file(bed, blocks)?;
    bed.moment(Moment::Traffic)?;
    let begun = Instant::now();
    let netcat = Sending {
        host: HOST.into(),
        bytes: blocks as usize * BLOCK,
        piece: BLOCK,
        pieces: DATAGRAM / BLOCK,
    };
    let dialect = bed.cell.guest.dialect;
    send(bed, &netcat, |port| {
        format!("{} <{SENT}", dialect.send_udp(HOST.into(), port))
    })?;
    bed.notes.push(files::rate(blocks, begun.elapsed()));

    for size in [largest(bed), largest(bed) - 1] {
        send_framed(bed, HOST.into(), size, netcat.bytes)?;
    }
    bed.expect_quiet_kernel()
}

/// Sends the begin of the guest's file, which is `file` bytes long, to the host's address in datagrams of
/// `size` bytes, and demands all of it.
pub(super) fn send_framed(
    bed: &Testbed,
    host: IpAddr,
    size: usize,
    file: usize,
) -> anyhow::Result<()> {
    let count = FRAMES.min(file / size);
    let framed = Sending {
        host,
        bytes: count * size,
        piece: size,
        pieces: 1,
    };
    // Bash opens such a path as a socket, and each write of dd is a datagram.
    send(bed, &framed, |port| {
        format!(
            "bash -c 'dd if={SENT} bs={size} count={count} 2>/dev/null >/dev/udp/{host}/{port}'"
        )
    })
}

/// Bytes of data in a datagram that fills a frame.
fn largest(bed: &Testbed) -> usize {
    bed.cell.nic.default_mtu() as usize - HEADERS
}

/// A part of the file on its way.
struct Sending {
    /// The host's address.
    host: IpAddr,
    /// From the file's beginning.
    bytes: usize,
    /// What is told apart, bytes.
    piece: usize,
    /// So many of these in a datagram, at most.
    pieces: usize,
}

/// Has the guest run a command that sends to the port that it is given.
fn send(bed: &Testbed, sending: &Sending, command: impl Fn(u16) -> String) -> anyhow::Result<()> {
    let mut sink = UdpSink::open(sending.host, sending.bytes, sending.piece)?;
    let command = command(sink.port());
    let mark = bed.wire()?.mark()?;
    let before = dropped(bed)?;
    let blocks = u32::try_from(sending.bytes.div_ceil(BLOCK))?;
    let limit = files::limit(blocks, Duration::ZERO);
    let running = bed.agent.start(&command)?;
    sink.drain(deadline::DATAGRAM.start().span())?;
    let ended = bed.agent.finish(running, limit.span())?;
    ensure!(
        ended.code == 0,
        "in the guest, `{command}` ended with {}: {}",
        ended.code,
        said(&ended)
    );
    sink.drain(deadline::LATE_DATAGRAM.start().span())?;
    let (arrived, pieces, bytes) = (sink.arrived(), sink.pieces(), sending.piece);
    ensure!(
        arrived.corrupt == 0,
        "of {pieces} pieces of {bytes} bytes {} arrived corrupt, the first: {}",
        arrived.corrupt,
        arrived.first_corrupt.unwrap_or_default()
    );
    ensure!(
        arrived.twice == 0,
        "of {pieces} pieces of {bytes} bytes {} arrived twice",
        arrived.twice
    );
    ensure!(
        arrived.overtaken == 0,
        "of {pieces} pieces of {bytes} bytes {} came after a later one",
        arrived.overtaken
    );
    let owned = dropped(bed)? - before + sink.dropped()?;
    ensure!(
        u64::from(arrived.lost) <= owned * sending.pieces as u64,
        "of {pieces} pieces of {bytes} bytes {} were lost, and of their datagrams the guest's and the host's \
         kernel dropped {owned}; the tap showed: {}",
        arrived.lost,
        bed.wire()?.summary(mark)?
    );
    Ok(())
}

/// What the guest's kernel has dropped before its NIC got it (of its sockets, its queueing discipline and
/// its driver), and this machine's between QEMU and the bridge, frames or datagrams.
fn dropped(bed: &Testbed) -> anyhow::Result<u64> {
    let dev = bed.link()?.name;
    // A guest without tc has no count of its queueing discipline's.
    let counts = bed.agent.sh(&format!(
        "cat /sys/class/net/{dev}/statistics/tx_dropped; \
         tc -s qdisc show dev {dev} 2>/dev/null | sed -n '2s/.*(dropped \\([0-9]*\\),.*/\\1/p'; \
         awk '/^Udp: [0-9]/ {{ print $7 }}' /proc/net/snmp; \
         awk '/^Udp6SndbufErrors/ {{ print $2 }}' /proc/net/snmp6"
    ))?;
    let in_guest: u64 = counts.lines().filter_map(|n| n.parse::<u64>().ok()).sum();
    Ok(in_guest + dropped_at(&bed.nic().tap)?)
}
