//! A kernel's syntax tree to a [`Program`]: names become register slots, opcodes become [`Op`]s.
//!
//! Every instruction that the emulator executes has its place in one of this folder's files; all others are refused here, by
//! name, before anything runs.

mod arithmetic;
mod asynchronous;
mod carry;
mod convert;
mod float;
mod matrix;
pub(crate) mod memory;
mod warp;

use std::collections::HashMap;

use crate::parse::{Entry, Operand, ParseError, Space, Statement, Tree};
use crate::program::{Address, AddressSpace, Constant, Instruction, LaneMask, Op, Program, Slot, Special};
use crate::registers::{Action, Args};

/// Where shared memory begins in its window. Not 0, so that an address that was never set is outside; a multiple of every
/// alignment and swizzle.
pub(crate) const SHARED_START: u32 = 1024;

/// Decodes one kernel of a module.
pub(crate) fn decode(tree: &Tree, entry: &Entry) -> Result<Program, ParseError> {
    let mut decoder = Decoder {
        tree,
        entry,
        program: Program::default(),
        slots: HashMap::new(),
        symbols: HashMap::new(),
        named: Vec::new(),
    };
    decoder.lay_out()?;
    for statement in &entry.statements {
        let instruction = decoder.instruction(statement).map_err(|message| ParseError {
            line: statement.ptx_line,
            message: format!("{message} (kernel `{}`, `{}`)", entry.name, statement.text),
        })?;
        decoder.program.instructions.push(instruction);
    }
    Ok(decoder.program)
}

/// The reason why an instruction is refused.
type Refusal = String;

/// Slots that registers, constants and special registers have got so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Known<'a> {
    Register(&'a str),
    Constant32(Constant),
    Constant64(Constant),
    Special(Special),
    /// For results that nobody wants.
    Sink32,
    Sink64,
    SinkPredicate,
    /// The predicate that never holds.
    False,
    /// The carry of one word to the next.
    Carry,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    B32(u32),
    B64(u32),
    Predicate(u32),
}

struct Decoder<'a> {
    tree: &'a Tree,
    entry: &'a Entry,
    program: Program,
    slots: HashMap<Known<'a>, Place>,
    /// Addresses in their own windows of shared, local and parameter variables, by name.
    symbols: HashMap<&'a str, u64>,
    /// The 32-bit slots that the current instruction has named.
    named: Vec<u32>,
}

/// An opcode with its qualifiers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opcode<'a> {
    parts: &'a [String],
}

impl<'a> Opcode<'a> {
    pub(super) fn name(self) -> &'a str {
        &self.parts[0]
    }

    pub(super) fn has(self, qualifier: &str) -> bool {
        self.parts[1..].iter().any(|part| part == qualifier)
    }

    /// The last qualifier: of most instructions, the type.
    pub(super) fn last(self) -> &'a str {
        self.parts.last().map_or("", String::as_str)
    }

    pub(super) fn qualifiers(self) -> impl DoubleEndedIterator<Item = &'a str> {
        self.parts[1..].iter().map(String::as_str)
    }

    /// The first qualifier among some.
    pub(super) fn one_of<T: Copy>(self, choices: &[(&str, T)]) -> Option<T> {
        self.qualifiers().find_map(|part| choices.iter().find(|(name, _)| *name == part).map(|&(_, value)| value))
    }
}

impl<'a> Decoder<'a> {
    /// Gives every variable its address.
    fn lay_out(&mut self) -> Result<(), ParseError> {
        let entry = self.entry;
        self.program.name.clone_from(&entry.name);
        self.program.param_bytes = entry.param_bytes;
        self.program.max_threads = entry.max_threads;
        self.program.cluster = entry.cluster;
        for (name, offset, _) in &entry.params {
            self.symbols.insert(name, *offset);
        }
        let module_shared = self.tree.variables.iter().filter(|variable| variable.space == Space::Shared);
        let (mut shared, mut local) = (0u64, 0u64);
        let mut dynamic_align = 16;
        for variable in entry.variables.iter().chain(module_shared.clone()) {
            let end = match variable.space {
                Space::Shared if variable.size == 0 => {
                    dynamic_align = variable.align.max(dynamic_align);
                    continue;
                }
                Space::Shared => &mut shared,
                Space::Local => &mut local,
                _ => continue,
            };
            let address = end.next_multiple_of(variable.align);
            *end = address + variable.size;
            let start = if variable.space == Space::Shared { u64::from(SHARED_START) } else { 0 };
            self.symbols.insert(&variable.name, start + address);
        }
        self.program.static_shared_bytes = shared as u32;
        self.program.dynamic_shared_start = shared.next_multiple_of(dynamic_align) as u32;
        for variable in entry.variables.iter().chain(module_shared) {
            if variable.space == Space::Shared && variable.size == 0 {
                self.symbols.insert(&variable.name, u64::from(SHARED_START + self.program.dynamic_shared_start));
            }
        }
        self.program.local_bytes = local.next_multiple_of(16) as u32;
        Ok(())
    }

    fn instruction(&mut self, statement: &'a Statement) -> Result<Instruction, Refusal> {
        let guard = match &statement.guard {
            Some((name, is_negated)) => Some((self.predicate_register(name)?, *is_negated)),
            None => None,
        };
        let opcode = Opcode { parts: &statement.opcode };
        let operands = &statement.operands[..];
        let op = match opcode.name() {
            "bra" => Op::Branch { target: self.label(operands.first())? },
            "brx" => self.branch_indexed(operands)?,
            "ret" | "exit" => Op::Exit,
            "trap" => Op::Trap("`trap` was executed".to_owned()),
            "call" => self.call(operands)?,
            "nanosleep" => Op::Yield,
            // Hints, and the dependencies of launches that here run one after the other.
            "prefetch" | "prefetchu" | "applypriority" | "griddepcontrol" | "setmaxnreg" => Op::Nop,
            _ => {
                let decoders = [
                    Self::carry,
                    Self::arithmetic,
                    Self::float,
                    Self::convert,
                    Self::memory,
                    Self::warp,
                    Self::asynchronous,
                    Self::matrix,
                ];
                let mut decoded = None;
                for decoder in decoders {
                    decoded = decoder(self, opcode, operands)?;
                    if decoded.is_some() {
                        break;
                    }
                }
                decoded.ok_or_else(|| format!("the instruction `{}` is not executed", statement.opcode.join(".")))?
            }
        };
        let uses = std::mem::take(&mut self.named).into();
        Ok(Instruction { guard, op, uses, site: statement.site, text: statement.text.clone() })
    }

    fn label(&self, operand: Option<&Operand>) -> Result<u32, Refusal> {
        let Some(Operand::Name(name)) = operand else { return Err("expected a label".to_owned()) };
        self.target(name)
    }

    fn target(&self, name: &str) -> Result<u32, Refusal> {
        self.entry.labels.get(name).map(|&index| index as u32).ok_or_else(|| format!("there is no label `{name}`"))
    }

    fn branch_indexed(&mut self, operands: &'a [Operand]) -> Result<Op, Refusal> {
        let [index, Operand::Name(list)] = operands else { return Err("expected an index and a list".to_owned()) };
        let targets = self.entry.branch_targets.get(list).ok_or_else(|| format!("there is no list `{list}`"))?;
        let targets = targets.iter().map(|name| self.target(name)).collect::<Result<_, _>>()?;
        Ok(Op::BranchIndexed { index: self.b32(index)?, targets })
    }

    fn call(&self, operands: &[Operand]) -> Result<Op, Refusal> {
        let name = operands.iter().find_map(|operand| match operand {
            Operand::Name(name) => Some(name.as_str()),
            _ => None,
        });
        match name {
            Some("__assertfail") => Ok(Op::Trap("an assertion failed".to_owned())),
            Some(name) => Err(format!("a call of `{name}` is not executed: kernels inline what they call")),
            None => Err("a call through a register is not executed".to_owned()),
        }
    }

    // ------------------------------------------------------------------------------------------------ operands and slots

    fn place(&mut self, known: Known<'a>, is_wide: bool) -> Place {
        let program = &mut self.program;
        *self.slots.entry(known).or_insert_with(|| {
            let next = |count: &mut u32| {
                *count += 1;
                *count - 1
            };
            if is_wide { Place::B64(next(&mut program.num_b64)) } else { Place::B32(next(&mut program.num_b32)) }
        })
    }

    fn predicate_place(&mut self, known: Known<'a>) -> u32 {
        let count = &mut self.program.num_predicates;
        let place = *self.slots.entry(known).or_insert_with(|| {
            *count += 1;
            Place::Predicate(*count - 1)
        });
        match place {
            Place::Predicate(slot) => slot,
            _ => unreachable!("predicates have names and sinks of their own"),
        }
    }

    /// The slot of a register that is no predicate.
    fn register(&mut self, name: &'a str) -> Result<Slot, Refusal> {
        let kind = self.entry.registers.get(name).map(String::as_str);
        let is_wide = match kind {
            Some("b64" | "u64" | "s64" | "f64") => true,
            Some("b32" | "u32" | "s32" | "f32" | "b16" | "u16" | "s16" | "f16" | "b8" | "u8" | "s8") => false,
            Some("pred") => return Err(format!("`{name}` is a predicate")),
            Some(kind) => return Err(format!("registers of type `.{kind}` are not executed")),
            None => return Err(format!("`{name}` is no register")),
        };
        Ok(match self.place(Known::Register(name), is_wide) {
            Place::B32(slot) => Slot::B32(slot),
            Place::B64(slot) => Slot::B64(slot),
            Place::Predicate(_) => unreachable!("a register has one type"),
        })
    }

    fn predicate_register(&mut self, name: &'a str) -> Result<u32, Refusal> {
        match self.entry.registers.get(name).map(String::as_str) {
            Some("pred") => Ok(self.predicate_place(Known::Register(name))),
            _ => Err(format!("`{name}` is no predicate")),
        }
    }

    fn constant(&mut self, constant: Constant, is_wide: bool) -> Slot {
        let known = if is_wide { Known::Constant64(constant) } else { Known::Constant32(constant) };
        let is_new = !self.slots.contains_key(&known);
        let slot = match self.place(known, is_wide) {
            Place::B32(slot) => Slot::B32(slot),
            Place::B64(slot) => Slot::B64(slot),
            Place::Predicate(_) => unreachable!("a constant is no predicate"),
        };
        if is_new {
            self.program.constants.push((slot, constant));
        }
        slot
    }

    /// A register, constant, special register or the address of a variable, in a slot. Constants are as wide as
    /// `wants_wide` says.
    pub(super) fn slot(&mut self, operand: &'a Operand, wants_wide: bool) -> Result<Slot, Refusal> {
        match operand {
            Operand::Integer(value) => Ok(self.constant(Constant::Value(*value as u64), wants_wide)),
            Operand::F32(bits) => Ok(self.constant(Constant::Value(u64::from(*bits)), wants_wide)),
            Operand::F64(bits) => Ok(self.constant(Constant::Value(*bits), wants_wide)),
            Operand::Name(name) if name == "_" => {
                let known = if wants_wide { Known::Sink64 } else { Known::Sink32 };
                Ok(match self.place(known, wants_wide) {
                    Place::B64(slot) => Slot::B64(slot),
                    Place::B32(slot) | Place::Predicate(slot) => Slot::B32(slot),
                })
            }
            Operand::Name(name) if self.entry.registers.contains_key(name) => self.register(name),
            Operand::Name(name) if name.starts_with('%') => {
                let special = special(name).ok_or_else(|| format!("the register `{name}` is not executed"))?;
                let is_new = !self.slots.contains_key(&Known::Special(special));
                let Place::B32(slot) = self.place(Known::Special(special), false) else {
                    unreachable!("special registers have 32 bits")
                };
                if is_new {
                    self.program.specials.push((Slot::B32(slot), special));
                }
                Ok(Slot::B32(slot))
            }
            Operand::Name(name) if name == "WARP_SZ" => Ok(self.constant(Constant::Value(32), wants_wide)),
            Operand::Name(name) => {
                let constant = self.symbol(name)?;
                Ok(self.constant(constant, wants_wide))
            }
            other => Err(format!("{other:?} is no register or value")),
        }
    }

    fn symbol(&self, name: &str) -> Result<Constant, Refusal> {
        if let Some(&address) = self.symbols.get(name) {
            return Ok(Constant::Value(address));
        }
        let index = self.tree.variables.iter().position(|variable| variable.name == name);
        index.map(Constant::Symbol).ok_or_else(|| format!("`{name}` is neither a register nor a variable"))
    }

    /// A slot of the 32-bit file.
    pub(super) fn b32(&mut self, operand: &'a Operand) -> Result<u32, Refusal> {
        match self.slot(operand, false)? {
            Slot::B32(slot) => {
                self.named.push(slot);
                Ok(slot)
            }
            Slot::B64(_) => Err("a register of at most 32 bits is needed here".to_owned()),
        }
    }

    /// A slot of the 64-bit file.
    pub(super) fn b64(&mut self, operand: &'a Operand) -> Result<u32, Refusal> {
        match self.slot(operand, true)? {
            Slot::B64(slot) => Ok(slot),
            Slot::B32(_) => Err("a register of 64 bits is needed here".to_owned()),
        }
    }

    /// A slot of the file for values of `bits`.
    pub(super) fn of_width(&mut self, operand: &'a Operand, bits: u32) -> Result<u32, Refusal> {
        if bits == 64 { self.b64(operand) } else { self.b32(operand) }
    }

    /// A predicate that is read, and whether it is negated.
    pub(super) fn predicate(&mut self, operand: &'a Operand) -> Result<(u32, bool), Refusal> {
        match operand {
            Operand::Not(inner) => self.predicate(inner).map(|(slot, is_negated)| (slot, !is_negated)),
            Operand::Name(name) => Ok((self.predicate_register(name)?, false)),
            // Nobody writes this predicate, so it is 0.
            Operand::Integer(value) => Ok((self.predicate_place(Known::False), *value != 0)),
            other => Err(format!("{other:?} is no predicate")),
        }
    }

    /// A predicate that is written.
    pub(super) fn predicate_result(&mut self, operand: &'a Operand) -> Result<u32, Refusal> {
        match operand {
            Operand::Name(name) if name == "_" => Ok(self.unwanted_predicate()),
            Operand::Name(name) => self.predicate_register(name),
            other => Err(format!("{other:?} is no predicate")),
        }
    }

    fn unwanted_predicate(&mut self) -> u32 {
        self.predicate_place(Known::SinkPredicate)
    }

    pub(super) fn address(&mut self, space: AddressSpace, operand: &'a Operand) -> Result<Address, Refusal> {
        let Operand::Address { base, offset, .. } = operand else {
            return Err(format!("expected an address, found {operand:?}"));
        };
        let is_wide = space != AddressSpace::Shared;
        Ok(Address { space, base: self.slot(base, is_wide)?, offset: *offset })
    }

    /// The slots of a vector, or of a single register.
    pub(super) fn vector32(&mut self, operand: &'a Operand) -> Result<Vec<u32>, Refusal> {
        match operand {
            Operand::Vector(parts) => parts.iter().map(|part| self.b32(part)).collect(),
            single => Ok(vec![self.b32(single)?]),
        }
    }

    /// An instruction on registers: the result first, of `widths` bits each.
    pub(super) fn pure(
        &mut self,
        action: Action,
        operands: &'a [Operand],
        widths: &[u32],
        extra: u32,
    ) -> Result<Option<Op>, Refusal> {
        if operands.len() != widths.len() {
            return Err(format!("expected {} operands, found {}", widths.len(), operands.len()));
        }
        let mut args = Args { slots: [0; 5], extra };
        for ((slot, operand), &width) in args.slots.iter_mut().zip(operands).zip(widths) {
            *slot = if width == 1 { self.predicate(operand)?.0 } else { self.of_width(operand, width)? };
        }
        Ok(Some(Op::Pure(action, args)))
    }
}

fn special(name: &str) -> Option<Special> {
    let axis = |prefix: &str| -> Option<u8> {
        match name.strip_prefix(prefix)? {
            ".x" => Some(0),
            ".y" => Some(1),
            ".z" => Some(2),
            _ => None,
        }
    };
    Some(match name {
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::NumWarps,
        "%lanemask_eq" => Special::LaneMask(LaneMask::Equal),
        "%lanemask_lt" => Special::LaneMask(LaneMask::Less),
        "%lanemask_le" => Special::LaneMask(LaneMask::LessEqual),
        "%lanemask_gt" => Special::LaneMask(LaneMask::Greater),
        "%lanemask_ge" => Special::LaneMask(LaneMask::GreaterEqual),
        "%cluster_ctarank" => Special::ClusterRank,
        "%cluster_nctarank" => Special::ClusterSize,
        "%smid" => Special::SmId,
        "%nsmid" => Special::NumSms,
        "%dynamic_smem_size" => Special::DynamicSharedBytes,
        "%total_smem_size" => Special::TotalSharedBytes,
        _ => {
            return axis("%tid")
                .map(Special::Tid)
                .or_else(|| axis("%ntid").map(Special::Ntid))
                .or_else(|| axis("%ctaid").map(Special::Ctaid))
                .or_else(|| axis("%nctaid").map(Special::Nctaid))
                .or_else(|| axis("%clusterid").map(Special::ClusterId))
                .or_else(|| axis("%nclusterid").map(Special::NumClusters))
                .or_else(|| axis("%cluster_ctaid").map(Special::ClusterCtaid))
                .or_else(|| axis("%cluster_nctaid").map(Special::ClusterNctaid));
        }
    })
}
