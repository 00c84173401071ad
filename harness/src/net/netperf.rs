//! netperf: what the plan measures, its command lines, its answers, and its server on the host.

use crate::base::child;
use crate::base::collected::{Collected, Waited};
use crate::base::cpu;
use crate::base::deadline::{self, Limit};
use crate::base::error::{CannotRun, OrCannotRun as _};
use crate::base::rights;
use anyhow::{Context as _, Result, bail, ensure};
use caps::Capability;
use report::events::Figure;
use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

/// The plan's message sizes of its sweep, bytes (the last is the plan's own).
pub const SIZES: [u32; 10] = [32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16834];

/// How many times as long the plan's longer tests take as the others (60 s and 10 s).
const LONG: u32 = 6;

/// How many times a profile's `netperf_seconds` the longest case takes: a sweep both ways and the
/// plan's loop, each test with a second or two of its own.
pub const LONGEST: f64 = 60.0;

/// The size that is tried where tests are not timed. A UDP_STREAM into a guest takes 4 s beyond its
/// time: netserver waits so long for the last datagram, which was lost.
const ONE_SIZE: [u32; 1] = [1024];

/// Bytes after which a TCP stream that is not timed ends.
const STREAM: u64 = 1 << 20;
/// Transactions after which a test that is not timed ends.
const TRANSACTIONS: u64 = 100;
/// Seconds of a UDP stream where tests are not timed: netperf would wait for ever for bytes that were
/// lost.
const SHORTEST: u32 = 1;

/// What is read of what netperf prints, bytes: it is asked for four figures.
const PRINTED: usize = 64 << 10;

/// Where netserver listens.
const PORT: u16 = 12865;

/// From exec to listening: some 5 ms, and this long only on a machine that is stuck.
const STARTED: Limit = Limit {
    what: "netserver to listen",
    seconds: 10.0,
};

/// One of netperf's tests, as the plan calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// netperf's `-t`.
    pub name: &'static str,
    /// Bytes of a message of a stream; netperf's own choice without.
    pub size: Option<u32>,
    /// Bytes of request and response; 1 and 1 without.
    pub transaction: Option<(u32, u32)>,
    /// Whether the plan gives it 60 seconds, not 10.
    pub long: bool,
}

const PLAIN: Test = Test {
    name: "TCP_STREAM",
    size: None,
    transaction: None,
    long: false,
};

/// Plan item 21: UDP_STREAM with each size; with one of them where tests are not timed (`each`, see
/// [`Test::seconds`]).
pub fn sweep(each: Option<u32>) -> Vec<Test> {
    let sizes: &[u32] = if each.is_some() { &SIZES } else { &ONE_SIZE };
    let test = |size: &u32| Test {
        name: "UDP_STREAM",
        size: Some(*size),
        ..PLAIN
    };
    sizes.iter().map(test).collect()
}

/// Plan item 21: its script's loop, once; without the UDP_STREAMs, which are in the sweep, where tests
/// are not timed.
pub fn once_through_the_loop(each: Option<u32>) -> Vec<Test> {
    let mut tests = LOOP.to_vec();
    tests.retain(|test| each.is_some() || test.name != "UDP_STREAM");
    tests
}

const LOOP: [Test; 8] = [
    Test {
        long: true,
        ..PLAIN
    },
    Test {
        size: Some(2048),
        long: true,
        ..PLAIN
    },
    Test {
        name: "UDP_STREAM",
        long: true,
        ..PLAIN
    },
    Test {
        name: "UDP_STREAM",
        size: Some(1024),
        ..PLAIN
    },
    Test {
        name: "TCP_RR",
        ..PLAIN
    },
    Test {
        name: "TCP_RR",
        transaction: Some((32, 1024)),
        ..PLAIN
    },
    Test {
        name: "TCP_CRR",
        ..PLAIN
    },
    Test {
        name: "UDP_RR",
        ..PLAIN
    },
];

impl Test {
    /// Whether it counts transactions, and not bytes.
    fn is_transactions(&self) -> bool {
        self.name.ends_with("RR")
    }

    /// How long it takes where tests are timed, seconds.
    pub fn seconds(&self, each: Option<u32>) -> Option<u32> {
        each.map(|each| if self.long { each * LONG } else { each })
    }

    /// netperf's arguments, towards a netserver at `to`: the plan's, with an answer that can be read.
    /// `each`: see [`Test::seconds`]; without it, the test ends after a fixed amount of traffic.
    pub fn arguments(&self, to: Ipv4Addr, each: Option<u32>) -> Vec<String> {
        let length = match self.seconds(each) {
            Some(seconds) => seconds.to_string(),
            None if self.is_transactions() => format!("-{TRANSACTIONS}"),
            None if self.name == "UDP_STREAM" => SHORTEST.to_string(),
            None => format!("-{STREAM}"),
        };
        let mut words: Vec<String> = ["-t", self.name, "-P", "0", "-4", "-H"]
            .map(str::to_owned)
            .to_vec();
        words.extend([to.to_string(), "-l".into(), length]);
        if !self.is_transactions() {
            // Megabits a second. netperf would turn transactions into bits as well.
            words.extend(["-f".into(), "m".into()]);
        }
        words.push("--".into());
        if let Some(size) = self.size {
            words.extend(["-m".into(), size.to_string()]);
        }
        if let Some((request, response)) = self.transaction {
            words.extend(["-r".into(), format!("{request},{response}")]);
        }
        words.extend(["-k".into(), KEYS.join(",")]);
        words
    }

    /// What netperf printed, as a figure; `alone` as in [`Figure`].
    ///
    /// # Errors
    /// When it lacks a figure, or shows that nothing was measured.
    pub fn figure(
        &self,
        printed: &str,
        sender: &str,
        receiver: &str,
        alone: bool,
    ) -> Result<Figure> {
        let found: BTreeMap<&str, &str> = printed
            .lines()
            .filter_map(|line| line.trim().split_once('='))
            .collect();
        let text = |key: &str| {
            found
                .get(key)
                .copied()
                .with_context(|| format!("netperf did not print {key}: {}", printed.trim()))
        };
        let number = |key: &str| -> Result<f64> {
            let value = text(key)?;
            value
                .parse()
                .with_context(|| format!("netperf printed {key}={value}"))
        };
        let figure = Figure {
            test: self.name.to_owned(),
            size: self.size,
            transaction: self.transaction,
            sender: sender.to_owned(),
            receiver: receiver.to_owned(),
            value: number("THROUGHPUT")?,
            unit: text("THROUGHPUT_UNITS")?.to_owned(),
            seconds: number("ELAPSED_TIME")?,
            received_bytes: number("REMOTE_BYTES_RECVD")? as u64,
            cpu_seconds: None,
            alone,
        };
        ensure!(
            figure.seconds >= 0.0 && figure.value.is_finite() && figure.value >= 0.0,
            "netperf measured {figure}"
        );
        Ok(figure)
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if let Some(size) = self.size {
            write!(f, " -m {size}")?;
        }
        if let Some((request, response)) = self.transaction {
            write!(f, " -r {request},{response}")?;
        }
        Ok(())
    }
}

/// What is asked of netperf (`-k`).
const KEYS: [&str; 4] = [
    "THROUGHPUT",
    "THROUGHPUT_UNITS",
    "ELAPSED_TIME",
    "REMOTE_BYTES_RECVD",
];

/// netserver in the calling thread's network, until it is dropped.
pub struct Server(Child);

impl Server {
    /// Starts the one in `programs`, and waits until it listens.
    ///
    /// # Errors
    /// When it does not start to listen.
    pub fn start(programs: &Path) -> Result<Server> {
        Server::try_start(programs).or_cannot_run(|| "start netserver".into())
    }

    fn try_start(programs: &Path) -> Result<Server> {
        let mut command = child::pdeath_command(programs.join("netserver"));
        command
            .args(["-D", "-4"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // It may be in a directory that is its user's alone.
        rights::as_nobody(&mut command, &[Capability::CAP_DAC_READ_SEARCH]);
        let spawned = command.spawn();
        let mut server = Server(spawned.map_err(|e| child::spawn_error(&command, "netperf", e))?);
        let limit = STARTED.start();
        while !listens()? {
            if let Some(status) = cpu::try_wait(&mut server.0)? {
                bail!("netserver ended at once: {status}");
            }
            if limit.left().is_none() {
                return Err(limit.missed("nobody listens on its port"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(server)
    }

    /// What was measured against it. Where that failed and it has ended, nothing is said of the NIC.
    ///
    /// # Errors
    /// Those of `measured`.
    pub fn answers_for<T>(&mut self, measured: Result<T>) -> Result<T> {
        let ended = cpu::try_wait(&mut self.0).ok().flatten();
        match ended {
            Some(status) => measured.with_context(|| {
                CannotRun(format!("the host's netserver ended meanwhile ({status})"))
            }),
            None => measured,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it has ended and been waited for.
        let _ = self.0.kill();
        let _ = cpu::wait(&mut self.0);
    }
}

/// Runs the netperf in `programs` in the calling thread's network, to its end.
///
/// # Errors
/// When netperf fails, with what it said; when it takes longer than [`deadline::NETPERF`] and `more`.
pub fn run(programs: &Path, arguments: &[String], more: Duration) -> Result<String> {
    let (printed, writer) = Collected::pipe(PRINTED, None)?;
    let mut command = child::pdeath_command(programs.join("netperf"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let limit = deadline::NETPERF.start_with(more);
    let mut client = command
        .spawn()
        .map_err(|e| child::spawn_error(&command, "netperf", e))?;
    let line = child::command_line(&command);
    drop(command); // it holds the writing end, and we wait for its end
    let waited = printed.wait_end(limit);
    if matches!(waited, Waited::Elapsed) {
        client.kill()?;
        cpu::wait(&mut client)?;
        return Err(limit.missed(format!("`{line}` printed: {}", printed.text().trim())));
    }
    let status = cpu::wait(&mut client)?;
    if let Some(signal) = status.signal() {
        bail!(CannotRun(format!("`{line}` was killed by signal {signal}")));
    }
    let text = printed.whole().with_context(|| format!("`{line}`"))?;
    ensure!(
        status.success(),
        "`{line}` ended with {status}: {}",
        text.trim()
    );
    Ok(text)
}

/// Whether anyone in the calling thread's network listens on netserver's port.
fn listens() -> Result<bool> {
    let file = "/proc/thread-self/net/tcp";
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    Ok(text.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ours = |address: &&str| address.ends_with(&format!(":{PORT:04X}"));
        // 0A is TCP_LISTEN.
        words.get(1).is_some_and(ours) && words.get(3) == Some(&"0A")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::find;
    use std::process::Command;

    #[test]
    fn the_plans_command_lines() {
        let to = Ipv4Addr::new(198, 18, 0, 2);
        let lines = |each| -> String {
            sweep(each)
                .into_iter()
                .take(1)
                .chain(once_through_the_loop(each))
                .map(|test| test.arguments(to, each).join(" ") + "\n")
                .collect::<String>()
                .replace(&KEYS.join(","), "KEYS")
        };
        insta::assert_snapshot!(lines(Some(10)), @r"
        -t UDP_STREAM -P 0 -4 -H 198.18.0.2 -l 10 -f m -- -m 32 -k KEYS
        -t TCP_STREAM -P 0 -4 -H 198.18.0.2 -l 60 -f m -- -k KEYS
        -t TCP_STREAM -P 0 -4 -H 198.18.0.2 -l 60 -f m -- -m 2048 -k KEYS
        -t UDP_STREAM -P 0 -4 -H 198.18.0.2 -l 60 -f m -- -k KEYS
        -t UDP_STREAM -P 0 -4 -H 198.18.0.2 -l 10 -f m -- -m 1024 -k KEYS
        -t TCP_RR -P 0 -4 -H 198.18.0.2 -l 10 -- -k KEYS
        -t TCP_RR -P 0 -4 -H 198.18.0.2 -l 10 -- -r 32,1024 -k KEYS
        -t TCP_CRR -P 0 -4 -H 198.18.0.2 -l 10 -- -k KEYS
        -t UDP_RR -P 0 -4 -H 198.18.0.2 -l 10 -- -k KEYS
        ");
        insta::assert_snapshot!(lines(None), @r"
        -t UDP_STREAM -P 0 -4 -H 198.18.0.2 -l 1 -f m -- -m 1024 -k KEYS
        -t TCP_STREAM -P 0 -4 -H 198.18.0.2 -l -1048576 -f m -- -k KEYS
        -t TCP_STREAM -P 0 -4 -H 198.18.0.2 -l -1048576 -f m -- -m 2048 -k KEYS
        -t TCP_RR -P 0 -4 -H 198.18.0.2 -l -100 -- -k KEYS
        -t TCP_RR -P 0 -4 -H 198.18.0.2 -l -100 -- -r 32,1024 -k KEYS
        -t TCP_CRR -P 0 -4 -H 198.18.0.2 -l -100 -- -k KEYS
        -t UDP_RR -P 0 -4 -H 198.18.0.2 -l -100 -- -k KEYS
        ");
    }

    #[test]
    fn a_netserver_that_ends_says_nothing_of_the_nic_and_one_that_runs_excuses_nothing() {
        let server = |program: &str| Server(Command::new(program).arg("60").spawn().unwrap());
        let failed = || Err::<(), _>(anyhow::anyhow!("`netperf` ended with exit status: 1"));
        let is_hosts = |error: anyhow::Error| find::<CannotRun>(&error).is_some();
        let mut running = server("sleep");
        assert!(!is_hosts(running.answers_for(failed()).unwrap_err()));
        running.answers_for(Ok(())).unwrap();
        let mut ended = server("true");
        while cpu::try_wait(&mut ended.0).unwrap().is_none() {
            std::thread::yield_now();
        }
        let error = ended.answers_for(failed()).unwrap_err();
        let words = "the host's netserver ended meanwhile (exit status: 0): `netperf` ended";
        assert!(format!("{error:#}").starts_with(words), "{error:#}");
        assert!(is_hosts(error));
        ended.answers_for(Ok(())).unwrap();
    }

    #[test]
    fn an_answer_is_a_figure_with_its_unit() {
        let printed = "THROUGHPUT=728.71\nTHROUGHPUT_UNITS=10^6bits/s\nELAPSED_TIME=1.00\nREMOTE_BYTES_RECVD=91000000\n";
        let test = sweep(Some(10))[5];
        let figure = test.figure(printed, "host", "guest", true).unwrap();
        assert_eq!(
            figure.to_string(),
            "UDP_STREAM, 1024 bytes, host to guest: 728.71 10^6bits/s in 1.00 s"
        );
        assert_eq!(figure.received_bytes, 91_000_000);
        let error = test
            .figure("THROUGHPUT=1\n", "host", "guest", true)
            .unwrap_err();
        assert!(error.to_string().contains("THROUGHPUT_UNITS"), "{error}");
        let error = test.figure(&printed.replace("728.71", "-nan"), "a", "b", true);
        assert!(error.is_err());
    }
}
