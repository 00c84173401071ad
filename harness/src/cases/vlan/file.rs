//! Files from one guest to another in a VLAN: what a NIC cuts into segments, and sums up, then has a tag besides.

use super::super::transfer::{limit, take, whole};
use super::{HERE, Member, THERE};
use crate::base::deadline::{self, Deadline};
use crate::guest::agent::{Output, said};
use crate::net::capture::{Capture, Fence};
use crate::net::transfer;
use anyhow::{anyhow, ensure};
use std::net::IpAddr;
use std::time::Duration;

/// Long enough for a hundred full frames, KiB.
const BLOCKS: u32 = 144;
/// Where the receiver listens.
const PORT: u16 = 5015;
const SENT: &str = "/tmp/vlan-sent";
const RECEIVED: &str = "/tmp/vlan-received";

/// Fails where a guest's netcat has, which waits by the guest's clock: where the host let nothing run since `limit` began,
/// that is the host's.
fn ended(command: &str, output: &Output, limit: Deadline) -> anyhow::Result<()> {
    if output.code == 0 {
        return Ok(());
    }
    let code = output.code;
    Err(limit.excused(anyhow!("`{command}` ended with {code}: {}", said(output))))
}

/// Shows that a file crosses whole from one guest to the other.
///
/// # Errors
/// One that does not.
pub(super) fn expect_whole(from: &Member, to: &Member, whose: &str) -> anyhow::Result<()> {
    let limit = limit(BLOCKS, Duration::ZERO);
    let idle = limit.span();
    let write = transfer::write_command(BLOCKS, SENT);
    from.agent.sh(&write)?;
    let listen = format!("{} >{RECEIVED}", to.dialect.listen_tcp(PORT, idle));
    let listening = to.agent.start(&listen)?;
    // State 0A of /proc/net/tcp is LISTEN.
    let listens = format!("grep -q ':{PORT:04X} 00000000:0000 0A ' /proc/net/tcp");
    to.agent
        .until(&listens, deadline::GUEST_COMMAND, "cat /proc/net/tcp")?;
    let send = from.dialect.send_tcp(to.address.into(), PORT, idle);
    let sent = format!("{send} <{SENT} && rm {SENT}");
    let sent = from.agent.run_for(&sent, idle)?;
    ended(&send, &sent, limit)?;
    let heard = to.agent.finish(listening, idle)?;
    ended(&listen, &heard, limit)?;
    let received = take(to.agent, RECEIVED, Duration::ZERO)?;
    let expected = whole(BLOCKS);
    ensure!(
        received == expected,
        "the file of {expected} arrived at {whose} as {received}"
    );
    Ok(())
}

/// Shows that each frame of the files had the VLAN's tag on the guest's tap: what has lost it is lost, and TCP sends it
/// again.
///
/// # Errors
/// Frames that had another, or none.
pub(super) fn expect_tagged(wire: &Capture, fence: Fence, id: u16) -> anyhow::Result<()> {
    let ends = [HERE, THERE].map(IpAddr::from);
    let frames = wire.frames(fence)?;
    let (mut tagged, mut strays) = (0, 0);
    for frame in &frames {
        let ours = frame.ip().is_some_and(|ip| ends.contains(&ip.source));
        match ours && frame.tcp_ports().is_some() {
            true if frame.vlan_id() == Some(id) => tagged += 1,
            true => strays += 1,
            false => {}
        }
    }
    ensure!(
        strays == 0 && tagged > 0,
        "of the files' frames {tagged} crossed the guest's tap with that tag, and {strays} without it"
    );
    Ok(())
}
