//! What a run ran on, and what of that is not the same in two runs.

use super::PastRun;
use crate::STAND_INS;
use crate::identity::{Host, Qemu};
use crate::text::{clean, one_line};
use serde::Serialize;
use std::collections::BTreeMap;

/// A fact that two runs do not share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// What it is about, as "host kernel".
    pub what: String,
    /// How it was; none where the earlier run has no such thing.
    pub base: Option<String>,
    /// How it is; none where the later run has no such thing.
    pub head: Option<String>,
}

/// Properties that the identity has in better words, or that are measured anew in each run.
const SAID_OR_MEASURED: [&str; 4] = ["host_kernel", "speed", "profile", STAND_INS];

/// What of `base`'s facts is not the same in `head`.
pub fn changed(base: &PastRun, head: &PastRun) -> Vec<Changed> {
    let (before, after) = (of(base), of(head));
    let mut names: Vec<&(u8, String)> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .filter(|name| before.get(name) != after.get(name))
        .map(|name| Changed {
            what: name.1.clone(),
            base: before.get(name).cloned(),
            head: after.get(name).cloned(),
        })
        .collect()
}

/// Whether figures of the two runs may be held against each other: hosts of the same kind.
pub fn is_same_kind_of_host(base: &PastRun, head: &PastRun) -> bool {
    match (&base.identity, &head.identity) {
        (Some(base), Some(head)) => {
            // The kernel may be what is tried.
            let kind = |host: &Host| (host.processor.clone(), host.cores, host.accelerator.clone());
            // What was merged of unlike hosts names them all.
            let is_one = |host: &Host| {
                let accelerator = host.accelerator.as_deref().unwrap_or_default();
                !host.processor.contains("; ") && !accelerator.contains("; ")
            };
            is_one(&base.host) && kind(&base.host) == kind(&head.host)
        }
        _ => false,
    }
}

/// The beginning of a digest or a commit, with "-dirty" where it is there.
pub fn short(digest: &str) -> String {
    let (hash, dirty) = match digest.strip_suffix("-dirty") {
        Some(hash) => (hash, "-dirty"),
        None => (digest, ""),
    };
    let begin: String = hash.chars().take(12).collect();
    begin + dirty
}

/// Facts by name; the number before a name says which come first.
fn of(run: &PastRun) -> BTreeMap<(u8, String), String> {
    let mut facts = BTreeMap::new();
    let mut put = |rank: u8, name: &str, value: Option<String>| {
        let value = value.map(|value| one_line(&value));
        facts.extend(value.map(|value| ((rank, name.to_owned()), value)));
    };
    let identity = run.identity.as_ref();
    if let Some(identity) = identity {
        let host = &identity.host;
        put(0, "commit", identity.commit.as_deref().map(short));
        put(1, "matrix file", Some(short(&identity.matrix_digest)));
        put(1, "plan", Some(short(&identity.plan_digest)));
        put(2, "QEMU", Some(qemu(&identity.qemu)));
        for (name, other) in &identity.others {
            put(3, &format!("QEMU {name}"), Some(qemu(other)));
        }
        put(4, "accelerator", host.accelerator.clone());
        put(6, "host kernel", Some(host.kernel.clone()));
        put(8, "processor", Some(host.processor.clone()));
        put(8, "processors", Some(host.cores.to_string()));
    } else {
        let property = |name: &str| run.properties.get(name).cloned();
        put(2, "QEMU", property("qemu"));
        put(
            4,
            "accelerator",
            property("accelerator").map(|a| name_of(&a)),
        );
        put(6, "host kernel", property("host_kernel"));
    }
    let labs: Vec<&str> = run.labs.iter().map(String::as_str).collect();
    put(
        7,
        "lab's kernel",
        (!labs.is_empty()).then(|| labs.join(", ")),
    );
    for (guest, kernel) in stand_ins(run) {
        put(5, &format!("{guest}'s stand-in"), Some(kernel));
    }
    for (name, value) in &run.properties {
        let of_a_qemu = name.starts_with("qemu");
        match name.strip_prefix("accelerator") {
            Some("") => {}
            Some(qemu) => put(4, &format!("accelerator of{qemu}"), Some(name_of(value))),
            None if of_a_qemu || SAID_OR_MEASURED.contains(&name.as_str()) => {}
            None => put(9, &name.replace('_', " "), Some(value.clone())),
        }
    }
    facts
}

/// "TCG" of "TCG, as KVM does not work: …": why it is so has times in it, which differ from run to run.
fn name_of(accelerator: &str) -> String {
    accelerator.split(',').next().unwrap_or_default().to_owned()
}

fn qemu(qemu: &Qemu) -> String {
    match &qemu.build {
        Some(build) => {
            let (kind, digest) = build.split_once(':').unwrap_or(("build", build));
            let kind = kind.replace("build-id", "build");
            format!("{} ({kind} {})", qemu.version, short(digest))
        }
        None => qemu.version.clone(),
    }
}

/// The guests that are stand-ins, each with what it is: of "rhel6 (Debian kernel 5.10), rhel9 (…)".
fn stand_ins(run: &PastRun) -> Vec<(String, String)> {
    let Some(all) = run.properties.get(STAND_INS) else {
        return Vec::new();
    };
    let each = all.split("), ").map(|one| one.trim_end_matches(')'));
    each.filter_map(|one| one.split_once(" ("))
        .map(|(guest, kernel)| (clean(guest), clean(kernel)))
        .collect()
}
