//! A trial's own network: a namespace that belongs to the trial's thread, with a bridge, DHCP,
//! captures, ping, transfers and netperf in it. Nothing here has a name outside the namespace, so
//! nothing stays behind.
//!
//! ```text
//! trial thread ── Namespace ── Bridge br0 198.18.0.1/24 ── tap of QEMU ── guest 198.18.0.2…
//!                                │      ├─ Dhcp (dnsmasq)
//!                                │      ├─ SecondHost (sabotage)
//!                                │      └─ Outside (a host in a namespace of its own)
//!                                ├─ Beyond (another, to which the host routes)
//!                                └─ Capture on br0 or a tap
//! ```
//!
//! Everything must be called on the thread that entered the namespace.

pub mod addr;
pub mod audit;
pub mod beyond;
pub mod bridge;
pub mod capture;
pub mod datagrams;
pub mod dhcp;
pub mod echoes;
pub mod forged;
pub mod frame;
mod ip;
pub mod namespace;
pub mod netperf;
pub mod outside;
pub mod ping;
pub mod ping_report;
pub mod probe;
mod ring;
pub mod routed;
pub mod sabotage;
pub mod spice;
mod stamps;
pub mod toeplitz;
pub mod transfer;
pub mod tun;
pub mod userns;
pub mod vnet_header;
