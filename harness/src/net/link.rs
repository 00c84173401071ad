//! Waiting until an interface carries frames.

use super::ip;
use anyhow::{Context as _, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

/// The kernel brings a link's carrier into effect from a work queue, which may put it off by 1 s.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// RTMGRP_LINK of linux/rtnetlink.h: news of interfaces.
const LINK_NEWS: u32 = 1;

/// Waits until all of these interfaces have a carrier, in effect. `ip link set up` returns earlier,
/// and what is sent before is silently lost: until then an interface has a queue that drops all,
/// and a bridge does not forward to such a port.
pub(super) fn wait_ready(names: &[&str]) -> Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let news = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        flags,
        SockProtocol::NetlinkRoute,
    )?;
    bind(news.as_raw_fd(), &NetlinkAddr::new(0, LINK_NEWS))
        .context("cannot listen to the kernel's link news")?;
    let begun = Instant::now();
    loop {
        // Looked at after listening began, so that no change falls in between.
        let waiting = not_ready(names)?;
        if waiting.is_empty() {
            return Ok(());
        }
        let left = READY_LIMIT.saturating_sub(begun.elapsed());
        if left.is_zero() {
            bail!("{} after {} s", waiting.join(", "), READY_LIMIT.as_secs());
        }
        wait_for_news(&news, left)?;
    }
}

/// What each interface that is not ready is like instead.
fn not_ready(names: &[&str]) -> Result<Vec<String>> {
    let mut waiting = Vec::new();
    for name in names {
        let links = ip::json(&format!("link show dev {name}"))?;
        let of = |key: &str| {
            links
                .first()
                .and_then(|link| link[key].as_str())
                .unwrap_or("?")
        };
        let (state, queue) = (of("operstate"), of("qdisc"));
        let carrier = links
            .first()
            .and_then(|link| link["flags"].as_array())
            .is_some_and(|flags| flags.iter().any(|flag| flag == "LOWER_UP"));
        // A tap stays UNKNOWN, which counts as up.
        if !carrier || !["UP", "UNKNOWN"].contains(&state) || queue == "noop" {
            let has = if carrier { "a" } else { "no" };
            waiting.push(format!(
                "{name} is still {state} with {has} carrier and queue {queue}"
            ));
        }
    }
    Ok(waiting)
}

fn wait_for_news(news: &OwnedFd, left: Duration) -> Result<()> {
    let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    poll(&mut [PollFd::new(news.as_fd(), PollFlags::POLLIN)], left)?;
    // What the news is does not matter: all of it is read, and then the links are looked at.
    let mut buffer = [0; 16 << 10];
    while recv(news.as_raw_fd(), &mut buffer, MsgFlags::empty()).is_ok() {}
    Ok(())
}
