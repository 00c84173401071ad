//! What a guest that takes over the programs which serve it could do with them.

#[expect(dead_code, reason = "the other tests use more of it")]
mod own;

use nix::sys::signal::Signal;
use own::{ENDS, Own, Process};
use std::fs;
use std::time::Duration;

const TRIAL: &str = "ping_sweep::virtio::rhel9::tap";
/// From exec to a VM that takes commands, on a loaded host too.
const VM_RUNS: Duration = Duration::from_secs(120);
/// CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_NET_ADMIN and CAP_BPF.
const QEMUS: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 12 | 1 << 39;
/// CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE, CAP_NET_ADMIN and CAP_NET_RAW.
const DNSMASQS: u64 = 1 << 2 | 1 << 10 | 1 << 12 | 1 << 13;

/// What `/proc/PID/status` says of a field.
fn status(process: &Process, field: &str) -> String {
    let all = fs::read_to_string(process.0.join("status")).expect("it runs");
    let found = all.lines().find_map(|line| line.strip_prefix(field));
    found.unwrap_or_default().trim().to_owned()
}

#[test]
fn what_serves_a_guest_has_few_rights_and_gets_no_more() {
    let own = Own::new();
    let mut started = own.run(TRIAL, None);
    own.await_vm(&mut started, VM_RUNS);
    let processes = own.processes();
    let of = |program: &str| {
        let runs = |one: &&Process| {
            one.line()
                .split(' ')
                .next()
                .is_some_and(|it| it.contains(program))
        };
        let found = processes.iter().find(runs);
        found.unwrap_or_else(|| panic!("{program} does not run"))
    };
    let (qemu, dnsmasq) = (of("qemu"), of("dnsmasq"));
    for (process, rights) in [(qemu, QEMUS), (dnsmasq, DNSMASQS)] {
        let line = process.line();
        for set in ["CapEff:", "CapPrm:", "CapAmb:"] {
            let held = u64::from_str_radix(&status(process, set), 16).expect("a mask");
            assert_eq!(held & !rights, 0, "{set} {held:x} of {line}");
        }
        assert_eq!(status(process, "NoNewPrivs:"), "1", "{line}");
    }
    // 2: by a filter of system calls.
    assert_eq!(status(qemu, "Seccomp:"), "2", "{}", qemu.line());
    let everybody = fs::read_to_string("/proc/self/uid_map").expect("read");
    if nix::unistd::geteuid().is_root() && everybody.contains("4294967295") {
        let nobody = nix::unistd::User::from_name("nobody")
            .expect("asked")
            .expect("a nobody");
        let shown = status(dnsmasq, "Uid:");
        assert!(shown.starts_with(&format!("{}\t", nobody.uid)), "{shown}");
    }
    started.signal(Signal::SIGKILL);
    started.ended_within(ENDS);
}
