//! What iputils ping printed, on whichever side it ran. Pure.

use crate::base::error::CannotRun;
use anyhow::{Result, bail};
use std::collections::BTreeSet;
use std::fmt;

/// The outcome of a ping.
#[derive(Debug, Clone, PartialEq)]
pub struct PingReport {
    /// The command, as typed.
    pub command: String,
    /// Echo requests sent (or refused by the sender's own kernel: see `refused`).
    pub transmitted: u64,
    /// Replies, each request's first.
    pub received: u64,
    /// Per cent, as ping says.
    pub loss_percent: f64,
    /// ICMP errors and refusals.
    pub errors: u64,
    /// Further replies to the same request.
    pub duplicates: u64,
    /// Replies whose payload or checksum was wrong.
    pub corrupted: u64,
    /// Round trip times; none with a payload too small for a time stamp, or without replies.
    pub rtt: Option<Rtt>,
    /// Why the sender itself sent nothing, for example "packet size 65508 is too large" or "local
    /// error: message too long, mtu=1500".
    pub refused: Option<String>,
    /// All it printed.
    pub output: String,
}

/// Round trip times, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rtt {
    /// Shortest.
    pub min: f64,
    /// Mean.
    pub avg: f64,
    /// Longest.
    pub max: f64,
    /// Standard deviation.
    pub mdev: f64,
}

impl PingReport {
    /// Reads what `command` printed, standard output and standard error together. It is an error
    /// when that tells neither how many were lost nor why none were sent.
    pub fn parse(command: &str, output: &str) -> Result<PingReport> {
        let output = without_backspaces(output);
        let refused = output.lines().find_map(refusal);
        let mut report = PingReport {
            command: command.into(),
            transmitted: 0,
            received: 0,
            loss_percent: 100.0,
            errors: 0,
            duplicates: 0,
            corrupted: 0,
            rtt: output.lines().find_map(rtt),
            refused,
            output: String::new(),
        };
        let counted = output.lines().rev().any(|line| report.count(line));
        if !counted && report.refused.is_none() {
            let said = output.trim();
            let said = if said.is_empty() { "nothing" } else { said };
            bail!("`{command}` ended without its statistics; it printed: {said}");
        }
        report.output = output;
        Ok(report)
    }

    /// Takes in the line "10 packets transmitted, 9 received, +1 errors, 10% packet loss, time 9ms".
    fn count(&mut self, line: &str) -> bool {
        let (mut transmitted, mut received, mut loss) = (None, None, None);
        for part in line.split(", ") {
            let Some((number, what)) = part.trim().split_once(' ') else {
                continue;
            };
            let count = || number.trim_start_matches('+').parse().ok();
            match what {
                "packets transmitted" => transmitted = count(),
                "received" | "packets received" => received = count(),
                "errors" => self.errors = count().unwrap_or_default(),
                "duplicates" => self.duplicates = count().unwrap_or_default(),
                "corrupted" => self.corrupted = count().unwrap_or_default(),
                "packet loss" => loss = number.strip_suffix('%').and_then(|n| n.parse().ok()),
                _ => {}
            }
        }
        let (Some(transmitted), Some(received)) = (transmitted, received) else {
            return false;
        };
        self.transmitted = transmitted;
        self.received = received;
        // None is printed when nothing was sent.
        self.loss_percent = loss.unwrap_or(100.0);
        true
    }

    /// An error unless exactly `count` requests were sent and each was answered once, unharmed; [`CannotRun`]
    /// where each that was sent was, but the host did not get to send all.
    pub fn expect_all_answered(&self, count: u64) -> Result<()> {
        if self.has_only_clean(count) && self.received == count {
            return Ok(());
        }
        let sent = self.transmitted;
        if (1..count).contains(&sent) && self.has_only_clean(sent) && self.received == sent {
            bail!(CannotRun(format!(
                "this host was too busy for `{}`: of {count} requests it sent {sent} in time, which were all answered",
                self.command
            )));
        }
        let missing = match self.unanswered()[..] {
            [] => String::new(),
            ref missing => format!("; no reply to icmp_seq {}", missing.join(", ")),
        };
        bail!(
            "`{}` should have had {count} of {count} answered: {self}{missing}",
            self.command
        )
    }

    /// An error unless each of the first `count` requests was answered once, unharmed. Of a ping with `-w`,
    /// which awaits late replies, and sends further requests meanwhile.
    pub fn expect_first_answered(&self, count: u64) -> Result<()> {
        let answered = self.answered();
        let missing: Vec<String> = (1..=count)
            .filter(|seq| !answered.contains(seq))
            .map(|seq| seq.to_string())
            .collect();
        if missing.is_empty() && self.has_only_clean(self.transmitted) {
            return Ok(());
        }
        bail!(
            "`{}` should have had its first {count} answered: {self}; no reply to icmp_seq {}",
            self.command,
            missing.join(", ")
        )
    }

    /// Whether the sender's own ping or kernel would not send, as what was asked for is too large.
    pub fn is_refused_as_too_large(&self) -> bool {
        let words = ["too large", "too long"];
        let of_size = |why: &String| words.iter().any(|word| why.contains(word));
        self.received == 0 && self.refused.as_ref().is_some_and(of_size)
    }

    /// Whether all that is wrong is that some of `count` requests were not answered in time.
    pub fn lacks_only_replies(&self, count: u64) -> bool {
        self.has_only_clean(count) && self.received < count
    }

    /// Whether `count` requests were sent, and nothing came back harmed or twice.
    fn has_only_clean(&self, count: u64) -> bool {
        let clean = self.errors == 0 && self.duplicates == 0 && self.corrupted == 0;
        self.refused.is_none() && clean && self.transmitted == count
    }

    /// Sequence numbers that a reply was printed for.
    fn answered(&self) -> BTreeSet<u64> {
        let number = |line: &str| {
            let (_, rest) = line.split_once(" bytes from ")?.1.split_once("icmp_seq=")?;
            rest.split(' ').next()?.parse().ok()
        };
        self.output.lines().filter_map(number).collect()
    }

    /// Sequence numbers that no reply was printed for, the first 20; none for a flood, which prints
    /// no replies.
    fn unanswered(&self) -> Vec<String> {
        let answered = self.answered();
        if answered.is_empty() {
            return Vec::new();
        }
        let missing = (1..=self.transmitted).filter(|seq| !answered.contains(seq));
        missing.take(20).map(|seq| seq.to_string()).collect()
    }
}

impl fmt::Display for PingReport {
    /// "10 sent, 9 answered, 10 % lost", and whatever else went wrong.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PingReport {
            transmitted,
            received,
            loss_percent,
            ..
        } = self;
        write!(
            f,
            "{transmitted} sent, {received} answered, {loss_percent} % lost"
        )?;
        let more = [
            (self.errors, "errors"),
            (self.duplicates, "duplicates"),
            (self.corrupted, "corrupted"),
        ];
        for (count, what) in more.into_iter().filter(|&(count, _)| count > 0) {
            write!(f, ", {count} {what}")?;
        }
        match &self.refused {
            Some(why) => write!(f, "; the sender refused: {why}"),
            None => Ok(()),
        }
    }
}

/// Why the sender would not send, if this line says so. Of a payload too large iputils says "Error:
/// packet size 65508 is too large. Maximum is 65507" (to 2018; to root only a warning at first, and
/// then the kernel refuses), the same after "ping: " (2019), and since 2020 it leaves it to the
/// kernel, whose refusals come as "ping: local error: …", "ping: sendmsg: …" and "connect: …".
fn refusal(line: &str) -> Option<String> {
    let line = line.trim();
    let (who, message) = line.split_once(": ")?;
    let message = match who {
        "Error" => message,
        "connect" => line, // versions to 2018 print these without their name
        _ if who == "ping" || who.ends_with("/ping") => message,
        _ => return None,
    };
    let warning = message.to_ascii_lowercase().starts_with("warning");
    (!warning).then(|| message.trim_end_matches('.').to_owned())
}

/// From "rtt min/avg/max/mdev = 0.045/0.061/0.087/0.012 ms, pipe 2".
fn rtt(line: &str) -> Option<Rtt> {
    let (_, figures) = line.trim().strip_prefix("rtt ")?.split_once(" = ")?;
    let (figures, _) = figures.split_once(" ms")?;
    let mut figures = figures.split('/').map(|figure| figure.parse().ok());
    let mut next = || figures.next().flatten();
    Some(Rtt {
        min: next()?,
        avg: next()?,
        max: next()?,
        mdev: next()?,
    })
}

/// A flood prints a dot for each request and takes it back with each reply.
fn without_backspaces(output: &str) -> String {
    let mut kept = String::with_capacity(output.len());
    for c in output.chars() {
        match c {
            '\u{8}' => drop(kept.pop()),
            _ => kept.push(c),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(output: &str) -> PingReport {
        PingReport::parse("ping 198.18.0.2", output).unwrap()
    }

    /// iputils 20221126 (Debian 12).
    const ANSWERED: &str = "\
PING 198.18.0.2 (198.18.0.2) 56(84) bytes of data.
64 bytes from 198.18.0.2: icmp_seq=1 ttl=64 time=0.051 ms
64 bytes from 198.18.0.2: icmp_seq=2 ttl=64 time=0.068 ms

--- 198.18.0.2 ping statistics ---
2 packets transmitted, 2 received, 0% packet loss, time 13ms
rtt min/avg/max/mdev = 0.051/0.059/0.068/0.008 ms
";

    #[test]
    fn all_answered() {
        let report = parse(ANSWERED);
        assert_eq!(
            (report.transmitted, report.received, report.loss_percent),
            (2, 2, 0.0)
        );
        assert_eq!(
            report.rtt,
            Some(Rtt {
                min: 0.051,
                avg: 0.059,
                max: 0.068,
                mdev: 0.008
            })
        );
        assert_eq!(
            (report.errors, report.duplicates, report.refused.clone()),
            (0, 0, None)
        );
        report.expect_all_answered(2).unwrap();
        assert!(!report.lacks_only_replies(2) && !report.lacks_only_replies(3));
        let error = report.expect_all_answered(3).unwrap_err();
        assert_eq!(
            error.to_string(),
            "this host was too busy for `ping 198.18.0.2`: of 3 requests it sent 2 in time, which were all answered"
        );
        assert!(error.is::<CannotRun>());
    }

    #[test]
    fn payload_too_small_for_times() {
        let report = parse(
            "PING 127.0.0.1 (127.0.0.1) 0(28) bytes of data.\n\
             8 bytes from 127.0.0.1: icmp_seq=1 ttl=64\n\n--- 127.0.0.1 ping statistics ---\n\
             1 packets transmitted, 1 received, 0% packet loss, time 0ms\n\n",
        );
        assert_eq!((report.received, report.rtt), (1, None));
        report.expect_all_answered(1).unwrap();
    }

    #[test]
    fn a_late_reply_is_told_from_a_lost_one() {
        let line =
            |seq: u64| format!("64 bytes from 10.0.0.2: icmp_seq={seq} ttl=64 time=9.20 ms\n");
        let report = |answered: &[u64], sent: u64, more: &str| {
            let lines: String = answered.iter().map(|seq| line(*seq)).collect();
            let received = answered.len();
            let text = format!(
                "{lines}\n{sent} packets transmitted, {received} received{more}, 9% packet loss, time 404ms\n"
            );
            PingReport::parse("ping", &text).unwrap()
        };
        // A fourth request left before the reply to the third was there.
        report(&[1, 2, 3], 4, "").expect_first_answered(3).unwrap();
        report(&[2, 1, 3], 3, "").expect_first_answered(3).unwrap();
        let lost = report(&[1, 2, 4], 4, "").expect_first_answered(3);
        let lost = lost.unwrap_err().to_string();
        assert!(lost.ends_with("no reply to icmp_seq 3"), "{lost}");
        for more in [", +1 duplicates", ", +1 errors", ", +1 corrupted"] {
            report(&[1, 2, 3], 3, more)
                .expect_first_answered(3)
                .unwrap_err();
        }
    }

    #[test]
    fn the_unanswered_are_named() {
        let report = parse(
            &ANSWERED
                .replace("icmp_seq=1", "icmp_seq=3")
                .replace("2 packets", "4 packets"),
        );
        let error = report.expect_all_answered(4).unwrap_err().to_string();
        assert!(error.ends_with("; no reply to icmp_seq 1, 4"), "{error}");
    }

    #[test]
    fn some_lost_and_fractions() {
        let report = parse(
            "--- x ping statistics ---\n3 packets transmitted, 1 received, 66.6667% packet loss, time 2003ms\n\
             rtt min/avg/max/mdev = 1.234/1.234/1.234/0.000 ms, pipe 2, ipg/ewma 0.021/0.016 ms",
        );
        assert_eq!((report.transmitted, report.received), (3, 1));
        assert_eq!(report.loss_percent, 66.6667);
        assert_eq!(report.rtt.unwrap().mdev, 0.0);
        assert!(report.expect_all_answered(3).is_err());
        assert!(report.lacks_only_replies(3));
    }

    #[test]
    fn errors_duplicates_corruption() {
        let report = parse(
            "From 198.18.0.1 icmp_seq=1 Destination Host Unreachable\n\n\
             --- 198.18.0.7 ping statistics ---\n\
             2 packets transmitted, 0 received, +2 errors, 100% packet loss, time 100ms\npipe 2\n",
        );
        assert_eq!(
            (report.errors, report.loss_percent, report.refused),
            (2, 100.0, None)
        );
        let report = parse(
            "5 packets transmitted, 5 received, +2 duplicates, +1 corrupted, +3 errors, 0% packet loss, time 4ms",
        );
        assert_eq!(
            (report.duplicates, report.corrupted, report.errors),
            (2, 1, 3)
        );
        let error = report.expect_all_answered(5).unwrap_err().to_string();
        assert!(
            error.ends_with("5 sent, 5 answered, 0 % lost, 3 errors, 2 duplicates, 1 corrupted"),
            "{error}"
        );
        for one in ["+1 duplicates", "+1 corrupted", "+1 errors"] {
            let line =
                format!("5 packets transmitted, 5 received, {one}, 0% packet loss, time 4ms");
            assert!(parse(&line).expect_all_answered(5).is_err(), "{one}");
            let one_missing = parse(&line.replace("5 received", "4 received"));
            assert!(!one_missing.lacks_only_replies(5), "{one}");
        }
    }

    #[test]
    fn each_wording_of_a_refusal() {
        for (text, why) in [
            // RHEL 6, iputils 20071127
            (
                "Error: packet size 65508 is too large. Maximum is 65507\n",
                "packet size 65508 is too large. Maximum is 65507",
            ),
            // s20190709
            (
                "ping: packet size 65508 is too large. Maximum is 65507\n",
                "packet size 65508 is too large. Maximum is 65507",
            ),
            // the same, of sizes beyond its buffer
            (
                "ping: invalid argument: '200000': out of range: 0 <= value <= 127992\n",
                "invalid argument: '200000': out of range: 0 <= value <= 127992",
            ),
            (
                "ping: connect: Network is unreachable\n",
                "connect: Network is unreachable",
            ),
            (
                "connect: Network is unreachable\n",
                "connect: Network is unreachable",
            ),
            (
                "/usr/bin/ping: socket: Operation not permitted\n",
                "socket: Operation not permitted",
            ),
        ] {
            let report = parse(text);
            assert_eq!(report.refused.as_deref(), Some(why));
            let of_size = why.contains("too l");
            assert_eq!(report.is_refused_as_too_large(), of_size, "{why}");
            assert_eq!((report.transmitted, report.loss_percent), (0, 100.0));
            assert!(report.expect_all_answered(0).is_err());
        }
        // Debian 12, 20221126: the kernel refuses, ping counts it as sent.
        let report = parse(
            "PING 127.0.0.1 (127.0.0.1) 65508(65536) bytes of data.\n\
             ping: local error: message too long, mtu=65535\n\n--- 127.0.0.1 ping statistics ---\n\
             1 packets transmitted, 0 received, +1 errors, 100% packet loss, time 0ms\n\n",
        );
        assert_eq!(
            report.to_string(),
            "1 sent, 0 answered, 100 % lost, 1 errors; the sender refused: local error: message too long, mtu=65535"
        );
    }

    #[test]
    fn old_versions_warn_root_and_let_the_kernel_refuse() {
        let report = parse(
            "WARNING: packet size 65508 is too large. Maximum is 65507\n\
             PING x (198.18.0.2) 65508(65536) bytes of data.\nping: sendmsg: Message too long\n\n\
             --- x ping statistics ---\n1 packets transmitted, 0 received, 100% packet loss, time 0ms\n",
        );
        assert_eq!(report.refused.as_deref(), Some("sendmsg: Message too long"));
        assert_eq!((report.transmitted, report.received), (1, 0));
        assert!(report.is_refused_as_too_large());
        // A request that is merely lost.
        let lost = parse("1 packets transmitted, 0 received, 100% packet loss, time 0ms\n");
        assert!(!lost.is_refused_as_too_large());
    }

    #[test]
    fn a_warning_is_no_refusal() {
        let report = parse(&format!(
            "ping: Warning: source address might be selected on device other than: lo\n{ANSWERED}"
        ));
        report.expect_all_answered(2).unwrap();
    }

    #[test]
    fn a_flood_keeps_the_dots_of_the_lost() {
        let report = parse(
            "PING x (198.18.0.2) 56(84) bytes of data.\n.\u{8} \u{8}..\u{8} \u{8}\n--- x ping statistics ---\n\
             3 packets transmitted, 2 received, 33.3333% packet loss, time 0ms\n",
        );
        assert!(
            report.output.contains("data.\n.\n---"),
            "{:?}",
            report.output
        );
    }

    #[test]
    fn neither_statistics_nor_refusal_is_an_error() {
        for text in [
            "",
            "PING x (198.18.0.2) 56(84) bytes of data.\n64 bytes from 198.18.0.2: icmp_seq=1\n",
            "sh: ping: not found",
        ] {
            let error = PingReport::parse("ping x", text).unwrap_err().to_string();
            assert!(
                error.starts_with("`ping x` ended without its statistics; it printed: "),
                "{error}"
            );
        }
    }
}
