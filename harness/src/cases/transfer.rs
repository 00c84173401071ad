//! Plan item 15: a big file through netcat by TCP, both ways.

use super::faults::{AT_START, IN_TRAFFIC, TAP_UNPLUGGED, wrap};
use super::{Case, Fault, Moment, Red, damage};
use crate::base::deadline::{self, Deadline};
use crate::base::error::OrCannotRun as _;
use crate::guest::agent::{Agent, Running, said};
use crate::guest::dialect::Op;
use crate::guest::netcat::{self, RECEIVES};
use crate::matrix::schema::Profile;
use crate::net::addr::HOST;
use crate::net::bridge;
use crate::net::transfer::{self, BLOCK, Crossed, TcpPort};
use crate::testbed::Testbed;
use anyhow::{Context as _, anyhow, bail, ensure};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// The file that the guest sends.
pub(super) const SENT: &str = "/tmp/nicmatrix-sent";
/// The file that the guest receives.
const RECEIVED: &str = "/tmp/nicmatrix-received";

/// A file that is not what it was when it was hashed.
pub(super) const ALTERED: Fault = Fault {
    name: "altered",
    breaks: "a byte of the guest's file is changed on its way to the NIC",
    inject: |bed| {
        let command = format!("printf x | dd of={SENT} bs=1 seek=100000 conv=notrunc");
        bed.agent.sh(&command).map(drop)
    },
    red: Red::Says("arrived at the host as"),
    ..IN_TRAFFIC
};

/// The guest sends another file from the start.
pub(super) const CHANGED: Fault = Fault {
    name: "changed",
    breaks: "the guest's netcat sends another file than it was given",
    inject: |bed| {
        let mut programs = netcat::PROGRAMS.iter();
        programs.try_for_each(|program| wrap(bed, program, "tr 0 1 | \"$REAL\" \"$@\""))
    },
    red: Red::Says("arrived at the host as"),
    ..AT_START
};

/// What arrives is more than was sent.
pub(super) const APPENDED: Fault = Fault {
    name: "appended",
    breaks: "the guest's netcat adds a byte to what it receives",
    inject: |bed| {
        let script =
            format!("\"$REAL\" \"$@\" || exit; case \" $* \" in {RECEIVES}) printf x;; esac");
        netcat::PROGRAMS
            .iter()
            .try_for_each(|program| wrap(bed, program, &script))
    },
    red: Red::Says("arrived at the guest as"),
    ..IN_TRAFFIC
};

/// Plan item 15, by TCP.
pub static TCP_TRANSFER: Case = Case {
    name: "tcp_transfer",
    plan_item: "15",
    passes: "a file that netcat sends to the host, and one that it receives, have the same SHA-256 at both ends, and the tap carried all of it",
    ops: &[Op::Address],
    seconds,
    faults: &[
        ALTERED,
        APPENDED,
        Fault {
            red: Red::Missed(deadline::TRANSFER),
            ..TAP_UNPLUGGED
        },
        damage::CHANGED_TCP,
        damage::CHANGED_TO_GUEST,
        damage::CUT_TO_GUEST,
        damage::CHANGED_UDP,
        damage::BLANK_UDP,
        damage::CHANGED_ICMP,
        damage::CHANGED_IPV4,
        damage::CUT_SHORT,
        damage::NEVER_CUT,
        damage::CUT_TOO_LONG,
        damage::COMPLETED_ELSEWHERE,
        damage::FOREIGN_SOURCE,
        damage::TAGGED,
        damage::SENT_TWICE,
        damage::CUT_ALIKE,
        damage::CUT_PUSHING,
        damage::OVERTAKEN,
    ],
    run: tcp_transfer,
    ..Case::PLAIN
};

/// The file is written, hashed, sent each way, and hashed again.
pub(super) fn seconds(profile: &Profile) -> f64 {
    f64::from(profile.transfer_mib) * deadline::TRANSFER_MIB * 6.0
}

/// Has the guest write a file and send it by TCP, then receive one. Each must have the same SHA-256 at
/// both ends, and the tap must have carried all of it.
fn tcp_transfer(bed: &mut Testbed) -> anyhow::Result<()> {
    bed.up()?;
    let blocks = transfer::blocks(bed.profile.transfer_mib);
    make_file(bed, blocks)?;
    bed.moment(Moment::Traffic)?;
    let sent = from_guest(bed, HOST.into(), blocks, Duration::ZERO)?;
    // The guest's memory has room for one.
    bed.agent.sh(&format!("rm {SENT}"))?;
    let received = to_guest(bed, HOST.into(), blocks, Duration::ZERO)?;
    bed.notes.push(format!(
        "{} from the guest, {} to it",
        rate(blocks, sent),
        rate(blocks, received)
    ));
    bed.expect_quiet_kernel()
}

/// Has the guest write the file of so many blocks that it is going to send.
pub(super) fn make_file(bed: &Testbed, blocks: u32) -> anyhow::Result<()> {
    let command = transfer::write_command(blocks, SENT);
    let command = format!("{command} && sha256sum {SENT}");
    let span = limit(blocks, Duration::ZERO).span();
    let output = bed.agent.run_for(&command, span)?;
    ensure!(
        output.code == 0,
        "the guest cannot write a file of {blocks} KiB: {}",
        said(&output)
    );
    let expected = transfer::sha256(blocks);
    let written = output.stdout.split(' ').next().unwrap_or_default();
    ensure!(
        written == expected,
        "the guest was to write a file with SHA-256 {expected}, and sha256sum says: {}",
        said(&output)
    );
    Ok(())
}

/// Sends the guest's file of so many blocks to the host's address by TCP, and compares what came with what
/// was sent; how long it took. It may take `more` than its size does.
pub(super) fn from_guest(
    bed: &Testbed,
    host: IpAddr,
    blocks: u32,
    more: Duration,
) -> anyhow::Result<Duration> {
    from_guest_to(bed, host, &TcpPort::open(host)?, blocks, more)
}

/// As [`from_guest`], to a port that is open at that address.
pub(super) fn from_guest_to(
    bed: &Testbed,
    host: IpAddr,
    port: &TcpPort,
    blocks: u32,
    more: Duration,
) -> anyhow::Result<Duration> {
    let (begun, limit) = (Instant::now(), limit(blocks, more));
    let (before, _) = bridge::carried(&bed.nic().tap)?;
    let (sending, command) = begin_to_send(bed, host, port, limit)?;
    let received = port.receive(limit);
    let crossed = ended(bed, (sending, &command), limit, received)?;
    let took = begun.elapsed();
    expect_whole(&crossed, blocks)?;
    let (after, _) = bridge::carried(&bed.nic().tap)?;
    carried_all(after - before, &crossed)?;
    Ok(took)
}

/// As [`from_guest`], the other way.
pub(super) fn to_guest(
    bed: &Testbed,
    host: IpAddr,
    blocks: u32,
    more: Duration,
) -> anyhow::Result<Duration> {
    let (begun, limit) = (Instant::now(), limit(blocks, more));
    let (_, before) = bridge::carried(&bed.nic().tap)?;
    receive(bed, host, (0..blocks).map(transfer::block), RECEIVED, limit)?;
    let took = begun.elapsed();
    let span = self::limit(blocks, Duration::ZERO).span();
    let crossed = take(&bed.agent, RECEIVED, span)?;
    let expected = whole(blocks);
    ensure!(
        crossed == expected,
        "the host's file of {expected} arrived at the guest as {crossed}"
    );
    let (_, after) = bridge::carried(&bed.nic().tap)?;
    carried_all(after - before, &expected)?;
    Ok(took)
}

/// Sends a file of the host's to the guest, by TCP.
pub(super) fn give(bed: &Testbed, from: &Path, to: &str) -> anyhow::Result<()> {
    let content = std::fs::read(from).or_cannot_run(|| format!("read {}", from.display()))?;
    let limit = limit(content.len().div_ceil(BLOCK) as u32, Duration::ZERO);
    receive(bed, HOST.into(), [&content], to, limit)?;
    let bytes: u64 = bed.agent.sh(&format!("wc -c <{to}"))?.trim().parse()?;
    ensure!(
        bytes == content.len() as u64,
        "of {}, {} bytes, {bytes} arrived at the guest",
        from.display(),
        content.len()
    );
    Ok(())
}

/// Has the guest receive by TCP what the host sends in parts, as the file `to`.
fn receive(
    bed: &Testbed,
    host: IpAddr,
    parts: impl IntoIterator<Item: AsRef<[u8]>>,
    to: &str,
    limit: Deadline,
) -> anyhow::Result<()> {
    let port = TcpPort::open(host)?;
    let dialect = bed.cell.guest.dialect;
    let netcat = dialect.receive_tcp(host, port.number(), limit.span());
    let command = format!("{netcat} >{to}");
    let receiving = bed.agent.start(&command)?;
    ended(bed, (receiving, &command), limit, port.send(parts, limit))
}

pub(super) fn whole(blocks: u32) -> Crossed {
    Crossed {
        bytes: u64::from(blocks) * BLOCK as u64,
        sha256: transfer::sha256(blocks),
    }
}

fn carried_all(bytes: u64, file: &Crossed) -> anyhow::Result<()> {
    ensure!(
        bytes >= file.bytes,
        "a file of {} bytes crossed, but the tap carried {bytes}",
        file.bytes
    );
    Ok(())
}

/// Has the guest begin to send its file to a port of the host's: the command that runs, and its text.
pub(super) fn begin_to_send(
    bed: &Testbed,
    host: IpAddr,
    port: &TcpPort,
    limit: Deadline,
) -> anyhow::Result<(Running, String)> {
    let dialect = bed.cell.guest.dialect;
    let netcat = dialect.send_tcp(host, port.number(), limit.span());
    let command = format!("{netcat} <{SENT}");
    Ok((bed.agent.start(&command)?, command))
}

/// Fails unless what came to the host from the guest is the file of so many blocks.
pub(super) fn expect_whole(crossed: &Crossed, blocks: u32) -> anyhow::Result<()> {
    let expected = whole(blocks);
    ensure!(
        *crossed == expected,
        "the guest's file of {expected} arrived at the host as {crossed}"
    );
    Ok(())
}

/// The host's result, once the guest's command has ended as well; where that failed, with what it said. Its netcat waits
/// by the guest's clock, which goes on where the host lets nothing run: then its failure, of what began with `limit`,
/// is the host's.
pub(super) fn ended<T>(
    bed: &Testbed,
    (running, command): (Running, &str),
    limit: Deadline,
    host: anyhow::Result<T>,
) -> anyhow::Result<T> {
    let guest = bed.agent.finish(running, Duration::ZERO);
    let in_guest = format!("in the guest, `{command}`");
    match (host, guest) {
        (host, Ok(output)) if output.code == 0 => {
            host.with_context(|| format!("the host's end of `{command}`"))
        }
        (host, Ok(output)) => {
            let failed = format!("{in_guest} ended with {}: {}", output.code, said(&output));
            Err(limit.excused(match host {
                Ok(_) => anyhow!(failed),
                Err(error) => error.context(failed),
            }))
        }
        (Ok(_), Err(guest)) => Err(guest.context(in_guest)),
        (Err(error), Err(guest)) => Err(error.context(format!("{in_guest}: {guest:#}"))),
    }
}

/// How long a file of so many blocks may take, and `more`.
pub(super) fn limit(blocks: u32, more: Duration) -> Deadline {
    let mib = f64::from(blocks) / f64::from(transfer::blocks(1));
    let further = (mib - 1.0).max(0.0) * deadline::TRANSFER_MIB * deadline::speed();
    deadline::TRANSFER.start_with(Duration::from_secs_f64(further) + more)
}

/// What a guest received in the file at `path`, which it removes. It may take `more`.
pub(super) fn take(agent: &Agent, path: &str, more: Duration) -> anyhow::Result<Crossed> {
    let look = format!("wc -c <{path} && sha256sum {path} && rm {path}");
    let output = agent.run_for(&look, more)?;
    let mut words = output.stdout.split_whitespace();
    let bytes = words.next().and_then(|bytes| bytes.parse().ok());
    let sha256 = words.next().filter(|hash| hash.len() == 64);
    match (output.code, bytes, sha256) {
        (0, Some(bytes), Some(sha256)) => Ok(Crossed {
            bytes,
            sha256: sha256.to_owned(),
        }),
        _ => bail!(
            "the guest was to say what it received, and said: {}",
            said(&output)
        ),
    }
}

/// For the notes.
pub(super) fn rate(blocks: u32, took: Duration) -> String {
    let mib = f64::from(blocks) / f64::from(transfer::blocks(1));
    format!("{:.1} MiB/s", mib / took.as_secs_f64())
}
