//! A NIC's rings at their smallest and largest, and how long it may hold back interrupts.

use super::faults::{self, AT_START, IN_TRAFFIC, ignore};
use super::transfer::{self, ALTERED};
use super::{Case, Fault, Moment, Red};
use crate::base::deadline;
use crate::guest::dialect::Op;
use crate::guest::link::Link;
use crate::matrix::Cell;
use crate::net::addr::HOST;
use crate::net::sabotage;
use crate::net::transfer::blocks;
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};
use std::time::Duration;

/// What crosses each way with each setting, MiB.
pub(super) const MIB: u32 = 1;
/// Pings of a full frame with each setting.
const PINGS: u32 = 5;
/// IPv4 and ICMP headers, bytes.
const HEADERS: u32 = 28;

/// A driver that lets its rings be set, with the least that it takes (seen with Linux 5.10, 6.1 and 6.12).
struct Driver {
    name: &'static str,
    /// Received and sent, buffers.
    least: (u32, u32),
    /// Microseconds for which an interrupt may be held back, where it lets that be set.
    usecs: &'static [u32],
}

static DRIVERS: [Driver; 6] = [
    Driver {
        name: "e1000",
        least: (48, 48), // E1000_MIN_RXD, E1000_MIN_TXD
        usecs: &[],
    },
    Driver {
        name: "e1000e",
        least: (64, 64), // E1000_MIN_RXD, E1000_MIN_TXD
        usecs: &[0, 1000, 20],
    },
    Driver {
        name: "igb",
        least: (80, 80), // IGB_MIN_RXD, IGB_MIN_TXD
        usecs: &[0, 1000, 20],
    },
    Driver {
        name: "vmxnet3",
        least: (32, 32), // VMXNET3_RING_SIZE_ALIGN
        usecs: &[],
    },
    Driver {
        name: "pcnet32",
        // It takes 4, and then drops what a single file brings at once.
        least: (32, 4),
        usecs: &[],
    },
    Driver {
        name: "e100",
        // It takes 16 to receive, and with so few its kernel reads at address 0 during a transfer (e100_poll).
        least: (64, 64),
        usecs: &[],
    },
];

fn driver(cell: &Cell) -> Option<&'static Driver> {
    DRIVERS.iter().find(|driver| driver.name == cell.nic.driver)
}

/// Full frames are lost on the host.
pub(super) const FULL_LOST: Fault = Fault {
    name: "full_lost",
    breaks: "packets as long as the MTU are dropped on the tap",
    inject: |bed| {
        let tap = bed.nic().tap.clone();
        sabotage::drop_length(&tap, bed.cell.nic.default_mtu() as usize)
    },
    red: Red::Says("replies came back"),
    ..IN_TRAFFIC
};

/// Rings and coalescing.
pub static RINGS: Case = Case {
    name: "rings",
    passes: "with the smallest and the largest rings that `ethtool -G` takes, and the ones as before, and with interrupts at once and held back for a millisecond where `-C` takes it, `-g` and `-c` read it back, pings of full frames are answered and files cross both ways with their SHA-256",
    applies: |cell| driver(cell).is_some(),
    rearm: Some(faults::nothing),
    ops: &[Op::Address],
    seconds: |_| 60.0,
    faults: &[
        Fault {
            name: "ignored",
            breaks: "the guest's ethtool says that it set the rings and does not",
            inject: |bed| ignore(bed, "ethtool", "-G"),
            red: Red::Says("read back"),
            ..AT_START
        },
        Fault {
            name: "not_held_back",
            breaks: "the guest's ethtool says that it set the coalescing and does not",
            applies: |cell| driver(cell).is_some_and(|driver| !driver.usecs.is_empty()),
            inject: |bed| ignore(bed, "ethtool", "-C"),
            red: Red::Says("reads back"),
            ..AT_START
        },
        ALTERED,
        FULL_LOST,
    ],
    run: rings,
    ..Case::PLAIN
};

/// Received and sent, buffers.
pub(super) type Sizes = (u32, u32);

/// What `ethtool -g` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rings {
    most: Sizes,
    pub(super) now: Sizes,
}

fn rings(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    let driver = driver(&bed.cell).context("the driver has no rings to be set")?;
    transfer::make_file(bed, blocks(MIB))?;
    bed.moment(Moment::Traffic)?;
    let was = read(bed, &link)?;
    for sizes in [driver.least, was.most, was.now] {
        set(bed, &link, sizes)?;
        crosses(bed).with_context(|| format!("with rings of {} and {}", sizes.0, sizes.1))?;
    }
    for usecs in driver.usecs {
        hold_back(bed, &link, *usecs)?;
        crosses(bed).with_context(|| format!("with interrupts held back for {usecs} µs"))?;
    }
    bed.expect_quiet_kernel()
}

/// What the guest has.
///
/// # Errors
/// When its driver does not tell.
pub(super) fn read(bed: &Testbed, link: &Link) -> anyhow::Result<Rings> {
    let text = bed.agent.sh(&format!("ethtool -g {}", link.name))?;
    parse(&text).with_context(|| format!("`ethtool -g` said: {text}"))
}

/// The first of each are the most there can be, the second what there is.
fn parse(text: &str) -> anyhow::Result<Rings> {
    let all = |key: &str| -> Vec<u32> {
        let values = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix(key));
        values
            .filter_map(|value| value.trim().parse().ok())
            .collect()
    };
    let (rx, tx) = (all("RX:"), all("TX:"));
    ensure!(
        rx.len() == 2 && tx.len() == 2,
        "two sizes of each ring expected"
    );
    Ok(Rings {
        most: (rx[0], tx[0]),
        now: (rx[1], tx[1]),
    })
}

/// Sets the rings, which must read back.
fn set(bed: &Testbed, link: &Link, (rx, tx): Sizes) -> anyhow::Result<()> {
    let command = format!("ethtool -G {} rx {rx} tx {tx}", link.name);
    bed.agent.sh(&command)?;
    let now = read(bed, link)?.now;
    ensure!(
        now == (rx, tx),
        "after `{command}` the rings read back {} and {}",
        now.0,
        now.1
    );
    Ok(())
}

/// Sets the coalescing, which must read back.
fn hold_back(bed: &Testbed, link: &Link, usecs: u32) -> anyhow::Result<()> {
    let command = format!("ethtool -C {} rx-usecs {usecs}", link.name);
    bed.agent.sh(&command)?;
    let shown = bed
        .agent
        .sh(&format!("ethtool -c {} | grep ^rx-usecs:", link.name))?;
    let now = shown.trim().trim_start_matches("rx-usecs:").trim();
    ensure!(
        now == usecs.to_string(),
        "after `{command}` rx-usecs reads back {now}"
    );
    Ok(())
}

/// The NIC, which may have been started anew, answers full frames, and the file that the guest has crosses, and one
/// to it, of [`MIB`] each.
///
/// # Errors
/// What does not arrive, or not whole.
pub(super) fn crosses(bed: &Testbed) -> anyhow::Result<()> {
    bed.reach(deadline::FIRST_PING)?;
    bed.expect_replies(PINGS, bed.cell.nic.default_mtu() - HEADERS)?;
    transfer::from_guest(bed, HOST.into(), blocks(MIB), Duration::ZERO)?;
    transfer::to_guest(bed, HOST.into(), blocks(MIB), Duration::ZERO)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_by_their_order() {
        let text = "Ring parameters for eth0:\nPre-set maximums:\nRX:\t\t4096\nRX Mini:\tn/a\nRX Jumbo:\tn/a\n\
                    TX:\t\t4096\nCurrent hardware settings:\nRX:\t\t256\nRX Mini:\t0\nRX Jumbo:\t0\nTX:\t\t128\n\
                    RX Buf Len:\t\tn/a\nTX Push:\toff\n";
        let rings = Rings {
            most: (4096, 4096),
            now: (256, 128),
        };
        assert_eq!(parse(text).unwrap(), rings);
        assert!(parse("Ring parameters for eth0:\nRX: 4\n").is_err());
    }
}
