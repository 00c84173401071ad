//! Offloads: work that a NIC may do in place of the kernel.

/// The test plan's offloads, in its order: ethtool's short name (`-K`), which `matrix.toml` uses too,
/// with the long one that `-k` prints.
pub const OFFLOADS: [(&str, &str); 8] = [
    ("rx", "rx-checksumming"),
    ("tx", "tx-checksumming"),
    ("sg", "scatter-gather"),
    ("tso", "tcp-segmentation-offload"),
    ("ufo", "udp-fragmentation-offload"),
    ("gso", "generic-segmentation-offload"),
    ("gro", "generic-receive-offload"),
    ("lro", "large-receive-offload"),
];
