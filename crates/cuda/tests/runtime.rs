//! Memory, streams, events, graphs and launches, on the emulator and, where there is one, on a GPU.
#![cfg(feature = "cuda")]

use cachalot_cuda::{
    Address, Error, Gpu, GraphBuckets, Kernel, Launch, Result, Stream, Swizzle, TensorMapArgs, params,
};
use cachalot_tensor::{Buffer, DType, Shape};

params! {
    /// Arguments of `affine_i32`.
    struct AffineParams: 24 {
        /// `[num_elements]`
        x: Address = 0,
        /// Number of elements.
        num_elements: i64 = 8,
        /// Factor.
        scale: i32 = 16,
        /// Added afterwards.
        offset: i32 = 20,
    }
}

params! {
    /// Arguments of `block_sum_i32`.
    struct BlockSumParams: 16 {
        /// `[grid, block]`
        x: Address = 0,
        /// `[grid]`
        out: Address = 8,
    }
}

const MODULE: &str = "runtime_test/affine";

/// The emulator, and a GPU if this machine has one that the kernels were compiled for.
fn gpus() -> Vec<Gpu> {
    let mut gpus = vec![Gpu::emulated(1 << 20).unwrap()];
    match Gpu::open(0, 1 << 20) {
        Ok(gpu) if gpu.kernel::<AffineParams>(MODULE, "affine_i32").is_ok() => gpus.push(gpu),
        Ok(_) | Err(Error::NoDriver { .. } | Error::NoDevice { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    gpus
}

/// `x = x * scale + offset` on integers: two of these do not commute, so their order shows.
struct Affine {
    kernel: Kernel<AffineParams>,
    x: Buffer,
}

impl Affine {
    fn new(gpu: &Gpu, stream: &Stream, values: &[i32]) -> Affine {
        let mut x = gpu.alloc(DType::I32, [values.len()]).unwrap();
        stream.upload(&mut x, values).unwrap();
        Affine { kernel: gpu.kernel(MODULE, "affine_i32").unwrap(), x }
    }

    fn launch(&self, stream: &Stream, scale: i32, offset: i32) -> Result<()> {
        let num_elements = self.x.shape().num_elements();
        let launch = Launch::new([num_elements.div_ceil(128) as u32, 1, 1], [128, 1, 1]);
        let params = AffineParams { x: self.x.view().address(), num_elements: num_elements as i64, scale, offset };
        stream.launch(&self.kernel, launch, &params)
    }

    fn values(&self, stream: &Stream) -> Vec<i32> {
        stream.to_vec(&self.x).unwrap()
    }
}

#[test]
fn launches_of_a_stream_happen_in_order() {
    for gpu in gpus() {
        let stream = gpu.stream().unwrap();
        let values: Vec<i32> = (0..300).collect();
        let affine = Affine::new(&gpu, &stream, &values);
        affine.launch(&stream, 2, 0).unwrap();
        affine.launch(&stream, 1, 3).unwrap();
        affine.launch(&stream, 5, 0).unwrap();
        stream.synchronize().unwrap();
        let expected: Vec<i32> = values.iter().map(|x| (x * 2 + 3) * 5).collect();
        assert_eq!(affine.values(&stream), expected, "{}", gpu.info());
    }
}

#[test]
fn a_kernel_can_use_more_than_48_kib_of_shared_memory() {
    for gpu in gpus() {
        let stream = gpu.stream().unwrap();
        let kernel = gpu.kernel::<BlockSumParams>(MODULE, "block_sum_i32").unwrap();
        let mut x = gpu.alloc(DType::I32, [3, 256]).unwrap();
        let mut out = gpu.alloc(DType::I32, [3]).unwrap();
        stream.upload(&mut x, &(0..768).collect::<Vec<i32>>()).unwrap();
        let params = BlockSumParams { x: x.view().address(), out: out.view_mut().address() };
        let launch = Launch::new([3, 1, 1], [256, 1, 1]).shared_bytes(100 << 10);
        stream.launch(&kernel, launch, &params).unwrap();
        let expected: Vec<i32> = (0..3).map(|row| (row * 256..(row + 1) * 256).sum()).collect();
        assert_eq!(stream.to_vec::<i32>(&out).unwrap(), expected, "{}", gpu.info());
        let too_much = stream.launch(&kernel, launch.shared_bytes(kernel.max_dynamic_shared_bytes() + 1), &params);
        assert!(too_much.unwrap_err().to_string().contains("of dynamic shared memory can be had"));
    }
}

#[test]
fn an_event_orders_two_streams() {
    for gpu in gpus() {
        let (first, second) = (gpu.stream().unwrap(), gpu.stream().unwrap());
        let affine = Affine::new(&gpu, &first, &[1; 100]);
        let (start, middle, end) = (gpu.event().unwrap(), gpu.event().unwrap(), gpu.event().unwrap());
        first.record(&start).unwrap();
        affine.launch(&first, 1, 1).unwrap();
        first.record(&middle).unwrap();
        second.wait(&middle).unwrap();
        affine.launch(&second, 10, 0).unwrap();
        second.record(&end).unwrap();
        first.wait(&end).unwrap();
        affine.launch(&first, 1, 2).unwrap();
        assert_eq!(affine.values(&first), [22; 100], "{}", gpu.info());
        end.synchronize().unwrap();
        let elapsed = end.elapsed_ms_since(&start).unwrap();
        assert_eq!(elapsed.is_none(), gpu.is_emulated());
        assert!(elapsed.is_none_or(|elapsed| elapsed > 0.0), "{elapsed:?}");
    }
}

#[test]
fn a_graph_does_nothing_when_captured_and_everything_when_replayed() {
    for gpu in gpus() {
        let stream = gpu.stream().unwrap();
        let mut affine = Affine::new(&gpu, &stream, &[1, 2, 3]);
        let mut copy = gpu.alloc(DType::I32, [3]).unwrap();
        let graph = stream
            .capture("a step", |stream| {
                affine.launch(stream, 3, 0)?;
                affine.launch(stream, 1, 1)?;
                stream.copy(&mut copy, &affine.x)
            })
            .unwrap();
        assert_eq!(affine.values(&stream), [1, 2, 3]);
        stream.replay(&graph).unwrap();
        assert_eq!(stream.to_vec::<i32>(&copy).unwrap(), [4, 7, 10]);
        stream.upload(&mut affine.x, &[0, 0, 10]).unwrap();
        stream.replay(&graph).unwrap();
        stream.replay(&graph).unwrap();
        assert_eq!(stream.to_vec::<i32>(&copy).unwrap(), [4, 4, 94]);
        let fill = stream.capture("fill", |stream| stream.fill(&mut copy, 0xff)).unwrap();
        stream.replay(&fill).unwrap();
        assert_eq!(stream.to_vec::<i32>(&copy).unwrap(), [-1; 3]);
    }
}

#[test]
fn a_capture_takes_in_the_streams_that_wait_for_it() {
    for gpu in gpus() {
        let (first, second) = (gpu.stream().unwrap(), gpu.stream().unwrap());
        let (one, two) = (Affine::new(&gpu, &first, &[1]), Affine::new(&gpu, &first, &[1]));
        let (fork, join) = (gpu.event().unwrap(), gpu.event().unwrap());
        let both = |stream: &Stream| {
            one.launch(stream, 2, 0)?;
            stream.record(&fork)?;
            second.wait(&fork)?;
            two.launch(&second, 3, 0)?;
            second.record(&join)?;
            one.launch(stream, 1, 1)?;
            stream.wait(&join)?;
            two.launch(stream, 1, 1)
        };
        let graph = first.capture("both", both).unwrap();
        assert_eq!((one.values(&first), two.values(&second)), (vec![1], vec![1]));
        first.replay(&graph).unwrap();
        assert_eq!((one.values(&first), two.values(&first)), (vec![3], vec![4]), "{}", gpu.info());

        let not_joined = first.capture("not joined", |stream| {
            stream.record(&fork)?;
            second.wait(&fork)?;
            two.launch(&second, 3, 0)
        });
        assert!(not_joined.is_err());
    }
}

#[test]
fn what_a_gpu_would_let_pass_is_an_error_on_the_emulator() {
    let gpu = Gpu::emulated(1 << 16).unwrap();
    let (stream, other) = (gpu.stream().unwrap(), gpu.stream().unwrap());
    let affine = Affine::new(&gpu, &stream, &[1]);
    let event = gpu.event().unwrap();
    assert!(stream.wait(&event).unwrap_err().to_string().contains("was not recorded"));

    let joined_too_early = stream.capture("joined too early", |stream| {
        stream.record(&event)?;
        other.wait(&event)?;
        other.record(&event)?;
        stream.wait(&event)?;
        affine.launch(&other, 3, 0)
    });
    assert!(joined_too_early.unwrap_err().to_string().contains("before its first stream waits"));
    // The failed capture has let go of both streams.
    affine.launch(&other, 3, 0).unwrap();
    assert_eq!(affine.values(&stream), [3]);

    let event_outside = gpu.event().unwrap();
    other.record(&event_outside).unwrap();
    let outside = stream.capture("outside", |stream| stream.wait(&event_outside));
    assert!(outside.unwrap_err().to_string().contains("that is not in it"));
}

#[test]
fn what_cannot_be_captured_is_named() {
    for gpu in gpus() {
        let stream = gpu.stream().unwrap();
        let mut x = gpu.alloc(DType::I32, [1]).unwrap();
        let upload = stream.capture("upload", |stream| stream.upload(&mut x, &[1])).unwrap_err();
        assert_eq!(upload.to_string(), "an upload cannot be captured in a graph: do it before the capture or after it");
        let download = stream.capture("download", |stream| stream.to_vec::<i32>(&x).map(drop)).unwrap_err();
        assert!(download.to_string().starts_with("a download cannot be captured"), "{download}");
        let waiting = stream.capture("waiting", Stream::synchronize).unwrap_err();
        assert!(waiting.to_string().starts_with("waiting for the stream cannot be captured"), "{waiting}");
        stream.upload(&mut x, &[7]).unwrap();
        assert_eq!(stream.to_vec::<i32>(&x).unwrap(), [7]);
    }
}

#[test]
fn the_smallest_bucket_with_room_is_taken() {
    let gpu = Gpu::emulated(1 << 16).unwrap();
    let stream = gpu.stream().unwrap();
    let mut buckets = GraphBuckets::default();
    for size in [8, 1, 4] {
        buckets.insert(size, stream.capture(&format!("{size} tokens"), |_| Ok(())).unwrap());
    }
    for (size, expected) in [(0, Some(1)), (1, Some(1)), (2, Some(4)), (5, Some(8)), (9, None)] {
        let found = buckets.at_least(size);
        assert_eq!(found.map(|(size, _)| size), expected);
        assert_eq!(found.map(|(_, graph)| graph.name().to_owned()), expected.map(|size| format!("{size} tokens")));
    }
}

#[test]
fn a_faulty_launch_names_kernel_shape_and_line() {
    let gpu = Gpu::emulated(1 << 16).unwrap();
    let stream = gpu.stream().unwrap();
    let affine = Affine::new(&gpu, &stream, &[1; 64]);
    let too_long = AffineParams { x: affine.x.view().address(), num_elements: 65, scale: 1, offset: 0 };
    let error = stream.launch(&affine.kernel, Launch::new([1, 1, 1], [128, 1, 1]), &too_long).unwrap_err().to_string();
    for part in
        ["`affine_i32` with grid [1, 1, 1], block [128, 1, 1]", "out of bounds", "kernels/runtime_test/affine.cu:"]
    {
        assert!(error.contains(part), "{error}");
    }
    let unwritten = gpu.alloc(DType::I32, [64]).unwrap();
    assert!(stream.to_vec::<i32>(&unwritten).unwrap_err().to_string().contains("uninitialised"));
}

#[test]
fn lookups_that_fail_list_what_there_is() {
    for gpu in gpus() {
        let module = gpu.kernel::<AffineParams>("runtime_test/nothing", "affine_i32").unwrap_err().to_string();
        assert!(module.contains("no kernel module `runtime_test/nothing`") && module.contains(MODULE), "{module}");
        let kernel = gpu.kernel::<AffineParams>(MODULE, "nothing").unwrap_err().to_string();
        assert!(kernel.contains("no kernel `nothing`") && kernel.contains("affine_i32"), "{kernel}");
        let params = gpu.kernel::<BlockSumParams>(MODULE, "affine_i32").unwrap_err().to_string();
        assert!(
            params.contains("`affine_i32` takes 24 bytes") && params.contains("BlockSumParams` has 16"),
            "{params}"
        );
    }
}

#[test]
fn things_of_two_gpus_do_not_mix() {
    let (one, other) = (Gpu::emulated(1 << 16).unwrap(), Gpu::emulated(1 << 16).unwrap());
    let stream = one.stream().unwrap();
    let foreign_stream = other.stream().unwrap();
    let affine = Affine::new(&other, &foreign_stream, &[1]);
    let graph = foreign_stream.capture("nothing", |_| Ok(())).unwrap();
    let event = other.event().unwrap();
    foreign_stream.record(&event).unwrap();
    for result in [affine.launch(&stream, 1, 1), stream.wait(&event), stream.record(&event), stream.replay(&graph)] {
        assert!(matches!(result, Err(Error::Order(_))), "{result:?}");
    }
}

#[test]
fn copies_check_dtype_length_and_gaps() {
    for gpu in gpus() {
        let stream = gpu.stream().unwrap();
        let mut x = gpu.alloc(DType::F32, [2, 4]).unwrap();
        let mut y = gpu.alloc(DType::F32, [2, 2]).unwrap();
        stream.upload(&mut x, &[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]).unwrap();
        assert_eq!(stream.to_vec::<f32>(x.view().rows(1..2).columns(1..3)).unwrap(), [6.0, 7.0]);
        stream.copy(y.view_mut().rows(1..2), x.view().rows(0..1).columns(2..4)).unwrap();
        assert_eq!(stream.to_vec::<f32>(y.view().rows(1..2)).unwrap(), [3.0, 4.0]);
        stream.upload_bytes(y.view_mut().rows(0..1), &[0; 8]).unwrap();
        assert_eq!(stream.to_vec::<f32>(&y).unwrap(), [0.0, 0.0, 3.0, 4.0]);
        let errors = [
            (stream.upload(&mut x, &[0_i32; 8]), "upload: the device holds F32, the host I32"),
            (stream.upload(&mut x, &[0_f32; 7]), "upload: [2, 4] of F32: these are 32 bytes and not 28"),
            (stream.to_vec::<f32>(x.view().columns(0..2)).map(drop), "its rows are 4 elements apart"),
            (stream.copy(&mut y, &x), "copy: [2, 2] of F32: these are 16 bytes and not 32"),
            (stream.fill(x.view_mut().columns(0..2), 0), "fill: [2, 2] of F32: its rows are 4 elements apart"),
        ];
        for (result, expected) in errors {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let mut empty = gpu.alloc(DType::F32, [0, 4]).unwrap();
        stream.upload::<f32>(&mut empty, &[]).unwrap();
        stream.fill(&mut empty, 1).unwrap();
        assert_eq!(stream.to_vec::<f32>(&empty).unwrap(), [0.0; 0]);
    }
}

#[test]
fn nothing_is_allocated_after_the_planning() {
    for gpu in gpus() {
        gpu.alloc(DType::U8, [1000]).unwrap();
        let (used, total) = gpu.arena_use();
        assert!((1000..2000).contains(&used) && total == 1 << 20, "{used} {total}");
        assert!(matches!(gpu.alloc(DType::U8, [1 << 20]), Err(Error::ArenaFull { .. })));
        gpu.seal();
        assert!(matches!(gpu.alloc(DType::U8, [1]), Err(Error::Sealed { wanted: 1 })));
    }
}

#[test]
fn a_tensor_map_that_tma_does_not_take_is_refused_in_words() {
    for gpu in gpus().into_iter().filter(|gpu| gpu.info().capability >= (9, 0)) {
        let x = gpu.alloc(DType::BF16, [64, 64]).unwrap();
        let args = TensorMapArgs { box_shape: Shape::new(&[16, 64]), swizzle: Swizzle::Bytes128 };
        let map = gpu.tensor_map(x.view(), &args).unwrap();
        assert!(cachalot_cuda::bytemuck::bytes_of(&map).iter().any(|&byte| byte != 0));
        for (view, args) in [
            (x.view().columns(1..64), args),
            (x.view(), TensorMapArgs { box_shape: Shape::new(&[16, 3]), ..args }),
            (x.view(), TensorMapArgs { box_shape: Shape::new(&[257, 64]), ..args }),
            (x.view(), TensorMapArgs { box_shape: Shape::new(&[16, 128]), ..args }),
        ] {
            let error = gpu.tensor_map(view, &args).unwrap_err();
            assert!(matches!(error, Error::TensorMap { .. }), "{error}");
            assert!(!error.to_string().contains("INVALID_VALUE"), "{error}");
        }
    }
}

#[test]
fn a_range_is_harmless_everywhere() {
    for gpu in gpus() {
        let _step = gpu.range("a step\0");
        let _inner = gpu.range("an op");
        gpu.stream().unwrap().synchronize().unwrap();
    }
}
