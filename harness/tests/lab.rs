//! What a lab leaves behind, what its end means to its trials, and hosts that can have none.

mod own;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use own::{ENDS, Own, Process, Started, Traces};
use own::{changed_matrix, expect_words, refused, root};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::Duration;

const TRIAL: &str = "ping_flood::virtio::rhel9::vhost";
/// From exec to a guest in a lab that takes commands: some 20 s under TCG, on a loaded host more.
const GUEST_RUNS: Duration = Duration::from_secs(400);
/// A lab's first trial takes half a minute under TCG, on a loaded host more.
const TRIALS_END: Duration = Duration::from_secs(900);

/// A matrix whose trials with vhost are those of `cases` on one guest.
fn matrix_with(own: &Own, cases: &str) -> String {
    let text = fs::read_to_string(root().join("matrix.toml")).expect("the shipped matrix");
    let begin = text.find("with_vhost = [").expect("of smoke");
    let end = text[begin..].find("\n]").expect("one a line") + "\n]".len();
    let list = &text[begin..begin + end];
    let vhost = format!("with_vhost = [{cases}]");
    changed_matrix(own.directory.path(), list, &vhost)
}

/// Starts the trials with vhost, one after the other, and waits until one is under way in its lab.
fn under_way(own: &Own, matrix: &str) -> Started {
    let arguments = ["::vhost", "--skip", "::vhost_zcopy", "--test-threads", "1"];
    let mut started = own.start(&arguments, Some(matrix));
    own.await_vm(&mut started, GUEST_RUNS);
    started
}

/// The lab's QEMU.
fn lab(own: &Own) -> Process {
    let is_lab = |process: &Process| process.line().contains("-name nicmatrix-lab ");
    let found = own.processes().into_iter().find(is_lab);
    found.expect("a lab runs")
}

/// What the QEMU of a lab exports: the system's programs and what the run is made of, of which one run's directory may
/// be written to.
fn expect_shown(own: &Own) {
    let secret = own.directory.path().join("secret");
    fs::write(&secret, "a secret").expect("written");
    let Process(path) = lab(own);
    let line = Process(path.clone()).line();
    let shares = line.split(' ').filter(|word| word.starts_with("local,id="));
    let writable: Vec<&str> = shares
        .filter(|share| !share.ends_with(",readonly=on"))
        .collect();
    let [artifacts] = writable[..] else {
        panic!("one share may be written to: {writable:?}");
    };
    let of_runs = format!("path={}/runs/", own.dir);
    assert!(artifacts.contains(&of_runs), "{artifacts} is no run's");
    let tree = path.join(format!("root{}/lab-root", own.dir));
    let names = |directory: &Path| -> Vec<String> {
        let entries = fs::read_dir(directory).expect("in the tree").flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.collect()
    };
    assert!(tree.join("usr/bin").is_dir(), "{:?}", names(&tree));
    // A directory that is there twice is in the one place now and in the other then, to the lab's kernel.
    let merged = Path::new("/bin").is_symlink();
    assert_eq!(tree.join("bin").is_symlink(), merged);
    assert!(
        tree.join("etc/passwd").is_file(),
        "{:?}",
        names(&tree.join("etc"))
    );
    for lacks in [
        "etc/shadow",
        "etc/ssh",
        "home",
        "boot",
        "root/.cargo",
        "proc/1",
        "var/lib",
    ] {
        assert!(!tree.join(lacks).exists(), "a lab is shown /{lacks}");
    }
    let its = secret.strip_prefix("/").expect("an absolute path");
    assert!(
        !tree.join(its).exists(),
        "a lab is shown {}",
        secret.display()
    );
    let runs = format!("{}/runs", own.dir);
    let runs = names(&tree.join(runs.trim_start_matches('/')));
    assert_eq!(runs.len(), 1, "a lab is shown the runs {runs:?}");
}

#[test]
fn a_lab_is_shown_what_its_trials_read_and_a_kill_in_mid_trial_leaves_nothing() {
    let own = Own::with_own_checkpoints();
    let matrix = matrix_with(&own, "\"ping_flood\"");
    let before = Traces::before();
    let mut started = under_way(&own, &matrix);
    expect_shown(&own);
    own.expect_own_files();
    started.signal(Signal::SIGKILL);
    assert_eq!(started.ended_within(ENDS).signal(), Some(9));
    own.expect_gone(&before);
}

#[test]
fn a_lab_that_is_killed_breaks_its_trial_with_its_console_and_the_next_has_another() {
    let own = Own::new();
    let matrix = matrix_with(&own, "\"ping_flood\", \"driver_info\"");
    let mut started = under_way(&own, &matrix);
    let Process(path) = lab(&own);
    let name = path.file_name().expect("/proc/PID").to_string_lossy();
    let pid = name.parse().expect("a number");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("sent");
    let status = started.ended_within(TRIALS_END);
    let said = own.said();
    assert_eq!(status.code(), Some(3), "{said}");
    let facts = [
        "the lab ended under the trial: its QEMU ended",
        "(SIGKILL), from outside: ",
        "its console ends with",
        "nicmatrix: lab userspace",
        "1 passed, 0 failed, 1 broken",
    ];
    expect_words(&said, &facts);
}

#[test]
fn a_kernel_without_vhost_net_is_a_skip_that_names_it() {
    let own = Own::new();
    let matrix = matrix_with(&own, "\"ping_flood\"");
    without_vhost_net(&own);
    let mut started = own.run(TRIAL, Some(&matrix));
    let status = started.ended_within(TRIALS_END);
    let said = own.said();
    assert_eq!(status.code(), Some(0), "{said}");
    expect_words(
        &said,
        &["has no vhost_net", "0 passed, 0 failed, 1 skipped"],
    );
}

/// Gives the run images of its own, with a lab's initramfs in which the module has another name.
fn without_vhost_net(own: &Own) {
    let images = Path::new(&own.dir).join("images");
    let shared = fs::canonicalize(&images).expect("a link");
    fs::remove_file(&images).expect("removed");
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .arg(&shared)
        .arg(&images)
        .status();
    assert!(copied.expect("cp").success());
    let hash = own.kernel.parent().and_then(Path::file_name).expect("HASH");
    let initrd = images.join(hash).join("lab-initrd");
    let mut bytes = fs::read(&initrd).expect("read");
    let (name, other) = (b"vhost_net.ko\0", b"vhost_nxt.ko\0");
    let places = bytes.windows(name.len()).enumerate();
    let found = places
        .filter(|(_, window)| window == name)
        .map(|(place, _)| place);
    let found: Vec<usize> = found.collect();
    assert!(!found.is_empty(), "the lab's initramfs has no vhost_net.ko");
    for place in found {
        bytes[place..place + name.len()].copy_from_slice(other);
    }
    // As the image's builder would have written it down.
    let digest = format!("{:x}", Sha256::digest(&bytes));
    fs::write(&initrd, bytes).expect("written");
    let manifest = images.join(hash).join("manifest.json");
    let text = fs::read_to_string(&manifest).expect("read");
    let mut told: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let files = told["files"].as_array_mut().expect("files");
    let lab = files.iter_mut().find(|file| file["name"] == "lab-initrd");
    lab.expect("a lab's initramfs")["sha256"] = digest.into();
    fs::write(&manifest, told.to_string()).expect("written");
}

#[test]
fn a_lab_larger_than_the_machine_is_a_skip() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = changed_matrix(directory.path(), "memory = 3072 # MiB", "memory = 1048576");
    let own = directory.path().to_string_lossy();
    let variables = [
        ("NICMATRIX_MATRIX", &*path),
        ("NICMATRIX_DIR", &own),
        ("NICMATRIX_HOST", "lab"),
    ];
    let reason = ["there can be no lab", "1048576 MiB", "1 skipped"];
    refused(
        &["--exact", "ping_flood::virtio::rhel9::tap"],
        &variables,
        0,
        &reason,
    );
}
