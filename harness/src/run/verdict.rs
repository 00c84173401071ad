//! From what went wrong in a trial to its verdict.

use crate::base::error::{CannotRun, Skip, find};
use crate::base::share::Share;
use crate::cases::Fault;
use crate::testbed::Testbed;
use crate::vm::kernel_words::Stalled;
use nix::errno::Errno;
use report::events::Outcome;
use report::repeats::Repeats;
use std::io;

/// What a witness that no case asks, the guest's console or its frames, showed while a case met another
/// error. The trial has then failed, even where that error is a [`Skip`] or a [`CannotRun`].
#[derive(Debug, thiserror::Error)]
#[error("{0}; meanwhile")]
struct Witnessed(String);

/// Adds what the guest's frames and its kernel showed: it explains most failures better than the check that
/// failed. Where the host has hardly let the VM run, only what no want of time explains counts against the NIC.
pub(super) fn with_witnesses(bed: &Testbed, error: anyhow::Error, share: &Share) -> anyhow::Error {
    let shown = [bed.expect_sound_frames(), bed.expect_quiet_kernel()];
    let shown = shown.into_iter().filter_map(Result::err).collect();
    judged_by(shown, error, share.starved(), share.stalled())
}

/// `starved` says that the host has hardly let the VM run, `stalled` that it kept it from running for so long that its
/// kernel may complain of a stall.
fn judged_by(
    mut shown: Vec<anyhow::Error>,
    error: anyhow::Error,
    starved: Option<String>,
    stalled: Option<String>,
) -> anyhow::Error {
    if starved.is_some() || stalled.is_some() {
        shown.retain(|shown| find::<Stalled>(shown).is_none());
    }
    let against_nic = shown.iter().any(|shown| find::<CannotRun>(shown).is_none());
    let of_host = starved.or_else(|| find::<Stalled>(&error).and(stalled));
    let error = shown.into_iter().fold(error, with_witness);
    match of_host {
        Some(words) if !against_nic => error.context(CannotRun(words)),
        _ => error,
    }
}

fn with_witness(error: anyhow::Error, shown: anyhow::Error) -> anyhow::Error {
    let says_so = format!("{error:#}").contains(&shown.to_string());
    match says_so || find::<CannotRun>(&shown).is_some() {
        true => error,
        false => error.context(Witnessed(shown.to_string())),
    }
}

/// From a case's error to a verdict: the marker in its chain decides.
pub(super) fn judge(error: &anyhow::Error) -> Outcome {
    let message = format!("{error:#}");
    if find::<Witnessed>(error).is_some() {
        Outcome::Failed { message }
    } else if let Some(Skip(reason)) = find(error) {
        Outcome::Skipped {
            reason: reason.clone(),
        }
    } else if find::<CannotRun>(error).is_some() || ran_out(error) {
        Outcome::Broken { message }
    } else {
        Outcome::Failed { message }
    }
}

/// Whether a system call on the host failed for want of what the host has too little of: descriptors, memory,
/// room on a disk. A guest's own are in what its commands print, and are no such error.
fn ran_out(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let from_io = cause.downcast_ref::<io::Error>();
        let errno = (from_io
            .and_then(io::Error::raw_os_error)
            .map(Errno::from_raw))
        .or_else(|| cause.downcast_ref::<Errno>().copied());
        matches!(
            errno,
            Some(
                Errno::EMFILE
                    | Errno::ENFILE
                    | Errno::ENOMEM
                    | Errno::ENOBUFS
                    | Errno::ENOSPC
                    | Errno::EDQUOT
                    | Errno::EROFS
            )
        )
    })
}

/// The verdict under a fault: a pass only where the case failed after the fault struck, and for the
/// expected reason.
pub(super) fn under_fault(
    fault: &Fault,
    struck: bool,
    outcome: Outcome,
    error: Option<&anyhow::Error>,
) -> Outcome {
    match outcome {
        Outcome::Failed { message } if !struck => Outcome::Failed {
            message: format!("the case went red before the fault struck: {message}"),
        },
        Outcome::Failed { .. } if error.is_some_and(|error| fault.red.holds(error)) => {
            Outcome::Passed
        }
        Outcome::Failed { message } => Outcome::Failed {
            message: format!(
                "the case went red for another reason when {}; expected was that {}: {message}",
                fault.breaks, fault.red
            ),
        },
        Outcome::Passed => Outcome::Failed {
            message: format!("blind: the case passed although {}", fault.breaks),
        },
        other => other,
    }
}

/// The verdict on a trial that failed with `message` and then ran again: flaky where a repeat passed.
pub(super) fn confirmed(message: String, outcomes: Vec<Outcome>) -> (Repeats, Outcome) {
    let mut repeats = Repeats::default();
    let mut failures = vec![message.clone()];
    for outcome in outcomes {
        match outcome {
            Outcome::Failed { message } | Outcome::Known { message, .. } => {
                repeats.failed += 1;
                failures.push(message);
            }
            Outcome::Passed => repeats.passed += 1,
            Outcome::Flaky { .. }
            | Outcome::Broken { .. }
            | Outcome::Skipped { .. }
            | Outcome::Interrupted => repeats.undecided += 1,
        }
    }
    let outcome = match repeats.passed {
        0 => Outcome::Failed { message },
        _ => Outcome::Flaky { failures },
    };
    (repeats, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::deadline;
    use crate::base::error::OrCannotRun as _;
    use crate::cases::{Red, faults};
    use anyhow::anyhow;

    #[test]
    fn markers_are_found_wherever_they_are_in_the_chain() {
        let skip = || anyhow!(Skip("no such module".into()));
        let skipped = Outcome::Skipped {
            reason: "no such module".into(),
        };
        assert_eq!(judge(&skip().context("while asking")), skipped);
        let inside = Err::<(), _>(skip()).or_cannot_run(|| "measure".into());
        assert_eq!(judge(&inside.unwrap_err()), skipped);
        let broken = anyhow!(CannotRun("cannot open /dev/net/tun".into())).context("building");
        assert!(matches!(judge(&broken), Outcome::Broken { .. }));
        assert_eq!(
            judge(&anyhow!("0 of 3 replies")),
            Outcome::Failed {
                message: "0 of 3 replies".into()
            }
        );
    }

    #[test]
    fn what_the_host_ran_out_of_is_no_fault_of_the_nic() {
        let of = |errno: Errno| {
            let system_call = anyhow!(io::Error::from_raw_os_error(errno as i32));
            [system_call, anyhow!(errno)].map(|error| {
                let error = error.context("cannot make a pipe");
                let message = format!("{error:#}");
                (judge(&error), message)
            })
        };
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOSPC] {
            for (outcome, message) in of(errno) {
                assert_eq!(outcome, Outcome::Broken { message });
            }
        }
        // A peer that does not answer is under test.
        for (outcome, message) in of(Errno::ECONNREFUSED) {
            assert_eq!(outcome, Outcome::Failed { message });
        }
    }

    #[test]
    fn a_guest_that_panics_is_a_failure_whatever_else_went_wrong() {
        for error in [
            anyhow!(CannotRun("cannot inject the fault".into())),
            anyhow!(Skip("no such module".into())),
            anyhow!("0 of 3 replies"),
        ] {
            let message = format!("a panic; meanwhile: {error}");
            let error = error.context(Witnessed("a panic".into()));
            assert_eq!(judge(&error), Outcome::Failed { message });
        }
    }

    #[test]
    fn a_witness_is_heard_once_and_only_where_it_could_look() {
        let damage = || anyhow!("on the wire, all 3 TCP segments left the guest damaged");
        let error = with_witness(anyhow!("ncat: idle timeout"), damage());
        let message = format!("{}; meanwhile: ncat: idle timeout", damage());
        assert_eq!(format!("{error:#}"), message);
        assert_eq!(
            judge(&with_witness(error, damage())),
            Outcome::Failed { message }
        );
        let blind = anyhow!(CannotRun("cannot capture".into()));
        assert_eq!(
            with_witness(damage(), blind).to_string(),
            damage().to_string()
        );
    }

    #[test]
    fn a_starved_vm_says_nothing_of_its_nic_unless_it_shows_what_no_want_of_time_explains() {
        let said = |shown: Vec<anyhow::Error>, starved: bool| {
            let words = starved.then(|| "the host gave the VM 5 % of a processor".to_owned());
            judge(&judged_by(shown, anyhow!("0 of 3 replies"), words, None))
        };
        let is_broken = |outcome| matches!(outcome, Outcome::Broken { .. });
        let stall = || anyhow!(Stalled("a soft lockup".into()));
        let damage = || anyhow!("on the wire, all 3 TCP segments left the guest damaged");
        assert!(is_broken(said(vec![], true)));
        assert!(is_broken(said(vec![stall()], true)));
        assert!(!is_broken(said(vec![damage()], true)));
        assert!(!is_broken(said(vec![stall(), damage()], true)));
        assert!(!is_broken(said(vec![stall()], false)));
        assert!(!is_broken(said(vec![], false)));
        // A case that has looked at the console itself.
        let panic = "the guest's console shows a panic";
        let error = judged_by(
            vec![anyhow!(panic)],
            anyhow!(panic),
            Some("5 %".into()),
            None,
        );
        assert!(!is_broken(judge(&error)));
    }

    #[test]
    fn a_stall_of_a_vm_that_stood_still_takes_nothing_from_what_its_case_says() {
        let stall = || anyhow!(Stalled("a soft lockup".into()));
        let stood_still = || Some("the host gave the VM 60 % of a processor".to_owned());
        let is_broken = |shown, error, stalled| {
            let judged = judge(&judged_by(shown, error, None, stalled));
            matches!(judged, Outcome::Broken { .. })
        };
        let of_host = || anyhow!("0 of 3 replies").context(CannotRun("2 % in 15.4 s".into()));
        assert!(is_broken(vec![stall()], of_host(), stood_still()));
        assert!(!is_broken(vec![stall()], of_host(), None));
        assert!(!is_broken(
            vec![stall()],
            anyhow!("0 of 3 replies"),
            stood_still()
        ));
        assert!(is_broken(vec![stall()], stall(), stood_still()));
        let damage = anyhow!("on the wire, all 3 TCP segments left the guest damaged");
        assert!(!is_broken(vec![damage], stall(), stood_still()));
    }

    #[test]
    fn a_repeat_that_passes_makes_a_failure_flaky_and_nothing_makes_it_green() {
        let failed = |message: &str| Outcome::Failed {
            message: message.into(),
        };
        let broken = Outcome::Broken {
            message: "no tun".into(),
        };
        let verdict = |outcomes| {
            let (repeats, outcome) = confirmed("1 of 2".into(), outcomes);
            (repeats.words(), outcome)
        };
        assert_eq!(
            verdict(vec![failed("0 of 2"), failed("1 of 2")]),
            ("solid: failed 3 of 3 times".into(), failed("1 of 2"))
        );
        let flaky = Outcome::Flaky {
            failures: vec!["1 of 2".into(), "0 of 2".into()],
        };
        let some = vec![Outcome::Passed, failed("0 of 2"), Outcome::Passed];
        assert_eq!(verdict(some), ("flaky: failed 2 of 4 times".into(), flaky));
        let (words, outcome) = verdict(vec![broken]);
        assert!(words.starts_with("not confirmed"), "{words}");
        assert_eq!(outcome, failed("1 of 2"));
    }

    #[test]
    fn under_a_fault_only_the_right_red_counts() {
        let says = Fault {
            red: Red::Says("replies came back"),
            ..faults::TAP_UNPLUGGED
        };
        let misses = Fault {
            red: Red::Missed(deadline::FIRST_PING),
            ..faults::TAP_UNPLUGGED
        };
        let verdict = |fault: &Fault, struck, error: &anyhow::Error| {
            under_fault(fault, struck, judge(error), Some(error))
        };
        let told = |fault: &Fault, error: &anyhow::Error| match verdict(fault, true, error) {
            Outcome::Failed { message } => message,
            other => panic!("{other:?}"),
        };
        let lost = anyhow!("2 of 3 replies came back").context("in round 2");
        assert_eq!(verdict(&says, true, &lost), Outcome::Passed);
        let early = verdict(&says, false, &lost);
        assert!(matches!(early, Outcome::Failed { .. }));
        assert_eq!(
            told(&says, &anyhow!("QEMU ended")),
            "the case went red for another reason when the NIC's tap is taken out of the bridge; \
             expected was that the failure says \"replies came back\": QEMU ended"
        );

        let missed = |limit: deadline::Limit| limit.start().missed("saw ARP").context("in round 2");
        let ping = missed(deadline::FIRST_PING).context(Witnessed("a stall".into()));
        assert_eq!(verdict(&misses, true, &ping), Outcome::Passed);
        // The words alone do not make it.
        let words = anyhow!("{ping:#}");
        for error in [&words, &missed(deadline::LINK_APPEARS)] {
            let told = told(&misses, error);
            let expected = "expected was that the wait for the first ping reply is in vain: ";
            assert!(told.contains(expected), "{told}");
        }

        assert!(matches!(
            under_fault(&says, true, Outcome::Passed, None),
            Outcome::Failed { .. }
        ));
        let broken = anyhow!(CannotRun("replies came back".into()));
        assert_eq!(verdict(&says, true, &broken), judge(&broken));
    }
}
