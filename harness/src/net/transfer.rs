//! A file whose every byte is known beforehand, received from a guest or sent to one over plain
//! sockets: the guest's end is what is under test.

use crate::base::deadline::Deadline;
use crate::base::error::OrCannotRun as _;
use anyhow::{Context as _, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::time::Duration;

/// The file's unit, bytes: its number in 15 digits and a line's end, over and over. So each 16 bytes
/// say where they belong, and a block is its own checksum.
pub const BLOCK: usize = 1024;
pub(super) const NUMBER: usize = 16;

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
    // Trials ask for the same few again and again, and in a lab each takes as long as it takes to cross.
    static KNOWN: Mutex<BTreeMap<u32, String>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock();
    let hash = known.entry(blocks).or_insert_with(|| {
        let mut hash = Sha256::new();
        (0..blocks).for_each(|number| hash.update(block(number)));
        format!("{:x}", hash.finalize())
    });
    hash.clone()
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
    /// Opens a port at the host's address in the calling thread's network.
    pub fn open(host: IpAddr) -> Result<TcpPort> {
        let open = || {
            let listener = TcpListener::bind((host, 0))?;
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
        self.begin_to_receive(deadline)?.rest(deadline)
    }

    /// Takes a connection of which nothing has been read yet.
    pub fn begin_to_receive(&self, deadline: Deadline) -> Result<Receiving> {
        self.accept(deadline).map(Receiving::from)
    }

    /// Takes a connection and sends a file in its parts.
    pub fn send(
        &self,
        parts: impl IntoIterator<Item: AsRef<[u8]>>,
        deadline: Deadline,
    ) -> Result<()> {
        let mut stream = self.accept(deadline)?;
        let mut bytes = 0;
        for part in parts {
            let mut rest = part.as_ref();
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

/// A connection that is read.
pub struct Receiving {
    stream: TcpStream,
    hash: Sha256,
    bytes: u64,
    buffer: Vec<u8>,
}

impl From<TcpStream> for Receiving {
    fn from(stream: TcpStream) -> Receiving {
        Receiving {
            stream,
            hash: Sha256::new(),
            bytes: 0,
            buffer: vec![0; 1 << 18],
        }
    }
}

impl Receiving {
    /// Has the host's kernel keep no more than about so many bytes that were not read.
    pub fn keep(&self, bytes: usize) -> Result<()> {
        setsockopt(&self.stream, sockopt::RcvBuf, &bytes)
            .or_cannot_run(|| "bound a connection's receive buffer".into())
    }

    /// Reads until at least so many bytes have crossed in all, or its end.
    pub fn read_up_to(&mut self, bytes: u64, deadline: Deadline) -> Result<()> {
        while self.bytes < bytes && self.read(deadline)? {}
        Ok(())
    }

    /// How many have crossed so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads it to its end.
    pub fn rest(mut self, deadline: Deadline) -> Result<Crossed> {
        while self.read(deadline)? {}
        let sha256 = format!("{:x}", self.hash.finalize());
        Ok(Crossed {
            bytes: self.bytes,
            sha256,
        })
    }

    /// Reads some of it; false at its end.
    fn read(&mut self, deadline: Deadline) -> Result<bool> {
        let bytes = self.bytes;
        (self.stream).set_read_timeout(Some(left(deadline, bytes)?))?;
        match self.stream.read(&mut self.buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                self.hash.update(&self.buffer[..count]);
                self.bytes += count as u64;
            }
            Err(e) if [ErrorKind::Interrupted, ErrorKind::WouldBlock].contains(&e.kind()) => {}
            Err(e) => return Err(e).with_context(|| format!("after {bytes} bytes")),
        }
        Ok(true)
    }
}

/// What an HTTP server has under `path`, which ends the connection behind it (RFC 1945).
///
/// # Errors
/// An answer without it; a connection that ends or waits before.
pub fn fetch(server: SocketAddr, path: &str, deadline: Deadline) -> Result<Crossed> {
    /// Of an answer before what was asked for, bytes: some 200 are usual.
    const HEADER: usize = 4096;
    let mut stream = TcpStream::connect_timeout(&server, left(deadline, 0)?)?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut header = Vec::new();
    while !header.ends_with(b"\r\n\r\n") && header.len() < HEADER {
        stream.set_read_timeout(Some(left(deadline, 0)?))?;
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => header.extend(byte),
            Err(e) if [ErrorKind::Interrupted, ErrorKind::WouldBlock].contains(&e.kind()) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let answer = String::from_utf8_lossy(&header);
    let mut words = answer.split_whitespace();
    ensure!(
        words.nth(1) == Some("200"),
        "{server} was asked for {path}, and answered: {answer:?}"
    );
    Receiving::from(stream).rest(deadline)
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
}
