//! A SPICE server as a client meets it: the link messages, by which it says who it is and whether it
//! takes one (SPICE protocol, "Link").

use crate::base::deadline::{self, Deadline};
use anyhow::{Context as _, ensure};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

const MAGIC: &[u8; 4] = b"REDQ";
/// Magic, major and minor version, size of what follows.
const HEADER: usize = 16;

/// Meets the server at `host` and `port` as a new client of its main channel, and leaves.
///
/// # Errors
/// When it cannot be reached in time, is no SPICE server, or refuses.
pub fn greet(host: Ipv4Addr, port: u16) -> anyhow::Result<()> {
    let deadline = deadline::SPICE_GREETING.start();
    let address = SocketAddr::from((host, port));
    let meet = || -> anyhow::Result<()> {
        let mut stream = TcpStream::connect_timeout(&address, left(&deadline)?)?;
        stream.set_read_timeout(Some(left(&deadline)?))?;
        stream.write_all(&hello())?;
        let mut answer = [0; HEADER + 4];
        stream.read_exact(&mut answer)?;
        understand(&answer)
    };
    meet().with_context(|| format!("no SPICE server takes a client at {address}"))
}

fn left(deadline: &Deadline) -> anyhow::Result<std::time::Duration> {
    deadline
        .left()
        .with_context(|| "it was not reached in time".to_owned())
}

/// What a client says first: no session yet, the main channel, one word of capabilities that choose
/// the authentication and SPICE's own.
fn hello() -> Vec<u8> {
    let mut message = Vec::from(0_u32.to_le_bytes());
    message.extend([1, 0]);
    for word in [1_u32, 0, 18, 0b1011] {
        message.extend(word.to_le_bytes());
    }
    let mut all = Vec::from(MAGIC);
    for word in [2, 2, message.len() as u32] {
        all.extend(word.to_le_bytes());
    }
    all.extend(message);
    all
}

/// The beginning of the server's answer: its header, and an error code that is 0 for success.
fn understand(answer: &[u8; HEADER + 4]) -> anyhow::Result<()> {
    ensure!(
        answer.starts_with(MAGIC),
        "it answers with {:02x?}, not with {MAGIC:02x?}",
        &answer[..4]
    );
    let error = &answer[HEADER..];
    ensure!(error == [0; 4], "it refuses with the error {error:02x?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As SPICE 0.15 answers, up to the error.
    const TAKEN: [u8; 20] = *b"REDQ\x02\0\0\0\x02\0\0\0\xba\0\0\0\0\0\0\0";

    #[test]
    fn a_client_is_taken_or_told_why_not() {
        assert!(understand(&TAKEN).is_ok());
        let mut refused = TAKEN;
        refused[16] = 7;
        let error = understand(&refused).unwrap_err().to_string();
        assert_eq!(error, "it refuses with the error [07, 00, 00, 00]");
        let error = understand(b"SSH-2.0-OpenSSH_9.2p").unwrap_err().to_string();
        assert!(error.starts_with("it answers with"), "{error}");
    }

    #[test]
    fn the_first_message_says_how_long_it_is() {
        let hello = hello();
        assert_eq!(hello[..4], *MAGIC);
        assert_eq!(hello[12..16], (hello.len() as u32 - 16).to_le_bytes());
    }
}
