//! The line protocol that QMP and the guest agent share: one reader thread owns the socket, parses
//! envelopes leniently (qapi alone refuses an event or enum value that it does not know), and
//! qapi's types serve the commands and their replies.

use crate::base::deadline::{Deadline, Limit};
use crate::base::error::OrCannotRun as _;
use crate::base::lines::{Lines, MESSAGE, Unreadable};
use crate::base::thread;
use crate::base::watch::Watch;
use crate::base::words;
use anyhow::{Context, anyhow};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::io::{IoSlice, Write};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Events kept of one connection. A soak's thousand plugs make some thousand; a QEMU that sends a hundred times
/// that sends them for ever.
const EVENTS: usize = 100_000;

/// Replies kept until they are asked for: one at a time is awaited.
const REPLIES: usize = 16;

/// An event as it came.
#[derive(Debug, Clone)]
pub struct WireEvent {
    /// For example `DEVICE_DELETED`.
    pub name: String,
    /// Its `data`, or null.
    pub data: Value,
}

/// A refusal by the other side.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{command} was refused: {class}: {desc}")]
pub struct Refused {
    /// The command.
    pub command: String,
    /// QMP's error class.
    pub class: String,
    /// QEMU's words.
    pub desc: String,
}

/// The other side is gone, or about to be.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Closed(String);

#[derive(Default)]
struct State {
    greeting: Option<Value>,
    /// The first line that was not JSON.
    stray: Option<String>,
    /// The oldest first.
    replies: Vec<Value>,
    /// Whether replies say by their id which command they answer.
    ids: bool,
    /// The last command, with its id, until its reply comes.
    asked: Option<(u64, String)>,
    events: Vec<WireEvent>,
    /// Why nothing more will come.
    closed: Option<String>,
}

impl State {
    /// Takes a message; where there are too many, why nothing more is read.
    fn take(&mut self, mut message: Value) -> Result<(), String> {
        if message.get("QMP").is_some() {
            self.greeting = Some(message["QMP"].take());
        } else if let Some(name) = message.get("event").and_then(Value::as_str) {
            let name = name.to_owned();
            if self.events.len() == EVENTS {
                return Err(format!(
                    "more than {EVENTS} events came, the last of them {name}"
                ));
            }
            self.events.push(WireEvent {
                name,
                data: message["data"].take(),
            });
        } else {
            let id = message.get("id").cloned();
            let asked = self.asked.as_ref().map(|(id, _)| json!(*id));
            // A late reply to an earlier command is none to this one.
            if self.ids && id.is_some() && id != asked {
                return Ok(());
            }
            if id.is_none() || id == asked {
                self.asked = None;
            }
            if self.replies.len() == REPLIES {
                self.replies.remove(0);
            }
            self.replies.push(message);
        }
        Ok(())
    }
}

struct Shared {
    state: Watch<State>,
    transcript: Mutex<Box<dyn Write + Send>>,
}

impl Shared {
    fn record(&self, direction: &str, line: &str) {
        let mut file = self.transcript.lock();
        // A transcript that cannot be written (disk full) must not decide a trial.
        let _ = writeln!(file, "{direction} {line}");
    }
}

/// One end of the protocol. Commands go one at a time; events are kept.
pub struct Wire {
    shared: Arc<Shared>,
    sender: Mutex<(UnixStream, u64)>,
    /// Whether commands carry an id.
    ids: AtomicBool,
}

/// A point in the stream of events; later ones are waited for from here.
#[derive(Debug, Clone, Copy)]
pub struct EventMark(usize);

impl Wire {
    /// Takes over a connected socket. `ids` says whether the peer echoes command ids: QMP does, of an agent
    /// [`Wire::set_ids`] tells.
    ///
    /// # Errors
    /// When the socket cannot be duplicated, or the reader thread cannot be started.
    pub fn new(
        stream: UnixStream,
        transcript: impl Write + Send + 'static,
        ids: bool,
    ) -> anyhow::Result<Wire> {
        let state = State {
            ids,
            ..State::default()
        };
        let shared = Arc::new(Shared {
            state: Watch::new(state),
            transcript: Mutex::new(Box::new(transcript)),
        });
        let reader = (stream.try_clone()).or_cannot_run(|| "duplicate a socket".into())?;
        let theirs = shared.clone();
        thread::start("wire", move || read_all(reader, &theirs))?;
        Ok(Wire {
            shared,
            sender: Mutex::new((stream, 0)),
            ids: AtomicBool::new(ids),
        })
    }

    /// Whether from now on commands carry an id, and replies are told apart by it.
    pub fn set_ids(&self, ids: bool) {
        self.ids.store(ids, Ordering::Relaxed);
        self.shared.state.lock().ids = ids;
    }

    /// QMP's greeting.
    ///
    /// # Errors
    /// The deadline, the socket's end, or something else in its place.
    pub fn greeting(&self, deadline: Deadline) -> anyhow::Result<Value> {
        self.wait(deadline, "the socket stayed silent", |state| {
            if let Some(greeting) = state.greeting.take() {
                return Some(Ok(greeting));
            }
            let reply = state.replies.first().map(Value::to_string);
            let other = reply.or_else(|| state.stray.take())?;
            let start: String = other.chars().take(100).collect();
            Some(Err(anyhow!("expected QMP, found `{start}`")))
        })?
    }

    /// Sends a typed command and gives its typed reply.
    ///
    /// # Errors
    /// [`Refused`] in the chain when the other side refused; else the deadline or the socket's end.
    pub fn call<C: qapi::Command>(&self, command: &C, limit: Limit) -> anyhow::Result<C::Ok> {
        let arguments = serde_json::to_value(command)?;
        let reply = self.call_raw(C::NAME, arguments, limit)?;
        serde_json::from_value(reply.clone())
            .with_context(|| format!("{} was answered with {reply}, which does not fit", C::NAME))
    }

    /// Sends an open file along, which the command that follows names.
    ///
    /// # Errors
    /// When the socket does not take it.
    pub fn pass(&self, file: BorrowedFd) -> anyhow::Result<()> {
        let sender = self.sender.lock();
        let files = [file.as_raw_fd()];
        // It goes with a blank, which says nothing between two commands.
        sendmsg::<()>(
            sender.0.as_raw_fd(),
            &[IoSlice::new(b" ")],
            &[ControlMessage::ScmRights(&files)],
            MsgFlags::empty(),
            None,
        )?;
        Ok(())
    }

    /// Sends a command by name; for those that qapi's schema lacks.
    pub fn call_raw(&self, name: &str, arguments: Value, limit: Limit) -> anyhow::Result<Value> {
        let ids = self.ids.load(Ordering::Relaxed);
        let (id, mut reply) = self.exchange(name, arguments, ids, limit.start(), |id, reply| {
            !ids || reply["id"] == json!(id)
        })?;
        debug_assert!(!ids || reply["id"] == json!(id));
        if let Some(error) = reply.get("error") {
            let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
            return Err(Refused {
                command: name.into(),
                class: text("class"),
                desc: text("desc"),
            }
            .into());
        }
        Ok(reply["return"].take())
    }

    /// Sends a command, `with_id` or without, and gives its id and the first reply after it for which `is_answer`
    /// is true.
    ///
    /// # Errors
    /// The deadline, or the socket's end.
    pub fn exchange(
        &self,
        name: &str,
        arguments: Value,
        with_id: bool,
        deadline: Deadline,
        is_answer: impl Fn(u64, &Value) -> bool,
    ) -> anyhow::Result<(u64, Value)> {
        let mut sender = self.sender.lock();
        sender.1 += 1;
        let id = sender.1;
        let mut message = json!({ "execute": name });
        if arguments.as_object().is_some_and(|map| !map.is_empty()) {
            message["arguments"] = arguments;
        }
        if with_id {
            message["id"] = json!(id);
        }
        let line = message.to_string();
        self.shared.record("->", &line);
        let asked = asked(name, &message);
        self.shared.state.update(|state| {
            state.asked = Some((id, asked));
            // What came before the question is no answer to it.
            state.replies.clear();
        });
        // A failed write shows as the socket's end below, with the reason for it.
        let _ = sender.0.write_all(format!("{line}\n").as_bytes());
        let silent = format!("{name} was not answered");
        let reply = self.wait(deadline, &silent, |state| {
            let mut replies = state.replies.iter();
            let position = replies.position(|reply| is_answer(id, reply))?;
            Some(state.replies.remove(position))
        });
        let reply = reply.with_context(|| format!("in {name}"))?;
        Ok((id, reply))
    }

    /// The last command, where it was not answered: a line of the human monitor as it was typed, another
    /// by its name. After the other side's end, it is what that side was doing then.
    pub fn unanswered(&self) -> Option<String> {
        let state = self.shared.state.lock();
        state.asked.as_ref().map(|(_, asked)| asked.clone())
    }

    /// Where the stream of events stands: call it before the command whose event is awaited.
    pub fn mark(&self) -> EventMark {
        EventMark(self.shared.state.lock().events.len())
    }

    /// Events since `mark`.
    pub fn events(&self, mark: EventMark) -> Vec<WireEvent> {
        self.shared.state.lock().events[mark.0..].to_vec()
    }

    /// The first event since `mark` for which `pick` gives something.
    ///
    /// # Errors
    /// The deadline (with the events that came instead), or the socket's end.
    pub fn event<T>(
        &self,
        mark: EventMark,
        deadline: Deadline,
        mut pick: impl FnMut(&WireEvent) -> Option<T>,
    ) -> anyhow::Result<T> {
        let found = self.wait(deadline, "", |state| {
            state.events[mark.0..].iter().find_map(&mut pick)
        });
        found.map_err(|error| {
            let names: Vec<_> = self.events(mark).into_iter().map(|e| e.name).collect();
            let seen = if names.is_empty() {
                "none".into()
            } else {
                names.join(", ")
            };
            error.context(format!("events since: {seen}"))
        })
    }

    /// Whether more may come.
    pub fn is_open(&self) -> bool {
        self.shared.state.lock().closed.is_none()
    }

    fn wait<T>(
        &self,
        deadline: Deadline,
        silent: &str,
        mut take: impl FnMut(&mut State) -> Option<T>,
    ) -> anyhow::Result<T> {
        let waited = self.shared.state.wait(deadline, |state| {
            take(state).map(Ok).or_else(|| {
                let why = state.closed.as_ref()?;
                Some(Err(Closed(why.clone()).into()))
            })
        });
        waited.unwrap_or_else(|| Err(deadline.missed(silent)))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Ends the reader thread.
        let sender = self.sender.get_mut();
        let _ = sender.0.shutdown(std::net::Shutdown::Both);
    }
}

/// What a reader is told of a message: its command's name, or the line that it types into the human
/// monitor.
fn asked(name: &str, message: &Value) -> String {
    let typed = message["arguments"]["command-line"].as_str();
    typed
        .filter(|_| name == "human-monitor-command")
        .unwrap_or(name)
        .to_owned()
}

fn read_all(stream: UnixStream, shared: &Shared) {
    let mut lines = Lines::new(&stream, MESSAGE);
    let why = loop {
        let line = match lines.line() {
            Ok(None) => break "the other side closed the socket".to_owned(),
            Ok(Some(line)) => line,
            Err(Unreadable::Failed(error)) => break format!("the socket failed: {error}"),
            Err(error @ Unreadable::TooLong { .. }) => break error.to_string(),
        };
        // The agent's delimiter before a sync reply.
        let text = String::from_utf8_lossy(line);
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{fffd}');
        if text.is_empty() {
            continue;
        }
        shared.record("<-", text);
        let message = serde_json::from_str(text);
        let taken = shared.state.update(|state| match message {
            Ok(message) => state.take(message),
            Err(_) => {
                (state.stray).get_or_insert_with(|| words::quoted_line(text.as_bytes()));
                Ok(())
            }
        });
        if let Err(why) = taken {
            break why;
        }
    };
    // Who sends what is not read is not to fill the socket and wait there.
    let _ = stream.shutdown(std::net::Shutdown::Both);
    shared.state.update(|state| state.closed = Some(why));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::deadline::{Missed, QMP_REPLY};
    use crate::base::error::find;
    use std::io::{BufRead as _, BufReader, Read as _};

    const SHORT: Limit = Limit {
        what: "a test's reply",
        seconds: 0.1,
    };

    fn wired(ids: bool) -> (Wire, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Wire::new(ours, std::io::sink(), ids).unwrap(), theirs)
    }

    fn closed(wire: &Wire) -> String {
        let limit = QMP_REPLY.start();
        let error = wire.event(wire.mark(), limit, |_| None::<()>).unwrap_err();
        find::<Closed>(&error).expect("closed").to_string()
    }

    #[test]
    fn bytes_without_a_lines_end_close_it_and_are_not_held() {
        let (wire, mut theirs) = wired(true);
        let flood = std::thread::spawn(move || {
            let chunk = vec![b'x'; 1 << 20];
            let mut sent = 0;
            while sent < 1 << 30 && theirs.write_all(&chunk).is_ok() {
                sent += chunk.len();
            }
            sent
        });
        let why = closed(&wire);
        assert!(why.starts_with("a line came that has more than 8388608 bytes; it begins `xxx"));
        assert!(flood.join().unwrap() < 2 * MESSAGE);
    }

    #[test]
    fn events_without_end_close_it() {
        let (wire, theirs) = wired(true);
        let flood = std::thread::spawn(move || {
            let mut theirs = std::io::BufWriter::new(theirs);
            while writeln!(theirs, r#"{{"event": "RTC_CHANGE"}}"#).is_ok() {}
        });
        assert_eq!(
            closed(&wire),
            "more than 100000 events came, the last of them RTC_CHANGE"
        );
        flood.join().unwrap();
    }

    #[test]
    fn replies_without_end_are_not_held() {
        let (wire, mut theirs) = wired(false);
        for _ in 0..1000 {
            theirs.write_all(b"{\"return\": {}}\n").unwrap();
        }
        theirs.write_all(b"{\"event\": \"LAST\"}\n").unwrap();
        wire.event(EventMark(0), QMP_REPLY.start(), |_| Some(()))
            .unwrap();
        assert!(wire.shared.state.lock().replies.len() <= REPLIES);
    }

    #[test]
    fn a_late_reply_is_none_to_the_next_command() {
        let (wire, theirs) = wired(true);
        let mut asked = BufReader::new(theirs.try_clone().unwrap());
        let error = wire.call_raw("first", json!({}), SHORT).unwrap_err();
        assert!(find::<Missed>(&error).is_some(), "{error:#}");
        let other = std::thread::spawn(move || {
            let mut line = String::new();
            asked.read_line(&mut line).unwrap();
            asked.read_line(&mut line).unwrap();
            // The first one's reply comes when the second has been asked.
            let mut theirs = &theirs;
            theirs.write_all(b"{\"return\": 1, \"id\": 1}\n").unwrap();
            theirs.write_all(b"{\"return\": 2, \"id\": 2}\n").unwrap();
            let _ = theirs.read(&mut [0]);
        });
        assert_eq!(wire.call_raw("second", json!({}), QMP_REPLY).unwrap(), 2);
        drop(wire);
        other.join().unwrap();
    }
}
