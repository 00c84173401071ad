//! What many nights tell of a head, and which of them it is compared with.

use super::*;

#[test]
fn many_nights_tell_since_when_it_is_red_and_what_flips() {
    let red = |n| Sample::night(n).set("mac_change::e1000e", "", no_announcement());
    let flip = |night: Sample| night.set("driver::virtio", "vhost", failed("lost 3 of 100"));
    let broken = Sample::night(5).set(
        "driver::e1000::rhel6",
        "",
        Outcome::Broken {
            message: "no QEMU".into(),
        },
    );
    let nights = [
        Sample::night(1),
        flip(Sample::night(2)),
        red(3),
        flip(red(4)),
        broken.set("mac_change::e1000e", "", no_announcement()),
    ];
    let head = flip(red(6)).set("driver::e1000::rhel6", "", failed("the driver is gone"));
    let (text, code) = compared(&nights, &[head]);
    assert_eq!(code, 1);
    assert_snapshot!(text);
}

#[test]
fn what_was_known_is_red_from_its_first_other_words_on() {
    let night = |number| {
        let end = match number {
            1 | 2 => known(),
            _ => failed("the driver is gone"),
        };
        Sample::night(number).set("mac_change::e1000e", "", end)
    };
    let text = |head| {
        let before: Vec<Sample> = (1..head).map(night).collect();
        compared(&before, &[night(head)]).0
    };
    for head in [2, 3] {
        assert!(!text(head).contains("red since"), "{}", text(head));
    }
    assert!(
        text(4).contains("red since 2026-11-28, 2 nights"),
        "{}",
        text(4)
    );
}

#[test]
fn of_many_runs_the_nearest_earlier_one_of_that_kind_is_taken() {
    let mut smoke = Sample::night(3);
    smoke.properties.insert("profile".into(), "smoke".into());
    let mut faults = Sample::night(3);
    faults.faults = true;
    let base = || vec![Sample::night(1), Sample::night(2)];
    let many = || {
        let mut many = base();
        many.extend([Sample::night(4), Sample::night(5)]);
        many
    };
    let head = || [Sample::night(4)];
    assert_eq!(sides(&many(), &head()).unwrap().base.name, "night2");
    assert_eq!(sides(&many(), &head()).unwrap().earlier.len(), 1);
    let with_others: Vec<Sample> = [vec![smoke, faults], base()]
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(sides(&with_others, &head()).unwrap().base.name, "night2");
    // One trial by hand, which the head does not have, is no night.
    let mut by_hand = Sample::night(3);
    by_hand.trials.clear();
    by_hand.add("x::y::z::tap");
    let mut with_one = base();
    with_one.push(by_hand);
    assert_eq!(sides(&with_one, &head()).unwrap().base.name, "night2");
    // A single one is taken whenever it ran.
    assert_eq!(
        sides(&[Sample::night(9)], &head()).unwrap().base.name,
        "night9"
    );
}

#[test]
fn runs_that_do_not_ask_the_same_are_not_compared() {
    let mut smoke = Sample::night(1);
    smoke.properties.insert("profile".into(), "smoke".into());
    let mut faults = Sample::night(1);
    faults.faults = true;
    let mut booted = Sample::night(1);
    booted.booted = true;
    let mut other = Sample::night(1);
    other.trials.clear();
    other.add("x::y::z::tap");
    for (base, words) in [
        (
            vec![smoke],
            "night1 is of profile smoke, and night2 of profile full",
        ),
        (vec![faults], "night1 is of profile full under faults"),
        (vec![booted], "night1 is of profile full with --boot"),
        (vec![other], "have no trial in common"),
        (
            vec![Sample::night(2), Sample::night(3)],
            "no run of profile full from before night2",
        ),
    ] {
        let error = sides(&base, &[Sample::night(2)]).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn shards_are_one_night() {
    let shards = |number| [1, 2, 3].map(|k| Sample::night(number).shard(k, 3));
    let base = shards(1);
    let mut head = shards(2);
    for shard in &mut head {
        for (name, end) in &mut shard.trials {
            if name.starts_with("mac_change::e1000e") {
                end.as_mut().unwrap().outcome = no_announcement();
            }
        }
    }
    let (text, code) = compared(&base, &head);
    assert_eq!(code, 1);
    assert!(
        text.starts_with("Worse: 2 new failures\n28 still passing\n"),
        "{text}"
    );
    assert!(!text.contains("Note"), "{text}");
    // Against an unsplit night.
    let (unsplit, _) = compared(&[Sample::night(1)], &head);
    assert!(
        unsplit.starts_with("Worse: 2 new failures\n28 still passing\n"),
        "{unsplit}"
    );
    // One is lost.
    let (text, code) = compared(&base, &shards(2)[..2]);
    assert_eq!(code, 3, "{text}");
    assert!(
        text.starts_with("Undecided: nothing is worse so far, 10 not run\n20 still passing\n"),
        "{text}"
    );
    // As well against an unsplit night.
    assert_eq!(compared(&[Sample::night(1)], &shards(2)[..2]).1, 3);
    assert!(
        text.contains("Note: night2-1 + night2-2 is 2 of 3 shards"),
        "{text}"
    );
}

#[test]
fn a_head_of_several_runs_is_refused_and_a_shard_that_ran_again_is_noted() {
    let base = [Sample::night(1)];
    let mut red = Sample::night(2).set("mac_change::e1000e", "", no_announcement());
    red.name = "red".into();
    let mut smoke = Sample::night(3);
    smoke.properties.insert("profile".into(), "smoke".into());
    let error = sides(&base, &[red, smoke]).unwrap_err().to_string();
    assert!(
        error.contains("no shards of its newest, night3") && error.contains(": red; name one"),
        "{error}"
    );
    let shard = |k| Sample::night(2).shard(k, 2);
    let mut again = shard(1);
    again.name = "again".into();
    again.time += 60.0;
    let (text, code) = compared(&base, &[shard(1), shard(2), again]);
    assert_eq!(code, 0, "{text}");
    let said =
        "Note: of shards that HEAD holds more than once the newest run counts, not night2-1\n";
    assert!(text.contains(said), "{text}");
    // Parts that were filled in another way are not of one night, nor are two that ran the same trial.
    let mut otherwise = shard(2);
    otherwise.identity.shard.as_mut().unwrap().durations = Some("d".into());
    let mut overlapping = shard(2);
    overlapping.add(shard(1).trials.keys().next().unwrap());
    let mut booted = shard(2);
    booted.booted = true;
    for other in [otherwise, overlapping, booted] {
        let error = sides(&base, &[shard(1), other]).unwrap_err().to_string();
        assert!(error.contains("no shards of its newest"), "{error}");
    }
}

#[test]
fn figures_of_a_shard_on_another_kind_of_host_are_left_out() {
    let trial = "netperf::virtio::rhel9::vhost";
    let parts = |processor: &str| {
        let mut parts = [1, 2].map(|k| Sample::night(2).shard(k, 2));
        parts[1] = Sample::night(2).shard(2, 2).measured(trial, 16384, 800.0);
        parts[1].identity.host.processor = processor.into();
        parts
    };
    let base = [measured(1, 1000.0)];
    let (text, _) = compared(&base, &parts("AMD EPYC"));
    assert!(text.contains("Figures that differ"), "{text}");
    let (text, _) = compared(&base, &parts("Intel Xeon"));
    assert!(!text.contains("Figures that differ"), "{text}");
    let said =
        "Note: night2-2 ran on another kind of host than night2-1: its figures are left out\n";
    assert!(text.contains(said), "{text}");
    // What was merged of both is of no known kind, even beside another such.
    let [mut merged_base, mut merged] = [measured(1, 1000.0), measured(2, 800.0)];
    for night in [&mut merged_base, &mut merged] {
        night.identity.host.processor = "AMD EPYC; Intel Xeon".into();
    }
    let (text, _) = compared(&[merged_base], &[merged]);
    assert!(!text.contains("Figures that differ"), "{text}");
}

#[test]
fn thirty_passes_of_what_fails_now_and_then_are_a_repair() {
    let trial = "driver::e1000::rhel6::tap";
    let night = |number| {
        let mut night = Sample::night(number);
        night.of(trial, "", |end| {
            end.expectation = Some(crate::expectation::Expectation {
                sometimes: true,
                ..expected(State::NotNow)
            });
        });
        night
    };
    let class = |nights: u32| {
        let base: Vec<Sample> = (1..nights).map(night).collect();
        let sides = sides(&base, &[night(nights)]).unwrap();
        let comparison = Comparison::new(&sides);
        comparison
            .changes
            .iter()
            .find(|change| change.trial == trial)
            .unwrap()
            .class
    };
    assert_eq!(class(29), Class::StillPassing);
    assert_eq!(class(30), Class::ExpectationFixed);
}

/// A night with a figure of that value.
fn measured(number: u32, value: f64) -> Sample {
    Sample::night(number).measured("netperf::virtio::rhel9::vhost", 16384, value)
}

/// Nights with a figure that changes by 2 % at most.
fn many_measured(nights: u32) -> Vec<Sample> {
    let values = [1000.0, 1010.0, 990.0, 1000.0];
    let night = |number: u32| measured(number, values[number as usize % 4]);
    (1..=nights).map(night).collect()
}

/// As if KVM worked.
fn under_kvm(mut night: Sample) -> Sample {
    night.properties.insert("accelerator".into(), "KVM".into());
    night
}

#[test]
fn a_rate_limit_is_worse_where_nights_say_what_is_usual_and_under_tcg_only_reported() {
    let nights: Vec<Sample> = many_measured(12).into_iter().map(under_kvm).collect();
    let (text, code) = compared(&nights, &[under_kvm(measured(13, 800.0))]);
    assert_eq!(code, 1, "{text}");
    assert_snapshot!(text, @r"
    Worse: 1 figure worse
    31 still passing
    BASE  night12 (2026-12-07 09:46 UTC, commit 121212121212)
    HEAD  night13 (2026-12-08 09:46 UTC, commit 131313131313)

    What else changed
      commit  121212121212 → 131313131313

    Figures that became worse than is usual from night to night
      netperf::virtio::rhel9::vhost
          UDP_STREAM, 16384 bytes, host to guest: 1000.00 → 800.00 10^6bits/s (0.80 x; usual is up to 4.5 %, of 12 nights)
    ");
    let (text, code) = compared(&nights, &[under_kvm(measured(13, 1010.0))]);
    assert_eq!(code, 0, "{text}");
    assert!(!text.contains("Figures"), "{text}");
    // Under TCG.
    let (text, code) = compared(&many_measured(12), &[measured(13, 800.0)]);
    assert_eq!(code, 0, "{text}");
    let said = "Note: guests ran under TCG: its figures are reported, and decide nothing\n";
    assert!(
        text.contains("became worse than is usual") && text.contains(said),
        "{text}"
    );
    // Too few nights.
    let (text, code) = compared(&nights[..9], &[under_kvm(measured(13, 800.0))]);
    assert_eq!(code, 0, "{text}");
    let said = "\
Figures that differ (under 10 nights: learning what is usual)
  netperf::virtio::rhel9::vhost
      UDP_STREAM, 16384 bytes, host to guest: 1010.00 → 800.00 10^6bits/s (0.79 x; 9 nights)
";
    assert!(text.contains(said), "{text}");
}

#[test]
fn a_failure_that_was_repeated_is_solid_or_flaky() {
    let mut head = Sample::night(2).set("mac_change::e1000e", "", no_announcement());
    for (guest, failed, passed) in [("rhel6", 5, 0), ("rhel9", 2, 3)] {
        head.of(&format!("mac_change::e1000e::{guest}"), "", |end| {
            end.repeats = Some(crate::repeats::Repeats {
                failed,
                passed,
                undecided: 0,
            });
        });
    }
    let (text, code) = compared(&[Sample::night(1)], &[head]);
    assert_eq!(code, 1);
    let said = "
      1 of them flaky: failed 3 of 6 times
      1 of them solid: failed 6 of 6 times
";
    assert!(text.contains(said), "{text}");
}

#[test]
fn a_trial_that_was_not_asked_for_has_not_vanished() {
    let base = Sample::night(1);
    let mut head = Sample::night(2);
    // The axes that are asked for are part of the plan.
    head.identity.plan_digest = "c".repeat(64);
    head.only = [("nic".to_owned(), serde_json::json!(["virtio"]))].into();
    head.trials.retain(|name, _| name.contains("::virtio::"));
    head.trials.remove("driver::virtio::rhel9::vhost");
    let (text, code) = compared(&[base], &[head]);
    assert_eq!(code, 1, "{text}");
    assert!(text.starts_with("Worse: 1 vanished\n"), "{text}");
    let note = "Note: 12 trials of BASE: HEAD did not select them\n";
    assert!(text.contains(note), "{text}");
}
