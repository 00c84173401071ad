//! Commands in the guest, through the QEMU guest agent over virtio-serial: never through the NIC
//! under test.

use super::ended::Ended;
use crate::base::deadline::{self, Limit};
use crate::base::error::CannotRun;
use crate::base::words::quote;
use crate::vm::cmdline::ENDED_PORT;
use crate::vm::process::AgentPorts;
use crate::vm::wire::Wire;
use anyhow::{Context, bail};
use parking_lot::Mutex;
use qapi::qga;
use report::err;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// First wait between two questions whether a command has ended; grows to [`POLL_MAX`].
const POLL_MIN: Duration = Duration::from_millis(2);
/// guest-exec has no event for a command's end; a guest without our port is asked.
const POLL_MAX: Duration = Duration::from_millis(10);
/// Between two questions where the guest reports by itself that a command has ended: most ends are
/// reported, that of a killed command is not. Each question takes 2 ms of the guest's processor under TCG.
const POLL_SAID: Duration = Duration::from_millis(200);

/// Exit code of a wait that found nothing; no command under test has it.
const NEVER: i64 = 99;

/// The agent of one guest.
pub struct Agent {
    wire: Wire,
    ended: Ended,
    log: Mutex<File>,
    echo: bool,
}

/// What a guest command did.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; 128 + n after signal n.
    pub code: i64,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A command that is still running in the guest.
#[derive(Debug)]
pub struct Running {
    pid: i64,
    command: String,
    started: Instant,
}

impl Agent {
    /// Waits for the agent's first answer on its port: virtio-serial keeps the question until the
    /// agent opens its port, so nothing is polled.
    ///
    /// # Errors
    /// The deadline, or QEMU's end.
    pub fn connect(
        ports: AgentPorts,
        transcript: File,
        log: File,
        echo: bool,
    ) -> anyhow::Result<Agent> {
        let agent = Agent::expected(ports, transcript, log, echo)?;
        agent.await_anew()?;
        Ok(agent)
    }

    /// As [`Agent::connect`], of a guest that does not run yet: does not wait for an answer.
    ///
    /// # Errors
    /// When the socket cannot be duplicated, or the reader thread cannot be started.
    pub fn expected(
        ports: AgentPorts,
        transcript: File,
        log: File,
        echo: bool,
    ) -> anyhow::Result<Agent> {
        Ok(Agent {
            wire: Wire::new(ports.agent, transcript, false)?,
            ended: Ended::listen(ports.ended)?,
            log: Mutex::new(log),
            echo,
        })
    }

    /// Waits for the first answer, also after the guest was reset; to be called once QEMU has done so.
    ///
    /// # Errors
    /// The deadline, or QEMU's end.
    pub fn await_anew(&self) -> anyhow::Result<()> {
        greet(&self.wire)
    }

    /// Requires that it may run commands: releases of RHEL forbid it by default.
    ///
    /// # Errors
    /// [`crate::base::error::CannotRun`] where it may not; the agent's refusal or silence.
    pub fn expect_allowed(&self) -> anyhow::Result<()> {
        let info = self
            .wire
            .call(&qga::guest_info {}, deadline::AGENT_REPLY)
            .context("cannot ask the guest agent what it may do")?;
        let allows = |name: &str| {
            let mut commands = info.supported_commands.iter();
            commands.any(|command| command.name == name && command.enabled)
        };
        for name in ["guest-exec", "guest-exec-status"] {
            if !allows(name) {
                bail!(CannotRun(format!(
                    "the image's guest agent (qemu-ga {}) may not do {name}: allow it in \
                     /etc/sysconfig/qemu-ga, or with a qemu-ga that has it",
                    info.version
                )));
            }
        }
        Ok(())
    }

    /// Sets the guest's clock to the host's: a restored guest's stands at its checkpoint.
    pub fn set_clock(&self) -> anyhow::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let time = Some(i64::try_from(now.as_nanos())?);
        self.wire
            .call(&qga::guest_set_time { time }, deadline::AGENT_REPLY)
            .context("cannot set the restored guest's clock")
            .map(drop)
    }

    /// Runs a shell command to its end, whatever its exit code.
    ///
    /// # Errors
    /// The agent's refusal or silence; the command's deadline.
    pub fn run(&self, command: &str) -> anyhow::Result<Output> {
        self.run_for(command, Duration::ZERO)
    }

    /// As [`Agent::run`], for a command that takes `more` by its nature.
    pub fn run_for(&self, command: &str, more: Duration) -> anyhow::Result<Output> {
        let running = self.start(command)?;
        self.finish(running, more)
    }

    /// Runs a shell command that must succeed; gives its standard output.
    ///
    /// # Errors
    /// As [`Agent::run`]; a failing exit code, with what the command said.
    pub fn sh(&self, command: &str) -> anyhow::Result<String> {
        let output = self.run(command)?;
        if output.code != 0 {
            bail!(
                "in the guest, `{command}` ended with {}: {}",
                output.code,
                said(&output)
            );
        }
        Ok(output.stdout)
    }

    /// Starts a shell command and leaves it running.
    pub fn start(&self, command: &str) -> anyhow::Result<Running> {
        // Where another command has the port open at that moment, this end is not reported but found
        // by asking.
        let says_its_end = format!(
            "trap '{{ echo $$ >/dev/virtio-ports/{ENDED_PORT}; }} 2>/dev/null' EXIT\n{command}"
        );
        let request = qga::guest_exec {
            path: "/bin/sh".into(),
            arg: Some(vec!["-c".into(), says_its_end]),
            env: None,
            input_data: None,
            capture_output: Some(qga::GuestExecCaptureOutput::flag(true)),
        };
        let reply = self
            .wire
            .call(&request, deadline::AGENT_REPLY)
            .with_context(|| format!("in the guest: `{command}`"))?;
        Ok(Running {
            pid: reply.pid,
            command: command.into(),
            started: Instant::now(),
        })
    }

    /// Waits for a started command, for [`deadline::GUEST_COMMAND`] and `more`.
    ///
    /// # Errors
    /// The agent's refusal or silence; the deadline.
    pub fn finish(&self, running: Running, more: Duration) -> anyhow::Result<Output> {
        let deadline = deadline::GUEST_COMMAND.start_with(more);
        let mut pause = match self.ended.is_used() {
            true => POLL_SAID,
            false => POLL_MIN,
        };
        loop {
            if self.ended.wait(running.pid, pause) {
                pause = POLL_MIN;
            } else if !self.ended.is_used() {
                pause = (pause * 2).min(POLL_MAX);
            }
            let status = self
                .wire
                .call(
                    &qga::guest_exec_status { pid: running.pid },
                    deadline::AGENT_REPLY,
                )
                .with_context(|| format!("in the guest: `{}`", running.command))?;
            if status.exited {
                let text = |data: Option<Vec<u8>>| {
                    String::from_utf8_lossy(&data.unwrap_or_default()).into_owned()
                };
                let signal = status.signal.map(|number| 128 + number);
                let output = Output {
                    code: status.exitcode.or(signal).unwrap_or(-1),
                    stdout: text(status.out_data),
                    stderr: text(status.err_data),
                };
                self.record(&running, &output);
                return Ok(output);
            }
            if deadline.left().is_none() {
                return Err(deadline.missed(format!("`{}` was still running", running.command)));
            }
        }
    }

    /// Runs `condition` in the guest every 10 ms until it succeeds.
    ///
    /// # Errors
    /// After `limit`: a sentence with what `look` printed then.
    pub fn until(&self, condition: &str, limit: Limit, look: &str) -> anyhow::Result<()> {
        self.once(condition, limit, look, ":").map(drop)
    }

    /// As [`Agent::until`], and then runs `command`, in one request; gives its standard output.
    ///
    /// # Errors
    /// As [`Agent::until`] and [`Agent::sh`].
    pub fn once(
        &self,
        condition: &str,
        limit: Limit,
        look: &str,
        command: &str,
    ) -> anyhow::Result<String> {
        let deadline = limit.start();
        let seconds = deadline.span().as_secs_f64().ceil();
        let polled = quote(&format!("until {condition}; do sleep 0.01; done"));
        // Mostly the condition holds at once, and then no process is started for the wait.
        let whole = format!(
            "{{ {condition}; }} || timeout {seconds} sh -c {polled} || exit {NEVER}\n{command}"
        );
        let output = self.run_for(&whole, deadline.span())?;
        match output.code {
            0 => Ok(output.stdout),
            NEVER => {
                let seen = self
                    .run(look)
                    .map_or_else(|error| format!("{error:#}"), |o| said(&o));
                Err(deadline.missed(format!("the guest shows: {seen}")))
            }
            code => bail!(
                "in the guest, `{command}` ended with {code}: {}",
                said(&output)
            ),
        }
    }

    fn record(&self, running: &Running, output: &Output) {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "$ {}\n[{} after {:.3} s]",
            running.command,
            output.code,
            running.started.elapsed().as_secs_f64()
        );
        for part in [&output.stdout, &output.stderr] {
            if !part.is_empty() {
                let _ = writeln!(text, "{}", part.trim_end());
            }
        }
        if self.echo {
            err!("guest{text}");
        }
        let mut log = self.log.lock();
        // A log that cannot be written (disk full) must not decide a trial.
        let _ = log.write_all(text.as_bytes());
    }
}

fn greet(wire: &Wire) -> anyhow::Result<()> {
    let id = i64::from(std::process::id());
    let answer = wire.call(&qga::guest_sync { id }, deadline::AGENT_UP)?;
    if answer != id {
        bail!("the guest agent answered sync {id} with {answer}");
    }
    Ok(())
}

/// What a command printed, on either stream, trimmed.
pub fn said(output: &Output) -> String {
    let text = format!("{}\n{}", output.stdout.trim(), output.stderr.trim());
    match text.trim() {
        "" => "(nothing)".into(),
        text => text.into(),
    }
}
