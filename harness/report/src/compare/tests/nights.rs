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
    let mut other = Sample::night(1);
    other.trials.clear();
    other.add("x::y::z::tap");
    for (base, words) in [
        (
            vec![smoke],
            "night1 is of profile smoke, and night2 of profile full",
        ),
        (vec![faults], "night1 is of profile full under faults"),
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
    let (text, _) = compared(&base, &head[..2]);
    assert!(
        text.contains("Note: night2-1 + night2-2 is 2 of 3 shards"),
        "{text}"
    );
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
