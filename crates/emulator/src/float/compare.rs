//! Comparisons, the smaller and the larger of two values, and what only touches the sign.

use std::cmp::Ordering;

use super::{Format, to_f64};

/// The float comparisons of `setp` and `set`. Those that end in `u` hold as well if an operand is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
    /// Equal, or NaN.
    Equ,
    /// Not equal, or NaN.
    Neu,
    /// Less, or NaN.
    Ltu,
    /// Less or equal, or NaN.
    Leu,
    /// Greater, or NaN.
    Gtu,
    /// Greater or equal, or NaN.
    Geu,
    /// Neither operand is NaN.
    Num,
    /// An operand is NaN.
    Nan,
}

impl Comparison {
    /// Whether it holds for operands in this order; `None`: one of them is NaN.
    #[inline]
    pub(crate) fn holds(self, order: Option<Ordering>) -> bool {
        match self {
            Comparison::Eq => order.is_some_and(Ordering::is_eq),
            Comparison::Ne => order.is_some_and(Ordering::is_ne),
            Comparison::Lt => order.is_some_and(Ordering::is_lt),
            Comparison::Le => order.is_some_and(Ordering::is_le),
            Comparison::Gt => order.is_some_and(Ordering::is_gt),
            Comparison::Ge => order.is_some_and(Ordering::is_ge),
            Comparison::Equ => order.is_none_or(Ordering::is_eq),
            Comparison::Neu => order.is_none_or(Ordering::is_ne),
            Comparison::Ltu => order.is_none_or(Ordering::is_lt),
            Comparison::Leu => order.is_none_or(Ordering::is_le),
            Comparison::Gtu => order.is_none_or(Ordering::is_gt),
            Comparison::Geu => order.is_none_or(Ordering::is_ge),
            Comparison::Num => order.is_some(),
            Comparison::Nan => order.is_none(),
        }
    }
}

/// `setp.comparison` of two values of one format.
#[inline]
pub(crate) fn compare(comparison: Comparison, a: u64, b: u64, format: Format, ftz: bool) -> bool {
    let value = |bits| to_f64(if ftz { format.flush(bits) } else { bits }, format);
    comparison.holds(value(a).partial_cmp(&value(b)))
}

/// The smaller or the larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    /// `min`.
    Min,
    /// `max`.
    Max,
}

/// The modifiers of `min` and `max`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PickMode {
    /// `.ftz`.
    pub(crate) ftz: bool,
    /// `.NaN`: the result is NaN if any operand is; without it, only if both are.
    pub(crate) nan: bool,
    /// `.xorsign.abs`: of the magnitudes; the result is negative if exactly one operand is.
    pub(crate) xorsign_abs: bool,
}

/// `min` or `max` of two values of one format; -0 is less than +0.
#[inline]
pub(crate) fn pick(pick: Pick, a: u64, b: u64, format: Format, mode: PickMode) -> u64 {
    let sign = format.sign_mask();
    let operand = |bits: u64| {
        let bits = if mode.ftz { format.flush(bits) } else { bits };
        if mode.xorsign_abs { bits & !sign } else { bits }
    };
    let (x, y) = (operand(a), operand(b));
    let result = match (format.is_nan(x), format.is_nan(y)) {
        (false, false) => {
            // Positive bits are ordered as integers, negative ones the other way round and below them.
            let key = |bits: u64| if bits & sign == 0 { bits as i64 } else { -((bits & !sign) as i64) - 1 };
            if (key(x) < key(y)) == (pick == Pick::Min) { x } else { y }
        }
        (true, false) if !mode.nan => y,
        (false, true) if !mode.nan => x,
        _ => return format.nan(),
    };
    if mode.xorsign_abs { result | (a ^ b) & sign } else { result }
}

/// `abs`.
#[inline]
pub(crate) fn abs(a: u64, format: Format, ftz: bool) -> u64 {
    (if ftz { format.flush(a) } else { a }) & !format.sign_mask()
}

/// `neg`.
#[inline]
pub(crate) fn neg(a: u64, format: Format, ftz: bool) -> u64 {
    (if ftz { format.flush(a) } else { a }) ^ format.sign_mask()
}

/// `copysign d, a, b`: the magnitude of `b` with the sign of `a`, in the order of PTX, not of C.
#[inline]
pub(crate) fn copysign(a: u64, b: u64, format: Format) -> u64 {
    let sign = format.sign_mask();
    a & sign | b & !sign
}
