//! Shared memory written by the figures of the PTX ISA, atom by atom, and products by the definition.

use std::collections::BTreeSet;
use std::convert::Infallible;

use super::*;
use crate::mma::testing::{Bits, Random, dot, pack};
use crate::tensor_map::{OutOfBoundsFill, Swizzle, TensorMap, TensorMapArgs, TensorMapType};

const SWIZZLES: [Swizzle; 4] = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];
/// Bytes of K of a tile in shared memory: four instructions.
const K_BYTES: usize = 128;

/// A matrix in shared memory, M or N by K.
struct Tile {
    base: usize,
    /// Rows of M or N, and elements of K.
    shape: [usize; 2],
    element: Element,
    major: Major,
    /// 16 without swizzle.
    width: usize,
}

impl Tile {
    fn bytes(&self) -> usize {
        self.shape[0] * self.shape[1] * self.element.bytes()
    }

    /// Leading and stride byte offset. Where the ISA reads none, one that would lead astray.
    fn offsets(&self) -> (usize, usize) {
        let [rows, k] = self.shape;
        match (self.major, self.width) {
            (Major::K, 16) => (rows * 16, 128),
            (Major::K, width) => (16, 8 * width),
            (Major::MN, 16) => (128, k * 16),
            (Major::MN, width) => (k * width, 8 * width),
        }
    }

    /// Address of the first byte of an element. An atom is eight lines of `width` bytes, one after the other, and its
    /// sixteen-byte chunks are exchanged by the number of the 128 bytes in which their line is.
    fn address(&self, row: usize, k: usize) -> usize {
        let size = self.element.bytes();
        // `along` runs in the direction in which elements are neighbours, `across` from line to line.
        let (along, across, lines) = match self.major {
            Major::K => (k * size, row, self.shape[0]),
            Major::MN => (row * size, k, self.shape[1]),
        };
        let panel = along / self.width * lines * self.width;
        let (atom, line) = (across / 8 * 8 * self.width, across % 8);
        let chunk = along % self.width / 16;
        let swizzled = chunk ^ (line * self.width / 128);
        self.base + panel + atom + line * self.width + swizzled * 16 + along % 16
    }

    /// The descriptor of instruction `step` along K.
    fn descriptor(&self, step: usize) -> u64 {
        let (leading, stride) = self.offsets();
        let start = match (self.major, self.width) {
            (Major::K, 16) => 2 * step * leading,
            // Inside an atom the start address is advanced by 32 bytes, and then to the next panel.
            (Major::K, width) => step * 32 / width * self.shape[0] * width + step * 32 % width,
            (Major::MN, 16) => 2 * step * leading,
            (Major::MN, _) => 2 * step * stride,
        };
        let mode = match self.width {
            128 => 1u64,
            64 => 2,
            32 => 3,
            _ => 0,
        };
        let field = |bytes: usize| bytes as u64 >> 4;
        field(self.base + start) | field(leading) << 16 | field(stride) << 32 | mode << 62
    }

    /// The sixteen-byte rows of shared memory in which `rows` and the K of `step` lie.
    fn chunks(&self, rows: std::ops::Range<usize>, step: usize) -> impl Iterator<Item = u32> {
        let k = 32 / self.element.bytes();
        rows.flat_map(move |row| (step * k..step * k + k).map(move |k| self.address(row, k) as u32 / 16 * 16))
    }

    fn write(&self, memory: &mut [u8], matrix: &Bits) {
        for row in 0..self.shape[0] {
            for k in 0..self.shape[1] {
                let (address, size) = (self.address(row, k), self.element.bytes());
                memory[address..address + size].copy_from_slice(&matrix.get(row, k).to_le_bytes()[..size]);
            }
        }
    }
}

fn parse(name: &str) -> Option<Wgmma> {
    Wgmma::parse(&name.split('.').skip(1).collect::<Vec<_>>())
}

fn read(memory: &[u8]) -> impl FnMut(u32) -> Result<[u8; 16], Infallible> {
    |address| {
        assert!(address.is_multiple_of(16), "{address:#x}");
        Ok(memory[address as usize..address as usize + 16].try_into().expect("sixteen bytes"))
    }
}

fn decode(bits: u64) -> Descriptor {
    Descriptor::decode(bits).unwrap_or_else(|error| panic!("{error}"))
}

/// Row and column, in the whole D, of element `i` of a lane of `warp`, by the figure of D in the ISA.
fn isa_d(warp: usize, lane: usize, i: usize) -> (usize, usize) {
    (16 * warp + lane / 4 + i / 2 % 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2)
}

/// Row and column of element `i` of A in registers, by the figures of A in the ISA.
fn isa_a(warp: usize, bytes: usize, lane: usize, i: usize) -> (usize, usize) {
    let per_register = 4 / bytes;
    let (register, offset) = (i / per_register, i % per_register);
    (16 * warp + lane / 4 + register % 2 * 8, lane % 4 * per_register + offset + register / 2 * 4 * per_register)
}

/// What one test computes.
struct Case {
    name: String,
    a_in_registers: bool,
    majors: [Major; 2],
    swizzles: [Swizzle; 2],
}

impl Case {
    /// Four instructions along K, the first without `scale-d`, on all four warps.
    fn check(&self, random: &mut Random) {
        let context = format!("{} {:?} {:?} registers {}", self.name, self.majors, self.swizzles, self.a_in_registers);
        let op = parse(&self.name).unwrap_or_else(|| panic!("{context}"));
        let sixteen_bits = matches!(op.a, Element::Bf16 | Element::F16);
        let transposes = self.majors.map(|major| (major == Major::MN).into());
        let immediates: Vec<i64> = match (op.accumulator, sixteen_bits) {
            (Accumulator::S32 | Accumulator::SaturatingS32, _) => vec![],
            (_, true) if self.a_in_registers => vec![-1, -1, transposes[1]],
            (_, true) => vec![-1, -1, transposes[0], transposes[1]],
            (_, false) => vec![1, 1],
        };
        let op = op.with_immediates(self.a_in_registers, &immediates).unwrap_or_else(|error| panic!("{error}"));
        let k = K_BYTES / op.a.bytes();
        let a = Bits::new(64, k, |_, _| random.element(op.a));
        let b = Bits::new(op.n, k, |_, _| random.element(op.b));
        let tile = |base, rows, element, i: usize| Tile {
            base,
            shape: [rows, k],
            element,
            major: self.majors[i],
            width: self.swizzles[i].bytes() as usize,
        };
        let a_tile = tile(1024, 64, op.a, 0);
        let b_tile = tile(1024 + a_tile.bytes(), op.n, op.b, 1);
        let mut memory = vec![0xff; b_tile.base + b_tile.bytes()];
        a_tile.write(&mut memory, &a);
        b_tile.write(&mut memory, &b);

        let sum_bytes = if op.accumulator == Accumulator::F16 { 2 } else { 4 };
        let counts = op.registers();
        assert_eq!(counts, RegisterCounts { a: 4, b: 0, c: op.n * sum_bytes / 8 }, "{context}");
        let mut d: Vec<Vec<[u32; 32]>> = vec![vec![[0xdead_beef; 32]; counts.c]; 4];
        let mut expected = Bits::new(64, op.n, |_, _| 0);
        for step in 0..4 {
            for (warp, d) in d.iter_mut().enumerate() {
                let mut seen = BTreeSet::new();
                let mut memory = read(&memory);
                let mut watched = |address| {
                    seen.insert(address);
                    memory(address)
                };
                let registers = pack(&a, op.a.bytes(), 4, |lane, i| {
                    let (row, column) = isa_a(warp, op.a.bytes(), lane, i);
                    (row, step * op.k + column)
                });
                let operand = if self.a_in_registers {
                    OperandA::Registers(&registers)
                } else {
                    OperandA::Shared(decode(a_tile.descriptor(step)))
                };
                let b_descriptor = decode(b_tile.descriptor(step));
                let Ok(()) = wgmma_warp(&op, warp, &operand, &b_descriptor, step > 0, &mut watched, d);
                let mut needed: BTreeSet<u32> = b_tile.chunks(0..op.n, step).collect();
                if !self.a_in_registers {
                    needed.extend(a_tile.chunks(16 * warp..16 * warp + 16, step));
                }
                assert_eq!(seen, needed, "{context}: what is read");
            }
            expected = Bits::new(64, op.n, |row, column| {
                let factors = (step * op.k..step * op.k + op.k).map(|k| (a.get(row, k), b.get(column, k)));
                dot((op.a, op.b, op.accumulator), factors, expected.get(row, column))
            });
        }
        for (warp, d) in d.iter().enumerate() {
            let expected = pack(&expected, sum_bytes, counts.c, |lane, i| isa_d(warp, lane, i));
            assert_eq!(*d, expected, "{context}: warp {warp}");
        }
    }
}

#[test]
fn bf16_in_every_layout() {
    let mut random = Random(3);
    for n in [8, 64, 128, 256] {
        for swizzle_a in SWIZZLES {
            for swizzle_b in SWIZZLES {
                for majors in
                    [[Major::K, Major::K], [Major::K, Major::MN], [Major::MN, Major::K], [Major::MN, Major::MN]]
                {
                    // A tile as wide as its swizzle is the least that an MN-major layout takes.
                    if majors[1] == Major::MN && 2 * n < swizzle_b.bytes() as usize {
                        continue;
                    }
                    // The wide ones only where both layouts are alike: the others would cost seconds and show no more.
                    if n > 64 && swizzle_a != swizzle_b {
                        continue;
                    }
                    Case {
                        name: format!("wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16"),
                        a_in_registers: false,
                        majors,
                        swizzles: [swizzle_a, swizzle_b],
                    }
                    .check(&mut random);
                }
            }
        }
    }
}

#[test]
fn every_type_with_a_in_registers_and_in_shared_memory() {
    let mut random = Random(4);
    let mut types = vec![("k8", "f32.tf32.tf32".to_owned()), ("k16", "f32.bf16.bf16".to_owned())];
    for sum in ["f16", "f32"] {
        types.push(("k16", format!("{sum}.f16.f16")));
        for a in ["e4m3", "e5m2"] {
            types.extend(["e4m3", "e5m2"].map(|b| ("k32", format!("{sum}.{a}.{b}"))));
        }
    }
    for saturate in ["", "satfinite."] {
        for a in ["s8", "u8"] {
            types.extend(["s8", "u8"].map(|b| ("k32", format!("{saturate}s32.{a}.{b}"))));
        }
    }
    for (k, types) in types {
        for n in [8, 48] {
            for swizzle in SWIZZLES {
                for a_in_registers in [false, true] {
                    Case {
                        name: format!("wgmma.mma_async.sync.aligned.m64n{n}{k}.{types}"),
                        a_in_registers,
                        majors: [Major::K, Major::K],
                        swizzles: [swizzle, swizzle],
                    }
                    .check(&mut random);
                }
            }
        }
    }
}

#[test]
fn scales_negate_the_product_and_not_the_sum() {
    let op = parse("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16").expect("executed");
    let ones = [0x80, 0x3f].repeat(4096);
    let b = decode(Tile { base: 0, shape: [8, 16], element: Element::Bf16, major: Major::K, width: 32 }.descriptor(0));
    for (scales, expected) in [([1, 1], 18.0f32), ([-1, 1], -14.0), ([1, -1], -14.0), ([-1, -1], 18.0)] {
        let op = op.with_immediates(true, &[scales[0], scales[1], 0]).expect("valid immediates");
        let mut d = [[2f32.to_bits(); 32]; 4];
        let a = OperandA::Registers(&[[0x3f80_3f80; 32]; 4]);
        let Ok(()) = wgmma_warp(&op, 0, &a, &b, true, &mut read(&ones), &mut d);
        assert_eq!(d, [[expected.to_bits(); 32]; 4], "{scales:?}");
    }
}

#[test]
fn the_first_error_of_a_read_ends_the_product() {
    let op = parse("wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3").expect("executed");
    let mut reads = 0;
    let mut fail = |address: u32| {
        reads += 1;
        if reads == 3 { Err(address) } else { Ok([0; 16]) }
    };
    let a = OperandA::Registers(&[[0; 32]; 4]);
    let b =
        decode(Tile { base: 512, shape: [8, 32], element: Element::E4m3, major: Major::K, width: 32 }.descriptor(0));
    // The second row of 32 bytes begins at 544.
    assert_eq!(wgmma_warp(&op, 0, &a, &b, false, &mut fail, &mut [[0; 32]; 4]), Err(544));
    assert_eq!(reads, 3);
}

#[test]
fn other_forms_are_refused() {
    for name in [
        "wgmma.mma_async.sync.aligned.m64n264k16.f32.bf16.bf16",
        "wgmma.mma_async.sync.aligned.m64n12k16.f32.bf16.bf16",
        "wgmma.mma_async.sync.aligned.m64n0k16.f32.bf16.bf16",
        "wgmma.mma_async.sync.aligned.m64n40k32.s32.s8.s8",
        "wgmma.mma_async.sync.aligned.m64n8k16.f16.bf16.bf16",
        "wgmma.mma_async.sync.aligned.m64n8k8.f32.bf16.bf16",
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.f16",
        "wgmma.mma_async.sp.sync.aligned.m64n8k32.f32.bf16.bf16",
        "wgmma.mma_async.sync.aligned.m64n8k256.s32.b1.b1.and.popc",
    ] {
        assert_eq!(parse(name), None, "{name}");
    }
    for (name, a_in_registers, immediates) in [
        ("m64n8k16.f32.bf16.bf16", false, &[1, 1, 0][..]),
        ("m64n8k16.f32.bf16.bf16", true, &[1, 1, 0, 0]),
        ("m64n8k16.f32.f16.f16", true, &[1, 0, 0]),
        ("m64n8k16.f32.f16.f16", true, &[1, 1, 2]),
        ("m64n8k32.f32.e4m3.e4m3", false, &[1, 1, 0, 0]),
        ("m64n8k32.s32.s8.s8", false, &[1, 1]),
    ] {
        let op = parse(&format!("wgmma.mma_async.sync.aligned.{name}")).expect("executed");
        let error = op.with_immediates(a_in_registers, immediates).expect_err(name);
        assert!(error.contains(&format!("{immediates:?}")), "{error}");
    }
}

#[test]
fn descriptors_with_stray_bits_are_refused() {
    for bit in [14, 15, 30, 31, 46, 48, 52, 61] {
        let error = Descriptor::decode(1 << bit).expect_err("a stray bit");
        assert!(error.contains("outside its fields"), "bit {bit}: {error}");
    }
    for bit in 49..52 {
        let error = Descriptor::decode(1 << bit).expect_err("a base offset");
        assert!(error.contains("base offset"), "bit {bit}: {error}");
    }
}

/// A tensor copy and a product with the same swizzle understand each other.
#[test]
fn a_tensor_copy_lays_out_what_the_product_reads() {
    let mut random = Random(5);
    for swizzle in [Swizzle::B32, Swizzle::B64, Swizzle::B128] {
        for major in [Major::K, Major::MN] {
            let op = parse("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16").expect("executed");
            let op = op.with_immediates(true, &[1, 1, (major == Major::MN).into()]).expect("valid immediates");
            let a = Bits::new(64, 64, |_, _| random.element(Element::Bf16));
            let b = Bits::new(64, 64, |_, _| random.element(Element::Bf16));
            // In global memory, lines of 64 elements of K or of N.
            let line = |across: usize, along: usize| match major {
                Major::K => b.get(across, along),
                Major::MN => b.get(along, across),
            };
            let global: Vec<u8> = (0..64 * 64).flat_map(|i| (line(i / 64, i % 64) as u16).to_le_bytes()).collect();
            let per_panel = swizzle.bytes() / 2;
            let map = TensorMap::new(&TensorMapArgs {
                data_type: TensorMapType::Bf16,
                global_address: 0,
                global_dims: &[64, 64],
                global_strides: &[128],
                box_dims: &[per_panel, 64],
                element_strides: &[1, 1],
                swizzle,
                fill: OutOfBoundsFill::Zero,
            })
            .expect("a valid map");
            let tile =
                Tile { base: 1024, shape: [64, 64], element: Element::Bf16, major, width: swizzle.bytes() as usize };
            let mut memory = vec![0; 16 * 1024];
            // One box a panel.
            for panel in 0..64 / per_panel {
                let base = 1024 + panel * map.box_bytes();
                for piece in map.pieces(&[(panel * per_panel) as i32, 0], base).expect("two coordinates") {
                    let (to, from) = ((base + piece.shared_offset) as usize, piece.global.expect("inside") as usize);
                    memory[to..to + piece.bytes as usize].copy_from_slice(&global[from..from + piece.bytes as usize]);
                }
            }
            let mut written = vec![0; memory.len()];
            tile.write(&mut written, &b);
            assert_eq!(memory, written, "{swizzle:?} {major:?}: the copy gives the canonical layout");

            let mut d = vec![[0; 32]; 32];
            for step in 0..4 {
                let registers = pack(&a, 2, 4, |lane, i| {
                    let (row, column) = isa_a(0, 2, lane, i);
                    (row, 16 * step + column)
                });
                let operand = OperandA::Registers(&registers);
                let b = decode(tile.descriptor(step));
                let Ok(()) = wgmma_warp(&op, 0, &operand, &b, true, &mut read(&memory), &mut d);
            }
            let types = (op.a, op.b, op.accumulator);
            let expected = Bits::new(64, 64, |row, column| {
                (0..4).fold(0, |sum, step| {
                    dot(types, (16 * step..16 * step + 16).map(|k| (a.get(row, k), b.get(column, k))), sum)
                })
            });
            assert_eq!(d, pack(&expected, 4, 32, |lane, i| isa_d(0, lane, i)), "{swizzle:?} {major:?}");
        }
    }
}
