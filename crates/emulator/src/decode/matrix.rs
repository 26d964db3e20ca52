//! Matrix products of a warp and of a warp group, and the moves of their fragments.

use super::asynchronous::immediate;
use super::{Decoder, Opcode, Refusal};
use crate::mma::{MatrixOrder, Mma};
use crate::parse::Operand;
use crate::program::{AddressSpace, Op, WgmmaA, WgmmaOperands};
use crate::wgmma::Wgmma;

impl<'a> Decoder<'a> {
    pub(super) fn matrix(&mut self, opcode: Opcode<'a>, operands: &'a [Operand]) -> Result<Option<Op>, Refusal> {
        let qualifiers: Vec<&str> = opcode.qualifiers().collect();
        let order = if opcode.has("trans") { MatrixOrder::Columns } else { MatrixOrder::Rows };
        match opcode.name() {
            "mma" => {
                let Some(op) = Mma::parse(&qualifiers) else { return Ok(None) };
                let [d, a, b, c] = operands else { return Err("`mma` has four operands".to_owned()) };
                let [d, a, b, c] = [d, a, b, c].map(|operand| self.vector32(operand));
                let (d, a, b, c) = (d?, a?, b?, c?);
                let counts = op.registers();
                if [d.len(), a.len(), b.len(), c.len()] != [counts.c, counts.a, counts.b, counts.c] {
                    return Err(format!("this `mma` has {} + {} + {} registers", counts.c, counts.a, counts.b));
                }
                Ok(Some(Op::Mma { op, d, a, b, c }))
            }
            "ldmatrix" if opcode.has("m8n8") && opcode.last() == "b16" => {
                let [d, address] = operands else { return Err("`ldmatrix` has registers and an address".to_owned()) };
                let d = self.vector32(d)?;
                self.check_matrices(opcode, d.len())?;
                Ok(Some(Op::LoadMatrix { address: self.address(AddressSpace::Shared, address)?, order, d }))
            }
            "stmatrix" if opcode.has("m8n8") && opcode.last() == "b16" => {
                let [address, a] = operands else { return Err("`stmatrix` has an address and registers".to_owned()) };
                let a = self.vector32(a)?;
                self.check_matrices(opcode, a.len())?;
                Ok(Some(Op::StoreMatrix { address: self.address(AddressSpace::Shared, address)?, order, a }))
            }
            "movmatrix" => {
                let [d, a] = operands else { return Err("`movmatrix` has two registers".to_owned()) };
                Ok(Some(Op::MoveMatrix { d: self.b32(d)?, a: self.b32(a)? }))
            }
            "wgmma" => self.wgmma(opcode, &qualifiers, operands),
            _ => Ok(None),
        }
    }

    fn check_matrices(&self, opcode: Opcode<'_>, num_registers: usize) -> Result<(), Refusal> {
        let num = opcode.one_of(&[("x1", 1), ("x2", 2), ("x4", 4)]);
        if num == Some(num_registers) { Ok(()) } else { Err("one register per matrix".to_owned()) }
    }

    fn wgmma(
        &mut self,
        opcode: Opcode<'a>,
        qualifiers: &[&str],
        operands: &'a [Operand],
    ) -> Result<Option<Op>, Refusal> {
        match opcode.parts.get(1).map_or("", String::as_str) {
            "fence" => return Ok(Some(Op::WgmmaFence)),
            "commit_group" => return Ok(Some(Op::WgmmaCommit)),
            "wait_group" => return Ok(Some(Op::WgmmaWait { keep: immediate(operands.first())? })),
            _ => {}
        }
        let Some(op) = Wgmma::parse(qualifiers) else { return Ok(None) };
        let [d, a, b, scale_d, immediates @ ..] = operands else { return Err("too few operands".to_owned()) };
        let immediates: Vec<i64> = immediates
            .iter()
            .map(|operand| match operand {
                Operand::Integer(value) => Ok(*value as i64),
                other => Err(format!("expected a number, found {other:?}")),
            })
            .collect::<Result<_, _>>()?;
        let op = op.with_immediates(matches!(a, Operand::Vector(_)), &immediates)?;
        let d = self.vector32(d)?;
        let a = match a {
            Operand::Vector(_) => WgmmaA::Registers(self.vector32(a)?),
            a => WgmmaA::Descriptor(self.b64(a)?),
        };
        let counts = op.registers();
        let num_a = if let WgmmaA::Registers(a) = &a { a.len() } else { counts.a };
        if (d.len(), num_a) != (counts.c, counts.a) {
            return Err(format!("this `wgmma` has {} registers of D, and {} of A", counts.c, counts.a));
        }
        let scale_d = self.predicate(scale_d)?;
        Ok(Some(Op::Wgmma(Box::new(WgmmaOperands { op, d, a, b: self.b64(b)?, scale_d }))))
    }
}
