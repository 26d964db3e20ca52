//! The registers of a warp, all 32 lanes of one register side by side.

/// All lanes of a warp.
pub(crate) const ALL: u32 = u32::MAX;

/// Registers of a warp. Those of 8 and 16 bits lie in words of 32: only their low bits mean anything, so a reader of a
/// narrow type looks at no others.
#[derive(Debug, Default)]
pub(crate) struct Registers {
    pub(crate) b32: Vec<[u32; 32]>,
    pub(crate) b64: Vec<[u64; 32]>,
    /// One bit per lane.
    pub(crate) predicates: Vec<u32>,
}

/// The type that an instruction reads or writes a register as.
pub(crate) trait Lane: Copy {
    /// What the register's file is made of.
    type Word: Copy;
    fn file(registers: &Registers) -> &[[Self::Word; 32]];
    fn file_mut(registers: &mut Registers) -> &mut [[Self::Word; 32]];
    fn from_word(word: Self::Word) -> Self;
    fn to_word(self) -> Self::Word;

    #[inline(always)]
    fn read(registers: &Registers, slot: u32) -> [Self::Word; 32] {
        Self::file(registers)[slot as usize]
    }
}

macro_rules! lane {
    ($file:ident: $word:ty => $($lane:ty, $from:expr, $to:expr;)*) => {$(
        impl Lane for $lane {
            type Word = $word;
            #[inline(always)]
            fn file(registers: &Registers) -> &[[$word; 32]] {
                &registers.$file
            }
            #[inline(always)]
            fn file_mut(registers: &mut Registers) -> &mut [[$word; 32]] {
                &mut registers.$file
            }
            #[inline(always)]
            fn from_word(word: $word) -> $lane {
                let from: fn($word) -> $lane = $from;
                from(word)
            }
            #[inline(always)]
            fn to_word(self) -> $word {
                let to: fn($lane) -> $word = $to;
                to(self)
            }
        }
    )*};
}

lane!(b32: u32 =>
    u8, |word| word as u8, u32::from;
    i8, |word| word as i8, |value| i32::from(value) as u32;
    u16, |word| word as u16, u32::from;
    i16, |word| word as i16, |value| i32::from(value) as u32;
    u32, |word| word, |value| value;
    i32, |word| word as i32, |value| value as u32;
    f32, f32::from_bits, f32::to_bits;
);
lane!(b64: u64 =>
    u64, |word| word, |value| value;
    i64, |word| word as i64, |value| value as u64;
    f64, f64::from_bits, f64::to_bits;
);

/// Where the operands of a register instruction are: the result first. A constant is a register, too.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Args {
    pub(crate) slots: [u32; 5],
    /// What else the instruction says: modifiers of a float operation, a truth table, ...
    pub(crate) extra: u32,
}

/// An instruction that touches nothing but registers: reads them, and writes the lanes in the mask.
pub(crate) type Action = fn(&mut Registers, &Args, u32);

/// Writes `f` of each lane in the mask. A loop over a whole register is what the compiler makes vectors of.
#[inline(always)]
pub(crate) fn write<D: Lane>(registers: &mut Registers, slot: u32, mask: u32, f: impl Fn(usize) -> D) {
    let register = &mut D::file_mut(registers)[slot as usize];
    if mask == ALL {
        for (lane, word) in register.iter_mut().enumerate() {
            *word = f(lane).to_word();
        }
    } else {
        for (lane, word) in register.iter_mut().enumerate() {
            if mask >> lane & 1 != 0 {
                *word = f(lane).to_word();
            }
        }
    }
}

/// `d = f(a)`
#[inline(always)]
pub(crate) fn unary<A: Lane, D: Lane>(registers: &mut Registers, args: &Args, mask: u32, f: impl Fn(A) -> D) {
    let a = A::read(registers, args.slots[1]);
    write(registers, args.slots[0], mask, |lane| f(A::from_word(a[lane])));
}

/// `d = f(a, b)`
#[inline(always)]
pub(crate) fn binary<A: Lane, B: Lane, D: Lane>(
    registers: &mut Registers,
    args: &Args,
    mask: u32,
    f: impl Fn(A, B) -> D,
) {
    let (a, b) = (A::read(registers, args.slots[1]), B::read(registers, args.slots[2]));
    write(registers, args.slots[0], mask, |lane| f(A::from_word(a[lane]), B::from_word(b[lane])));
}

/// `d = f(a, b, c)`
#[inline(always)]
pub(crate) fn ternary<A: Lane, B: Lane, C: Lane, D: Lane>(
    registers: &mut Registers,
    args: &Args,
    mask: u32,
    f: impl Fn(A, B, C) -> D,
) {
    let (a, b) = (A::read(registers, args.slots[1]), B::read(registers, args.slots[2]));
    let c = C::read(registers, args.slots[3]);
    write(registers, args.slots[0], mask, |lane| {
        f(A::from_word(a[lane]), B::from_word(b[lane]), C::from_word(c[lane]))
    });
}

/// `d = f(a, b, c, e)`
#[inline(always)]
pub(crate) fn quaternary<A: Lane, B: Lane, C: Lane, E: Lane, D: Lane>(
    registers: &mut Registers,
    args: &Args,
    mask: u32,
    f: impl Fn(A, B, C, E) -> D,
) {
    let (a, b) = (A::read(registers, args.slots[1]), B::read(registers, args.slots[2]));
    let (c, e) = (C::read(registers, args.slots[3]), E::read(registers, args.slots[4]));
    write(registers, args.slots[0], mask, |lane| {
        f(A::from_word(a[lane]), B::from_word(b[lane]), C::from_word(c[lane]), E::from_word(e[lane]))
    });
}

/// The lanes for which `f(a, b)` holds, as bits; not masked.
#[inline(always)]
pub(crate) fn compare<T: Lane>(registers: &Registers, args: &Args, f: impl Fn(T, T) -> bool) -> u32 {
    let (a, b) = (T::read(registers, args.slots[1]), T::read(registers, args.slots[2]));
    (0..32).fold(0, |bits, lane| bits | u32::from(f(T::from_word(a[lane]), T::from_word(b[lane]))) << lane)
}

/// `mask` of a predicate register's lanes replaced by those of `bits`.
#[inline(always)]
pub(crate) fn set_predicate(registers: &mut Registers, slot: u32, mask: u32, bits: u32) {
    let predicate = &mut registers.predicates[slot as usize];
    *predicate = *predicate & !mask | bits & mask;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lanes_in_the_mask_are_written() {
        let mut registers =
            Registers { b32: vec![[7; 32], std::array::from_fn(|lane| lane as u32)], ..Registers::default() };
        let args = Args { slots: [0, 1, 1, 0, 0], extra: 0 };
        binary::<u32, u32, u32>(&mut registers, &args, 0b110, |a, b| a + b);
        assert_eq!(registers.b32[0][..4], [7, 2, 4, 7]);
        binary::<u32, u32, u32>(&mut registers, &args, ALL, |a, b| a * b);
        assert_eq!(registers.b32[0][31], 31 * 31);
        assert_eq!(compare::<i32>(&registers, &args, |a, b| a == b && a < 3), 0b111);
    }

    #[test]
    fn narrow_types_read_their_low_bits_and_extend_when_written() {
        let mut registers = Registers { b32: vec![[0; 32], [0xffff_ff80; 32]], ..Registers::default() };
        let args = Args { slots: [0, 1, 0, 0, 0], extra: 0 };
        unary::<u8, u32>(&mut registers, &args, ALL, u32::from);
        assert_eq!(registers.b32[0][0], 0x80);
        unary::<i8, i16>(&mut registers, &args, ALL, i16::from);
        assert_eq!(registers.b32[0][0], 0xffff_ff80);
        unary::<u16, u16>(&mut registers, &args, ALL, |a| a);
        assert_eq!(registers.b32[0][0], 0xff80);
    }
}
