//! Whether each of a NIC's queues carries frames, both ways.

use crate::base::deadline::Limit;
use crate::cases::multiqueue::{Vector, vectors};
use crate::guest::link::Link;
use crate::testbed::Testbed;
use anyhow::{anyhow, ensure};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};

/// Nobody listens there (RFC 863), and the guest's kernel refuses each connection.
const DISCARD: u16 = 9;
/// A connection's refusal takes a millisecond; e1000 holds frames back for 1 s after its filter was
/// changed.
const REFUSAL: Limit = Limit {
    what: "the refusal of a connection",
    seconds: 5.0,
};
/// Frames come in and go out by each of the queues in use, when so many connections are tried.
///
/// # Errors
/// By which nothing does.
pub(in crate::cases) fn each_carries(
    bed: &Testbed,
    link: &Link,
    queues: u32,
    flows: u32,
) -> anyhow::Result<()> {
    let dev = &link.name;
    let look = format!(
        "basename $(readlink -f {}); cat /proc/interrupts; tc -s qdisc show dev {dev}",
        Testbed::device_directory(link)
    );
    let counts = || -> anyhow::Result<_> {
        let text = bed.agent.sh(&look)?;
        let device = text.lines().next().unwrap_or_default();
        Ok((vectors(&text, device), sent_by_queue(&text)))
    };
    let before = counts()?;
    refused_flows(bed, flows)?;
    let after = counts()?;
    let mut idle = Vec::new();
    for queue in 0..queues {
        let interrupts = |vectors: &BTreeMap<String, Vector>| {
            let vector = vectors.get(&format!("input.{queue}"));
            vector.map_or(0, |vector| vector.count)
        };
        if interrupts(&after.0) <= interrupts(&before.0) {
            idle.push(format!("input.{queue}"));
        }
        // tc numbers them from 1.
        let sent = |by: &BTreeMap<u32, u64>| by.get(&(queue + 1)).copied().unwrap_or(0);
        if sent(&after.1) <= sent(&before.1) {
            idle.push(format!("output.{queue}"));
        }
    }
    ensure!(
        idle.is_empty(),
        "{flows} connections went by some of {queues} queues only; nothing moved on {}",
        idle.join(", ")
    );
    Ok(())
}

/// Connections from many ports, each of which the guest refuses: a frame in and a frame out.
fn refused_flows(bed: &Testbed, flows: u32) -> anyhow::Result<()> {
    let target = SocketAddr::from((bed.address(), DISCARD));
    let limit = REFUSAL.start().span();
    for flow in 1..=flows {
        let connected = TcpStream::connect_timeout(&target, limit);
        let refused =
            matches!(&connected, Err(error) if error.kind() == ErrorKind::ConnectionRefused);
        if !refused {
            let what = connected.map_or_else(|error| error.to_string(), |_| "accepted".into());
            return Err(anyhow!(
                "of {flows} connections to {target}, the {flow}th was not refused: {what}"
            ));
        }
    }
    Ok(())
}

/// Packets that each transmit queue has sent, by tc's number of it, from `tc -s qdisc`: a line
/// `qdisc … parent :N …` and below it ` Sent BYTES bytes PACKETS pkt …`.
fn sent_by_queue(text: &str) -> BTreeMap<u32, u64> {
    let mut found = BTreeMap::new();
    let mut queue = None;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first() == Some(&"qdisc") {
            let parent = words.iter().position(|word| *word == "parent");
            let parent = parent.and_then(|at| words.get(at + 1)?.rsplit(':').next());
            // tc writes it in hexadecimal.
            queue = parent.and_then(|number| u32::from_str_radix(number, 16).ok());
        } else if let (Some(queue), ["Sent", _, "bytes", packets, "pkt", ..]) = (queue, &words[..])
        {
            found.insert(queue, packets.parse().unwrap_or(0));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_by_transmit_queue() {
        let text = "qdisc mq 0: root \n Sent 900 bytes 10 pkt (dropped 0, overlimits 0 requeues 0) \n backlog 0b 0p requeues 0\n\
                    qdisc pfifo_fast 0: parent :2 bands 3 priomap 1 2\n Sent 500 bytes 6 pkt (dropped 0, overlimits 0 requeues 0) \n\
                    qdisc pfifo_fast 0: parent :1 bands 3 priomap 1 2\n Sent 400 bytes 4 pkt (dropped 0, overlimits 0 requeues 0) \n";
        assert_eq!(sent_by_queue(text), BTreeMap::from([(1, 4), (2, 6)]));
    }
}
