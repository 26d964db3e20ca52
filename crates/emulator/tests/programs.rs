//! Right programs of many shapes give what the same computation gives in Rust.

mod support;

use cachalot_emulator::{Launch, Machine, Module, OutOfBoundsFill, Swizzle, TensorMap, TensorMapArgs, TensorMapType};
use support::{Params, module, to_bytes, to_words};

/// A module, a machine, and buffers as the kernels want them: the input counts up, the output is zeros.
struct Bench {
    machine: Machine,
    module: Module,
    input: u64,
    output: u64,
}

const INPUT_WORDS: u32 = 16_384;
const OUTPUT_WORDS: usize = 16_384;

/// Blocks and threads in x, y and z, blocks of a cluster, and bytes of dynamic shared memory.
#[derive(Clone, Copy)]
struct Shape {
    grid: [u32; 3],
    block: [u32; 3],
    cluster: u32,
    shared_bytes: u32,
}

fn shape(num_blocks: u32, num_threads: u32) -> Shape {
    Shape { grid: [num_blocks, 1, 1], block: [num_threads, 1, 1], cluster: 1, shared_bytes: 0 }
}

impl Bench {
    fn new(file: &str) -> Bench {
        let machine = Machine::new(4);
        let input = machine.allocate(u64::from(4 * INPUT_WORDS)).unwrap();
        machine.write(input, &to_bytes(&Vec::from_iter(0..INPUT_WORDS))).unwrap();
        let output = machine.allocate(4 * OUTPUT_WORDS as u64).unwrap();
        Bench { machine, module: module(file), input, output }
    }

    fn launch(&self, kernel: &str, shape: Shape, params: &Params) {
        let kernel = self.module.kernel(kernel).unwrap_or_else(|| panic!("there is no kernel {kernel}"));
        let Shape { grid, block, cluster, shared_bytes } = shape;
        let launch = Launch { grid, block, cluster: [cluster, 1, 1], shared_bytes, params: &params.0 };
        if let Err(fault) = self.machine.launch(&kernel, launch) {
            panic!("{fault}");
        }
    }

    /// What `kernel(in, out)` writes.
    fn run(&self, kernel: &str, shape: Shape) -> Vec<u32> {
        self.machine.fill(self.output, 0, 4 * OUTPUT_WORDS as u64).unwrap();
        self.launch(kernel, shape, &Params::default().pointer(self.input).pointer(self.output));
        self.read(self.output, OUTPUT_WORDS)
    }

    fn read(&self, address: u64, words: usize) -> Vec<u32> {
        let mut bytes = vec![0; 4 * words];
        self.machine.read(address, &mut bytes).unwrap();
        to_words(&bytes)
    }

    fn check(&self, kernel: &str, shape: Shape, expected: &[u32]) {
        let found = self.run(kernel, shape);
        if let Some(at) = (0..expected.len()).find(|&at| found[at] != expected[at]) {
            panic!("{kernel}: word {at} is {}, not {}", found[at], expected[at]);
        }
        assert!(found[expected.len()..].iter().all(|&word| word == 0), "{kernel} writes too much");
    }
}

fn words(count: u32, f: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..count).map(f).collect()
}

#[test]
fn lanes_that_go_different_ways() {
    let bench = Bench::new("control");
    bench.check(
        "trip_counts",
        shape(3, 100),
        &words(300, |i| {
            let (mut x, mut steps) = (i, 0);
            if x == 13 {
                return 99;
            }
            while x > 1 {
                steps += 1;
                if x % 2 == 1 {
                    x = 3 * x + 1;
                    continue;
                }
                x /= 2;
                if steps > 60 {
                    break;
                }
            }
            1000 * steps + x
        }),
    );

    let value = |i: u32| {
        let lane = i % 32;
        match lane {
            _ if lane % 4 == 3 => (0..lane).fold(i, |value, k| value.wrapping_add(k ^ value)),
            _ if lane % 2 == 1 => 3 * i,
            _ if lane.is_multiple_of(3) => i ^ 0x55,
            _ => (i + 7..).step_by(7).find(|value| value % 5 == 0).unwrap(),
        }
    };
    bench.check("nested_ways", shape(1, 96), &words(96, |i| value(i).wrapping_add(value(i ^ 5))));

    let mut extra = vec![0; 128];
    let mut expected = words(128, |i| i);
    for (value, extra) in expected.iter_mut().zip(&mut extra) {
        for _ in 0..3 {
            match *value % 13 {
                0 => *extra += *value,
                1 => *value = *value * 5 + 1,
                2 => *value ^= *value % 64,
                3 => *value = value.reverse_bits() >> 20,
                4 => *value = *value / 3 + *extra,
                5 => *value += *extra,
                6 => {
                    *value -= 2;
                    *extra += *value;
                }
                7 => *value = value.count_ones(),
                8 => *extra = 17,
                9 => *value += *value % 32 * 3,
                10 => *value = value.rotate_left(2),
                11 => *value = *extra ^ 5,
                _ => {}
            }
        }
    }
    expected.extend(extra);
    bench.check("choose", shape(1, 128), &expected);
    let by_table = |i: u32| match i % 3 {
        0 => i + 1000,
        1 => 7 * i + 1,
        _ => i + 1,
    };
    bench.check("choose_by_table", shape(1, 128), &words(128, by_table));

    bench.check("lane_lock", shape(3, 64), &[0, 3 * (0..64).sum::<u32>()]);
}

#[test]
fn blocks_and_grids_of_all_shapes() {
    let bench = Bench::new("control");
    let shape_3d = Shape { grid: [3, 2, 4], block: [5, 3, 2], cluster: 1, shared_bytes: 0 };
    let mut expected = Vec::new();
    for [block, thread] in (0..24).flat_map(|block| (0..30).map(move |thread| [block, thread])) {
        let [x, y, z] = [block % 3, block / 3 % 2, block / 6];
        let [tx, ty, tz] = [thread % 5, thread / 5 % 3, thread / 15];
        expected.push(x | y << 4 | z << 8 | tx << 12 | ty << 18 | tz << 24);
    }
    bench.check("three_dimensions", shape_3d, &expected);

    for num in [1, 31, 32, 33, 257, 1000, 1024] {
        let expected: Vec<u32> = (0..num).flat_map(|i| [(num + 1) / 3, 1, 0, num - 1 - i]).collect();
        bench.check("votes_of_a_block", shape(1, num), &expected);
    }

    let primes = [2, 3, 5, 7, 11, 13, 17, 19];
    let with_shared = Shape { shared_bytes: 512, ..shape(1, 64) };
    for call in 0..3 {
        let mut expected = words(64, |i| {
            let other = 63 - i;
            other % 40 + 100 * primes[other as usize % 8] + 10_000 * (2 * (other % 4) + 1) + 100_000 * other
        });
        expected.push(call);
        bench.check("kinds_of_memory", with_shared, &expected);
    }
}

#[test]
fn lanes_that_work_together() {
    let bench = Bench::new("control");
    let value = |lane: u32| 10 * lane;
    let row = |lane: u32| {
        let sum = (0..32).map(value).sum::<u32>();
        [
            value(lane / 8 * 8 + 3),
            value(if lane % 16 < 2 { lane } else { lane - 2 }),
            value(if lane % 8 > 4 { lane } else { lane + 3 }),
            // Of an earlier segment a lane may read, of a later one not.
            value(if lane ^ 12 <= lane | 7 { lane ^ 12 } else { lane }),
            value(lane ^ 12),
            (0..32).filter(|lane| lane % 3 == 0).map(|lane| 1 << lane).sum(),
            1,
            (0..32).filter(|other| other % 4 == lane % 4).map(|lane| 1 << lane).sum(),
            sum + 310,
            match lane {
                0..15 => value(lane + 1) + 12,
                15 => value(15) + 12,
                _ => value(16),
            },
        ]
    };
    bench.check("shuffles", shape(1, 32), &Vec::from_iter((0..32).flat_map(row)));
    let group = |i: u32| (i / 32 * 32..i / 32 * 32 + 32).filter(move |other| other * other % 7 == i * i % 7);
    let expected = words(64, |i| match group(i).next() {
        Some(first) if first < i => first,
        _ => group(i).sum(),
    });
    bench.check("groups_of_lanes", shape(1, 64), &expected);
    bench.check(
        "local_array",
        shape(1, 50),
        &words(50, |thread| {
            let mut values = words(12, |i| (thread * 31 + i * 17) % 97);
            values.sort_unstable();
            values.iter().fold(0, |mixed: u32, value| mixed.wrapping_mul(97).wrapping_add(*value))
        }),
    );
}

#[test]
fn blocks_that_share_global_memory() {
    let bench = Bench::new("control");
    let mut counts = vec![0; 16];
    for value in 0..37 * 128 {
        counts[value * 7 % 16 * (value % 3) % 16] += 1;
    }
    bench.check("histogram", shape(37, 128), &counts);

    let values = 0..13 * 96u32;
    let sum: u64 = values.clone().map(|value| u64::from(value) << 24).sum();
    let float_sum = values.clone().map(|value| (value % 100) as f32).sum::<f32>();
    let expected = [
        float_sum.to_bits(),
        99f32.to_bits(),
        sum as u32,
        (sum >> 32) as u32,
        // −5000 and more: none is larger than the 0 that is there.
        0,
        (1 << 20) - 1,
    ];
    bench.check("atomics", shape(13, 96), &expected);

    let mut expected = vec![0, (0..64 * 40).sum::<u32>()];
    expected.extend(words(40, |block| (64 * block..64 * block + 64).sum()));
    bench.check("last_block", shape(40, 64), &expected);
}

#[test]
fn warps_and_blocks_with_tasks_of_their_own() {
    let bench = Bench::new("pipelines");
    bench.check(
        "producer_and_consumers",
        shape(2, 160),
        &words(128, |thread| {
            (0..20).fold(0u32, |sum, tile| sum.wrapping_mul(3).wrapping_add(128 * tile + (thread + tile) % 128))
        }),
    );
    bench.check(
        "copies_that_arrive",
        shape(2, 96),
        &words(64, |thread| (0..9).fold(0, |sum, tile| sum * 3 + 128 * tile + 127 - thread)),
    );
    bench.check(
        "pairs_of_warps",
        shape(1, 128),
        &words(64, |thread| (0..6).fold(0, |sum, step| sum * 5 + 64 * step + 63 - thread)),
    );
    for num_blocks in [2, 4] {
        let expected = words(64 * 8, |i| {
            let (block, thread) = (i / 64, i % 64);
            let first = block / num_blocks * num_blocks;
            let others = (1..num_blocks).map(|step| {
                let other = first + (block + step) % num_blocks;
                step * (64 * other + 63 - thread)
            });
            1000 * thread + others.sum::<u32>()
        });
        bench.check("cluster_sum", Shape { cluster: num_blocks, ..shape(8, 64) }, &expected);
    }
    let expected = words(8 * 32, |i| i / 32 * 32 + 31 - i % 32);
    bench.check("cluster_arrivals", Shape { cluster: 4, ..shape(8, 32) }, &expected);
    bench.check("copy_with_zeros", shape(1, 32), &words(128, |i| if i % 4 < i / 4 % 5 { i } else { 0 }));
    bench.check("transpose", shape(1, 32), &words(256, |i| i % 16 * 16 + i / 16));
}

#[test]
fn products_of_a_warp_group() {
    let bench = Bench::new("pipelines");
    let value = |i: usize| ((i * 7 + i / 8 * 3) % 11) as f32 - 5.0;
    let packed: Vec<u32> = (0..576).map(|i| value(2 * i).to_bits() >> 16 | value(2 * i + 1).to_bits()).collect();
    let input = bench.machine.allocate(4 * 576).unwrap();
    bench.machine.write(input, &to_bytes(&packed)).unwrap();
    let output = bench.machine.allocate(4 * 512).unwrap();
    bench.launch("products", shape(1, 128), &Params::default().pointer(input).pointer(output));
    let product =
        |row: usize, column: usize| (0..16).map(|k| value(16 * row + k) * value(1024 + 16 * column + k)).sum::<f32>();
    let expected: Vec<u32> = (0..512).map(|i| (2.0 * product(i / 8, i % 8)).to_bits()).collect();
    assert_eq!(bench.read(output, 512), expected);
}

/// A tensor of words, the innermost dimension first, whose rows lie `row_bytes` apart and whose planes follow each other.
fn tensor_map(address: u64, sizes: &[u64], row_bytes: u64, box_dims: &[u32], swizzle: Swizzle) -> Params {
    let strides = [row_bytes, row_bytes * sizes.get(1).copied().unwrap_or(1)];
    let args = TensorMapArgs {
        data_type: TensorMapType::U32,
        global_address: address,
        global_dims: sizes,
        global_strides: &strides[..sizes.len() - 1],
        box_dims,
        element_strides: &[1, 1, 1][..sizes.len()],
        swizzle,
        fill: OutOfBoundsFill::Zero,
    };
    Params(TensorMap::new(&args).unwrap().to_bytes().to_vec())
}

#[test]
fn boxes_of_tensors() {
    let bench = Bench::new("pipelines");
    let Bench { machine, input, output, .. } = &bench;
    // 40 words of each row of 44, and 20 rows.
    let (columns, rows, row_words) = (40, 20, 44);
    let copy = machine.allocate(4 * 44 * 20).unwrap();
    for (kernel, width, swizzle) in [
        ("copy_box_32", 8, Swizzle::None),
        ("copy_box_32", 8, Swizzle::B32),
        ("copy_box_64", 16, Swizzle::B64),
        ("copy_box_128", 32, Swizzle::B128),
    ] {
        for (x, y) in [(0, 0), (4, 3), (-5, -2), (36, 17), (9, 15), (100, 3)] {
            machine.fill(copy, 0xff, 4 * 44 * 20).unwrap();
            let map = |address| tensor_map(address, &[columns, rows], 4 * row_words, &[width, 8], swizzle);
            let params = map(*input).bytes(&map(copy).0, 64);
            let params = params.bytes(&i32::to_le_bytes(x), 4).bytes(&i32::to_le_bytes(y), 4).pointer(*output);
            bench.launch(kernel, shape(1, 64), &params);

            let is_inside = |x: i64, y: i64| (0..columns as i64).contains(&x) && (0..rows as i64).contains(&y);
            let at = |x: i64, y: i64| (y * row_words as i64 + x) as u32;
            let tile = bench.read(*output, 8 * width as usize);
            for (row, column) in (0..8).flat_map(|row| (0..width).map(move |column| (row, column))) {
                // Sixteen-byte pieces of a row trade places; which, the number of the 128 bytes says.
                let line = row * width * 4 / 128;
                let piece = (column / 4) ^ (line % (width / 4) * u32::from(swizzle != Swizzle::None));
                let found = tile[(row * width + 4 * piece + column % 4) as usize];
                let (x, y) = (i64::from(x) + i64::from(column), i64::from(y) + i64::from(row));
                assert_eq!(found, if is_inside(x, y) { at(x, y) } else { 0 }, "{kernel} {swizzle:?} at {x}, {y}");
            }
            let expected = words(44 * 20, |i| {
                let (column, row) = (i64::from(i % 44), i64::from(i / 44));
                let is_in_box = (i64::from(x)..i64::from(x) + i64::from(width)).contains(&column)
                    && (i64::from(y)..i64::from(y) + 8).contains(&row);
                if is_in_box && is_inside(column, row) { i } else { u32::MAX }
            });
            assert_eq!(bench.read(copy, 44 * 20), expected, "{kernel} {swizzle:?} at {x}, {y}");
        }
    }

    // Three dimensions: planes of 5 rows of 8 words, of which 7 count.
    for [x, y, z] in [[0, 0, 0], [3, 2, 1], [-1, -1, -1], [5, 4, 2]] {
        let copy = machine.allocate(4 * 8 * 5 * 3).unwrap();
        machine.fill(copy, 0xff, 4 * 8 * 5 * 3).unwrap();
        let map = |address| tensor_map(address, &[7, 5, 3], 32, &[4, 3, 2], Swizzle::None);
        let mut params = map(*input).bytes(&map(copy).0, 64);
        for coordinate in [x, y, z] {
            params = params.bytes(&i32::to_le_bytes(coordinate), 4);
        }
        bench.launch("change_box", shape(1, 32), &params);
        let expected = words(8 * 5 * 3, |i| {
            let place = [i as i32 % 8, i as i32 / 8 % 5, i as i32 / 40];
            let is_in_box = place[0] < 7
                && (x..x + 4).contains(&place[0])
                && (y..y + 3).contains(&place[1])
                && (z..z + 2).contains(&place[2]);
            if is_in_box { i + 1000 } else { u32::MAX }
        });
        assert_eq!(bench.read(copy, 8 * 5 * 3), expected, "at {x}, {y}, {z}");
    }

    let map = tensor_map(*input, &[16, 32], 64, &[8, 8], Swizzle::None);
    let params = map.pointer(*output);
    bench.launch("multicast", Shape { cluster: 2, ..shape(4, 128) }, &params);
    let expected = words(4 * 128, |i| {
        let (block, half, row, column) = (i / 128, i / 64 % 2, i / 8 % 8, i % 8);
        (8 * (block / 2) + row) * 16 + 8 * half + column
    });
    assert_eq!(bench.read(*output, 4 * 128), expected);
    let launch = Launch { grid: [4, 1, 1], block: [128, 1, 1], cluster: [1, 1, 1], shared_bytes: 0, params: &params.0 };
    let fault = machine.launch(&bench.module.kernel("multicast").unwrap(), launch).unwrap_err();
    assert!(fault.to_string().contains("the kernel is compiled for [2, 1, 1]"), "{fault}");
}
