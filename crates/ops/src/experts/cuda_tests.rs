//! The GPU's kernels: the sorted rows exactly, and the sums against f64 with the same roundings and against the definition.

use cachalot_tensor::{Buffer, DType, F8E4M3, Matrix, View};
use cachalot_testkit::{Random, Tolerance, assert_close, assert_same_bits};
use half::bf16;

use super::cuda::{
    ExpertWeights, Experts, ExpertsKernels, ExpertsShape, ExpertsWorkspace, Plan, experts as experts_on_gpu,
};
use super::{Expert, experts};
use crate::act_quant::SCALE_GROUP;
use crate::act_quant::reference::quantise_group;
use crate::numerics::e4m3_to_f32;
use crate::reference_util::dequantise;
use crate::test_gpu::{TestGpu, bf16s, f32s};
use crate::test_util::{Strided, context};
use crate::{Device, Result, ScaleFormat};

const GAP: usize = 8;

/// The same roundings as on the device. Now and then one falls to the other side, and with it a code between the products,
/// which moves by up to a 14th of the largest of its group and takes the whole row of out along.
const SAME_ROUNDINGS: Tolerance = Tolerance { abs: 0.15, rel: 1.0 / 128.0, cosine: 2e-5 };
/// Against sums of what was not quantised: single elements, of size 1, may be far off, all together not.
const QUANTISED: Tolerance = Tolerance { abs: 1.0, rel: 0.0, cosine: 3e-3 };

struct Case {
    shape: ExpertsShape,
    x: Vec<bf16>,
    ids: Vec<i32>,
    weights: Vec<f32>,
    before: Vec<bf16>,
    experts: Vec<Expert>,
    scale_format: ScaleFormat,
}

impl Case {
    /// `sizes` are those of tokens, slots, experts, `hidden_size`, `moe_intermediate_size`.
    fn new([num_tokens, num_chosen, num_experts, hidden, intermediate]: [usize; 5], scale_format: ScaleFormat) -> Case {
        let mut random = Random::new((num_tokens * num_experts + hidden) as u64);
        let mut matrix = |shape| random.matrix(DType::F8E4M3, shape, [SCALE_GROUP; 2]);
        let experts = (0..num_experts)
            .map(|_| Expert {
                gate_proj: matrix([intermediate, hidden]),
                up_proj: matrix([intermediate, hidden]),
                down_proj: matrix([hidden, intermediate]),
            })
            .collect();
        let chosen = |random: &mut Random| random.permutation(num_experts)[..num_chosen].to_vec();
        Case {
            shape: ExpertsShape {
                max_tokens: num_tokens,
                num_experts_per_tok: num_chosen,
                n_routed_experts: num_experts,
                hidden_size: hidden,
                moe_intermediate_size: intermediate,
            },
            x: bf16s(&random.gaussian(num_tokens * hidden)),
            ids: (0..num_tokens).flat_map(|_| chosen(&mut random)).map(|id| id as i32).collect(),
            weights: random.values(num_tokens * num_chosen),
            before: bf16s(&random.gaussian(num_tokens * hidden)),
            experts,
            scale_format,
        }
    }

    fn num_tokens(&self) -> usize {
        self.shape.max_tokens
    }

    /// Codes of the tokens, and their scales with the tokens next to each other.
    fn quantised(&self) -> (Vec<F8E4M3>, Vec<f32>) {
        let (num_tokens, num_groups) = (self.num_tokens(), self.shape.hidden_size / SCALE_GROUP);
        let (mut codes, mut scales) = (Vec::new(), vec![0.0; num_groups * num_tokens]);
        for (index, group) in f32s(&self.x).chunks(SCALE_GROUP).enumerate() {
            let (group_codes, scale) = quantise_group(group, self.scale_format);
            codes.extend(group_codes);
            scales[index % num_groups * num_tokens + index / num_groups] = scale;
        }
        (codes, scales)
    }

    /// A matrix of every expert on the device, one after the other.
    fn weights_on<'a>(&'a self, device: &TestGpu, parts: impl Fn(&'a Expert) -> Vec<&'a Matrix>) -> [Buffer; 2] {
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        for expert in &self.experts {
            for matrix in parts(expert) {
                codes.extend_from_slice(matrix.values().as_slice::<F8E4M3>().expect("FP8"));
                scales.extend_from_slice(matrix.scales().expect("FP8").scales.as_slice::<f32>().expect("f32"));
            }
        }
        let first = parts(&self.experts[0]);
        let (rows, cols) = (first.iter().map(|matrix| matrix.num_rows()).sum::<usize>(), first[0].num_cols());
        let num_experts = self.experts.len();
        let blocks = [num_experts, rows / SCALE_GROUP, cols / SCALE_GROUP];
        [device.filled([num_experts, rows, cols], &codes), device.filled(blocks, &scales)]
    }

    /// The first tokens' result, in a workspace for all of them, and the workspace.
    fn run(&self, device: &TestGpu, num_tokens: usize) -> (Vec<f32>, ExpertsWorkspace) {
        let kernels = ExpertsKernels::new(&device.gpu).expect("the kernels");
        let mut workspace = ExpertsWorkspace::new(&device.gpu, self.shape).expect("room in the arena");
        // So that all of it can be read in the end, although fewer tiles than others need may be used.
        for buffer in [&mut workspace.rows, &mut workspace.tiles] {
            device.stream.fill(buffer, 0x55).expect("a fill");
        }
        let hidden = self.shape.hidden_size;
        let (codes, scales) = self.quantised();
        let x = device.filled([self.num_tokens(), hidden], &codes);
        let x_scale = device.strided([hidden / SCALE_GROUP, self.num_tokens()], GAP, &scales, f32::NAN);
        let gate_up = self.weights_on(device, |expert| vec![&expert.gate_proj, &expert.up_proj]);
        let down = self.weights_on(device, |expert| vec![&expert.down_proj]);
        let shape = [self.num_tokens(), self.shape.num_experts_per_tok];
        let (ids, weights) = (device.filled(shape, &self.ids), device.filled(shape, &self.weights));
        let mut out = device.strided([self.num_tokens(), hidden], GAP, &self.before, bf16::NAN);
        let args = Experts {
            x: x.view().rows(0..num_tokens),
            x_scale: x_scale.view().columns(0..num_tokens),
            gate_up_proj: ExpertWeights { values: gate_up[0].view(), scales: gate_up[1].view() },
            down_proj: ExpertWeights { values: down[0].view(), scales: down[1].view() },
            expert_ids: ids.view().rows(0..num_tokens),
            expert_weights: weights.view().rows(0..num_tokens),
            scale_format: self.scale_format,
            out: out.view_mut().rows(0..num_tokens),
        };
        experts_on_gpu(&device.stream, &kernels, &mut workspace, args).expect("valid arguments");
        let out = device.read_strided(&out);
        assert_eq!(out[num_tokens * hidden..], self.before[num_tokens * hidden..], "rows of other tokens");
        (f32s(&out[..num_tokens * hidden]), workspace)
    }

    fn is_expert(&self, id: i32) -> bool {
        (0..self.experts.len() as i32).contains(&id)
    }

    /// The rows that the plan of all tokens has, one expert after the other.
    fn check_rows(&self, device: &TestGpu, workspace: &ExpertsWorkspace) {
        let Plan { block_m, num_tiles } = Plan::new(self.ids.len(), self.experts.len());
        let (mut rows, mut tiles, mut positions) = (Vec::new(), Vec::new(), vec![-1; self.ids.len()]);
        for expert in 0..self.experts.len() as i32 {
            let pairs: Vec<usize> = (0..self.ids.len()).filter(|&pair| self.ids[pair] == expert).collect();
            for tile in pairs.chunks(block_m) {
                for &pair in tile {
                    positions[pair] = rows.len() as i32;
                    rows.push((pair / self.shape.num_experts_per_tok) as i32);
                }
                rows.resize(rows.len().next_multiple_of(block_m), -1);
                tiles.extend([expert, tile.len() as i32]);
            }
        }
        assert!(tiles.len() <= 2 * num_tiles, "{} tiles, {num_tiles} planned", tiles.len() / 2);
        rows.resize(num_tiles * block_m, -1);
        while tiles.len() < 2 * num_tiles {
            tiles.extend([-1, 0]);
        }
        assert_eq!(device.read::<i32>(&workspace.rows)[..rows.len()], rows);
        assert_eq!(device.read::<i32>(&workspace.tiles)[..tiles.len()], tiles);
        assert_eq!(device.read::<i32>(&workspace.positions), positions);
    }

    /// The formula in f64 with the device's roundings.
    fn expected(&self) -> Vec<f32> {
        let ExpertsShape { hidden_size: hidden, num_experts_per_tok: slots, .. } = self.shape;
        let (codes, scales) = self.quantised();
        let x = |token: usize| -> Vec<f64> {
            let scale = |i: usize| f64::from(scales[i / SCALE_GROUP * self.num_tokens() + token]);
            (0..hidden).map(|i| f64::from(e4m3_to_f32(codes[token * hidden + i])) * scale(i)).collect()
        };
        let decoded: Vec<[Vec<Vec<f32>>; 3]> = self
            .experts
            .iter()
            .map(|expert| [&expert.gate_proj, &expert.up_proj, &expert.down_proj].map(decode))
            .collect();
        let mut out: Vec<f64> = self.before.iter().map(|value| value.to_f64()).collect();
        for (pair, &id) in self.ids.iter().enumerate().filter(|&(_, &id)| self.is_expert(id)) {
            let [gate, up, down] = &decoded[id as usize];
            let x = x(pair / slots);
            let activated: Vec<f32> = products(gate, &x)
                .into_iter()
                .zip(products(up, &x))
                .map(|(gate, up)| bf16::from_f64(gate / (1.0 + (-gate).exp()) * up).to_f32())
                .collect();
            let activated: Vec<f64> = activated
                .chunks(SCALE_GROUP)
                .flat_map(|group| {
                    let (codes, scale) = quantise_group(group, self.scale_format);
                    codes.into_iter().map(move |code| f64::from(e4m3_to_f32(code)) * f64::from(scale))
                })
                .collect();
            let out = &mut out[pair / slots * hidden..][..hidden];
            let y = products(down, &activated);
            out.iter_mut().zip(y).for_each(|(out, y)| *out += f64::from(self.weights[pair]) * y);
        }
        out.into_iter().map(|value| bf16::from_f64(value).to_f32()).collect()
    }

    /// What the definition makes of the tokens as they were before they were quantised. Every id is that of an expert.
    fn defined(&self) -> Vec<f32> {
        let shape = [self.num_tokens(), self.shape.hidden_size];
        let slots = [self.num_tokens(), self.shape.num_experts_per_tok];
        let (x, mut out) = (Strided::new(&f32s(&self.x), shape), Strided::new(&f32s(&self.before), shape));
        let args = super::Experts {
            x: x.view(),
            experts: &self.experts,
            expert_ids: View::from_slice(&self.ids, slots).expect("ids"),
            expert_weights: View::from_slice(&self.weights, slots).expect("weights"),
            out: out.view_mut(),
        };
        experts(&context(Device::Reference, 1), args).expect("valid arguments");
        out.into_values()
    }

    fn check(&self, device: &TestGpu) {
        let (out, workspace) = self.run(device, self.num_tokens());
        if !self.ids.is_empty() {
            self.check_rows(device, &workspace);
        }
        let shape = [self.num_tokens(), self.shape.hidden_size];
        assert_close(&out, &self.expected(), shape, SAME_ROUNDINGS);
        if self.ids.iter().all(|&id| self.is_expert(id)) {
            assert_close(&out, &self.defined(), shape, QUANTISED);
        }
    }
}

fn decode(matrix: &Matrix) -> Vec<Vec<f32>> {
    dequantise("test", matrix).expect("decodes").to_vec2::<f32>().expect("f32")
}

/// `matrix · x`, rounded to bf16.
fn products(matrix: &[Vec<f32>], x: &[f64]) -> Vec<f64> {
    let times_x = |row: &Vec<f32>| row.iter().zip(x).map(|(&w, &x)| f64::from(w) * x).sum::<f64>();
    matrix.iter().map(|row| bf16::from_f64(times_x(row)).to_f64()).collect()
}

#[test]
fn every_height_of_tiles() {
    let device = TestGpu::new();
    for (sizes, block_m, scale_format) in [
        ([0, 2, 4, 128, 128], 16, ScaleFormat::F32),
        ([1, 1, 1, 128, 128], 16, ScaleFormat::F32),
        ([1, 2, 8, 256, 128], 16, ScaleFormat::Ue8m0),
        ([7, 3, 5, 384, 256], 16, ScaleFormat::F32),
        ([60, 2, 8, 256, 128], 64, ScaleFormat::Ue8m0),
        ([129, 2, 6, 256, 128], 128, ScaleFormat::F32),
        ([3, 0, 4, 128, 128], 16, ScaleFormat::F32),
        // The real hidden size.
        ([2, 2, 3, 7168, 128], 16, ScaleFormat::Ue8m0),
    ] {
        assert_eq!(Plan::new(sizes[0] * sizes[1], sizes[2]).block_m, block_m);
        Case::new(sizes, scale_format).check(&device);
    }
}

#[test]
fn hostile_routings() {
    let device = TestGpu::new();
    for num_tokens in [7, 60, 129] {
        let case = || Case::new([num_tokens, 2, 8, 128, 128], ScaleFormat::Ue8m0);
        // All to one expert, the others have nothing: as the first, in the middle, and as the last.
        for id in [0, 3, 7] {
            let mut case = case();
            case.ids.fill(id);
            case.check(&device);
        }
        // Padding tokens, whose activations are no numbers, and ids that are no expert.
        let mut case = case();
        for token in (0..num_tokens).step_by(3) {
            case.ids[2 * token..][..2].fill(-1);
            case.x[token * 128..][..128].fill(bf16::NAN);
            case.before[token * 128..][..128].fill(bf16::from_f32(1.0));
        }
        case.ids[2] = 8;
        case.ids[9] = i32::MIN;
        case.check(&device);
        // Nothing but padding.
        case.ids.fill(-1);
        case.check(&device);
    }
}

#[test]
fn a_token_does_not_depend_on_the_others() {
    let device = TestGpu::new();
    let case = Case::new([129, 2, 8, 256, 256], ScaleFormat::F32);
    let (all, _) = case.run(&device, 129);
    for (num_tokens, block_m) in [(1, 16), (30, 16), (60, 64)] {
        assert_eq!(Plan::new(2 * num_tokens, 8).block_m, block_m);
        let (first, _) = case.run(&device, num_tokens);
        assert_same_bits(&first, &all[..num_tokens * 256], [num_tokens, 256]);
    }
}

#[test]
fn a_plan_has_room_for_every_routing() {
    for num_experts in [1, 5, 256] {
        for num_pairs in (0..1000).chain([4096, 65_536]) {
            let Plan { block_m, num_tiles } = Plan::new(num_pairs, num_experts);
            // Experts with a pair each and one that has all others need the most tiles, and so do others.
            for num_chosen in [1, num_experts / 2, num_experts].map(|num| num.clamp(1, num_experts).min(num_pairs)) {
                let of_last = num_pairs.saturating_sub(num_chosen.saturating_sub(1));
                let needed = num_chosen.saturating_sub(1) + of_last.div_ceil(block_m);
                assert!(needed <= num_tiles, "{num_pairs} pairs, {num_chosen} of {num_experts} experts");
            }
        }
    }
    // A step of the 671B models of one token, of 64, of 256 and of 4096.
    for (num_tokens, block_m, num_tiles) in
        [(1, 16, 8), (64, 16, 272), (256, 16, 368), (512, 64, 316), (4096, 128, 510)]
    {
        assert_eq!(Plan::new(8 * num_tokens, 256), Plan { block_m, num_tiles });
    }
}

#[test]
fn refusals_name_the_argument() {
    let device = TestGpu::new();
    let kernels = ExpertsKernels::new(&device.gpu).expect("the kernels");
    let shape = ExpertsShape {
        max_tokens: 2,
        num_experts_per_tok: 2,
        n_routed_experts: 4,
        hidden_size: 256,
        moe_intermediate_size: 128,
    };
    let mut workspace = ExpertsWorkspace::new(&device.gpu, shape).expect("room in the arena");
    let fp8 = |dims: &[usize]| device.unwritten(DType::F8E4M3, cachalot_tensor::Shape::new(dims));
    let scales = |dims: &[usize]| device.unwritten(DType::F32, cachalot_tensor::Shape::new(dims));
    let mut run = |num_tokens: usize, gate_up: &[usize], down: &[usize], num_weights: usize| -> Result<()> {
        let blocks = |of: &[usize]| [of[0], of[1] / 128, of[2] / 128];
        let (x, x_scale) = (fp8(&[num_tokens, 256]), scales(&[2, num_tokens]));
        let (gate_up_proj, gate_up_scales) = (fp8(gate_up), scales(&blocks(gate_up)));
        let (down_proj, down_scales) = (fp8(down), scales(&blocks(down)));
        let ids = device.unwritten(DType::I32, [num_tokens, 2]);
        let weights = scales(&[num_tokens, num_weights]);
        let mut out = device.unwritten(DType::BF16, [num_tokens, 256]);
        let args = Experts {
            x: x.view(),
            x_scale: x_scale.view(),
            gate_up_proj: ExpertWeights { values: gate_up_proj.view(), scales: gate_up_scales.view() },
            down_proj: ExpertWeights { values: down_proj.view(), scales: down_scales.view() },
            expert_ids: ids.view(),
            expert_weights: weights.view(),
            scale_format: ScaleFormat::F32,
            out: out.view_mut(),
        };
        experts_on_gpu(&device.stream, &kernels, &mut workspace, args)
    };
    for (num_tokens, gate_up, down, num_weights, message) in [
        (
            2,
            [4, 256, 256],
            [4, 256, 64],
            2,
            "`moe_intermediate_size` of 64 is not supported; supported: multiples of 128",
        ),
        (
            2,
            [4, 512, 256],
            [4, 256, 128],
            2,
            "`2 * moe_intermediate_size` is 512 in `gate_up_proj`, 256 in `down_proj`",
        ),
        (2, [3, 256, 256], [4, 256, 128], 2, "`n_routed_experts` is 3 in `gate_up_proj`, 4 in `down_proj`"),
        (2, [4, 256, 256], [4, 256, 128], 3, "`num_experts_per_tok` is 3 in `expert_weights`, 2 in `expert_ids`"),
        (3, [4, 256, 256], [4, 256, 128], 2, "6 pairs of a token and an expert, 256 and 128 columns is not supported"),
    ] {
        let error = run(num_tokens, &gate_up, &down, num_weights).expect_err(message).to_string();
        assert!(error.starts_with(&format!("experts: {message}")), "{error}");
    }
}
