use super::*;
use crate::base::error::find;

fn qemu(program: impl Into<PathBuf>) -> Qemu {
    Qemu::at(program.into())
}

/// A stand-in for a QEMU that does what `script` says.
fn boot(accel: Accel, script: &str) -> ProofBoot {
    boot_within(accel, script, BOOT_DEADLINE)
}

fn boot_within(accel: Accel, script: &str, limit: Duration) -> ProofBoot {
    ProofBoot::spawn(accel, &qemu("sh"), vec!["-c".into(), script.into()], limit).unwrap()
}

const UP: &str = "echo booting; echo 'nicmatrix: userspace'; exec sleep 60";
const STUCK: &str = "echo Linux version 6.1; exec sleep 60";
const REFUSED: &str = "echo 'failed to set MSR 0x345' >&2; exit 3";

#[test]
fn kvm_wins_where_it_boots() {
    let proven = race(boot(Accel::Kvm, UP), boot(Accel::Tcg, STUCK)).unwrap();
    assert_eq!((proven.accel, proven.speed), (Accel::Kvm, 1.0));
}

#[test]
fn kvm_loses_where_it_is_stuck_and_is_not_waited_for() {
    let begun = Instant::now();
    let proven = race(boot(Accel::Kvm, STUCK), boot(Accel::Tcg, UP)).unwrap();
    assert_eq!(proven.accel, Accel::Tcg);
    assert!(
        proven.reason.contains("not in userspace after"),
        "{}",
        proven.reason
    );
    assert!(begun.elapsed() >= GRACE && begun.elapsed() < BOOT_DEADLINE / 2);
}

#[test]
fn kvm_loses_where_qemu_refuses_it_and_the_reason_says_so() {
    let kvm = boot(Accel::Kvm, REFUSED);
    // In userspace once the other has ended, which is a zombie until the race has taken note.
    let late = format!(
        "while [ -e /proc/{0} ] && ! grep -qs 'State:.Z' /proc/{0}/status; do sleep 0.01; done; {UP}",
        kvm.process.pid()
    );
    let proven = race(kvm, boot(Accel::Tcg, &late)).unwrap();
    assert_eq!(proven.accel, Accel::Tcg);
    assert!(
        proven.reason.contains("exit status: 3"),
        "{}",
        proven.reason
    );
    assert!(
        proven.reason.contains("failed to set MSR 0x345"),
        "{}",
        proven.reason
    );
}

#[test]
fn a_qemu_that_ends_is_an_error_at_once() {
    let begun = Instant::now();
    let broken = || boot(Accel::Tcg, "echo 'no kernel here'; echo oops >&2; exit 1");
    for error in [
        alone(broken(), "").unwrap_err(),
        race(boot(Accel::Kvm, REFUSED), broken()).unwrap_err(),
    ] {
        assert!(error.is::<CannotRun>());
        let text = error.to_string();
        for part in [
            "`sh` under TCG",
            "exit status: 1",
            "QEMU said: oops",
            "no kernel here",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    assert!(begun.elapsed() < BOOT_DEADLINE / 2);
}

#[test]
fn a_boot_that_takes_too_long_is_told_from_one_that_ends() {
    let stuck = boot_within(Accel::Kvm, STUCK, Duration::from_millis(50));
    let error = alone(stuck, "").unwrap_err();
    assert!(error.is::<CannotRun>() && find::<NotInTime>(&error).is_some());
    assert!(
        format!("{error:#}").contains("cannot see whether KVM works: `sh` under KVM did not"),
        "{error:#}"
    );
    let ended = alone(boot(Accel::Kvm, REFUSED), "").unwrap_err();
    assert!(find::<NotInTime>(&ended).is_none());
}

#[test]
fn outputs_that_close_early_do_not_hide_the_end() {
    let error = alone(boot(Accel::Tcg, "exec >&- 2>&-; sleep 0.1; exit 7"), "").unwrap_err();
    assert!(error.to_string().contains("exit status: 7"), "{error}");
    assert!(error.to_string().contains("QEMU said nothing"), "{error}");
}

#[test]
fn speed_is_against_the_reference_and_never_below_one() {
    let speed = |seconds, delayed| {
        let booted = Booted { seconds, delayed };
        proven(Accel::Tcg, booted, String::new()).speed
    };
    assert_eq!(speed(18.0, 0.0), 10.0);
    assert_eq!(speed(0.4, 0.0), 1.0);
    // What else the host does meanwhile is no part of it.
    assert_eq!(speed(18.0, 9.0), 5.0);
}

/// A boot beside which three loops keep a processor takes four times as long, and is no slower for that.
#[test]
fn a_boot_on_a_busy_host_is_as_fast_as_it_is() {
    let counts = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
    let script = format!("exec taskset -c 0 sh -c '{counts}; echo {USERSPACE_MARK}; sleep 60'");
    let (over, until) = std::sync::mpsc::channel::<()>();
    // Another thread's, as what this one starts counts as what is waited for.
    let others = std::thread::spawn(move || {
        let mut command = std::process::Command::new("taskset");
        command.args(["-c", "0", "sh", "-c", "while :; do :; done"]);
        let mut loops = [(); 3].map(|()| command.spawn().unwrap());
        until.recv().unwrap();
        loops.iter_mut().for_each(crate::base::cpu::end);
    });
    let mut boot = boot(Accel::Tcg, &script);
    let deadline = boot.deadline();
    while boot.is_running() && Instant::now() < deadline {
        step(&mut [&mut boot], deadline).unwrap();
    }
    over.send(()).unwrap();
    others.join().unwrap();
    let booted = boot.userspace.expect("it is in userspace in time");
    assert!(
        booted.delayed > booted.seconds / 2.0,
        "{booted:?}: three quarters were the others'"
    );
}

#[test]
fn the_tail_is_short_and_clean() {
    let long: String = (0..40).map(|n| format!("line {n}\r\n")).collect();
    let tail = tail(&(long + "\x1b[31mred\n\n"));
    assert_eq!(tail.lines().count(), TAIL_LINES);
    assert!(
        tail.starts_with("line 26\n") && tail.ends_with("\n[31mred"),
        "{tail}"
    );
}

#[test]
fn another_processor_has_another_answer() {
    let text = |model: &str, mhz: u32, flags: &str| {
        format!(
            "processor\t: 0\nvendor_id\t: A\nmodel name\t: {model}\ncpu MHz\t\t: {mhz}\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: other\n"
        )
    };
    let of = |text: String| processor(&text);
    let one = of(text("EPYC", 2400, "svm npt"));
    assert_eq!(one, of(text("EPYC", 3100, "svm npt")));
    assert_ne!(one, of(text("Xeon", 2400, "svm npt")));
    assert_ne!(one, of(text("EPYC", 2400, "npt")));
}

#[test]
fn the_answer_is_kept_for_what_it_depends_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut qemu = qemu(dir.path().join("qemu"));
    let program = qemu.program.clone();
    fs::write(&program, "one build").unwrap();
    let mut image = GuestImage {
        vmlinux: None,
        bzimage: "bzImage".into(),
        initrd: "initrd".into(),
        packed_initrd: "initrd.zst".into(),
        lab_initrd: None,
        host_programs: None,
        kernel_release: "6.1".into(),
        packages: Vec::new(),
        hash: "a".into(),
    };
    let file = dir.path().join("accel-tcg.json");
    let answer = proven(
        Accel::Tcg,
        Booted {
            seconds: 2.0,
            delayed: 0.0,
        },
        "measured".into(),
    );
    let entry = Cached {
        key: key(&qemu, &image).unwrap(),
        proven: answer.clone(),
    };
    json::write_whole(&file, &entry).unwrap();
    let ask = |qemu: &Qemu, image: &GuestImage| cached(&file, &key(qemu, image).unwrap());
    assert_eq!(ask(&qemu, &image), Some(answer));
    let elsewhere = Key {
        processor: "another".into(),
        ..key(&qemu, &image).unwrap()
    };
    assert_eq!(cached(&file, &elsewhere), None);
    qemu.firmware.push("pc-bios".into());
    assert_eq!(ask(&qemu, &image), None);
    qemu.firmware.clear();
    image.hash = "b".into();
    assert_eq!(ask(&qemu, &image), None);
    image.hash = "a".into();
    fs::write(&program, "another build").unwrap();
    assert_eq!(ask(&qemu, &image), None);
    fs::write(&program, "one build").unwrap();
    fs::write(&file, "{").unwrap();
    assert_eq!(ask(&qemu, &image), None);
    qemu.program = "/nonexistent/qemu".into();
    let missing = key(&qemu, &image).unwrap_err();
    assert!(missing.is::<CannotRun>());
    assert!(
        missing.to_string().contains("/nonexistent/qemu"),
        "{missing}"
    );
}
