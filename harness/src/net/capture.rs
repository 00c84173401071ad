//! The frames that pass an interface, kept in memory. A check asks about the frames since a mark; where
//! the capture lost some of them, the check gets an error.

use super::audit::{Auditor, Witness};
use super::frame::{Frame, summary};
pub use super::ring::Room;
use super::ring::{Raw, Ring};
use super::stamps::Stamps;
use crate::base::deadline::Until;
use crate::base::error::OrCannotRun as _;
use crate::base::thread;
use crate::base::watch::Watch;
use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::MutexGuard;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::{DataLink, TsResolution};
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, PipeReader, PipeWriter};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes held, up to which frames are kept as captured (some 1,940 bytes each): an echo of each length and its answer
/// have room.
const WHOLE: usize = 3 << 20;
/// Bytes kept of each frame beyond that: every header, and a DHCP message's fixed part.
const SNAP: usize = 320;
/// Bytes held, from which on the oldest frames make room for new ones.
const KEEP: usize = 16 << 20;
/// What a kept frame costs beyond its bytes.
const OVERHEAD: usize = size_of::<Frame>() + 16;

/// A capture, from `start` until it is dropped.
pub struct Capture {
    interface: String,
    /// Closing it ends the reader. That is not waited for: closing the ring takes the kernel some
    /// 30 ms, which the reader's thread can spend alone.
    _stop: PipeWriter,
    state: Arc<Watch<State>>,
}

/// A moment of a capture, from which on a frame can be waited for. Of what comes after it, some may still be an
/// earlier step's: it was under way, in a queue of the guest or of QEMU. So nothing can be counted from it.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    /// Number of the first frame after it.
    frame: u64,
    dropped: u64,
}

/// A moment of a capture at which nothing of an earlier step was under way any more: what comes after it can be
/// counted.
#[derive(Debug, Clone, Copy)]
pub struct Fence(Mark);

impl Fence {
    /// The same moment, to wait from.
    pub fn mark(self) -> Mark {
        self.0
    }
}

impl Mark {
    /// A capture's start.
    pub const fn first() -> Mark {
        Mark {
            frame: 0,
            dropped: 0,
        }
    }

    /// As a fence, for a moment at which no frame was under way: no guest ran yet, it was paused, or its link was off.
    /// Otherwise see [`Capture::behind`].
    pub fn nothing_under_way(self) -> Fence {
        Fence(self)
    }
}

/// The frame that was waited for did not come.
#[derive(Debug)]
pub struct NotSeen {
    /// Where.
    pub interface: String,
    /// How long.
    pub waited: Duration,
    /// What came instead, see [`summary`].
    pub seen: String,
    /// Frames lost meanwhile: it may have been among them.
    pub lost: u64,
}

impl fmt::Display for NotSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.waited.as_secs_f64();
        write!(
            f,
            "no such frame on {} in {seconds:.1} s; seen instead: {}",
            self.interface, self.seen
        )?;
        if self.lost > 0 {
            write!(f, "; the capture lost {} frames meanwhile", self.lost)?;
        }
        Ok(())
    }
}

impl std::error::Error for NotSeen {}

struct State {
    ring: Ring,
    stamps: Stamps,
    frames: VecDeque<Frame>,
    /// Number of `frames[0]`; so many were thrown out before it.
    first: u64,
    held: usize,
    dropped: u64,
    /// On a guest's tap.
    auditor: Option<Auditor>,
}

impl State {
    /// Takes in what has passed up to now.
    fn drain(&mut self) {
        self.stamps.look();
        let State {
            ring,
            stamps,
            frames,
            first,
            held,
            auditor,
            ..
        } = self;
        ring.drain(|raw| {
            if let Some(auditor) = auditor {
                auditor.judge(&raw);
            }
            let snap = if *held > WHOLE { SNAP } else { usize::MAX };
            let time = stamps.moment(raw.time);
            let frame = Raw { time, ..raw }.keep(snap);
            *held += frame.bytes.len() + OVERHEAD;
            frames.push_back(frame);
            while *held > KEEP
                && let Some(oldest) = frames.pop_front()
            {
                *held -= oldest.bytes.len() + OVERHEAD;
                *first += 1;
            }
        });
    }

    fn end(&self) -> u64 {
        self.first + self.frames.len() as u64
    }

    /// The kept frames since `mark`.
    fn since(&self, mark: Mark) -> impl Iterator<Item = &Frame> {
        let skip = mark.frame.saturating_sub(self.first);
        self.frames
            .iter()
            .skip(usize::try_from(skip).unwrap_or(usize::MAX))
    }

    fn lost(&self, mark: Mark) -> u64 {
        self.first.saturating_sub(mark.frame) + (self.dropped - mark.dropped)
    }

    fn count_drops(&mut self) -> Result<()> {
        let dropped = self.ring.take_drops()?;
        self.dropped += dropped;
        if let Some(auditor) = &mut self.auditor {
            auditor.lost(dropped);
        }
        Ok(())
    }
}

impl Capture {
    /// Captures both ways on an interface of the calling thread's network, from now on, with room for what `room` says.
    pub fn start(interface: &str, room: Room) -> Result<Capture> {
        Capture::try_start(interface, None, room)
    }

    /// As [`Capture::start`] on the tap of a guest's NIC, all of whose frames `witness` judges.
    pub fn of_guest(tap: &str, witness: &Witness, room: Room) -> Result<Capture> {
        Capture::try_start(tap, Some(Auditor::new(witness)), room)
    }

    fn try_start(interface: &str, auditor: Option<Auditor>, room: Room) -> Result<Capture> {
        Capture::open(interface, auditor, room).or_cannot_run(|| format!("capture on {interface}"))
    }

    fn open(interface: &str, auditor: Option<Auditor>, room: Room) -> Result<Capture> {
        let ring = Ring::open(interface, room)?;
        let socket = ring.handle()?;
        let (stopped, stop) = std::io::pipe().context("cannot make a pipe")?;
        let state = Arc::new(Watch::new(State {
            ring,
            stamps: Stamps::new(),
            frames: VecDeque::new(),
            first: 0,
            held: 0,
            dropped: 0,
            auditor,
        }));
        let theirs = Arc::clone(&state);
        thread::start(&format!("capture {interface}"), move || {
            read(&theirs, &socket, &stopped)
        })?;
        Ok(Capture {
            interface: interface.into(),
            _stop: stop,
            state,
        })
    }

    /// Now: what has passed by now is before it, what passes later is after it.
    pub fn mark(&self) -> Result<Mark> {
        let state = self.up_to_now()?;
        Ok(Mark {
            frame: state.end(),
            dropped: state.dropped,
        })
    }

    /// Waits until `until` for the first frame since `mark` for which `wanted` is true. Where none
    /// comes, the error is a [`NotSeen`].
    pub fn wait(
        &self,
        mark: Mark,
        until: impl Into<Until>,
        mut wanted: impl FnMut(&Frame) -> bool,
    ) -> Result<Frame> {
        self.find(mark, until.into(), &mut wanted)
            .map(|(frame, _)| frame)
    }

    /// Waits as [`Capture::wait`], and gives the moment right behind that frame. It must be one that comes after
    /// all that was under way before `mark`: the answer to a request that was sent later, as a NIC takes things in
    /// turn.
    pub fn behind(
        &self,
        mark: Mark,
        until: impl Into<Until>,
        mut wanted: impl FnMut(&Frame) -> bool,
    ) -> Result<Fence> {
        self.find(mark, until.into(), &mut wanted)
            .map(|(_, behind)| Fence(behind))
    }

    fn find(
        &self,
        mark: Mark,
        until: Until,
        wanted: &mut dyn FnMut(&Frame) -> bool,
    ) -> Result<(Frame, Mark)> {
        let begun = Instant::now();
        let mut next = mark;
        let mut look = |state: &mut State| {
            let begin = next.frame.max(state.first);
            let mut numbered = (begin..).zip(state.since(next));
            let found = numbered.find(|(_, frame)| wanted(frame));
            let found = found.map(|(number, frame)| {
                let behind = Mark {
                    frame: number + 1,
                    dropped: state.dropped,
                };
                (frame.clone(), behind)
            });
            next.frame = state.end().max(mark.frame);
            found
        };
        drop(self.up_to_now()?);
        if let Some(found) = self.state.wait(until, &mut look) {
            return Ok(found);
        }
        let mut state = self.up_to_now()?;
        // It may have come just as the time was up.
        if let Some(found) = look(&mut state) {
            return Ok(found);
        }
        let error = NotSeen {
            interface: self.interface.clone(),
            waited: begun.elapsed(),
            seen: summary(state.since(mark)),
            lost: state.lost(mark),
        };
        Err(until.excused(error.into()))
    }

    /// How many frames since `fence` there are for which `wanted` is true; an error if frames were lost,
    /// as the count would be wrong.
    pub fn count(&self, fence: Fence, mut wanted: impl FnMut(&Frame) -> bool) -> Result<usize> {
        let state = self.complete_since(fence.0)?;
        Ok(state.since(fence.0).filter(|frame| wanted(frame)).count())
    }

    /// All frames since `fence`; an error if some were lost.
    pub fn frames(&self, fence: Fence) -> Result<Vec<Frame>> {
        self.frames_with_late(fence.0)
    }

    /// All frames since `mark`, for who tells an earlier step's from others by what is in them; an error if some
    /// were lost.
    pub fn frames_with_late(&self, mark: Mark) -> Result<Vec<Frame>> {
        let state = self.complete_since(mark)?;
        Ok(state.since(mark).cloned().collect())
    }

    /// What there was since `mark`, as a sentence's end, see [`summary`].
    pub fn summary(&self, mark: Mark) -> Result<String> {
        let state = self.up_to_now()?;
        let seen = summary(state.since(mark));
        Ok(match state.lost(mark) {
            0 => seen,
            lost => format!("{seen}, and {lost} frames that were not kept"),
        })
    }

    /// Has what has passed by now judged.
    ///
    /// # Errors
    /// When the kernel does not say what was lost.
    pub fn judge(&self) -> Result<()> {
        self.up_to_now().map(drop)
    }

    /// Frames that the kernel had no room for, since the start.
    pub fn dropped(&self) -> Result<u64> {
        Ok(self.up_to_now()?.dropped)
    }

    /// Writes what is kept as a pcap file with nanoseconds.
    pub fn write_pcap(&self, path: &Path) -> Result<()> {
        let frames: Vec<Frame> = self.up_to_now()?.frames.iter().cloned().collect();
        write_frames(&frames, path)
    }

    fn up_to_now(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        state.drain();
        state.count_drops()?;
        Ok(state)
    }

    fn complete_since(&self, mark: Mark) -> Result<MutexGuard<'_, State>> {
        let state = self.up_to_now()?;
        let lost = state.lost(mark);
        if lost > 0 {
            Err(anyhow::anyhow!(
                "it lost {lost} frames, {} are left",
                state.since(mark).count()
            ))
            .or_cannot_run(|| format!("rely on the capture of {}", self.interface))?;
        }
        Ok(state)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // What has passed is still to be judged; where the kernel does not say what it lost, nothing is.
        drop(self.up_to_now());
    }
}

fn read(state: &Watch<State>, socket: &OwnedFd, stopped: &PipeReader) {
    loop {
        let mut ready = [
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return, // out of kernel memory: the drop counter shows it
        }
        let [on_socket, on_stop] = ready.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        if !on_stop.is_empty() {
            return;
        }
        state.update(|state| {
            if on_socket.contains(PollFlags::POLLERR) {
                state.ring.clear_error();
            }
            state.drain();
        });
    }
}

/// Writes `frames` as [`Capture::write_pcap`] does.
pub fn write_frames(frames: &[Frame], path: &Path) -> Result<()> {
    write_pcap(frames, path).or_cannot_run(|| format!("write the capture {}", path.display()))
}

fn write_pcap(frames: &[Frame], path: &Path) -> Result<()> {
    let header = PcapHeader {
        datalink: DataLink::ETHERNET,
        ts_resolution: TsResolution::NanoSecond,
        snaplen: 256 << 10,
        ..PcapHeader::default()
    };
    let mut writer = PcapWriter::with_header(BufWriter::new(File::create(path)?), header)?;
    for frame in frames {
        let length = u32::try_from(frame.length).unwrap_or(u32::MAX);
        writer.write_packet(&PcapPacket::new(frame.time, length, &frame.bytes))?;
    }
    std::io::Write::flush(&mut writer.into_writer())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::frame::Direction;
    use crate::net::vnet_header::VnetHeader;
    use pcap_file::pcap::PcapReader;

    fn raw(bytes: &[u8], vlan: Option<(u16, u16)>) -> Raw<'_> {
        Raw {
            bytes,
            length: 100,
            vlan,
            direction: Direction::FromGuest,
            left: VnetHeader::default(),
            time: Duration::new(5, 123_456_789),
        }
    }

    #[test]
    fn the_vlan_tag_is_put_back() {
        let bytes: Vec<u8> = (0..40).collect();
        let frame = raw(&bytes, Some((0x8100, 0x600a))).keep(usize::MAX);
        assert_eq!(frame.bytes[..12], bytes[..12]);
        assert_eq!(frame.bytes[12..16], [0x81, 0x00, 0x60, 0x0a]);
        assert_eq!(frame.bytes[16..], bytes[12..]);
        assert_eq!((frame.length, frame.vlan_id()), (104, Some(10)));
        assert_eq!(raw(&bytes, None).keep(20).bytes.len(), 20);
        assert_eq!(raw(&bytes[..5], Some((0x8100, 10))).keep(20).bytes.len(), 5);
    }

    #[test]
    fn a_pcap_keeps_nanoseconds_and_lengths() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("net.pcap");
        let frame = raw(&[7; 60], None).keep(usize::MAX);
        write_pcap(&[frame.clone(), frame], &file).unwrap();
        let mut reader = PcapReader::new(File::open(&file).unwrap()).unwrap();
        let mut count = 0;
        while let Some(packet) = reader.next_packet() {
            let packet = packet.unwrap();
            assert_eq!(
                (packet.timestamp, packet.orig_len),
                (Duration::new(5, 123_456_789), 100)
            );
            assert_eq!(*packet.data, [7; 60]);
            count += 1;
        }
        assert_eq!(count, 2);
    }

    #[test]
    fn not_seen_is_a_sentence_with_facts() {
        let mut error = NotSeen {
            interface: "tap0".into(),
            waited: Duration::from_millis(2040),
            seen: "3 × ARP request".into(),
            lost: 0,
        };
        assert_eq!(
            error.to_string(),
            "no such frame on tap0 in 2.0 s; seen instead: 3 × ARP request"
        );
        error.lost = 2;
        assert!(
            error
                .to_string()
                .ends_with("; the capture lost 2 frames meanwhile")
        );
    }
}
