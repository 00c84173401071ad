//! The hash by which NICs spread flows over queues (Microsoft, "RSS hashing types", and virtio 1.2, 5.1.6.4.3). Pure.

use super::addr::octets;
use std::net::SocketAddr;

/// Toeplitz's hash of `input` with a key of at least four bytes more than that.
pub fn hash(key: &[u8], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| {
        let byte = bytes.get(at / 8).copied().unwrap_or_default();
        u32::from(byte >> (7 - at % 8) & 1)
    };
    let mut window = (0..32).fold(0, |window, at| window << 1 | bit(key, at));
    let mut sum = 0;
    for at in 0..8 * input.len() {
        if bit(input, at) == 1 {
            sum ^= window;
        }
        window = window << 1 | bit(key, at + 32);
    }
    sum
}

/// The hash of what a TCP connection sends from one end to the other, both of IPv4 or both of IPv6.
pub fn of_tcp(key: &[u8], from: SocketAddr, to: SocketAddr) -> u32 {
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    hash(key, &[octets(from.ip()), octets(to.ip()), ports].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Microsoft's ("Verifying the RSS hash calculation").
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f,
        0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
        0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    #[test]
    fn it_is_as_published() {
        for (to, from, by_address, by_port) in [
            (
                "161.142.100.80:1766",
                "66.9.149.187:2794",
                0x323e_8fc2,
                0x51cc_c178,
            ),
            (
                "65.69.140.83:4739",
                "199.92.111.2:14230",
                0xd718_262a,
                0xc626_b0ea,
            ),
            (
                "12.22.207.184:38024",
                "24.19.198.95:12898",
                0xd2d0_a5de,
                0x5c2b_394a,
            ),
            (
                "209.142.163.6:2217",
                "38.27.205.30:48228",
                0x8298_9176,
                0xafc7_327f,
            ),
            (
                "202.188.127.2:1303",
                "153.39.163.191:44251",
                0x5d18_09c5,
                0x10e8_28a2,
            ),
            (
                "[3ffe:2501:200:3::1]:1766",
                "[3ffe:2501:200:1fff::7]:2794",
                0x2cc1_8cd5,
                0x4020_7d3d,
            ),
            (
                "[ff02::1]:4739",
                "[3ffe:501:8::260:97ff:fe40:efab]:14230",
                0x0f0c_461c,
                0xdde5_1bbf,
            ),
            (
                "[fe80::200:f8ff:fe21:67cf]:38024",
                "[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251",
                0x4b61_e985,
                0x02d1_feef,
            ),
        ] {
            let (to, from): (SocketAddr, SocketAddr) = (to.parse().unwrap(), from.parse().unwrap());
            assert_eq!(of_tcp(&KEY, from, to), by_port, "{from} {to}");
            let addresses = [octets(from.ip()), octets(to.ip())].concat();
            assert_eq!(hash(&KEY, &addresses), by_address, "{from} {to}");
        }
    }
}
