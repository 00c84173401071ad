//! A file whose every byte is known beforehand, received from a guest or sent to one over plain
//! sockets: the guest's end is what is under test.

use super::addr::HOST;
use crate::base::deadline::Deadline;
use crate::base::error::OrCannotRun as _;
use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::Duration;

/// The file's unit, bytes: its number in 15 digits and a line's end, over and over. So each 16 bytes
/// say where they belong, and a block is its own checksum.
pub const BLOCK: usize = 1024;
const NUMBER: usize = 16;

/// Blocks of a file of so many MiB.
pub const fn blocks(mib: u32) -> u32 {
    mib * ((1 << 20) / BLOCK as u32)
}

/// Block `number` of the file.
pub fn block(number: u32) -> [u8; BLOCK] {
    let text = format!("{number:015}\n");
    let mut block = [0; BLOCK];
    for part in block.chunks_exact_mut(NUMBER) {
        part.copy_from_slice(text.as_bytes());
    }
    block
}

/// The shell command that writes the file of so many blocks to `path`, without a line of output.
pub fn write_command(blocks: u32, path: &str) -> String {
    let doublings = (BLOCK / NUMBER).ilog2();
    format!(
        "awk 'BEGIN {{ for (n = 0; n < {blocks}; n++) {{ s = sprintf(\"%015d\\n\", n); \
         for (i = 0; i < {doublings}; i++) s = s s; printf \"%s\", s }} }}' >{path}"
    )
}

/// SHA-256 of the file of so many blocks, as sha256sum prints it.
pub fn sha256(blocks: u32) -> String {
    let mut hash = Sha256::new();
    (0..blocks).for_each(|number| hash.update(block(number)));
    format!("{:x}", hash.finalize())
}

/// Room for what a guest sends while the reader is not scheduled, bytes.
const RECEIVE_BUFFER: usize = 16 << 20;

/// Datagrams taken for each block of a file, at most: a guest that sends more sends some twice or corrupt, which is
/// found in these already.
const DATAGRAMS: usize = 4;

/// A UDP port of the host's that takes the file in any order.
pub struct UdpSink {
    socket: UdpSocket,
    port: u16,
    /// By number, how often a block came.
    seen: Vec<u32>,
    datagrams: usize,
    corrupt: u32,
    /// The first of these, in words.
    first_corrupt: Option<String>,
}

/// What came of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// Different blocks.
    pub whole: u32,
    /// Blocks that came again.
    pub twice: u32,
    /// What came that is no block of the file.
    pub corrupt: u32,
    /// The first of these, in words.
    pub first_corrupt: Option<String>,
}

impl UdpSink {
    /// Opens a port for a file of so many blocks, in the calling thread's network.
    pub fn open(blocks: u32) -> Result<UdpSink> {
        let open = || {
            let socket = UdpSocket::bind((HOST, 0))?;
            // Larger than the system's limit, which only the namespace's owner may exceed.
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            let port = socket.local_addr()?.port();
            anyhow::Ok((socket, port))
        };
        let (socket, port) = open().or_cannot_run(|| "receive UDP on the host".into())?;
        Ok(UdpSink {
            socket,
            port,
            seen: vec![0; blocks as usize],
            datagrams: 0,
            corrupt: 0,
            first_corrupt: None,
        })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
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
        for part in datagram.chunks(BLOCK) {
            match number(part).filter(|number| (*number as usize) < self.seen.len()) {
                Some(number) => self.seen[number as usize] += 1,
                None => {
                    self.corrupt += 1;
                    self.first_corrupt.get_or_insert_with(|| describe(part));
                }
            }
        }
    }

    /// What came so far.
    pub fn arrived(&self) -> Arrived {
        let count = |wanted: fn(u32) -> bool| {
            let found = self.seen.iter().filter(|times| wanted(**times)).count();
            u32::try_from(found).unwrap_or(u32::MAX)
        };
        Arrived {
            whole: count(|times| times > 0),
            twice: count(|times| times > 1),
            corrupt: self.corrupt,
            first_corrupt: self.first_corrupt.clone(),
        }
    }
}

/// The number of a block that is whole and unharmed.
fn number(part: &[u8]) -> Option<u32> {
    let text = part.get(..NUMBER - 1)?;
    let number = std::str::from_utf8(text).ok()?.parse().ok()?;
    (part == block(number)).then_some(number)
}

/// Where a part differs from the block that it begins or ends as.
fn describe(part: &[u8]) -> String {
    let claims = part.chunks(NUMBER).filter_map(|words| {
        let text = std::str::from_utf8(words.get(..NUMBER - 1)?).ok()?;
        text.parse().ok()
    });
    let Some(claimed) = claims.min() else {
        return format!("{} bytes without a number", part.len());
    };
    let expected: [u8; BLOCK] = block(claimed);
    let at = part.iter().zip(expected).position(|(a, b)| *a != b);
    match at {
        Some(at) => format!(
            "block {claimed} has {:#04x} in place of {:#04x} at byte {at}",
            part[at], expected[at]
        ),
        None if part.len() == BLOCK => format!("block {claimed} is beyond the file's end"),
        None => format!("block {claimed} has {} bytes of {BLOCK}", part.len()),
    }
}

/// Bytes that crossed a TCP connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crossed {
    /// How many.
    pub bytes: u64,
    /// SHA-256 of them, as sha256sum prints it.
    pub sha256: String,
}

impl fmt::Display for Crossed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes with SHA-256 {}", self.bytes, self.sha256)
    }
}

/// A TCP port of the host's, for one connection after the other.
pub struct TcpPort {
    listener: TcpListener,
    port: u16,
}

impl TcpPort {
    /// Opens a port in the calling thread's network.
    pub fn open() -> Result<TcpPort> {
        let open = || {
            let listener = TcpListener::bind((HOST, 0))?;
            let port = listener.local_addr()?.port();
            anyhow::Ok((listener, port))
        };
        let (listener, port) = open().or_cannot_run(|| "listen on the host".into())?;
        Ok(TcpPort { listener, port })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.port
    }

    /// Takes a connection and reads it to its end.
    pub fn receive(&self, deadline: Deadline) -> Result<Crossed> {
        let mut stream = self.accept(deadline)?;
        let mut hash = Sha256::new();
        let mut bytes = 0;
        let mut buffer = vec![0; 1 << 18];
        loop {
            stream.set_read_timeout(Some(left(deadline, bytes)?))?;
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    hash.update(&buffer[..count]);
                    bytes += count as u64;
                }
                Err(e) if [ErrorKind::Interrupted, ErrorKind::WouldBlock].contains(&e.kind()) => {}
                Err(e) => return Err(e).with_context(|| format!("after {bytes} bytes")),
            }
        }
        let sha256 = format!("{:x}", hash.finalize());
        Ok(Crossed { bytes, sha256 })
    }

    /// Takes a connection and sends the file of so many blocks.
    pub fn send(&self, blocks: u32, deadline: Deadline) -> Result<()> {
        let mut stream = self.accept(deadline)?;
        let mut bytes = 0;
        for number in 0..blocks {
            let block = block(number);
            let mut rest = &block[..];
            while !rest.is_empty() {
                stream.set_write_timeout(Some(left(deadline, bytes)?))?;
                match stream.write(rest) {
                    Ok(count) => {
                        rest = &rest[count..];
                        bytes += count as u64;
                    }
                    Err(e)
                        if [ErrorKind::Interrupted, ErrorKind::WouldBlock].contains(&e.kind()) => {}
                    Err(e) => return Err(e).with_context(|| format!("after {bytes} bytes")),
                }
            }
        }
        Ok(())
    }

    fn accept(&self, deadline: Deadline) -> Result<TcpStream> {
        let span = deadline
            .left()
            .ok_or_else(|| deadline.missed("no connection came"))?;
        let timeout = PollTimeout::try_from(span).unwrap_or(PollTimeout::MAX);
        let mut ready = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, timeout) {
            Ok(0) => Err(deadline.missed("no connection came")),
            Ok(_) => Ok(self.listener.accept()?.0),
            Err(e) => Err(e).or_cannot_run(|| "wait for a connection".into()),
        }
    }
}

fn left(deadline: Deadline, bytes: u64) -> Result<Duration> {
    let missed = || deadline.missed(format!("{bytes} bytes had crossed"));
    deadline.left().ok_or_else(missed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_says_its_number_in_each_part() {
        let block = block(42);
        assert_eq!(block[..16], *b"000000000000042\n");
        assert_eq!(block[1008..], *b"000000000000042\n");
        assert_eq!(blocks(1) as usize * BLOCK, 1 << 20);
    }

    #[test]
    fn the_shell_writes_what_is_expected() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let command = write_command(20, &file.display().to_string());
        let status = std::process::Command::new("sh")
            .args(["-c", &command])
            .status();
        assert!(status.unwrap().success(), "{command}");
        let written = std::fs::read(&file).unwrap();
        assert_eq!(written, (0..20).flat_map(block).collect::<Vec<u8>>());
        assert_eq!(format!("{:x}", Sha256::digest(written)), sha256(20));
    }

    fn sink(count: usize) -> UdpSink {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        UdpSink {
            socket,
            port: 0,
            seen: vec![0; count],
            datagrams: 0,
            corrupt: 0,
            first_corrupt: None,
        }
    }

    #[test]
    fn a_guest_that_sends_for_ever_is_not_listened_to_for_ever() {
        let mut sink = sink(5);
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
        assert_eq!((arrived.whole, arrived.twice), (1, 1));
    }

    #[test]
    fn lost_doubled_and_corrupt_blocks_are_told_apart() {
        let mut sink = sink(5);
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
                whole: 3,
                twice: 1,
                corrupt: 4,
                first_corrupt: Some("block 1 has 0x70 in place of 0x30 at byte 700".into()),
            }
        );
        for (part, words) in [
            (&block(5)[..], "block 5 is beyond the file's end"),
            (&block(3)[..1000], "block 3 has 1000 bytes of 1024"),
            (&[7; 100], "100 bytes without a number"),
        ] {
            assert_eq!(describe(part), words);
        }
    }
}
