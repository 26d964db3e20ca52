//! Copies of boxes, element by element, against coordinates; and what is refused.

use super::pieces::Piece;
use super::*;
use crate::mma::testing::Random;

fn args<'a>() -> TensorMapArgs<'a> {
    TensorMapArgs {
        data_type: TensorMapType::Bf16,
        global_address: 0x1000,
        global_dims: &[100, 30],
        global_strides: &[256],
        box_dims: &[64, 8],
        element_strides: &[1, 1],
        swizzle: Swizzle::B128,
        fill: OutOfBoundsFill::Zero,
    }
}

fn new(args: &TensorMapArgs<'_>) -> TensorMap {
    TensorMap::new(args).unwrap_or_else(|error| panic!("{error}"))
}

/// Where byte `offset` of a box lies in shared memory, from the table of the CUDA programming guide: in the 128 bytes
/// number `y` of shared memory, sixteen bytes number `x` of a line of `width` trade places with number `x ^ y % (width / 16)`.
fn swizzled(width: u32, address: u32) -> u32 {
    let (y, x) = (address / 128, address / 16 % 8);
    let chunks = width / 16;
    let x = x / chunks * chunks + ((x % chunks) ^ (y % chunks));
    y * 128 + x * 16 + address % 16
}

/// The global address of every element of the box in the order in which they lie in shared memory before swizzling.
fn elements(map: &TensorMapArgs<'_>, start: &[i32]) -> Vec<Option<u64>> {
    let rank = start.len();
    let mut elements = Vec::new();
    let mut index = vec![0; rank];
    loop {
        let mut address = Some(map.global_address);
        for i in 0..rank {
            let coordinate = i64::from(start[i]) + index[i];
            let stride = if i == 0 { u64::from(map.data_type.bytes()) } else { map.global_strides[i - 1] };
            let inside = coordinate >= 0 && coordinate < map.global_dims[i] as i64;
            address = address.filter(|_| inside).map(|address| address + coordinate as u64 * stride);
        }
        elements.push(address);
        let mut dimension = 0;
        loop {
            index[dimension] += if dimension == 0 { 1 } else { i64::from(map.element_strides[dimension]) };
            if index[dimension] < i64::from(map.box_dims[dimension]) {
                break;
            }
            index[dimension] = 0;
            dimension += 1;
            if dimension == rank {
                return elements;
            }
        }
    }
}

/// Compares the pieces of the box at `start` with [`elements`].
fn check(map: &TensorMapArgs<'_>, start: &[i32], base: u32) {
    let context = format!("{map:?} at {start:?}");
    let tensor_map = new(map);
    let size = map.data_type.bytes();
    let expected = elements(map, start);
    assert_eq!(tensor_map.box_bytes() as usize, expected.len() * size as usize, "{context}");
    // What lies at each element's place in shared memory: `None` as long as no piece covers it.
    let mut found = vec![None; expected.len()];
    for piece in tensor_map.pieces(start, base).unwrap_or_else(|error| panic!("{error}")) {
        assert!((1..=16).contains(&piece.bytes) && piece.bytes.is_multiple_of(size), "{context}: {piece:?}");
        for offset in (0..piece.bytes).step_by(size as usize) {
            let place = &mut found[((piece.shared_offset + offset) / size) as usize];
            assert_eq!(*place, None, "{context}: {piece:?} covers a place twice");
            *place = Some(piece.global.map(|address| address + u64::from(offset)));
        }
    }
    for (i, expected) in expected.into_iter().enumerate() {
        let width = if map.swizzle == Swizzle::None { 16 } else { map.swizzle.bytes() };
        let place = swizzled(width, base + i as u32 * size) - base;
        assert_eq!(found[(place / size) as usize], Some(expected), "{context}: element {i} of the box");
    }
}

#[test]
fn a_box_inside_and_over_every_edge() {
    for swizzle in [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128] {
        for fp8 in [false, true] {
            let size = if fp8 { 1 } else { 2 };
            let inner = if swizzle == Swizzle::None { 48 } else { swizzle.bytes() };
            let args = TensorMapArgs {
                data_type: if fp8 { TensorMapType::U8 } else { TensorMapType::Bf16 },
                box_dims: &[inner / size, 10],
                swizzle,
                ..args()
            };
            for x in [0, 3, -1, -7, 70, 95, 99, 100, 2000, -2000, i32::MIN, i32::MAX] {
                for y in [0, 5, -4, 25, 30, -10, i32::MIN, i32::MAX] {
                    // The pattern hangs on the address, also where the box begins in the middle of it.
                    for base in [0x400, 0x780] {
                        check(&args, &[x, y], base);
                    }
                }
            }
        }
    }
}

#[test]
fn every_rank_at_random() {
    let mut random = Random(6);
    for rank in 1..=5 {
        for _ in 0..60 {
            let mut pick = |low, high| random.range(low, high);
            let dims: Vec<u64> = (0..rank).map(|_| pick(1, 12) as u64).collect();
            let strides: Vec<u64> = (1..rank).map(|i| 16 * pick(6, 9) as u64 * 12u64.pow(i as u32 - 1)).collect();
            let mut spans: Vec<u32> = (0..rank).map(|_| pick(1, 4) as u32).collect();
            spans[0] = 4 * pick(1, 2) as u32;
            let steps: Vec<u32> = (0..rank).map(|_| pick(1, 3) as u32).collect();
            let start: Vec<i32> = (0..rank).map(|_| pick(-5, 12) as i32).collect();
            let args = TensorMapArgs {
                data_type: TensorMapType::F32,
                global_dims: &dims,
                global_strides: &strides,
                box_dims: &spans,
                element_strides: &steps,
                swizzle: if spans[0] == 8 { Swizzle::B32 } else { Swizzle::None },
                ..args()
            };
            check(&args, &start, 128 * pick(0, 20) as u32);
        }
    }
}

#[test]
fn the_place_of_one_piece_under_a_swizzle() {
    // Row 3, elements 16 to 23 of 64: the third of eight pieces, and 2 ^ 3 is 1.
    let map = new(&args());
    let piece = map.pieces(&[0, 0], 2048).expect("two coordinates").nth(3 * 8 + 2).expect("64 pieces");
    assert_eq!(piece, Piece { shared_offset: 3 * 128 + 16, bytes: 16, global: Some(0x1000 + 3 * 256 + 32) });
}

#[test]
fn a_piece_is_split_where_the_tensor_ends() {
    let args = TensorMapArgs { global_dims: &[3, 30], ..args() };
    let pieces: Vec<Piece> = new(&args).pieces(&[-2, 0], 0).expect("two coordinates").take(3).collect();
    let expected = [(0, 4, None), (4, 6, Some(0x1000)), (10, 6, None)];
    assert_eq!(pieces, expected.map(|(shared_offset, bytes, global)| Piece { shared_offset, bytes, global }));
}

#[test]
fn wrong_coordinates_and_addresses_are_refused() {
    let map = new(&args());
    let error = |start: &[i32], address| map.pieces(start, address).map(|_| ()).expect_err("refused");
    assert!(error(&[0], 0).contains("1 coordinates for a tensor map of rank 2"));
    assert!(error(&[0, 0], 0x440 - 0x20).contains("0x420"));
}

#[test]
fn what_is_outside_the_tensor_is_filled() {
    let fill = |data_type, fill| new(&TensorMapArgs { data_type, fill, swizzle: Swizzle::None, ..args() }).fill_bytes();
    assert_eq!(fill(TensorMapType::S32, OutOfBoundsFill::Zero), [0; 16]);
    let bf16 = fill(TensorMapType::Bf16, OutOfBoundsFill::Nan);
    assert!(bf16.chunks(2).all(|bytes| half::bf16::from_le_bytes([bytes[0], bytes[1]]).is_nan()));
    let f64_bytes = fill(TensorMapType::F64, OutOfBoundsFill::Nan);
    assert!(f64_bytes.as_chunks().0.iter().all(|bytes| f64::from_le_bytes(*bytes).is_nan()));
}

#[test]
fn each_rule_refuses_by_name() {
    let good = args();
    let five = &[2u64; 6];
    for (wrong, named) in [
        (TensorMapArgs { global_dims: &[], ..good }, "rank 0"),
        (TensorMapArgs { global_dims: five, ..good }, "rank 6"),
        (TensorMapArgs { global_strides: &[], ..good }, "global_strides has 0"),
        (TensorMapArgs { box_dims: &[64], ..good }, "box_dims has 1"),
        (TensorMapArgs { element_strides: &[1, 1, 1], ..good }, "element_strides has 3"),
        (TensorMapArgs { global_address: 0x1008, ..good }, "0x1008"),
        (TensorMapArgs { global_dims: &[100, 0], ..good }, "global_dims[1] is 0"),
        (TensorMapArgs { global_dims: &[(1 << 32) + 1, 30], ..good }, "global_dims[0] is 4294967297"),
        (TensorMapArgs { global_strides: &[200], ..good }, "global_strides[0] is 200"),
        (TensorMapArgs { global_strides: &[1 << 40], ..good }, "global_strides[0] is 1099511627776"),
        (TensorMapArgs { box_dims: &[64, 0], ..good }, "box_dims[1] is 0"),
        (TensorMapArgs { box_dims: &[64, 257], ..good }, "box_dims[1] is 257"),
        (TensorMapArgs { element_strides: &[1, 9], ..good }, "element_strides[1] is 9"),
        (TensorMapArgs { element_strides: &[0, 1], ..good }, "element_strides[0] is 0"),
        (TensorMapArgs { box_dims: &[60, 8], swizzle: Swizzle::None, ..good }, "120 bytes"),
        (TensorMapArgs { box_dims: &[128, 8], ..good }, "CUDA refuses more"),
        (TensorMapArgs { box_dims: &[32, 8], ..good }, "does not know less"),
        (TensorMapArgs { data_type: TensorMapType::U16, fill: OutOfBoundsFill::Nan, ..good }, "U16"),
        (TensorMapArgs { global_address: u64::MAX - 15, ..good }, "last address"),
        (
            TensorMapArgs {
                global_dims: &[100; 3],
                global_strides: &[256, 25600],
                box_dims: &[64, 256, 9],
                element_strides: &[1; 3],
                ..good
            },
            "294912 bytes",
        ),
    ] {
        let error = TensorMap::new(&wrong).expect_err(named);
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn bytes_come_back_as_the_same_map() {
    let types = [
        TensorMapType::U8,
        TensorMapType::U16,
        TensorMapType::U32,
        TensorMapType::S32,
        TensorMapType::U64,
        TensorMapType::S64,
        TensorMapType::F16,
        TensorMapType::F32,
        TensorMapType::F64,
        TensorMapType::Bf16,
    ];
    for data_type in types {
        for swizzle in [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128] {
            let inner = swizzle.bytes() / data_type.bytes();
            let map = new(&TensorMapArgs {
                data_type,
                global_address: 0x7f12_3456_7890,
                global_dims: &[1 << 32, 2, 3, 4, 5],
                global_strides: &[(1 << 40) - 16, 16, 32, 48],
                box_dims: &[inner, 256, 1, 2, 1],
                element_strides: &[1, 8, 1, 2, 1],
                swizzle,
                ..args()
            });
            assert_eq!(TensorMap::from_bytes(&map.to_bytes()), Some(map));
        }
    }
    let nan = new(&TensorMapArgs { fill: OutOfBoundsFill::Nan, ..args() });
    assert_eq!(TensorMap::from_bytes(&nan.to_bytes()), Some(nan));
}

#[test]
fn garbage_is_no_tensor_map() {
    assert_eq!(TensorMap::from_bytes(&[0; 128]), None);
    assert_eq!(TensorMap::from_bytes(&[0xff; 128]), None);
    let good = new(&args()).to_bytes();
    // The magic number, the rank, the enumerations, a box of another size, and what lies behind the last dimension.
    for (at, byte) in [(0, 0), (16, 0), (16, 6), (17, 10), (18, 4), (19, 2), (32, 200), (127, 1)] {
        let mut bytes = good;
        bytes[at] = byte;
        assert_eq!(TensorMap::from_bytes(&bytes), None, "byte {at}");
    }
}
