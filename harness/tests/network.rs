//! The trial's network for real: namespaces, bridge, DHCP, captures, ping and sabotage, with taps
//! and second hosts in the guests' place. Takes root, or user namespaces; each test has a thread
//! and a namespace of its own.

#[path = "network/captures.rs"]
mod captures;
#[path = "network/users.rs"]
mod users;

use anyhow::{Context as _, Result, anyhow, ensure};
use etherparse::PacketBuilder;
use harness::base::error::{Skip, find};
use harness::net::addr::{self, Mac};
use harness::net::bridge::{self, Bridge};
use harness::net::capture::{Capture, Room};
use harness::net::dhcp::{Dhcp, NetBoot};
use harness::net::frame::Direction;
use harness::net::namespace::{self, Namespace};
use harness::net::ping::Ping;
use harness::net::sabotage::{self, SecondHost};
use harness::net::{tun, userns};
use libtest_mimic::{Arguments, Completion, Trial};
use nix::libc;
use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::process::{Command, ExitCode};
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
            captures::capture_sees_both_ways_and_tags,
        ),
        (
            "capture_wait_tells_what_it_saw_instead",
            captures::capture_wait_tells_what_it_saw_instead,
        ),
        (
            "what_is_counted_behind_an_answer_is_no_earlier_steps",
            captures::what_is_counted_behind_an_answer_is_no_earlier_steps,
        ),
        ("capture_admits_loss", captures::capture_admits_loss),
        (
            "what_a_guest_sends_is_judged_with_what_it_leaves_to_its_tap",
            captures::what_a_guest_sends_is_judged_with_what_it_leaves_to_its_tap,
        ),
        (
            "capture_outlives_its_interface",
            captures::capture_outlives_its_interface,
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
            ("an_ordinary_user_can", users::an_ordinary_user_can as Test),
            (
                "an_ordinary_user_who_may_not_is_told_how",
                users::an_ordinary_user_who_may_not_is_told_how,
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
    let capture = Capture::start("tap0", Room::Flood)?;
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
    std::fs::write(root.join("boot.ipxe"), "#!ipxe")?;
    let boot = NetBoot {
        file: "boot.ipxe".into(),
        efi_program: None,
        root: Some(root),
        ipv6: false,
    };
    let _dhcp = Dhcp::start_with(&[], Some(&boot))?;
    // Asked by the host itself (RFC 1350).
    Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()?;
    let client = UdpSocket::bind((addr::HOST, 0))?;
    client.set_read_timeout(Some(SOON))?;
    client.send_to(b"\0\x01boot.ipxe\0octet\0", (addr::HOST, 69))?;
    let mut answer = [0; 512];
    let (length, _) = client.recv_from(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    ensure!(answer == "\0\x03\0\x01#!ipxe", "{answer:?}");
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
