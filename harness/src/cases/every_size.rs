//! A frame of each length there is, both ways: a device may go wrong at one of them.

use super::faults::{IN_TRAFFIC, wrap};
use super::promisc::TCPDUMP;
use super::surviving::at_once;
use super::{Case, Fault, Moment, Red};
use crate::base::deadline;
use crate::guest::agent::{Running, said};
use crate::guest::dialect::Op;
use crate::net::bridge;
use crate::net::capture::{Capture, Room};
use crate::net::frame::{Frame, Icmp};
use crate::net::probe::{self, Sender};
use crate::net::sabotage;
use crate::testbed::Testbed;
use anyhow::{Context as _, bail, ensure};
use std::collections::BTreeMap;
use std::time::Duration;

/// The echo requests' identifier.
const ID: u16 = 0x5125;
/// Ethernet's header, and with those of IPv4 and ICMP, bytes.
const ETHERNET: usize = 14;
const HEADERS: usize = ETHERNET + 20 + 8;
/// The lengths that the faults choose, bytes of the IP packet.
const LOST: u16 = 777;
const CHANGED: u16 = 901;

/// In the guest: where its tcpdump says that it listens.
const LISTENS: &str = "/tmp/every_size";

/// Beyond the plan.
pub static EVERY_SIZE: Case = Case {
    name: "every_size",
    passes: "an echo request of each length, from an empty one to a frame that the NIC's MTU just allows, is answered once, by as many bytes, each of them as it was sent; the guest's tcpdump shows the shortest filled up with zeros, if with anything",
    ops: &[Op::Address],
    seconds: |_| 30.0,
    faults: &[
        Fault {
            name: "one_lost",
            breaks: "what the guest sends in packets of 777 bytes is dropped",
            inject: |bed| sabotage::drop_length(&bed.nic().tap, LOST.into()),
            red: Red::Says("a frame of 791 bytes"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "one_changed",
            breaks: "what the guest sends in packets of 901 bytes has two words of its payload swapped, which no checksum shows",
            inject: |bed| {
                let frame = ETHERNET + usize::from(CHANGED);
                let word = |at| u16::from_be_bytes([byte(at, frame), byte(at + 1, frame)]);
                sabotage::set_in_length(&bed.nic().tap, CHANGED, [word(62), word(60)])
            },
            red: Red::Says(
                "the echo of 915 bytes came back otherwise than it was sent, from byte 60 on",
            ),
            ..IN_TRAFFIC
        },
        Fault {
            name: "filled_up",
            breaks: "the guest's tcpdump shows other words in the place of zeros",
            // Others hand up a short frame as it is.
            applies: |cell| ["e1000", "e1000e", "8139cp"].contains(&cell.nic.driver.as_str()),
            inject: |bed| wrap(bed, "tcpdump", "\"$REAL\" \"$@\" | sed 's/ 0000/ 5a5a/g'"),
            red: Red::Says("is filled up with"),
            ..IN_TRAFFIC
        },
    ],
    run: every_size,
    ..Case::PLAIN
};

fn every_size(bed: &mut Testbed) -> anyhow::Result<()> {
    bed.up()?;
    bed.moment(Moment::Traffic)?;
    let tcpdump = watch_the_shortest(bed)?;
    answers_each(bed, 1)?;
    expect_zeros_behind_it(bed, tcpdump)?;
    bed.expect_quiet_kernel()
}

/// Has a tcpdump in the guest show the first request that [`answers_each`] sends.
fn watch_the_shortest(bed: &Testbed) -> anyhow::Result<Running> {
    let dev = bed.link()?.name;
    let shortest = format!("icmp[0] == 8 and icmp[4:2] == {ID} and icmp[6:2] == {HEADERS}");
    let tcpdump = (bed.agent).start(&format!(
        "tcpdump -p -n -xx -c 1 -i {dev} '{shortest}' 2>{LISTENS}"
    ))?;
    let (listens, look) = (
        format!("grep -q listening {LISTENS}"),
        format!("cat {LISTENS}"),
    );
    bed.agent.until(&listens, TCPDUMP, &look)?;
    Ok(tcpdump)
}

/// What fills up a frame to Ethernet's shortest is zeros (RFC 894): anything else was in the memory of somebody.
fn expect_zeros_behind_it(bed: &Testbed, tcpdump: Running) -> anyhow::Result<()> {
    let output = bed.agent.finish(tcpdump, Duration::ZERO)?;
    let frame = dumped(&output.stdout);
    let Some(rest) = frame.get(HEADERS..) else {
        bail!(
            "the guest's tcpdump showed {} bytes of a frame of {HEADERS}: {}",
            frame.len(),
            said(&output)
        );
    };
    ensure!(
        rest.iter().all(|byte| *byte == 0),
        "in the guest a frame of {HEADERS} bytes is filled up with {rest:02x?}, not with zeros"
    );
    Ok(())
}

/// The bytes that `tcpdump -xx` prints of a frame.
fn dumped(text: &str) -> Vec<u8> {
    let lines = text.lines().filter_map(|line| line.trim().split_once(':'));
    let words = lines
        .filter(|(at, _)| at.starts_with("0x"))
        .flat_map(|(_, words)| words.split_whitespace());
    let digits: String = words.collect();
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map_while(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

/// The guest answers echo requests from the shortest to the longest frame, each `step` bytes longer than the one before,
/// and the longest.
///
/// # Errors
/// One that is not answered, or otherwise; the host's.
pub(super) fn answers_each(bed: &Testbed, step: usize) -> anyhow::Result<()> {
    bridge::set_neighbour_permanent(bed.address(), bed.nic().mac)?;
    let longest = ETHERNET + bed.cell.nic.default_mtu() as usize;
    let mut lengths: Vec<usize> = (HEADERS..longest).step_by(step).collect();
    lengths.push(longest);
    // Of what passes the bridge the testbed's own capture keeps the headers alone.
    let replies = Capture::start(bridge::NAME, Room::Few)?;
    // As many at once as each NIC has room for.
    for part in lengths.chunks(at_once(&bed.cell.nic.driver)) {
        answered(bed, &replies, part)?;
    }
    bridge::flush_neighbour(bed.address())
}

/// What a frame of so many bytes has at `at`.
fn byte(at: usize, length: usize) -> u8 {
    (at * 7 + length) as u8
}

/// Sends a request of each of `lengths`, which tell them apart, and looks at what comes back.
fn answered(bed: &Testbed, replies: &Capture, lengths: &[usize]) -> anyhow::Result<()> {
    let sender = Sender::open()?;
    let target = (bed.nic().mac, bed.address());
    let mark = replies.mark()?;
    let mut sent = BTreeMap::new();
    for length in lengths {
        let seq = u16::try_from(*length)?;
        let payload: Vec<u8> = (HEADERS..*length).map(|at| byte(at, *length)).collect();
        sender.send(&probe::echo_with(target, (ID, seq), &payload)?)?;
        sent.insert(seq, payload);
    }
    let limit = deadline::FIRST_PING.start();
    for (seq, payload) in sent {
        let length = payload.len() + HEADERS;
        let answers = |frame: &Frame| frame.icmp() == Some(Icmp::EchoReply { id: ID, seq });
        let reply = replies.wait(mark, limit, answers).with_context(|| {
            format!("an echo request in a frame of {length} bytes was not answered")
        })?;
        let back = reply.bytes.get(HEADERS..length).unwrap_or_default();
        let differs = (back.iter().zip(&payload)).position(|(back, sent)| back != sent);
        let from = differs.or((back.len() != payload.len()).then_some(back.len()));
        ensure!(
            from.is_none(),
            "the echo of {length} bytes came back otherwise than it was sent, from byte {} on, in a frame of {} bytes",
            from.unwrap_or_default() + HEADERS,
            reply.length
        );
        // Ethernet's shortest frame is longer than the shortest of these.
        ensure!(
            reply.length == length || reply.length == probe::SHORTEST && length < probe::SHORTEST,
            "the echo of {length} bytes came back in a frame of {} bytes",
            reply.length
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_tcpdump_prints_is_read_whole() {
        let printed = "11:24:01.1 IP 198.18.0.1 > 198.18.0.2: ICMP echo request, id 20773, seq 42, length 8\n\
                       \t0x0000:  5254 0012 3456 0200 c612 0001 0800 4500\n\
                       \t0x0010:  001c 00\n";
        let expected = [
            0x52, 0x54, 0, 0x12, 0x34, 0x56, 2, 0, 0xc6, 0x12, 0, 1, 8, 0, 0x45, 0, 0, 0x1c, 0,
        ];
        assert_eq!(dumped(printed), expected);
        assert!(dumped("nothing\n").is_empty());
    }
}
