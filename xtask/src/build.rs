//! Builds the harness and tells where its programs are.

use crate::child::{self, Running};
use anyhow::{Context, Result, bail};
use report::{colour, out};
use serde::Deserialize;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// A build that takes longer shows what it does; one that has nothing to do takes 0.1 s.
const SILENCE: Duration = Duration::from_secs(2);

/// The harness's programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Harness {
    /// The test binary that runs trials.
    pub matrix: PathBuf,
    /// Lists, explains, builds the image, looks at the host.
    pub nicmatrix: PathBuf,
}

/// Builds both, saying nothing unless it takes long or fails.
pub fn harness(root: &Path) -> Result<Harness> {
    let mut command = child::cargo(root);
    // Cargo builds a package's binaries along with its integration tests.
    command
        .args([
            "test",
            "--package",
            "harness",
            "--test",
            "matrix",
            "--no-run",
        ])
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // Its stderr is a pipe, on which it would use no colours.
    if std::env::var_os("CARGO_TERM_COLOR").is_none() {
        let when = match colour::wanted(&io::stderr()) {
            true => "always",
            false => "never",
        };
        command.env("CARGO_TERM_COLOR", when);
    }
    let mut running = Running::start(&mut command)?;
    let mut stdout = running
        .child()
        .stdout
        .take()
        .context("cargo has no stdout")?;
    let stderr = running
        .child()
        .stderr
        .take()
        .context("cargo has no stderr")?;

    let messages = child::thread("messages", move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    })?;
    let talk = child::thread("talk", move || hold_back(stderr))?;
    let status = running.wait()?;
    let held = talk.join().ok().context("lost cargo's words")??;
    let messages = messages.join().ok().context("lost cargo's messages")??;
    if !status.success() {
        held.iter().for_each(|line| show(line));
        bail!(
            "the harness does not build: {} ended with {status}",
            child::describe(&command)
        );
    }
    executables(&messages)
}

/// Passes lines on once [`SILENCE`] is over; returns those held back.
fn hold_back(from: impl Read + Send + 'static) -> Result<Vec<String>> {
    let (sender, lines) = mpsc::channel();
    child::thread("lines", move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    })?;
    let loud_from = Instant::now() + SILENCE;
    let mut held = Vec::new();
    loop {
        match lines.recv_timeout(loud_from.saturating_duration_since(Instant::now())) {
            Ok(line) => held.push(line),
            Err(RecvTimeoutError::Disconnected) => return Ok(held),
            Err(RecvTimeoutError::Timeout) => break,
        }
    }
    held.into_iter().chain(lines).for_each(|line| show(&line));
    Ok(Vec::new())
}

/// Shows a line of cargo's, with its colours.
fn show(line: &str) {
    out::write(io::stderr(), out::no_commands(line).into_owned() + "\n");
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Finds the programs in cargo's messages.
fn executables(messages: &str) -> Result<Harness> {
    let (mut matrix, mut nicmatrix) = (None, None);
    for line in messages.lines() {
        let message: Message = serde_json::from_str(line)
            .with_context(|| format!("cargo's message is not understood: {line}"))?;
        if message.reason != "compiler-artifact" {
            continue;
        }
        if let (Some(target), Some(path)) = (message.target, message.executable) {
            match (
                target.name.as_str(),
                target.kind.first().map(String::as_str),
            ) {
                ("matrix", Some("test")) => matrix = Some(path),
                ("nicmatrix", Some("bin")) => nicmatrix = Some(path),
                _ => {}
            }
        }
    }
    Ok(Harness {
        matrix: matrix.context("cargo built no test binary `matrix` in package harness")?,
        nicmatrix: nicmatrix.context("cargo built no program `nicmatrix` in package harness")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const MESSAGES: &str = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"harness"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"nicmatrix"},"executable":"/t/debug/nicmatrix"}
{"reason":"build-script-executed","package_id":"x"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"matrix"},"executable":"/t/debug/deps/matrix-1"}
{"reason":"build-finished","success":true}"#;

    #[test]
    fn both_programs_are_found() {
        let harness = executables(MESSAGES).unwrap();
        assert_eq!(harness.matrix, Path::new("/t/debug/deps/matrix-1"));
        assert_eq!(harness.nicmatrix, Path::new("/t/debug/nicmatrix"));
    }

    #[test]
    fn a_program_that_was_not_built_is_named() {
        let error = executables(MESSAGES.lines().next().unwrap()).unwrap_err();
        assert!(error.to_string().contains("`matrix`"), "{error}");
    }

    /// Each package with the features that it has in a build of `packages`, for the target.
    fn features(packages: &[&str], tests: &str) -> BTreeMap<String, String> {
        let mut tree = child::cargo(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        tree.args(["tree", "--prefix", "none", "--format", "{p}\t{f}"]);
        tree.args(["--edges", &format!("normal,no-proc-macro{tests}")]);
        tree.args(packages);
        let (status, text) = child::output(tree, false).unwrap();
        assert!(status.success(), "{text}");
        let lines = text.lines().map(|line| line.trim_end_matches(" (*)"));
        let pairs = lines.filter_map(|line| line.split_once('\t'));
        pairs.map(|(p, f)| (p.to_owned(), f.to_owned())).collect()
    }

    #[test]
    fn what_one_command_has_built_the_next_does_not_build_with_other_features() {
        let xtask = features(&["--package", "xtask"], "");
        let harness = features(&["--package", "harness"], ",dev");
        let all = features(&["--workspace"], ",dev");
        assert!(xtask.keys().any(|package| package.starts_with("report ")));
        for later in [&harness, &all] {
            let differs = xtask.iter().chain(&harness).filter(|(package, features)| {
                later
                    .get(*package)
                    .is_some_and(|theirs| theirs != *features)
            });
            assert_eq!(differs.collect::<Vec<_>>(), []);
        }
    }

    #[test]
    fn a_short_build_says_nothing() {
        assert_eq!(hold_back(&b"one\ntwo\n"[..]).unwrap(), ["one", "two"]);
    }
}
