//! The trial's network for real: namespaces, bridge, DHCP, captures, ping and sabotage, with taps
//! and second hosts in the guests' place. Takes root, or user namespaces; each test has a thread
//! and a namespace of its own.

use anyhow::{Context as _, Result, anyhow, ensure};
use etherparse::{PacketBuilder, VlanId};
use harness::base::error::{Skip, find};
use harness::net::addr::{self, Mac};
use harness::net::audit::Witness;
use harness::net::bridge::{self, Bridge};
use harness::net::capture::{Capture, NotSeen};
use harness::net::dhcp::{Dhcp, NetBoot};
use harness::net::forged::{self, Forged};
use harness::net::frame::{Direction, Frame, Icmp};
use harness::net::namespace::{self, Namespace};
use harness::net::ping::Ping;
use harness::net::sabotage::{self, SecondHost};
use harness::net::{tun, userns};
use libtest_mimic::{Arguments, Completion, Trial};
use nix::libc;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// For what takes milliseconds: long enough for a machine that is busy with VMs.
const SOON: Duration = Duration::from_secs(60);

/// How long a ping lasts that nobody is to answer. A busy machine may need as long to start it.
const UNANSWERED: Duration = Duration::from_secs(2);

fn soon() -> Instant {
    Instant::now() + SOON
}

type Test = fn() -> Result<()>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let was_root = nix::unistd::geteuid().is_root();
    // First of all: the kernel allows it while there is one thread.
    let entered = userns::enter_if_needed().map_err(|e| format!("{e:#}"));
    let mut tests: Vec<(&str, Test)> = vec![
        (
            "namespace_is_empty_and_the_threads_own",
            namespace_is_empty_and_the_threads_own,
        ),
        (
            "bridge_takes_and_gives_back_taps",
            bridge_takes_and_gives_back_taps,
        ),
        ("second_host_answers", second_host_answers),
        ("ping_reports_what_went_wrong", ping_reports_what_went_wrong),
        ("ping_in_the_background", ping_in_the_background),
        (
            "largest_mtu_crosses_unfragmented",
            largest_mtu_crosses_unfragmented,
        ),
        (
            "dhcp_gives_fixed_and_dynamic_addresses",
            dhcp_gives_fixed_and_dynamic_addresses,
        ),
        ("dhcp_start_failure_says_why", dhcp_start_failure_says_why),
        (
            "tftp_serves_a_directory_of_any_name",
            tftp_serves_a_directory_of_any_name,
        ),
        (
            "capture_sees_both_ways_and_tags",
            capture_sees_both_ways_and_tags,
        ),
        (
            "capture_wait_tells_what_it_saw_instead",
            capture_wait_tells_what_it_saw_instead,
        ),
        (
            "what_is_counted_behind_an_answer_is_no_earlier_steps",
            what_is_counted_behind_an_answer_is_no_earlier_steps,
        ),
        ("capture_admits_loss", capture_admits_loss),
        (
            "what_a_guest_sends_is_judged_with_what_it_leaves_to_its_tap",
            what_a_guest_sends_is_judged_with_what_it_leaves_to_its_tap,
        ),
        (
            "capture_outlives_its_interface",
            capture_outlives_its_interface,
        ),
        ("every_nth_frame_is_dropped", every_nth_frame_is_dropped),
        (
            "small_tap_mtu_and_unplugged_tap_lose_frames",
            small_tap_mtu_and_unplugged_tap_lose_frames,
        ),
    ];
    if was_root {
        // Otherwise every test above shows it.
        tests.extend([
            ("an_ordinary_user_can", an_ordinary_user_can as Test),
            (
                "an_ordinary_user_who_may_not_is_told_how",
                an_ordinary_user_who_may_not_is_told_how,
            ),
        ]);
    }
    let trials = tests.into_iter().map(|(name, test)| {
        let entered = entered.clone();
        Trial::ignorable_test(name, move || {
            entered?;
            let result = std::thread::spawn(test).join();
            match result.map_err(|_| "it panicked")? {
                Ok(()) => Ok(Completion::Completed),
                Err(error) => match find::<Skip>(&error) {
                    Some(Skip(why)) => Ok(Completion::ignored_with(why)),
                    None => Err(format!("{error:#}").into()),
                },
            }
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// A tap as QEMU makes one, held open: what is written to it comes from "the guest".
struct Tap(File);

impl Tap {
    fn open(name: &str) -> Result<Tap> {
        Tap::open_as(name, 0)
    }

    /// With flags of linux/if_tun.h beside those that each has.
    fn open_as(name: &str, flags: libc::c_int) -> Result<Tap> {
        tun::check()?;
        let file = File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")?;
        // SAFETY: all zeroes is a valid ifreq; the pointer is good for the call.
        unsafe {
            let mut request: libc::ifreq = std::mem::zeroed();
            for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
                *to = from.cast_signed();
            }
            request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | flags) as i16;
            nix::errno::Errno::result(libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &request))?;
        }
        Ok(Tap(file))
    }

    fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.0.write_all(frame).context("cannot write to the tap")
    }
}

const GUEST: Mac = Mac([0x52, 0x54, 0, 1, 2, 3]);

fn echo_request(seq: u16) -> Vec<u8> {
    echo_request_to(addr::HOST_MAC, seq)
}

fn echo_request_to(mac: Mac, seq: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(GUEST.0, mac.0)
        .ipv4(addr::guest(0).octets(), addr::HOST.octets(), 64)
        .icmpv4_echo_request(7, seq)
        .write(&mut frame, &[0; 56])
        .expect("a Vec takes everything");
    frame
}

fn enter_with_bridge() -> Result<(Namespace, Bridge)> {
    Ok((Namespace::enter()?, Bridge::create(bridge::MTU)?))
}

fn namespace_is_empty_and_the_threads_own() -> Result<()> {
    let id = || std::fs::read_link("/proc/thread-self/ns/net");
    let ipv6 = || std::fs::read_to_string("/proc/sys/net/ipv6/conf/default/disable_ipv6");
    let (id_outside, ipv6_outside) = (id()?, ipv6()?);
    // A thread of the old namespace that looks after we have entered ours.
    let (go, told) = std::sync::mpsc::channel();
    let watcher = std::thread::spawn(move || {
        let told = told.recv();
        (told, id(), ipv6())
    });
    let _namespace = Namespace::enter()?;
    namespace::check_isolated()?;
    let again = Namespace::enter()
        .err()
        .context("a second entry was allowed")?;
    ensure!(again.to_string().contains("already"), "{again}");
    ensure!(id()? != id_outside, "the namespace is still the old one");
    ensure!(ipv6()?.trim() == "1", "IPv6 is on inside");
    Bridge::create(bridge::MTU)?;
    let inherited = std::thread::spawn(|| bridge::exists("br0")).join();
    ensure!(
        inherited.is_ok_and(|it| it),
        "a thread started inside is not inside"
    );
    let error = namespace::check_isolated()
        .err()
        .context("a bridge passed for nothing")?;
    ensure!(error.to_string().contains("br0 is up"), "{error}");
    go.send(())?;
    let (_, id_after, ipv6_after) = watcher
        .join()
        .map_err(|_| anyhow!("the watcher panicked"))?;
    ensure!(
        id_after? == id_outside && ipv6_after? == ipv6_outside,
        "the outside was changed"
    );
    Ok(())
}

fn bridge_takes_and_gives_back_taps() -> Result<()> {
    let (_namespace, mut bridge) = enter_with_bridge()?;
    ensure!(bridge::mac("br0")? == addr::HOST_MAC);
    ensure!(!bridge::exists("tap0"));
    let error = bridge
        .attach_tap("tap0")
        .err()
        .context("a missing tap was attached")?;
    ensure!(
        error.to_string().contains("plug tap0 into br0"),
        "{error:#}"
    );
    let _tap = Tap::open("tap0")?;
    bridge.attach_tap("tap0")?;
    ensure!(bridge::exists("tap0"));
    ensure!(
        bridge::mac("br0")? == addr::HOST_MAC,
        "the bridge took its port's MAC"
    );
    bridge.set_mtu(9000)?;
    let mtus = || {
        let show = Command::new("ip").args(["-o", "link"]).output()?;
        anyhow::Ok(String::from_utf8(show.stdout)?.matches("mtu 9000").count())
    };
    ensure!(mtus()? == 2, "bridge and tap should have MTU 9000");
    bridge.detach("tap0")?;
    bridge.set_mtu(1500)?;
    ensure!(mtus()? == 1, "a detached tap should keep its MTU");
    Ok(())
}

fn second_host_answers() -> Result<()> {
    let (_namespace, bridge) = enter_with_bridge()?;
    let address = addr::guest(0);
    ensure!(bridge::neighbour(address)?.is_none());
    let host = SecondHost::plug(&bridge, GUEST, address)?;
    Ping::new(address)
        .count(10)
        .interval(0.01)
        .run()?
        .expect_all_answered(10)?;
    ensure!(bridge::neighbour(address)? == Some(GUEST));
    bridge::flush_neighbour(address)?;
    ensure!(
        bridge::neighbour(address)?.is_none(),
        "the neighbour was not flushed"
    );

    bridge::set_neighbour_permanent(address, Mac([0x52, 0x54, 0, 9, 9, 9]))?;
    let wrong = Ping::new(address).count(3).interval(0.01).lasts(UNANSWERED);
    let report = wrong.run()?;
    // How many it sends in that time is the machine's affair.
    ensure!(
        report.transmitted > 0 && report.received == 0,
        "a wrong MAC was answered: {report}"
    );
    bridge::flush_neighbour(address)?;
    Ping::new(address).count(1).run()?.expect_all_answered(1)?;

    let port = host.port().to_owned();
    ensure!(bridge::exists(&port));
    drop(host);
    ensure!(!bridge::exists(&port), "the second host's port outlived it");
    Ok(())
}

fn ping_reports_what_went_wrong() -> Result<()> {
    let (_namespace, bridge) = enter_with_bridge()?;
    let address = addr::guest(0);
    let _host = SecondHost::plug(&bridge, GUEST, address)?;
    let refused = Ping::new(address).count(1).size(65508).run()?;
    ensure!(
        refused.refused.is_some() && refused.received == 0,
        "{refused}"
    );
    let exact = Ping::new(address).count(2).interval(0.01).dont_fragment();
    exact.clone().size(1472).run()?.expect_all_answered(2)?;
    let larger = exact.size(1473).run()?;
    ensure!(larger.refused.is_some() && larger.received == 0, "{larger}");
    let flood = Ping::new(address).count(200).size(4096).flood().run()?;
    flood.expect_all_answered(200)?;
    ensure!(
        !flood.output.contains('\u{8}') && flood.rtt.is_some(),
        "{:?}",
        flood.output
    );
    let nobody = Ping::new(addr::guest(5)).count(1).lasts(UNANSWERED).run()?;
    ensure!(
        nobody.transmitted == 1 && nobody.loss_percent == 100.0,
        "{nobody}"
    );
    let elsewhere = Ping::new(Ipv4Addr::new(192, 0, 2, 1)).count(1).run()?;
    let why = elsewhere
        .refused
        .context("there was a way out of the namespace")?;
    ensure!(why.contains("unreachable"), "{why}");
    Ok(())
}

fn ping_in_the_background() -> Result<()> {
    let (_namespace, bridge) = enter_with_bridge()?;
    let address = addr::guest(0);
    let host = SecondHost::plug(&bridge, GUEST, address)?;
    let ping = Ping::new(address).interval(0.01).spawn()?;
    ping.wait_replies(5, soon())?;
    sabotage::unplug(&bridge, host.port())?;
    let error = ping.wait_replies(1000, Instant::now() + Duration::from_millis(100));
    let error = error
        .err()
        .context("1000 replies from an unplugged host")?
        .to_string();
    ensure!(
        error.contains("should have had 1000 more replies"),
        "{error}"
    );
    let report = ping.interrupt()?;
    ensure!(
        report.received >= 5 && report.transmitted > report.received,
        "{report}"
    );
    Ok(())
}

fn largest_mtu_crosses_unfragmented() -> Result<()> {
    let _namespace = Namespace::enter()?;
    let bridge = Bridge::create(bridge::MAX_MTU)?;
    let tap = Tap::open("tap0")?;
    bridge.attach_tap("tap0")?; // as much as a tap takes
    drop(tap);
    let address = addr::guest(0);
    let _host = SecondHost::plug(&bridge, GUEST, address)?;
    let largest = bridge::MAX_MTU - 28;
    let ping = Ping::new(address).count(2).interval(0.01).dont_fragment();
    ping.clone().size(largest).run()?.expect_all_answered(2)?;
    ensure!(
        ping.size(largest + 1).run()?.received == 0,
        "a frame larger than the MTU crossed"
    );
    Ok(())
}

/// A DHCP message as a client broadcasts it: 1 discover, 3 request of `wanted`.
fn dhcp_message(client: Mac, kind: u8, wanted: Ipv4Addr) -> Vec<u8> {
    let mut message = vec![0; 240];
    message[..4].copy_from_slice(&[1, 1, 6, 0]);
    message[4..8].copy_from_slice(&client.0[2..]); // transaction
    message[10] = 0x80; // answer by broadcast
    message[28..34].copy_from_slice(&client.0);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([53, 1, kind]);
    if kind == 3 {
        message.extend([50, 4]);
        message.extend(wanted.octets());
    }
    message.push(255);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(client.0, Mac::BROADCAST.0)
        .ipv4([0; 4], [255; 4], 64)
        .udp(68, 67)
        .write(&mut frame, &message)
        .expect("a Vec takes everything");
    frame
}

fn dhcp_gives_fixed_and_dynamic_addresses() -> Result<()> {
    let (_namespace, bridge) = enter_with_bridge()?;
    let stranger = Mac([0x52, 0x54, 0, 9, 9, 9]);
    let dhcp = Dhcp::start(&[(GUEST, addr::guest(3))])?;
    let mut tap = Tap::open("tap0")?;
    bridge.attach_tap("tap0")?;
    let capture = Capture::start("tap0")?;
    for client in [GUEST, stranger] {
        ensure!(dhcp.lease(client).is_none());
        let mut offered = Ipv4Addr::UNSPECIFIED;
        for (send, answer) in [(1, 2), (3, 5)] {
            let mark = capture.mark()?;
            tap.send(&dhcp_message(client, send, offered))?;
            let answered = capture.wait(mark, soon(), |frame| {
                frame.direction == Direction::ToGuest
                    && frame
                        .dhcp()
                        .is_some_and(|dhcp| dhcp.kind == answer && dhcp.client == client)
            })?;
            offered = answered
                .dhcp()
                .context("the answer has lost its DHCP")?
                .offered;
        }
        ensure!(dhcp.wait_for_lease(client, soon())? == offered);
    }
    ensure!(dhcp.lease(GUEST) == Some(addr::guest(3)));
    let dynamic = addr::DYNAMIC_FIRST..=addr::DYNAMIC_LAST;
    ensure!(
        dhcp.lease(stranger)
            .is_some_and(|address| dynamic.contains(&address))
    );
    let nobody = Mac([0x52, 0x54, 0, 8, 8, 8]);
    let error = dhcp.wait_for_lease(nobody, Instant::now() + Duration::from_millis(50));
    let error = error.err().context("a lease for nobody")?.to_string();
    ensure!(
        error.contains("DHCPACK(br0) 198.18.0.5"),
        "the log should be there: {error}"
    );
    Ok(())
}

fn dhcp_start_failure_says_why() -> Result<()> {
    let _namespace = Namespace::enter()?;
    let error = Dhcp::start(&[])
        .err()
        .context("it started without a bridge")?;
    let error = format!("{error:#}");
    ensure!(
        error.contains("cannot start the DHCP server") && error.contains("br0"),
        "{error}"
    );
    Ok(())
}

fn tftp_serves_a_directory_of_any_name() -> Result<()> {
    let (_namespace, _bridge) = enter_with_bridge()?;
    let directory = tempfile::tempdir()?;
    let root = directory
        .path()
        .join(format!("a, b \"c\" 'd' ü%s {}", "x".repeat(200)));
    std::fs::create_dir(&root)?;
    let boot = NetBoot {
        file: "boot.ipxe".into(),
        efi_program: None,
        root: Some(root),
        ipv6: false,
    };
    let _dhcp = Dhcp::start_with(&[], Some(&boot))?;
    Ok(())
}

fn capture_sees_both_ways_and_tags() -> Result<()> {
    let (_namespace, bridge) = enter_with_bridge()?;
    let mut tap = Tap::open("tap0")?;
    bridge.attach_tap("tap0")?;
    bridge::set_neighbour_permanent(addr::guest(0), GUEST)?;
    let capture = Capture::start("tap0")?;
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

fn what_a_guest_sends_is_judged_with_what_it_leaves_to_its_tap() -> Result<()> {
    let (_namespace, bridge) = enter_with_bridge()?;
    let mut tap = Tap::open_as("tap0", libc::IFF_VNET_HDR)?;
    bridge.attach_tap("tap0")?;
    let witness = Witness::default();
    witness.allow_mac(GUEST);
    witness.allow_mtu(bridge::MTU);
    let mut said = |frames: &[Forged]| {
        let capture = Capture::of_guest("tap0", &witness)?;
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

fn capture_wait_tells_what_it_saw_instead() -> Result<()> {
    let (_namespace, bridge) = enter_with_bridge()?;
    let mut tap = Tap::open("tap0")?;
    bridge.attach_tap("tap0")?;
    let capture = Capture::start("tap0")?;
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

fn what_is_counted_behind_an_answer_is_no_earlier_steps() -> Result<()> {
    let (_namespace, bridge) = enter_with_bridge()?;
    let mut tap = Tap::open("tap0")?;
    bridge.attach_tap("tap0")?;
    let capture = Capture::start("tap0")?;
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

fn capture_admits_loss() -> Result<()> {
    let (_namespace, bridge) = enter_with_bridge()?;
    let mut tap = Tap::open("tap0")?;
    bridge.attach_tap("tap0")?;
    let capture = Capture::start("tap0")?;
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
    for count in 0..32_000 {
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

fn capture_outlives_its_interface() -> Result<()> {
    let (_namespace, bridge) = enter_with_bridge()?;
    let error = Capture::start("tap0")
        .err()
        .context("a capture of nothing")?;
    ensure!(
        format!("{error:#}")
            == "cannot capture on tap0: there is no interface tap0: ENODEV: No such device",
        "{error:#}"
    );
    let mut tap = Tap::open("tap0")?;
    bridge.attach_tap("tap0")?;
    let capture = Capture::start("tap0")?;
    let fence = capture.mark()?.nothing_under_way();
    tap.send(&echo_request(1))?;
    // Not by closing it: another test's child may hold a copy between fork and exec.
    Command::new("ip").args(["link", "del", "tap0"]).status()?;
    ensure!(!bridge::exists("tap0"));
    ensure!(capture.count(fence, |frame| frame.direction == Direction::FromGuest)? == 1);
    Ok(())
}

fn every_nth_frame_is_dropped() -> Result<()> {
    let (_namespace, bridge) = enter_with_bridge()?;
    let address = addr::guest(0);
    let host = SecondHost::plug(&bridge, GUEST, address)?;
    let ping = Ping::new(address).count(12).interval(0.01);
    ping.run()?.expect_all_answered(12)?; // and both know each other's MAC
    sabotage::drop_every(host.port(), 4)?;
    for _ in 0..2 {
        let report = ping.run()?;
        ensure!((report.transmitted, report.received) == (12, 9), "{report}");
    }
    Ok(())
}

fn small_tap_mtu_and_unplugged_tap_lose_frames() -> Result<()> {
    let (_namespace, bridge) = enter_with_bridge()?;
    let address = addr::guest(0);
    let host = SecondHost::plug(&bridge, GUEST, address)?;
    let ping = Ping::new(address).count(2).interval(0.01);
    let unanswered = ping.clone().lasts(UNANSWERED);
    ping.clone().size(1200).run()?.expect_all_answered(2)?;
    sabotage::set_tap_mtu(host.port(), 1000)?;
    ensure!(
        unanswered.clone().size(1200).run()?.received == 0,
        "1228 bytes crossed an MTU of 1000"
    );
    ping.clone().size(900).run()?.expect_all_answered(2)?;
    sabotage::unplug(&bridge, host.port())?;
    ensure!(
        unanswered.run()?.received == 0,
        "an unplugged host answered"
    );
    Ok(())
}

const NOBODY: u32 = 65534;

/// This program, where an ordinary user can run it: the build directory may be closed to others.
fn copy_for_all() -> Result<(tempfile::TempDir, PathBuf)> {
    let directory = tempfile::Builder::new()
        .permissions(PermissionsExt::from_mode(0o755))
        .tempdir()?;
    let copy = directory.path().join("network");
    std::fs::copy(std::env::current_exe()?, &copy)?;
    Ok((directory, copy))
}

fn an_ordinary_user_can() -> Result<()> {
    let as_nobody = |command: &mut Command| {
        let command = command.current_dir("/").uid(NOBODY).gid(NOBODY);
        command.output()
    };
    let kernel_lets = as_nobody(Command::new("unshare").args(["-Urn", "true"]))?;
    if !kernel_lets.status.success() {
        let why = String::from_utf8_lossy(&kernel_lets.stderr).into_owned();
        return Err(Skip(format!("this host lets no ordinary user: {}", why.trim())).into());
    }
    let (_directory, copy) = copy_for_all()?;
    let output = as_nobody(Command::new(copy).args(["--exact", "second_host_answers"]))?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
    Ok(())
}

fn an_ordinary_user_who_may_not_is_told_how() -> Result<()> {
    let (_directory, copy) = copy_for_all()?;
    // In a user namespace that allows no further one, whose root we map from outside.
    let script = format!(
        "echo; read mapped; echo 0 >/proc/sys/user/max_user_namespaces; \
         exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --inh-caps=-all --ambient-caps=-all \
         {} --exact second_host_answers",
        copy.display()
    );
    let mut child = Command::new("unshare")
        .args(["-U", "--keep-caps", "sh", "-c", &script])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdout = BufReader::new(child.stdout.take().context("its output")?);
    if stdout.read_line(&mut String::new())? == 0 {
        child.wait()?;
        return Err(Skip("this host lets nobody make user namespaces".into()).into());
    }
    for file in ["uid_map", "gid_map"] {
        let file = format!("/proc/{}/{file}", child.id());
        std::fs::write(&file, "0 0 65536").with_context(|| file.clone())?;
    }
    child
        .stdin
        .take()
        .context("its input")?
        .write_all(b"mapped\n")?;
    let said = std::io::read_to_string(stdout)?;
    ensure!(!child.wait()?.success(), "{said}");
    ensure!(
        said.contains("cannot make a network as an ordinary user")
            && said.contains("user.max_user_namespaces is 0")
            && said.contains("or run as root"),
        "{said}"
    );
    Ok(())
}
