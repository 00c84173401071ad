//! Event logs to make pages of, with artifacts.

use report::events::{Event, Figure, Line, Outcome, SCHEMA, TrialEnded};
use report::expectation::{Expectation, State};
use report::html::{Band, Earlier, Past, PastNight, figure_key};
use report::identity::{Host, Identity, Qemu};
use report::name::TrialName;
use report::past::Verdict;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const BEGIN: f64 = 1_795_662_300.0;

/// A log in the making.
pub struct Log {
    dir: PathBuf,
    lines: Vec<Line>,
    /// When each of the slots is free again.
    slots: [f64; 4],
}

impl Log {
    pub fn new(dir: &Path) -> Log {
        let qemu = |version: &str, build: &str| Qemu {
            version: version.into(),
            build: Some(format!("build-id:{build}")),
        };
        let identity = Identity {
            commit: Some("816bc8039190ae438d89be17fae4f822ae5ac43b".into()),
            matrix_digest: "9f446d04".repeat(8),
            plan_digest: "2a921f57".repeat(8),
            shard: None,
            qemu: qemu("7.2.22", "9e506f18501df074"),
            others: [("trixie".to_owned(), qemu("10.0.13", "e5588a4ae9dc724c"))].into(),
            host: Host {
                processor: "AMD EPYC".into(),
                cores: 4,
                accelerator: Some("TCG".into()),
                kernel: "6.12.41-amd64".into(),
            },
        };
        let properties = [
            ("host", "builder"),
            ("profile", "smoke"),
            ("stand_ins", "rhel6, rhel9, rhel10"),
        ];
        let properties: BTreeMap<String, String> =
            properties.map(|(k, v)| (k.into(), v.into())).into();
        let started = Event::RunStarted {
            settings: None,
            only: BTreeMap::new(),
            schema: SCHEMA,
            unix_time: BEGIN as u64,
            identity: Some(Box::new(identity)),
            properties,
            faults: false,
        };
        let mut log = Log {
            dir: dir.to_owned(),
            lines: Vec::new(),
            slots: [BEGIN + 4.0; 4],
        };
        log.push(started, BEGIN);
        log
    }

    fn push(&mut self, event: Event, time: f64) {
        let time = Some(time);
        self.lines.push(Line { event, time });
    }

    /// A trial that was planned.
    pub fn planned(&mut self, trial: &str) {
        let event = Event::Planned {
            trial: trial.into(),
            name: TrialName::parse_or_case(trial),
            plan_item: "2, 20".into(),
        };
        self.push(event, BEGIN);
    }

    /// A trial that began, in the slot that is free first.
    fn started(&mut self, trial: &str) -> usize {
        let free = (0..4).min_by(|a, b| self.slots[*a].total_cmp(&self.slots[*b]));
        let slot = free.expect("four slots");
        let name = TrialName::parse_or_case(trial);
        let trial = trial.to_owned();
        self.push(Event::TrialStarted { trial, name }, self.slots[slot]);
        slot
    }

    /// A trial that began and was cut off.
    pub fn cut(&mut self, trial: &str) {
        self.planned(trial);
        let slot = self.started(trial);
        self.slots[slot] += 9.0;
    }

    /// A trial that ended.
    pub fn ended(
        &mut self,
        trial: &str,
        seconds: f64,
        outcome: Outcome,
        more: impl FnOnce(&mut TrialEnded),
    ) {
        self.planned(trial);
        let mut end = TrialEnded::unmeasured(trial.to_owned(), outcome);
        end.reproduce = format!("cargo xtask repro '{trial}'");
        let mut time = BEGIN;
        if !matches!(end.outcome, Outcome::Skipped { .. }) {
            let slot = self.started(trial);
            self.slots[slot] += seconds;
            time = self.slots[slot];
            end.attempts = 1;
            end.seconds = seconds;
            end.start = Some("warm NIC".into());
            end.artifacts = self.artifacts(trial).display().to_string();
        }
        more(&mut end);
        self.push(Event::TrialEnded(end), time);
    }

    /// The trial's artifact directory.
    pub fn artifacts(&self, trial: &str) -> PathBuf {
        self.dir
            .join(trial.replace(['/', '<', '>', ' '], "_").replace("::", "."))
    }

    /// A file that the trial left.
    pub fn left(&self, trial: &str, file: &str, text: &str) {
        let path = self.artifacts(trial).join(file);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(path, text).expect("written");
    }

    /// Writes the log, with an end where `ended`, and returns its path.
    pub fn write(mut self, ended: bool) -> PathBuf {
        let last = self.slots.iter().copied().fold(BEGIN, f64::max);
        if ended {
            let event = Event::RunEnded {
                seconds: last - BEGIN,
                interrupted: false,
                harness_peak_kib: 40_000,
                cpu_seconds: Some((last - BEGIN) * 3.4),
                harness_cpu_seconds: None,
                labs_cpu_seconds: None,
                processors: Some(4),
            };
            self.push(event, last);
        }
        let text: Vec<String> = self
            .lines
            .iter()
            .map(|l| serde_json::to_string(l).expect("JSON"))
            .collect();
        let path = self.dir.join(report::log::FILE);
        fs::write(&path, text.join("\n") + "\n").expect("written");
        path
    }
}

pub fn failed(message: &str) -> Outcome {
    Outcome::Failed {
        message: message.into(),
    }
}

const CASES: [&str; 12] = [
    "hotplug_qmp",
    "link_status",
    "ping_sweep",
    "mac_change",
    "driver",
    "promisc",
    "vlan",
    "mtu_max",
    "offload_toggle",
    "udp_transfer",
    "capture_size",
    "netperf_host",
];

/// The trial of [`night`] whose section the tests look into.
pub const FAILED: &str = "link_status::e1000e::rhel6::tap";

/// A night with every verdict on two QEMUs, with figures; whole, or cut off.
pub fn night(dir: &Path, whole: bool) -> (PathBuf, Earlier) {
    let mut log = Log::new(dir);
    let mut earlier = Earlier::default();
    for case in CASES {
        for nic in ["rtl8139", "e1000", "e1000e", "virtio"] {
            for guest in ["rhel6", "rhel9", "rhel10"] {
                for backend in ["tap", "vhost"] {
                    if backend == "vhost" && nic != "virtio" {
                        continue;
                    }
                    for qemu in ["", "::trixie"] {
                        let name = format!("{case}::{nic}::{guest}::{backend}{qemu}");
                        trial(&mut log, &mut earlier, &name);
                    }
                }
            }
        }
    }
    if !whole {
        log.cut("multiqueue::virtio::rhel9::tap");
        log.planned("multiqueue::virtio::rhel10::tap");
    }
    (log.write(whole), earlier)
}

fn trial(log: &mut Log, earlier: &mut Earlier, name: &str) {
    let seconds = 2.0 + (name.bytes().map(u64::from).sum::<u64>() % 70) as f64 / 10.0;
    let parts = TrialName::parse(name).expect("a name");
    let cell = (
        parts.case.as_str(),
        parts.nic.as_str(),
        parts.guest.as_str(),
        parts.qemu(),
    );
    let mut past = vec!["passed"; 30];
    match cell {
        ("link_status", "e1000e", guest, "default") => {
            let waited = 9.0 + guest.len() as f64 / 10.0;
            log.left(name, "serial.log", "[    5.818822] random: crng reseeded due to virtual machine fork\n\
                [    6.355889] e1000e 0000:00:03.0 eth0: NIC Link is Up 1000 Mbps Full Duplex, Flow Control: Rx/Tx\n");
            log.left(name, "qmp.log", "   0.112 > {\"execute\":\"set_link\",\"arguments\":{\"name\":\"nic0\",\"up\":false}}\n\
                   0.113 < {\"return\":{}}\n");
            log.left(
                name,
                "qemu.sh",
                "exec qemu-system-x86_64 -machine q35 -device e1000e,netdev=net0,id=nic0\n",
            );
            log.left(name, "tap.pcap", "not a real one");
            let message = format!(
                "operstate of eth0 is not \"down\": waited {waited} s for operstate to follow; the guest shows: up\n\
                 ethtool: Link detected: yes\nQEMU: nic0 link=off"
            );
            log.ended(name, seconds + 9.0, failed(&message), |end| {
                end.notes.push("set_link was sent over QMP".into());
            });
            past[28] = "flaky";
            past[29] = "failed";
        }
        ("vlan", "virtio", "rhel6", "default") => {
            let message = "the guest's VLAN filter lost id 10 after the migration".into();
            let reason = "a QEMU before 10 loses the guest's VLAN filter".to_owned();
            let link = Some("https://bugs.example.org/1707646".to_owned());
            let known = Outcome::Known {
                message,
                reason,
                link,
            };
            log.ended(name, seconds, known, |end| {
                end.expectation = Some(expectation(State::Met))
            });
            past = vec!["known"; 30];
        }
        ("vlan", "virtio", "rhel6", _) => {
            log.ended(name, seconds, Outcome::Passed, |end| {
                end.expectation = Some(expectation(State::Fixed))
            });
        }
        ("udp_transfer", "rtl8139", "rhel10", "trixie") => {
            let failures = vec![
                "3 of 4096 blocks did not arrive\nthe socket's counters own up to none".into(),
            ];
            log.ended(name, seconds, Outcome::Flaky { failures }, |end| {
                end.attempts = 2
            });
            past[11] = "flaky";
        }
        ("hotplug_qmp", "rtl8139", "rhel6", "trixie") => {
            let message =
                "cannot create a tap: open /dev/net/tun: No such file or directory".into();
            log.ended(name, seconds, Outcome::Broken { message }, |_| {});
        }
        ("offload_toggle", "rtl8139", ..) => {
            let reason = "rtl8139 has none of the offloads that are toggled".into();
            log.ended(name, 0.0, Outcome::Skipped { reason }, |_| {});
            past = vec!["skipped"; 30];
        }
        ("netperf_host", ..) => {
            let figures = figures(name);
            for (n, figure) in figures.iter().enumerate() {
                // One is far below what it was.
                let lost = parts.nic == "virtio"
                    && parts.backend == "vhost"
                    && n == 1
                    && parts.guest == "rhel9"
                    && parts.qemu.is_none();
                let middle = figure.value * if lost { 1.26 } else { 1.01 };
                let (low, high, nights) = (middle * 0.96, middle * 1.04, 30);
                earlier.bands.insert(
                    figure_key(name, figure),
                    Band {
                        low,
                        middle,
                        high,
                        nights,
                    },
                );
            }
            log.ended(name, seconds, Outcome::Passed, |end| end.figures = figures);
        }
        _ => log.ended(name, seconds, Outcome::Passed, |_| {}),
    }
    let night = |(n, verdict): (u64, &str)| PastNight {
        unix_time: BEGIN as u64 - (30 - n) * 86_400,
        verdict: of_word(verdict),
    };
    let nights = (0..).zip(past).map(night).collect();
    earlier.past.insert(name.to_owned(), Past { nights });
}

fn of_word(word: &str) -> Verdict {
    let mut all = Verdict::ALL.into_iter();
    all.find(|verdict| verdict.word() == word)
        .expect("a verdict")
}

fn expectation(state: State) -> Expectation {
    Expectation {
        state,
        message: "VLAN filter".into(),
        reason: "a QEMU before 10 loses the guest's VLAN filter".into(),
        link: Some("https://bugs.example.org/1707646".into()),
        sometimes: false,
        until: None,
        due: false,
    }
}

fn figures(name: &str) -> Vec<Figure> {
    let speed = match name {
        n if n.contains("vhost") => 3.1,
        n if n.contains("virtio") => 2.0,
        n if n.contains("rtl8139") => 0.3,
        _ => 1.0,
    } * (1.0 + name.len() as f64 / 200.0);
    let figure = |test: &str, size, value: f64, unit: &str| Figure {
        test: test.into(),
        size,
        transaction: None,
        sender: "host".into(),
        receiver: "guest".into(),
        value: value * speed,
        unit: unit.into(),
        seconds: 10.0,
        received_bytes: 1_000_000,
        cpu_seconds: Some(1.5),
        alone: true,
    };
    vec![
        figure("UDP_STREAM", Some(1024), 370.2, "10^6bits/s"),
        figure("TCP_STREAM", None, 509.5, "10^6bits/s"),
        figure("TCP_RR", None, 5856.2, "Trans/s"),
    ]
}
