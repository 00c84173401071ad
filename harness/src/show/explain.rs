//! `explain`: a trial in full, before it runs. Pure.

use crate::host::place::Host;
use crate::matrix::known::Expectation;
use crate::matrix::schema::Property;
use crate::plan::{Action, PlannedTrial};
use crate::vm::start_state::StartState;
use std::fmt::Write;

fn start(start: StartState) -> &'static str {
    match start {
        StartState::WarmNic => "from a checkpoint with its NIC up",
        StartState::ColdDriver => {
            "from a checkpoint without its NIC, which is then plugged in and gets its driver"
        }
        StartState::Boot => "by booting",
    }
}

/// How a trial is known to fail.
fn expectation(expected: &Expectation) -> String {
    let often = if expected.sometimes {
        "now and then "
    } else {
        ""
    };
    let mut text = format!("{often}a failure that says {expected}");
    if let Some(kernel) = &expected.scope.kernel {
        text += &format!("; on a kernel {kernel}");
    }
    if let Some(until) = expected.until {
        text += &format!("; due for another look on {until}");
    }
    text
}

/// Renders what `trial` is and does. `version` is its QEMU's; `command_line` is QEMU's, a shell command; `topology` is the
/// host network, as text. The guest's commands come from the case and its dialect, with `DEV` for
/// the interface and `VALUE` for an address, MAC or MTU.
pub fn explain(trial: &PlannedTrial, version: &str, command_line: &str, topology: &str) -> String {
    let (case, cell) = (trial.case, &trial.cell);
    let (nic, guest) = (&cell.nic, &cell.guest);
    let mut out = format!("{}\n\n", trial.name);
    let mut row = |what: &str, text: &str| {
        // A String cannot fail to be written to.
        let _ = writeln!(out, "{what:<10} {text}");
    };

    match &trial.action {
        Action::Run => match trial.host {
            Host::Direct => row("here", "runs"),
            Host::Lab => row("here", "runs, in a lab"),
        },
        Action::Skip(reason) => row("here", &format!("is skipped: {reason}")),
    }
    row(
        "plan item",
        match case.plan_item {
            "" => "none: the case is beyond the plan",
            item => item,
        },
    );
    row("passes if", case.passes);
    row("starts", start(trial.start_state));
    if let Some(disruption) = trial.disruption {
        row(
            "goes on",
            &format!("through {}, and must hold again", disruption.word()),
        );
    }
    if let Some(fault) = trial.fault {
        row("fault", &format!("{}: {}", fault.name, fault.breaks));
        row("red if", &fault.red.to_string());
    }
    for expected in &trial.known.expectations {
        row("expected", &expectation(expected));
    }
    let offloads = match nic.offloads.is_empty() {
        true => "none".into(),
        false => nic.offloads.join(" "),
    };
    row(
        "NIC",
        &format!(
            "{}: device {}, driver {}, MTU up to {}, offloads on: {offloads}",
            nic.name, nic.device, nic.driver, nic.max_mtu
        ),
    );
    for (what, properties) in [
        ("its own", &nic.variant.properties),
        ("machine", &nic.variant.machine_properties),
    ] {
        if !properties.is_empty() {
            let words: Vec<String> = properties.iter().map(Property::to_string).collect();
            row("properties", &format!("{what}: {}", words.join(" ")));
        }
    }
    if nic.variant.iommu {
        row(
            "IOMMU",
            "intel-iommu, in front of all devices; the guest boots with intel_iommu=on",
        );
    }
    if nic.variant.bare_tap {
        row(
            "tap",
            "vnet_hdr=off: QEMU makes checksums and cuts segments itself",
        );
    }
    let stands_in = match (guest.is_stand_in(), &guest.image) {
        (true, _) => " (the built image stands in for it)".into(),
        (false, Some(image)) => format!(" ({})", image.display()),
        (false, None) => String::new(),
    };
    row(
        "guest",
        &format!(
            "{}{stands_in}: machine {}, {} MiB",
            guest.name,
            guest.machine.name(),
            guest.memory_mib
        ),
    );
    row("backend", cell.backend.name());
    row("QEMU", &format!("{}: {version}", cell.qemu));

    let commands = case
        .ops
        .iter()
        .map(|op| guest.dialect.command(*op, "DEV", "VALUE"))
        .collect::<Vec<_>>()
        .join("\n");
    let faults = case
        .faults
        .iter()
        .map(|f| match (f.applies)(cell) {
            true => format!("{}: {}", f.name, f.breaks),
            false => format!("{}: {} (not on this cell)", f.name, f.breaks),
        })
        .collect::<Vec<_>>()
        .join("\n");
    for (title, body) in [
        ("Host network", topology),
        ("QEMU", command_line),
        ("Commands in the guest", &commands),
        ("Faults under which it must fail", &faults),
    ] {
        let body = match body.trim_end() {
            "" => "none",
            body => body,
        };
        let _ = write!(out, "\n{title}:\n");
        for line in body.lines() {
            let _ = writeln!(out, "  {line}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::{planned, skipped_and_faulty, with};

    #[test]
    fn a_trial_that_runs() {
        let trial = planned("flood::virtio::rhel6::tap");
        let text = explain(
            &trial,
            "7.2.0",
            "qemu-system-x86_64 \\\n  -machine pc",
            "tap0 - br0",
        );
        insta::assert_snapshot!(text, @r"
            flood::virtio::rhel6::tap

            here       runs
            plan item  2. ping
            passes if  no trace after the flood
            starts     from a checkpoint with its NIC up
            NIC        virtio: device virtio-net-pci, driver virtio_net, MTU up to 65535, offloads on: tx
            guest      rhel6 (the built image stands in for it): machine pc, 256 MiB
            backend    tap
            QEMU       default: 7.2.0

            Host network:
              tap0 - br0

            QEMU:
              qemu-system-x86_64 \
                -machine pc

            Commands in the guest:
              ifconfig DEV mtu VALUE
              ifconfig DEV up

            Faults under which it must fail:
              unplugged: the tap is taken off the bridge
              no_vhost: vhost is switched off (not on this cell)
        ");
    }

    #[test]
    fn a_trial_that_is_known_to_fail() {
        let entry = "{ case = 'flood', kernel = '<6.12', message = 'lost', reason = 'bug 1', link = 'https://e.org', until = 2027-03-31, sometimes = true }";
        let trial = with("expect", entry, "flood::virtio::rhel6::tap");
        let text = explain(&trial, "7.2.0", "", "");
        let row = text.lines().find(|line| line.starts_with("expected"));
        insta::assert_snapshot!(row.unwrap(), @r#"expected   now and then a failure that says "lost": bug 1 (https://e.org); on a kernel <6.12; due for another look on 2027-03-31"#);
    }

    #[test]
    fn a_trial_that_is_skipped_under_a_fault() {
        insta::assert_snapshot!(explain(&skipped_and_faulty(), "7.2.0", "", ""), @r#"
            flood!no_vhost::virtio::rhel6::vhost_zcopy

            here       is skipped: vhost_net is loaded with experimental_zcopytx=0, this cell needs 1; with --allow-module-reload it is reloaded
            plan item  2. ping
            passes if  no trace after the flood
            starts     from a checkpoint with its NIC up
            fault      no_vhost: vhost is switched off
            red if     the failure says "no reply"
            NIC        virtio: device virtio-net-pci, driver virtio_net, MTU up to 65535, offloads on: tx
            guest      rhel6 (the built image stands in for it): machine pc, 256 MiB
            backend    vhost_zcopy
            QEMU       default: 7.2.0

            Host network:
              none

            QEMU:
              none

            Commands in the guest:
              ifconfig DEV mtu VALUE
              ifconfig DEV up

            Faults under which it must fail:
              unplugged: the tap is taken off the bridge
              no_vhost: vhost is switched off
        "#);
    }
}
