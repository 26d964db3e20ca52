//! Loads, stores, atomics and conversions of addresses.

use super::{Decoder, Opcode, Refusal};
use crate::float::Format;
use crate::float::arithmetic::{Mode, add_f32, add_short};
use crate::parse::{Operand, size_of_type};
use crate::program::{AddressSpace, AtomicFn, Constant, Element, Op, Slot};
use crate::registers::{Action, Args, Registers, binary, unary};

/// Where generic addresses of the windows begin. Global memory lies above all of them.
pub(crate) const SHARED_WINDOW: u64 = 0x0100_0000_0000;
pub(crate) const LOCAL_WINDOW: u64 = 0x0200_0000_0000;
pub(crate) const PARAM_WINDOW: u64 = 0x0300_0000_0000;
/// Bytes of a window.
pub(crate) const WINDOW: u64 = 0x0100_0000_0000;

impl<'a> Decoder<'a> {
    pub(super) fn memory(&mut self, opcode: Opcode<'a>, operands: &'a [Operand]) -> Result<Option<Op>, Refusal> {
        match opcode.name() {
            "ld" | "ldu" => {
                let [d, address] = operands else { return Err("a load has a result and an address".to_owned()) };
                let (element, registers) = self.elements(opcode, d)?;
                let address = self.address(space(opcode), address)?;
                Ok(Some(Op::Load { address, element, registers }))
            }
            "st" => {
                let [address, a] = operands else { return Err("a store has an address and a value".to_owned()) };
                if opcode.has("async") {
                    return Err("`st.async` is not executed".to_owned());
                }
                // Arguments of a call that is refused or traps.
                if opcode.has("param") {
                    return Ok(Some(Op::Nop));
                }
                let (element, registers) = self.elements(opcode, a)?;
                let address = self.address(space(opcode), address)?;
                Ok(Some(Op::Store { address, element, registers }))
            }
            "atom" | "red" if !opcode.has("async") => self.atomic(opcode, operands).map(Some),
            "cvta" => self.convert_address(opcode, operands),
            "isspacep" => {
                let [p, a] = operands else { return Err("`isspacep` has a result and an address".to_owned()) };
                let compare: fn(&Registers, &Args) -> u32 = match opcode.last() {
                    "shared" | "shared::cta" => |r, a| in_window(r, a, SHARED_WINDOW),
                    "local" => |r, a| in_window(r, a, LOCAL_WINDOW),
                    "param" | "param::entry" => |r, a| in_window(r, a, PARAM_WINDOW),
                    "global" => |r, a| in_window(r, a, u64::MAX),
                    _ => return Ok(None),
                };
                let slots = [self.predicate_result(p)?, self.b64(a)?, 0, 0, 0];
                Ok(Some(Op::Setp { compare, args: Args { slots, extra: 0 }, other: None, combine: None }))
            }
            "mapa" => {
                let [d, a, rank] = operands else {
                    return Err("`mapa` has a result, an address and a rank".to_owned());
                };
                let bits = if opcode.last() == "u64" { 64 } else { 32 };
                let is_generic = !opcode.has("shared::cluster");
                let slot = |slot, bits| if bits == 64 { Slot::B64(slot) } else { Slot::B32(slot) };
                let d = slot(self.of_width(d, bits)?, bits);
                let a = slot(self.of_width(a, bits)?, bits);
                Ok(Some(Op::MapToRank { d, a, rank: self.b32(rank)?, is_generic }))
            }
            // One thread's accesses are in order here, and those of others are ordered by what is checked: barriers.
            "fence" | "membar" if !opcode.has("proxy") => Ok(Some(Op::Nop)),
            "fence" => {
                Ok(Some(if opcode.has("async") || opcode.has("async::shared::cta") || opcode.has("async::generic") {
                    Op::FenceProxyAsync
                } else {
                    Op::Nop
                }))
            }
            "createpolicy" => {
                let [d, ..] = operands else { return Err("`createpolicy` has a result".to_owned()) };
                // A hint for caches, which are not modelled.
                let action: Action = |r, a, m| unary::<u64, u64>(r, a, m, |x| x);
                let (Slot::B64(zero) | Slot::B32(zero)) = self.constant(Constant::Value(0), true);
                Ok(Some(Op::Pure(action, Args { slots: [self.b64(d)?, zero, 0, 0, 0], extra: 0 })))
            }
            "discard" => Ok(Some(Op::Nop)),
            _ => Ok(None),
        }
    }

    /// The registers of a load or store, and what each is in memory.
    fn elements(&mut self, opcode: Opcode<'a>, operand: &'a Operand) -> Result<(Element, Vec<Slot>), Refusal> {
        let kind = opcode.last();
        let bytes = size_of_type(kind).filter(|&bytes| bytes <= 8).ok_or_else(|| format!("type `.{kind}`"))? as u8;
        let parts = match operand {
            Operand::Vector(parts) => &parts[..],
            single => std::slice::from_ref(single),
        };
        let expected = opcode.one_of(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1);
        if parts.len() != expected {
            return Err(format!("expected {expected} registers, found {}", parts.len()));
        }
        let mut registers = Vec::new();
        for part in parts {
            let slot = self.slot(part, bytes == 8)?;
            if let Slot::B32(slot) = slot {
                self.named.push(slot);
            }
            registers.push(slot);
        }
        if bytes == 8 && registers.iter().any(|slot| matches!(slot, Slot::B32(_))) {
            return Err("a register of 64 bits is needed here".to_owned());
        }
        Ok((Element { bytes, is_signed: kind.starts_with('s') }, registers))
    }

    fn atomic(&mut self, opcode: Opcode<'a>, operands: &'a [Operand]) -> Result<Op, Refusal> {
        let kind = opcode.last();
        let operation = opcode.qualifiers().find_map(|part| atomic_function(part, kind));
        let Some(operation) = operation else { return Err("this atomic operation is not executed".to_owned()) };
        let bytes = match size_of_type(kind) {
            Some(bytes) if opcode.has("v2") || opcode.has("v4") => {
                return Err(format!("vector atomics of {bytes}-byte elements are not executed"));
            }
            Some(bytes) => bytes as u8,
            None => return Err(format!("type `.{kind}`")),
        };
        let space = space(opcode);
        let is_wide = bytes == 8;
        let has_result = opcode.name() == "atom";
        let (d, rest) = if has_result {
            operands.split_first().map_or((None, operands), |(d, rest)| (Some(d), rest))
        } else {
            (None, operands)
        };
        let d = match d {
            Some(d) => Some(self.slot(d, is_wide)?),
            None => None,
        };
        let (address, b, c) = match rest {
            [address, b] => (address, b, None),
            [address, b, c] => (address, b, Some(c)),
            _ => return Err("an atomic operation has an address and one or two values".to_owned()),
        };
        let c = match c {
            Some(c) => Some(self.slot(c, is_wide)?),
            None => None,
        };
        Ok(Op::Atomic { address: self.address(space, address)?, bytes, operation, d, b: self.slot(b, is_wide)?, c })
    }

    fn convert_address(&mut self, opcode: Opcode<'a>, operands: &'a [Operand]) -> Result<Option<Op>, Refusal> {
        if opcode.last() != "u64" {
            return Err("only addresses of 64 bits are converted".to_owned());
        }
        let window = match space(opcode) {
            AddressSpace::Shared => SHARED_WINDOW,
            AddressSpace::Local => LOCAL_WINDOW,
            AddressSpace::Param => PARAM_WINDOW,
            AddressSpace::Global | AddressSpace::Generic => 0,
        };
        let [d, a] = operands else { return Err("`cvta` takes one address".to_owned()) };
        let (Slot::B64(window) | Slot::B32(window)) = self.constant(Constant::Value(window), true);
        let action: Action = if opcode.has("to") {
            |r, a, m| binary::<u64, u64, u64>(r, a, m, u64::wrapping_sub)
        } else {
            |r, a, m| binary::<u64, u64, u64>(r, a, m, u64::wrapping_add)
        };
        Ok(Some(Op::Pure(action, Args { slots: [self.b64(d)?, self.b64(a)?, window, 0, 0], extra: 0 })))
    }
}

fn in_window(registers: &Registers, args: &Args, window: u64) -> u32 {
    let addresses = registers.b64[args.slots[1] as usize];
    addresses.iter().enumerate().fold(0, |bits, (lane, &address)| {
        let is_inside = if window == u64::MAX {
            address >= PARAM_WINDOW + WINDOW
        } else {
            (window..window + WINDOW).contains(&address)
        };
        bits | u32::from(is_inside) << lane
    })
}

/// The state space that an instruction names first.
pub(super) fn space(opcode: Opcode<'_>) -> AddressSpace {
    opcode
        .one_of(&[
            ("global", AddressSpace::Global),
            ("const", AddressSpace::Global),
            ("shared", AddressSpace::Shared),
            ("shared::cta", AddressSpace::Shared),
            ("shared::cluster", AddressSpace::Shared),
            ("local", AddressSpace::Local),
            ("param", AddressSpace::Param),
            ("param::entry", AddressSpace::Param),
        ])
        .unwrap_or(AddressSpace::Generic)
}

fn add_pair(a: u64, b: u64, format: Format) -> u64 {
    let sum = |shift: u32| add_short((a >> shift) as u16, (b >> shift) as u16, format, Mode::NEAREST);
    u64::from(sum(16)) << 16 | u64::from(sum(0))
}

/// An atomic operation by its name and type. The value in memory comes first.
pub(super) fn atomic_function(name: &str, kind: &str) -> Option<AtomicFn> {
    macro_rules! typed {
        ($kind:expr, [$($literal:literal => $type:ty),*], $function:expr) => {
            match $kind {
                $($literal => Some((|old, b, _| { let f: fn($type, $type) -> $type = $function; f(old as $type, b as $type) as u64 }) as AtomicFn),)*
                _ => None,
            }
        };
    }
    match name {
        "add" => match kind {
            "f32" => Some(|old, b, _| u64::from(add_f32(old as u32, b as u32, Mode::NEAREST))),
            "f16" => Some(|old, b, _| add_short(old as u16, b as u16, Format::F16, Mode::NEAREST).into()),
            "bf16" => Some(|old, b, _| add_short(old as u16, b as u16, Format::Bf16, Mode::NEAREST).into()),
            "f16x2" => Some(|old, b, _| add_pair(old, b, Format::F16)),
            "bf16x2" => Some(|old, b, _| add_pair(old, b, Format::Bf16)),
            "f64" => Some(|old, b, _| (f64::from_bits(old) + f64::from_bits(b)).to_bits()),
            _ => typed!(kind, ["u32" => u32, "s32" => u32, "u64" => u64, "s64" => u64], |a, b| a.wrapping_add(b)),
        },
        "and" => typed!(kind, ["b32" => u32, "b64" => u64], |a, b| a & b),
        "or" => typed!(kind, ["b32" => u32, "b64" => u64], |a, b| a | b),
        "xor" => typed!(kind, ["b32" => u32, "b64" => u64], |a, b| a ^ b),
        "exch" => typed!(kind, ["b32" => u32, "u32" => u32, "f32" => u32, "b64" => u64, "u64" => u64], |_, b| b),
        "min" => match kind {
            "s32" => Some(|old, b, _| u64::from((old as i32).min(b as i32) as u32)),
            "s64" => Some(|old, b, _| (old as i64).min(b as i64) as u64),
            _ => typed!(kind, ["u32" => u32, "u64" => u64], |a, b| a.min(b)),
        },
        "max" => match kind {
            "s32" => Some(|old, b, _| u64::from((old as i32).max(b as i32) as u32)),
            "s64" => Some(|old, b, _| (old as i64).max(b as i64) as u64),
            _ => typed!(kind, ["u32" => u32, "u64" => u64], |a, b| a.max(b)),
        },
        "inc" => typed!(kind, ["u32" => u32], |a, b| if a >= b { 0 } else { a + 1 }),
        "dec" => typed!(kind, ["u32" => u32], |a, b| if a == 0 || a > b { b } else { a - 1 }),
        "cas" => match kind {
            // Of a register of 16 bits nothing above them counts.
            "b16" => Some(|old, expected, new| if old as u16 == expected as u16 { new } else { old }),
            "b32" | "u32" | "s32" | "b64" | "u64" | "s64" => {
                Some(|old, expected, new| if old == expected { new } else { old })
            }
            _ => None,
        },
        _ => None,
    }
}
