//! What the lanes of a warp and the warps of a block do together: shuffles, votes, barriers.

use super::{Decoder, Opcode, Refusal};
use crate::parse::Operand;
use crate::program::{BarrierReduction, BarrierUse, Op, Reduction, Shuffle, Slot, Vote};

impl<'a> Decoder<'a> {
    pub(super) fn warp(&mut self, opcode: Opcode<'a>, operands: &'a [Operand]) -> Result<Option<Op>, Refusal> {
        let op = match opcode.name() {
            "shfl" if opcode.has("sync") => {
                let [d, a, b, c, members] = operands else { return Err("`shfl.sync` has five operands".to_owned()) };
                let kinds = [
                    ("up", Shuffle::Up),
                    ("down", Shuffle::Down),
                    ("bfly", Shuffle::Butterfly),
                    ("idx", Shuffle::Index),
                ];
                let kind = opcode.one_of(&kinds).ok_or("a shuffle of unknown kind")?;
                let (d, valid) = match d {
                    Operand::Pair(d, valid) => (self.b32(d)?, Some(self.predicate_result(valid)?)),
                    d => (self.b32(d)?, None),
                };
                let [a, b, c, members] = [self.b32(a)?, self.b32(b)?, self.b32(c)?, self.b32(members)?];
                Op::Shuffle { kind, d, valid, a, b, c, members }
            }
            "vote" if opcode.has("sync") => {
                let [d, a, members] = operands else { return Err("`vote.sync` has three operands".to_owned()) };
                let kinds = [("all", Vote::All), ("any", Vote::Any), ("uni", Vote::Uniform), ("ballot", Vote::Ballot)];
                let kind = opcode.one_of(&kinds).ok_or("a vote of unknown kind")?;
                let is_predicate = kind != Vote::Ballot;
                let d = if is_predicate { self.predicate_result(d)? } else { self.b32(d)? };
                Op::Vote { kind, d: Slot::B32(d), is_predicate, a: self.predicate(a)?, members: self.b32(members)? }
            }
            "activemask" => Op::ActiveMask { d: self.b32(operands.first().ok_or("no result")?)? },
            "match" => {
                let [d, a, members] = operands else { return Err("`match.sync` has three operands".to_owned()) };
                let (d, all) = match d {
                    Operand::Pair(d, all) => (self.b32(d)?, Some(self.predicate_result(all)?)),
                    d => (self.b32(d)?, None),
                };
                let a = self.slot(a, opcode.last() == "b64")?;
                Op::Match { d, is_all: opcode.has("all"), all, a, members: self.b32(members)? }
            }
            "redux" => {
                let [d, a, members] = operands else { return Err("`redux.sync` has three operands".to_owned()) };
                let is_signed = opcode.last() == "s32";
                let kind = match opcode.parts.get(2).map_or("", String::as_str) {
                    "add" => Reduction::Add,
                    "min" if is_signed => Reduction::MinSigned,
                    "max" if is_signed => Reduction::MaxSigned,
                    "min" => Reduction::Min,
                    "max" => Reduction::Max,
                    "and" => Reduction::And,
                    "or" => Reduction::Or,
                    "xor" => Reduction::Xor,
                    other => return Err(format!("`redux.sync.{other}` is not executed")),
                };
                if opcode.last() == "f32" {
                    return Err("`redux.sync` of floats is not executed".to_owned());
                }
                Op::Redux { kind, d: self.b32(d)?, a: self.b32(a)?, members: self.b32(members)? }
            }
            "elect" => {
                let [Operand::Pair(d, elected), members] = operands else {
                    return Err("`elect.sync` has two results and a mask".to_owned());
                };
                let [d, elected] = [self.b32(d)?, self.predicate_result(elected)?];
                Op::Elect { d, elected, members: self.b32(members)? }
            }
            "bar" | "barrier" => return self.barrier(opcode, operands).map(Some),
            _ => return Ok(None),
        };
        Ok(Some(op))
    }

    fn barrier(&mut self, opcode: Opcode<'a>, operands: &'a [Operand]) -> Result<Op, Refusal> {
        if opcode.has("warp") {
            return Ok(Op::WarpSync { members: self.b32(operands.first().ok_or("no mask")?)? });
        }
        if opcode.has("cluster") {
            return Ok(if opcode.has("arrive") { Op::ClusterArrive } else { Op::ClusterWait });
        }
        let is_aligned = opcode.name() == "bar" || opcode.has("aligned");
        let what = if opcode.has("arrive") { BarrierUse::Arrive } else { BarrierUse::Wait };
        if !opcode.has("red") {
            let id = self.b32(operands.first().ok_or("no barrier")?)?;
            let count = match operands.get(1) {
                Some(count) => Some(self.b32(count)?),
                None => None,
            };
            return Ok(Op::Barrier { what, id, count, is_aligned, reduction: None });
        }
        // bar.red.popc.u32 d, a[, count], p;
        let (d, id, count, p) = match operands {
            [d, id, p] => (d, id, None, p),
            [d, id, count, p] => (d, id, Some(self.b32(count)?), p),
            _ => return Err("`bar.red` has a result, a barrier and a predicate".to_owned()),
        };
        let reduction = if opcode.has("popc") {
            BarrierReduction::Count(self.b32(d)?)
        } else if opcode.has("and") {
            BarrierReduction::All(self.predicate_result(d)?)
        } else {
            BarrierReduction::Any(self.predicate_result(d)?)
        };
        let reduction = Some((reduction, self.predicate(p)?));
        Ok(Op::Barrier { what, id: self.b32(id)?, count, is_aligned, reduction })
    }
}
