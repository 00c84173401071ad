//! The NIC's own counters (`ethtool -S`), which a guest that moves takes along: some are the device's, some the driver's.

use crate::guest::link::{self, Link};
use crate::testbed::Testbed;
use anyhow::ensure;
use std::collections::BTreeMap;

/// The counters by their names.
pub(in crate::cases) struct Counted(BTreeMap<String, u64>);

impl Counted {
    /// As the guest shows them now; none where the driver has none.
    ///
    /// # Errors
    /// The agent's.
    pub(in crate::cases) fn now(bed: &Testbed, link: &Link) -> anyhow::Result<Counted> {
        let text = bed
            .agent
            .sh(&format!("ethtool -S {} 2>/dev/null; true", link.name))?;
        let fields = link::fields(&text).into_iter();
        Ok(Counted(
            fields
                .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
                .collect(),
        ))
    }

    /// Fails where one is less `later`.
    ///
    /// # Errors
    /// As said.
    pub(in crate::cases) fn expect_kept(&self, later: &Counted) -> anyhow::Result<()> {
        for (name, before) in &self.0 {
            let after = later.0.get(name).copied().unwrap_or(0);
            ensure!(
                after >= *before,
                "the NIC had counted {before} as {name} (`ethtool -S`), and then had {after}"
            );
        }
        Ok(())
    }
}
