//! NetworkManager, which real releases run from RHEL 7 on.

use super::agent::Agent;
use anyhow::Context as _;

/// A file of its configuration, as NetworkManager also reads that when it starts later or the guest
/// reboots; changes to the disk image are thrown away. `managed=0` and not `unmanaged-devices`, which
/// `nmcli device set` cannot overrule. A NIC that is configured already is put back to the state in
/// which the built image begins.
const STAND_ASIDE: &str = r"[ -d /etc/NetworkManager ] || exit 0
mkdir -p /etc/NetworkManager/conf.d &&
printf '[device-nicmatrix]\nmatch-device=*\nmanaged=0\n' >/etc/NetworkManager/conf.d/zz-nicmatrix.conf &&
systemctl try-restart NetworkManager || exit
for d in /sys/class/net/*/device; do d=${d%/device}; d=${d##*/}
[ -d /sys/class/net/$d ] || continue
ip link set dev $d down && ip addr flush dev $d || exit; done";

/// Has NetworkManager leave all interfaces alone, also those that are plugged later: it asks DHCP by
/// itself, and takes addresses away when a link goes down or a MAC changes.
///
/// # Errors
/// When a command fails in the guest.
pub fn stand_aside(agent: &Agent) -> anyhow::Result<()> {
    agent
        .sh(STAND_ASIDE)
        .context("NetworkManager would configure the NIC under test beside its case")
        .map(drop)
}
