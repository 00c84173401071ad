//! A program for the guest's express data path (XDP), which sees a frame before the guest's kernel does.

use crate::base::error::OrCannotRun as _;
use anyhow::Result;
use object::write::{Object, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
};

/// The section of the object that is the program: `ip link set … sec xdp`.
pub const SECTION: &str = "xdp";

/// What becomes of a frame (`enum xdp_action` of linux/bpf.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nobody sees it.
    Drop = 1,
    /// The kernel takes it as any other.
    Pass = 2,
    /// It is sent back by the NIC that it came from, here with its two MACs exchanged.
    Tx = 3,
}

/// IPv4's EtherType as the program's little-endian machine reads it.
const IPV4: i32 = 0x0008;
/// Where in a frame its EtherType and IPv4's type of service are, and how long it is at least, bytes.
const ETHERTYPE: i16 = 12;
const SERVICE: i16 = 15;
const LEAST: i32 = 34;

/// An instruction of eBPF (RFC 9669): opcode, destination, source, offset and constant.
type Instruction = (u8, u8, u8, i16, i32);

// Opcodes of RFC 9669, of those that the program has.
const LOAD: [(u8, i16); 2] = [(0x61, 0), (0x69, 4)];
const STORE: [u8; 2] = [0x63, 0x6b];
const LOAD_WORD: u8 = 0x61;
const LOAD_HALF: u8 = 0x69;
const LOAD_BYTE: u8 = 0x71;
const MOVE: u8 = 0xb7;
const COPY: u8 = 0xbf;
const ADD: u8 = 0x07;
const JUMP_ABOVE: u8 = 0x2d;
const JUMP_UNLESS: u8 = 0x55;
const EXIT: u8 = 0x95;

/// An object file for `ip link set … xdp obj`, whose program does with IPv4 of these types of service what stands beside
/// them, and lets the kernel have all else.
///
/// # Errors
/// None of the few actions that a case gives.
pub fn object(actions: &[(u8, Action)]) -> Result<Vec<u8>> {
    let code: Vec<u8> = program(actions).iter().flat_map(encode).collect();
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let section = object.add_section(Vec::new(), SECTION.into(), SectionKind::Text);
    let offset = object.append_section_data(section, &code, 8);
    object.add_symbol(Symbol {
        name: b"sort_frames".to_vec(),
        value: offset,
        size: code.len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
    let license = object.add_section(Vec::new(), b"license".into(), SectionKind::Data);
    object.append_section_data(license, b"GPL\0", 1);
    object
        .write()
        .or_cannot_run(|| "make a program for the guest's XDP".into())
}

/// Register 1 has the frame's begin and end, 2 and 3 keep them, 0 is the answer.
fn program(actions: &[(u8, Action)]) -> Vec<Instruction> {
    let tails: Vec<_> = actions.iter().map(|(_, action)| tail(*action)).collect();
    let looks: Vec<Instruction> = (actions.iter().zip(&tails))
        .flat_map(|((service, _), tail)| {
            let next = (JUMP_UNLESS, 5, 0, tail.len() as i16, i32::from(*service));
            [&[next][..], tail].concat()
        })
        .collect();
    let to_end = looks.len() as i16;
    let head: [Instruction; 9] = [
        (LOAD_WORD, 2, 1, 0, 0),
        (LOAD_WORD, 3, 1, 4, 0),
        (MOVE, 0, 0, 0, Action::Pass as i32),
        (COPY, 4, 2, 0, 0),
        (ADD, 4, 0, 0, LEAST),
        (JUMP_ABOVE, 4, 3, to_end + 3, 0),
        (LOAD_HALF, 5, 2, ETHERTYPE, 0),
        (JUMP_UNLESS, 5, 0, to_end + 1, IPV4),
        (LOAD_BYTE, 5, 2, SERVICE, 0),
    ];
    [&head[..], &looks, &[(EXIT, 0, 0, 0, 0)]].concat()
}

/// What makes an end of a frame's way.
fn tail(action: Action) -> Vec<Instruction> {
    let mut tail = Vec::new();
    if action == Action::Tx {
        // A MAC is four bytes and two.
        for ((load, at), store) in LOAD.into_iter().zip(STORE) {
            tail.extend([
                (load, 4, 2, at, 0),
                (load, 5, 2, at + 6, 0),
                (store, 2, 5, at, 0),
                (store, 2, 4, at + 6, 0),
            ]);
        }
    }
    tail.extend([(MOVE, 0, 0, 0, action as i32), (EXIT, 0, 0, 0, 0)]);
    tail
}

fn encode(&(opcode, destination, source, offset, constant): &Instruction) -> [u8; 8] {
    let [offset_low, offset_high] = offset.to_le_bytes();
    let [a, b, c, d] = constant.to_le_bytes();
    [
        opcode,
        source << 4 | destination,
        offset_low,
        offset_high,
        a,
        b,
        c,
        d,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use goblin::elf::Elf;

    const ACTIONS: [(u8, Action); 3] =
        [(0, Action::Pass), (0x0c, Action::Drop), (0x1c, Action::Tx)];

    #[test]
    fn the_object_has_the_program_where_ip_looks_for_it() {
        let bytes = object(&ACTIONS).unwrap();
        let elf = Elf::parse(&bytes).unwrap();
        assert_eq!(elf.header.e_machine, goblin::elf::header::EM_BPF);
        let symbol = elf.syms.iter().find(|symbol| symbol.is_function()).unwrap();
        let section = &elf.section_headers[symbol.st_shndx];
        assert_eq!(elf.shdr_strtab.get_at(section.sh_name), Some(SECTION));
        let code = program(&ACTIONS).len() as u64 * 8;
        assert_eq!((symbol.st_size, section.sh_size), (code, code));
    }

    #[test]
    fn each_jump_leads_to_an_action_or_to_the_end() {
        let program = program(&ACTIONS);
        for (at, (opcode, .., offset, _)) in program.iter().enumerate() {
            if [JUMP_ABOVE, JUMP_UNLESS].contains(opcode) {
                let to = at + 1 + usize::try_from(*offset).unwrap();
                let before = program[to - 1].0;
                assert!(before == EXIT || to == program.len() - 1, "{at} to {to}");
                assert!([JUMP_UNLESS, EXIT].contains(&program[to].0), "{at} to {to}");
            }
        }
        let ends = program.iter().filter(|(opcode, ..)| *opcode == EXIT);
        assert_eq!(ends.count(), ACTIONS.len() + 1);
    }
}
