//! What each driver's counters mean: what it counts of a frame beyond the bytes that cross the tap, and the names
//! by which its `ethtool -S` tells of frames and bytes. All of it was seen with Linux 5.10, 6.1 and 6.12.

use Meaning::{
    RxBroadcasts, RxBytes, RxFrames, RxMulticasts, RxUnicasts, TxBroadcasts, TxBytes,
    TxBytesOrMore, TxFrames, TxKicks, TxMulticasts, TxUnicasts,
};

/// What a counter counts. Bytes are those on the tap, and so many more for each frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// What no sound frame moves.
    Errors,
    RxFrames,
    RxBytes(i64),
    RxUnicasts,
    RxBroadcasts,
    RxMulticasts,
    TxFrames,
    TxBytes(i64),
    /// Either no more, or so many.
    TxBytesOrMore(i64),
    /// How often the driver told the device of frames to send: at least once, and at most once a frame.
    TxKicks,
    TxUnicasts,
    TxBroadcasts,
    TxMulticasts,
}

/// A driver's counters.
#[derive(Debug)]
pub(super) struct Driver {
    name: &'static str,
    /// What `rx_bytes` and `tx_bytes` in sysfs mean.
    pub(super) bytes: (Meaning, Meaning),
    /// Whether `multicast` in sysfs counts received multicasts.
    pub(super) multicast: bool,
    /// Whether the counters in sysfs, and those of `ethtool -S`, go on when the link was down.
    pub(super) goes_on: (bool, bool),
    /// Names of `ethtool -S`, with `#` for each number.
    pub(super) ethtool: &'static [(&'static str, Meaning)],
}

/// Ethernet's checksum, which Intel's NICs count.
const FCS: i64 = 4;
/// Ethernet's header, which a driver takes off before it counts.
const HEADER: i64 = 14;

const PLAIN: Driver = Driver {
    name: "",
    bytes: (RxBytes(0), TxBytes(0)),
    multicast: false,
    goes_on: (true, true),
    ethtool: &[],
};

static DRIVERS: [Driver; 8] = [
    Driver {
        name: "virtio_net",
        // Since Linux 6.10 without "queue"; 6.12 has the kicks alone of these.
        ethtool: &[
            ("rx_queue_#_packets", RxFrames),
            ("rx_queue_#_bytes", RxBytes(0)),
            ("tx_queue_#_packets", TxFrames),
            ("tx_queue_#_bytes", TxBytes(0)),
            ("rx#_packets", RxFrames),
            ("rx#_bytes", RxBytes(0)),
            ("tx#_packets", TxFrames),
            ("tx#_bytes", TxBytes(0)),
            ("tx_queue_#_kicks", TxKicks),
            ("tx#_kicks", TxKicks),
        ],
        ..PLAIN
    },
    Driver {
        name: "e1000",
        multicast: true,
        ethtool: &[
            ("rx_packets", RxFrames),
            ("tx_packets", TxFrames),
            ("rx_bytes", RxBytes(FCS)),
            ("tx_bytes", TxBytes(FCS)),
            ("rx_broadcast", RxBroadcasts),
            ("tx_broadcast", TxBroadcasts),
            ("rx_multicast", RxMulticasts),
            ("tx_multicast", TxMulticasts),
            ("multicast", RxMulticasts),
            ("rx_long_byte_count", RxBytes(FCS)),
        ],
        ..PLAIN
    },
    Driver {
        name: "e1000e",
        // QEMU 7.2 does not count the checksum of sent frames, 10.0 does.
        bytes: (RxBytes(FCS), TxBytesOrMore(FCS)),
        multicast: true,
        ethtool: &[
            ("rx_packets", RxFrames),
            ("tx_packets", TxFrames),
            ("rx_bytes", RxBytes(FCS)),
            ("tx_bytes", TxBytesOrMore(FCS)),
            ("rx_broadcast", RxBroadcasts),
            ("tx_broadcast", TxBroadcasts),
            ("rx_multicast", RxMulticasts),
            ("tx_multicast", TxMulticasts),
            ("multicast", RxMulticasts),
        ],
        ..PLAIN
    },
    Driver {
        name: "igb",
        multicast: true,
        ethtool: &[
            ("rx_packets", RxFrames),
            ("tx_packets", TxFrames),
            ("rx_bytes", RxBytes(FCS)),
            ("tx_bytes", TxBytes(FCS)),
            ("rx_broadcast", RxBroadcasts),
            ("tx_broadcast", TxBroadcasts),
            ("rx_multicast", RxMulticasts),
            ("tx_multicast", TxMulticasts),
            ("multicast", RxMulticasts),
            ("rx_queue_#_packets", RxFrames),
            ("tx_queue_#_packets", TxFrames),
        ],
        ..PLAIN
    },
    Driver {
        name: "8139cp",
        // cp_rx_skb counts once eth_type_trans has taken off the header.
        bytes: (RxBytes(-HEADER), TxBytes(0)),
        // cp_open resets the NIC, with its counters.
        goes_on: (true, false),
        ethtool: &[
            ("tx_ok", TxFrames),
            ("rx_ok", RxFrames),
            ("rx_ok_phys", RxUnicasts),
            ("rx_ok_bcast", RxBroadcasts),
            ("rx_ok_mcast", RxMulticasts),
        ],
        ..PLAIN
    },
    Driver {
        name: "cdc_ether",
        // usbnet_skb_return counts as cp_rx_skb does.
        bytes: (RxBytes(-HEADER), TxBytes(0)),
        ..PLAIN
    },
    Driver {
        name: "e100",
        ethtool: &[
            ("rx_packets", RxFrames),
            ("tx_packets", TxFrames),
            ("rx_bytes", RxBytes(0)),
            ("tx_bytes", TxBytes(0)),
        ],
        ..PLAIN
    },
    Driver {
        name: "vmxnet3",
        multicast: true,
        // All of its counters are the device's, and begin anew when the driver activates it.
        goes_on: (false, false),
        ethtool: &[
            ("ucast pkts tx", TxUnicasts),
            ("mcast pkts tx", TxMulticasts),
            ("bcast pkts tx", TxBroadcasts),
            ("ucast pkts rx", RxUnicasts),
            ("mcast pkts rx", RxMulticasts),
            ("bcast pkts rx", RxBroadcasts),
        ],
        ..PLAIN
    },
];

static OTHER: Driver = PLAIN;

impl Driver {
    /// The driver of that name; one that is not known has plain counters in sysfs and none of `ethtool -S`.
    pub(super) fn of(name: &str) -> &'static Driver {
        let known = DRIVERS.iter().find(|driver| driver.name == name);
        known.unwrap_or(&OTHER)
    }
}
