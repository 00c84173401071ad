use super::*;
use std::os::unix::fs::PermissionsExt;

/// The QEMU of this machine; `cargo xtask test` has installed one.
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

fn qemu(program: impl Into<PathBuf>) -> Qemu {
    Qemu::at(program.into())
}

fn complaint(program: impl Into<PathBuf>, limit: Limit) -> String {
    format!("{:#}", ask(&qemu(program), limit).unwrap_err())
}

/// A program that does `body`. It is written by a process of its own: a file that this one has
/// open for writing could be inherited by another test's child, and then not be executed.
fn script(directory: &Path, body: &str) -> PathBuf {
    let file = directory.join("qemu");
    let status = std::process::Command::new("sh")
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
    let facts = facts(&qemu(QEMU), cache.path()).unwrap();
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
    let (mut qemu, dir) = (qemu(QEMU), cache.path());
    let truth = cached(&qemu, dir).unwrap();
    let file = std::fs::read_dir(dir).unwrap().next().unwrap().unwrap();
    let text = std::fs::read_to_string(file.path()).unwrap();

    // A version that only the cache knows shows that it is read.
    let marked = text.replace(&truth.version, "0.0.1");
    std::fs::write(file.path(), &marked).unwrap();
    assert_eq!(cached(&qemu, dir).unwrap().version, "0.0.1");

    qemu.firmware.push("/usr/share/seabios".into());
    assert_eq!(cached(&qemu, dir).unwrap(), truth);

    std::fs::write(file.path(), &text[..text.len() / 2]).unwrap();
    assert_eq!(cached(&qemu, dir).unwrap(), truth);
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 1);
}

#[test]
fn a_cache_that_cannot_be_written_is_done_without() {
    let cached = cached(&qemu(QEMU), Path::new("/proc/nowhere")).unwrap();
    assert!(!cached.devices.is_empty());
}

#[test]
fn a_wrapper_script_works_and_is_asked_each_time() {
    let directory = tempfile::tempdir().unwrap();
    let wrapper = qemu(script(directory.path(), &format!("exec {QEMU} \"$@\"")));
    assert!(key(&wrapper).is_none());
    ask(&wrapper, ANSWER).unwrap();
}

#[test]
fn a_wrapper_script_that_would_leave_qemu_behind_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let wrapper = script(
        directory.path(),
        &format!("{QEMU} \"$@\"; echo $? >$0.ended"),
    );
    let text = complaint(wrapper, ANSWER);
    assert!(text.contains("with `exec`"), "{text}");
}

#[test]
fn what_is_no_qemu_is_said_so() {
    insta::assert_snapshot!(complaint("/bin/false", ANSWER), @"/bin/false does not work as a QEMU: it ended before it answered QMP (exit status: 1); nothing on stderr");
    insta::assert_snapshot!(complaint("/bin/echo", ANSWER), @"/bin/echo does not work as a QEMU: expected QMP, found `-machine none,accel=tcg:kvm -nodefaults -display none -qmp stdio`; nothing on stderr");
    insta::assert_snapshot!(complaint("/nowhere/qemu", ANSWER), @"cannot start /nowhere/qemu: No such file or directory (os error 2)");
    insta::assert_snapshot!(complaint("/etc/passwd", ANSWER), @"cannot start /etc/passwd: Permission denied (os error 13)");
}

#[test]
fn one_that_dies_gives_its_last_words() {
    let directory = tempfile::tempdir().unwrap();
    let broken = script(directory.path(), "echo cannot load libfoo.so >&2; exit 127");
    let text = complaint(broken, ANSWER);
    assert!(text.contains("(exit status: 127)"), "{text}");
    assert!(text.ends_with("; stderr: cannot load libfoo.so"), "{text}");
}

#[test]
fn one_that_hangs_is_killed_at_the_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid");
    let hangs = script(
        directory.path(),
        &format!("echo $$ >{}; exec sleep 600", pid.display()),
    );
    let second = Limit {
        seconds: 1.0,
        ..ANSWER
    };
    let text = complaint(hangs, second);
    // How long it was in the end is the host's.
    let silent = "s for an answer over QMP; the socket stayed silent";
    assert!(text.contains(silent), "{text}");
    let pid = std::fs::read_to_string(pid).unwrap();
    assert!(!Path::new("/proc").join(pid.trim()).exists());
}

#[test]
fn an_error_is_quoted() {
    let directory = tempfile::tempdir().unwrap();
    let old = script(
        directory.path(),
        r#"echo '{"QMP": {}}'; read line; echo '{"error": {"class": "CommandNotFound", "desc": "no such command"}, "id": 1}'; read line"#,
    );
    let text = complaint(old, ANSWER);
    let refused = "qmp_capabilities was refused: CommandNotFound: no such command";
    assert!(text.contains(refused), "{text}");
}

#[test]
fn a_guest_moves_on_the_newest_machine_that_both_have() {
    let facts = |machines: &[&str]| {
        let mut facts = crate::host::tests::tested("7.2.0").facts;
        facts.machines = machines.iter().map(|&name| name.to_owned()).collect();
        facts
    };
    let old = facts(&[
        "pc",
        "q35",
        "microvm",
        "pc-i440fx-7.2",
        "pc-q35-7.2",
        "pc-q35-7.1",
        "pc-q35-rhel9.2.0",
    ]);
    let new = facts(&[
        "pc",
        "q35",
        "microvm",
        "pc-i440fx-10.0",
        "pc-q35-10.0",
        "pc-q35-9.2",
        "pc-q35-7.2",
        "pc-q35-7.1",
        "pc-i440fx-6.2",
        "pc-q35-rhel9.2.0",
    ]);
    let common = common_machine(Machine::Q35, &old, &new);
    assert_eq!(common.as_deref(), Some("pc-q35-7.2"));
    assert_eq!(common, common_machine(Machine::Q35, &new, &old));
    // By number: as text, 9.2 would be newer than 10.0.
    let same = common_machine(Machine::Q35, &new, &new);
    assert_eq!(same.as_deref(), Some("pc-q35-10.0"));
    assert_eq!(common_machine(Machine::Pc, &old, &new), None);
}

#[test]
fn devices_and_aliases_are_read() {
    let help = "Network devices:\r\n\
                name \"e1000\", bus PCI, alias \"e1000-82540em\", desc \"Intel alias \"\r\n\
                name \"dimm\", desc \"a name\"\r\n\r\n";
    assert_eq!(device_names(help), ["e1000", "e1000-82540em", "dimm"]);
}

#[test]
fn ipxe_is_looked_for_beside_a_qemus_own_boot_roms_first() {
    let root = tempfile::tempdir().unwrap();
    let roms = root.path().join("ipxe/qemu");
    std::fs::create_dir_all(&roms).unwrap();
    let program = root.path().join("ipxe/snponly.efi");
    std::fs::write(&program, "MZ").unwrap();
    let elsewhere = root.path().join("seabios");
    assert_eq!(ipxe(&[elsewhere.clone(), roms.clone()]), Some(program));
    let own = roms.join("ipxe-snponly-x86_64.efi");
    std::fs::write(&own, "MZ").unwrap();
    assert_eq!(ipxe(&[elsewhere, roms]), Some(own));
}
