//! What a trial leaves behind: how much of the wire was judged; and where it failed, the wire, the guest's and
//! QEMU's state.

use super::Testbed;

/// Where a frame was lost or stands still: NIC, driver, qdisc, TCP; and what each CPU is about
/// (kernel: sysrq.rst, `l`), kept off the console, whose end the report shows.
const GUEST_STATE: &str = r"exec 2>&1
ip -s -d addr; ip route; ip neigh; tc -s qdisc
for d in /sys/class/net/*/device; do d=${d%/device}; d=${d##*/}
ethtool $d; ethtool -S $d; ethtool -k $d; done
cat /proc/interrupts /proc/softirqs /proc/stat /proc/net/snmp /proc/net/snmp6 /proc/net/netstat /proc/net/tcp
cat /proc/net/softnet_stat /sys/devices/system/clocksource/clocksource0/current_clocksource
echo 1 >/proc/sys/kernel/printk; echo l >/proc/sysrq-trigger; dmesg | tail -n 200; ps";

/// How much of what the guests sent was judged, in a trial's directory.
const FRAMES: &str = "frames.txt";

impl Testbed {
    /// Writes how much of what the guests sent was judged: silence of a witness that saw nothing is no praise.
    pub fn record_findings(&self) {
        let summary = self.witness.findings().summary();
        // A disk that is full decides nothing about the NIC.
        let _ = std::fs::write(self.artifacts.dir().join(FRAMES), summary + "\n");
    }

    /// Writes the frames and the state of guest and QEMU beside the trial's other artifacts; the
    /// guest's go to the log of its commands. An error here must not hide the failure.
    pub fn forensics(&self) {
        if let Some(capture) = &self.capture {
            let _ = capture.write_pcap(&self.artifacts.dir().join("tap.pcap"));
        }
        if self.vm.death().is_some() {
            return;
        }
        for (file, line) in [
            ("info-network.txt", "info network"),
            ("info-qtree.txt", "info qtree"),
        ] {
            if let Ok(text) = self.vm.hmp(line) {
                let _ = std::fs::write(self.artifacts.dir().join(file), text);
            }
        }
        // A trial under a fault is meant to fail, and a guest that panicked does not answer.
        if self.strike.is_none() && self.expect_quiet_kernel().is_ok() {
            let _ = self.agent.run(GUEST_STATE);
        }
    }
}
