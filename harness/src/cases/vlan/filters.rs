//! What a NIC itself does for VLANs: it hands up frames of those that the guest is in, and takes tags off and
//! puts them on.

use crate::guest::link::Link;
use crate::matrix::Cell;
use crate::net::addr::HOST_MAC;
use crate::net::frame::Direction;
use crate::net::probe::{Sender, tagged_probe};
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};

/// Ids there are (IEEE 802.1Q, 9.6): 12 bits.
const IDS: u16 = 1 << 12;
/// Frames that a tap's queue surely has room for; the kernel gives it 1000.
const AT_ONCE: usize = 256;

/// What `ethtool -K` calls the taking off and the putting on of tags.
const OFFLOADS: [&str; 2] = ["rxvlan", "txvlan"];

/// Drivers that tell their NIC of `rxvlan` only when `rx` changes as well (Linux's cp_set_features): until then it takes
/// no tag off.
const WITH_RX: [&str; 1] = ["8139cp"];

/// Whether a NIC's driver lets the guest switch [`OFFLOADS`]; virtio has none, and of the others these do.
pub(super) fn has_offload(cell: &Cell) -> bool {
    ["rtl8139", "e1000", "e1000e", "igb", "vmxnet3"].contains(&cell.nic.name.as_str())
}

/// Whether a NIC itself filters by VLAN, with a bit for each id.
pub(super) fn has_filter(cell: &Cell) -> bool {
    // Linux's e1000e has an 82574's filter off; of vmxnet3 one frame more came up (seen on 7.2), which is not known.
    let filters = ["e1000", "igb"];
    cell.backend.filters() && (cell.nic.is_virtio() || filters.contains(&cell.nic.name.as_str()))
}

/// Sends the guest's NIC a frame of each VLAN. Where it filters by VLAN those of `id` alone may reach the guest's
/// driver.
pub(super) fn expect_only(bed: &Testbed, link: &Link, id: u16) -> anyhow::Result<()> {
    if !has_filter(&bed.cell) {
        return Ok(());
    }
    let sender = Sender::open()?;
    let fence = bed.fence()?;
    let before = bed.frames_taken(link)?;
    let all: Vec<u16> = (0..IDS).collect();
    for part in all.chunks(AT_ONCE) {
        for vlan in part {
            sender.send(&tagged_probe(*vlan, bed.nic().mac, HOST_MAC))?;
        }
        // Answered once the queue is empty.
        bed.expect_replies(1, 48)?;
    }
    let taken = bed.frames_taken(link)? - before;
    // A tag of 0 has a priority alone, and is in no VLAN.
    let passes = |vlan: Option<u16>| [None, Some(0), Some(id)].contains(&vlan);
    let may = bed.wire()?.count(fence, |frame| {
        frame.direction == Direction::ToGuest && passes(frame.vlan_id())
    })?;
    ensure!(
        taken <= may as u64,
        "the guest is in VLAN {id}, and of frames of all {IDS} VLANs and {may} others its NIC handed up {taken}"
    );
    Ok(())
}

/// Does `again` with the offloads switched off that the guest's driver lets it switch, and has them on again
/// afterwards.
pub(super) fn without_offload(
    bed: &Testbed,
    link: &Link,
    again: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if !has_offload(&bed.cell) {
        return Ok(());
    }
    let dev = &link.name;
    let switch = |state: &str| -> anyhow::Result<()> {
        let driver = link.driver.as_str();
        let rx = WITH_RX.contains(&driver).then_some("rx");
        let words = OFFLOADS.into_iter().chain(rx);
        let words: String = words.map(|name| format!(" {name} {state}")).collect();
        let command = format!("ethtool -K {dev}{words}");
        bed.agent.run(&command)?;
        let shown = bed.agent.sh(&format!(
            "ethtool -k {dev} | grep -E '^[rt]x-vlan-offload:'"
        ))?;
        let took = shown
            .lines()
            .all(|line| line.contains(&format!(": {state}")));
        ensure!(took, "`{command}` did not take: {}", shown.trim());
        Ok(())
    };
    switch("off")?;
    again().with_context(|| format!("with {} off", OFFLOADS.join(" and ")))?;
    switch("on")
}
