//! The file of [`super::transfer`] by UDP: a port of the host's that says which pieces of it came, and what
//! the host owns up to having dropped.

use super::ip;
use super::transfer::{BLOCK, NUMBER, block};
use crate::base::error::OrCannotRun as _;
use anyhow::{Context as _, Result};
use nix::sys::socket::{setsockopt, sockopt};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

/// Room for what a guest sends while the reader is not scheduled, bytes.
const RECEIVE_BUFFER: usize = 16 << 20;

/// Datagrams taken for each piece of a file, at most: a guest that sends more sends some twice or corrupt, which is
/// found in these already.
const DATAGRAMS: usize = 4;

/// A UDP port of the host's that takes the file in pieces.
pub struct UdpSink {
    socket: UdpSocket,
    port: u16,
    /// The file, bytes.
    size: usize,
    /// Of a piece, bytes; the last one may be shorter.
    piece: usize,
    /// By number, how often a piece came.
    seen: Vec<u32>,
    /// One more than the highest number that came.
    next: usize,
    overtaken: u32,
    datagrams: usize,
    corrupt: u32,
    /// The first of these, in words.
    first_corrupt: Option<String>,
}

/// What came of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// Pieces that did not come.
    pub lost: u32,
    /// Pieces that came again.
    pub twice: u32,
    /// Pieces that came after a later one.
    pub overtaken: u32,
    /// What came that is no piece of the file.
    pub corrupt: u32,
    /// The first of these, in words.
    pub first_corrupt: Option<String>,
}

impl UdpSink {
    /// Opens a port at the host's address for the file's first `size` bytes, in the calling thread's network. They
    /// come in pieces of `piece` bytes, of which a datagram may hold several. (Two pieces within one block are the
    /// same: they must be longer than half a block.)
    pub fn open(host: IpAddr, size: usize, piece: usize) -> Result<UdpSink> {
        let open = || {
            let socket = UdpSocket::bind((host, 0))?;
            // Larger than the system's limit, which only the namespace's owner may exceed.
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            anyhow::Ok(socket)
        };
        let socket = open().or_cannot_run(|| "receive UDP on the host".into())?;
        UdpSink::of(socket, size, piece)
    }

    fn of(socket: UdpSocket, size: usize, piece: usize) -> Result<UdpSink> {
        let port = socket.local_addr()?.port();
        Ok(UdpSink {
            socket,
            port,
            size,
            piece,
            seen: vec![0; size.div_ceil(piece)],
            next: 0,
            overtaken: 0,
            datagrams: 0,
            corrupt: 0,
            first_corrupt: None,
        })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many pieces the file has.
    pub fn pieces(&self) -> usize {
        self.seen.len()
    }

    /// Takes in what comes until all is there, or far too much, or nothing more has come for `quiet`.
    pub fn drain(&mut self, quiet: Duration) -> Result<()> {
        self.socket.set_read_timeout(Some(quiet))?;
        let mut datagram = vec![0; 1 << 16];
        while self.seen.contains(&0) && self.datagrams < self.seen.len() * DATAGRAMS {
            match self.socket.recv(&mut datagram) {
                Ok(length) => self.take(&datagram[..length]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e).or_cannot_run(|| "receive UDP on the host".into()),
            }
        }
        Ok(())
    }

    fn take(&mut self, datagram: &[u8]) {
        self.datagrams += 1;
        for part in datagram.chunks(self.piece) {
            match self.number(part) {
                Some(number) => {
                    self.overtaken += u32::from(number + 1 < self.next && self.seen[number] == 0);
                    self.seen[number] += 1;
                    self.next = self.next.max(number + 1);
                }
                None => {
                    self.corrupt += 1;
                    if self.first_corrupt.is_none() {
                        self.first_corrupt = Some(self.describe(part));
                    }
                }
            }
        }
    }

    /// The number of a piece that is whole and unharmed.
    fn number(&self, part: &[u8]) -> Option<usize> {
        let first = claimed(part)? * BLOCK / self.piece;
        let last = first + BLOCK / self.piece + 1;
        let mut near = first.saturating_sub(1)..=last.min(self.pieces() - 1);
        near.find(|number| part == self.expected(*number))
    }

    /// What piece `number` of the file is.
    fn expected(&self, number: usize) -> Vec<u8> {
        let from = number * self.piece;
        let to = (from + self.piece).min(self.size);
        let blocks = (from / BLOCK..to.div_ceil(BLOCK)).filter_map(|n| u32::try_from(n).ok());
        let bytes: Vec<u8> = blocks.flat_map(block).collect();
        let skipped = from % BLOCK;
        bytes[skipped..skipped + to - from].to_vec()
    }

    /// What is wrong with a part that is no piece.
    fn describe(&self, part: &[u8]) -> String {
        let length = part.len();
        let Some(claimed) = claimed(part) else {
            return format!("{length} bytes without a number");
        };
        let number = claimed * BLOCK / self.piece;
        if number >= self.pieces() {
            return format!("{length} bytes of block {claimed}, which is beyond the file's end");
        }
        let expected = self.expected(number);
        match part.iter().zip(&expected).position(|(a, b)| a != b) {
            // A part that begins elsewhere differs from its first byte on.
            Some(at) if self.piece == BLOCK => format!(
                "block {claimed} has {:#04x} in place of {:#04x} at byte {at}",
                part[at], expected[at]
            ),
            None if length < expected.len() => {
                format!("piece {number} has {length} bytes of {}", expected.len())
            }
            _ => format!(
                "{length} bytes that say block {claimed} and are none of the pieces around it"
            ),
        }
    }

    /// What came so far.
    pub fn arrived(&self) -> Arrived {
        let count = |wanted: fn(u32) -> bool| {
            let found = self.seen.iter().filter(|times| wanted(**times)).count();
            u32::try_from(found).unwrap_or(u32::MAX)
        };
        Arrived {
            lost: count(|times| times == 0),
            twice: count(|times| times > 1),
            overtaken: self.overtaken,
            corrupt: self.corrupt,
            first_corrupt: self.first_corrupt.clone(),
        }
    }

    /// Datagrams for which the socket had no room.
    ///
    /// # Errors
    /// When the kernel does not show the socket.
    pub fn dropped(&self) -> Result<u64> {
        let table = match self.socket.local_addr()? {
            SocketAddr::V4(_) => "/proc/thread-self/net/udp",
            SocketAddr::V6(_) => "/proc/thread-self/net/udp6",
        };
        let table = std::fs::read_to_string(table)?;
        dropped(&table, self.port)
            .with_context(|| format!("the kernel shows no socket with UDP port {}", self.port))
    }
}

/// The lowest block that a part's whole lines name.
fn claimed(part: &[u8]) -> Option<usize> {
    let lines = part.split(|byte| *byte == b'\n');
    let whole = lines.filter(|line| line.len() == NUMBER - 1);
    let numbers = whole.filter_map(|line| std::str::from_utf8(line).ok()?.parse().ok());
    numbers.min()
}

/// The last column, `drops`, of a local port's row (kernel: `udp4_format_sock`, `__ip6_dgram_sock_seq_show`).
fn dropped(table: &str, port: u16) -> Option<u64> {
    let ends = format!(":{port:04X}");
    table.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let is_ours = words.nth(1).is_some_and(|local| local.ends_with(&ends));
        is_ours.then(|| words.last()?.parse().ok()).flatten()
    })
}

/// Frames of the guest that the host's kernel took from QEMU and dropped before the bridge.
///
/// # Errors
/// When there is no such tap.
pub fn dropped_at(tap: &str) -> Result<u64> {
    let links = ip::json(&format!("-stats link show dev {tap}"))?;
    let dropped = links.first().map(|link| &link["stats64"]["rx"]["dropped"]);
    dropped
        .and_then(serde_json::Value::as_u64)
        .with_context(|| format!("`ip -stats link` shows no dropped frames of {tap}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sink(blocks: usize, piece: usize) -> UdpSink {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        UdpSink::of(socket, blocks * BLOCK, piece).unwrap()
    }

    #[test]
    fn lost_doubled_and_corrupt_blocks_are_told_apart() {
        let mut sink = sink(5, BLOCK);
        let mut datagram = [block(0), block(1), block(4)].concat();
        sink.take(&datagram);
        sink.take(&block(1));
        datagram[1024 + 700] ^= 0x40;
        sink.take(&datagram[1024..2048]);
        sink.take(&block(5)); // beyond the end
        sink.take(&block(3)[..1000]);
        sink.take(&[7; 100]);
        assert_eq!(
            sink.arrived(),
            Arrived {
                lost: 2,
                twice: 1,
                overtaken: 0,
                corrupt: 4,
                first_corrupt: Some("block 1 has 0x70 in place of 0x30 at byte 700".into()),
            }
        );
        for (part, words) in [
            (
                &block(5)[..],
                "1024 bytes of block 5, which is beyond the file's end",
            ),
            (&block(3)[..1000], "piece 3 has 1000 bytes of 1024"),
            (&[7; 100], "100 bytes without a number"),
        ] {
            assert_eq!(sink.describe(part), words);
        }
    }

    #[test]
    fn pieces_that_come_after_a_later_one_are_counted_once_each() {
        let mut sink = sink(6, BLOCK);
        for number in [0, 3, 1, 1, 2, 5, 4] {
            sink.take(&block(number));
        }
        let Arrived {
            overtaken, twice, ..
        } = sink.arrived();
        assert_eq!((overtaken, twice), (3, 1));
    }

    #[test]
    fn a_guest_that_sends_for_ever_is_not_listened_to_for_ever() {
        let mut sink = sink(5, BLOCK);
        let to = sink.socket.local_addr().unwrap();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let flood = std::thread::spawn(move || {
            let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                let _ = socket.send_to(&block(1), to);
            }
        });
        sink.drain(Duration::from_secs(20)).unwrap();
        drop(stop);
        flood.join().unwrap();
        let arrived = sink.arrived();
        assert_eq!((arrived.lost, arrived.twice), (4, 1));
    }

    #[test]
    fn pieces_of_any_size_are_known_by_what_they_hold() {
        for size in [1472, 1471, 1000, 999] {
            let mut sink = sink(7, size);
            let file: Vec<u8> = (0..7).flat_map(block).collect();
            for (number, piece) in file.chunks(size).enumerate() {
                assert_eq!(sink.number(piece), Some(number), "{size}");
                sink.take(piece);
            }
            let nothing = Arrived {
                lost: 0,
                twice: 0,
                overtaken: 0,
                corrupt: 0,
                first_corrupt: None,
            };
            assert_eq!(sink.arrived(), nothing, "{size}");
            let mut harmed = file[size..2 * size].to_vec();
            *harmed.last_mut().unwrap() ^= 1;
            sink.take(&harmed);
            sink.take(&file[size + 1..2 * size + 1]);
            assert_eq!(sink.arrived().corrupt, 2, "{size}");
        }
    }

    #[test]
    fn the_socket_s_drops_are_in_the_row_of_its_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  345: 010012C6:D431 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 9021 2 0000000000000000 0
  346: 010012C6:D432 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 9022 2 0000000000000000 17
";
        assert_eq!(dropped(table, 0xd432), Some(17));
        assert_eq!(dropped(table, 0xd433), None);
        let sink = sink(1, BLOCK);
        assert_eq!(sink.dropped().unwrap(), 0);
    }
}
