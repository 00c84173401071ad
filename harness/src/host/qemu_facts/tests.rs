use super::*;
use std::os::unix::fs::PermissionsExt;

/// The QEMU of this machine; `cargo xtask test` has installed one.
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

fn complaint(program: &Path, deadline: Duration) -> String {
    format!("{:#}", ask(program, &[], deadline).unwrap_err())
}

/// A program that does `body`. It is written by a process of its own: a file that this one has
/// open for writing could be inherited by another test's child, and then not be executed.
fn script(directory: &Path, body: &str) -> PathBuf {
    let file = directory.join("qemu");
    let status = Command::new("sh")
        .args(["-c", r#"printf '#!/bin/sh\n%s\n' "$1" >"$2""#, "sh", body])
        .arg(&file)
        .status();
    assert!(status.unwrap().success());
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    file
}

#[test]
fn qemu_says_what_it_has() {
    let cache = tempfile::tempdir().unwrap();
    let facts = facts(Path::new(QEMU), &[], cache.path()).unwrap();
    for device in ["rtl8139", "e1000", "e1000e", "virtio-net-pci", "virtio-net"] {
        assert!(
            facts.devices.iter().any(|d| d == device),
            "{device} of {facts:?}"
        );
    }
    for machine in ["pc", "q35"] {
        assert!(facts.machines.iter().any(|m| m == machine));
    }
    assert_eq!(facts.version.split('.').count(), 3);
}

#[test]
fn the_cache_is_used_until_something_changes() {
    let cache = tempfile::tempdir().unwrap();
    let (qemu, dir) = (Path::new(QEMU), cache.path());
    let truth = cached(qemu, &[], dir).unwrap();
    let file = std::fs::read_dir(dir).unwrap().next().unwrap().unwrap();
    let text = std::fs::read_to_string(file.path()).unwrap();

    // A version that only the cache knows shows that it is read.
    let marked = text.replace(&truth.version, "0.0.1");
    std::fs::write(file.path(), &marked).unwrap();
    assert_eq!(cached(qemu, &[], dir).unwrap().version, "0.0.1");

    let firmware = [PathBuf::from("/usr/share/seabios")];
    assert_eq!(cached(qemu, &firmware, dir).unwrap(), truth);

    std::fs::write(file.path(), &text[..text.len() / 2]).unwrap();
    assert_eq!(cached(qemu, &[], dir).unwrap(), truth);
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 1);
}

#[test]
fn a_cache_that_cannot_be_written_is_done_without() {
    let cached = cached(Path::new(QEMU), &[], Path::new("/proc/nowhere")).unwrap();
    assert!(!cached.devices.is_empty());
}

#[test]
fn a_wrapper_script_works_and_is_asked_each_time() {
    let directory = tempfile::tempdir().unwrap();
    let wrapper = script(directory.path(), &format!("exec {QEMU} \"$@\""));
    assert!(key(&wrapper, &[]).is_none());
    ask(&wrapper, &[], ANSWER).unwrap();
}

#[test]
fn a_wrapper_script_that_would_leave_qemu_behind_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let wrapper = script(
        directory.path(),
        &format!("{QEMU} \"$@\"; echo $? >$0.ended"),
    );
    let text = complaint(&wrapper, ANSWER);
    assert!(text.contains("with `exec`"), "{text}");
}

#[test]
fn what_is_no_qemu_is_said_so() {
    insta::assert_snapshot!(complaint(Path::new("/bin/false"), ANSWER), @"/bin/false does not work as a QEMU: it ended before it answered QMP (exit status: 1), and wrote nothing to stderr");
    insta::assert_snapshot!(complaint(Path::new("/bin/echo"), ANSWER), @"/bin/echo does not work as a QEMU: it wrote `-machine none,accel=tcg:kvm -nodefaults -display none -qmp stdio` where QMP was awaited, and wrote nothing to stderr");
    insta::assert_snapshot!(complaint(Path::new("/nowhere/qemu"), ANSWER), @"cannot start /nowhere/qemu: No such file or directory (os error 2)");
    insta::assert_snapshot!(complaint(Path::new("/etc/passwd"), ANSWER), @"cannot start /etc/passwd: Permission denied (os error 13)");
}

#[test]
fn one_that_dies_gives_its_last_words() {
    let directory = tempfile::tempdir().unwrap();
    let broken = script(directory.path(), "echo cannot load libfoo.so >&2; exit 127");
    let text = complaint(&broken, ANSWER);
    assert!(text.contains("(exit status: 127)"), "{text}");
    assert!(
        text.ends_with("wrote to stderr: cannot load libfoo.so"),
        "{text}"
    );
}

#[test]
fn one_that_hangs_is_killed_at_the_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid");
    let hangs = script(
        directory.path(),
        &format!("echo $$ >{}; exec sleep 600", pid.display()),
    );
    let text = complaint(&hangs, Duration::from_secs(1));
    assert!(text.contains("it did not answer QMP within 1s"), "{text}");
    let pid = std::fs::read_to_string(pid).unwrap();
    assert!(!Path::new("/proc").join(pid.trim()).exists());
}

#[test]
fn an_error_is_quoted() {
    let directory = tempfile::tempdir().unwrap();
    let old = script(
        directory.path(),
        r#"echo '{"QMP": {}}'; read line; echo '{"error": {"class": "CommandNotFound"}}'; read line"#,
    );
    let text = complaint(&old, ANSWER);
    assert!(
        text.contains(
            r#"it answered {"execute":"qmp_capabilities"} with {"class":"CommandNotFound"}"#
        ),
        "{text}"
    );
}

#[test]
fn devices_and_aliases_are_read() {
    let help = "Network devices:\r\n\
                name \"e1000\", bus PCI, alias \"e1000-82540em\", desc \"Intel alias \"\r\n\
                name \"dimm\", desc \"a name\"\r\n\r\n";
    assert_eq!(device_names(help), ["e1000", "e1000-82540em", "dimm"]);
}
