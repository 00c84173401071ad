use super::*;
use crate::events::Outcome;
use crate::expectation::State;
use crate::past::sample::Sample;
use crate::tests::{expected, failed, known, skipped};
use insta::assert_snapshot;

mod nights;

fn sides(base: &[Sample], head: &[Sample]) -> Result<Sides, NotComparable> {
    let runs = |samples: &[Sample]| samples.iter().map(Sample::run).collect();
    let pick = match base {
        [_] => Pick::TheOne,
        _ => Pick::NearestBefore,
    };
    Sides::choose(runs(base), pick, runs(head))
}

/// The terminal's text, and the exit code.
fn compared(base: &[Sample], head: &[Sample]) -> (String, u8) {
    let sides = sides(base, head).unwrap();
    let comparison = Comparison::new(&sides);
    let text = terminal::render(&comparison, false);
    (text, comparison.conclusion().exit_code())
}

/// How many trials are of each class that is not only counted.
fn classes(base: Sample, head: Sample) -> Vec<(Class, usize)> {
    let sides = sides(&[base], &[head]).unwrap();
    let counts = Comparison::new(&sides).counts().into_iter();
    counts
        .filter(|(class, _)| !class.is_only_counted())
        .collect()
}

fn no_announcement() -> Outcome {
    failed("no announcement of 52:54:00:ab:cd:ef reached the bridge\nfacts")
}

#[test]
fn a_night_without_a_change_says_so() {
    let (text, code) = compared(&[Sample::night(1)], &[Sample::night(2)]);
    assert_eq!(code, 0);
    assert_snapshot!(text, @r"
    Nothing is worse
    30 still passing
    BASE  night1 (2026-11-26 09:46 UTC, commit 111111111111)
    HEAD  night2 (2026-11-27 09:46 UTC, commit 222222222222)

    What else changed
      commit  111111111111 → 222222222222
    ");
}

#[test]
fn a_fault_in_one_nic_is_one_finding() {
    let head = Sample::night(2).set("mac_change::e1000e", "", no_announcement());
    let (text, code) = compared(&[Sample::night(1)], &[head]);
    assert_eq!(code, 1);
    assert_snapshot!(text);
}

/// A head in which everything became something.
fn mixed() -> (Vec<Sample>, Vec<Sample>) {
    let base = Sample::night(1)
        .set("driver::e1000::rhel6", "", failed("the driver is gone"))
        .set("driver::e1000::rhel9", "", failed("lost 3 of 100"))
        .set("driver::e1000e::rhel6", "", failed("lost 3 of 100"))
        .set("link_status::e1000::rhel6", "", skipped("no vhost_net"))
        .measured("netperf::virtio::rhel9::vhost", 16384, 941.2);
    let mut base = base.set("link_status::e1000e", "", known());
    base.of("link_status::e1000e", "", |end| {
        end.expectation = Some(expected(State::Met));
    });
    base.add("pxe::e1000::rhel9::tap");
    base.add("pxe::virtio::rhel9::tap");
    let mut head = Sample::night(2)
        .set("driver::e1000::rhel9", "", failed("lost 14 of 100"))
        .set(
            "driver::e1000e::rhel6",
            "",
            failed("the driver <b>`is`</b> | *gone*"),
        )
        .set("mac_change::e1000e", "", no_announcement())
        .set("mac_change::virtio::rhel9", "tap", no_announcement())
        .set("link_status::e1000::rhel6", "", skipped("no tap"))
        .set(
            "link_status::virtio",
            "vhost",
            skipped("this kernel has no vhost_net"),
        )
        .set(
            "driver::virtio::rhel6",
            "tap",
            Outcome::Broken {
                message: "no QEMU".into(),
            },
        )
        .set(
            "driver::virtio::rhel9",
            "tap",
            Outcome::Flaky {
                failures: vec!["lost 1 of 9".into()],
            },
        )
        .measured("netperf::virtio::rhel9::vhost", 16384, 752.96)
        .measured("netperf::virtio::rhel9::vhost", 32, 10.0);
    head.of("link_status::e1000e::rhel6", "", |end| {
        end.expectation = Some(expected(State::Fixed));
    });
    head.identity.plan_digest = "c".repeat(64);
    head.identity.host.kernel = "6.19.1".into();
    head.identity.qemu.version = "10.0.13".into();
    head.properties.insert("speed".into(), "7".into());
    head.properties.insert(
        "accelerator".into(),
        "TCG, as KVM does not work after 0.7 s".into(),
    );
    head.properties.insert(
        crate::STAND_INS.into(),
        "rhel6 (Debian kernel 5.10.0-47), rhel9 (Debian kernel 6.1.0-56)".into(),
    );
    (vec![base], vec![head])
}

#[test]
fn each_class_on_a_terminal() {
    let (base, head) = mixed();
    let (text, code) = compared(&base, &head);
    assert_eq!(code, 1);
    assert_snapshot!(text);
}

#[test]
fn each_class_in_markdown() {
    let (base, head) = mixed();
    let sides = sides(&base, &head).unwrap();
    assert_snapshot!(markdown::render(&Comparison::new(&sides)));
}

#[test]
fn each_class_in_json() {
    let (base, head) = mixed();
    let sides = sides(&base, &head).unwrap();
    let json = json::render(&Comparison::new(&sides));
    let mut value: serde_json::Value = serde_json::from_str(&json).unwrap();
    // Otherwise the order depends on what else is built with serde_json.
    value.sort_all_objects();
    assert_snapshot!(serde_json::to_string_pretty(&value).unwrap());
}

#[test]
fn a_rate_limit_on_one_cell_is_reported_and_decides_nothing() {
    let cell = "netperf::virtio::rhel9::vhost";
    let other = "netperf::virtio::rhel9::tap";
    let night = |number, value| {
        let night = Sample::night(number).measured(cell, 16384, value);
        night.measured(other, 16384, 500.0 + f64::from(number))
    };
    let (text, code) = compared(&[night(1, 941.2)], &[night(2, 752.96)]);
    assert_eq!(code, 0);
    let said = "\
Figures that differ (one start each: too few to say)
  netperf::virtio::rhel9::vhost
      UDP_STREAM, 16384 bytes, host to guest: 941.20 → 752.96 10^6bits/s (0.80 x)
";
    assert!(text.contains(said), "{text}");
    assert!(!text.contains(other), "0.2 % is nothing: {text}");

    let mut slower = night(2, 752.96);
    slower.identity.host.processor = "Intel".into();
    let (text, _) = compared(&[night(1, 941.2)], &[slower]);
    assert!(text.contains("Note: figures are not compared"), "{text}");
    assert!(!text.contains("752.96"), "{text}");

    let mut beside = night(2, 752.96);
    beside.of(cell, "", |end| end.figures[0].alone = false);
    let (text, _) = compared(&[night(1, 941.2)], &[beside]);
    assert!(!text.contains("752.96"), "{text}");
}

#[test]
fn a_case_that_vanished_is_worse_unless_it_was_not_selected() {
    let mut head = Sample::night(2);
    head.trials
        .retain(|name, _| !name.starts_with("mac_change"));
    let trials = head.trials.clone();
    // Of the same plan: a filter.
    let (text, code) = compared(&[Sample::night(1)], &[head]);
    assert_eq!(code, 0);
    assert!(
        text.contains("Note: 10 trials of BASE: HEAD did not select them"),
        "{text}"
    );
    // Of another plan.
    let mut head = Sample::night(2);
    head.trials = trials;
    head.identity.plan_digest = "c".repeat(64);
    let (text, code) = compared(&[Sample::night(1)], &[head]);
    assert_eq!(code, 1);
    let said = "\
Vanished: of the plan no more
  10  mac_change: every NIC on every guest under every backend
";
    assert!(text.contains(said), "{text}");
}

#[test]
fn a_skip_where_a_trial_ran_is_worse() {
    let skip = || skipped("this kernel has no vhost_net");
    let head = Sample::night(2).set("", "vhost", skip());
    let (text, code) = compared(&[Sample::night(1)], &[head]);
    assert_eq!(code, 1);
    let said = "\
Newly skipped: these ran before
   6  every case (3): virtio on every guest under vhost
      reason: this kernel has no vhost_net
";
    assert!(text.contains(said), "{text}");
    // As before, or for a reason that differs in a number.
    let night = |n, reason: &str| Sample::night(n).set("", "vhost", skipped(reason));
    let (_, code) = compared(&[night(1, "4 MiB are free")], &[night(2, "5 MiB are free")]);
    assert_eq!(code, 0);
    let counts = classes(night(1, "no vhost_net"), night(2, "no tap"));
    assert_eq!(counts, [(Class::OtherReason, 6)]);
    let counts = classes(night(1, "no vhost_net"), Sample::night(2));
    assert_eq!(counts, [(Class::RunsAgain, 6)]);
}

#[test]
fn a_run_that_was_cut_off_cannot_be_judged() {
    let cut = || {
        let mut head = Sample::night(2);
        head.cut = true;
        for (_, end) in head.trials.iter_mut().skip(20) {
            *end = None;
        }
        head
    };
    let (text, code) = compared(&[Sample::night(1)], &[cut()]);
    assert_eq!(code, 3);
    assert_snapshot!(text);
    // What is red already is worse all the same.
    let red = cut();
    let mut red = Sample {
        trials: red.trials,
        ..red
    };
    let first = red.trials.values_mut().next().unwrap();
    first.as_mut().unwrap().outcome = no_announcement();
    assert_eq!(compared(&[Sample::night(1)], &[red]).1, 1);
    // Cut off before it had named its trials.
    let mut cut = cut();
    cut.trials.retain(|_, end| end.is_some());
    let (text, code) = compared(&[Sample::night(1)], &[cut]);
    assert_eq!(code, 3, "{text}");
    assert!(
        text.starts_with("Undecided: HEAD was cut off before it named"),
        "{text}"
    );
    // A base that was cut off says nothing against the head.
    let mut base = Sample::night(1);
    base.cut = true;
    base.trials.values_mut().for_each(|end| *end = None);
    let (text, code) = compared(&[base], &[Sample::night(2)]);
    assert_eq!(code, 0);
    assert!(text.contains("30 judged again"), "{text}");
}

#[test]
fn what_did_not_change_is_not_named_as_changed() {
    let mut head = Sample::night(1);
    head.name = "again".into();
    head.properties.insert("speed".into(), "9".into());
    let (text, _) = compared(&[Sample::night(1)], &[head]);
    assert!(!text.contains("What else changed"), "{text}");

    let mut head = Sample::night(1);
    head.identity.host.kernel = "6.19.1".into();
    head.of("driver::virtio", "vhost", |end| {
        end.host = Some("lab, Linux 6.1.0-57, vhost_net with experimental_zcopytx=0".into());
    });
    let mut base = Sample::night(1);
    base.of("driver::virtio", "vhost", |end| {
        end.host = Some("lab, Linux 6.1.0-56, vhost_net with experimental_zcopytx=1".into());
    });
    let (text, _) = compared(&[base], &[head]);
    let said = "\
What else changed
  host kernel   6.18.44 → 6.19.1
  lab's kernel  Linux 6.1.0-56 → Linux 6.1.0-57
";
    assert!(text.ends_with(said), "{text}");
}

#[test]
fn each_verdict_after_each_other() {
    let trial = "driver::e1000::rhel6::tap";
    let night = |number, outcome: &Outcome, sometimes: Option<State>| {
        let mut night = Sample::night(number).set(trial, "", outcome.clone());
        night.of(trial, "", |end| {
            end.expectation = sometimes.map(|state| crate::expectation::Expectation {
                sometimes: true,
                ..expected(state)
            });
        });
        night
    };
    let passed = Outcome::Passed;
    let flaky = Outcome::Flaky {
        failures: vec!["lost 3".into()],
    };
    let broken = Outcome::Broken {
        message: "no QEMU".into(),
    };
    for (before, now, class) in [
        (&passed, &failed("lost 3"), Class::NewFailure),
        (&flaky, &failed("lost 3"), Class::NewFailure),
        (&broken, &failed("lost 3"), Class::NewFailure),
        (&skipped("x"), &failed("lost 3"), Class::NewFailure),
        (&failed("lost 3"), &failed("lost 4"), Class::StillFailing),
        (&failed("lost 3"), &failed("no link"), Class::OtherWords),
        (&known(), &failed("no link"), Class::OtherWords),
        (&failed("lost 3"), &passed, Class::Fixed),
        (&known(), &passed, Class::Fixed),
        (&flaky, &passed, Class::StillPassing),
        (&broken, &passed, Class::RunsAgain),
        (&skipped("x"), &passed, Class::RunsAgain),
        (&passed, &known(), Class::NewlyKnown),
        (&failed("lost 3"), &known(), Class::NewlyKnown),
        (&known(), &known(), Class::Known),
        (&passed, &flaky, Class::NewlyFlaky),
        (&failed("lost 3"), &flaky, Class::StillFlaky),
        (&flaky, &flaky, Class::StillFlaky),
        (&skipped("x"), &flaky, Class::NewlyFlaky),
        (&broken, &flaky, Class::NewlyFlaky),
        (&known(), &flaky, Class::StillFlaky),
        (&passed, &broken, Class::Broken),
        (&passed, &skipped("x"), Class::NewlySkipped),
        (&failed("lost 3"), &skipped("x"), Class::NewlySkipped),
        (&skipped("y"), &skipped("x"), Class::OtherReason),
        (&passed, &Outcome::Interrupted, Class::NotRun),
    ] {
        let sides = sides(&[night(1, before, None)], &[night(2, now, None)]).unwrap();
        let comparison = Comparison::new(&sides);
        let change = comparison
            .changes
            .iter()
            .find(|change| change.trial == trial);
        assert_eq!(change.unwrap().class, class, "{before:?}, then {now:?}");
    }
    // What comes now and then is neither news when it comes nor fixed when it does not.
    let (met, not_now) = (Some(State::Met), Some(State::NotNow));
    let came = classes(night(1, &passed, not_now), night(2, &known(), met));
    let went = classes(night(1, &known(), met), night(2, &passed, not_now));
    assert_eq!((came, went), (vec![], vec![]));
    // With --strict, fixed counts as failed.
    let mut strict = night(2, &failed("it passed, though"), None);
    strict.of(trial, "", |end| {
        end.expectation = Some(expected(State::Fixed))
    });
    let counts = classes(night(1, &known(), None), strict);
    assert_eq!(counts, [(Class::ExpectationFixed, 1)]);
}

#[test]
fn new_trials_are_told_apart_by_how_they_went() {
    let mut head = Sample::night(2);
    head.add("pxe::e1000::rhel9::tap");
    head.add("pxe::e1000e::rhel9::tap");
    head.add("pxe::virtio::rhel9::tap");
    let head =
        head.set("pxe::e1000::", "", failed("no TFTP"))
            .set("pxe::virtio::", "", skipped("no ROM"));
    let counts = classes(Sample::night(1), head);
    assert_eq!(counts, [(Class::NewFailure, 1), (Class::New, 2)]);
}

#[test]
fn under_faults_a_failure_is_a_blind_case() {
    let night = |number| {
        let mut night = Sample::night(number);
        night.faults = true;
        night
    };
    let head = night(2).set("driver::virtio", "", failed("the case stayed green"));
    let (text, _) = compared(&[night(1)], &[head]);
    assert!(text.starts_with("Worse: 6 newly blind\n"), "{text}");
}

#[test]
fn a_guest_cannot_write_markup_or_escape_sequences() {
    let hostile = "</details>\u{1b}[31m\r\n::error::x\n| `a` | <script>";
    let head = Sample::night(2)
        .set("mac_change::e1000e", "", failed(hostile))
        .set("driver::e1000e", "", skipped(hostile));
    let sides = sides(&[Sample::night(1)], &[head]).unwrap();
    let comparison = Comparison::new(&sides);
    let markdown = markdown::render(&comparison);
    assert!(!markdown.contains("<script>"), "{markdown}");
    assert_eq!(
        markdown.matches("<details>").count(),
        markdown.matches("</details>").count()
    );
    for text in [markdown, terminal::render(&comparison, false)] {
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(!text.lines().any(|line| line.starts_with("::")), "{text}");
    }
}

#[test]
fn a_cause_is_kept_up_to_its_bound() {
    let head = Sample::night(2).set("driver::e1000::rhel6", "", failed(&"ä".repeat(5_000_000)));
    let sides = sides(&[Sample::night(1)], &[head]).unwrap();
    let cause = &sides.head.trials["driver::e1000::rhel6::tap"].cause;
    assert!(cause.len() < 2100, "{}", cause.len());
    assert!(cause.ends_with("ä … (9997952 bytes left out)"), "{cause}");
    assert!(markdown::render(&Comparison::new(&sides)).len() < 10_000);
}

#[test]
fn ten_thousand_trials_are_compared_in_well_under_a_second() {
    let night = |number| {
        let mut night = Sample::night(number);
        for case in 0..50 {
            for nic in 0..20 {
                for guest in 0..10 {
                    night.add(&format!("case{case}::nic{nic}::rhel{guest}::tap"));
                }
            }
        }
        night
    };
    let (base, mut head) = (night(1).run(), night(2).run());
    // At worst: words that no two have in common.
    for (index, trial) in head.trials.values_mut().enumerate() {
        trial.verdict = crate::past::Verdict::Failed;
        let word: String = index
            .to_string()
            .bytes()
            .map(|b| (b + 49) as char)
            .collect();
        trial.cause = format!("it says {word}");
    }
    let started = std::time::Instant::now();
    let sides = Sides::choose(vec![base], Pick::TheOne, vec![head]).unwrap();
    let comparison = Comparison::new(&sides);
    let text = terminal::render(&comparison, false);
    let took = started.elapsed();
    assert!(text.contains("10030 new failures"), "{text}");
    assert!(took.as_secs_f64() < 5.0, "{took:?}");
}
