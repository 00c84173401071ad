//! An `AF_PACKET` socket with a receive ring (TPACKET_V2): the kernel writes frames straight into
//! memory shared with us. It loses nothing in bursts that overrun a socket's buffer, which an
//! ordinary user cannot enlarge, and each frame is there to read the moment it has passed.

use super::frame::{Direction, Frame};
use super::vnet_header::{self, VnetHeader};
use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const BLOCK: usize = 64 << 10;

/// What a ring has room for before it is read. The kernel keeps all of a ring in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// 4,096 frames: a reader held up for 40 ms at 100,000 frames a second loses none.
    Flood,
    /// As many, of which the headers are enough.
    FloodOfHeaders,
    /// 256, for one of many captures: a reader held up for a second at some hundred frames a second loses none.
    Few,
}

impl Room {
    const fn frames(self) -> usize {
        match self {
            Room::Flood | Room::FloodOfHeaders => 4096,
            Room::Few => 256,
        }
    }

    /// One frame's place, bytes: some 110 bytes of headers of ours, and the begin of the frame.
    const fn slot(self) -> usize {
        match self {
            Room::FloodOfHeaders => 512,
            Room::Flood | Room::Few => 2 << 10,
        }
    }

    /// Bytes of the ring.
    const fn size(self) -> usize {
        self.frames() * self.slot()
    }
}

const ADDRESS_OFFSET: usize =
    size_of::<libc::tpacket2_hdr>().next_multiple_of(libc::TPACKET_ALIGNMENT);

/// A frame as it lies in the ring.
pub(super) struct Raw<'a> {
    /// The beginning of the frame, without the VLAN tag.
    pub(super) bytes: &'a [u8],
    /// Its whole length, without the VLAN tag, bytes.
    pub(super) length: usize,
    /// Tag protocol and tag control, where it had a VLAN tag.
    pub(super) vlan: Option<(u16, u16)>,
    pub(super) direction: Direction,
    /// What its sender left to whoever takes it.
    pub(super) left: VnetHeader,
    /// Since the epoch, by the time of day.
    pub(super) time: Duration,
}

impl Raw<'_> {
    /// Copies at most `snap` bytes of it out of the ring, and puts back the VLAN tag that the kernel took out.
    pub(super) fn keep(&self, snap: usize) -> Frame {
        let bytes = &self.bytes[..self.bytes.len().min(snap)];
        let mut length = self.length;
        let bytes = match (self.vlan, bytes.split_at_checked(12)) {
            (Some((protocol, control)), Some((macs, rest))) => {
                length += 4;
                [macs, &protocol.to_be_bytes(), &control.to_be_bytes(), rest]
                    .concat()
                    .into()
            }
            _ => bytes.into(),
        };
        Frame {
            time: self.time,
            direction: self.direction,
            length,
            segment: self.left.segmentation.map(|left| left.size),
            bytes,
        }
    }
}

pub(super) struct Ring {
    socket: OwnedFd,
    memory: NonNull<u8>,
    room: Room,
    next: usize,
}

// SAFETY: the mapping belongs to this value alone, and reading takes `&mut self`.
unsafe impl Send for Ring {}

impl Ring {
    /// Begins to capture on an interface of the calling thread's network.
    pub(super) fn open(interface: &str, room: Room) -> Result<Ring> {
        let index = nix::net::if_::if_nametoindex(interface)
            .with_context(|| format!("there is no interface {interface}"))?;
        // Protocol 0: nothing is received before `bind`.
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .context("cannot open a packet socket")?;
        let version = libc::tpacket_versions::TPACKET_V2 as libc::c_int;
        set_option(&socket, libc::PACKET_VERSION, &version).context("cannot set TPACKET_V2")?;
        // The kernel has no such header for a UDP datagram that is left to be cut into fragments, which guests
        // with a Linux before 4.14 send: it counts the datagram as lost to the capture.
        let on: libc::c_int = 1;
        set_option(&socket, libc::PACKET_VNET_HDR, &on)
            .context("cannot ask for what is left to the receiver")?;
        let request = libc::tpacket_req {
            tp_block_size: BLOCK as u32,
            tp_block_nr: (room.size() / BLOCK) as u32,
            tp_frame_size: room.slot() as u32,
            tp_frame_nr: room.frames() as u32,
        };
        set_option(&socket, libc::PACKET_RX_RING, &request)
            .context("cannot make a capture ring")?;
        let memory = map(&socket, room).context("cannot map the capture ring")?;
        let ring = Ring {
            socket,
            memory,
            room,
            next: 0,
        };
        bind(&ring.socket, index, libc::ETH_P_ALL as u16)
            .with_context(|| format!("cannot capture on {interface}"))?;
        Ok(ring)
    }

    /// Hands every frame that is in the ring to `take`, and its slot back to the kernel; of those that come meanwhile
    /// no more than make as many as the ring has room for.
    pub(super) fn drain(&mut self, mut take: impl FnMut(Raw<'_>)) {
        let size = self.room.slot();
        for _ in 0..self.room.frames() {
            // SAFETY: `next` is below the number of slots, so the slot lies in the mapping.
            let slot = unsafe { self.memory.add(self.next * size) };
            // SAFETY: a slot begins with tp_status, aligned, which kernel and user share.
            let status = unsafe { AtomicU32::from_ptr(slot.as_ptr().cast()) };
            let flags = status.load(Ordering::Acquire);
            if flags & libc::TP_STATUS_USER == 0 {
                return;
            }
            // SAFETY: TP_STATUS_USER says that the slot is ours until the store below: a
            // tpacket2_hdr, a sockaddr_ll, and from tp_mac on tp_snaplen bytes of the frame.
            let (header, address) = unsafe {
                (
                    slot.cast::<libc::tpacket2_hdr>().read(),
                    slot.add(ADDRESS_OFFSET).cast::<libc::sockaddr_ll>().read(),
                )
            };
            let start = usize::from(header.tp_mac).min(size);
            let count = (header.tp_snaplen as usize).min(size - start);
            // SAFETY: as above, and bounded to the slot.
            let bytes = unsafe { std::slice::from_raw_parts(slot.add(start).as_ptr(), count) };
            let left = start.saturating_sub(vnet_header::SIZE);
            // SAFETY: as above; the header, which any bytes are valid for, stands before the frame.
            let left = unsafe { slot.add(left).cast::<[u8; vnet_header::SIZE]>().read() };
            let vlan = (flags & libc::TP_STATUS_VLAN_VALID != 0).then(|| {
                let tagged = flags & libc::TP_STATUS_VLAN_TPID_VALID != 0;
                (
                    if tagged {
                        header.tp_vlan_tpid
                    } else {
                        libc::ETH_P_8021Q as u16
                    },
                    header.tp_vlan_tci,
                )
            });
            take(Raw {
                bytes,
                length: header.tp_len as usize,
                vlan,
                direction: match address.sll_pkttype {
                    libc::PACKET_OUTGOING => Direction::ToGuest,
                    _ => Direction::FromGuest,
                },
                left: VnetHeader::parse(left),
                time: Duration::new(header.tp_sec.into(), header.tp_nsec),
            });
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.next = (self.next + 1) % self.room.frames();
        }
    }

    /// Frames lost, for want of room in the ring, since the last call.
    pub(super) fn take_drops(&self) -> Result<u64> {
        let mut stats = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        get_option(
            &self.socket,
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            &mut stats,
        )
        .context("cannot read the capture's drop counter")?;
        Ok(stats.tp_drops.into())
    }

    /// Takes the error that the kernel reports when the interface goes down or away; until then
    /// the socket polls as ready.
    pub(super) fn clear_error(&self) {
        let mut error: libc::c_int = 0;
        // It cannot fail on a socket of ours, and if it did the next drain would tell.
        let _ = get_option(&self.socket, libc::SOL_SOCKET, libc::SO_ERROR, &mut error);
    }

    /// A second handle, to poll without holding the ring.
    pub(super) fn handle(&self) -> Result<OwnedFd> {
        self.socket
            .try_clone()
            .context("cannot duplicate the packet socket")
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one, whole, and no slice of it outlives `drain`. It fails
        // only for a wrong address or size.
        let _ = unsafe { nix::sys::mman::munmap(self.memory.cast(), self.room.size()) };
    }
}

fn map(socket: impl AsFd, room: Room) -> Result<NonNull<u8>> {
    use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap};
    let size = NonZeroUsize::new(room.size()).context("an empty ring")?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping, wherever the kernel likes, of the ring that the socket just made.
    let memory = unsafe { mmap(None, size, access, MapFlags::MAP_SHARED, socket, 0) }?;
    // A child would get a copy of its page tables before it becomes another program.
    // SAFETY: the whole of the new mapping, which this process goes on to see.
    unsafe { madvise(memory, size.get(), MmapAdvise::MADV_DONTFORK) }?;
    Ok(memory.cast())
}

/// Ties a packet socket to the interface `index`, to receive frames of `protocol`; none by 0.
pub(super) fn bind(socket: &OwnedFd, index: u32, protocol: u16) -> Result<()> {
    // SAFETY: all zeroes is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index as i32;
    // SAFETY: the address outlives the call and its size is given.
    Errno::result(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    })?;
    Ok(())
}

pub(super) fn set_option<T>(socket: &OwnedFd, name: libc::c_int, value: &T) -> Result<(), Errno> {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` outlives the call and its size is given.
    Errno::result(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            name,
            (&raw const *value).cast::<c_void>(),
            size,
        )
    })
    .map(drop)
}

fn get_option<T>(
    socket: &OwnedFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &mut T,
) -> Result<(), Errno> {
    let mut size = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` and `size` outlive the call, plain data that any bytes are valid for.
    Errno::result(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw mut *value).cast::<c_void>(),
            &raw mut size,
        )
    })
    .map(drop)
}
