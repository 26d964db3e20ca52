//! What a good checkpoint gives, stored in every way that is accepted.

use cachalot_tensor::DType;
use cachalot_testkit::{TinyCheckpoint, TinyTensor, qwen3_config, v3_config, v32_config, with_fp8};
use cachalot_weights::{Checkpoint, Shard, Source};
use half::bf16;

const Q_B: &str = "model.layers.1.self_attn.q_b_proj.weight";
const Q_B_SCALES: &str = "model.layers.1.self_attn.q_b_proj.weight_scale_inv";
const BIAS: &str = "model.layers.1.mlp.gate.e_score_correction_bias";
const MTP: &str = "model.layers.3.";

fn open(tiny: &TinyCheckpoint) -> Checkpoint {
    Checkpoint::open(&tiny.source(2)).unwrap_or_else(|error| panic!("{error}"))
}

/// Every tensor of the layout comes back with the bytes that were written, from a folder and from memory, from one file
/// and from shards.
#[test]
fn every_tensor_comes_back_as_it_was_stored() {
    fn check(tiny: &TinyCheckpoint, num_shards: usize, on_disk: bool) {
        let folder = tempfile::tempdir().unwrap();
        tiny.write(folder.path(), num_shards);
        let source = if on_disk { Source::Folder(folder.path().into()) } else { tiny.source(num_shards) };
        let checkpoint = Checkpoint::open(&source).unwrap_or_else(|error| panic!("{error}"));
        for spec in checkpoint.config().layout() {
            let stored = &tiny.tensors[&spec.name];
            let scales = tiny.tensors.get(&format!("{}_scale_inv", spec.name));
            let (values, scales_read) = match spec.shape.rank() {
                1 => (checkpoint.tensor(&spec.name, Shard::Whole).unwrap(), None),
                _ => {
                    let matrix = checkpoint.matrix(&spec.name, Shard::Whole).unwrap();
                    (matrix.values().clone(), matrix.scales().cloned())
                }
            };
            assert_eq!(values.dtype(), stored.dtype, "{}", spec.name);
            assert_eq!(values.shape().dims(), stored.shape, "{}", spec.name);
            assert_eq!(values.bytes(), stored.bytes, "{}", spec.name);
            assert_eq!(scales_read.as_ref().map(|read| read.scales.bytes()), scales.map(|tensor| &tensor.bytes[..]));
            assert!(scales_read.is_none_or(|read| read.block == [128, 128]));
        }
    }
    for config in [v3_config(), with_fp8(v32_config()), qwen3_config()] {
        let tiny = TinyCheckpoint::new(config, 3);
        for on_disk in [true, false] {
            check(&tiny, 1, on_disk);
            check(&tiny, 4, on_disk);
        }
    }
}

#[test]
fn tensors_of_a_mapped_file_are_not_copied() {
    let folder = tempfile::tempdir().unwrap();
    TinyCheckpoint::new(v3_config(), 3).write(folder.path(), 1);
    let checkpoint = Checkpoint::open(&Source::Folder(folder.path().into())).unwrap();
    let address = |shard| checkpoint.tensor("lm_head.weight", shard).unwrap().bytes().as_ptr() as usize;
    assert_eq!(address(Shard::Whole), address(Shard::Whole));
    assert_eq!(address(Shard::Rows(2..5)) - address(Shard::Whole), 2 * 160 * 2);
}

/// q_b_proj is `[224, 72]` in blocks of `[128, 128]`, o_proj is `[160, 96]`; gate_proj of layer 0 is `[208, 160]`.
#[test]
fn shards_are_the_rows_and_columns_of_the_whole() {
    let checkpoint = open(&TinyCheckpoint::new(with_fp8(v32_config()), 3));
    let check = |name: &str, shard: Shard| {
        let whole = checkpoint.matrix(name, Shard::Whole).unwrap();
        let part = checkpoint.matrix(name, shard.clone()).unwrap();
        let (rows, cols) = match shard {
            Shard::Whole => (0..whole.num_rows(), 0..whole.num_cols()),
            Shard::Rows(rows) => (rows, 0..whole.num_cols()),
            Shard::Columns(cols) => (0..whole.num_rows(), cols),
        };
        assert_eq!([part.num_rows(), part.num_cols()], [rows.len(), cols.len()]);
        let scale = |matrix: &cachalot_tensor::Matrix, row: usize, col: usize| {
            let scales = &matrix.scales().unwrap().scales;
            scales.view().row::<f32>(row / 128).unwrap()[col / 128]
        };
        for row in rows.clone() {
            for col in cols.clone() {
                let (part_row, part_col) = (row - rows.start, col - cols.start);
                let code = whole.values().bytes()[row * whole.num_cols() + col];
                assert_eq!(part.values().bytes()[part_row * cols.len() + part_col], code);
                assert_eq!(scale(&part, part_row, part_col), scale(&whole, row, col));
            }
        }
    };
    check(Q_B, Shard::Rows(0..128));
    check(Q_B, Shard::Rows(128..224));
    check(Q_B, Shard::Columns(0..72));
    let gate = "model.layers.0.mlp.gate_proj.weight";
    check(gate, Shard::Columns(0..128));
    check(gate, Shard::Columns(128..160));
    check(gate, Shard::Rows(128..208));

    let norm = checkpoint.tensor("model.norm.weight", Shard::Whole).unwrap();
    let rows = checkpoint.tensor("model.norm.weight", Shard::Rows(10..12)).unwrap();
    assert_eq!(rows.bytes(), &norm.bytes()[20..24]);
    let head = checkpoint.matrix("lm_head.weight", Shard::Whole).unwrap();
    let columns = checkpoint.matrix("lm_head.weight", Shard::Columns(3..4)).unwrap();
    let at = |matrix: &cachalot_tensor::Matrix, row, col: usize| matrix.values().view().row::<bf16>(row).unwrap()[col];
    assert!((0..320).all(|row| at(&columns, row, 0) == at(&head, row, 3)));
}

#[test]
fn parts_that_cannot_be_had_are_refused() {
    let checkpoint = open(&TinyCheckpoint::new(with_fp8(v32_config()), 3));
    let check = |name: &str, shard: Shard, words: &[&str]| {
        let message = checkpoint.matrix(name, shard).expect_err(name).to_string();
        for words in words {
            assert!(message.contains(words), "\"{words}\" is not in: {message}");
        }
    };
    check("model.layers.9.mlp.up_proj.weight", Shard::Whole, &["no tensor `model.layers.9.mlp.up_proj.weight`"]);
    check(
        Q_B,
        Shard::Rows(0..100),
        &["rows 0..100 of `", "cuts a block of scales", "multiples of 128", "the end, 224"],
    );
    check(Q_B, Shard::Rows(64..224), &["rows 64..224 of `", "cuts a block of scales"]);
    check(Q_B, Shard::Columns(0..64), &["columns 0..64 of `", "cuts a block of scales", "the end, 72"]);
    check(Q_B, Shard::Rows(128..225), &["its shape is [224, 72]", "none past the last"]);
    check(Q_B, Shard::Rows(128..128), &["at least one row"]);
    check(Q_B, Shard::Columns(0..73), &["its shape is [224, 72]"]);
    check("model.norm.weight", Shard::Columns(0..1), &["its shape is [160]", "two dimensions"]);
    check("model.norm.weight", Shard::Whole, &["a matrix needs two dimensions"]);
    let message = checkpoint.tensor(Q_B, Shard::Whole).expect_err("FP8").to_string();
    assert!(message.contains("nothing without its scales"), "{message}");
}

#[test]
fn scales_of_one_byte_are_powers_of_two() {
    for dtype in [DType::F8E8M0, DType::U8] {
        let mut tiny = TinyCheckpoint::new(with_fp8(v32_config()), 3);
        tiny.tensors.insert(Q_B_SCALES.into(), TinyTensor { dtype, shape: vec![2, 1], bytes: vec![127 - 9, 0] });
        let matrix = open(&tiny).matrix(Q_B, Shard::Whole).unwrap();
        let scales = matrix.scales().unwrap().scales.as_slice::<f32>().unwrap().to_vec();
        assert_eq!(scales, [2f32.powi(-9), 2f32.powi(-127)]);
    }
}

#[test]
fn the_correction_bias_comes_as_f32() {
    let mut tiny = TinyCheckpoint::new(v3_config(), 3);
    let values: Vec<f32> = (0..8).map(|expert| expert as f32 / 8.0).collect();
    tiny.tensors.insert(BIAS.into(), TinyTensor::new(DType::BF16, vec![8], &values));
    let bias = open(&tiny).tensor(BIAS, Shard::Whole).unwrap();
    assert_eq!(bias.as_slice::<f32>().unwrap(), values);
}

#[test]
fn norms_of_every_dtype_are_accepted() {
    let name = "model.norm.weight";
    let ones = |dtype: DType| match dtype {
        DType::F16 => TinyTensor { dtype, shape: vec![160], bytes: half::f16::ONE.to_le_bytes().repeat(160) },
        _ => TinyTensor::new(dtype, vec![160], &[1.0; 160]),
    };
    for dtype in [DType::F16, DType::BF16, DType::F32] {
        let mut tiny = TinyCheckpoint::new(v3_config(), 3);
        tiny.tensors.insert(name.into(), ones(dtype));
        let norm = open(&tiny).tensor(name, Shard::Whole).unwrap();
        assert_eq!((norm.dtype(), norm.bytes()), (dtype, &ones(dtype).bytes[..]));
    }
}

/// A configuration that promises MTP layers, and files with all, none or some of them.
#[test]
fn mtp_layers_are_all_there_or_all_absent() {
    let mut tiny = TinyCheckpoint::new(v3_config(), 3);
    assert!(open(&tiny).has_mtp());

    // What an MTP layer shares with the main model need not be stored twice.
    assert_eq!(tiny.remove("model.layers.3.embed_tokens"), 1);
    assert_eq!(tiny.remove("model.layers.3.shared_head.head"), 1);
    let checkpoint = open(&tiny);
    assert!(checkpoint.has_mtp());
    for (copy, original) in [("embed_tokens", "model.embed_tokens"), ("shared_head.head", "lm_head")] {
        let copy = checkpoint.tensor(&format!("{MTP}{copy}.weight"), Shard::Whole).unwrap();
        let original = checkpoint.tensor(&format!("{original}.weight"), Shard::Whole).unwrap();
        assert_eq!(copy.bytes().as_ptr(), original.bytes().as_ptr());
    }

    assert_eq!(tiny.remove("model.layers.3.eh_proj"), 1);
    let message = Checkpoint::open(&tiny.source(1)).expect_err("half an MTP layer").to_string();
    assert!(message.contains("`model.layers.3.eh_proj.weight` is missing"), "{message}");

    assert!(tiny.remove(MTP) > 20);
    let checkpoint = open(&tiny);
    assert!(!checkpoint.has_mtp());
    assert!(checkpoint.notices()[0].contains("there will be no speculation"), "{:?}", checkpoint.notices());
    assert!(checkpoint.tensor("model.layers.3.enorm.weight", Shard::Whole).is_err());
}

#[test]
fn a_tied_head_is_the_embedding_unless_it_is_stored() {
    let mut config = v3_config();
    config["tie_word_embeddings"] = true.into();
    let mut tiny = TinyCheckpoint::new(config, 3);
    let address = |checkpoint: &Checkpoint, name: &str| checkpoint.tensor(name, Shard::Whole).unwrap().bytes().as_ptr();
    let checkpoint = open(&tiny);
    assert_ne!(address(&checkpoint, "lm_head.weight"), address(&checkpoint, "model.embed_tokens.weight"));
    tiny.remove("lm_head");
    tiny.remove("model.layers.3.shared_head.head");
    let checkpoint = open(&tiny);
    for name in ["lm_head.weight", "model.layers.3.shared_head.head.weight"] {
        assert_eq!(address(&checkpoint, name), address(&checkpoint, "model.embed_tokens.weight"));
    }
}

#[test]
fn tensors_that_the_model_has_not_are_counted() {
    let mut tiny = TinyCheckpoint::new(v3_config(), 3);
    for layer in [4, 5] {
        let ids = TinyTensor { dtype: DType::I32, shape: vec![2], bytes: vec![0; 8] };
        tiny.tensors.insert(format!("model.layers.{layer}.unknown"), ids);
    }
    let checkpoint = open(&tiny);
    let [notice] = checkpoint.notices() else { panic!("{:?}", checkpoint.notices()) };
    assert!(notice.contains(": 2, such as `model.layers.4.unknown`"), "{notice}");
}

/// Loading reads each byte of the model once, and says how far it is.
#[test]
fn loading_reports_its_progress() {
    let mut tiny = TinyCheckpoint::new(with_fp8(v32_config()), 3);
    tiny.remove("model.layers.3.embed_tokens");
    tiny.remove("model.layers.3.shared_head.head");
    // More than one chunk of 16 MiB each.
    tiny.config["vocab_size"] = 60_000.into();
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let bytes = vec![0; 60_000 * 160 * 2];
        tiny.tensors.insert(name.into(), TinyTensor { dtype: DType::BF16, shape: vec![60_000, 160], bytes });
    }
    let folder = tempfile::tempdir().unwrap();
    tiny.write(folder.path(), 2);
    let total: usize = tiny.tensors.values().map(|tensor| tensor.bytes.len()).sum();
    for source in [Source::Folder(folder.path().into()), tiny.source(2)] {
        let mut steps = Vec::new();
        let report = Checkpoint::open(&source).unwrap().load(|done, total| steps.push((done, total))).unwrap();
        assert_eq!(report.bytes, total as u64);
        assert_eq!(steps.first(), Some(&(0, total as u64)));
        assert_eq!(steps.last(), Some(&(total as u64, total as u64)));
        assert!(steps.len() > 3 && steps.is_sorted(), "{steps:?}");
        assert!(report.to_string().contains("GB/s"), "{report}");
    }
}
