//! Plan item 21: netperf, from and to the guest.

use super::faults::{IN_TRAFFIC, TAP_UNPLUGGED};
use super::{Case, Fault, Load, Moment, Red};
use crate::base::deadline;
use crate::guest::agent::{Agent, said};
use crate::guest::dialect::Op;
use crate::net::addr;
use crate::net::bridge;
use crate::net::netperf::{self, Server, Test, once_through_the_loop, sweep};
use crate::net::outside::Outside;
use crate::net::sabotage;
use crate::testbed::Testbed;
use anyhow::{bail, ensure};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// netperf's tests in the longest case: ten sizes both ways, and the plan's loop of five.
const MOST_TESTS: f64 = 25.0;
/// The place of the second guest, and of the external host.
const SECOND: u8 = 1;

const NO_SERVER: Fault = Fault {
    name: "no_server",
    breaks: "the guest's netserver is killed",
    inject: |bed| bed.agent.sh("killall netserver").map(drop),
    red: Red::Says("ended with"),
    ..IN_TRAFFIC
};

/// Plan item 21, between host and guest.
pub static NETPERF_HOST: Case = Case {
    name: "netperf_host",
    plan_item: "21, 1)",
    passes: "UDP_STREAM of the plan's ten sizes both ways between host and guest, and the plan's loop of TCP_STREAM, UDP_STREAM, TCP_RR, TCP_CRR and UDP_RR towards the guest, all end; what netperf says arrived has crossed the guest's tap; every figure is kept",
    load: Load::Alone,
    ops: &[Op::Address],
    seconds: |profile| {
        let timed = f64::from(profile.netperf_seconds.unwrap_or_default()) * netperf::LONGEST;
        // Whatever it measures for, a test begins and ends.
        timed + MOST_TESTS * deadline::NETPERF.seconds
    },
    faults: &[
        NO_SERVER,
        Fault {
            name: "short_cut",
            breaks: "the host itself takes the guest's address, and talks to itself",
            inject: |bed| sabotage::take_address(bed.address()),
            red: Red::Says("crossed the guest's tap"),
            ..IN_TRAFFIC
        },
    ],
    run: netperf_host,
    ..Case::PLAIN
};

/// Plan item 21, between two guests.
pub static NETPERF_GUESTS: Case = Case {
    name: "netperf_guests",
    plan_item: "21, 2)",
    passes: "as netperf_host's sweep, between two guests",
    faults: &[
        NO_SERVER,
        Fault {
            red: Red::Says("are you sure there is a netserver"),
            ..TAP_UNPLUGGED
        },
    ],
    run: netperf_guests,
    ..NETPERF_HOST
};

/// Plan item 21, between an external host and a guest.
pub static NETPERF_EXTERNAL: Case = Case {
    name: "netperf_external",
    plan_item: "21, 3)",
    passes: "as netperf_host's sweep, with a host of its own network behind the bridge",
    faults: &[NO_SERVER],
    run: netperf_external,
    ..NETPERF_HOST
};

/// The other end of the measurement.
enum Far<'e> {
    Host,
    Guest(&'e Agent),
    Outside(&'e Outside),
}

#[derive(Clone, Copy)]
enum Way {
    ToGuest,
    FromGuest,
}

/// Measures between host and guest: the sweep over all sizes both ways, then the plan's loop towards
/// the guest.
fn netperf_host(bed: &mut Testbed) -> anyhow::Result<()> {
    let programs = ready(bed)?;
    let mut server = Server::start(&programs)?;
    serve(&bed.agent)?;
    bed.moment(Moment::Traffic)?;
    let tests = once_through_the_loop(bed.profile.netperf_seconds);
    let measured = both_ways(bed, &programs, &Far::Host)
        .and_then(|()| measure(bed, &programs, &Far::Host, Way::ToGuest, &tests));
    server.answers_for(measured)
}

/// Brings up a second guest, and measures the sweep between the two both ways.
fn netperf_guests(bed: &mut Testbed) -> anyhow::Result<()> {
    let programs = ready(bed)?;
    let peer = bed.peer(SECOND)?;
    drop(peer.wire);
    serve(&peer.agent)?;
    serve(&bed.agent)?;
    bed.moment(Moment::Traffic)?;
    both_ways(bed, &programs, &Far::Guest(&peer.agent))
}

/// Plugs an external host into the bridge, and measures the sweep between it and the guest both ways.
fn netperf_external(bed: &mut Testbed) -> anyhow::Result<()> {
    let programs = ready(bed)?;
    let outside = Outside::plug(&bed.bridge, None, addr::guest(SECOND))?;
    let theirs = programs.clone();
    let mut server = outside.run(move || Server::start(&theirs))?;
    serve(&bed.agent)?;
    bed.moment(Moment::Traffic)?;
    let measured = both_ways(bed, &programs, &Far::Outside(&outside));
    server.answers_for(measured)
}

/// The guest is reached, and nothing that runs here looks at its frames any more, which would take time from what is
/// measured.
fn ready(bed: &mut Testbed) -> anyhow::Result<PathBuf> {
    bed.up()?;
    bed.stop_captures();
    bed.netperf()
}

/// netserver listens before it goes to the background.
fn serve(agent: &Agent) -> anyhow::Result<()> {
    agent.sh("netserver -4 >/dev/null 2>&1").map(drop)
}

fn both_ways(bed: &mut Testbed, programs: &Path, far: &Far) -> anyhow::Result<()> {
    let tests = sweep(bed.profile.netperf_seconds);
    measure(bed, programs, far, Way::ToGuest, &tests)?;
    measure(bed, programs, far, Way::FromGuest, &tests)
}

fn measure(
    bed: &mut Testbed,
    programs: &Path,
    far: &Far,
    way: Way,
    tests: &[Test],
) -> anyhow::Result<()> {
    let tap = bed.nic().tap.clone();
    let mut arrived = 0;
    for test in tests {
        let each = bed.profile.netperf_seconds;
        let more = Duration::from_secs(test.seconds(each).unwrap_or(0).into());
        let (_, before) = taps_bytes(&tap, way)?;
        let cost_before = bed.cost();
        let (sender, receiver, printed) = match way {
            Way::ToGuest => {
                let arguments = test.arguments(bed.address(), each);
                (
                    far.name(),
                    "guest",
                    far.netperf(programs, &arguments, more)?,
                )
            }
            Way::FromGuest => {
                let arguments = test.arguments(far.address(), each);
                let printed = in_guest(&bed.agent, &arguments, more)?;
                ("guest", far.name(), printed)
            }
        };
        let cost = bed.cost().zip(cost_before);
        let mut figure = test.figure(&printed, sender, receiver, bed.profile.measures())?;
        let (direction, after) = taps_bytes(&tap, way)?;
        let crossed = after - before;
        ensure!(
            crossed >= figure.received_bytes,
            "netperf says that {} bytes arrived ({figure}), but {crossed} bytes crossed the guest's tap \
             {direction} meanwhile",
            figure.received_bytes
        );
        figure.cpu_seconds = cost.map(|(after, before)| (after - before).as_secs_f64());
        arrived += figure.received_bytes;
        bed.figures.push(figure);
    }
    ensure!(
        arrived > 0,
        "nothing of {} tests arrived, from {tests:?}",
        tests.len()
    );
    bed.expect_quiet_kernel()
}

/// What the host has sent into the guest's tap, or received from it, bytes.
fn taps_bytes(tap: &str, way: Way) -> anyhow::Result<(&'static str, u64)> {
    let (received, sent) = bridge::carried(tap)?;
    Ok(match way {
        Way::ToGuest => ("towards the guest", sent),
        Way::FromGuest => ("from the guest", received),
    })
}

impl Far<'_> {
    fn name(&self) -> &'static str {
        match self {
            Far::Host => "host",
            Far::Guest(_) => "second guest",
            Far::Outside(_) => "external host",
        }
    }

    fn address(&self) -> Ipv4Addr {
        match self {
            Far::Host => addr::HOST,
            Far::Guest(_) | Far::Outside(_) => addr::guest(SECOND),
        }
    }

    fn netperf(
        &self,
        programs: &Path,
        arguments: &[String],
        more: Duration,
    ) -> anyhow::Result<String> {
        match self {
            Far::Host => netperf::run(programs, arguments, more),
            Far::Guest(agent) => in_guest(agent, arguments, more),
            Far::Outside(outside) => {
                let (programs, arguments) = (programs.to_owned(), arguments.to_vec());
                outside.run(move || netperf::run(&programs, &arguments, more))
            }
        }
    }
}

fn in_guest(agent: &Agent, arguments: &[String], more: Duration) -> anyhow::Result<String> {
    let limit = deadline::NETPERF.start_with(more);
    let command = format!("netperf {}", arguments.join(" "));
    let seconds = limit.span().as_secs_f64().ceil();
    let output = agent.run_for(&format!("timeout {seconds} {command}"), limit.span())?;
    match output.code {
        0 => Ok(output.stdout),
        // Of timeout: coreutils' 124, and 143, that of the signal, from busybox.
        124 | 143 => Err(limit.missed(format!("in the guest, `{command}` had not"))),
        code => bail!(
            "in the guest, `{command}` ended with {code}: {}",
            said(&output)
        ),
    }
}
