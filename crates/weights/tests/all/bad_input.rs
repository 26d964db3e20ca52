//! Damaged and incomplete checkpoints: each error says what is wrong, where, and what to do.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use cachalot_tensor::DType;
use cachalot_testkit::{Random, TinyCheckpoint, TinyTensor, v3_config, v32_config, with_fp8};
use cachalot_weights::{Checkpoint, Error, Shard, Source};
use serde_json::{Value, json};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const SHARD_1: &str = "model-00001-of-000003.safetensors";
const SHARD_2: &str = "model-00002-of-000003.safetensors";
const UP: &str = "model.layers.0.mlp.up_proj.weight";
const UP_SCALES: &str = "model.layers.0.mlp.up_proj.weight_scale_inv";

/// The error has all of the words, and a hint.
fn assert_says(error: &Error, words: &[&str], hint: &str) {
    let message = error.to_string();
    for words in words {
        assert!(message.contains(words), "\"{words}\" is not in: {message}");
    }
    assert!(error.hint().contains(hint), "\"{hint}\" is not in the hint: {}", error.hint());
}

fn tiny() -> TinyCheckpoint {
    static TINY: LazyLock<TinyCheckpoint> = LazyLock::new(|| TinyCheckpoint::new(with_fp8(v3_config()), 5));
    TINY.clone()
}

type Files = BTreeMap<String, Vec<u8>>;

/// Writes the files of a checkpoint after a change, in one file or in three shards, and opens the folder and the memory.
fn check_files(num_shards: usize, change: impl Fn(&mut Files), words: &[&str], hint: &str) {
    let mut files = tiny().files(num_shards);
    change(&mut files);
    let folder = tempfile::tempdir().unwrap();
    for (name, contents) in &files {
        std::fs::write(folder.path().join(name), contents).unwrap();
    }
    let files = files.into_iter().map(|(name, contents)| (name, contents.into())).collect();
    for source in [Source::Folder(folder.path().into()), Source::Files(files)] {
        let error = Checkpoint::open(&source).expect_err(words[0]);
        assert_says(&error, words, hint);
    }
}

/// Replaces the header of a safetensors file.
fn with_header(file: &mut Vec<u8>, change: impl Fn(&mut Value)) {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    change(&mut header);
    let header = header.to_string().into_bytes();
    let data = file.split_off(8 + length);
    *file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
}

#[test]
fn damaged_files() {
    let again = "download it again";
    let single = |change: &dyn Fn(&mut Vec<u8>), words: &[&str]| {
        check_files(
            1,
            |files| change(files.get_mut(SINGLE).unwrap()),
            &[&[SINGLE, "is not a valid"], words].concat(),
            again,
        );
    };
    single(&|file| file.truncate(file.len() - 1), &["lies at bytes", "of a data section that has"]);
    single(&|file| file.truncate(5), &["it has 5 bytes, too few"]);
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
    single(&|file| *file = pointer.to_vec(), &["it is a Git LFS pointer"]);
    single(&|file| file.clear(), &["it has 0 bytes, too few"]);
    single(&|file| file.truncate(100), &["promise a header of", "but 92 follow"]);
    single(&|file| file[..8].copy_from_slice(&u64::MAX.to_le_bytes()), &["18446744073709551615 bytes"]);
    single(&|file| file[..8].copy_from_slice(&200_000_000u64.to_le_bytes()), &["200000000 bytes", "limit"]);
    single(&|file| file[8] = b'#', &["its header is not JSON", "line 1"]);
    single(&|file| file[..8].copy_from_slice(&10u64.to_le_bytes()), &["its header is not JSON"]);
    single(&|file| file.push(0), &["its tensors end at byte", "of the data section, which has"]);

    let entry = |change: &dyn Fn(&mut Value), words: &[&str]| {
        single(&|file| with_header(file, |header| change(&mut header[UP])), &[&["UP"], words].concat()[1..]);
    };
    entry(
        &|entry| entry["data_offsets"] = json!([1_000_000, 2_000_000_000]),
        &[UP, "lies at bytes 1000000..2000000000"],
    );
    entry(&|entry| entry["data_offsets"] = json!([10, 5]), &[UP, "lies at bytes 10..5"]);
    entry(&|entry| entry["data_offsets"] = json!([-1, 5]), &[UP, "is malformed"]);
    entry(&|entry| entry["data_offsets"] = json!("0..5"), &[UP, "is malformed"]);
    entry(&|entry| entry["dtype"] = json!("F99"), &[UP, "is malformed", "F99"]);
    entry(&|entry| entry["dtype"] = json!("BF16"), &[UP, "is BF16 [208, 160] but has 33280 bytes"]);
    entry(&|entry| entry["shape"] = json!([208, 159]), &[UP, "is F8_E4M3 [208, 159] but has 33280 bytes"]);
    entry(&|entry| entry["shape"] = json!([usize::MAX, 3]), &[UP, "but has 33280 bytes"]);
    let shift = |entry: &mut Value, by: i64| {
        for bound in [0, 1] {
            entry["data_offsets"][bound] = json!(entry["data_offsets"][bound].as_i64().unwrap() + by);
        }
    };
    entry(&|entry| shift(entry, -8), &["overlaps the tensor before it"]);
    entry(&|entry| shift(entry, 8), &["leaves a gap"]);

    let shard = &format!("{SHARD_2} is not a valid safetensors file");
    check_files(3, |files| files.get_mut(SHARD_2).unwrap().truncate(1000), &[shard], again);
}

#[test]
fn missing_files() {
    let whole = "download the whole repository";
    check_files(
        1,
        |files| drop(files.remove("config.json")),
        &["has no config.json; it holds model.safetensors"],
        whole,
    );
    let no_weights = "has no model.safetensors and no model.safetensors.index.json; it holds config.json";
    check_files(1, |files| drop(files.remove(SINGLE)), &[no_weights], whole);
    let missing = [SHARD_1, SHARD_2, "names shards that"];
    let remove = |files: &mut Files| files.retain(|name, _| name != SHARD_1 && name != SHARD_2);
    check_files(3, remove, &missing, "download the missing shards");

    let folder = tempfile::tempdir().unwrap();
    let error = Checkpoint::open(&Source::Folder(folder.path().into())).expect_err("empty");
    assert_says(&error, &[&folder.path().display().to_string(), "has no config.json; it is empty"], whole);
    let error = Checkpoint::open(&Source::Files(BTreeMap::new())).expect_err("empty");
    assert_says(&error, &["the embedded model has no config.json"], whole);
}

#[test]
fn folders_that_are_none() {
    let check = |path: &Path, words: &[&str], hint: &str| {
        let error = Checkpoint::open(&Source::Folder(path.into())).expect_err(words[0]);
        assert_says(&error, &[&[&*path.display().to_string()], words].concat(), hint);
    };
    let folder = tempfile::tempdir().unwrap();
    tiny().write(folder.path(), 1);
    check(&folder.path().join("config.json"), &["is not a folder"], "not a file in it");
    check(&folder.path().join("nowhere"), &["cannot open", "No such file"], "give the path of a folder");

    #[cfg(unix)]
    {
        use std::os::unix::fs::{PermissionsExt, symlink};
        // A link to itself can be read by nobody, not even by root.
        let link = folder.path().join("link");
        symlink(&link, &link).unwrap();
        check(&link, &["cannot open", "symbolic links"], "check the disk");

        let set_mode = |mode| std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        set_mode(0o000);
        match std::fs::read_dir(folder.path()) {
            // Root may read everything.
            Ok(_) => drop(Checkpoint::open(&Source::Folder(folder.path().into())).expect("readable")),
            Err(_) => check(folder.path(), &["cannot read", "Permission denied"], "let this user read"),
        }
        set_mode(0o755);
    }
    let path = folder.path().to_owned();
    let source = std::io::ErrorKind::PermissionDenied.into();
    assert_says(
        &Error::Io { action: "read", path, source },
        &["cannot read", "permission denied"],
        "let this user read",
    );

    std::fs::remove_file(folder.path().join(SINGLE)).unwrap();
    std::fs::create_dir(folder.path().join(SINGLE)).unwrap();
    check(folder.path(), &["cannot map", SINGLE], "check the disk");
}

#[test]
fn bad_indexes() {
    let check = |contents: &str, words: &[&str], hint: &str| {
        check_files(3, |files| drop(files.insert(INDEX.into(), contents.into())), words, hint);
    };
    let again = "download model.safetensors.index.json again";
    let malformed = "model.safetensors.index.json is malformed: ";
    check("{", &[malformed, "EOF"], again);
    check("{}", &[malformed, "missing field `weight_map`"], again);
    check(r#"{"weight_map": {"a": 1}}"#, &[malformed, "expected a string"], again);
    for file in ["../config.json", "/etc/passwd", "a/b", "", "..", "."] {
        check(
            &json!({"weight_map": {"a": file}}).to_string(),
            &[malformed, "`a` is in", "not the name of a file"],
            again,
        );
    }
    let edit = |change: &dyn Fn(&mut Value), words: &[&str], hint: &str| {
        let index = &tiny().files(3)[INDEX];
        let mut index: Value = serde_json::from_slice(index).unwrap();
        change(&mut index["weight_map"]);
        check(&index.to_string(), words, hint);
    };
    let disagree = "model.safetensors.index.json and the shards disagree on 1 tensor";
    edit(&|map| map["ghost"] = json!(SHARD_1), &[disagree, &format!("`ghost` is not in {SHARD_1}")], "download all");
    edit(&|map| map["ghost"] = json!("other.safetensors"), &["names shards", "other.safetensors"], "missing shards");
    edit(&|map| drop(map.as_object_mut().unwrap().remove(UP)), &["1 tensor at fault", UP, "is missing"], "same model");
}

/// The tensors are changed, and the checkpoint is written anew.
#[test]
fn tensors_that_do_not_fit() {
    let check = |change: &dyn Fn(&mut TinyCheckpoint), words: &[&str]| {
        let mut tiny = tiny();
        change(&mut tiny);
        let error = Checkpoint::open(&tiny.source(3)).expect_err(words[0]);
        assert_says(&error, &[&["do not hold the model of config.json"], words].concat(), "of the same model");
    };
    let set = |tiny: &mut TinyCheckpoint, name: &str, dtype: DType, shape: &[usize]| {
        let bytes = vec![0; shape.iter().product::<usize>() * dtype.size_bytes()];
        let old = tiny.tensors.insert(name.into(), TinyTensor { dtype, shape: shape.to_vec(), bytes });
        assert!(old.is_some(), "{name}");
    };
    check(&|tiny| assert_eq!(tiny.remove("model.norm"), 1), &["1 tensor at fault: `model.norm.weight` is missing"]);
    check(
        &|tiny| assert_eq!(tiny.remove("model.layers.2.mlp.experts.7.up_proj.weight"), 2),
        &["1 tensor at fault: `model.layers.2.mlp.experts.7.up_proj.weight` is missing"],
    );
    check(&|tiny| assert!(tiny.remove("model.layers.0") > 8), &["tensors at fault", "`model.layers.0.", "more"]);
    check(
        &|tiny| set(tiny, "model.norm.weight", DType::BF16, &[161]),
        &["`model.norm.weight` in model-", "has shape [161], config.json implies [160]"],
    );
    check(&|tiny| set(tiny, "model.norm.weight", DType::BF16, &[1, 160]), &["has shape [1, 160]"]);
    check(&|tiny| set(tiny, "model.norm.weight", DType::I32, &[160]), &["is I32, expected BF16, F16, F32"]);
    check(
        &|tiny| set(tiny, "lm_head.weight", DType::F8E4M3, &[320, 160]),
        &["`lm_head.weight`", "is F8_E4M3, expected"],
    );
    check(&|tiny| set(tiny, UP, DType::U8, &[208, 160]), &[UP, "is U8, expected F8_E4M3, BF16, F16, F32"]);
    check(
        &|tiny| assert_eq!(tiny.remove(UP_SCALES), 1),
        &[UP, "is F8_E4M3, but its scales,", UP_SCALES, "are missing"],
    );
    check(
        &|tiny| set(tiny, UP_SCALES, DType::F32, &[1, 1]),
        &[UP_SCALES, "has shape [1, 1], a weight of [208, 160] in blocks of [128, 128] needs [2, 2]"],
    );
    check(&|tiny| set(tiny, UP_SCALES, DType::BF16, &[2, 2]), &[UP_SCALES, "is BF16, expected F32, F8_E8M0, U8"]);
    check(
        &|tiny| tiny.config["quantization_config"] = Value::Null,
        &["is F8_E4M3, but config.json has no `quantization_config`", "and ", " more"],
    );
}

#[test]
fn values_that_cannot_be_computed_with() {
    let sound = TinyCheckpoint::new(with_fp8(v32_config()), 5);
    let check = |name: &str, value: f32, index: usize, asked: &str, words: &[&str]| {
        let mut tiny = sound.clone();
        let tensor = tiny.tensors.get_mut(name).unwrap();
        let len = tensor.shape.iter().product();
        let mut values = vec![1.0; len];
        values[index] = value;
        *tensor = TinyTensor::new(tensor.dtype, tensor.shape.clone(), &values);
        let checkpoint = Checkpoint::open(&tiny.source(3)).unwrap_or_else(|error| panic!("{error}"));
        let result = match tiny.tensors[asked].shape.len() {
            1 => checkpoint.tensor(asked, Shard::Whole).map(drop),
            _ => checkpoint.matrix(asked, Shard::Whole).map(drop),
        };
        let error = result.expect_err(name);
        assert_says(&error, &[&[&*format!("`{name}` in model-0")], words].concat(), "damaged or was quantised wrongly");
    };
    check(UP_SCALES, f32::NAN, 3, UP, &["holds NaN at [1, 1]; a scale has to be finite and not negative"]);
    check(UP_SCALES, f32::INFINITY, 2, UP, &["holds inf at [1, 0]"]);
    check(UP_SCALES, -0.5, 0, UP, &["holds -0.5 at [0, 0]"]);
    let norm = "model.layers.1.input_layernorm.weight";
    check(norm, f32::NAN, 7, norm, &["holds NaN at [7]; it has to be finite"]);
    let bias = "model.layers.1.mlp.gate.e_score_correction_bias";
    check(bias, f32::NEG_INFINITY, 2, bias, &["holds -inf at [2]"]);
    let k_norm = "model.layers.1.self_attn.indexer.k_norm.bias";
    check(k_norm, f32::NAN, 0, k_norm, &["holds NaN at [0]"]);

    // One byte per scale, and a part of the rows: the position is that in the whole tensor.
    let mut tiny = sound.clone();
    let bytes = vec![127, 127, 127, 255];
    tiny.tensors.insert(UP_SCALES.into(), TinyTensor { dtype: DType::F8E8M0, shape: vec![2, 2], bytes });
    let checkpoint = Checkpoint::open(&tiny.source(1)).unwrap();
    assert!(checkpoint.matrix(UP, Shard::Rows(0..128)).is_ok());
    for shard in [Shard::Rows(128..208), Shard::Columns(128..160)] {
        let error = checkpoint.matrix(UP, shard).expect_err("NaN");
        assert_says(&error, &["holds NaN at [1, 1]"], "damaged");
    }
}

/// A few bytes of a header, an index or config.json take any value: the checkpoint opens or is refused, and never panics.
#[test]
fn altered_bytes_never_panic() {
    let mut random = Random::new(11);
    let (mut opened, mut refused) = (0, 0);
    for (num_shards, name) in [(1, SINGLE), (3, INDEX), (1, "config.json")] {
        let files = tiny().files(num_shards);
        for _ in 0..200 {
            let mut files = files.clone();
            let file = files.get_mut(name).unwrap();
            let header_bytes = file.len().min(4096);
            for _ in 0..1 + random.below(3) {
                let value = [b'0', b'9', b'-', b'"', b'}', random.bits() as u8][random.below(6)];
                file[random.below(header_bytes)] = value;
            }
            let files = files.into_iter().map(|(name, contents)| (name, contents.into())).collect();
            match Checkpoint::open(&Source::Files(files)) {
                Ok(_) => opened += 1,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    refused += 1;
                }
            }
        }
    }
    assert!(opened > 0 && refused > 300, "{opened} opened, {refused} refused");
}

/// A file that shrinks after it was opened is an error of loading, not a crash.
#[cfg(target_os = "linux")]
#[test]
fn files_cut_off_while_open() {
    let folder = tempfile::tempdir().unwrap();
    tiny().write(folder.path(), 1);
    let checkpoint = Checkpoint::open(&Source::Folder(folder.path().into())).unwrap();
    std::fs::OpenOptions::new().write(true).open(folder.path().join(SINGLE)).unwrap().set_len(8192).unwrap();
    let error = checkpoint.load(|_, _| ()).expect_err("cut off");
    assert_says(&error, &["cannot read", &folder.path().display().to_string(), SINGLE], "check the disk");
}
