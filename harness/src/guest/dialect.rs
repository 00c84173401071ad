//! Each RHEL release's words for an operation.
//!
//! From RHEL 7 on, a release itself would use NetworkManager for some of these. Each of these releases
//! has `ip` as well, which does the same to the NIC, and to nothing else. NetworkManager is not in the
//! built image; where it is, it is kept off all NICs ([`super::network_manager`]).

use crate::matrix::schema::Dialect;
use Dialect::{Rhel4, Rhel5, Rhel6, Rhel7, Rhel8, Rhel9, Rhel10};
use Tools::{Ifconfig, Ip};

/// An operation on a guest's NIC, in no release's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Bring the link up.
    Up,
    /// Take it down.
    Down,
    /// Set an IPv4 address with its prefix length.
    Address,
    /// Put IPv6 on, and add an IPv6 address with its prefix length, which is not asked for first (RFC 4862, 5.4).
    Address6,
    /// Set the hardware address.
    Mac,
    /// Set the MTU.
    Mtu,
    /// Promiscuous mode on.
    PromiscOn,
    /// Promiscuous mode off.
    PromiscOff,
    /// Join a VLAN, by its id: makes the interface `DEV.ID`.
    VlanAdd,
    /// Set the priority of what is sent through such an interface (IEEE 802.1Q, 9.6: PCP).
    VlanPriority,
    /// Leave it: removes that interface.
    VlanRemove,
    /// Ask DHCP for an address.
    Dhcp,
    /// Restart the release's network service.
    Restart,
    /// Make ready for a NIC that is going to be plugged; for no interface.
    BeforeHotplug,
}

/// What a release sets interfaces up with.
enum Tools {
    /// net-tools and vconfig.
    Ifconfig,
    /// iproute2.
    Ip,
}

impl Dialect {
    fn tools(self) -> Tools {
        match self {
            Rhel4 | Rhel5 | Rhel6 => Ifconfig,
            Rhel7 | Rhel8 | Rhel9 | Rhel10 => Ip,
        }
    }

    /// The shell command for `op` on interface `dev`; `value` is the address, MAC, MTU or VLAN id
    /// where the operation takes one.
    pub fn command(self, op: Op, dev: &str, value: &str) -> String {
        match (op, self.tools()) {
            (Op::Up, Ifconfig) => format!("ifconfig {dev} up"),
            (Op::Up, Ip) => format!("ip link set dev {dev} up"),

            (Op::Down, Ifconfig) => format!("ifconfig {dev} down"),
            (Op::Down, Ip) => format!("ip link set dev {dev} down"),

            (Op::Address, Ifconfig) => format!("ifconfig {dev} {value} up"),
            (Op::Address, Ip) => {
                format!("ip addr replace {value} dev {dev} && ip link set dev {dev} up")
            }

            (Op::Address6, tools) => {
                let conf = format!("/proc/sys/net/ipv6/conf/{dev}");
                let add = match tools {
                    Ifconfig => format!("ifconfig {dev} inet6 add {value}"),
                    Ip => format!("ip -6 addr add {value} dev {dev}"),
                };
                format!("echo 0 >{conf}/accept_dad && echo 0 >{conf}/disable_ipv6 && {add}")
            }

            (Op::Mac, Ifconfig) => format!("ifconfig {dev} hw ether {value}"),
            (Op::Mac, Ip) => format!("ip link set dev {dev} address {value}"),

            (Op::Mtu, Ifconfig) => format!("ifconfig {dev} mtu {value}"),
            (Op::Mtu, Ip) => format!("ip link set dev {dev} mtu {value}"),

            (Op::PromiscOn, Ifconfig) => format!("ifconfig {dev} promisc"),
            (Op::PromiscOn, Ip) => format!("ip link set dev {dev} promisc on"),

            (Op::PromiscOff, Ifconfig) => format!("ifconfig {dev} -promisc"),
            (Op::PromiscOff, Ip) => format!("ip link set dev {dev} promisc off"),

            (Op::VlanAdd, Ifconfig) => format!("vconfig add {dev} {value}"),
            (Op::VlanAdd, Ip) => format!(
                "modprobe 8021q && ip link add link {dev} name {dev}.{value} type vlan id {value}"
            ),

            (Op::VlanPriority, Ifconfig) => format!("vconfig set_egress_map {dev} 0 {value}"),
            (Op::VlanPriority, Ip) => {
                format!("ip link set dev {dev} type vlan egress-qos-map 0:{value}")
            }

            (Op::VlanRemove, Ifconfig) => format!("vconfig rem {dev}.{value}"),
            (Op::VlanRemove, Ip) => format!("ip link delete {dev}.{value}"),

            (Op::Dhcp, _) => match self {
                Rhel4 | Rhel5 | Rhel6 | Rhel7 | Rhel8 | Rhel9 => format!("dhclient -1 {dev}"),
                // RHEL 10 has no dhclient, but NetworkManager. In the built image udhcpc stands in for
                // it, with the same client identifier, the MAC; it asks each second, ten times.
                Rhel10 => format!(
                    "if command -v nmcli >/dev/null; \
                     then nmcli device set {dev} managed yes && nmcli --wait 30 device connect {dev}; \
                     else udhcpc -n -q -T 1 -t 10 -i {dev}; fi"
                ),
            },

            (Op::Restart, _) => match self {
                Rhel4 | Rhel5 | Rhel6 | Rhel7 => "service network restart".into(),
                Rhel8 | Rhel9 | Rhel10 => {
                    format!("ip link set dev {dev} down && ip link set dev {dev} up")
                }
            },

            (Op::BeforeHotplug, _) => match self {
                Rhel4 | Rhel5 => "modprobe acpiphp".into(),
                Rhel6 | Rhel7 | Rhel8 | Rhel9 | Rhel10 => "true".into(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every release says to `op`, releases that say the same in one line.
    fn row(op: Op, value: &str) -> String {
        let mut lines: Vec<(String, String)> = Vec::new();
        for dialect in Dialect::ALL {
            let command = dialect.command(op, "eth0", value);
            match lines.last_mut() {
                Some((names, last)) if *last == command => *names += &format!(" {dialect:?}"),
                _ => lines.push((format!("{dialect:?}"), command)),
            }
        }
        lines
            .iter()
            .map(|(names, command)| format!("{names}: {command}\n"))
            .collect()
    }

    #[test]
    fn the_plan_s_words() {
        let rows = [
            (Op::Up, ""),
            (Op::Down, ""),
            (Op::Address, "198.18.0.10/24"),
            (Op::Address6, "2001:2::2/64"),
            (Op::Mac, "52:54:00:00:00:01"),
            (Op::Mtu, "1500"),
            (Op::PromiscOn, ""),
            (Op::PromiscOff, ""),
            (Op::VlanAdd, "10"),
            (Op::VlanPriority, "5"),
            (Op::VlanRemove, "10"),
            (Op::Dhcp, ""),
            (Op::Restart, ""),
            (Op::BeforeHotplug, ""),
        ];
        let table: String = rows
            .iter()
            .map(|(op, value)| format!("{op:?}\n{}", row(*op, value)))
            .collect();
        insta::assert_snapshot!(table, @r"
            Up
            Rhel4 Rhel5 Rhel6: ifconfig eth0 up
            Rhel7 Rhel8 Rhel9 Rhel10: ip link set dev eth0 up
            Down
            Rhel4 Rhel5 Rhel6: ifconfig eth0 down
            Rhel7 Rhel8 Rhel9 Rhel10: ip link set dev eth0 down
            Address
            Rhel4 Rhel5 Rhel6: ifconfig eth0 198.18.0.10/24 up
            Rhel7 Rhel8 Rhel9 Rhel10: ip addr replace 198.18.0.10/24 dev eth0 && ip link set dev eth0 up
            Address6
            Rhel4 Rhel5 Rhel6: echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad && echo 0 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6 && ifconfig eth0 inet6 add 2001:2::2/64
            Rhel7 Rhel8 Rhel9 Rhel10: echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad && echo 0 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6 && ip -6 addr add 2001:2::2/64 dev eth0
            Mac
            Rhel4 Rhel5 Rhel6: ifconfig eth0 hw ether 52:54:00:00:00:01
            Rhel7 Rhel8 Rhel9 Rhel10: ip link set dev eth0 address 52:54:00:00:00:01
            Mtu
            Rhel4 Rhel5 Rhel6: ifconfig eth0 mtu 1500
            Rhel7 Rhel8 Rhel9 Rhel10: ip link set dev eth0 mtu 1500
            PromiscOn
            Rhel4 Rhel5 Rhel6: ifconfig eth0 promisc
            Rhel7 Rhel8 Rhel9 Rhel10: ip link set dev eth0 promisc on
            PromiscOff
            Rhel4 Rhel5 Rhel6: ifconfig eth0 -promisc
            Rhel7 Rhel8 Rhel9 Rhel10: ip link set dev eth0 promisc off
            VlanAdd
            Rhel4 Rhel5 Rhel6: vconfig add eth0 10
            Rhel7 Rhel8 Rhel9 Rhel10: modprobe 8021q && ip link add link eth0 name eth0.10 type vlan id 10
            VlanPriority
            Rhel4 Rhel5 Rhel6: vconfig set_egress_map eth0 0 5
            Rhel7 Rhel8 Rhel9 Rhel10: ip link set dev eth0 type vlan egress-qos-map 0:5
            VlanRemove
            Rhel4 Rhel5 Rhel6: vconfig rem eth0.10
            Rhel7 Rhel8 Rhel9 Rhel10: ip link delete eth0.10
            Dhcp
            Rhel4 Rhel5 Rhel6 Rhel7 Rhel8 Rhel9: dhclient -1 eth0
            Rhel10: if command -v nmcli >/dev/null; then nmcli device set eth0 managed yes && nmcli --wait 30 device connect eth0; else udhcpc -n -q -T 1 -t 10 -i eth0; fi
            Restart
            Rhel4 Rhel5 Rhel6 Rhel7: service network restart
            Rhel8 Rhel9 Rhel10: ip link set dev eth0 down && ip link set dev eth0 up
            BeforeHotplug
            Rhel4 Rhel5: modprobe acpiphp
            Rhel6 Rhel7 Rhel8 Rhel9 Rhel10: true
        ");
    }
}
