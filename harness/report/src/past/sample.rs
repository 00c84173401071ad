//! Logs of made-up nights, for the tests of what is made of past runs.

use super::PastRun;
use crate::events::{Event, Figure, Line, Outcome, SCHEMA, TrialEnded};
use crate::identity::{Host, Identity, Qemu, Shard};
use crate::tests::{end, planned};
use std::collections::BTreeMap;

/// The first night, seconds since the epoch.
pub const FIRST: f64 = 1_795_600_000.0;

/// A night whose trials all pass but for what is said of it.
pub struct Sample {
    pub name: String,
    pub time: f64,
    pub identity: Identity,
    pub properties: BTreeMap<String, String>,
    pub faults: bool,
    /// Whether every guest was booted.
    pub booted: bool,
    /// Which trials of the plan were asked for.
    pub only: BTreeMap<String, serde_json::Value>,
    /// The trials of the plan, with how each ended; none where it did not.
    pub trials: BTreeMap<String, Option<TrialEnded>>,
    pub cut: bool,
}

impl Sample {
    /// Night `number`, from 1, a day after the one before.
    pub fn night(number: u32) -> Sample {
        let properties = [
            ("profile", "full"),
            ("host", "builder"),
            ("speed", "5.11"),
            ("accelerator", "TCG, as KVM does not work after 0.3 s"),
            (
                crate::STAND_INS,
                "rhel6 (Debian kernel 5.10.0-46), rhel9 (Debian kernel 6.1.0-56)",
            ),
        ];
        let mut sample = Sample {
            name: format!("night{number}"),
            time: FIRST + f64::from(number) * 86_400.0,
            identity: Identity {
                commit: Some(format!("{number}").repeat(40).chars().take(40).collect()),
                matrix_digest: "a".repeat(64),
                plan_digest: "b".repeat(64),
                shard: None,
                qemu: Qemu {
                    version: "7.2.22".into(),
                    build: Some("build-id:0123456789abcdef0123".into()),
                },
                others: BTreeMap::new(),
                host: Host {
                    processor: "AMD EPYC".into(),
                    cores: 2,
                    accelerator: Some("TCG".into()),
                    kernel: "6.18.44".into(),
                },
            },
            properties: properties.map(|(k, v)| (k.into(), v.into())).into(),
            faults: false,
            booted: false,
            only: BTreeMap::new(),
            trials: BTreeMap::new(),
            cut: false,
        };
        for case in ["driver", "link_status", "mac_change"] {
            for nic in ["e1000", "e1000e", "virtio"] {
                for guest in ["rhel6", "rhel9"] {
                    for backend in ["tap", "vhost", "vhost_zcopy"] {
                        if nic == "virtio" || backend == "tap" {
                            sample.add(&format!("{case}::{nic}::{guest}::{backend}"));
                        }
                    }
                }
            }
        }
        sample
    }

    /// A trial that passes.
    pub fn add(&mut self, trial: &str) {
        let passed = end(trial, Outcome::Passed);
        self.trials.insert(trial.into(), Some(passed));
    }

    /// Gives the trials whose names begin and end so that outcome.
    pub fn set(mut self, begins: &str, ends: &str, outcome: Outcome) -> Sample {
        self.of(begins, ends, |end| end.outcome = outcome.clone());
        self
    }

    /// Changes the ends of the trials whose names begin and end so; there must be one.
    pub fn of(&mut self, begins: &str, ends: &str, change: impl Fn(&mut TrialEnded)) {
        let mut changed = 0;
        for (name, end) in &mut self.trials {
            if name.starts_with(begins) && name.ends_with(ends) {
                change(end.as_mut().expect("it ended"));
                changed += 1;
            }
        }
        assert!(changed > 0, "no trial {begins}…{ends}");
    }

    /// Gives `trial` a figure in 10^6 bits/s.
    pub fn measured(mut self, trial: &str, size: u32, value: f64) -> Sample {
        if !self.trials.contains_key(trial) {
            self.add(trial);
        }
        let figure = Figure {
            size: Some(size),
            value,
            ..crate::events::tests::figure()
        };
        self.of(trial, trial, |end| end.figures.push(figure.clone()));
        self
    }

    /// Shard `k` of `n`: each n-th trial.
    pub fn shard(mut self, k: u32, n: u32) -> Sample {
        self.identity.shard = Some(Shard {
            k,
            n,
            plan: None,
            durations: None,
        });
        self.name += &format!("-{k}");
        self.time += f64::from(k);
        let mut index = 0;
        self.trials.retain(|_, _| {
            index += 1;
            index % n == k % n
        });
        self
    }

    /// Its events.
    pub fn lines(&self) -> Vec<Line> {
        let mut events = vec![Event::RunStarted {
            settings: (self.booted).then(|| [("boot".to_owned(), true.into())].into()),
            only: self.only.clone(),
            schema: SCHEMA,
            unix_time: self.time as u64,
            identity: Some(Box::new(self.identity.clone())),
            properties: self.properties.clone(),
            faults: self.faults,
        }];
        events.extend(self.trials.keys().map(|name| planned(name)));
        let ends = self.trials.values().flatten().cloned();
        events.extend(ends.map(Event::TrialEnded));
        if !self.cut {
            events.push(Event::RunEnded {
                seconds: 372.0,
                interrupted: false,
                harness_peak_kib: 1,
                cpu_seconds: Some(600.0),
                harness_cpu_seconds: None,
                labs_cpu_seconds: None,
                processors: Some(2),
            });
        }
        let time = Some(self.time + 0.25);
        events
            .into_iter()
            .map(|event| Line { event, time })
            .collect()
    }

    /// What is left of it.
    pub fn run(&self) -> PastRun {
        PastRun::from_lines(&self.name, &self.lines()).unwrap()
    }
}
