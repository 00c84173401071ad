//! What the harness outside answers a trial in a lab: what its guest is started from, which checkpoints
//! earlier labs have made, and whether KVM works in such a lab.
//!
//! Under TCG, one lab is like the next: the processor that its guests see is QEMU's. So what one has found
//! out and made, the next need not. Files are copied both ways: the harness inside writes only where it offers, and
//! the harness outside only to its own store. A VM that is started outside is one of the plan, not of the lab's words.

use super::Outside;
use super::claims::Claim;
use super::protocol::{Answer, Question};
use crate::base::error::OrCannotRun as _;
use crate::base::json;
use crate::host::accel::Proven;
use crate::host::cache_file;
use crate::plan::PlannedTrial;
use crate::testbed::checkpoints::GuestReply;
use crate::testbed::exchange::{self, Kept};
use crate::testbed::source::Source;
use crate::vm::accel::Accel;
use crate::vm::checkpoint::Checkpoint;
use crate::vm::checkpoint::key;
use crate::vm::checkpoint::store::Store;
use crate::vm::standard::{self, Kit};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How much slower the deadlines take a lab to be, at least, in which KVM was proved before: the proof
/// may have had the machine for itself, and now another lab runs beside.
const LEAST_SPEED: f64 = 10.0;

/// The checkpoints that a trial's guests may read until it ends, and those that it makes.
#[derive(Default)]
pub struct Held {
    sources: Vec<Source>,
    kept: Vec<Checkpoint>,
    claims: Vec<Claim>,
}

/// Answers a question of `trial`; the locks of checkpoints go to `held`. The answer to one that another lab is making
/// waits for it.
///
/// # Errors
/// [`crate::base::error::CannotRun`]: a checkpoint that cannot be made, read or kept.
pub fn answer(
    trial: &PlannedTrial,
    outside: &Outside,
    question: Question,
    held: &mut Held,
) -> Result<Answer> {
    let store = || Store::new(outside.settings.checkpoints());
    match question {
        Question::Guest(place) => guest(trial, outside, place, held).map(Answer::Guest),
        Question::Kept(key) => {
            let name = name(outside, &key);
            let mut found = store().kept(&name)?;
            // A trial that makes one waits for no other.
            if found.is_none() && held.claims.is_empty() {
                let claim = outside.claims.wait(&name);
                found = store().kept(&name)?;
                held.claims.extend(found.is_none().then_some(claim));
            }
            let kept = found.as_ref().map(Kept::of).transpose();
            held.kept.extend(found);
            kept.map(Answer::Kept)
        }
        Question::Take(offer) => {
            let name = name(outside, &offer.key);
            exchange::take(&store(), &name, &offer)?;
            held.claims.retain(|claim| !claim.is_of(&name));
            Ok(Answer::Done)
        }
        Question::Remember(proven) => {
            let (file, key) = proof(outside);
            let proof = Proof { key, proven };
            json::write_whole(&file, &proof)
                .or_cannot_run(|| format!("write {}", file.display()))?;
            Ok(Answer::Done)
        }
    }
}

/// What a checkpoint is called here that a lab calls `key`.
fn name(outside: &Outside, key: &str) -> String {
    let stock = outside.stock;
    let arguments = super::cmdline::accelerator(outside.proven.accel);
    key::of_lab(&stock.qemu, &stock.image.hash, &arguments, key)
}

/// The lab says which of the trial's guests it asks for; what VM that is says the plan.
fn guest(
    trial: &PlannedTrial,
    outside: &Outside,
    place: u8,
    held: &mut Held,
) -> Result<GuestReply> {
    let (stock, cell) = (outside.trial_stock, &trial.cell);
    let kit = Kit {
        accel: Accel::Tcg,
        ..stock.kit(&cell.guest)?
    };
    let (start_state, spec, plain) = match place {
        0 => (
            trial.start_state,
            trial.vm_spec(&kit),
            trial.plain_vm_spec(&kit),
        ),
        _ => {
            let peer = standard::bare(cell, &kit, place);
            (stock.warmest, peer.clone(), peer)
        }
    };
    let (source, notes) = (stock.checkpoints).source(start_state, &spec, &plain, &cell.guest)?;
    let checkpoint = match &source {
        Source::Boot => None,
        Source::Restore(checkpoint, saved) => Some((Kept::of(checkpoint)?, *saved)),
    };
    held.sources.push(source);
    Ok(GuestReply { checkpoint, notes })
}

/// That KVM was seen to work in a lab.
#[derive(Serialize, Deserialize)]
struct Proof {
    key: String,
    proven: Proven,
}

/// Where it is remembered whether KVM works for the trial's QEMU in a lab, and what that depends on.
fn proof(outside: &Outside) -> (PathBuf, String) {
    let qemu = &outside.trial_stock.qemu;
    let file = cache_file(&outside.settings.host_cache(), "accel-lab", qemu);
    (file, name(outside, &key::stamp(&qemu.program)))
}

/// What the VMs of the trial's QEMU were seen to run under in an earlier lab.
pub fn proven_inside(outside: &Outside) -> Option<Proven> {
    if outside.proven.accel != Accel::Tcg {
        return None;
    }
    let (file, key) = proof(outside);
    let proof: Proof = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    (proof.key == key).then(|| Proven {
        speed: proof.proven.speed.max(LEAST_SPEED),
        ..proof.proven
    })
}
