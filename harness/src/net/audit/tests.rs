use super::*;
use crate::net::vnet_header::{Partial, VnetHeader};
use etherparse::{Ethernet2Header, Ipv4Header};
use etherparse::{IpFragOffset, PacketBuilder, PacketBuilderStep, VlanId};
use std::time::Duration;

const GUEST: Mac = Mac([0x52, 0x54, 0, 1, 2, 3]);
const HOST: Mac = Mac([2, 0, 198, 18, 0, 1]);
const ADDRESSES: ([u8; 4], [u8; 4]) = ([198, 18, 0, 2], [198, 18, 0, 1]);
const MTU: u32 = 1500;

fn witness() -> Witness {
    let witness = Witness::default();
    witness.allow_mac(GUEST);
    witness.allow_mtu(MTU);
    witness
}

fn raw(bytes: &[u8]) -> Raw<'_> {
    Raw {
        bytes,
        length: bytes.len(),
        vlan: None,
        direction: Direction::FromGuest,
        left: VnetHeader::default(),
        time: Duration::from_secs(1_800_000_000),
    }
}

/// What is said of frames in this order.
fn said(frames: &[Raw<'_>]) -> Option<String> {
    let witness = witness();
    let mut auditor = Auditor::new(&witness);
    frames.iter().for_each(|raw| auditor.judge(raw));
    witness.findings().damage()
}

/// As [`said`], of one frame, without that frame's own description.
fn said_of(raw: Raw<'_>) -> Option<String> {
    let said = said(&[raw])?;
    Some(said.split(", the first:").next().unwrap().to_owned())
}

fn ether() -> PacketBuilderStep<Ethernet2Header> {
    PacketBuilder::ethernet2(GUEST.0, HOST.0)
}

fn tcp(payload: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = ether()
        .ipv4(ADDRESSES.0, ADDRESSES.1, 64)
        .tcp(40000, 80, 7, 100);
    builder.write(&mut bytes, &vec![0x5a; payload]).unwrap();
    bytes
}

fn udp(payload: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = ether().ipv4(ADDRESSES.0, ADDRESSES.1, 64).udp(40000, 9);
    builder.write(&mut bytes, &vec![0x5a; payload]).unwrap();
    bytes
}

fn echo(payload: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = ether()
        .ipv4(ADDRESSES.0, ADDRESSES.1, 64)
        .icmpv4_echo_reply(7, 3);
    builder.write(&mut bytes, &vec![0x5a; payload]).unwrap();
    bytes
}

fn neighbour_v6() -> Vec<u8> {
    let mut bytes = Vec::new();
    let (from, to) = ([0xfe; 16], [0xff; 16]);
    let builder = ether().ipv6(from, to, 255).icmpv6_echo_request(7, 3);
    builder.write(&mut bytes, &[0x5a; 33]).unwrap();
    bytes
}

fn udp_v6(payload: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = ether().ipv6([0xfe; 16], [0xff; 16], 64).udp(40000, 9);
    builder.write(&mut bytes, &vec![0x5a; payload]).unwrap();
    bytes
}

/// Changes a byte of a frame.
fn with(mut bytes: Vec<u8>, at: usize, change: u8) -> Vec<u8> {
    bytes[at] ^= change;
    bytes
}

/// As a guest leaves it to the tap: the pseudo header's sum stands in the checksum's place.
fn partial(mut bytes: Vec<u8>, field: usize) -> Vec<u8> {
    let length = (bytes.len() - 34) as u32;
    let mut sum: u32 = bytes[26..34]
        .chunks(2)
        .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]))
        .sum();
    sum += u32::from(bytes[23]) + length;
    sum = (sum & 0xffff) + (sum >> 16);
    bytes[34 + field..36 + field].copy_from_slice(&(sum as u16).to_be_bytes());
    bytes
}

fn left(start: u16, offset: u16, segmentation: Option<Segmentation>) -> VnetHeader {
    VnetHeader {
        partial: Some(Partial { start, offset }),
        segmentation,
    }
}

#[test]
fn sound_frames_are_left_in_peace() {
    let arp = [&HOST.0[..], &GUEST.0, &[8, 6], &[0; 46]].concat();
    let frames = [
        tcp(0),
        tcp(1),
        tcp(1446),
        udp(0),
        udp(1471),
        echo(0),
        echo(33),
        neighbour_v6(),
        udp_v6(5),
        arp,
    ];
    for bytes in &frames {
        assert_eq!(said(&[raw(bytes)]), None);
    }
    // None was made, or it came to zero.
    let mut unsummed = udp(10);
    unsummed[40..42].fill(0);
    let unsummed = || raw(&unsummed);
    assert_eq!(said(&[unsummed(), unsummed()]), None);
    let summed = udp(10);
    let blank = said(&[raw(&summed), unsummed(), unsummed(), unsummed()]).unwrap();
    let told = "3 of 4 UDP datagrams (52 bytes) left the guest without a checksum";
    assert!(blank.starts_with(told), "{blank}");
    // A short frame is filled up, and USB adds a byte.
    for (mut bytes, padding) in [(tcp(0), 6), (tcp(100), 1)] {
        bytes.resize(bytes.len() + padding, 0);
        assert_eq!(said(&[raw(&bytes)]), None);
    }
    // What the host sends is not the guest's.
    let to_guest = tcp(10);
    let to_guest = with(to_guest, 60, 1);
    let host = Raw {
        direction: Direction::ToGuest,
        ..raw(&to_guest)
    };
    assert_eq!(said(&[host]), None);
}

#[test]
fn each_wrong_checksum_is_told_by_what_has_it() {
    let ends = "left the guest with a wrong checksum";
    for (bytes, at, which) in [
        (tcp(100), 16 + 6, "1 of 1 IPv4 headers (154 bytes)"),
        (tcp(100), 36, "1 of 1 TCP segments (154 bytes)"),
        (tcp(101), 154, "1 of 1 TCP segments (155 bytes)"),
        (udp(101), 142, "1 of 1 UDP datagrams (143 bytes)"),
        (echo(101), 142, "1 of 1 ICMP messages (143 bytes)"),
        (neighbour_v6(), 94, "1 of 1 ICMP messages (95 bytes)"),
        (udp_v6(100), 100, "1 of 1 UDP datagrams (162 bytes)"),
    ] {
        let damaged = with(bytes, at, 0x10);
        assert_eq!(
            said_of(raw(&damaged)).as_deref(),
            Some(&*format!("{which} {ends}"))
        );
    }
    let mut unsummed = udp_v6(100);
    unsummed[60..62].fill(0);
    assert!(said_of(raw(&unsummed)).unwrap().contains("UDP datagrams"));
}

#[test]
fn a_checksum_that_is_left_to_the_tap_is_judged_by_what_is_left() {
    let segment = partial(tcp(100), 16);
    assert!(said(&[raw(&segment)]).is_some(), "it is not complete");
    let as_left = |bytes: &[u8], left| said(&[Raw { left, ..raw(bytes) }]);
    assert_eq!(as_left(&segment, left(34, 16, None)), None);
    assert_eq!(as_left(&partial(udp(100), 6), left(34, 6, None)), None);
    // The wrong place, or another sum than that of the pseudo header: a peer would see neither.
    for wrong in [left(34, 6, None), left(36, 16, None), left(14, 16, None)] {
        assert!(as_left(&segment, wrong).is_some(), "{wrong:?}");
    }
    assert!(as_left(&with(segment.clone(), 50, 1), left(34, 16, None)).is_some());
}

#[test]
fn a_frame_beyond_the_mtu_says_how_it_is_to_be_cut() {
    let long = partial(tcp(60_000), 16);
    let size = |size| {
        Some(Segmentation {
            kind: vnet_header::TCPV4,
            size,
        })
    };
    let of = |segmentation| {
        said_of(Raw {
            left: left(34, 16, segmentation),
            ..raw(&long)
        })
    };
    assert_eq!(of(size(1460)), None);
    let plain =
        "1 of 1 frames (60,054 bytes) left the guest longer than its MTU and not to be segmented";
    assert_eq!(of(None).as_deref(), Some(plain));
    let segments = "1 of 1 frames to be segmented (60,054 bytes) left the guest with segments longer than its MTU or of another protocol";
    assert_eq!(of(size(1461)).as_deref(), Some(segments));
    let udp = Some(Segmentation {
        kind: vnet_header::UDP,
        size: 1000,
    });
    assert_eq!(of(udp).as_deref(), Some(segments));

    let exactly = tcp(1460);
    assert_eq!(said(&[raw(&exactly)]), None);
    assert!(
        said(&[raw(&tcp(1461))])
            .unwrap()
            .contains("longer than its MTU")
    );
    let witness = witness();
    witness.allow_mtu(9000);
    witness.allow_mtu(1400);
    Auditor::new(&witness).judge(&raw(&tcp(8960)));
    assert_eq!(witness.findings().damage(), None, "the largest MTU counts");
}

#[test]
fn what_the_capture_cut_off_is_not_judged_and_counted() {
    let witness = witness();
    witness.allow_mtu(9000);
    let mut auditor = Auditor::new(&witness);
    let long = with(tcp(5000), 4000, 1);
    auditor.judge(&Raw {
        length: long.len(),
        ..raw(&long[..1900])
    });
    auditor.lost(3);
    let findings = witness.findings();
    assert_eq!(findings.damage(), None);
    assert_eq!(
        findings.summary(),
        "the guests' frames on the taps: of 1 frames 1 could not be judged whole, and 3 more were lost to the capture"
    );
}

#[test]
fn lengths_that_make_no_sense_are_told() {
    let what = "1 of 1 IP packets";
    let mut trailer = tcp(100);
    trailer.extend([0; 8]);
    for bytes in [
        with(tcp(100), 17, 0x80), // IP's length: more than there is
        with(tcp(100), 17, 0x20), // and less
        with(tcp(100), 14, 0x01), // a header of 16 bytes
        with(tcp(100), 14, 0x10), // IP version 5
        trailer,
        with(neighbour_v6(), 19, 0x40),
    ] {
        let said = said_of(raw(&bytes)).unwrap();
        assert!(
            said.starts_with(what) && said.contains("make no sense"),
            "{said}"
        );
    }
    // UDP's own length, and TCP's header beyond the segment.
    for bytes in [with(udp(100), 39, 1), with(tcp(0), 46, 0xa0)] {
        assert!(said(&[raw(&bytes)]).unwrap().contains("make no sense"));
    }
}

#[test]
fn a_source_and_a_vlan_that_are_nobodys_are_told() {
    let foreign = with(tcp(100), 9, 0xff);
    let mac =
        "1 of 1 frames (154 bytes) left the guest with a source MAC that none of its NICs has";
    assert_eq!(said_of(raw(&foreign)).as_deref(), Some(mac));

    let group = with(tcp(100), 6, 1);
    let witness = witness();
    witness.allow_mac(Mac(group[6..12].try_into().unwrap()));
    Auditor::new(&witness).judge(&raw(&group));
    assert!(witness.findings().damage().unwrap().starts_with(mac));

    let bytes = tcp(100);
    let tagged = |control| Raw {
        vlan: Some((0x8100, control)),
        ..raw(&bytes)
    };
    assert_eq!(said(&[tagged(0xe000)]), None, "a priority without a VLAN");
    let vlan = "1 of 1 tagged frames (154 bytes) left the guest in a VLAN that it has not joined";
    assert_eq!(said_of(tagged(10)).as_deref(), Some(vlan));
    let witness = self::witness();
    witness.allow_vlan(10);
    let mut auditor = Auditor::new(&witness);
    auditor.judge(&tagged(0x600a));
    assert_eq!(witness.findings().damage(), None);

    // The second tag is in the frame.
    let mut inner = Vec::new();
    let builder = ether().single_vlan(VlanId::try_new(11).unwrap());
    let builder = builder
        .ipv4(ADDRESSES.0, ADDRESSES.1, 64)
        .tcp(40000, 80, 7, 100);
    builder.write(&mut inner, &[0; 1460]).unwrap();
    auditor.judge(&Raw {
        vlan: Some((0x88a8, 10)),
        ..raw(&inner)
    });
    let said = witness.findings().damage().unwrap();
    assert!(
        said.starts_with("1 of 3 tagged frames (1,518 bytes) left"),
        "{said}"
    );
    assert!(!said.contains("MTU"), "{said}");
}

/// The fragments of an echo reply, `most` bytes of payload each.
fn fragments(packet: &[u8], most: usize) -> Vec<Vec<u8>> {
    let payload = &packet[34..];
    let cut = payload.chunks(most).enumerate();
    cut.map(|(index, part)| {
        let (mut header, _) = Ipv4Header::from_slice(&packet[14..]).unwrap();
        header.identification = 77;
        header.dont_fragment = false;
        header.fragment_offset = IpFragOffset::try_new((index * most / 8) as u16).unwrap();
        header.more_fragments = (index + 1) * most < payload.len();
        header.set_payload_len(part.len()).unwrap();
        header.header_checksum = header.calc_header_checksum();
        let mut bytes = packet[..14].to_vec();
        header.write(&mut bytes).unwrap();
        bytes.extend(part);
        bytes
    })
    .collect()
}

#[test]
fn fragments_are_added_up_in_any_order() {
    let whole = echo(4001);
    let mut parts = fragments(&whole, 1480);
    parts.reverse();
    let frames: Vec<Raw> = parts.iter().map(|bytes| raw(bytes)).collect();
    assert_eq!(said(&frames), None);
    let last = parts.len() - 1;
    for (index, at) in [(0, 50), (1, 1000), (last, 60)] {
        let mut parts = parts.clone();
        parts[index][at] ^= 1;
        let frames: Vec<Raw> = parts.iter().map(|bytes| raw(bytes)).collect();
        let said = said(&frames).unwrap();
        assert!(said.starts_with("1 of 1 ICMP messages"), "{said}");
    }
    // The capture lost the rest of one, whose number is another's a second later.
    let (first, other) = (fragments(&echo(4001), 1480), fragments(&echo(2001), 1480));
    let later = |bytes| Raw {
        time: raw(bytes).time + IDENTIFIES,
        ..raw(bytes)
    };
    let frames = [raw(&first[0]), later(&other[0]), later(&other[1])];
    assert_eq!(said(&frames), None);
    // More packets than are waited for, none of them whole.
    let witness = witness();
    let mut auditor = Auditor::new(&witness);
    for identification in 1..=20 {
        let mut first = parts[last].clone();
        let (mut header, _) = Ipv4Header::from_slice(&first[14..]).unwrap();
        header.identification = identification;
        header.header_checksum = header.calc_header_checksum();
        first[14..34].copy_from_slice(&header.to_bytes());
        auditor.judge(&raw(&first));
    }
    let findings = witness.findings();
    assert_eq!(findings.damage(), None);
    assert!(
        findings.summary().contains("of 20 frames 4 could not"),
        "{}",
        findings.summary()
    );
}

#[test]
fn a_packet_that_comes_twice_is_told_and_one_that_is_sent_again_is_not() {
    let identified = |mut bytes: Vec<u8>, identification: u16| {
        let (mut header, _) = Ipv4Header::from_slice(&bytes[14..]).unwrap();
        header.identification = identification;
        header.header_checksum = header.calc_header_checksum();
        bytes[14..34].copy_from_slice(&header.to_bytes());
        bytes
    };
    let numbered = |identification| identified(tcp(100), identification);
    let (one, two, none) = (numbered(1), numbered(2), numbered(0));
    assert_eq!(said(&[raw(&one), raw(&two), raw(&none), raw(&none)]), None);
    let said_of_both = said(&[raw(&one), raw(&two), raw(&one)]).unwrap();
    assert!(
        said_of_both.starts_with("1 of 3 IPv4 packets (154 bytes) left the guest twice"),
        "{said_of_both}"
    );
    let later = Raw {
        time: raw(&one).time + Duration::from_secs(9),
        ..raw(&one)
    };
    assert_eq!(said(&[raw(&one), later]), None, "its number has come round");
    let acknowledgement = identified(tcp(0), 1);
    assert_eq!(said(&[raw(&one), raw(&acknowledgement)]), None);
    let mut elsewhere = Vec::new();
    let builder = ether()
        .ipv4(ADDRESSES.0, ADDRESSES.1, 64)
        .tcp(40001, 80, 7, 100);
    builder.write(&mut elsewhere, &[0; 50]).unwrap();
    let elsewhere = identified(elsewhere, 1);
    assert_eq!(said(&[raw(&one), raw(&elsewhere)]), None);
    let parts = fragments(&echo(4000), 1480);
    let frames: Vec<Raw> = parts
        .iter()
        .chain(&parts[1..2])
        .map(|bytes| raw(bytes))
        .collect();
    let said_of_parts = said(&frames).unwrap();
    assert!(
        said_of_parts.starts_with("1 of 4 IPv4 packets"),
        "{said_of_parts}"
    );
}

#[test]
fn damage_is_told_by_the_lengths_that_have_it() {
    let damaged: Vec<Vec<u8>> = [1400, 1446, 1300].map(|size| with(tcp(size), 60, 1)).into();
    let sound: Vec<Vec<u8>> = [0, 100, 1246].map(tcp).into();
    let frames: Vec<Raw> = damaged
        .iter()
        .chain(&sound)
        .map(|bytes| raw(bytes))
        .collect();
    let text = said(&frames).unwrap();
    assert_eq!(
        text,
        "all 3 TCP segments over 1,300 bytes left the guest with a wrong checksum, the first: \
         guest→host 52:54:00:01:02:03 > 02:00:c6:12:00:01 TCP port 40000 > 80, 1454 bytes"
    );
    let short: Vec<Raw> = frames
        .iter()
        .filter(|raw| raw.length > 1300)
        .map(|raw| Raw { ..*raw })
        .collect();
    assert!(said(&short).unwrap().starts_with("all 3 TCP segments left"));
    let between = tcp(1350);
    let mixed: Vec<Raw> = frames.into_iter().chain([raw(&between)]).collect();
    assert!(
        said(&mixed)
            .unwrap()
            .starts_with("3 of 7 TCP segments (1,354 to 1,500 bytes) left")
    );
}

#[test]
fn each_forged_frame_has_its_own_damage() {
    use crate::net::forged::{self, Forged};
    let judged = |forged: Forged| {
        said_of(Raw {
            left: VnetHeader::parse(forged.left),
            ..raw(&forged.bytes)
        })
    };
    let checksum = "left the guest with a wrong checksum";
    for (forged, expected) in [
        (forged::changed_tcp(GUEST), format!("1 of 1 TCP segments (1,054 bytes) {checksum}")),
        (forged::changed_udp(GUEST), format!("1 of 1 UDP datagrams (1,042 bytes) {checksum}")),
        (forged::changed_icmp(GUEST), format!("1 of 1 ICMP messages (1,042 bytes) {checksum}")),
        (forged::changed_ipv4(GUEST), format!("1 of 1 IPv4 headers (1,042 bytes) {checksum}")),
        (
            forged::cut_short(GUEST),
            "1 of 1 IP packets (942 bytes) left the guest with lengths that make no sense".into(),
        ),
        (
            forged::never_cut(GUEST),
            "1 of 1 frames (60,054 bytes) left the guest longer than its MTU and not to be segmented".into(),
        ),
        (
            forged::cut_too_long(GUEST),
            "1 of 1 frames to be segmented (60,054 bytes) left the guest with segments longer than its MTU or of another protocol".into(),
        ),
        (
            forged::completed_elsewhere(GUEST),
            format!("1 of 1 TCP segments (1,054 bytes) {checksum}"),
        ),
        (
            Ok(forged::foreign(HOST)),
            "1 of 1 frames (60 bytes) left the guest with a source MAC that none of its NICs has".into(),
        ),
        (
            forged::tagged(GUEST, 77),
            "1 of 1 tagged frames (78 bytes) left the guest in a VLAN that it has not joined".into(),
        ),
    ] {
        assert_eq!(judged(forged.unwrap()), Some(expected));
    }
    assert_eq!(judged(forged::marker(GUEST)), None);
    let twice = forged::numbered(GUEST).unwrap();
    let frames = [raw(&twice.bytes), raw(&twice.bytes)];
    assert!(said(&frames).unwrap().contains("left the guest twice"));
    let alike = forged::cut_alike(GUEST).unwrap();
    let told = said(&[raw(&alike[0].bytes), raw(&alike[1].bytes)]).unwrap();
    assert!(
        told.starts_with(
            "1 of 2 IPv4 packets (554 bytes) left the guest with the identification of another segment"
        ),
        "{told}"
    );
    let pushing = forged::cut_pushing(GUEST, MTU).unwrap();
    let pushing: Vec<Raw> = pushing.iter().map(|one| raw(&one.bytes)).collect();
    let told = said(&pushing).unwrap();
    assert!(told.starts_with("1 of 3 full TCP segments"), "{told}");
    assert_eq!(said(&pushing[1..]), None);
}

/// The host's echo requests with these sequence numbers, then replies with those.
fn echoes(asked: &[u16], answered: &[u16]) -> Vec<(Direction, Vec<u8>)> {
    let frame = |reply: bool, seq: u16| {
        let mut bytes = Vec::new();
        let (from, to) = match reply {
            true => (ADDRESSES.0, ADDRESSES.1),
            false => (ADDRESSES.1, ADDRESSES.0),
        };
        let builder = ether().ipv4(from, to, 64);
        match reply {
            true => builder
                .icmpv4_echo_reply(7, seq)
                .write(&mut bytes, &[0; 56]),
            false => builder
                .icmpv4_echo_request(7, seq)
                .write(&mut bytes, &[0; 56]),
        }
        .unwrap();
        bytes
    };
    let requests = asked
        .iter()
        .map(|seq| (Direction::ToGuest, frame(false, *seq)));
    let replies = answered
        .iter()
        .map(|seq| (Direction::FromGuest, frame(true, *seq)));
    requests.chain(replies).collect()
}

#[test]
fn a_reply_after_a_later_ones_is_told_and_one_that_is_missing_is_not() {
    let said = |frames: &[(Direction, Vec<u8>)], any_order: bool| {
        let witness = witness();
        if any_order {
            witness.allow_any_order();
        }
        let mut auditor = Auditor::new(&witness);
        for (direction, bytes) in frames {
            let direction = *direction;
            auditor.judge(&Raw {
                direction,
                ..raw(bytes)
            });
        }
        witness.findings().damage()
    };
    let swapped = echoes(&[1, 2, 3], &[1, 3, 2]);
    let of_swapped = said(&swapped, false).unwrap();
    assert!(
        of_swapped.starts_with(
            "1 of 3 echo replies (98 bytes) left the guest after the reply to a later request"
        ),
        "{of_swapped}"
    );
    assert_eq!(said(&swapped, true), None);
    assert_eq!(said(&echoes(&[1, 2, 3], &[1, 3]), false), None);
    // The numbers begin anew after 65,535, and another ping may begin with any.
    assert_eq!(said(&echoes(&[65535, 0, 1], &[65535, 0, 1]), false), None);
    let anew = [echoes(&[8, 9], &[8, 9]), echoes(&[1, 2], &[1, 2])].concat();
    assert_eq!(said(&anew, false), None);
}

#[test]
fn a_segment_that_pushes_amid_what_was_written_is_told() {
    const FULL: usize = MTU as usize - 40;
    let segment = |(sequence, push, payload): (u32, bool, usize)| {
        let mut bytes = Vec::new();
        let builder = ether().ipv4(ADDRESSES.0, ADDRESSES.1, 64);
        let builder = builder.tcp(40000, 80, sequence, 100).ack(9);
        let builder = if push { builder.psh() } else { builder };
        builder.write(&mut bytes, &vec![0x5a; payload]).unwrap();
        bytes
    };
    let told = |segments: &[(u32, bool, usize)]| {
        let segments: Vec<_> = segments.iter().copied().map(segment).collect();
        said(&segments.iter().map(|bytes| raw(bytes)).collect::<Vec<_>>())
    };
    // Up to the largest sequence number, and on.
    let at = |place: u32| (u32::MAX - FULL as u32).wrapping_add(place * FULL as u32);
    let full = |pushes: &[bool]| -> Vec<_> {
        let places = pushes.iter().zip(0..);
        places
            .map(|(push, place)| (at(place), *push, FULL))
            .collect()
    };
    let (yes, no) = (true, false);
    assert_eq!(told(&full(&[no, yes, yes, yes, no, yes, yes, yes])), None);
    let words = "2 of 6 full TCP segments (1,514 bytes) left the guest with its push flag, as the three right before it";
    let said = told(&full(&[no, yes, yes, yes, yes, yes, no])).unwrap();
    assert!(said.starts_with(words), "{said}");
    // Shorter ones, and one that is sent again.
    let short = [0, 1, 2, 3, 4].map(|place| (1 + place * 1000, yes, 1000));
    assert_eq!(told(&short), None);
    assert_eq!(told(&[(at(0), yes, FULL); 5]), None);
}
