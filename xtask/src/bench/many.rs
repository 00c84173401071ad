//! What many trials cost before and behind their VMs: planned, listed, and run where no NIC is that they ask for.

use super::{Bench, Figure};
use anyhow::{Context as _, Result, bail, ensure};
use report::Results;
use report::flags::QemuChoice;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

/// Enough for a median of something that takes milliseconds.
const LISTINGS: usize = 20;
/// The trials of the large matrix.
const MANY_TRIALS: usize = 10_000;
/// Of the processor time of as many trials as in smoke, what planning and reporting them may take.
const PART: f64 = 0.01;
/// A NIC that no QEMU has: its trials are planned, skipped and reported.
const NO_DEVICE: &str = "no-such-nic";

/// The default QEMU under two further names: as much to plan as three, wherever this runs.
fn the_same_thrice() -> [QemuChoice; 2] {
    ["second", "third"].map(|name| QemuChoice::Added(name.into(), "qemu-system-x86_64".into()))
}

impl Bench<'_> {
    /// Times lists of the default matrix and of a large one, and a run of the latter without a VM; `smoke` says what a
    /// trial with one takes.
    pub fn many(&self, smoke: &Results) -> Result<Vec<Figure>> {
        let default = self.matrix_file();
        let (times, count) = self.listings(&default)?;
        let mut figures = vec![Figure::of("--list, default matrix", "ms", times)?.at_most(100.0)];
        let text = std::fs::read_to_string(&default)
            .with_context(|| format!("cannot read {}", default.display()))?;
        let large = self.written(&many_of(&text, count)?)?;
        let (times, count) = self.listings(&large)?;
        ensure!(
            count >= MANY_TRIALS,
            "expected {MANY_TRIALS} trials of the large matrix, found {count}"
        );
        figures.push(Figure::of("--list, 10,000 trials", "ms", times)?.at_most(100.0));
        let (times, count) = self.on(&the_same_thrice()).listings(&large)?;
        ensure!(
            count >= 3 * MANY_TRIALS,
            "expected three times {MANY_TRIALS} trials on three QEMUs, found {count}"
        );
        let thrice = Figure::of("--list, 10,000 trials on three QEMUs", "ms", times)?;
        figures.push(thrice.at_most(100.0));
        figures.extend(self.without_vms(&without_devices(&text)?, smoke)?);
        Ok(figures)
    }

    /// Runs the trials of a matrix whose NICs no QEMU has.
    fn without_vms(&self, matrix: &str, smoke: &Results) -> Result<Vec<Figure>> {
        // Fewer than of those that QEMU has: some cases are virtio's alone.
        let (_, count) = self.listings(&self.written(matrix)?)?;
        let mut flags = self.flags.clone();
        flags.conditions.matrix = Some(self.written(&many_of(matrix, count)?)?);
        let run = self.matrix(&[], &flags)?;
        let count = run.trials.len();
        ensure!(
            count >= MANY_TRIALS && run.trials.iter().all(|trial| trial.is_skipped()),
            "expected {MANY_TRIALS} trials of a NIC that no QEMU has, each skipped, found {count}"
        );
        let time = "the run does not say its processor time";
        let spent = run.cpu_seconds.context(time)?;
        let ran = smoke.trials.iter().filter(|trial| !trial.is_skipped());
        let of_one = smoke.cpu_seconds.context(time)? / ran.count() as f64;
        let memory = run.harness_peak_kib.context("the run has no end")?;
        let memory = Figure::of(
            "  of it, memory of the harness",
            "MiB",
            vec![memory as f64 / 1024.0],
        );
        Ok(vec![
            Figure::of("10,000 trials without a VM, CPU", "s", vec![spent])?
                .at_most(PART * of_one * count as f64),
            memory?.at_most(150.0),
        ])
    }

    /// Times `--list`, in milliseconds, and counts what it lists.
    fn listings(&self, matrix: &Path) -> Result<(Vec<f64>, usize)> {
        let mut times = Vec::new();
        let mut count = 0;
        for _ in 0..LISTINGS {
            let mut flags = self.flags.clone();
            flags.conditions.matrix = Some(matrix.to_owned());
            let mut command = self.command(&self.harness.matrix, &flags)?;
            command.arg("--list").stderr(Stdio::inherit());
            let begun = Instant::now();
            let output = command.output().context("cannot list the trials")?;
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
            if !output.status.success() {
                bail!("listing {} ended with {}", matrix.display(), output.status);
            }
            let listed = String::from_utf8_lossy(&output.stdout);
            count = listed
                .lines()
                .filter(|line| line.ends_with(": test"))
                .count();
        }
        Ok((times, count))
    }

    fn written(&self, matrix: &str) -> Result<PathBuf> {
        let path = self.workspace.harness_dir().join("bench-matrix.toml");
        std::fs::write(&path, matrix)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// `matrix`, which makes `count` trials, with enough guests for [`MANY_TRIALS`].
fn many_of(matrix: &str, count: usize) -> Result<String> {
    multiply_guests(matrix, MANY_TRIALS.div_ceil(count.max(1)))
}

/// The matrix with every guest `times` times, the copies named after it.
fn multiply_guests(matrix: &str, times: usize) -> Result<String> {
    let mut matrix: toml::Table = matrix.parse()?;
    let guests = matrix
        .get_mut("guests")
        .and_then(|g| g.as_table_mut())
        .context("no [guests]")?;
    let mut names = Vec::new();
    for (name, guest) in guests.clone() {
        names.push(name.clone().into());
        for copy in 1..times {
            let name = format!("{name}x{copy}");
            guests.insert(name.clone(), guest.clone());
            names.push(name.into());
        }
    }
    let axes = matrix
        .get_mut("axes")
        .and_then(|a| a.as_table_mut())
        .context("no [axes]")?;
    axes.insert("guest".into(), toml::Value::Array(names));
    Ok(matrix.to_string())
}

/// The matrix with NICs that no QEMU has, of which nothing is expected or excluded: that would match no trial.
fn without_devices(matrix: &str) -> Result<String> {
    let mut matrix: toml::Table = matrix.parse()?;
    let nics = matrix.get_mut("nics").and_then(|nics| nics.as_table_mut());
    for (_, nic) in nics.context("no [nics]")? {
        let nic = nic.as_table_mut().context("a NIC is no table")?;
        nic.insert("device".into(), NO_DEVICE.into());
    }
    matrix.remove("expect");
    matrix.remove("exclude");
    Ok(matrix.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_multiplied_and_the_rest_is_kept() {
        let matrix = "[axes]\nguest = [\"a\", \"b\"]\nnic = [\"n\"]\n\
                      [guests.a]\nmemory = 1\n[guests.b]\nmemory = 2\n";
        let large: toml::Table = multiply_guests(matrix, 3).unwrap().parse().unwrap();
        let expected: toml::Table = "guest = [\"a\", \"ax1\", \"ax2\", \"b\", \"bx1\", \"bx2\"]\n\
                                     nic = [\"n\"]\n"
            .parse()
            .unwrap();
        assert_eq!(large["axes"], toml::Value::Table(expected));
        assert_eq!(large["guests"]["bx2"]["memory"].as_integer(), Some(2));
    }

    #[test]
    fn no_nic_is_left_that_a_qemu_has() {
        let matrix = "[nics.n]\ndevice = \"e1000\"\nmtu = 1\n[[expect]]\nnic = \"n\"\n[[exclude]]\nnic = \"n\"\n";
        let without: toml::Table = without_devices(matrix).unwrap().parse().unwrap();
        let expected = "[nics.n]\ndevice = \"no-such-nic\"\nmtu = 1\n";
        assert_eq!(without, expected.parse().unwrap());
    }
}
