use super::*;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;

/// Stands in for modprobe, and its directory for the kernel: `parameter` is there while the module is
/// loaded. `-r` may be `broken` (a file with its words, once if it is called `broken-once`), and a
/// parameter `stuck`.
const MODPROBE: &str = r#"
cd "${0%/*}" || exit 2
echo "$*" >>calls
case $1 in
-r)
    if [ -e broken ]; then cat broken >&2; exit 1; fi
    if [ -e broken-once ]; then cat broken-once >&2; rm broken-once; exit 1; fi
    rm -f parameter;;
*)
    value=${2#*=}
    if [ -e stuck ]; then value=$(cat stuck); fi
    echo "$value" >parameter;;
esac
"#;

/// For what takes milliseconds, on a machine that is busy with VMs.
const LONG: Duration = Duration::from_secs(60);

/// Names the directory to the process that [`held_by_another_process`] is.
const HELD_IN: &str = "NICMATRIX_TEST_HELD_IN";

fn this_test(name: &str) -> Vec<String> {
    let words = ["/proc/self/exe", "--exact", "--nocapture"];
    let mut words = words.map(str::to_owned).to_vec();
    words.push(format!("host::module::tests::{name}"));
    words
}

fn module(directory: &Path) -> Module {
    Module {
        modprobe: directory.join("modprobe"),
        parameter: directory.join("parameter"),
        lock: directory.join("lock"),
        keeper: this_test("the_keeper"),
    }
}

/// A kernel with that value of the parameter, or without the module.
struct Kernel(tempfile::TempDir);

impl Kernel {
    fn with(value: Option<&str>) -> Kernel {
        let kernel = Kernel(tempfile::tempdir().unwrap());
        if let Some(value) = value {
            kernel.put("parameter", value);
        }
        // Written by a process of its own: a file that this one has open for writing could be inherited
        // by another test's child, and then not be executed.
        let program = kernel.0.path().join("modprobe");
        let status = Command::new("sh")
            .args(["-c", r#"printf '#!/bin/sh\n%s\n' "$1" >"$2""#, "sh"])
            .arg(MODPROBE)
            .arg(&program)
            .status();
        assert!(status.unwrap().success());
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        kernel
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), format!("{text}\n")).unwrap();
    }

    fn module(&self) -> Module {
        module(self.0.path())
    }

    fn reloader(&self) -> Reloader {
        Reloader::new(self.module())
    }

    fn value(&self) -> Option<String> {
        self.module().value()
    }

    /// What modprobe was called with.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.0.path().join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn written_down(&self) -> Option<Found> {
        found(&mut File::open(self.module().lock).unwrap()).unwrap()
    }
}

const LOAD_0: &str = "vhost_net experimental_zcopytx=0";
const LOAD_1: &str = "vhost_net experimental_zcopytx=1";
const UNLOAD: &str = "-r vhost_net";

/// A keeper in a process of its own, to which the module is given as a last argument; else there is nothing
/// to see.
#[test]
fn the_keeper() {
    let module = std::env::args()
        .next_back()
        .filter(|last| last.starts_with('{'));
    if let Some(module) = module {
        keep(&[module]).unwrap();
    }
}

/// Holds 1, says so, and stays until it is killed; else there is nothing to see.
#[test]
fn held_by_another_process() {
    let Some(directory) = std::env::var_os(HELD_IN) else {
        return;
    };
    let reloader = Reloader::new(module(Path::new(&directory)));
    let _held = reloader.hold(true).unwrap();
    fs::write(Path::new(&directory).join("held"), "").unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !happened() {
        assert!(
            Instant::now() < deadline,
            "{what} has not happened in {LONG:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether somebody waits for the lock of that file: a line of /proc/locks with an arrow (proc_locks(5)).
fn is_awaited(file: &Path) -> bool {
    let inode = format!(":{} ", fs::metadata(file).unwrap().ino());
    let locks = fs::read_to_string("/proc/locks").unwrap();
    (locks.lines()).any(|line| line.contains(" -> FLOCK ") && line.contains(&inode))
}

#[test]
fn runs_in_different_directories_share_the_machines_lock() {
    let [one, other] = ["/a/host", "/b/host"].map(|cache| Module::of_kernel(Path::new(cache)).lock);
    match geteuid().is_root() {
        true => assert_eq!(one, other),
        false => assert_ne!(one, other),
    }
}

#[test]
fn what_reads_as_wanted_is_held_as_it_is() {
    let kernel = Kernel::with(Some("N"));
    let reloader = kernel.reloader();
    drop(reloader.hold(false).unwrap());
    reloader.put_back();
    assert_eq!(kernel.calls(), Vec::<String>::new());
}

#[test]
fn two_who_want_the_same_reload_it_once_and_hold_it_together() {
    let kernel = Kernel::with(Some("0"));
    let (one, other) = (kernel.reloader(), kernel.reloader());
    let both = std::thread::scope(|scope| {
        [&one, &other]
            .map(|reloader| scope.spawn(|| reloader.hold(true).unwrap()))
            .map(|thread| thread.join().unwrap())
    });
    assert_eq!(kernel.calls(), [UNLOAD, LOAD_1]);
    assert_eq!(kernel.value().as_deref(), Some("1"));
    drop(both);
    one.put_back();
    other.put_back();
    assert_eq!(kernel.calls(), [UNLOAD, LOAD_1, UNLOAD, LOAD_0]);
    assert_eq!(kernel.written_down(), None);
}

#[test]
fn who_wants_the_other_value_waits_for_all_who_hold_this_one() {
    let kernel = Kernel::with(Some("0"));
    let reloader = kernel.reloader();
    let (first, second) = (reloader.hold(false).unwrap(), reloader.hold(false).unwrap());
    std::thread::scope(|scope| {
        let (sender, held) = channel();
        let waits = &reloader;
        scope.spawn(move || sender.send(waits.hold(true).unwrap()));
        let is_turned_away_again = || {
            let before = reloader.turned_away.load(Ordering::Relaxed);
            wait_for("another try", || {
                reloader.turned_away.load(Ordering::Relaxed) > before
            });
        };
        is_turned_away_again();
        drop(first);
        // Twice: the first may have been under way.
        is_turned_away_again();
        is_turned_away_again();
        assert_eq!(kernel.calls(), Vec::<String>::new());
        assert!(held.try_recv().is_err());
        drop(second);
        let _hold = held.recv_timeout(LONG).unwrap();
        assert_eq!(kernel.calls(), [UNLOAD, LOAD_1]);
    });
    reloader.put_back();
    assert_eq!(kernel.value().as_deref(), Some("0"));
}

#[test]
fn what_is_put_back_is_what_was_there_before_the_first() {
    let kernel = Kernel::with(Some("0"));
    let (one, other) = (kernel.reloader(), kernel.reloader());
    drop(one.hold(true).unwrap());
    // That one finds 1, then 0.
    drop(other.hold(false).unwrap());
    drop(other.hold(true).unwrap());
    other.put_back();
    assert_eq!(kernel.value().as_deref(), Some("0"));
    assert_eq!(kernel.written_down(), None);
    one.put_back();
    assert_eq!(kernel.value().as_deref(), Some("0"));
    let loads = [LOAD_1, LOAD_0, LOAD_1, LOAD_0];
    let calls = loads.map(|load| [UNLOAD, load]).concat();
    assert_eq!(kernel.calls(), calls);
}

#[test]
fn what_was_not_loaded_is_unloaded_again() {
    let kernel = Kernel::with(None);
    let reloader = kernel.reloader();
    drop(reloader.hold(true).unwrap());
    assert_eq!(kernel.value().as_deref(), Some("1"));
    reloader.put_back();
    assert_eq!(kernel.value(), None);
    assert_eq!(kernel.calls(), [UNLOAD, LOAD_1, UNLOAD]);
}

#[test]
fn what_was_written_down_before_this_machine_booted_counts_for_nothing() {
    let kernel = Kernel::with(Some("0"));
    let stale = r#"{"boot":"another","value":"1"}"#;
    kernel.put("lock", stale);
    kernel.module().put_back().unwrap();
    assert_eq!(kernel.calls(), Vec::<String>::new());
    let reloader = kernel.reloader();
    drop(reloader.hold(true).unwrap());
    let value = kernel.written_down().unwrap().value;
    assert_eq!(value.as_deref(), Some("0"));
    reloader.put_back();
    assert_eq!(kernel.value().as_deref(), Some("0"));
}

#[test]
fn a_modprobe_that_fails_is_told_with_its_words() {
    let kernel = Kernel::with(Some("0"));
    let words = "modprobe: ERROR: could not remove 'vhost_net': Operation not permitted";
    kernel.put("broken", words);
    let reloader = kernel.reloader();
    let error = reloader.hold(true).unwrap_err();
    assert!(error.is::<CannotRun>());
    insta::assert_snapshot!(format!("{error:#}"), @"cannot reload vhost_net with experimental_zcopytx=1: `modprobe -r vhost_net` failed (exit status: 1): modprobe: ERROR: could not remove 'vhost_net': Operation not permitted");
    // It is as it was: there is nothing to put back, and nothing to say.
    reloader.put_back();
    assert_eq!(kernel.calls(), [UNLOAD]);
    assert_eq!(kernel.written_down(), None);
}

#[test]
fn a_module_in_use_is_waited_for() {
    let kernel = Kernel::with(Some("0"));
    kernel.put(
        "broken-once",
        "modprobe: FATAL: Module vhost_net is in use.",
    );
    let reloader = kernel.reloader();
    drop(reloader.hold(true).unwrap());
    assert_eq!(kernel.calls(), [UNLOAD, UNLOAD, LOAD_1]);
    reloader.put_back();
}

#[test]
fn a_parameter_that_does_not_follow_is_told() {
    let kernel = Kernel::with(Some("0"));
    kernel.put("stuck", "0");
    let reloader = kernel.reloader();
    let error = reloader.hold(true).unwrap_err();
    assert!(error.is::<CannotRun>());
    insta::assert_snapshot!(format!("{error:#}"), @"cannot reload vhost_net with experimental_zcopytx=1: it is loaded, but experimental_zcopytx reads 0");
    reloader.put_back();
}

#[test]
fn what_cannot_be_put_back_is_told_and_stays_written_down() {
    let kernel = Kernel::with(Some("0"));
    let module = kernel.module();
    let mut lock = module.lock(FlockArg::LockExclusive).unwrap();
    module.write_down(&mut lock).unwrap();
    drop(lock);
    kernel.put("parameter", "1");
    kernel.put("stuck", "1");
    let error = module.put_back().unwrap_err();
    insta::assert_snapshot!(format!("{error:#}"), @"cannot reload vhost_net with experimental_zcopytx=0: it is loaded, but experimental_zcopytx reads 1");
    assert!(kernel.written_down().is_some());
}

#[test]
fn it_is_put_back_when_its_holder_is_killed_but_not_under_another_hold() {
    let kernel = Kernel::with(Some("0"));
    let [program, arguments @ ..] = &this_test("held_by_another_process")[..] else {
        panic!("no words");
    };
    let mut holder = Command::new(program)
        .args(arguments)
        .env(HELD_IN, kernel.0.path())
        .process_group(0)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the hold", || kernel.0.path().join("held").exists());
    let also = kernel.reloader().hold(true).unwrap();
    // A Ctrl-C goes to a whole group too.
    killpg(Pid::from_raw(holder.id() as i32), Signal::SIGKILL).unwrap();
    assert_eq!(holder.wait().unwrap().signal(), Some(9));
    wait_for("the keeper's turn in the line for the lock", || {
        is_awaited(&kernel.module().lock)
    });
    assert_eq!(kernel.calls(), [UNLOAD, LOAD_1]);
    drop(also);
    wait_for("the end of its keeper", || kernel.written_down().is_none());
    assert_eq!(kernel.calls(), [UNLOAD, LOAD_1, UNLOAD, LOAD_0]);
    assert_eq!(kernel.value().as_deref(), Some("0"));
}
