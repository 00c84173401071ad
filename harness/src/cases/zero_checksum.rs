//! A UDP checksum that comes to zero is sent as all ones, as zero says that none was made (RFC 768). One datagram of
//! 65,536 has it, and whoever sends a zero has the rest of them unprotected, or over IPv6 thrown away.

use super::damage::FORGED;
use super::faults::{IN_TRAFFIC, wrap};
use super::{Case, Fault, Moment, Red};
use crate::base::deadline;
use crate::base::error::OrCannotRun as _;
use crate::guest::dialect::Op;
use crate::net::addr::{HOST, IPV6_GUEST, IPV6_HOST, octets};
use crate::net::forged;
use crate::net::frame::Direction;
use crate::net::vnet_header::pseudo_sum;
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};
use etherparse::UdpHeader;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

/// The host's port, in a network of its own.
const PORT: u16 = 7007;
/// What the guest sends first, so that its port is known.
const HELLO: &[u8] = b"hello\n";
/// What it is sent, and sends back, before a word that makes the sum come to all ones.
const TEXT: &[u8] = b"checksum";
/// Datagrams that may come before the guest's first.
const OTHERS: usize = 8;

/// Beyond the plan.
pub static ZERO_CHECKSUM: Case = Case {
    name: "zero_checksum",
    passes: "a UDP datagram of the guest's whose checksum comes to zero leaves its NIC with ffff for it, or with the checksum left to the tap, over IPv4 and IPv6, and reaches the host",
    ops: &[Op::Address, Op::Address6],
    faults: &[
        Fault {
            name: "as_zero",
            breaks: "the NIC sends a datagram with zero for its checksum",
            // QEMU's rtl8139 does so anyway.
            applies: |cell| (FORGED.applies)(cell) && cell.nic.device != "rtl8139",
            inject: |bed| bed.forge(&[forged::without_checksum(bed.nic().mac, PORT)?]),
            red: Red::Says("left the guest with 0000 for its checksum"),
            ..FORGED
        },
        Fault {
            name: "another",
            breaks: "the guest sends back another text, whose checksum comes to something else",
            inject: |bed| {
                wrap(
                    bed,
                    "dd",
                    "case \"$*\" in *bs=64*) \"$REAL\" \"$@\" | tr cks KCS;; *) exec \"$REAL\" \"$@\";; esac",
                )
            },
            red: Red::Says("came back as"),
            ..IN_TRAFFIC
        },
    ],
    run: zero_checksum,
    ..Case::PLAIN
};

fn zero_checksum(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    bed.know_each_other(&link)?;
    sent_as_ones(bed, HOST.into(), bed.address().into())?;
    if bed.bridge.enable_ipv6()? {
        bed.apply(Op::Address6, &link, &format!("{IPV6_GUEST}/64"))?;
        bed.reach_at(IPV6_GUEST.into(), deadline::FIRST_PING)?;
        sent_as_ones(bed, IPV6_HOST.into(), IPV6_GUEST.into()).context("over IPv6")?;
    } else {
        bed.notes.push("the host's kernel has no IPv6".into());
    }
    bed.expect_quiet_kernel()
}

/// Has the guest send a datagram, learns its port from it, and has it send another whose checksum comes to zero.
fn sent_as_ones(bed: &mut Testbed, host: IpAddr, guest: IpAddr) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((host, PORT)).or_cannot_run(|| "receive UDP".into())?;
    let limit = deadline::FIRST_PING.start().span();
    (socket.set_read_timeout(Some(limit))).or_cannot_run(|| "set a socket's timeout".into())?;
    let fence = bed.fence()?;
    bed.moment(Moment::Traffic)?;
    // One read is one datagram, and one write is.
    let echo = format!(
        "bash -c 'exec 3<>/dev/udp/{host}/{PORT}; echo hello >&3; dd bs=64 count=1 <&3 >&3'"
    );
    let running = bed.agent.start(&echo)?;
    let mut buffer = [0; 256];
    let mut next = || -> Option<(Vec<u8>, SocketAddr)> {
        let (length, from) = socket.recv_from(&mut buffer).ok()?;
        Some((buffer[..length].to_vec(), from))
    };
    let mut first = std::iter::from_fn(&mut next).take(OTHERS);
    let (_, from) = first
        .find(|(text, _)| text == HELLO)
        .context("the guest's first datagram did not reach the host")?;
    let text = with_sum_of_ones((guest, from.port()), host)?;
    (socket.send_to(&text, from)).or_cannot_run(|| format!("send to {from}"))?;
    let (answer, _) = next()
        .context("the guest's datagram whose checksum comes to zero did not reach the host")?;
    bed.agent.finish(running, Duration::ZERO)?;
    ensure!(
        answer == text,
        "what the guest was sent, {text:02x?}, came back as {answer:02x?}"
    );
    let frames = bed.wire()?.frames(fence)?;
    let sent = frames.iter().filter(|frame| {
        let to = frame.udp_ports().map(|(_, to)| to);
        frame.direction == Direction::FromGuest && to == Some(PORT)
    });
    let fields: Vec<u16> = sent.filter_map(|frame| frame.udp_checksum()).collect();
    let left = left_to_the_tap((guest, host), text.len());
    let last = fields.last().copied();
    let none_made = fields.iter().copied().find(|field| *field == 0);
    let wrong = none_made.or(last.filter(|field| ![0xffff, left].contains(field)));
    ensure!(
        last.is_some() && wrong.is_none(),
        "a UDP datagram whose checksum comes to zero left the guest with {} for its checksum, where ffff is due (RFC 768), \
         or {left:04x} if the tap is to make it",
        wrong.map_or("nothing".into(), |field| format!("{field:04x}"))
    );
    Ok(())
}

/// What makes the checksum of a datagram from `guest` to `host` come to zero.
fn with_sum_of_ones((guest, port): (IpAddr, u16), host: IpAddr) -> anyhow::Result<Vec<u8>> {
    let mut text = [TEXT, &[0, 0]].concat();
    let header = UdpHeader::without_ipv4_checksum(port, PORT, text.len())?;
    let sum = match (guest, host) {
        (IpAddr::V4(guest), IpAddr::V4(host)) => {
            header.calc_checksum_ipv4_raw(guest.octets(), host.octets(), &text)?
        }
        (IpAddr::V6(guest), IpAddr::V6(host)) => {
            header.calc_checksum_ipv6_raw(guest.octets(), host.octets(), &text)?
        }
        _ => anyhow::bail!("{guest} and {host} are not of one version"),
    };
    // The checksum is what the words lack to all ones.
    text[TEXT.len()..].copy_from_slice(&sum.to_be_bytes());
    Ok(text)
}

/// The sum of the pseudo header, which the checksum's field has where the tap is to add the rest.
fn left_to_the_tap((guest, host): (IpAddr, IpAddr), text: usize) -> u16 {
    let addresses = [octets(guest), octets(host)].concat();
    pseudo_sum(&addresses, 17, (UdpHeader::LEN + text) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::checksum::Sum16BitWords;

    #[test]
    fn a_word_makes_the_checksum_come_to_zero() {
        let pairs: [(IpAddr, IpAddr); 2] = [
            ([198, 18, 0, 2].into(), HOST.into()),
            (IPV6_GUEST.into(), IPV6_HOST.into()),
        ];
        for (guest, host) in pairs {
            let text = with_sum_of_ones((guest, 40_000), host).unwrap();
            let whole = Sum16BitWords::new()
                .add_2bytes(left_to_the_tap((guest, host), text.len()).to_be_bytes())
                .add_2bytes(40_000_u16.to_be_bytes())
                .add_2bytes(PORT.to_be_bytes())
                .add_2bytes(((UdpHeader::LEN + text.len()) as u16).to_be_bytes())
                .add_slice(&text);
            assert_eq!(whole.ones_complement(), 0, "{guest}");
        }
    }
}
