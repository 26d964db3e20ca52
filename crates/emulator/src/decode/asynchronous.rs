//! Copies that run beside the program, and the barriers in memory that tell when they are done.

use super::memory::space;
use super::{Decoder, Opcode, Refusal};
use crate::parse::Operand;
use crate::program::{AddressSpace, Bulk, BulkDirection, Mbarrier, Op, Slot};

impl<'a> Decoder<'a> {
    pub(super) fn asynchronous(&mut self, opcode: Opcode<'a>, operands: &'a [Operand]) -> Result<Option<Op>, Refusal> {
        match opcode.name() {
            "mbarrier" => self.mbarrier(opcode, operands).map(Some),
            "cp" if opcode.has("reduce") => Ok(None),
            "cp" if opcode.has("prefetch") => Ok(Some(Op::Nop)),
            "cp" if opcode.has("bulk") => self.bulk(opcode, operands).map(Some),
            "cp" if opcode.has("async") => self.copy_async(opcode, operands).map(Some),
            _ => Ok(None),
        }
    }

    fn copy_async(&mut self, opcode: Opcode<'a>, operands: &'a [Operand]) -> Result<Op, Refusal> {
        if opcode.has("commit_group") {
            return Ok(Op::CopyAsyncCommit);
        }
        if opcode.has("wait_all") {
            return Ok(Op::CopyAsyncWait { keep: None });
        }
        if opcode.has("wait_group") {
            return Ok(Op::CopyAsyncWait { keep: Some(immediate(operands.first())?) });
        }
        if opcode.has("mbarrier") {
            let address = self.address(space(opcode), operands.first().ok_or("no address")?)?;
            return Ok(Op::CopyAsyncArrive { address, is_counted: !opcode.has("noinc") });
        }
        let [destination, source, size, rest @ ..] = operands else {
            return Err("`cp.async` has two addresses and a size".to_owned());
        };
        let bytes = immediate(Some(size))?;
        if !matches!(bytes, 4 | 8 | 16) {
            return Err(format!("`cp.async` copies 4, 8 or 16 bytes, not {bytes}"));
        }
        if opcode.has("cache_hint") {
            return Err("`cp.async` with a cache policy is not executed".to_owned());
        }
        let source_bytes = match rest.first() {
            Some(operand) => Some(self.b32(operand)?),
            None => None,
        };
        Ok(Op::CopyAsync {
            destination: self.address(AddressSpace::Shared, destination)?,
            source: self.address(AddressSpace::Global, source)?,
            bytes: bytes as u8,
            source_bytes,
        })
    }

    fn mbarrier(&mut self, opcode: Opcode<'a>, operands: &'a [Operand]) -> Result<Op, Refusal> {
        let what = match opcode.parts.get(1).map_or("", String::as_str) {
            "init" => Mbarrier::Init,
            "inval" => Mbarrier::Invalidate,
            "arrive" if opcode.has("noComplete") => return Err("`.noComplete` is not executed".to_owned()),
            "arrive" if opcode.has("expect_tx") => Mbarrier::ArriveExpectTx,
            "arrive" => Mbarrier::Arrive,
            "expect_tx" => Mbarrier::ExpectTx,
            "complete_tx" => Mbarrier::CompleteTx,
            "test_wait" if opcode.has("parity") => Mbarrier::TestWaitParity,
            "test_wait" => Mbarrier::TestWait,
            "try_wait" if opcode.has("parity") => Mbarrier::TryWaitParity,
            "try_wait" => Mbarrier::TryWait,
            other => return Err(format!("`mbarrier.{other}` is not executed")),
        };
        let address_at = operands
            .iter()
            .position(|operand| matches!(operand, Operand::Address { .. }))
            .ok_or("`mbarrier` has an address")?;
        let address = self.address(space(opcode), &operands[address_at])?;
        let (mut state, mut done, mut count) = (None, None, None);
        let value = operands.get(address_at + 1);
        match what {
            Mbarrier::Invalidate => {}
            Mbarrier::TestWait | Mbarrier::TryWait => {
                done = Some(self.predicate_result(&operands[0])?);
                state = Some(Slot::B64(self.b64(value.ok_or("a wait needs a state")?)?));
            }
            Mbarrier::TestWaitParity | Mbarrier::TryWaitParity => {
                done = Some(self.predicate_result(&operands[0])?);
                count = Some(self.b32(value.ok_or("a wait needs a parity")?)?);
            }
            _ => {
                if address_at == 1 && operands[0] != Operand::Name("_".to_owned()) {
                    state = Some(Slot::B64(self.b64(&operands[0])?));
                }
                if let Some(value) = value {
                    count = Some(self.b32(value)?);
                }
            }
        }
        Ok(Op::Mbarrier { what, address, state, done, count })
    }

    fn bulk(&mut self, opcode: Opcode<'a>, operands: &'a [Operand]) -> Result<Op, Refusal> {
        if opcode.has("commit_group") {
            return Ok(Op::BulkCommit);
        }
        if opcode.has("wait_group") {
            return Ok(Op::BulkWait { keep: immediate(operands.first())? });
        }
        let is_tensor = opcode.has("tensor");
        for refused in ["im2col", "im2col_no_offs", "tile::gather4", "tile::scatter4", "cta_group::1", "cta_group::2"] {
            if opcode.has(refused) {
                return Err(format!("`.{refused}` is not executed"));
            }
        }
        let (mut from, mut to) = (None, None);
        for part in opcode.qualifiers() {
            if matches!(part, "global" | "shared::cta" | "shared::cluster") {
                if to.is_none() {
                    to = Some(part)
                } else if from.is_none() {
                    from = Some(part)
                }
            }
        }
        let direction = match (to, from) {
            (Some("shared::cluster" | "shared::cta"), Some("global")) => BulkDirection::GlobalToShared,
            (Some("global"), Some("shared::cta")) => BulkDirection::SharedToGlobal,
            (Some("shared::cluster"), Some("shared::cta")) => BulkDirection::SharedToCluster,
            _ => return Err("a bulk copy between these state spaces is not executed".to_owned()),
        };
        let [destination, source, rest @ ..] = operands else { return Err("a bulk copy has two addresses".to_owned()) };
        let mut rest = rest.iter();
        let size = if is_tensor { None } else { Some(self.b32(rest.next().ok_or("no size")?)?) };
        let mbarrier = match direction {
            BulkDirection::SharedToGlobal => None,
            _ => Some(self.address(AddressSpace::Shared, rest.next().ok_or("no mbarrier")?)?),
        };
        let multicast = match opcode.has("multicast::cluster") {
            true => Some(self.b32(rest.next().ok_or("no mask of blocks")?)?),
            false => None,
        };
        let mut coordinates = Vec::new();
        for operand in [destination, source] {
            if let Operand::Address { rest, .. } = operand
                && let Some(Operand::Vector(parts)) = rest.first()
            {
                coordinates = parts.iter().map(|part| self.b32(part)).collect::<Result<_, _>>()?;
            }
        }
        // A map lies wherever its generic address says, in parameters most of all.
        let spaces = match direction {
            BulkDirection::GlobalToShared if is_tensor => [AddressSpace::Shared, AddressSpace::Generic],
            BulkDirection::GlobalToShared => [AddressSpace::Shared, AddressSpace::Global],
            BulkDirection::SharedToGlobal if is_tensor => [AddressSpace::Generic, AddressSpace::Shared],
            BulkDirection::SharedToGlobal => [AddressSpace::Global, AddressSpace::Shared],
            BulkDirection::SharedToCluster => [AddressSpace::Shared, AddressSpace::Shared],
        };
        Ok(Op::Bulk(Box::new(Bulk {
            direction,
            destination: self.address(spaces[0], destination)?,
            source: self.address(spaces[1], source)?,
            size,
            coordinates,
            mbarrier,
            multicast,
        })))
    }
}

/// A number that stands in the instruction itself.
pub(super) fn immediate(operand: Option<&Operand>) -> Result<u32, Refusal> {
    match operand {
        Some(Operand::Integer(value)) => u32::try_from(*value).map_err(|_| format!("{value} is out of range")),
        other => Err(format!("expected a number, found {other:?}")),
    }
}
