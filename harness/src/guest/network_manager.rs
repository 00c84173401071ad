//! NetworkManager, which real releases run from RHEL 7 on.

use super::agent::Agent;
use anyhow::Context as _;

/// By the file, which it also reads when it starts only later or the guest reboots; the disk keeps
/// nothing of it. Not by `unmanaged-devices`, which `nmcli device set` cannot overrule. A NIC that it
/// has configured already is put back to what the built image begins with.
const STAND_ASIDE: &str = r"[ -d /etc/NetworkManager ] || exit 0
mkdir -p /etc/NetworkManager/conf.d &&
printf '[device-nicmatrix]\nmatch-device=*\nmanaged=0\n' >/etc/NetworkManager/conf.d/zz-nicmatrix.conf &&
systemctl try-restart NetworkManager || exit
for d in /sys/class/net/*/device; do d=${d%/device}; d=${d##*/}
[ -d /sys/class/net/$d ] || continue
ip link set dev $d down && ip addr flush dev $d || exit; done";

/// Has it leave all interfaces alone, also those that are plugged later: it asks DHCP by itself, and
/// takes addresses away when a link goes down or a MAC changes.
///
/// # Errors
/// When the guest cannot be told so.
pub fn stand_aside(agent: &Agent) -> anyhow::Result<()> {
    agent
        .sh(STAND_ASIDE)
        .context("NetworkManager would configure the NIC under test beside its case")
        .map(drop)
}
