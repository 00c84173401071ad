use super::*;
use std::time::Duration;

/// A guest's words, with counters of a virtio NIC of two queues.
fn text(rx: u64, tx: u64, queues: [u64; 2], errors: u64, interrupts: u64) -> String {
    let [first, second] = queues;
    format!(
        "multicast:0\nrx_bytes:{bytes}\nrx_crc_errors:{errors}\nrx_packets:{rx}\ntx_bytes:{sent}\ntx_packets:{tx}\n--\n\
         \x20 eth0: {bytes} {rx} 0 0 0 0 0 0 {sent} {tx} 0 0 0 0 0 0\n--\n\
         NIC statistics:\n     rx_queue_0_packets: {first}\n     rx_queue_1_packets: {second}\n     \
         rx_queue_0_drops: 0\n     tx_queue_0_kicks: {tx}\n--\n25\n26\n--\n\
         \x20           CPU0\n 24:          9   PCI-MSI 16384-edge      virtio0-config\n \
         25:          0   PCI-MSI 49152-edge      virtio1-config\n \
         26:        {interrupts}   PCI-MSI 49153-edge      virtio1-input.0\nNMI:          0   Non-maskable interrupts\n",
        bytes = rx * 100,
        sent = tx * 60,
    )
}

fn frame(direction: Direction, to: [u8; 6], length: usize) -> Frame {
    Frame {
        time: Duration::ZERO,
        direction,
        length,
        segment: None,
        bytes: to.into(),
    }
}

const ONE: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

fn crossed() -> Crossed {
    let to = |mac| frame(Direction::ToGuest, mac, 100);
    Crossed::of(&[
        to(ONE),
        to([0xff; 6]),
        to([0x01, 0, 0x5e, 0, 0, 9]),
        frame(Direction::FromGuest, ONE, 60),
    ])
}

#[test]
fn frames_are_told_apart_by_whom_they_are_for() {
    let crossed = crossed();
    let sums = [
        Meaning::RxFrames,
        Meaning::RxBytes(4),
        Meaning::RxUnicasts,
        Meaning::RxBroadcasts,
        Meaning::RxMulticasts,
        Meaning::TxFrames,
        Meaning::TxBytes(-14),
        Meaning::TxBytesOrMore(4),
        Meaning::Errors,
        Meaning::TxUnicasts,
        Meaning::TxBroadcasts,
        Meaning::TxMulticasts,
    ]
    .map(|meaning| crossed.sums(meaning)[0]);
    assert_eq!(sums, [3, 312, 1, 1, 1, 1, 46, 60, 0, 1, 0, 0]);
    assert_eq!(crossed.sums(Meaning::TxBytesOrMore(4)), [60, 64]);
    assert_eq!(crossed.sums(Meaning::TxKicks), [1, 1]);
    assert_eq!(Crossed::of(&[]).sums(Meaning::TxKicks), [0, 0]);
    assert_eq!(
        crossed.to_string(),
        "3 frames to the guest and 1 from it crossed the tap"
    );
}

#[test]
fn what_was_counted_is_what_crossed_or_each_difference_is_said() {
    let driver = Driver::of("virtio_net");
    let before = parse(&text(10, 20, [4, 6], 0, 5)).unwrap();
    let differences = |text: &str| {
        let after = parse(text).unwrap();
        after
            .differences(&before, driver, &crossed(), true)
            .join("; ")
    };
    assert_eq!(differences(&text(13, 21, [6, 7], 0, 6)), "");
    let said = [
        differences(&text(12, 21, [5, 7], 0, 6)),
        differences(&text(13, 22, [6, 7], 0, 6)),
        differences(&text(13, 21, [6, 7], 1, 6)),
        differences(&text(13, 21, [6, 7], 0, 5)),
        differences(&text(13, 21, [6, 7], 0, 6).replace("eth0: 1300 ", "eth0: 1299 ")),
        differences(&text(13, 21, [6, 7], 0, 6).replace("_drops: 0", "_drops: 1")),
    ];
    insta::assert_snapshot!(said.join("\n"), @r"
    rx_bytes moved by 200, not by 300; rx_packets moved by 2, not by 3; ethtool's rx_queue_#_packets moved by 2, not by 3
    tx_bytes moved by 120, not by 60; tx_packets moved by 2, not by 1; ethtool's tx_queue_#_kicks moved by 2, not by 1
    rx_crc_errors moved by 1, not by 0
    the guest counts no further interrupts of the NIC
    /proc/net/dev has 1299 where sysfs has 1300 rx_bytes
    ethtool's rx_queue_#_drops moved by 1, not by 0
    ");
    assert!(parse("rx_bytes:1\n--\n").is_err());
}

#[test]
fn what_the_tap_has_counted_otherwise_is_said() {
    let same = Carried {
        received: (1, 60),
        sent: (3, 300),
    };
    assert!(crossed().unlike_tap(&same).is_empty());
    let stuck = Carried {
        received: (1, 60),
        sent: (2, 200),
    };
    assert_eq!(
        crossed().unlike_tap(&stuck).join("; "),
        "frames that QEMU took from it the tap counts 2, not 3; bytes that QEMU took from it the tap counts 200, not 300"
    );
}

#[test]
fn names_of_queues_are_one_name_and_errors_are_known_by_their_words() {
    assert_eq!(without_numbers("rx_queue_12_xdp_tx"), "rx_queue_#_xdp_tx");
    assert_eq!(without_numbers("Tx Queue#"), "Tx Queue#");
    assert!(is_error("pkts rx OOB") && is_error("rx_csum_offload_errors"));
    assert!(!is_error("rx_long_byte_count") && !is_error("tx_restart_queue"));
}
