//! A VM: a QEMU that is started paused, spoken to over inherited sockets, and ended with the thread
//! that started it.

use super::checkpoint::{Checkpoint, Mode};
use super::cmdline::{self, VmSpec};
use super::qemu::{Death, Process, Qemu, transcript};
use super::serial::Serial;
use super::wire::{Closed, EventMark, Wire, WireEvent};
use crate::base::deadline::{self, Limit};
use crate::base::error::{CannotRun, OrCannotRun, find};
use crate::base::thread;
use anyhow::{Context, anyhow, bail};
use parking_lot::{Mutex, MutexGuard};
use serde_json::json;
use std::fmt;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the guest's console printed, in a trial's directory.
pub const SERIAL_LOG: &str = "serial.log";

/// What QEMU calls the file that a guest's state is written to.
const STATE: &str = "state";

/// A running QEMU.
pub struct Vm {
    /// What it was started with.
    pub spec: VmSpec,
    /// Its QMP monitor.
    pub qmp: Wire,
    /// The guest's console.
    pub serial: Serial,
    /// When it was started.
    pub started: Instant,
    agent: Option<AgentPorts>,
    incoming: Option<UnixStream>,
    handle: Handle,
}

/// Our ends of the guest agent's virtio-serial ports.
pub struct AgentPorts {
    /// Speaks its protocol.
    pub agent: UnixStream,
    /// On which the guest says that a command has ended ([`cmdline::ENDED_PORT`]).
    pub ended: UnixStream,
}

/// Kills a VM from another thread: the trial's watchdog.
#[derive(Clone)]
pub struct Handle(Arc<Mutex<Process>>);

impl Handle {
    /// Kills QEMU; a thread that waits for it sees the end of its sockets.
    pub fn kill(&self) {
        self.0.lock().kill();
    }
}

/// The human monitor did not take a command.
#[derive(Debug, thiserror::Error)]
#[error("{} was refused over HMP: {complaint}; the command was `{line}`", line.split(' ').next().unwrap_or(line))]
pub struct RefusedInMonitor {
    line: String,
    complaint: String,
}

/// In the chain of an error: QEMU ended by itself before its guest ran, which another command line may avoid.
#[derive(Debug)]
pub struct EndedAtStart;

impl fmt::Display for EndedAtStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody else ended it")
    }
}

impl std::error::Error for EndedAtStart {}

impl Vm {
    /// Starts QEMU paused (`-S`) and takes its greeting. Its stderr, QMP transcript and serial log
    /// go to `directory`; `echo` shows the console on stderr too.
    ///
    /// # Errors
    /// [`CannotRun`] when it cannot be started, or ends before its greeting for a reason that is not the NIC; a
    /// plain error with exit status and stderr when it is the NIC, or QEMU crashes.
    pub fn start(qemu: &Qemu, spec: VmSpec, directory: &Path, echo: bool) -> anyhow::Result<Vm> {
        let mut command = qemu.command(spec.arguments());
        command.transcripts_in(directory);
        let qmp = command.socket(cmdline::QMP_FD)?;
        let console = command.socket(cmdline::SERIAL_FD)?;
        let agent = command.socket(cmdline::AGENT_FD)?;
        let ended = command.socket(cmdline::ENDED_FD)?;
        let incoming = command.socket(cmdline::INCOMING_FD)?;
        let process = command.start()?;
        let create = |name: &str| transcript(directory, name);
        let vm = Vm {
            qmp: Wire::new(qmp, create("qmp.log")?, true)?,
            serial: Serial::record(
                console,
                (agent.try_clone()).or_cannot_run(|| "duplicate a socket".into())?,
                create(SERIAL_LOG)?,
                echo,
            )?,
            spec,
            started: process.started(),
            agent: Some(AgentPorts { agent, ended }),
            incoming: Some(incoming),
            handle: Handle(Arc::new(Mutex::new(process))),
        };
        let greeted = vm
            .qmp
            .greeting(deadline::QMP_GREETING.start())
            .and_then(|_| {
                let negotiate = qapi::qmp::qmp_capabilities { enable: None };
                vm.qmp.call(&negotiate, deadline::QMP_REPLY)
            });
        match greeted {
            Ok(_) => Ok(vm),
            Err(error) => Err(match vm.death_behind(&error) {
                Some(death) => {
                    let outside = (death.outside.as_ref())
                        .map_or_else(String::new, |who| format!(", from outside: {who},"));
                    let message = format!(
                        "QEMU ended with {}{outside} before its monitor answered; {}",
                        death.status,
                        death.said()
                    );
                    match (vm.is_hosts(&death), death.outside) {
                        (false, _) => anyhow!(message),
                        (true, Some(_)) => CannotRun(message).into(),
                        (true, None) => anyhow!(EndedAtStart).context(CannotRun(message)),
                    }
                }
                // A host that is stuck.
                None => error.context(CannotRun("QEMU's monitor did not come up".into())),
            }),
        }
    }

    /// Whether a QEMU that ended before its guest ran did so for a reason that is neither the NIC nor a crash of
    /// its own.
    pub fn is_hosts(&self, death: &Death) -> bool {
        let devices = self.spec.nics.iter().map(|nic| nic.device.as_str());
        death.outside.is_some() || !death.is_crash() && !blames(&death.stderr, devices)
    }

    /// Hands over the saved state of a checkpoint, before `cont`: QEMU runs the guest when it has the
    /// whole state, and ends where it cannot restore it.
    ///
    /// # Errors
    /// QEMU's refusal; a checkpoint that cannot be read.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> anyhow::Result<()> {
        let mut stream = self
            .incoming
            .take()
            .context("the VM was already restored")?;
        let path = checkpoint.state();
        let mut state = File::open(&path).or_cannot_run(|| format!("open {}", path.display()))?;
        if checkpoint.mode == Mode::Mapped {
            self.ignore_shared()?;
        }
        // A boot announces nothing, so this announces as little as can be: without any, QEMU's
        // virtio-net is ended by SIGSEGV when its driver resets it (seen on 7.2).
        let announce = json!({ "announce-rounds": 1, "announce-initial": 0 });
        self.call_raw("migrate-set-parameters", announce)?;
        let uri = format!("fd:{}", cmdline::INCOMING_FD);
        self.call_raw("migrate-incoming", json!({ "uri": uri }))?;
        // A QEMU that stops reading ends, and says why on its stderr.
        thread::start("restore", move || std::io::copy(&mut state, &mut stream)).map(drop)
    }

    /// Writes the running guest's state to `file` and ends QEMU.
    ///
    /// # Errors
    /// QEMU's refusal, or its failure to migrate.
    pub fn save(&self, mode: Mode, file: &Path) -> anyhow::Result<()> {
        if mode == Mode::Mapped {
            self.ignore_shared()?;
        }
        self.call_raw(
            "migrate-set-capabilities",
            json!({ "capabilities": [
            { "capability": "events", "state": true }
        ] }),
        )?;
        // The guest runs on until QEMU stops it: one that was stopped before is restored stopped.
        let mark = self.qmp.mark();
        let cannot = || format!("write {}", file.display());
        let mut state = File::create(file).or_cannot_run(cannot)?;
        // QEMU has no way to the file, and from 11 on takes none that is open.
        let (mut stream, for_qemu) = std::io::pipe().or_cannot_run(cannot)?;
        self.qmp.pass(for_qemu.as_fd())?;
        self.call_raw("getfd", json!({ "fdname": STATE }))?;
        drop(for_qemu);
        let written = thread::start("save", move || std::io::copy(&mut stream, &mut state))?;
        self.call_raw("migrate", json!({ "uri": format!("fd:{STATE}") }))?;
        let ended = self
            .qmp
            .event(mark, deadline::SAVED.start(), |event| {
                let status = event.data["status"].as_str()?;
                ["completed", "failed"]
                    .contains(&status)
                    .then(|| status.to_owned())
            })
            .map_err(|error| self.explain(error))?;
        if ended != "completed" {
            let why = self.call_raw("query-migrate", json!({}))?;
            bail!("QEMU could not save the guest: {why}");
        }
        self.call(&qapi::qmp::quit {})?;
        if self.await_death().is_none() {
            bail!("QEMU did not end after it had saved the guest");
        }
        // With QEMU its end of the pipe has gone.
        let copied = written.join().map_err(|_| anyhow!("the thread panicked"));
        copied
            .or_cannot_run(cannot)?
            .or_cannot_run(cannot)
            .map(drop)?;
        Ok(())
    }

    /// Leaves memory that is in a file out of the stream.
    fn ignore_shared(&self) -> anyhow::Result<()> {
        let capabilities = json!({ "capabilities": [
            { "capability": "x-ignore-shared", "state": true }
        ] });
        self.call_raw("migrate-set-capabilities", capabilities)
            .map(drop)
    }

    /// The agent's sockets; None from the second call on.
    pub fn take_agent(&mut self) -> Option<AgentPorts> {
        self.agent.take()
    }

    /// A handle by which the watchdog can kill this VM.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// A typed QMP command; when QEMU is gone, the error says how it ended.
    pub fn call<C: qapi::Command>(&self, command: &C) -> anyhow::Result<C::Ok> {
        let reply = self.qmp.call(command, deadline::QMP_REPLY);
        reply.map_err(|error| self.explain(error))
    }

    /// A QMP command by name, for arguments that qapi's schema lacks.
    pub fn call_raw(
        &self,
        name: &str,
        arguments: serde_json::Value,
    ) -> anyhow::Result<serde_json::Value> {
        let reply = self.qmp.call_raw(name, arguments, deadline::QMP_REPLY);
        reply.map_err(|error| self.explain(error))
    }

    /// A line typed into the human monitor, with what it printed.
    ///
    /// # Errors
    /// As [`Wire::call`]; a monitor's complaint is in the printed text.
    pub fn hmp(&self, line: &str) -> anyhow::Result<String> {
        self.call(&qapi::qmp::human_monitor_command {
            command_line: line.to_owned(),
            cpu_index: None,
        })
        .with_context(|| format!("HMP: {line}"))
    }

    /// Types a command into the human monitor, which says nothing when all went well.
    ///
    /// # Errors
    /// [`RefusedInMonitor`], when it complains.
    pub fn type_in(&self, line: &str) -> anyhow::Result<()> {
        let said = self.hmp(line)?;
        match said.trim() {
            "" => Ok(()),
            complaint => Err(RefusedInMonitor {
                line: line.to_owned(),
                complaint: complaint.to_owned(),
            }
            .into()),
        }
    }

    /// Adds QEMU's end to an error, where it ended and the error does not say so yet.
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let Some(death) = self.death_behind(&error) else {
            return error;
        };
        let words = death.to_string();
        match (format!("{error:#}").contains(&words), death.outside) {
            (true, _) => error,
            (false, None) => error.context(words),
            // That says nothing of the NIC.
            (false, Some(_)) => error.context(CannotRun(words)),
        }
    }

    /// Waits for an event of QEMU's, since `mark`.
    ///
    /// # Errors
    /// After `limit`, with the events that came instead; QEMU's end, with what it said.
    pub fn await_event(
        &self,
        mark: EventMark,
        limit: Limit,
        is: impl Fn(&WireEvent) -> bool,
    ) -> anyhow::Result<()> {
        let told = (self.qmp).event(mark, limit.start(), |event| is(event).then_some(()));
        told.map_err(|error| self.explain(error))
    }

    /// How QEMU ended, or `None` while it lives. All that its console printed is recorded then.
    pub fn death(&self) -> Option<Death> {
        self.death_where(!self.qmp.is_open())
    }

    /// As [`Vm::death`], for an error that one of QEMU's sockets gave: QEMU closes them one by one.
    pub fn death_behind(&self, error: &anyhow::Error) -> Option<Death> {
        let closed = find::<Closed>(error).is_some();
        self.death_where(closed || !self.qmp.is_open())
    }

    /// As [`Vm::death`], of a QEMU that is seen to end.
    pub fn await_death(&self) -> Option<Death> {
        self.death_where(true)
    }

    fn death_where(&self, dying: bool) -> Option<Death> {
        // The sockets close a moment before the process can be reaped.
        let limit = deadline::QEMU_EXIT.start();
        loop {
            // The lock is not held between two looks: the watchdog may want to kill QEMU.
            let death = self.process().death();
            if let Some(mut death) = death {
                self.serial.await_end(limit);
                death.asked = self.qmp.unanswered();
                return Some(death);
            }
            if !dying || limit.left().is_none() {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// QEMU's process.
    pub fn pid(&self) -> u32 {
        self.process().pid()
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.handle.0.lock()
    }
}

/// Whether QEMU's words are about one of these NIC models: a line names it, which is not about the backend.
fn blames<'a>(stderr: &str, devices: impl Iterator<Item = &'a str> + Clone) -> bool {
    stderr
        .lines()
        .filter(|line| !line.contains("-netdev") && !line.contains("vhost"))
        .any(|line| devices.clone().any(|device| line.contains(device)))
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.process().end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::cmdline::tests::{nic, spec};
    use crate::vm::cmdline::{Boot, Firmware};
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    /// A stand-in for a QEMU, which goes on as `script` says once its monitor is up.
    fn stand_in(directory: &Path, script: &str) -> Vm {
        let script = format!(
            r#"ask() {{ read -r asked <&3; }}
            echo '{{"QMP": {{}}}}' >&3
            ask; echo '{{"return": {{}}, "id": 1}}' >&3
            {script}"#
        );
        started(directory, &script, spec(Vec::new())).unwrap()
    }

    /// A stand-in for a QEMU, which does what `script` says.
    fn started(directory: &Path, script: &str, spec: VmSpec) -> anyhow::Result<Vm> {
        let program = directory.join("qemu");
        // Written by another process: a program that is open for writing here cannot be started.
        let written = Command::new("sh")
            .args([
                "-c",
                r##"printf '#!/bin/sh\n%s\n' "$1" >"$2""##,
                "sh",
                script,
            ])
            .arg(&program)
            .status();
        assert!(written.unwrap().success());
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Vm::start(&Qemu::at(program), spec, directory, false)
    }

    #[test]
    fn words_about_the_nic_are_told_from_words_about_the_host() {
        let blamed = |words| blames(words, ["e1000", "virtio-net-pci"].into_iter());
        for nic in [
            "qemu: -device e1000,id=nic0,bogus=1: Property 'e1000.bogus' not found",
            "x\nqemu: error while loading state for instance 0x0 of device '0000:00:02.0/e1000'",
        ] {
            assert!(blamed(nic), "{nic}");
        }
        for host in [
            "",
            "qemu: cannot set up guest memory 'pc.ram': Cannot allocate memory",
            "qemu: -netdev tap,id=nic0,ifname=e1000: could not open /dev/net/tun: Too many open files",
            "qemu: vhost-net requested for e1000 but could not be initialized",
        ] {
            assert!(!blamed(host), "{host}");
        }
    }

    #[test]
    fn a_qemu_that_ends_at_its_start_is_no_fault_of_the_nic_unless_it_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let cannot_run = |script: &str| {
            let started = started(directory.path(), script, spec(vec![nic("e1000")]));
            let error = started.err().expect("it ended");
            (find::<CannotRun>(&error).is_some(), format!("{error:#}"))
        };
        let (host, words) = cannot_run("echo 'qemu: cannot set up guest memory' >&2; exit 1");
        assert!(
            host && words.contains("before its monitor answered"),
            "{words}"
        );
        let (host, words) = cannot_run("echo 'qemu: -device e1000: no' >&2; exit 1");
        assert!(!host, "{words}");
        let (host, words) = cannot_run("kill -ABRT $$");
        assert!(!host, "{words}");
        let (host, words) = cannot_run("kill -KILL $$");
        assert!(host && words.contains("from outside: "), "{words}");
        let (host, words) = cannot_run("echo 'qemu: terminating on signal 15 from pid 7 (sh)' >&2");
        let signal = "from outside: by signal 15 from pid 7 (sh)";
        assert!(host && words.contains(signal), "{words}");
    }

    #[test]
    fn a_qemu_that_is_killed_from_outside_is_no_fault_of_the_nic_and_one_that_we_kill_is_not_excused()
     {
        let directory = tempfile::tempdir().unwrap();
        let vm = stand_in(directory.path(), "ask; kill -KILL $$");
        let killed = vm.call_raw("query-status", json!({})).unwrap_err();
        assert!(find::<CannotRun>(&killed).is_some(), "{killed:#}");
        let words = format!("{killed:#}");
        assert!(words.contains("(SIGKILL), from outside: "), "{words}");
        assert!(words.contains("memory"), "{words}");

        let vm = stand_in(directory.path(), "ask; read -r never <&3");
        vm.handle().kill();
        let killed = vm.call_raw("query-status", json!({})).unwrap_err();
        assert!(find::<CannotRun>(&killed).is_none(), "{killed:#}");
    }

    #[test]
    fn the_command_that_a_qemu_died_of_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let abort = "ask; echo 'Assertion failed' >&2; kill -ABRT $$";
        let vm = stand_in(directory.path(), abort);
        let died = vm.call_raw("x-query-virtio-status", json!({})).unwrap_err();
        let ended = "QEMU ended with signal: 6 (SIGABRT)";
        let asked = "while it was asked `x-query-virtio-status`; stderr: Assertion failed";
        let died = format!("{died:#}");
        assert!(died.starts_with(ended) && died.contains(asked), "{died}");

        let vm = stand_in(directory.path(), "ask; exit 1");
        let died = format!("{:#}", vm.hmp("info virtio").unwrap_err());
        let asked = "QEMU ended with exit status: 1 while it was asked `info virtio`; nothing";
        assert!(died.contains(asked), "{died}");
    }

    #[test]
    fn a_real_qemu_that_is_killed_in_a_command_is_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let qemu = Qemu::at("qemu-system-x86_64".into());
        let mut spec = spec(Vec::new());
        spec.boot = Boot::Network(Firmware::Bios);
        let vm = Vm::start(&qemu, spec, directory.path(), false).unwrap();
        // Stopped, it takes the command and cannot answer it.
        kill(Pid::from_raw(vm.pid() as i32), Signal::SIGSTOP).unwrap();
        let (handle, log) = (vm.handle(), directory.path().join("qmp.log"));
        let killer = std::thread::spawn(move || {
            let asked = || std::fs::read_to_string(&log).unwrap().contains("info pci");
            while !asked() {
                std::thread::sleep(Duration::from_millis(1));
            }
            handle.kill();
        });
        let died = format!("{:#}", vm.hmp("info pci").unwrap_err());
        let asked = "QEMU ended with signal: 9 (SIGKILL) while it was asked `info pci`";
        assert!(died.contains(asked), "{died}");
        killer.join().unwrap();
    }

    #[test]
    fn a_qemu_that_had_answered_died_of_no_command() {
        let directory = tempfile::tempdir().unwrap();
        let answer = r#"ask; echo '{"return": {}, "id": 2}' >&3; exit 1"#;
        let vm = stand_in(directory.path(), answer);
        vm.call_raw("device_del", json!({})).unwrap();
        let death = vm.await_death().unwrap();
        assert_eq!(
            death.to_string(),
            "QEMU ended with exit status: 1; nothing on stderr"
        );
    }
}
