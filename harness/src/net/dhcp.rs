//! The trial's DHCP server: dnsmasq, for addresses, and over TFTP for what boots from a NIC.

use super::addr::{DYNAMIC_FIRST, DYNAMIC_LAST, IPV6_NETWORK, Mac};
use super::bridge;
use crate::base::child;
use crate::base::collected::{Collected, Waited};
use crate::base::cpu;
use crate::base::deadline::{Limit, Until};
use crate::base::error::{CannotRun, OrCannotRun as _};
use crate::base::rights;
use anyhow::{Result, anyhow, bail};
use caps::Capability;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Instant;

/// From exec to listening: it takes some 10 ms, and this long only on a machine that is stuck.
const STARTED: Limit = Limit {
    what: "dnsmasq to be ready",
    seconds: 10.0,
};

/// What is kept of its log, bytes, beginning and end: a guest may ask for as many leases as it likes.
const LOG: usize = 1 << 20;

/// What it may do: listen on the ports of DHCP and TFTP, answer a client that has no address yet, and serve files out of
/// directories that are their user's alone.
const RIGHTS: [Capability; 4] = [
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_NET_RAW,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_DAC_READ_SEARCH,
];

/// What it logs last, when it can be asked.
const READY: &str = "sockets bound exclusively to interface";

/// What the server tells clients that boot from the network.
#[derive(Debug, Clone)]
pub struct NetBoot {
    /// The file to ask for.
    pub file: String,
    /// The file for a UEFI firmware's own client in its place: an EFI program.
    pub efi_program: Option<String>,
    /// The directory that TFTP serves; there is no TFTP server without it.
    pub root: Option<PathBuf>,
    /// Whether the bridge speaks IPv6, and a router is to be announced there.
    pub ipv6: bool,
}

impl NetBoot {
    fn arguments(&self) -> Vec<String> {
        let mut words = vec![
            format!("--dhcp-boot={}", self.file),
            // Tells iPXE not to wait for another server that names the file (`no-pxedhcp`).
            "--dhcp-option=encap:175,176,1b".into(),
        ];
        if let Some(program) = &self.efi_program {
            // iPXE under UEFI says both of itself.
            words.push("--dhcp-match=set:ipxe,175".into());
            words.push("--dhcp-userclass=set:ipxe,iPXE".into());
            words.push("--dhcp-match=set:uefi,option:client-arch,7".into());
            words.push("--dhcp-match=set:uefi,option:client-arch,9".into());
            words.push(format!("--dhcp-boot=tag:uefi,tag:!ipxe,{program}"));
        }
        if self.root.is_some() {
            words.push("--enable-tftp".into());
            // Where it is started: a comma would end the name, and it takes none that is relative.
            words.push("--tftp-root=/proc/self/cwd".into());
        }
        if self.ipv6 {
            words.push("--enable-ra".into());
            words.push(format!("--dhcp-range={},ra-only", IPV6_NETWORK));
        }
        words
    }
}

/// dnsmasq on the bridge, until it is dropped. It writes no file.
pub struct Dhcp {
    server: Child,
    log: Collected,
}

impl Dhcp {
    /// Starts the server in the calling thread's network, where the bridge must be, and waits until
    /// it listens. Each of `hosts` gets its own address; a MAC that is not among them gets one of
    /// the dynamic range.
    pub fn start(hosts: &[(Mac, Ipv4Addr)]) -> Result<Dhcp> {
        Dhcp::start_with(hosts, None)
    }

    /// As [`Dhcp::start`], and tells clients what to boot.
    pub fn start_with(hosts: &[(Mac, Ipv4Addr)], boot: Option<&NetBoot>) -> Result<Dhcp> {
        Dhcp::try_start(hosts, boot).or_cannot_run(|| "start the DHCP server".into())
    }

    fn try_start(hosts: &[(Mac, Ipv4Addr)], boot: Option<&NetBoot>) -> Result<Dhcp> {
        let (log, writer) = Collected::pipe(LOG, None)?;
        let mut command = child::pdeath_command("dnsmasq");
        command
            // In the foreground, as the user that it is started as: its own change would let it outlive us.
            .args(["--no-daemon", "--log-facility=-", "--conf-file=/dev/null"])
            // No DNS, and none of this machine's configuration files.
            .args(["--port=0", "--no-hosts", "--no-resolv", "--leasefile-ro"])
            .args(["--interface", bridge::NAME, "--bind-interfaces"])
            // It is alone here: answer at once, without pinging an address before offering it.
            .args(["--dhcp-authoritative", "--no-ping"])
            .arg(format!(
                "--dhcp-range={DYNAMIC_FIRST},{DYNAMIC_LAST},255.255.255.0,1h"
            ))
            // No router: there is no way out.
            .arg("--dhcp-option=option:router");
        command.args(
            hosts
                .iter()
                .map(|(mac, address)| format!("--dhcp-host={mac},{address}")),
        );
        command.args(boot.iter().flat_map(|boot| boot.arguments()));
        if let Some(root) = boot.and_then(|boot| boot.root.as_ref()) {
            command.current_dir(root);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(writer);
        rights::as_nobody(&mut command, &RIGHTS);
        let server = command
            .spawn()
            .map_err(|e| child::spawn_error(&command, "dnsmasq-base", e))?;
        drop(command); // it holds the writing end, and we wait for its end
        let dhcp = Dhcp { server, log };
        let limit = STARTED.start();
        let ready = |log: &str| log.contains(READY).then_some(());
        match dhcp.log.wait(limit, ready) {
            Waited::Found(()) => Ok(dhcp),
            Waited::Ended => bail!("dnsmasq ended at once and said: {}", dhcp.log().trim()),
            Waited::Elapsed => Err(limit.missed(format!("it said: {}", dhcp.log().trim()))),
        }
    }

    /// The address that `mac` has been given; the last one, if several.
    pub fn lease(&self, mac: Mac) -> Option<Ipv4Addr> {
        lease(&self.log.text(), mac)
    }

    /// Waits until `mac` has been given an address.
    pub fn wait_for_lease(&self, mac: Mac, until: impl Into<Until>) -> Result<Ipv4Addr> {
        let (begun, until) = (Instant::now(), until.into());
        let waited = self.log.wait(until, |log| lease(log, mac));
        let log = self.log();
        match waited {
            Waited::Found(address) => return Ok(address),
            Waited::Ended => bail!(CannotRun(format!(
                "the DHCP server ended while {mac} waited for an address; its log:\n{}",
                log.trim()
            ))),
            Waited::Elapsed => {}
        }
        let said: Vec<&str> = log.lines().filter(|line| line.contains("DHCP")).collect();
        let said = if said.is_empty() {
            log.trim().to_owned()
        } else {
            said.join("\n")
        };
        Err(until.excused(anyhow!(
            "{mac} should have been given an address by DHCP; it was not within {:.1} s; the server's log:\n{said}",
            begun.elapsed().as_secs_f64()
        )))
    }

    /// All that the server has logged.
    pub fn log(&self) -> String {
        self.log.text()
    }
}

impl Drop for Dhcp {
    fn drop(&mut self) {
        // Both fail only when it has ended and been waited for.
        let _ = self.server.kill();
        let _ = cpu::wait(&mut self.server);
    }
}

/// From lines such as "… DHCPACK(br0) 198.18.0.2 52:54:00:12:34:56 name".
fn lease(log: &str, mac: Mac) -> Option<Ipv4Addr> {
    log.lines().rev().find_map(|line| {
        let (_, rest) = line.split_once(" DHCPACK(")?;
        let mut words = rest.split_whitespace().skip(1);
        let address = words.next()?.parse().ok()?;
        (words.next()?.parse().ok() == Some(mac)).then_some(address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ack_of_a_mac_is_its_lease() {
        let log = "\
Nov 22 10:20:08 dnsmasq-dhcp[7]: DHCPDISCOVER(br0) 52:54:00:00:00:01
Nov 22 10:20:08 dnsmasq-dhcp[7]: DHCPOFFER(br0) 198.18.0.9 52:54:00:00:00:01
Nov 22 10:20:08 dnsmasq-dhcp[7]: DHCPACK(br0) 198.18.0.2 52:54:00:00:00:01
Nov 22 10:20:09 dnsmasq-dhcp[7]: DHCPACK(br0) 198.18.0.3 52:54:00:00:00:02 rhel9
Nov 22 10:20:10 dnsmasq-dhcp[7]: DHCPACK(br0) 198.18.0.200 52:54:00:00:00:01
Nov 22 10:20:10 dnsmasq-dhcp[7]: DHCPACK(br0";
        let of = |last| lease(log, Mac([0x52, 0x54, 0, 0, 0, last])).map(|a| a.to_string());
        assert_eq!(of(1).as_deref(), Some("198.18.0.200"));
        assert_eq!(of(2).as_deref(), Some("198.18.0.3"));
        assert_eq!(of(3), None);
    }
}
