use super::against::{Comparison, Verdict, decide};
use super::show;
use crate::Results;
use crate::events::{Event, Figure, Outcome, TrialEnded};
use std::collections::BTreeMap;

const NICS: [&str; 2] = ["e1000", "virtio"];
const SIZES: [u32; 5] = [32, 64, 256, 1024, 1472];

/// A repeatable source of noise, from -1 to 1 (Knuth's MMIX generator).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = (self.0)
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / f64::from(1u32 << 30) - 1.0
    }
}

/// A run with each figure of each NIC once; those of `slowed` at `factor`. On `qemu`, 2 % of noise.
fn run(noise: &mut Noise, qemu: &str, accelerator: &str, slowed: impl Fn(&str) -> f64) -> Results {
    let properties = BTreeMap::from([("accelerator".to_owned(), accelerator.to_owned())]);
    let mut events = vec![Event::RunStarted {
        settings: None,
        only: BTreeMap::new(),
        schema: 2,
        unix_time: 1,
        identity: None,
        properties,
        faults: false,
    }];
    for nic in NICS {
        let figures = SIZES.map(|size| Figure {
            test: "UDP_STREAM".into(),
            size: Some(size),
            transaction: None,
            sender: "host".into(),
            receiver: "guest".into(),
            value: f64::from(size) * slowed(nic) * (1.0 + 0.02 * noise.next()),
            unit: "10^6bits/s".into(),
            seconds: 10.0,
            received_bytes: 1 << 30,
            cpu_seconds: Some(5.0 * (1.0 + 0.02 * noise.next())),
            alone: true,
        });
        events.push(Event::TrialEnded(TrialEnded {
            figures: figures.into(),
            ..TrialEnded::unmeasured(
                format!("netperf_host::{nic}::rhel9::tap{qemu}"),
                Outcome::Passed,
            )
        }));
    }
    Results::from_events(&events)
}

/// `starts` of each QEMU, the second's `slowed`.
fn comparison(
    seed: u64,
    starts: usize,
    accelerator: &str,
    slowed: impl Fn(&str) -> f64 + Copy,
) -> Comparison {
    let mut noise = Noise(seed);
    let mut runs = |qemu, slowed: &dyn Fn(&str) -> f64| -> Vec<Results> {
        (0..starts)
            .map(|_| run(&mut noise, qemu, accelerator, slowed))
            .collect()
    };
    let first = runs("", &|_| 1.0);
    let second = runs("::new", &slowed);
    Comparison::of(&first, &second)
}

/// A rate limit of 20 % on one cell.
fn virtio_slowed(nic: &str) -> f64 {
    match nic {
        "virtio" => 0.8,
        _ => 1.0,
    }
}

#[test]
fn a_cell_that_lost_a_fifth_is_found_and_nothing_else() {
    for seed in 0..10 {
        let found = comparison(seed, 5, "KVM", virtio_slowed);
        let worse: Vec<&str> = (found.having(Verdict::Worse))
            .map(|figure| figure.key.trial.as_str())
            .collect();
        assert_eq!(worse, ["netperf_host::virtio::rhel9::tap"; SIZES.len()]);
        assert_eq!(found.having(Verdict::Better).count(), 0);
        assert!(found.is_worse());
    }
}

#[test]
fn a_qemu_compared_with_itself_shows_nothing() {
    for seed in 100..110 {
        let found = comparison(seed, 5, "KVM", |_| 1.0);
        assert_eq!(found.having(Verdict::Same).count(), found.figures.len());
        assert!(!found.is_worse());
    }
}

#[test]
fn few_starts_say_nothing_and_tcg_decides_nothing() {
    let few = comparison(1, 4, "KVM", virtio_slowed);
    assert_eq!(few.having(Verdict::TooFew).count(), few.figures.len());
    assert!(!few.is_worse());
    let of = |accelerators: &[(&str, &str)]| {
        let properties = accelerators.iter();
        decide(
            &properties
                .map(|(n, v)| ((*n).into(), (*v).into()))
                .collect(),
        )
    };
    let (kvm, tcg) = ("KVM, whose boot", "TCG, as KVM");
    assert!(of(&[("accelerator new", kvm)]) && of(&[("accelerator", kvm)]));
    assert!(!of(&[("accelerator", kvm), ("accelerator new", tcg)]) && !of(&[]));
    let tcg = comparison(1, 5, "TCG, as KVM does not work", virtio_slowed);
    assert_eq!(tcg.having(Verdict::Worse).count(), SIZES.len());
    assert!(!tcg.is_worse());
}

#[test]
fn more_processor_time_is_worse_and_a_figure_beside_other_trials_does_not_count() {
    let mut noise = Noise(7);
    let mut runs = |cost: f64, alone: bool| -> Vec<Results> {
        let one = |_| {
            let mut run = run(&mut noise, "", "KVM", |_| 1.0);
            for figure in run.trials.iter_mut().flat_map(|t| &mut t.end.figures) {
                figure.cpu_seconds = figure.cpu_seconds.map(|seconds| seconds * cost);
                figure.alone = alone;
            }
            run
        };
        (0..5).map(one).collect()
    };
    let found = Comparison::of(&runs(1.0, true), &runs(1.5, true));
    let worse = found.having(Verdict::Worse);
    let units: Vec<&str> = worse.map(|figure| figure.key.unit.as_str()).collect();
    assert_eq!(units, ["s/GiB"; NICS.len() * SIZES.len()]);
    assert_eq!(
        Comparison::of(&runs(1.0, false), &runs(1.0, false)).figures,
        []
    );
}

#[test]
fn it_reads_well() {
    let names = ["QEMU 7.2.22 (default)", "QEMU 11.1.3 (new)"];
    let found = comparison(3, 5, "TCG", virtio_slowed);
    insta::assert_snapshot!(show::terminal(&found, names));
    insta::assert_snapshot!(show::markdown(&found, names));
    insta::assert_snapshot!(
        show::terminal(&comparison(3, 2, "KVM", |_| 1.0), names)
            .lines()
            .take(4)
            .collect::<Vec<_>>()
            .join("\n")
    );
}
