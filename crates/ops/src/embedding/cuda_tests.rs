//! The GPU's kernel: every row is copied to the bit, and nothing beside them.

use cachalot_tensor::{Buffer, DType};
use cachalot_testkit::Random;
use half::bf16;

use super::cuda::{Embedding, EmbeddingKernel, embedding};
use crate::test_gpu::{TestGpu, bf16s};

const GAP: usize = 8;

#[test]
fn rows_are_copied_and_padding_keeps_its_row() {
    let device = TestGpu::new();
    let kernel = EmbeddingKernel::new(&device.gpu).expect("the kernel");
    for ([vocab_size, hidden_size], ids) in [
        ([5, 8], vec![]),
        ([1, 8], vec![0]),
        ([5, 0], vec![1]),
        ([5, 264], vec![4, 0, -1, 4, 2, 5, i32::MAX, i32::MIN]),
        ([3, 7168], vec![2, -1, 1]),
    ] {
        let table = bf16s(&Random::new(1).gaussian(vocab_size * hidden_size));
        let mark = bf16::from_f32(-77.0);
        let row = |id: &i32| match usize::try_from(*id) {
            Ok(id) if id < vocab_size => table[id * hidden_size..][..hidden_size].to_vec(),
            _ => vec![mark; hidden_size],
        };
        let expected: Vec<bf16> = ids.iter().flat_map(row).collect();
        let shape = [ids.len(), hidden_size];
        let table = device.strided([vocab_size, hidden_size], GAP, &table, bf16::NAN);
        let mut out = device.strided(shape, GAP, &vec![mark; ids.len() * hidden_size], bf16::NAN);
        let ids = device.filled([ids.len()], &ids);
        let args = Embedding { ids: ids.view(), table: table.view(), out: out.view_mut() };
        embedding(&device.stream, &kernel, args).expect("valid arguments");
        assert_eq!(device.read_strided(&out), expected, "{shape:?}");
    }
}

#[test]
fn refusals_name_the_argument() {
    let device = TestGpu::new();
    let kernel = EmbeddingKernel::new(&device.gpu).expect("the kernel");
    let refusal = |ids: &Buffer, table: &Buffer, mut out: Buffer| {
        let args = Embedding { ids: ids.view(), table: table.view(), out: out.view_mut() };
        embedding(&device.stream, &kernel, args).expect_err("refused").to_string()
    };
    let (ids, table) = (device.unwritten(DType::I32, [2]), device.unwritten(DType::BF16, [3, 16]));
    let bf16 = |shape: [usize; 2]| device.unwritten(DType::BF16, shape);
    assert_eq!(refusal(&ids, &table, bf16([3, 16])), "embedding: `num_tokens` is 3 in `out`, 2 in `ids`");
    assert_eq!(refusal(&ids, &table, bf16([2, 8])), "embedding: `hidden_size` is 8 in `out`, 16 in `table`");
    assert_eq!(
        refusal(&ids, &bf16([3, 12]), bf16([2, 12])),
        "embedding: `hidden_size` of 12 is not supported; supported: multiples of 8"
    );
    let floats = device.unwritten(DType::F32, [2]);
    assert_eq!(refusal(&floats, &table, bf16([2, 16])), "embedding: `ids` of F32 is not supported; supported: I32");
}
