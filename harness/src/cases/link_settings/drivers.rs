//! What each driver tells of its link, and what it makes of other settings. All of it was seen with Linux 5.10, 6.1 and
//! 6.12 on QEMU 7.2, 10.0 and 11.1.

use crate::matrix::Cell;

/// What QEMU's virtio-net is given to tell the guest: Mb/s and duplex. The model carries frames as fast as it can.
pub(super) const VIRTIO: [&str; 2] = ["speed=25000", "duplex=full"];

/// A driver that tells of its link.
#[derive(Debug)]
pub(super) struct Driver {
    name: &'static str,
    /// Speed, duplex, autonegotiation, port and whether there is a link, as `ethtool DEV` says them.
    pub(super) link: &'static str,
    /// What sysfs has as `speed` and `duplex`.
    pub(super) sysfs: &'static str,
    /// Autonegotiation, received and sent of `ethtool -a`, where the driver knows of pause frames.
    pub(super) pause: Option<&'static str>,
    /// Where the EEPROM that `ethtool -e` shows has the NIC's MAC, bytes from its beginning.
    pub(super) eeprom: Option<u32>,
    /// What `ethtool -d` shows of the NIC's registers: words of it, where `MAC` is the NIC's MAC, and `APROM` the
    /// same as three numbers of 16 bits.
    pub(super) registers: &'static [&'static str],
    /// What `ethtool -r` does.
    pub(super) restart: Restart,
    /// What is set with `ethtool -s`, and what the link is then. The last is the first state.
    pub(super) changes: &'static [(&'static str, &'static str)],
}

/// A restart of the negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restart {
    /// The driver has none.
    None,
    /// It is asked of the NIC, whose link goes on.
    Quiet,
    /// The link goes, and comes back.
    LinkGoes,
}

const PLAIN: Driver = Driver {
    name: "",
    link: "",
    sysfs: "",
    pause: None,
    eeprom: None,
    registers: &[],
    restart: Restart::None,
    changes: &[],
};

const GIGABIT: &str = "1000Mb/s Full on Twisted Pair yes";
const HUNDRED: &str = "100Mb/s Full on MII yes";

const INTEL: Driver = Driver {
    link: GIGABIT,
    sysfs: "1000 full",
    pause: Some("on on on"),
    eeprom: Some(0),
    registers: &[
        "CTRL (Device control register)",
        "RCTL (Receive control register)",
    ],
    restart: Restart::LinkGoes,
    ..PLAIN
};

static DRIVERS: [Driver; 8] = [
    Driver {
        name: "virtio_net",
        link: "25000Mb/s Full off Other yes",
        sysfs: "25000 full",
        // The driver keeps it to itself.
        changes: &[
            (
                "speed 100 duplex half autoneg off",
                "100Mb/s Half off Other yes",
            ),
            (
                "speed 25000 duplex full autoneg off",
                "25000Mb/s Full off Other yes",
            ),
        ],
        ..PLAIN
    },
    Driver {
        name: "8139cp",
        link: HUNDRED,
        sysfs: "100 full",
        eeprom: Some(14),
        registers: &["MAC Address                      MAC", "Rx on, Tx on"],
        restart: Restart::Quiet,
        // QEMU's has these bits of BMCR read-only (rtl8139_BasicModeCtrl_write).
        changes: &[
            ("speed 10 duplex half autoneg off", HUNDRED),
            ("speed 100 duplex full autoneg on", HUNDRED),
        ],
        ..PLAIN
    },
    Driver {
        name: "e1000",
        pause: Some("on on off"),
        // QEMU's status register says 1000 Mb/s and full duplex, whatever is forced.
        changes: &[
            (
                "speed 100 duplex full autoneg off",
                "1000Mb/s Full off Twisted Pair yes",
            ),
            (
                "speed 10 duplex half autoneg off",
                "1000Mb/s Full off Twisted Pair yes",
            ),
            ("autoneg on advertise 0x3f", GIGABIT),
        ],
        ..INTEL
    },
    Driver {
        name: "e1000e",
        changes: &[
            (
                "speed 100 duplex full autoneg off",
                "100Mb/s Full off Twisted Pair yes",
            ),
            (
                "speed 10 duplex half autoneg off",
                "10Mb/s Half off Twisted Pair yes",
            ),
            ("autoneg on advertise 0x3f", GIGABIT),
        ],
        ..INTEL
    },
    Driver {
        name: "igb",
        changes: &[
            ("autoneg on advertise 0x20", GIGABIT),
            (
                "speed 100 duplex full autoneg off",
                "100Mb/s Full off Twisted Pair yes",
            ),
            ("autoneg on advertise 0x3f", GIGABIT),
        ],
        ..INTEL
    },
    Driver {
        name: "vmxnet3",
        link: "1000Mb/s Full off Twisted Pair yes",
        sysfs: "1000 full",
        registers: &["(Media Access Control address)             MAC"],
        ..PLAIN
    },
    Driver {
        name: "pcnet32",
        link: "10Mb/s Half off Twisted Pair yes",
        sysfs: "10 half",
        registers: &["APROM:   APROM "],
        changes: &[
            (
                "speed 10 duplex full autoneg off",
                "10Mb/s Full off Twisted Pair yes",
            ),
            (
                "speed 10 duplex half autoneg off",
                "10Mb/s Half off Twisted Pair yes",
            ),
        ],
        ..PLAIN
    },
    Driver {
        name: "e100",
        link: HUNDRED,
        sysfs: "100 full",
        eeprom: Some(0),
        registers: &[
            "RU Status:               Ready",
            "CU Status:               Suspended",
        ],
        restart: Restart::Quiet,
        changes: &[
            (
                "speed 100 duplex half autoneg off",
                "100Mb/s Half off MII yes",
            ),
            (
                "speed 10 duplex full autoneg off",
                "10Mb/s Full off MII yes",
            ),
            ("speed 100 duplex full autoneg on", HUNDRED),
        ],
        ..PLAIN
    },
];

/// What the cell's driver tells, where it tells anything.
pub(super) fn driver(cell: &Cell) -> Option<&'static Driver> {
    DRIVERS.iter().find(|driver| driver.name == cell.nic.driver)
}
