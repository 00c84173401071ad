//! What a guest's kernel says when something is wrong with it or with its NIC. Any of it fails a trial.

/// A message that fails any trial.
struct Word {
    /// Parts of a line, in this order, in the kernel's own case.
    parts: &'static [&'static str],
    /// What it is called in reports, after "a" or "an".
    kind: &'static str,
}

/// The kind of message after which the task that met it is gone.
pub(super) const OOPS: &str = "oops";

/// Kinds of messages that a guest's kernel also prints where it got no processor for seconds: they compare
/// clocks.
const OF_TIME: [&str; 6] = [
    "soft lockup",
    "hard lockup",
    "NETDEV WATCHDOG",
    "RCU stall",
    "hung task",
    "transmit hang",
];

/// What a guest's kernel said, where that may come of a want of processors alone.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Stalled(pub String);

/// Whether a message of that kind may come of a want of processors alone.
pub fn is_of_time(kind: &str) -> bool {
    OF_TIME.contains(&kind)
}

/// The first that matches tells. Beside each the place in Linux that says it, where that is one driver's or
/// not plain from the words.
const WORDS: &[Word] = &[
    word(&["Kernel panic"], "panic"),
    word(&["Oops:"], OOPS),
    word(&["soft lockup"], "soft lockup"),
    word(&["BUG:"], "BUG"),
    word(&["kernel BUG at"], "BUG"),
    word(&["general protection fault"], "general protection fault"),
    // mm/page_alloc.c, warn_alloc(): a driver that asks for memory in the receive path is not told to be
    // silent. A call trace follows.
    word(&["page allocation failure"], "page allocation failure"),
    // net/core/dev.c, netdev_rx_csum_fault(): the NIC gave a wrong sum of what it received.
    word(&["hw csum failure"], "wrong checksum by the NIC"),
    word(&["Call Trace:"], "call trace"),
    // net/sched/sch_generic.c, dev_watchdog().
    word(&["NETDEV WATCHDOG"], "NETDEV WATCHDOG"),
    word(&["transmit queue ", " timed out"], "NETDEV WATCHDOG"),
    word(&["hard LOCKUP"], "hard lockup"),
    word(&["rcu_sched self-detected stall"], "RCU stall"),
    word(&["rcu_preempt self-detected stall"], "RCU stall"),
    word(&["rcu: INFO:"], "RCU stall"),
    word(&["blocked for more than"], "hung task"),
    // e1000/e1000_main.c (e1000_clean_tx_irq), igb/igb_main.c (igb_clean_tx_irq), ixgbe.
    word(&["Detected Tx Unit Hang"], "transmit hang"),
    // e1000e/netdev.c, e1000_print_hw_hang().
    word(&["Detected Hardware Unit Hang"], "transmit hang"),
    // e1000e/netdev.c, e1000_reset_task(). e1000 says "Reset adapter" as well, without the last word, when
    // it loses its link with frames still to be sent (e1000_watchdog): that is how it should be.
    word(&["Reset adapter unexpectedly"], "reset of the adapter"),
    // vmxnet3/vmxnet3_drv.c, vmxnet3_tx_timeout(); ixgbe has the same words.
    word(&["tx hang"], "transmit hang"),
    // virtio_net.c: a received frame came with segmentation data that the kernel refuses.
    word(&["bad gso: type:"], "frame with bad segmentation data"),
    // virtio_net.c, start_xmit(): the ring was full although the queue was not stopped.
    word(
        &["Unexpected TXQ (", " queue failure"],
        "transmit ring failure",
    ),
    // virtio/virtio_ring.c, BAD_RING(): the device gave back what it was not given.
    word(&[":id ", " is not a head!"], "bad ring entry"),
    word(&[":id ", " out of range"], "bad ring entry"),
    // vmxnet3/vmxnet3_drv.c (vmxnet3_tq_create, vmxnet3_rq_create).
    word(&["failed to allocate ", " ring"], "ring failure"),
    // e1000, e1000e, igb: …_setup_tx_resources(), …_setup_rx_resources().
    word(
        &["Unable to allocate memory for the ", " descriptor ring"],
        "ring failure",
    ),
];

const fn word(parts: &'static [&'static str], kind: &'static str) -> Word {
    Word { parts, kind }
}

impl Word {
    fn is_in(&self, line: &str) -> bool {
        let mut rest = Some(line);
        for part in self.parts {
            rest = rest.and_then(|rest| Some(rest.split_once(part)?.1));
        }
        rest.is_some()
    }
}

/// Whether a line may be of a kernel that is about to end: before it does, virtio takes its queues from drivers
/// that know nothing of it and go on sending (virtio/virtio.c, virtio_dev_shutdown(), of 2025; 6.12.118 has it).
pub(super) fn is_of_an_end(line: &str) -> bool {
    line.contains("Unexpected TXQ (") && line.ends_with(" queue failure: -5")
}

/// What a kernel says last when it ends (kernel/reboot.c, kernel_restart() and kernel_power_off(); kernel/kexec_core.c,
/// kernel_kexec()).
const LAST: [&str; 3] = [
    "reboot: Restarting system",
    "reboot: Power down",
    "Starting new kernel",
];

/// Whether a line is a kernel's last.
pub(super) fn is_last(line: &str) -> bool {
    LAST.iter().any(|last| line.ends_with(last))
}

/// What a console line reports, if it is trouble.
pub(super) fn classify(line: &str) -> Option<&'static str> {
    WORDS
        .iter()
        .find(|word| word.is_in(line))
        .map(|word| word.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_time_are_kinds() {
        for kind in OF_TIME {
            assert!(WORDS.iter().any(|word| word.kind == kind), "{kind}");
        }
        assert!(!is_of_time("panic"));
    }

    #[test]
    fn trouble_is_told_from_chatter() {
        for (line, kind) in [
            (
                "[  12.3] Kernel panic - not syncing: sysrq triggered crash",
                "panic",
            ),
            (
                "NETDEV WATCHDOG: eth0 (e1000): transmit queue 0 timed out",
                "NETDEV WATCHDOG",
            ),
            (
                "virtio_net virtio0 eth0: transmit queue 0 timed out 5120 ms",
                "NETDEV WATCHDOG",
            ),
            (
                "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
                "RCU stall",
            ),
            (
                "watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
                "soft lockup",
            ),
            (
                "swapper/0: page allocation failure: order:0, mode:0xa20(GFP_ATOMIC)",
                "page allocation failure",
            ),
            (
                "e1000 0000:00:03.0 eth0: Detected Tx Unit Hang",
                "transmit hang",
            ),
            (
                "e1000e 0000:00:02.0 eth0: Detected Hardware Unit Hang:",
                "transmit hang",
            ),
            (
                "e1000e 0000:00:02.0 eth0: Reset adapter unexpectedly",
                "reset of the adapter",
            ),
            ("vmxnet3 0000:03:00.0 eth0: tx hang", "transmit hang"),
            (
                "eth0: bad gso: type: 4, size: 1448",
                "frame with bad segmentation data",
            ),
            (
                "net eth0: Unexpected TXQ (0) queue failure: -28",
                "transmit ring failure",
            ),
            (
                "virtio_net virtio0: output.0:id 100 is not a head!",
                "bad ring entry",
            ),
            (
                "virtio_net virtio0: input.0:id 300 out of range",
                "bad ring entry",
            ),
            (
                "vmxnet3 0000:03:00.0 eth0: failed to allocate rx comp ring",
                "ring failure",
            ),
            (
                "Unable to allocate memory for the receive descriptor ring",
                "ring failure",
            ),
        ] {
            assert_eq!(classify(line), Some(kind), "{line}");
        }
        for line in [
            "e1000 0000:00:03.0 eth0: Intel(R) PRO/1000 Network Connection",
            "e1000 0000:00:03.0 eth0: Reset adapter",
            "rcu: Hierarchical RCU implementation.",
            "pci 0000:00:02.0: address out of range, after :id",
            "ring: failed to allocate a string",
        ] {
            assert_eq!(classify(line), None, "{line}");
        }
    }
}
