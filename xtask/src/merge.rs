//! `cargo xtask merge`: the runs of a plan's shards, joined into one.

use crate::{BadInput, CANNOT_RUN, Workspace, runs};
use anyhow::{Context, Result, bail};
use report::html::{self, Earlier};
use report::merge::{self, Merged, PLAN, Part};
use report::{errln, history, log, markdown, terminal};
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  cargo xtask merge shard-1 shard-2 shard-3 -o merged
  cargo xtask merge artifacts -o target/nicmatrix/runs/merged    all runs below artifacts/
  cargo xtask report merged --markdown -                         it is a run as any other

Exit codes: those of the joined run; 3 too where a shard is missing: its trials are then named, and
planned but not run in what is written. 2 where the runs are not shards of one plan.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The directories of runs that are shards (`cargo xtask matrix --shard`), or directories that hold
    /// such
    #[arg(required = true, value_name = "DIR")]
    directories: Vec<PathBuf>,
    /// Where the joined run goes: a directory that is not there yet, or is empty
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
}

/// The files of a shard's run that the joined run has of its own.
const OWN_FILES: [&str; 4] = [log::FILE, PLAN, JUNIT, html::FILE];
const JUNIT: &str = "junit.xml";
const SUMMARY: &str = "summary.md";

pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let output = workspace.cwd.join(&args.output);
    if fs::read_dir(&output).is_ok_and(|mut entries| entries.next().is_some()) {
        let shown = args.output.display();
        bail!(BadInput(format!(
            "{shown} is not empty: a joined run wants a directory of its own"
        )));
    }
    let bad_input = |error: anyhow::Error| BadInput(format!("{error:#}"));
    let mut parts = Vec::new();
    for directory in &args.directories {
        for run in runs::below(&workspace.cwd.join(directory))? {
            match Part::read(&run).map_err(bad_input)? {
                Some(part) => parts.push(part),
                None => errln!(
                    "note: {} has an empty {}: its run was killed at once, and its shard counts as missing",
                    workspace.show(&run),
                    log::FILE
                ),
            }
        }
    }
    let shards: Vec<PathBuf> = parts.iter().map(|part| part.directory.clone()).collect();
    let merged = merge::join(parts, &output).map_err(bad_input)?;
    write(&merged, &shards, &output)
        .with_context(|| format!("cannot write the joined run {}", output.display()))?;

    let run = html::Run::new(&merged.lines, output.clone());
    let page = output.join(html::FILE);
    let nights = workspace.harness_dir().join(history::FILE);
    let earlier = Earlier::read(&nights, &merged.lines);
    let paged = earlier.and_then(|earlier| html::write(&run, &earlier, &page));
    let mut results = run.results;
    let step_summary = std::env::var_os("GITHUB_STEP_SUMMARY").map(PathBuf::from);
    let junit = output.join(JUNIT);
    let root = &workspace.root;
    report::write_all(&mut results, Some(&junit), step_summary.as_deref(), root)?;
    fs::write(output.join(SUMMARY), markdown::render(&results))?;
    paged?;
    results.html = Some(page);
    terminal::print(&results);
    let code = results.exit_code();
    Ok(ExitCode::from(match merged.lack() {
        Some(lack) => {
            errln!("error: {lack}");
            // A failed NIC outweighs what was not run.
            if code == 0 { CANNOT_RUN } else { code }
        }
        None => code,
    }))
}

/// Writes the log, and copies what the shards left beside theirs.
fn write(merged: &Merged, shards: &[PathBuf], output: &Path) -> Result<()> {
    fs::create_dir_all(output)?;
    for shard in shards {
        for entry in fs::read_dir(shard)? {
            let entry = entry?;
            let name = entry.file_name();
            let hidden = name.to_string_lossy().starts_with('.');
            if hidden || OWN_FILES.iter().any(|own| name == OsStr::new(own)) {
                continue;
            }
            // Trials have names of their own. What a shard has of itself, as its lab's files, may be in others.
            let mut to = output.join(&name);
            for k in 2.. {
                if !to.exists() {
                    break;
                }
                to = output.join(format!("{}-{k}", name.display()));
            }
            copy(&entry.path(), &to)?;
        }
    }
    // Written last and at once: without it, the directory is no run.
    let mut file = fs::File::create_new(output.join(log::FILE))?;
    let mut text = Vec::new();
    for line in &merged.lines {
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
    }
    Ok(file.write_all(&text)?)
}

/// Copies a file, a link or a directory with all below it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let kind = fs::symlink_metadata(from)?.file_type();
    let copied = if kind.is_symlink() {
        fs::read_link(from).and_then(|target| std::os::unix::fs::symlink(target, to))
    } else if kind.is_dir() {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        Ok(())
    } else if kind.is_file() {
        fs::copy(from, to).map(drop)
    } else {
        // A socket that a killed QEMU left.
        Ok(())
    };
    copied.with_context(|| format!("cannot copy {}", from.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shards_left_is_copied_and_a_name_of_two_is_kept_twice() {
        let directory = tempfile::tempdir().unwrap();
        let shards = ["s1", "s2"].map(|name| directory.path().join(name));
        for (shard, trial) in shards.iter().zip(["driver.e1000", "driver.virtio"]) {
            fs::create_dir_all(shard.join(trial)).unwrap();
            fs::create_dir_all(shard.join("lab")).unwrap();
            fs::write(shard.join(trial).join("serial.log"), trial).unwrap();
            fs::write(shard.join("lab/console"), trial).unwrap();
            fs::write(shard.join(log::FILE), "old").unwrap();
            fs::write(shard.join(".lock"), "").unwrap();
            std::os::unix::fs::symlink("serial.log", shard.join(trial).join("link")).unwrap();
        }
        let merged = Merged {
            lines: Vec::new(),
            lost: Vec::new(),
            of: 2,
            not_run: Vec::new(),
        };
        let output = directory.path().join("out");
        write(&merged, &shards, &output).unwrap();
        let read = |path: &str| fs::read_to_string(output.join(path)).unwrap();
        assert_eq!(read("driver.virtio/link"), "driver.virtio");
        assert_eq!(
            (read("lab/console"), read("lab-2/console")),
            ("driver.e1000".into(), "driver.virtio".into())
        );
        assert_eq!(read(log::FILE), "");
        assert!(!output.join(".lock").exists());
    }
}
