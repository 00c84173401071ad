//! Pings that must be answered, and pings that must not.

use super::reception::{KERNELS, counters};
use super::{Testbed, start};
use crate::base::deadline::{self, Limit};
use crate::base::error::{CannotRun, find};
use crate::guest::link::Link;
use crate::net::addr::{HOST, HOST_MAC};
use crate::net::bridge;
use crate::net::capture::Fence;
use crate::net::echoes;
use crate::net::frame::{Direction, Frame};
use crate::net::ping::Ping;
use crate::net::ping_report::PingReport;
use anyhow::{Context as _, ensure};
use std::net::{IpAddr, Ipv4Addr};

/// Between two requests of which the second is to find the ring empty again, seconds.
const ONE_AT_A_TIME: f64 = 1.0;
/// How many are asked so at most.
const AGAIN: u32 = 60;

/// In the guest: what its NICs have counted as lost for want of room in a receive ring
/// (`Documentation/networking/statistics.rst`).
const MISSED: &str = "for d in /sys/class/net/*/device; do echo missed $(cat ${d%device}statistics/rx_missed_errors); done";

/// Replies that a kernel has not sent, by IPv4 and IPv6: before it has sent one of 64 KiB, there is no room for another
/// in the socket that it sends them by (Linux's `__ip_append_data`).
const UNSENT: [&str; 2] = ["Icmp OutErrors", "Icmp6OutErrors"];

/// What [`MISSED`] and [`KERNELS`] tell, in words; none where there was room for all.
fn short_of_room(told: &str) -> Option<String> {
    let missed: u64 = told
        .lines()
        .filter_map(|line| line.strip_prefix("missed ")?.trim().parse::<u64>().ok())
        .sum();
    let counters = counters(told);
    let unsent: u64 = UNSENT.iter().filter_map(|name| counters.get(*name)).sum();
    let missed = (missed > 0).then(|| format!("the receive ring had no room for {missed} frames"));
    let unsent =
        (unsent > 0).then(|| format!("the guest's kernel could not send {unsent} replies"));
    let words: Vec<String> = [missed, unsent].into_iter().flatten().collect();
    (!words.is_empty()).then(|| words.join(", and "))
}

impl Testbed {
    /// Pings the guest until the first reply, which must come by the cell's backend.
    ///
    /// # Errors
    /// After `limit`, with what the wire showed; when another backend carried the reply.
    pub fn reach(&self, limit: Limit) -> anyhow::Result<()> {
        self.reach_at(self.address().into(), limit)
    }

    /// As [`Testbed::reach`], at another of its addresses.
    ///
    /// # Errors
    /// As there.
    pub fn reach_at(&self, address: IpAddr, limit: Limit) -> anyhow::Result<()> {
        let mark = self.wire()?.mark()?;
        let (turns, deadline) = (self.vhost_turns(), limit.start());
        if start::answers(address, deadline)? {
            return self.expect_backend(turns);
        }
        let seen = self.wire()?.summary(mark)?;
        Err(self
            .vm
            .explain(deadline.missed(format!("{address} did not answer; the tap showed: {seen}"))))
    }

    /// A moment of the tap's capture at which nothing is under way any more, see [`start::fence`].
    pub fn fence(&self) -> anyhow::Result<Fence> {
        start::fence(self.wire()?, self.address())
    }

    /// A ping from the host to the NIC under test.
    pub fn ping(&self) -> Ping {
        Ping::new(self.address())
    }

    /// A ping from the host to another address.
    pub fn ping_to(&self, target: impl Into<IpAddr>) -> Ping {
        Ping::new(target)
    }

    /// Waits until the guest's agent answers: the guest boots, wakes, or runs where it has moved to.
    ///
    /// # Errors
    /// Its silence; QEMU's end, with what QEMU said.
    pub fn await_guest(&self) -> anyhow::Result<()> {
        let answers = self.agent.await_anew();
        answers.map_err(|error| self.vm.explain(error))
    }

    /// Fails when a frame of the guest has crossed its tap since `fence`, `although` what these words say.
    ///
    /// # Errors
    /// How many have; what the capture lost.
    pub fn expect_nothing_sent(&self, fence: Fence, although: &str) -> anyhow::Result<()> {
        let heard = (self.wire()?).count(fence, |frame| frame.direction == Direction::FromGuest)?;
        ensure!(
            heard == 0,
            "{heard} frames of the guest crossed its tap although {although}"
        );
        Ok(())
    }

    /// A ping in the guest, with `options` of iputils.
    pub fn guest_ping(
        &self,
        options: &str,
        target: impl Into<IpAddr>,
    ) -> anyhow::Result<PingReport> {
        let command = format!("ping -n {options} {}", target.into());
        let output = self.agent.run(&command)?;
        PingReport::parse(&command, &format!("{}\n{}", output.stdout, output.stderr))
    }

    /// Pings from the guest with `options`, and demands a reply to each of `count` requests. Late replies are
    /// awaited: without `-w`, ping leaves two round trips after its last request.
    ///
    /// # Errors
    /// Loss, with ping's own summary.
    pub fn guest_expect_answered(
        &self,
        count: u32,
        options: &str,
        target: impl Into<IpAddr>,
    ) -> anyhow::Result<()> {
        let late = deadline::LATE_REPLY.start().span().as_secs_f64();
        let seconds = (late + f64::from(count)).ceil();
        let report = self.guest_ping(&format!("-c {count} -w {seconds} {options}"), target)?;
        report.expect_first_answered(count.into())
    }

    /// Pings the guest and demands every reply.
    ///
    /// # Errors
    /// Loss, with ping's own summary.
    pub fn expect_replies(&self, count: u32, size: u32) -> anyhow::Result<()> {
        let ping = self.ping().count(count).size(size).interval(0.01);
        self.expect_answered(&ping, count)
    }

    /// Has host and guest know each other's MAC without asking by ARP, the guest on the interface `link`, the host until
    /// [`bridge::flush_neighbour`].
    ///
    /// # Errors
    /// What the host or the guest refuses.
    pub fn know_each_other(&self, link: &Link) -> anyhow::Result<()> {
        bridge::set_neighbour_permanent(self.address(), self.nic().mac)?;
        self.know_host(link)
    }

    /// The guest's half of [`Testbed::know_each_other`], which it forgets when its interface goes down.
    ///
    /// # Errors
    /// What the guest refuses.
    pub fn know_host(&self, link: &Link) -> anyhow::Result<()> {
        let dev = &link.name;
        self.agent
            .sh(&format!(
                "ip neigh replace {HOST} lladdr {HOST_MAC} nud permanent dev {dev}"
            ))
            .map(drop)
    }

    /// Runs `ping` and demands a reply to each of its `count` requests. ping leaves two round trips
    /// after its last request; later replies of a slow guest are looked for on the bridge, among those
    /// to this ping alone. Where the guest counts frames for which its NIC's receive ring had no room, or replies that its
    /// kernel could not send, the host gave it no time: then one request at a time is asked, once more.
    ///
    /// # Errors
    /// Loss, with ping's own summary and the count on the wire.
    pub fn expect_answered(&self, ping: &Ping, count: u32) -> anyhow::Result<()> {
        self.asked_until_answered(ping, count).map(drop)
    }

    /// As [`Testbed::expect_answered`]; how many requests it sent, `count` or up to twice that.
    ///
    /// # Errors
    /// As there.
    pub fn asked_until_answered(&self, ping: &Ping, count: u32) -> anyhow::Result<u32> {
        let Err(error) = self.expect_all_answered(ping, count) else {
            return Ok(count);
        };
        let short_of_room = match self.agent.sh(&format!("{MISSED}; {KERNELS}")) {
            Ok(told) => short_of_room(&told),
            Err(_) => None,
        };
        let Some(why) = short_of_room else {
            return Err(error);
        };
        let again = count.min(AGAIN);
        self.evidence(&format!(
            "{error:#}; {why}: {again} asked again, one at a time"
        ));
        let ping = ping.clone().count(again).interval(ONE_AT_A_TIME);
        self.expect_all_answered(&ping, again)
            .with_context(|| format!("one request at a time, after {why}"))?;
        Ok(count + again)
    }

    fn expect_all_answered(&self, ping: &Ping, count: u32) -> anyhow::Result<()> {
        let count = u64::from(count);
        let host = self.host()?;
        let mark = host.mark()?;
        let report = ping.run()?;
        let Err(complaint) = report.expect_all_answered(count) else {
            return Ok(());
        };
        if find::<CannotRun>(&complaint).is_some() {
            return Err(complaint);
        }
        let may_be_late = report.lacks_only_replies(count);
        let deadline = deadline::LATE_REPLY.start();
        loop {
            let now = host.mark()?;
            let replies = echoes::to_ping(&host.frames_with_late(mark)?, ping.target(), count);
            let once_each = may_be_late && replies.duplicates == 0;
            if once_each && replies.answered == count {
                return Ok(());
            }
            let from_guest = |f: &Frame| f.direction == Direction::FromGuest;
            if !once_each || host.wait(now, deadline, from_guest).is_err() {
                let came = format!("{replies} of {count} replies came back");
                return Err(deadline.excused(complaint.context(came)));
            }
        }
    }

    /// Pings the guest and demands silence.
    ///
    /// # Errors
    /// A reply; too few requests to mean anything.
    pub fn expect_silence(&self, target: Ipv4Addr, why: &str) -> anyhow::Result<()> {
        let silence = deadline::SILENCE.start().span();
        let ping = Ping::new(target).interval(0.1).lasts(silence);
        let report = ping.run()?;
        ensure!(
            report.received == 0 && report.transmitted > 0,
            "`{}`: {} of {} requests were answered although {why}",
            report.command,
            report.received,
            report.transmitted
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_replies_without_room_are_told_apart() {
        let told = |missed: u64, errors: u64, errors6: u64| {
            format!(
                "missed 0\nmissed {missed}\nIcmp: InMsgs InErrors OutMsgs OutErrors OutRateLimitGlobal\n\
                 Icmp: 31 7 30 {errors} 5\nIcmp6OutErrors                  \t{errors6}\n"
            )
        };
        assert_eq!(short_of_room(&told(0, 0, 0)), None);
        assert_eq!(short_of_room("no such file"), None);
        let words = [told(3, 0, 0), told(0, 2, 1), told(3, 0, 1)].map(|told| short_of_room(&told));
        insta::assert_snapshot!(words.map(Option::unwrap).join("\n"), @r"
        the receive ring had no room for 3 frames
        the guest's kernel could not send 3 replies
        the receive ring had no room for 3 frames, and the guest's kernel could not send 1 replies
        ");
    }
}
