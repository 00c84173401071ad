//! What crosses an interface is captured, and counted only where all of it is there.

use super::{GUEST, SOON, Tap, echo_request, echo_request_to, enter_with_bridge, soon};
use anyhow::{Context as _, Result, anyhow, ensure};
use etherparse::{PacketBuilder, VlanId};
use harness::net::addr::{self, Mac};
use harness::net::audit::Witness;
use harness::net::bridge;
use harness::net::capture::{Capture, NotSeen, Room};
use harness::net::forged::{self, Forged};
use harness::net::frame::{Direction, Frame, Icmp};
use nix::libc;
use std::process::Command;
use std::time::{Duration, Instant};

pub fn capture_sees_both_ways_and_tags() -> Result<()> {
    let (_namespace, bridge) = enter_with_bridge()?;
    let mut tap = Tap::open("tap0")?;
    bridge.attach_tap("tap0")?;
    bridge::set_neighbour_permanent(addr::guest(0), GUEST)?;
    let capture = Capture::start("tap0", Room::Flood)?;
    // None of these taps has a guest behind it: nothing is under way but what the test sends.
    let begin = capture.mark()?.nothing_under_way();
    let before = begin.mark();
    tap.send(&echo_request(3))?;
    let request = capture.wait(before, soon(), |frame| {
        frame.direction == Direction::FromGuest
    })?;
    ensure!(
        request.icmp() == Some(Icmp::EchoRequest { id: 7, seq: 3 }),
        "{request}"
    );
    ensure!(
        request.bytes[..] == echo_request(3)[..],
        "the frame was changed"
    );
    let reply = capture.wait(before, soon(), |frame| {
        frame.direction == Direction::ToGuest
    })?;
    ensure!(
        reply.icmp() == Some(Icmp::EchoReply { id: 7, seq: 3 }),
        "{reply}"
    );
    ensure!(
        (reply.src(), reply.dst()) == (Some(addr::HOST_MAC), Some(GUEST)),
        "{reply}"
    );
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    ensure!(
        now.checked_sub(reply.time).is_some_and(|ago| ago < SOON),
        "{:?}",
        reply.time
    );
    ensure!(reply.time >= request.time);

    // What has passed counts at once, without waiting for the capture's thread.
    let fence = capture.mark()?.nothing_under_way();
    ensure!(capture.count(fence, |_| true)? == 0 && capture.count(begin, |_| true)? == 2);
    let mut tagged = Vec::new();
    PacketBuilder::ethernet2(GUEST.0, Mac::BROADCAST.0)
        .single_vlan(VlanId::try_new(10)?)
        .ipv4([0; 4], [255; 4], 64)
        .udp(5, 6)
        .write(&mut tagged, &[1; 3000])?;
    tap.send(&tagged)?;
    let [frame] = &capture.frames(fence)?[..] else {
        anyhow::bail!("one frame should be there")
    };
    ensure!(
        (frame.vlan_id(), frame.udp_ports()) == (Some(10), Some((5, 6))),
        "{frame}"
    );
    ensure!(frame.length == tagged.len(), "{frame}");
    ensure!(
        frame.bytes.len() > 1900 && tagged.starts_with(&frame.bytes),
        "the tag is misplaced"
    );
    ensure!(capture.summary(fence.mark())? == "1 × VLAN 10 UDP");

    let dir = tempfile::tempdir()?;
    let file = dir.path().join("tap0.pcap");
    capture.write_pcap(&file)?;
    ensure!(std::fs::metadata(&file)?.len() > 2000);
    Ok(())
}

pub fn what_a_guest_sends_is_judged_with_what_it_leaves_to_its_tap() -> Result<()> {
    let (_namespace, bridge) = enter_with_bridge()?;
    let mut tap = Tap::open_as("tap0", libc::IFF_VNET_HDR)?;
    bridge.attach_tap("tap0")?;
    let witness = Witness::default();
    witness.allow_mac(GUEST);
    witness.allow_mtu(bridge::MTU);
    let mut said = |frames: &[Forged]| {
        let capture = Capture::of_guest("tap0", &witness, Room::Flood)?;
        for frame in frames {
            tap.send(&[&frame.left[..], &frame.bytes].concat())?;
        }
        drop(capture);
        anyhow::Ok(witness.findings().damage())
    };
    let sound = Forged {
        left: [0; 10],
        bytes: echo_request(1),
    };
    let mut to_be_cut = forged::cut_too_long(GUEST)?;
    to_be_cut.left[4..6].copy_from_slice(&1460u16.to_ne_bytes());
    let damage = said(&[sound, to_be_cut])?;
    ensure!(damage.is_none(), "{damage:?}");
    for (frame, expected) in [
        (
            forged::cut_too_long(GUEST)?,
            "1 of 2 frames to be segmented",
        ),
        (
            forged::never_cut(GUEST)?,
            "1 of 4 frames (60,054 bytes) left the guest longer than its MTU",
        ),
        (
            forged::completed_elsewhere(GUEST)?,
            "1 of 3 TCP segments (1,054 bytes) left the guest with a wrong checksum",
        ),
    ] {
        let damage = said(&[frame])?.unwrap_or_default();
        ensure!(damage.contains(expected), "{damage}");
    }
    Ok(())
}

pub fn capture_wait_tells_what_it_saw_instead() -> Result<()> {
    let (_namespace, bridge) = enter_with_bridge()?;
    let mut tap = Tap::open("tap0")?;
    bridge.attach_tap("tap0")?;
    let capture = Capture::start("tap0", Room::Flood)?;
    let mark = capture.mark()?;
    tap.send(&echo_request(1))?;
    let until = Instant::now() + Duration::from_millis(100);
    let error = capture.wait(mark, until, |frame| frame.vlan_id() == Some(10));
    let error = error.err().context("a tagged frame out of nothing")?;
    let not_seen = error
        .downcast_ref::<NotSeen>()
        .context("it should be NotSeen")?;
    ensure!(
        not_seen.seen.contains("1 × ICMP echo request"),
        "{not_seen}"
    );
    ensure!(
        not_seen.lost == 0 && not_seen.waited >= Duration::from_millis(99),
        "{not_seen}"
    );

    // A frame that comes later ends the wait, long before its time is up.
    let sender = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        (tap.send(&echo_request(2)), Instant::now(), tap)
    });
    let wanted = Some(Icmp::EchoRequest { id: 7, seq: 2 });
    capture.wait(mark, soon(), |frame| frame.icmp() == wanted)?;
    let woken = Instant::now();
    let (sent, at, _tap) = sender.join().map_err(|_| anyhow!("the sender panicked"))?;
    sent?;
    let late = woken.saturating_duration_since(at);
    ensure!(late < SOON / 2, "woken {late:?} after the frame");
    Ok(())
}

pub fn what_is_counted_behind_an_answer_is_no_earlier_steps() -> Result<()> {
    let (_namespace, bridge) = enter_with_bridge()?;
    let mut tap = Tap::open("tap0")?;
    bridge.attach_tap("tap0")?;
    let capture = Capture::start("tap0", Room::Flood)?;
    let mark = capture.mark()?;
    // The guest is slow: what an earlier step had it send comes after the mark.
    let late = echo_request_to(Mac([0x52, 0x54, 0, 9, 9, 9]), 1);
    tap.send(&late)?;
    tap.send(&late)?;
    tap.send(&echo_request(2))?;
    tap.send(&late)?;
    let answer = Some(Icmp::EchoRequest { id: 7, seq: 2 });
    let fence = capture.behind(mark, soon(), |frame| frame.icmp() == answer)?;
    let from_guest = |frame: &Frame| frame.direction == Direction::FromGuest;
    ensure!(capture.count(fence, from_guest)? == 1);
    let with_late = capture.frames_with_late(mark)?;
    ensure!(with_late.iter().filter(|frame| from_guest(frame)).count() == 4);
    Ok(())
}

pub fn capture_admits_loss() -> Result<()> {
    let (_namespace, bridge) = enter_with_bridge()?;
    let mut tap = Tap::open("tap0")?;
    bridge.attach_tap("tap0")?;
    let capture = Capture::start("tap0", Room::Flood)?;
    let mark = capture.mark()?;
    // Not for the host: the answers that its kernel holds back while it asks in vain for the guest's
    // MAC count against one limit for all namespaces, and other tests' pings would go unanswered.
    let stray = echo_request_to(Mac([0x52, 0x54, 0, 9, 9, 9]), 1);
    tap.send(&stray)?;
    // The question is asked under the capture's lock, so meanwhile nobody empties its ring.
    let mut flooded = Ok(());
    capture.wait(mark, soon(), |_| {
        flooded = (0..6000).try_for_each(|_| tap.send(&stray));
        true
    })?;
    flooded?;
    let fence = mark.nothing_under_way();
    let dropped = capture.dropped()?;
    ensure!(dropped > 0, "6000 frames fitted into the ring");
    let error = capture
        .count(fence, |_| true)
        .err()
        .context("a lossy capture was counted")?;
    ensure!(
        format!("{error:#}").contains(&format!("it lost {dropped} frames")),
        "{error:#}"
    );
    // From here on it is whole again, until there is more than it keeps.
    let mut large = stray.clone();
    large.resize(1000, 0);
    let fence = capture.mark()?.nothing_under_way();
    tap.send(&stray)?;
    ensure!(capture.count(fence, |frame| frame.direction == Direction::FromGuest)? == 1);
    // A frame costs what is kept of it, 320 bytes, and its record.
    for count in 0..(16 << 20) / 320 {
        tap.send(&large)?;
        if count % 1000 == 0 {
            capture.mark()?; // so that none is lost for want of room in the ring
        }
    }
    let error = capture
        .frames(fence)
        .err()
        .context("it kept more than 16 MiB")?;
    ensure!(
        format!("{error:#}").contains("rely on the capture of tap0"),
        "{error:#}"
    );
    ensure!(capture.dropped()? == dropped);
    Ok(())
}

pub fn capture_outlives_its_interface() -> Result<()> {
    let (_namespace, bridge) = enter_with_bridge()?;
    let error = Capture::start("tap0", Room::Flood)
        .err()
        .context("a capture of nothing")?;
    ensure!(
        format!("{error:#}")
            == "cannot capture on tap0: there is no interface tap0: ENODEV: No such device",
        "{error:#}"
    );
    let mut tap = Tap::open("tap0")?;
    bridge.attach_tap("tap0")?;
    let capture = Capture::start("tap0", Room::Flood)?;
    let fence = capture.mark()?.nothing_under_way();
    tap.send(&echo_request(1))?;
    // Not by closing it: another test's child may hold a copy between fork and exec.
    Command::new("ip").args(["link", "del", "tap0"]).status()?;
    ensure!(!bridge::exists("tap0"));
    ensure!(capture.count(fence, |frame| frame.direction == Direction::FromGuest)? == 1);
    Ok(())
}
