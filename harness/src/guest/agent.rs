//! Commands in the guest, through the QEMU guest agent over virtio-serial: never through the NIC
//! under test.

use super::ended::{Ended, Lag};
use crate::base::deadline::Missed;
use crate::base::deadline::{self, Limit};
use crate::base::error::{CannotRun, find};
use crate::base::kept::Log;
use crate::base::words::quote;
use crate::vm::cmdline::ENDED_PORT;
use crate::vm::process::AgentPorts;
use crate::vm::wire::Wire;
use anyhow::{Context, bail};
use parking_lot::Mutex;
use qapi::qga;
use report::{errln, text};
use serde_json::json;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// First wait between two questions whether a command has ended; grows to [`POLL_MAX`].
const POLL_MIN: Duration = Duration::from_millis(2);
/// guest-exec has no event for a command's end; a guest without our port is asked.
const POLL_MAX: Duration = Duration::from_millis(10);
/// Between two questions where the guest reports by itself that a command has ended: most ends are
/// reported, that of a killed command is not. Each question takes 2 ms of the guest's processor under TCG,
/// and ten times that inside a lab. It grows to [`POLL_SAID_MAX`].
const POLL_SAID: Duration = Duration::from_millis(200);
const POLL_SAID_MAX: Duration = Duration::from_secs(2);

/// Exit code of a wait that found nothing; no command under test has it.
const NEVER: i64 = 99;

/// The agent of one guest.
pub struct Agent {
    wire: Wire,
    ended: Ended,
    log: Mutex<Log>,
    echo: bool,
    reaped: Lag,
    /// Whether an answer may still come to a question that nobody waits for any more.
    owes: AtomicBool,
}

/// The number of the last `guest-sync`, by which its answer is told from an earlier one's.
static LAST_SYNC: AtomicI64 = AtomicI64::new(0);

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
        transcript: Log,
        log: Log,
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
        transcript: Log,
        log: Log,
        echo: bool,
    ) -> anyhow::Result<Agent> {
        Ok(Agent {
            wire: Wire::new(ports.agent, transcript, false)?,
            ended: Ended::listen(ports.ended)?,
            log: Mutex::new(log),
            echo,
            reaped: Lag::default(),
            owes: AtomicBool::new(false),
        })
    }

    /// Waits for the first answer, also after the guest was reset; to be called once QEMU has done so.
    ///
    /// # Errors
    /// The deadline, or QEMU's end.
    pub fn await_anew(&self) -> anyhow::Result<()> {
        self.greet(deadline::AGENT_UP)
    }

    /// Finds out that the agent answers, that no earlier answer is on its way any more, and whether it echoes
    /// ids: QEMU's does since 3.1, and those before refuse a question that has one.
    fn greet(&self, limit: Limit) -> anyhow::Result<()> {
        let deadline = limit.start();
        let sync = |with_id| {
            let number = LAST_SYNC.fetch_add(1, Ordering::Relaxed) + 1;
            let arguments = json!({ "id": number });
            let is_answer = |_, reply: &serde_json::Value| {
                reply["return"] == json!(number) || with_id && reply.get("error").is_some()
            };
            self.wire
                .exchange("guest-sync", arguments, with_id, deadline, is_answer)
        };
        self.wire.set_ids(false);
        let (id, reply) = sync(true)?;
        let echoes = reply["id"] == json!(id);
        if reply.get("error").is_some() {
            sync(false)?;
        }
        self.wire.set_ids(echoes);
        self.owes.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn call<C: qapi::Command>(&self, command: &C, limit: Limit) -> anyhow::Result<C::Ok> {
        if self.owes.load(Ordering::Relaxed) {
            self.greet(limit)
                .context("after it had not answered in time")?;
        }
        let answer = self.wire.call(command, limit);
        if let Err(error) = &answer {
            let late = find::<Missed>(error).is_some();
            self.owes.store(late, Ordering::Relaxed);
        }
        answer
    }

    /// Requires that it may run commands: releases of RHEL forbid it by default.
    ///
    /// # Errors
    /// [`crate::base::error::CannotRun`] where it may not; the agent's refusal or silence.
    pub fn expect_allowed(&self) -> anyhow::Result<()> {
        let info = self
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
        self.call(&qga::guest_set_time { time }, deadline::AGENT_REPLY)
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
        self.sh_for(command, Duration::ZERO)
    }

    /// As [`Agent::sh`], a command that may take `more`.
    ///
    /// # Errors
    /// As there.
    pub fn sh_for(&self, command: &str, more: Duration) -> anyhow::Result<String> {
        let output = self.run_for(command, more)?;
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
        self.execute(command, command)
    }

    /// As [`Agent::start`], a command that may stop the guest at once: it begins when the agent has answered, which
    /// later it could not.
    pub fn start_last(&self, command: &str) -> anyhow::Result<Running> {
        // The command before may have the port open still, to report its end.
        let when_let_go = format!(
            "port=/dev/virtio-ports/{ENDED_PORT}\n\
             [ ! -e $port ] || until {{ read -r go <$port; }} 2>/dev/null; do sleep 0.01; done\n{command}"
        );
        let running = self.execute(command, &when_let_go)?;
        self.ended.let_go()?;
        Ok(running)
    }

    /// Runs `script`, which is `command` to those who read of it.
    fn execute(&self, command: &str, script: &str) -> anyhow::Result<Running> {
        // Where another command has the port open at that moment, this end is not reported but found
        // by asking.
        let says_its_end = format!(
            "trap '{{ echo $$ >/dev/virtio-ports/{ENDED_PORT}; }} 2>/dev/null' EXIT\n{script}"
        );
        let request = qga::guest_exec {
            path: "/bin/sh".into(),
            arg: Some(vec!["-c".into(), says_its_end]),
            env: None,
            input_data: None,
            capture_output: Some(qga::GuestExecCaptureOutput::flag(true)),
        };
        let reply = self
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
        let reports = self.ended.is_used();
        let (mut pause, longest) = match reports {
            true => (POLL_SAID, POLL_SAID_MAX),
            false => (POLL_MIN, POLL_MAX),
        };
        // When its end was reported, and how often the agent was asked since.
        let mut reported: Option<(Instant, u32)> = None;
        loop {
            match &mut reported {
                None if self.ended.wait(running.pid, pause) => {
                    reported = Some((Instant::now(), 1));
                    pause = POLL_MIN;
                    std::thread::sleep(self.reaped.expected());
                }
                None => pause = (pause * 2).min(longest),
                Some((_, questions)) => {
                    *questions += 1;
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(POLL_MAX);
                }
            }
            let status = self
                .call(
                    &qga::guest_exec_status { pid: running.pid },
                    deadline::AGENT_REPLY,
                )
                .with_context(|| format!("in the guest: `{}`", running.command))?;
            if status.exited {
                match reported {
                    Some((when, questions)) => self.reaped.learn(when.elapsed(), questions),
                    None => self.ended.was_not_reported(),
                }
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

    /// Runs `condition` in the guest every 20 ms, later every 120 ms and 520 ms, until it succeeds.
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
        // What has not come after half a second mostly never does, and each look takes processes of the guest's, by which
        // what is waited for comes later.
        let polled = quote(&format!(
            "looks=0; until {condition}; do looks=$((looks + 1)); sleep 0.$((looks > 50 ? 5 : looks > 15))2; done"
        ));
        let for_up_to = |span: Duration| {
            let seconds = span.as_secs_f64().ceil();
            // Mostly the condition holds at once, and then no process is started for the wait. It may have come to hold
            // after the last look.
            let whole = format!(
                "{{ {condition}; }} || timeout {seconds} sh -c {polled} || {{ {condition}; }} || exit {NEVER}\n{command}"
            );
            self.run_for(&whole, span)
        };
        let mut output = for_up_to(deadline.span())?;
        // The guest's clock counts time for which the host did not let it run.
        while output.code == NEVER
            && let Some(left) = deadline.left()
        {
            output = for_up_to(left)?;
        }
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
            errln!("{}", text::prefixed("guest| ", &text));
        }
        let mut log = self.log.lock();
        // A log that cannot be written (disk full) must not decide a trial.
        let _ = log.write_all(text.as_bytes());
    }
}

/// What a command printed, on either stream, trimmed.
pub fn said(output: &Output) -> String {
    let text = format!("{}\n{}", output.stdout.trim(), output.stderr.trim());
    match text.trim() {
        "" => "(nothing)".into(),
        text => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::deadline::QMP_REPLY;
    use serde_json::{Value, json};
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixStream;

    const SHORT: Limit = Limit {
        what: "a test's answer",
        seconds: 0.1,
    };

    /// An agent that answers each question as `answer` says: what it sends, in order.
    fn agent(mut answer: impl FnMut(&Value) -> Vec<Value> + Send + 'static) -> Agent {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (ended, _guest) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut writer = theirs.try_clone().unwrap();
            for line in BufReader::new(theirs).lines().map_while(Result::ok) {
                for reply in answer(&serde_json::from_str(&line).unwrap()) {
                    if writeln!(writer, "{reply}").is_err() {
                        return;
                    }
                }
            }
        });
        let log = || Log::new(tempfile::tempfile().unwrap());
        let ports = AgentPorts { agent: ours, ended };
        Agent::expected(ports, log(), log(), false).unwrap()
    }

    fn number(question: &Value) -> Value {
        question["arguments"]["id"].clone()
    }

    fn is_sync(question: &Value) -> bool {
        question["execute"] == "guest-sync"
    }

    fn ping(agent: &Agent, limit: Limit) -> anyhow::Result<()> {
        agent.call(&qga::guest_ping {}, limit).map(drop)
    }

    #[test]
    fn an_agent_that_echoes_ids_is_asked_with_them_and_a_late_answer_is_none_to_the_next() {
        let mut pings = 0;
        let agent = agent(move |question| {
            let id = &question["id"];
            assert!(id.is_u64(), "{question}");
            if is_sync(question) {
                return vec![json!({ "return": number(question), "id": id })];
            }
            pings += 1;
            match pings {
                // The first one's comes with the second's, and is an error.
                1 => Vec::new(),
                2 => vec![
                    json!({ "error": { "class": "GenericError", "desc": "late" }, "id": 2 }),
                    json!({ "return": {}, "id": id }),
                ],
                _ => vec![json!({ "return": {}, "id": id })],
            }
        });
        agent.greet(QMP_REPLY).unwrap();
        assert!(find::<Missed>(&ping(&agent, SHORT).unwrap_err()).is_some());
        ping(&agent, QMP_REPLY).unwrap();
        ping(&agent, QMP_REPLY).unwrap();
    }

    #[test]
    fn an_old_agent_is_asked_without_ids_and_a_late_answer_is_none_to_the_next_either() {
        let mut late = None;
        let mut pings = 0;
        let agent = agent(move |question| {
            // As before 3.1.
            if question.get("id").is_some() {
                let desc = "QMP input member 'id' is unexpected";
                return vec![json!({ "error": { "class": "GenericError", "desc": desc } })];
            }
            let mut replies: Vec<Value> = late.take().into_iter().collect();
            if is_sync(question) {
                replies.push(json!({ "return": number(question) }));
                return replies;
            }
            pings += 1;
            if pings == 1 {
                let desc = "an answer to the first";
                late = Some(json!({ "error": { "class": "GenericError", "desc": desc } }));
                return Vec::new();
            }
            replies.push(json!({ "return": {} }));
            replies
        });
        agent.greet(QMP_REPLY).unwrap();
        assert!(find::<Missed>(&ping(&agent, SHORT).unwrap_err()).is_some());
        ping(&agent, QMP_REPLY).unwrap();
        ping(&agent, QMP_REPLY).unwrap();
    }
}
