//! The host's ping (iputils), at a guest.

use super::ping_report::PingReport;
use crate::base::child;
use crate::base::collected::{Collected, Waited};
use crate::base::cpu;
use crate::base::deadline::{Limit, Until};
use crate::base::error::{CannotRun, OrCannotRun as _};
use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::IpAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Beyond the pace of its requests: ping waits up to 10 s for replies after its last one (`-W`), and then hangs.
const LINGERS: Limit = Limit {
    what: "ping to end",
    seconds: 15.0,
};

/// What is read of what ping prints, bytes: some 70 of them a reply, and no profile asks for more than some
/// thousand of one ping.
const PRINTED: usize = 16 << 20;

/// From SIGINT to the statistics: ping prints them at once.
const INTERRUPTED: Limit = Limit {
    what: "ping to end after SIGINT",
    seconds: 5.0,
};

/// A ping to be run.
#[derive(Debug, Clone)]
pub struct Ping {
    target: IpAddr,
    count: Option<u32>,
    interval: Option<f64>,
    size: Option<u32>,
    flood: bool,
    dont_fragment: bool,
    lasts: Option<Duration>,
}

impl Ping {
    /// `ping TARGET`: one request a second, without end.
    pub fn new(target: impl Into<IpAddr>) -> Ping {
        Ping {
            target: target.into(),
            count: None,
            interval: None,
            size: None,
            flood: false,
            dont_fragment: false,
            lasts: None,
        }
    }

    /// Whom it asks.
    pub fn target(&self) -> IpAddr {
        self.target
    }

    /// `-c`: so many requests.
    pub fn count(mut self, count: u32) -> Ping {
        self.count = Some(count);
        self
    }

    /// `-i`: seconds between two requests.
    pub fn interval(mut self, seconds: f64) -> Ping {
        self.interval = Some(seconds);
        self
    }

    /// `-s`: payload, bytes.
    pub fn size(mut self, bytes: u32) -> Ping {
        self.size = Some(bytes);
        self
    }

    /// `-f`: as fast as replies come, but at least 100 requests a second.
    pub fn flood(mut self) -> Ping {
        self.flood = true;
        self
    }

    /// `-M do`: a request that is larger than the MTU is refused, not fragmented.
    pub fn dont_fragment(mut self) -> Ping {
        self.dont_fragment = true;
        self
    }

    /// Interrupts ping after this time, so that it still reports (its own `-w` would change how
    /// many requests it sends). By default: what its count takes, and 15 s.
    pub fn lasts(mut self, span: Duration) -> Ping {
        self.lasts = Some(span);
        self
    }

    /// Runs it to its end, in the calling thread's network. What went wrong on the wire is in the
    /// report; an error means that ping itself did not work.
    pub fn run(&self) -> Result<PingReport> {
        self.spawn()?.finish()
    }

    /// Starts it in the background.
    pub fn spawn(&self) -> Result<RunningPing> {
        let (output, writer) = Collected::pipe(PRINTED, None)?;
        let mut command = self.command();
        let line = child::command_line(&command);
        let what = || format!("run `{line}`");
        let errors = writer.try_clone().or_cannot_run(what)?;
        command.stdin(Stdio::null()).stdout(writer).stderr(errors);
        let process = command
            .spawn()
            .map_err(|e| child::spawn_error(&command, "iputils-ping", e))
            .or_cannot_run(what)?;
        drop(command); // it holds the writing ends, and we wait for their end
        Ok(RunningPing {
            command: line,
            process,
            output,
            ends: self.ends(),
        })
    }

    fn command(&self) -> Command {
        let mut command = child::pdeath_command("ping");
        command.arg("-n"); // no names: there is no DNS to ask
        if self.flood {
            command.arg("-f");
        }
        if let Some(count) = self.count {
            command.args(["-c", &count.to_string()]);
        }
        if let Some(interval) = self.interval {
            command.args(["-i", &interval.to_string()]);
        }
        if let Some(size) = self.size {
            command.args(["-s", &size.to_string()]);
        }
        if self.dont_fragment {
            command.args(["-M", "do"]);
        }
        command.arg(self.target.to_string());
        command
    }

    fn ends(&self) -> Until {
        match self.lasts {
            Some(span) => (Instant::now() + span).into(),
            None => LINGERS.start_with(self.pace()).into(),
        }
    }

    /// How long its requests take.
    fn pace(&self) -> Duration {
        let each = match self.flood {
            true => 0.01,
            false => self.interval.unwrap_or(1.0).max(0.01),
        };
        Duration::from_secs_f64(each) * self.count.unwrap_or(0)
    }
}

/// A ping in the background; it is killed when dropped.
pub struct RunningPing {
    command: String,
    process: Child,
    output: Collected,
    ends: Until,
}

impl RunningPing {
    /// Replies so far. A flood prints none.
    pub fn replies(&self) -> usize {
        replies(&self.output.text())
    }

    /// Waits until there are `count` replies more than there are now.
    pub fn wait_replies(&self, count: usize, until: impl Into<Until>) -> Result<()> {
        let (begun, until) = (Instant::now(), until.into());
        let before = self.replies();
        let enough = |text: &str| (replies(text) >= before + count).then_some(());
        let end = match self.output.wait(until, enough) {
            Waited::Found(()) => return Ok(()),
            Waited::Ended => "it ended",
            Waited::Elapsed => "the time was up",
        };
        let output = self.output.text();
        Err(until.excused(anyhow!(
            "`{}` should have had {count} more replies: {} came in {:.1} s, then {end}; it last printed: {}",
            self.command,
            replies(&output) - before,
            begun.elapsed().as_secs_f64(),
            output.trim().lines().last().unwrap_or("nothing"),
        )))
    }

    /// Ends it with SIGINT: its report.
    pub fn interrupt(mut self) -> Result<PingReport> {
        self.interrupt_process();
        self.report()
    }

    /// Waits for its end, and interrupts it when it has lasted long enough.
    pub fn finish(mut self) -> Result<PingReport> {
        if let Waited::Elapsed = self.output.wait_end(self.ends) {
            self.interrupt_process();
        }
        self.report()
    }

    fn interrupt_process(&self) {
        // It has not been waited for, so the id is still its own; if it has ended, so much the better.
        let _ = kill(
            Pid::from_raw(self.process.id().cast_signed()),
            Signal::SIGINT,
        );
    }

    fn report(&mut self) -> Result<PingReport> {
        let limit = INTERRUPTED.start();
        if let Waited::Elapsed = self.output.wait_end(limit) {
            Err(limit.missed("it still runs"))
                .or_cannot_run(|| format!("end `{}`", self.command))?;
        }
        let printed = self.output.whole();
        let printed = printed.with_context(|| format!("`{}`", self.command))?;
        if let Some(signal) = cpu::wait(&mut self.process)?.signal() {
            bail!(CannotRun(format!(
                "`{}` was killed by signal {signal}",
                self.command
            )));
        }
        PingReport::parse(&self.command, &printed)
            .or_cannot_run(|| format!("run `{}`", self.command))
    }
}

impl Drop for RunningPing {
    fn drop(&mut self) {
        // Both fail only when it has ended and been waited for.
        let _ = self.process.kill();
        let _ = cpu::wait(&mut self.process);
    }
}

fn replies(output: &str) -> usize {
    output
        .lines()
        .filter(|line| line.contains(" bytes from ") && line.contains("icmp_seq="))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plans_own_commands() {
        let target = IpAddr::from([198, 18, 0, 2]);
        let line = |ping: Ping| child::command_line(&ping.command());
        let ping = Ping::new(target).count(10);
        assert_eq!(
            line(ping.clone().interval(0.0001).size(65507)),
            "ping -n -c 10 -i 0.0001 -s 65507 198.18.0.2"
        );
        assert_eq!(
            line(ping.clone().flood().dont_fragment()),
            "ping -n -f -c 10 -M do 198.18.0.2"
        );
        assert_eq!(ping.pace(), Duration::from_secs(10));
    }

    #[test]
    fn only_whole_replies_count() {
        assert_eq!(
            replies("64 bytes from 198.18.0.2: icmp_seq=1 ttl=64\n64 bytes from 198.18.0.2: ic"),
            1
        );
        assert_eq!(
            replies("From 198.18.0.1 icmp_seq=1 Destination Host Unreachable\n"),
            0
        );
    }
}
