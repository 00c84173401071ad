//! Each RHEL release's words for an operation.

use crate::matrix::schema::Dialect;

/// An operation on a guest's NIC, in no release's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Bring the link up.
    Up,
    /// Take it down.
    Down,
    /// Set an IPv4 address with its prefix length.
    Address,
    /// Set the hardware address.
    Mac,
    /// Set the MTU.
    Mtu,
    /// Promiscuous mode on.
    PromiscOn,
    /// Promiscuous mode off.
    PromiscOff,
    /// Ask DHCP for an address.
    Dhcp,
    /// Restart the release's network service.
    Restart,
}

impl Dialect {
    /// The shell command for `op` on interface `dev`; `value` is the address, MAC or MTU where the
    /// operation takes one.
    pub fn command(self, op: Op, dev: &str, value: &str) -> String {
        match (self, op) {
            (Dialect::Rhel6, Op::Up) => format!("ifconfig {dev} up"),
            (Dialect::Rhel6, Op::Down) => format!("ifconfig {dev} down"),
            (Dialect::Rhel6, Op::Address) => format!("ifconfig {dev} {value} up"),
            (Dialect::Rhel6, Op::Mac) => format!("ifconfig {dev} hw ether {value}"),
            (Dialect::Rhel6, Op::Mtu) => format!("ifconfig {dev} mtu {value}"),
            (Dialect::Rhel6, Op::PromiscOn) => format!("ifconfig {dev} promisc"),
            (Dialect::Rhel6, Op::PromiscOff) => format!("ifconfig {dev} -promisc"),
            (Dialect::Rhel6, Op::Restart) => "service network restart".into(),
            (Dialect::Rhel9, Op::Up) => format!("ip link set dev {dev} up"),
            (Dialect::Rhel9, Op::Down) => format!("ip link set dev {dev} down"),
            (Dialect::Rhel9, Op::Address) => {
                format!("ip addr replace {value} dev {dev} && ip link set dev {dev} up")
            }
            (Dialect::Rhel9, Op::Mac) => format!("ip link set dev {dev} address {value}"),
            (Dialect::Rhel9, Op::Mtu) => format!("ip link set dev {dev} mtu {value}"),
            (Dialect::Rhel9, Op::PromiscOn) => format!("ip link set dev {dev} promisc on"),
            (Dialect::Rhel9, Op::PromiscOff) => format!("ip link set dev {dev} promisc off"),
            (Dialect::Rhel9, Op::Restart) => {
                format!("ip link set dev {dev} down && ip link set dev {dev} up")
            }
            (_, Op::Dhcp) => format!("dhclient -1 {dev}"),
        }
    }
}
