//! `struct virtio_net_hdr` (linux/virtio_net.h), as a packet socket gives it with `PACKET_VNET_HDR`: what a
//! frame's sender left to whoever takes the frame.

/// Bytes of it.
pub(super) const SIZE: usize = 10;

/// VIRTIO_NET_HDR_F_NEEDS_CSUM.
const NEEDS_CSUM: u8 = 1;
/// VIRTIO_NET_HDR_GSO_ECN, a mark beside the kind.
const ECN: u8 = 0x80;

/// Where a checksum is left to be completed: its field holds the sum of the pseudo header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Partial {
    /// Where the sum begins, bytes from the frame's begin (without VLAN tag).
    pub(super) start: u16,
    /// Where it goes, bytes from there.
    pub(super) offset: u16,
}

/// A frame that is left to be segmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segmentation {
    /// VIRTIO_NET_HDR_GSO_…, without the mark for ECN.
    pub(super) kind: u8,
    /// Payload of a segment, bytes.
    pub(super) size: u16,
}

/// VIRTIO_NET_HDR_GSO_TCPV4.
pub(super) const TCPV4: u8 = 1;
/// VIRTIO_NET_HDR_GSO_TCPV6.
pub(super) const TCPV6: u8 = 4;
/// VIRTIO_NET_HDR_GSO_UDP_L4.
pub(super) const UDP: u8 = 5;

/// What is left to the receiver; nothing by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct VnetHeader {
    pub(super) partial: Option<Partial>,
    pub(super) segmentation: Option<Segmentation>,
}

impl VnetHeader {
    /// From the kernel's bytes, in the host's order.
    pub(super) fn parse(bytes: [u8; SIZE]) -> VnetHeader {
        let [flags, kind, _, _, size @ .., s0, s1, o0, o1] = bytes;
        let partial = (flags & NEEDS_CSUM != 0).then_some(Partial {
            start: u16::from_ne_bytes([s0, s1]),
            offset: u16::from_ne_bytes([o0, o1]),
        });
        let segmentation = (kind & !ECN != 0).then_some(Segmentation {
            kind: kind & !ECN,
            size: u16::from_ne_bytes(size),
        });
        VnetHeader {
            partial,
            segmentation,
        }
    }

    /// The kernel's bytes of it, in the host's order. Before the payload of a frame that is to be segmented there are
    /// `headers` bytes.
    pub(super) fn bytes(self, headers: u16) -> [u8; SIZE] {
        let flags = if self.partial.is_some() {
            NEEDS_CSUM
        } else {
            0
        };
        let (kind, size) = self.segmentation.map_or((0, 0), |s| (s.kind, s.size));
        let (start, offset) = self.partial.map_or((0, 0), |p| (p.start, p.offset));
        let headers = if kind == 0 { 0 } else { headers };
        let mut bytes = [0; SIZE];
        bytes[..2].copy_from_slice(&[flags, kind]);
        for (to, field) in bytes[2..].chunks_mut(2).zip([headers, size, start, offset]) {
            to.copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }
}

/// The sum of a pseudo header (RFC 9293, 3.1; RFC 8200, 8.1), which stands where a checksum is left to be completed:
/// of both addresses, the protocol, and the bytes from its header on.
pub fn pseudo_sum(addresses: &[u8], protocol: u8, length: u16) -> u16 {
    let words = addresses
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum = words.sum::<u32>() + u32::from(protocol) + u32::from(length);
    let folded = (sum & 0xffff) + (sum >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_field_by_field() {
        assert_eq!(VnetHeader::parse([0; SIZE]), VnetHeader::default());
        // Lengths as a little-endian host has them.
        let words = [54, 1448, 34, 16].map(u16::to_ne_bytes).concat();
        let bytes: Vec<u8> = [NEEDS_CSUM, TCPV4 | ECN].into_iter().chain(words).collect();
        let read = VnetHeader::parse(bytes.try_into().unwrap());
        let expected = VnetHeader {
            partial: Some(Partial {
                start: 34,
                offset: 16,
            }),
            segmentation: Some(Segmentation {
                kind: TCPV4,
                size: 1448,
            }),
        };
        assert_eq!(read, expected);
        assert_eq!(VnetHeader::parse(read.bytes(54)), expected);
        assert_eq!(VnetHeader::default().bytes(54), [0; SIZE]);
    }
}
