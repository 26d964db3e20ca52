//! Arithmetic on numbers of several words: `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc` and `madc`.
//!
//! The carry flag is a register like others. A subtraction adds the complement, as the processor does, so that a borrow is
//! a carry of 0: the PTX ISA does not say what `addc` after `sub.cc` gives, but nvcc's division of 128 bits depends on it.

use super::arithmetic::width;
use super::{Decoder, Known, Opcode, Place, Refusal};
use crate::parse::Operand;
use crate::program::Op;
use crate::registers::{Action, Args, Lane, Registers, write};

/// Whether the carry is added, and whether it is set.
const USES: u32 = 1;
const SETS: u32 = 2;
const CARRY: usize = 4;

/// An integer of a register with its value.
trait Integer: Lane {
    const BITS: u32;
    fn value(self) -> i128;
    fn low(value: i128) -> Self;
}

macro_rules! word {
    ($($word:ident)*) => {$(
        impl Integer for $word {
            const BITS: u32 = $word::BITS;
            fn value(self) -> i128 {
                self.into()
            }
            fn low(value: i128) -> Self {
                value as $word
            }
        }
    )*};
}
word!(u32 i32 u64 i64);

/// `f` gives an exact result from the operands and the carry; the bit beyond the word is the new carry.
fn carried<T: Integer>(registers: &mut Registers, args: &Args, mask: u32, f: impl Fn(T, T, T, i128) -> i128) {
    let [a, b, c] = [1, 2, 3].map(|index| T::read(registers, args.slots[index]));
    let carry = u32::read(registers, args.slots[CARRY]);
    let results: [i128; 32] = std::array::from_fn(|lane| {
        let carry = if args.extra & USES != 0 { carry[lane].into() } else { 0 };
        f(T::from_word(a[lane]), T::from_word(b[lane]), T::from_word(c[lane]), carry)
    });
    write(registers, args.slots[0], mask, |lane| T::low(results[lane]));
    if args.extra & SETS != 0 {
        write(registers, args.slots[CARRY], mask, |lane| (results[lane] >> T::BITS) as u32 & 1);
    }
}

/// A word as one without sign, as carries are counted.
fn bits<T: Integer>(word: T) -> i128 {
    word.value() & ((1 << T::BITS) - 1)
}

fn add<T: Integer>(registers: &mut Registers, args: &Args, mask: u32) {
    carried::<T>(registers, args, mask, |a, b, _, carry| bits(a) + bits(b) + carry);
}

fn sub<T: Integer>(registers: &mut Registers, args: &Args, mask: u32) {
    let first = i128::from(args.extra & USES == 0);
    carried::<T>(registers, args, mask, |a, b, _, carry| bits(a) + bits(T::low(!b.value())) + carry + first);
}

fn mad_low<T: Integer>(registers: &mut Registers, args: &Args, mask: u32) {
    carried::<T>(registers, args, mask, |a, b, c, carry| {
        bits(T::low(a.value().wrapping_mul(b.value()))) + bits(c) + carry
    });
}

fn mad_high<T: Integer>(registers: &mut Registers, args: &Args, mask: u32) {
    carried::<T>(registers, args, mask, |a, b, c, carry| bits(high(a, b)) + bits(c) + carry);
}

/// The upper half of a product. Only that of two large unsigned words is beyond `i128`, and its bits are not.
fn high<T: Integer>(a: T, b: T) -> T {
    let (a, b) = (a.value(), b.value());
    match a.checked_mul(b) {
        Some(product) => T::low(product >> T::BITS),
        None => T::low(((a as u128 * b as u128) >> T::BITS) as i128),
    }
}

fn by_type(kind: &str, actions: [Action; 4]) -> Option<Action> {
    ["u32", "s32", "u64", "s64"].iter().position(|name| *name == kind).map(|index| actions[index])
}

macro_rules! of_words {
    ($kind:expr, $function:ident) => {
        by_type($kind, [$function::<u32>, $function::<i32>, $function::<u64>, $function::<i64>])
    };
}

impl<'a> Decoder<'a> {
    pub(super) fn carry(&mut self, opcode: Opcode<'a>, operands: &'a [Operand]) -> Result<Option<Op>, Refusal> {
        let (name, kind) = (opcode.name(), opcode.last());
        let uses = matches!(name, "addc" | "subc" | "madc");
        let sets = opcode.has("cc");
        if !uses && !sets {
            return Ok(None);
        }
        let action = match name {
            "add" | "addc" => of_words!(kind, add),
            "sub" | "subc" => of_words!(kind, sub),
            "mad" | "madc" if opcode.has("lo") => of_words!(kind, mad_low),
            "mad" | "madc" if opcode.has("hi") => of_words!(kind, mad_high),
            _ => None,
        };
        let Some(action) = action else { return Ok(None) };
        let expected = if name.starts_with("mad") { 4 } else { 3 };
        if operands.len() != expected {
            return Err(format!("expected {expected} operands, found {}", operands.len()));
        }
        let mut args = Args { slots: [0; 5], extra: if uses { USES } else { 0 } | if sets { SETS } else { 0 } };
        for (slot, operand) in args.slots.iter_mut().zip(operands) {
            *slot = self.of_width(operand, width(kind))?;
        }
        if expected == 3 {
            args.slots[3] = args.slots[2];
        }
        let (Place::B32(carry) | Place::B64(carry) | Place::Predicate(carry)) = self.place(Known::Carry, false);
        args.slots[CARRY] = carry;
        Ok(Some(Op::Pure(action, args)))
    }
}
