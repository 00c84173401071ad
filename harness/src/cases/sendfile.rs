//! Frames of many parts: of a file that a server sends by sendfile(2), each page stays where it is, so that a frame has
//! a descriptor for each of up to seventeen, where a program that writes what it read has two or three.

use super::damage::FORGED;
use super::transfer::{SENT, expect_whole, limit, make_file};
use super::{Case, Fault, Moment, Red, faults};
use crate::base::deadline::Limit;
use crate::guest::dialect::Op;
use crate::net::forged;
use crate::net::frame::Frame;
use crate::net::transfer::{blocks, fetch};
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// The file, MiB.
const MIB: u32 = 2;
/// The server's port (RFC 9110, 4.2.1, has it as an example of another than 80).
const PORT: u16 = 8080;
/// From its start.
const LISTENS: Limit = Limit {
    what: "the guest's HTTP server to listen",
    seconds: 5.0,
};

/// Many descriptors a frame.
pub static SENDFILE: Case = Case {
    name: "sendfile",
    passes: "a file that the guest's HTTP server sends page by page (sendfile) has the same SHA-256 at the host, and on the tap no byte of the connection comes before one that was to be sent earlier",
    ops: &[Op::Address],
    faults: &[
        Fault {
            name: "another",
            breaks: "the guest's file is another one by a byte",
            inject: |bed| {
                let other =
                    format!("printf x | dd of={SENT} bs=1 seek=99 conv=notrunc 2>/dev/null");
                bed.agent.sh(&other).map(drop)
            },
            red: Red::Says("arrived at the host as"),
            ..faults::IN_TRAFFIC
        },
        Fault {
            name: "lost",
            breaks: "of three segments that the server sends the NIC loses the second",
            inject: |bed| bed.forge(&forged::two_of_three(bed.nic().mac, PORT)?),
            red: Red::Says("left the guest before"),
            ..FORGED
        },
    ],
    run: sendfile,
    ..Case::PLAIN
};

fn sendfile(bed: &mut Testbed) -> anyhow::Result<()> {
    bed.up()?;
    let blocks = blocks(MIB);
    make_file(bed, blocks)?;
    let server = format!("busybox httpd -f -p {PORT} -h / </dev/null >/dev/null 2>&1 & echo $!");
    let server = bed.agent.sh(&server)?;
    // Lines of local address and state, in hexadecimal: 0A listens.
    let listens = format!("grep -q ':{PORT:04X} .* 0A ' /proc/net/tcp /proc/net/tcp6");
    bed.agent
        .until(&listens, LISTENS, "cat /proc/net/tcp /proc/net/tcp6")?;
    let fence = bed.fence()?;
    bed.moment(Moment::Traffic)?;
    let address = SocketAddr::new(bed.address().into(), PORT);
    let crossed = fetch(address, SENT, limit(blocks, Duration::ZERO));
    bed.agent.sh(&format!("kill {}", server.trim()))?;
    let frames = bed.wire()?.frames(fence)?;
    let skipped = skipped(&frames);
    expect_whole(&crossed.context("the file was not fetched")?, blocks)?;
    ensure!(
        skipped.is_empty(),
        "{} times bytes of the server's connection left the guest before others that it sent earlier: {}",
        skipped.len(),
        skipped[..skipped.len().min(4)].join("; ")
    );
    bed.expect_quiet_kernel()
}

/// Where what the server sent goes on behind a gap: what was in it has been lost before the tap, as TCP sends in order.
fn skipped(frames: &[Frame]) -> Vec<String> {
    // By the client's port.
    let mut next: BTreeMap<u16, u32> = BTreeMap::new();
    let mut found = Vec::new();
    for frame in frames {
        let (Some((PORT, client)), Some((first, count))) = (frame.tcp_ports(), frame.tcp_bytes())
        else {
            continue;
        };
        let end = first.wrapping_add(count);
        let expected = next.entry(client).or_insert(first);
        // Numbers of 32 bits, which may begin anew: what is ahead by less than half of them is later.
        let ahead = |of: u32| of.wrapping_sub(*expected).cast_signed();
        if ahead(first) > 0 {
            found.push(format!("{} bytes before number {first}", ahead(first)));
        }
        if ahead(end) > 0 {
            *expected = end;
        }
    }
    found
}
