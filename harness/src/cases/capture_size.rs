//! Plan item 16: the packet sizes that tcpdump shows in the guest.

use super::faults::{IN_TRAFFIC, LOSSY};
use super::ping::SIZES;
use super::promisc::TCPDUMP;
use super::{Case, Fault, Moment, Red};
use crate::base::deadline;
use crate::guest::dialect::Op;
use crate::net::addr::HOST;
use crate::net::frame::{Frame, Icmp};
use crate::testbed::Testbed;
use anyhow::{Context as _, bail, ensure};
use std::net::IpAddr;
use std::time::Duration;

/// Where the guest's tcpdump writes.
const SEEN: &str = "/tmp/nicmatrix-capture";
/// Headers, bytes.
const IP: u32 = 20;
const ICMP: u32 = 8;
/// Payload of the echoes before and behind those that count: none of the plan's sizes.
const MARKER: u32 = 99;

/// Plan item 16.
pub static CAPTURE_SIZE: Case = Case {
    name: "capture_size",
    plan_item: "16",
    passes: "`tcpdump -vvv` in the guest prints an echo request and a reply of each of 12 sizes, fragments added up, in the order in which they were sent, and nothing else; it drops nothing, and the tap shows the same",
    ops: &[Op::Address],
    faults: &[
        Fault {
            red: Red::Says("tcpdump shows echoes of"),
            ..LOSSY
        },
        Fault {
            name: "another_ping",
            breaks: "another program on the host pings the guest meanwhile",
            inject: |bed| {
                let report = bed.ping().count(1).size(1000).run()?;
                report.expect_all_answered(1)
            },
            red: Red::Says("tcpdump shows echoes of"),
            ..IN_TRAFFIC
        },
    ],
    run: capture_size,
    ..Case::PLAIN
};

/// An IPv4 packet or a fragment of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    from: IpAddr,
    identification: u32,
    offset: u32,
    /// Whether another follows.
    more: bool,
    /// Bytes after the IP header.
    payload: u32,
}

/// Starts tcpdump in the guest and sends an echo of each size between two markers. What tcpdump shows
/// between the markers, fragments added up, must be the sizes that were sent, and so must be what the
/// tap shows.
fn capture_size(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    let dev = &link.name;
    let dump = bed.agent.start(&format!(
        "tcpdump -vvv -n -l -i {dev} icmp >{SEEN} 2>{SEEN}.err & echo $! >{SEEN}.pid; wait"
    ))?;
    bed.agent.until(
        &format!("grep -q listening {SEEN}.err"),
        TCPDUMP,
        &format!("cat {SEEN}.err"),
    )?;
    // It sets promiscuous mode, and e1000 then holds frames back for 1 s.
    bed.reach(deadline::FIRST_PING)?;
    let mark = bed.wire()?.mark()?;
    let begin = marker(bed, 1)?;
    // The guest has printed the marker's answer, which may still be in its NIC.
    let fence = bed
        .wire()?
        .behind(mark, deadline::FIRST_PING.start(), |frame| {
            let marked = frame
                .ip()
                .is_some_and(|ip| ip.payload_length == (MARKER + ICMP) as u16);
            marked && matches!(frame.icmp(), Some(Icmp::EchoReply { .. }))
        })?;
    bed.moment(Moment::Traffic)?;
    for size in SIZES {
        let ping = bed.ping().count(1).size(size);
        if ping.run()?.received == 0 {
            break; // what tcpdump shows tells more
        }
    }
    let expected = SIZES.map(|size| size + ICMP);
    let frames = bed.wire()?.frames(fence)?;
    let end = marker(bed, 2)?;
    let text = bed.agent.sh(&format!("tail -c +{} {SEEN}", begin + 1))?;
    bed.agent.sh(&format!("kill -INT $(cat {SEEN}.pid)"))?;
    bed.agent.finish(dump, Duration::ZERO)?;
    // Without its files, so that another tcpdump is not taken to listen by the words of this one.
    let ended = bed
        .agent
        .sh(&format!("cat {SEEN}.err; rm {SEEN} {SEEN}.err {SEEN}.pid"))?;
    ensure!(
        ended.contains("\n0 packets dropped by kernel"),
        "the guest's tcpdump should have dropped nothing: {}",
        ended.trim()
    );
    let shown = parse(&text).with_context(|| format!("{} bytes of tcpdump", end - begin))?;
    let on_wire: Vec<Part> = frames.iter().filter_map(part).collect();
    for from in [HOST, bed.address()].map(IpAddr::from) {
        let mut found = whole(&shown, from).context("tcpdump shows a packet in pieces")?;
        ensure!(
            found.pop() == Some(MARKER + ICMP),
            "tcpdump shows no marker from {from} at the end: {found:?}"
        );
        ensure!(
            found == expected,
            "tcpdump shows echoes of {found:?} bytes from {from}, but the plan's are of {expected:?}"
        );
        let found = whole(&on_wire, from).context("the tap shows a packet in pieces")?;
        ensure!(
            found == expected,
            "the tap shows echoes of {found:?} bytes from {from}, but the plan's are of {expected:?}"
        );
    }
    bed.expect_quiet_kernel()
}

/// Sends the `nth` echo of the marker's size and waits until tcpdump has printed it and its reply;
/// how many bytes it has written then.
fn marker(bed: &Testbed, nth: u32) -> anyhow::Result<u64> {
    let _unjudged = bed.ping().count(1).size(MARKER).spawn()?;
    let printed = format!("grep -c 'ICMP echo re.* length {}$' {SEEN}", MARKER + ICMP);
    let bytes = bed.agent.once(
        &format!("[ $({printed}) = {} ]", 2 * nth),
        TCPDUMP,
        &format!("tail -n 6 {SEEN}"),
        &format!("wc -c <{SEEN}"),
    )?;
    Ok(bytes.trim().parse()?)
}

/// What a frame carries of an ICMP packet.
fn part(frame: &Frame) -> Option<Part> {
    let ip = frame.ip().filter(|ip| ip.protocol == 1)?;
    Some(Part {
        from: ip.source,
        identification: ip.identification,
        offset: ip.fragment_offset,
        more: ip.more_fragments,
        payload: ip.payload_length.into(),
    })
}

/// What `tcpdump -vvv -n` prints, two lines a packet:
/// `9:41:03.3 IP (tos 0x0, ttl 64, id 7, offset 0, flags [+], proto ICMP (1), length 1500)` and
/// `    198.18.0.1 > 198.18.0.2: ICMP echo request, id 1, seq 1, length 1480`.
fn parse(text: &str) -> anyhow::Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut lines = text.lines();
    while let (Some(header), addresses) = (lines.next(), lines.next()) {
        let field = |name: &str| {
            let (_, rest) = header.split_once(name)?;
            rest.split([',', ')']).next()
        };
        let read = || {
            let (from, _) = addresses?.trim().split_once(" > ")?;
            Some(Part {
                from: from.parse().ok()?,
                identification: field(", id ")?.parse().ok()?,
                offset: field(", offset ")?.parse().ok()?,
                more: field(", flags ")?.contains('+'),
                payload: field(", length ")?.parse::<u32>().ok()?.checked_sub(IP)?,
            })
        };
        match read() {
            Some(part) => parts.push(part),
            None => bail!("tcpdump printed {header:?}, {addresses:?}"),
        }
    }
    Ok(parts)
}

/// Bytes of payload of each packet from one address, fragments added up.
fn whole(parts: &[Part], from: IpAddr) -> anyhow::Result<Vec<u32>> {
    let mut sizes = Vec::new();
    let mut last: Option<Part> = None;
    for part in parts.iter().filter(|part| part.from == from) {
        let size = match last.filter(|last| last.more) {
            None => 0,
            Some(last) if last.identification == part.identification => {
                sizes.pop().unwrap_or_default()
            }
            Some(last) => bail!("{last:?} is followed by {part:?}"),
        };
        ensure!(
            part.offset == size,
            "{part:?} comes when {size} bytes of its packet have"
        );
        sizes.push(size + part.payload);
        last = Some(*part);
    }
    match last {
        Some(last) if last.more => bail!("{last:?} is the last"),
        _ => Ok(sizes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
09:41:03.3 IP (tos 0x0, ttl 64, id 7, offset 0, flags [DF], proto ICMP (1), length 28)
    198.18.0.1 > 198.18.0.2: ICMP echo request, id 1, seq 1, length 8
09:41:03.4 IP (tos 0x0, ttl 64, id 9, offset 0, flags [none], proto ICMP (1), length 28)
    198.18.0.2 > 198.18.0.1: ICMP echo reply, id 1, seq 1, length 8
09:41:03.5 IP (tos 0x0, ttl 64, id 8, offset 0, flags [+], proto ICMP (1), length 1500)
    198.18.0.1 > 198.18.0.2: ICMP echo request, id 2, seq 1, length 1480
09:41:03.5 IP (tos 0x0, ttl 64, id 8, offset 1480, flags [none], proto ICMP (1), length 48)
    198.18.0.1 > 198.18.0.2: ip-proto-1
";

    #[test]
    fn fragments_are_added_up() {
        let parts = parse(TEXT).unwrap();
        assert_eq!(whole(&parts, HOST.into()).unwrap(), [8, 1508]);
        assert_eq!(whole(&parts, "198.18.0.2".parse().unwrap()).unwrap(), [8]);
    }

    #[test]
    fn a_missing_fragment_is_an_error() {
        let parts = parse(TEXT).unwrap();
        let without = |index: usize| {
            let mut parts = parts.clone();
            parts.remove(index);
            format!("{:#}", whole(&parts, HOST.into()).unwrap_err())
        };
        assert!(without(3).ends_with("is the last"), "{}", without(3));
        assert!(
            without(2).contains("0 bytes of its packet"),
            "{}",
            without(2)
        );
        let other = Part {
            identification: 3,
            ..parts[3]
        };
        let error = whole(&[parts[2], other], HOST.into())
            .unwrap_err()
            .to_string();
        assert!(error.contains("is followed by"), "{error}");
    }

    #[test]
    fn a_line_that_is_none_is_an_error() {
        let error = parse("09:41:03.3 ARP, Request who-has\n").unwrap_err();
        assert!(error.to_string().contains("ARP"), "{error}");
    }
}
