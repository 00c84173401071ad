use super::*;
use etherparse::{
    ArpOperation, ArpPacket, EtherType, Ethernet2Header, PacketBuilder, PacketBuilderStep, VlanId,
};

const GUEST: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const HOST: [u8; 6] = [2, 0, 198, 18, 0, 1];

fn frame(bytes: Vec<u8>) -> Frame {
    Frame {
        time: Duration::ZERO,
        direction: Direction::FromGuest,
        length: bytes.len(),
        segment: None,
        bytes: bytes.into(),
    }
}

fn ether() -> PacketBuilderStep<Ethernet2Header> {
    PacketBuilder::ethernet2(GUEST, HOST)
}

fn written(
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), etherparse::err::packet::BuildWriteError>,
) -> Frame {
    let mut bytes = Vec::new();
    write(&mut bytes).unwrap();
    frame(bytes)
}

fn echo(payload: usize) -> Frame {
    let builder = ether()
        .ipv4([198, 18, 0, 2], [198, 18, 0, 1], 64)
        .icmpv4_echo_request(7, 3);
    written(|out| builder.write(out, &vec![0; payload]))
}

#[test]
fn an_echo_request() {
    let frame = echo(56);
    assert_eq!(frame.icmp(), Some(Icmp::EchoRequest { id: 7, seq: 3 }));
    let ip = frame.ip().unwrap();
    assert_eq!((ip.payload_length, ip.is_fragment()), (64, false));
    assert_eq!(ip.source.to_string(), "198.18.0.2");
    assert_eq!((frame.ethertype(), frame.vlan_id()), (Some(0x800), None));
    assert_eq!(frame.udp_ports(), None);
    assert_eq!(
        frame.to_string(),
        "guest→host 52:54:00:01:02:03 > 02:00:c6:12:00:01 ICMP echo request id 7 seq 3, 98 bytes"
    );
}

#[test]
fn a_frame_cut_short_keeps_what_its_headers_say() {
    let mut frame = echo(1400);
    frame.bytes = frame.bytes[..64].into();
    assert_eq!(frame.icmp(), Some(Icmp::EchoRequest { id: 7, seq: 3 }));
    assert_eq!(frame.ip().unwrap().payload_length, 1408);
    for length in 0..64 {
        frame.bytes = frame.bytes[..64 - length - 1].into();
        frame.to_string(); // no length may panic
    }
    assert_eq!(frame.to_string(), "guest→host ? > ? runt, 1442 bytes");
}

#[test]
fn fragments() {
    let mut first = echo(1472);
    first.bytes[20] = 0x20; // more fragments
    assert_eq!(first.icmp(), Some(Icmp::EchoRequest { id: 7, seq: 3 }));
    assert!(
        first
            .to_string()
            .ends_with("echo request id 7 seq 3 fragment at 0, 1514 bytes"),
        "{first}"
    );
    let mut second = echo(1472);
    second.bytes[21] = 185;
    assert_eq!(second.icmp(), None);
    assert_eq!(second.ip().unwrap().fragment_offset, 1480);
    assert_eq!(second.kind(), "ICMP fragment");
}

#[test]
fn vlan_arp_udp_tcp_and_the_rest() {
    let arp = || {
        ArpPacket::new(
            etherparse::ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            ArpOperation::REQUEST,
            &GUEST,
            &[198, 18, 0, 2],
            &[0; 6],
            &[198, 18, 0, 1],
        )
        .unwrap()
    };
    let tagged = written(|out| {
        ether()
            .single_vlan(VlanId::try_new(10).unwrap())
            .arp(arp())
            .write(out)
    });
    assert_eq!(
        (tagged.vlan_id(), tagged.ethertype()),
        (Some(10), Some(0x806))
    );
    assert_eq!(tagged.tags(), [(0x8100, 10)]);
    let seen = tagged.arp().unwrap();
    assert_eq!(seen.sender, (Mac(GUEST), "198.18.0.2".parse().unwrap()));
    assert_eq!(
        tagged.to_string(),
        "guest→host 52:54:00:01:02:03 > 02:00:c6:12:00:01 \
         VLAN 10 ARP request who has 198.18.0.1 tell 198.18.0.2, 46 bytes"
    );
    let udp = written(|out| {
        ether()
            .ipv4([198, 18, 0, 2], [198, 18, 0, 1], 64)
            .udp(5, 69)
            .write(out, b"x")
    });
    assert_eq!(udp.udp_ports(), Some((5, 69)));
    let tcp = written(|out| {
        ether()
            .ipv4([198, 18, 0, 2], [198, 18, 0, 1], 64)
            .tcp(5, 80, 1, 1)
            .write(out, b"x")
    });
    assert_eq!((tcp.tcp_ports(), tcp.udp_ports()), (Some((5, 80)), None));
    let mut ipv6 = vec![0; 60];
    ipv6[12..14].copy_from_slice(&[0x86, 0xdd]);
    assert_eq!(
        summary([&udp, &tagged, &tcp, &udp, &frame(ipv6)]),
        "2 × UDP, 1 × IPv6, 1 × TCP, 1 × VLAN 10 ARP request"
    );
    assert_eq!(summary([]), "nothing");
}

#[test]
fn a_mac_is_announced_by_rarp_and_by_gratuitous_arp() {
    let mut rarp = [[0xff; 6], GUEST].concat();
    rarp.extend([0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    for mac in [GUEST, GUEST] {
        rarp.extend(mac);
        rarp.extend([0; 4]);
    }
    rarp.extend([0; 18]);
    let whole = frame(rarp.clone());
    assert_eq!(whole.announcement_of(Mac(GUEST)), Some("RARP"));
    assert_eq!(whole.announcement_of(Mac(HOST)), None);
    assert_eq!(whole.kind(), "RARP");
    for (byte, what) in [
        (0, "not to everybody"),
        (21, "no request"),
        (27, "another sender"),
        (37, "another target"),
    ] {
        let mut other = rarp.clone();
        other[byte] ^= 1;
        assert_eq!(frame(other).announcement_of(Mac(GUEST)), None, "{what}");
    }
    let arp = |target: [u8; 4]| {
        let mut bytes = [[0xff; 6], GUEST].concat();
        bytes.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
        bytes.extend(GUEST);
        bytes.extend([198, 18, 0, 2]);
        bytes.extend([0; 6]);
        bytes.extend(target);
        frame(bytes)
    };
    let gratuitous = arp([198, 18, 0, 2]).announcement_of(Mac(GUEST));
    assert_eq!(gratuitous, Some("gratuitous ARP"));
    assert_eq!(arp([198, 18, 0, 1]).announcement_of(Mac(GUEST)), None);
}

#[test]
fn a_tftp_request_names_its_file() {
    let sent = |port, message: &[u8]| {
        written(|out| {
            ether()
                .ipv4([198, 18, 0, 2], [198, 18, 0, 1], 64)
                .udp(5, port)
                .write(out, message)
        })
    };
    let request = sent(69, b"\0\x01boot.ipxe\0octet\0");
    assert_eq!(request.tftp_request().as_deref(), Some("boot.ipxe"));
    assert_eq!(request.kind(), "TFTP request");
    for other in [
        sent(69, b"\0\x02boot.ipxe\0octet\0"),
        sent(69, b"\0\x01boot.ipxe"),
        sent(70, b"\0\x01boot.ipxe\0octet\0"),
    ] {
        assert_eq!(other.tftp_request(), None);
    }
}

#[test]
fn dhcp_messages() {
    let mut message = vec![0; 240];
    message[16..20].copy_from_slice(&[198, 18, 0, 2]);
    message[28..34].copy_from_slice(&GUEST);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([0, 12, 2, b'a', b'b', 53, 1, 5, 255]);
    let build = |message: &[u8]| {
        written(|out| {
            ether()
                .ipv4([198, 18, 0, 1], [255; 4], 64)
                .udp(67, 68)
                .write(out, message)
        })
    };
    let dhcp = build(&message).dhcp().unwrap();
    let offered = Ipv4Addr::new(198, 18, 0, 2);
    assert_eq!(
        dhcp,
        Dhcp {
            client: Mac(GUEST),
            kind: 5,
            offered,
            boots: None,
        }
    );
    let client = |options: &[u8]| {
        let message = [&message[..240], options, &[255]].concat();
        build(&message).dhcp().unwrap().boots
    };
    assert_eq!(client(b"\x5d\x02\0\x07"), Some(BootClient::Uefi));
    assert_eq!(client(b"\x5d\x02\0\0"), None);
    for ipxe in [&b"\x4d\x04iPXE"[..], b"\xaf\x03\xb0\x01\x01"] {
        let both = [&b"\x5d\x02\0\x07"[..], ipxe].concat();
        assert_eq!(client(&both), Some(BootClient::Ipxe));
        assert_eq!(client(ipxe), Some(BootClient::Ipxe));
    }
    assert!(
        build(&message)
            .to_string()
            .contains("DHCP ack port 67 > 68 of 52:54:00:01:02:03")
    );
    assert_eq!(
        build(&message[..message.len() - 3]).dhcp(),
        None,
        "cut inside an option"
    );
    message[236] = 0;
    assert_eq!(build(&message).kind(), "UDP", "no cookie");
}

#[test]
fn ipv6_and_its_icmp() {
    let (guest, host) = ([0xfd; 16], [0xfe; 16]);
    let message = |kind| {
        let builder = ether().ipv6(guest, host, 64).icmpv6(kind);
        written(|out| builder.write(out, &host))
    };
    let request = message(etherparse::Icmpv6Type::EchoRequest(
        etherparse::IcmpEchoHeader { id: 7, seq: 3 },
    ));
    assert_eq!(request.icmp(), Some(Icmp::EchoRequest { id: 7, seq: 3 }));
    let ip = request.ip().unwrap();
    assert_eq!((ip.protocol, ip.payload_length), (58, 24));
    assert_eq!(ip.source, IpAddr::from(guest));
    let asks = message(etherparse::Icmpv6Type::NeighborSolicitation);
    let target = host.into();
    assert_eq!(asks.icmp(), Some(Icmp::NeighbourSolicitation { target }));
    assert_eq!(asks.kind(), "neighbour solicitation");
    for length in 0..asks.bytes.len() {
        let mut cut = asks.clone();
        cut.bytes = cut.bytes[..length].into();
        cut.to_string(); // no length may panic
    }
}

#[test]
fn fragments_of_ipv6() {
    let first = written(|out| {
        ether()
            .ipv6([0xfd; 16], [0xfe; 16], 64)
            .icmpv6_echo_request(7, 3)
            .write(out, &[0; 56])
    });
    // A fragment header (RFC 8200, 4.5) before ICMPv6's: at 1448, more to come, identification 9.
    let mut bytes = first.bytes.to_vec();
    bytes[14 + 6] = 44;
    bytes[14 + 5] += 8;
    let header = [58, 0, 0x05, 0xa9, 0, 0, 0, 9];
    bytes.splice(54..54, header);
    let second = frame(bytes);
    let ip = second.ip().unwrap();
    assert_eq!((ip.fragment_offset, ip.identification), (1448, 9));
    assert!(ip.more_fragments && ip.is_fragment());
    assert_eq!((ip.protocol, ip.payload_length), (58, 64));
    assert_eq!(
        (second.icmp(), second.kind()),
        (None, "ICMPv6 fragment".into())
    );
}

#[test]
fn a_tcp_frame_that_is_to_be_cut_tells_its_longest_packet() {
    let tcp = |payload: usize| {
        let builder = ether()
            .ipv4([198, 18, 0, 2], [198, 18, 0, 1], 64)
            .tcp(9, 10, 1, 1000);
        written(|out| builder.write(out, &vec![0; payload]))
    };
    assert_eq!(tcp(1460).tcp_packet(), Some(1500));
    let whole = Frame {
        segment: Some(1260),
        ..tcp(6300)
    };
    assert_eq!(whole.tcp_packet(), Some(1300));
    let six = ether().ipv6([1; 16], [2; 16], 64).tcp(9, 10, 1, 1000);
    let six = Frame {
        segment: Some(1240),
        ..written(|out| six.write(out, &[0; 6200]))
    };
    assert_eq!(six.tcp_packet(), Some(1300));
    assert_eq!(echo(56).tcp_packet(), None);
}
