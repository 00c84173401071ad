//! The line protocol that QMP and the guest agent share: one reader thread owns the socket, parses
//! envelopes leniently (qapi alone refuses an event or enum value that it does not know), and
//! qapi's types serve the commands and their replies.

use crate::base::deadline::{Deadline, Limit};
use crate::base::watch::Watch;
use anyhow::{Context, anyhow};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

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
    replies: Vec<Value>,
    /// The last command, with its id, until its reply comes.
    asked: Option<(u64, String)>,
    events: Vec<WireEvent>,
    /// Why nothing more will come.
    closed: Option<String>,
}

impl State {
    fn take(&mut self, mut message: Value) {
        if message.get("QMP").is_some() {
            self.greeting = Some(message["QMP"].take());
        } else if let Some(name) = message.get("event").and_then(Value::as_str) {
            let name = name.to_owned();
            self.events.push(WireEvent {
                name,
                data: message["data"].take(),
            });
        } else {
            // A late reply to an earlier command is none to this one.
            self.asked.take_if(|(id, _)| {
                let of = message.get("id");
                of.is_none_or(|of| *of == json!(*id))
            });
            self.replies.push(message);
        }
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
    ids: bool,
}

/// A point in the stream of events; later ones are waited for from here.
#[derive(Debug, Clone, Copy)]
pub struct EventMark(usize);

impl Wire {
    /// Takes over a connected socket. `ids` says whether the peer echoes command ids (QMP does; old
    /// agents do not).
    ///
    /// # Errors
    /// When the socket cannot be duplicated, or the reader thread cannot be started.
    pub fn new(
        stream: UnixStream,
        transcript: impl Write + Send + 'static,
        ids: bool,
    ) -> anyhow::Result<Wire> {
        let shared = Arc::new(Shared {
            state: Watch::default(),
            transcript: Mutex::new(Box::new(transcript)),
        });
        let reader = BufReader::new(stream.try_clone()?);
        let theirs = shared.clone();
        std::thread::Builder::new()
            .name("wire".into())
            .spawn(move || read_all(reader, &theirs))?;
        Ok(Wire {
            shared,
            sender: Mutex::new((stream, 0)),
            ids,
        })
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

    /// Sends a command by name; for those that qapi's schema lacks.
    pub fn call_raw(&self, name: &str, arguments: Value, limit: Limit) -> anyhow::Result<Value> {
        let mut sender = self.sender.lock();
        sender.1 += 1;
        let id = sender.1;
        let mut message = json!({ "execute": name });
        if arguments.as_object().is_some_and(|map| !map.is_empty()) {
            message["arguments"] = arguments;
        }
        if self.ids {
            message["id"] = json!(id);
        }
        let line = message.to_string();
        self.shared.record("->", &line);
        let asked = asked(name, &message);
        self.shared
            .state
            .update(|state| state.asked = Some((id, asked)));
        let deadline = limit.start();
        // A failed write shows as the socket's end below, with the reason for it.
        let _ = sender.0.write_all(format!("{line}\n").as_bytes());
        let silent = format!("{name} was not answered");
        let reply = self.wait(deadline, &silent, |state| {
            let position = state
                .replies
                .iter()
                .position(|reply| !self.ids || reply["id"] == json!(id))?;
            Some(state.replies.swap_remove(position))
        });
        let mut reply = reply.with_context(|| format!("in {name}"))?;
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
        let waited = self.shared.state.wait(deadline.ends(), |state| {
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

fn read_all(mut reader: BufReader<UnixStream>, shared: &Shared) {
    let mut line = Vec::new();
    let why = loop {
        line.clear();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => break "the other side closed the socket".to_owned(),
            Ok(_) => {}
            Err(error) => break format!("the socket failed: {error}"),
        }
        // The agent's delimiter before a sync reply.
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{fffd}');
        if text.is_empty() {
            continue;
        }
        shared.record("<-", text);
        let message = serde_json::from_str(text);
        shared.state.update(|state| match message {
            Ok(message) => state.take(message),
            Err(_) => {
                state.stray.get_or_insert_with(|| text.to_owned());
            }
        });
    };
    shared.state.update(|state| state.closed = Some(why));
}
