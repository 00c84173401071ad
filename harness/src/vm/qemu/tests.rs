//! Of programs that stand in for a QEMU.

use super::process::ended_by_host;
use super::*;
use crate::base::error::CannotRun;
use std::io::{Read as _, Write as _};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);
/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(1);

/// A stand-in for a QEMU that does what `script` says.
fn shell(script: &str) -> QemuCommand {
    Qemu::at("sh".into()).command(["-c", script])
}

fn death(command: QemuCommand) -> Death {
    let mut process = command.start().unwrap();
    assert!(process.await_end(Instant::now() + LONG));
    process.death().unwrap()
}

#[test]
fn the_command_line_begins_with_the_firmware_and_is_kept_with_what_was_said() {
    let directory = tempfile::tempdir().unwrap();
    let echo = Qemu {
        firmware: vec!["build dir/pc-bios".into(), "/fw".into()],
        ..Qemu::at("/bin/echo".into())
    };
    let mut command = echo.command(["-m", "256"]);
    command.transcripts_in(directory.path());
    insta::assert_snapshot!(command.line(), @r"
    /bin/echo \
      -L 'build dir/pc-bios' \
      -L /fw \
      -m 256
    ");
    let line = command.line();
    assert!(death(command).status.success());
    let kept = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
    assert_eq!(kept("qemu.sh"), line + "\n");
    assert_eq!(kept("qemu.stdout"), "-L build dir/pc-bios -L /fw -m 256\n");
    assert_eq!(kept("qemu.stderr"), "");
}

#[test]
fn a_program_of_another_distribution_is_started_by_its_own_loader() {
    let other = Qemu {
        firmware: vec!["/r/usr/share/qemu".into()],
        loader: Some(Loader {
            program: "/r/usr/bin/ld.so".into(),
            libraries: vec!["/r/usr/lib".into(), "/r/usr/lib/pulse".into()],
        }),
        ..Qemu::at("/r/usr/bin/qemu".into())
    };
    insta::assert_snapshot!(other.command(["-m", "256"]).line(), @r"
    /r/usr/bin/ld.so \
      --library-path /r/usr/lib:/r/usr/lib/pulse /r/usr/bin/qemu \
      -L /r/usr/share/qemu \
      -m 256
    ");
}

#[test]
fn a_death_tells_the_status_and_what_was_said() {
    let silent = death(shell("exit 3"));
    assert_eq!(
        silent.to_string(),
        "QEMU ended with exit status: 3; nothing on stderr"
    );
    let directory = tempfile::tempdir().unwrap();
    let mut command = shell("echo one >&2; echo two >&2; kill -9 $$");
    command.transcripts_in(directory.path());
    let mut loud = death(command);
    assert!(
        loud.outside
            .take()
            .is_some_and(|who| who.contains("memory"))
    );
    let loud = loud.to_string();
    assert_eq!(
        loud,
        "QEMU ended with signal: 9 (SIGKILL); stderr: one\ntwo"
    );
    let asked = Some("info virtio".to_owned());
    assert_eq!(
        Death { asked, ..silent }.to_string(),
        "QEMU ended with exit status: 3 while it was asked `info virtio`; nothing on stderr"
    );
}

#[test]
fn a_host_that_is_named_in_its_last_words_has_ended_it() {
    let by = |words| ended_by_host(words);
    let thread = "qemu: qemu_thread_create: Resource temporarily unavailable";
    let refused = "the host refused what it asked for (Resource temporarily unavailable)";
    assert_eq!(by(thread).as_deref(), Some(refused));
    let signal = "qemu: terminating on signal 15 from pid 7 (sh)";
    assert_eq!(by(signal).as_deref(), Some("by signal 15 from pid 7 (sh)"));
    assert_eq!(by("qemu: hw/net/x.c:1: f: Assertion `x' failed."), None);
}

#[test]
fn a_stderr_that_is_not_utf_8_is_shown_as_far_as_it_is() {
    let said = death(shell(r"printf 'cannot open \377\376.img\n' >&2; exit 1")).said();
    assert_eq!(said, "stderr: cannot open \u{fffd}\u{fffd}.img");
}

#[test]
fn what_it_says_is_read_while_it_says_more() {
    let mut command = shell("echo one >&2; echo; read line; echo two >&2");
    let mut io = command.stdio().unwrap();
    let mut process = command.start().unwrap();
    io.read_exact(&mut [0]).unwrap();
    assert_eq!(process.stderr(), "one");
    assert_eq!(process.death(), None);
    io.write_all(b"\n").unwrap();
    assert!(process.await_end(Instant::now() + LONG));
    assert_eq!(process.death().unwrap().stderr, "one\ntwo");
}

#[test]
fn sockets_are_inherited_and_close_with_it() {
    let mut command = shell("echo hello >&7; read line <&7; echo $line >&8");
    let (mut seven, mut eight) = (command.socket(7).unwrap(), command.socket(8).unwrap());
    let _process = command.start().unwrap();
    let mut said = [0; 6];
    seven.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"hello\n");
    seven.write_all(b"back\n").unwrap();
    let mut said = String::new();
    eight.read_to_string(&mut said).unwrap();
    assert_eq!(said, "back\n");
}

#[test]
fn it_is_killed_with_its_group_and_only_once() {
    let mut command = shell("sleep 97.5 & echo $!; wait");
    command.own_group();
    let mut io = command.stdio().unwrap();
    let mut process = command.start().unwrap();
    let mut pid = [0; 16];
    let count = io.read(&mut pid).unwrap();
    let child = String::from_utf8_lossy(&pid[..count]).trim().to_owned();
    assert!(!process.await_end(Instant::now()));
    process.end();
    process.end();
    let death = process.death().unwrap();
    assert!(death.to_string().contains("SIGKILL"), "{death}");
    // It was orphaned by the shell's end; who takes it over may take a moment.
    let line = Path::new("/proc").join(child).join("cmdline");
    let deadline = Instant::now() + LONG;
    while std::fs::read(&line).is_ok_and(|line| !line.is_empty()) {
        assert!(Instant::now() < deadline, "its child lives on");
        std::thread::sleep(LOOK);
    }
}

#[test]
fn a_program_that_cannot_be_started_is_named() {
    let nowhere = Qemu::at("/nowhere/qemu".into());
    let nothing: [&str; 0] = [];
    let started = nowhere.command(nothing).start().err().unwrap();
    let asked = nowhere.command(nothing).output().unwrap_err();
    for error in [started, asked] {
        assert!(error.is::<CannotRun>());
        assert_eq!(
            format!("{error:#}"),
            "cannot start /nowhere/qemu: No such file or directory (os error 2)"
        );
    }
}

#[test]
fn the_output_of_a_question_is_all_that_it_prints() {
    let output = shell("echo $LC_ALL; echo complained >&2").output().unwrap();
    assert_eq!(
        (&*output.stdout, &*output.stderr),
        (&b"C\n"[..], &b"complained\n"[..])
    );
}
