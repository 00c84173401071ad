//! Checkpoints on real VMs: guests restored from one are not alike, a killed run leaves nothing that
//! is used later, and of a QEMU that cannot do it a line says so.

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::base::artifacts::Artifacts;
use harness::net::userns;
use harness::plan::PlannedTrial;
use harness::run::context::Context;
use harness::run::planned::planned;
use harness::settings::Settings;
use harness::vm::start_state::StartState;
use libtest_mimic::{Arguments, Trial};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

const WARM: &str = "ping_flood::virtio::rhel9::tap";
/// From exec to a guest that is being saved, on a loaded host too.
const SAVING: Duration = Duration::from_secs(120);
/// By how much a guest's clock may differ from the host's, which runs on while it is asked.
const CLOCK: f64 = 5.0;

type Test = fn() -> Result<()>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    // First of all: the kernel allows it while there is one thread.
    let entered = userns::enter_if_needed().map_err(|e| format!("{e:#}"));
    let tests: [(&str, Test); 4] = [
        (
            "two_restored_guests_are_not_alike",
            two_restored_guests_are_not_alike,
        ),
        (
            "a_kill_while_saving_leaves_nothing_to_be_used",
            a_kill_while_saving_leaves_nothing_to_be_used,
        ),
        (
            "without_a_memory_file_it_is_streamed",
            without_a_memory_file_it_is_streamed,
        ),
        (
            "a_qemu_that_restores_nothing_boots_and_says_so",
            a_qemu_that_restores_nothing_boots_and_says_so,
        ),
    ];
    let trials = tests.map(|(name, test)| {
        let entered = entered.clone();
        Trial::test(name, move || {
            entered?;
            let result = std::thread::spawn(test).join();
            result
                .map_err(|_| "it panicked")?
                .map_err(|e| format!("{e:#}").into())
        })
    });
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

/// What a guest says of itself.
#[derive(Debug)]
struct Guest {
    start_state: StartState,
    random: String,
    clock: f64,
    host_clock: f64,
    mac: String,
}

fn look(trial: &PlannedTrial, context: &Arc<Context>, directory: &Path) -> Result<Guest> {
    let artifacts = Artifacts::new(directory, &trial.name)?;
    let mut bed = context.testbed(trial, artifacts, |_| ())?;
    let link = bed.up()?;
    let text = bed.agent.sh("cat /proc/sys/kernel/random/uuid; date +%s")?;
    let (random, clock) = text.trim().split_once('\n').context("two lines")?;
    Ok(Guest {
        start_state: bed.start_state,
        random: random.to_owned(),
        clock: clock.parse()?,
        host_clock: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64(),
        mac: link.mac.to_string(),
    })
}

fn two_restored_guests_are_not_alike() -> Result<()> {
    let settings = Settings::from_env()?;
    let planned = planned(&settings)?;
    let trial = planned.trial(WARM)?.clone();
    let context = Context::prepare(settings, planned, std::slice::from_ref(&trial))?;
    let context = Arc::new(context);
    let directory = tempfile::tempdir()?;
    let guests: Vec<Result<Guest>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|number: u8| {
                let (trial, context) = (&trial, &context);
                let directory = directory.path().join(number.to_string());
                scope.spawn(move || {
                    fs::create_dir(&directory)?;
                    look(trial, context, &directory)
                })
            })
            .collect();
        let ends = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        ends.map(|end| end.unwrap_or_else(|_| Err(anyhow!("it panicked"))))
            .collect()
    });
    let guests = guests.into_iter().collect::<Result<Vec<_>>>()?;
    let stock = &context.ready(&trial.cell.qemu)?.stock;
    let mac = trial.vm_spec(&stock.kit(&trial.cell.guest)?).nics[0]
        .mac
        .to_string();
    for guest in &guests {
        ensure!(
            guest.start_state == StartState::WarmNic,
            "it was not restored: {guest:?}"
        );
        let off = (guest.clock - guest.host_clock).abs();
        ensure!(off < CLOCK, "its clock is {off} s off: {guest:?}");
        ensure!(guest.mac == mac, "QEMU was given {mac}: {guest:?}");
    }
    ensure!(
        guests[0].random != guests[1].random,
        "they are alike: {guests:?}"
    );
    Ok(())
}

/// A `NICMATRIX_DIR` of its own, with the images and proofs of all and no checkpoints.
struct Own {
    directory: TempDir,
}

impl Own {
    fn new() -> Result<Own> {
        let built = nicmatrix(&["image"], None).output()?;
        ensure!(built.status.success(), "{}", said(&built));
        let shared = Settings::from_env()?.dir;
        fs::create_dir_all(shared.join("host"))?;
        let own = Own {
            directory: tempfile::tempdir()?,
        };
        for name in ["images", "host"] {
            symlink(shared.join(name), own.directory.path().join(name))?;
        }
        Ok(own)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        nicmatrix(arguments, Some(self.directory.path()))
    }

    fn output(&self, arguments: &[&str], qemu: Option<&Path>) -> Result<String> {
        let mut command = self.command(arguments);
        command.envs(qemu.map(|path| ("NICMATRIX_QEMU", path)));
        let output = command.output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", said(&output));
        Ok(said(&output))
    }

    /// Whether a guest's memory is being written.
    fn is_saving(&self) -> bool {
        let entries = fs::read_dir(self.directory.path().join("checkpoints"));
        entries.into_iter().flatten().flatten().any(|entry| {
            let half_made = entry.file_name().to_string_lossy().starts_with(".build-");
            half_made && entry.path().join("ram").exists()
        })
    }

    /// A script that is the QEMU under test but for the arguments that contain `refused`.
    fn qemu_without(&self, refused: &[&str]) -> Result<PathBuf> {
        let real = Settings::from_env()?.qemu;
        let path = self.directory.path().join("qemu");
        let pattern = refused.join("*|*");
        let text = format!(
            "#!/bin/sh\ncase \"$*\" in *{pattern}*) echo refused here >&2; exit 1;; esac\nexec {} \"$@\"\n",
            real.display()
        );
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }
}

fn nicmatrix(arguments: &[&str], dir: Option<&Path>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nicmatrix"));
    command.args(arguments).stdin(Stdio::null());
    // This process may be one of nextest's; what it starts is not.
    command.env_remove("NEXTEST").env_remove("NEXTEST_RUN_ID");
    command.envs(dir.map(|dir| ("NICMATRIX_DIR", dir)));
    command
}

fn said(output: &Output) -> String {
    let text = [&output.stdout, &output.stderr].map(|part| String::from_utf8_lossy(part));
    format!("{}: {}", output.status, text.join("\n"))
}

fn expect(text: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(text.contains(word), "no {word:?} in: {text}");
    }
    Ok(())
}

fn a_kill_while_saving_leaves_nothing_to_be_used() -> Result<()> {
    let own = Own::new()?;
    let arguments = ["restores", WARM, "--times", "1"];
    let mut run = own.command(&arguments).stdout(Stdio::null()).spawn()?;
    let deadline = Instant::now() + SAVING;
    while !own.is_saving() {
        ensure!(run.try_wait()?.is_none(), "it ended before it saved");
        ensure!(Instant::now() < deadline, "nothing was saved in {SAVING:?}");
        // Another process's files have no event that is worth waiting for.
        std::thread::sleep(Duration::from_millis(2));
    }
    run.kill()?;
    run.wait()?;
    expect(&own.output(&["cache", "list"], None)?, &["half-made"])?;
    expect(&own.output(&arguments, None)?, &["warm NIC"])?;
    let listed = own.output(&["cache", "list"], None)?;
    expect(&listed, &["rhel9 with virtio-net-pci up", "1 checkpoint"])?;
    expect(
        &own.output(&["cache", "clear"], None)?,
        &["removed 1 checkpoint"],
    )
}

fn without_a_memory_file_it_is_streamed() -> Result<()> {
    let own = Own::new()?;
    let qemu = own.qemu_without(&["memory-backend-file"])?;
    let text = own.output(&["restores", WARM, "--times", "1"], Some(&qemu))?;
    expect(&text, &["warm NIC"])?;
    let files = fs::read_dir(own.directory.path().join("checkpoints"))?.flatten();
    let manifests =
        files.filter_map(|file| fs::read_to_string(file.path().join("manifest.json")).ok());
    expect(&manifests.collect::<String>(), &["\"streamed\""])
}

fn a_qemu_that_restores_nothing_boots_and_says_so() -> Result<()> {
    let own = Own::new()?;
    let qemu = own.qemu_without(&["-incoming"])?;
    let text = own.output(&["run", "--exact", WARM], Some(&qemu))?;
    expect(
        &text,
        &[
            "1 passed",
            "there is no checkpoint of rhel9",
            "refused here",
        ],
    )?;
    let events = fs::read_to_string(own.directory.path().join("runs/latest/events.jsonl"))?;
    expect(
        &events,
        &[
            "\"start\":\"boot\"",
            "no checkpoint of rhel9",
            "refused here",
        ],
    )?;
    let listed = own.output(&["cache", "list"], None)?;
    expect(&listed, &["none of rhel9 with virtio-net-pci up"])
}
