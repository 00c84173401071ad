//! A split virtqueue's indices are numbers of 16 bits that begin at 0 when the driver sets the queue up: past 65,535
//! they begin anew (virtio 1.2, 2.7.6 and 2.7.8). Who compares them as plain numbers keeps a frame or an interrupt
//! there, which the next frame hides in a flood.

use super::one_by_one::{Answered, HELD_BACK, one_at_a_time};
use super::{Case, Moment};
use crate::base::error::CannotRun;
use crate::guest::dialect::Op;
use crate::guest::link::Link;
use crate::matrix::Backend;
use crate::testbed::Testbed;
use anyhow::bail;

/// The first number that 16 bits do not hold.
const WRAP: u64 = 1 << 16;
/// So many frames before it a flood is over: of other frames fewer reach the NIC meanwhile.
const BEFORE: u64 = 60;
/// Pings one at a time from there on, each a frame in and a frame out.
const PINGS: u16 = 120;
/// ICMP's identifier of the first of them; each time has the next one.
const ID: u16 = 0x1d80;
/// A NIC that still has not come there has lost nearly all of the floods.
const FLOODS: u32 = 4;

/// No frame waits where 16 bits are full.
pub static INDEX_WRAP: Case = Case {
    name: "index_wrap",
    passes: "pings that are sent one at a time are each answered without waiting while the frames that the guest's driver took, and those that it sent, come to 65,536; a flood brings them near it",
    // Whether vhost's workers have something to do is not known of each VM alone.
    applies: |cell| cell.backend == Backend::Tap && cell.nic.is_virtio(),
    ops: &[Op::Address],
    // As ping reckons: at least 100 requests a second.
    seconds: |_| WRAP as f64 * 0.01,
    faults: &[HELD_BACK],
    run: index_wrap,
    ..Case::PLAIN
};

fn index_wrap(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    let mut walk = Walk {
        bed,
        link,
        times: 0,
    };
    for way in ["rx", "tx"] {
        if walk.has_just_crossed(way)? {
            continue;
        }
        let Some(late) = walk.across(way)? else {
            continue;
        };
        // By the host's doing one may be late, but not at the next such place too.
        if let Some(again) = walk.across(way)? {
            bail!("at each 65,536th frame a ping was answered late: {late}; {again}");
        }
        walk.bed.notes.push(format!("once only, {late}"));
    }
    bed.expect_quiet_kernel()
}

/// Brings the guest's NIC across multiples of [`WRAP`] frames.
struct Walk<'a> {
    bed: &'a mut Testbed,
    link: Link,
    /// How often pings were sent one at a time.
    times: u16,
}

impl Walk<'_> {
    /// The pings for the other way have crossed such a number of frames this way as well.
    fn has_just_crossed(&self, way: &str) -> anyhow::Result<bool> {
        Ok(self.times > 0 && self.frames(way)? % WRAP < u64::from(PINGS))
    }

    /// Floods the NIC up to the next such number of frames that way, and sends pings one at a time across it: says
    /// which one was late.
    fn across(&mut self, way: &str) -> anyhow::Result<Option<String>> {
        let begun = self.frames(way)?;
        let border = begun.next_multiple_of(WRAP);
        let mut at = begun;
        for _ in 0..FLOODS {
            let missing = (border - BEFORE).saturating_sub(at);
            if missing > 0 {
                let flood = self.bed.ping().flood().size(0);
                flood.count(u32::try_from(missing)?).run()?;
                self.bed.expect_quiet_kernel()?;
                at = self.frames(way)?;
            }
        }
        if self.times == 0 {
            self.bed.moment(Moment::Traffic)?;
        }
        self.times += 1;
        let Answered { took, late, .. } = one_at_a_time(self.bed, ID + self.times, PINGS)?;
        let after = self.frames(way)?;
        if !(at..after).contains(&border) {
            let words = format!(
                "its {way}_packets went from {begun} to {at} in floods, and to {after} by pings, not across {border}"
            );
            bail!(CannotRun(words));
        }
        self.bed
            .notes
            .push(format!("{way} across {border}: {took}"));
        Ok(late)
    }

    /// Frames that the guest's driver has taken, `rx`, or sent, `tx`, since it was loaded.
    fn frames(&self, way: &str) -> anyhow::Result<u64> {
        self.bed.frames_counted(&self.link, way)
    }
}
