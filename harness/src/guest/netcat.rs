//! Netcat in each release's words: OpenBSD's up to RHEL 6, Nmap's from RHEL 7 on.

use crate::matrix::schema::Dialect;
use Dialect::{Rhel4, Rhel5, Rhel6, Rhel7, Rhel8, Rhel9, Rhel10};
use std::net::IpAddr;
use std::time::Duration;

/// The netcat that a release has. OpenBSD's takes whole seconds without a unit, and Ncat refuses 100
/// and more without one.
enum Netcat {
    Openbsd,
    Ncat,
}

/// Both programs, for a fault that puts a script in their place.
pub const PROGRAMS: [&str; 2] = ["nc", "ncat"];

/// A pattern of the shell's `case` that the arguments, with blanks around them, match when netcat is
/// to receive.
pub const RECEIVES: &str = "*' -d '*|*' --recv-only '*";

impl Dialect {
    fn netcat(self) -> Netcat {
        match self {
            Rhel4 | Rhel5 | Rhel6 => Netcat::Openbsd,
            Rhel7 | Rhel8 | Rhel9 | Rhel10 => Netcat::Ncat,
        }
    }

    /// The shell command that sends its standard input by UDP and ends with it, where a person would
    /// press Ctrl-C.
    pub fn send_udp(self, host: IpAddr, port: u16) -> String {
        match self.netcat() {
            Netcat::Openbsd => format!("nc -u -q 0 {host} {port}"),
            Netcat::Ncat => format!("ncat -u --send-only {host} {port}"),
        }
    }

    /// The shell command that sends its standard input by TCP, ends the stream, and gives up when
    /// nothing has moved for `idle`.
    pub fn send_tcp(self, host: IpAddr, port: u16, idle: Duration) -> String {
        let idle = seconds(idle);
        match self.netcat() {
            Netcat::Openbsd => format!("nc -w {idle} -N {host} {port}"),
            Netcat::Ncat => format!("ncat -w {idle}s -i {idle}s --send-only {host} {port}"),
        }
    }

    /// The shell command that receives by TCP to its standard output, and gives up likewise.
    pub fn receive_tcp(self, host: IpAddr, port: u16, idle: Duration) -> String {
        let idle = seconds(idle);
        match self.netcat() {
            Netcat::Openbsd => format!("nc -w {idle} -d {host} {port}"),
            Netcat::Ncat => format!("ncat -w {idle}s -i {idle}s --recv-only {host} {port}"),
        }
    }

    /// The shell command that listens on a TCP port, takes one connection and receives to its standard output, and
    /// gives up likewise once it is connected.
    pub fn listen_tcp(self, port: u16, idle: Duration) -> String {
        let idle = seconds(idle);
        match self.netcat() {
            Netcat::Openbsd => format!("nc -w {idle} -d -l {port}"),
            Netcat::Ncat => format!("ncat -i {idle}s --recv-only -l {port}"),
        }
    }
}

fn seconds(idle: Duration) -> f64 {
    idle.as_secs_f64().ceil()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_releases_words() {
        let host = IpAddr::from([198, 18, 0, 1]);
        let idle = Duration::from_millis(2500);
        let words = |dialect: Dialect| {
            [
                dialect.send_udp(host, 1234),
                dialect.send_tcp(host, 1234, idle),
                dialect.receive_tcp(host, 1234, idle),
                dialect.listen_tcp(1234, idle),
            ]
            .join("\n")
        };
        insta::assert_snapshot!(words(Rhel6), @r"
        nc -u -q 0 198.18.0.1 1234
        nc -w 3 -N 198.18.0.1 1234
        nc -w 3 -d 198.18.0.1 1234
        nc -w 3 -d -l 1234
        ");
        insta::assert_snapshot!(words(Rhel7), @r"
        ncat -u --send-only 198.18.0.1 1234
        ncat -w 3s -i 3s --send-only 198.18.0.1 1234
        ncat -w 3s -i 3s --recv-only 198.18.0.1 1234
        ncat -i 3s --recv-only -l 1234
        ");
    }
}
