"""Times torch on the shapes of gpu-bench, under the same rules: data not in L2, one graph of launches, 15 rounds."""

import sys

import torch

COLD_BYTES = 256 << 20
LINEAR = [(2112, 7168), (24576, 1536), (32768, 512), (7168, 16384), (4096, 7168), (7168, 2048)]
NUM_TOKENS = [1, 8, 64, 128, 4096]


def measure(op, shape, variant, num_bytes, flops, make, launch):
    """Prints one row: `make()` gives one copy of the data, `launch(copy)` works on it."""
    num_copies = min(max(-(-COLD_BYTES // num_bytes), 2), 64)
    num_launches = max(num_copies, 16)
    try:
        copies = [make() for _ in range(num_copies)]
        cold = torch.empty(COLD_BYTES, dtype=torch.uint8, device="cuda")
        launch(copies[0])
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for index in range(num_launches):
                launch(copies[index % num_copies])
        graph.replay()
    except Exception as error:  # What this version of torch does not have is no failure of ours.
        print(f"{op:<17} {shape:<24} {variant:<18} not here: {str(error).splitlines()[0]}")
        return
    rounds = []
    for _ in range(15):
        cold.fill_(1)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        rounds.append(start.elapsed_time(end) * 1e3 / num_launches)
    rounds.sort()
    median, p90 = rounds[7], rounds[13]
    gbs, tflops = num_bytes / median / 1e3, flops / median / 1e6
    print(f"{op:<17} {shape:<24} {variant:<18} {median:>10.2f} {p90:>10.2f} {gbs:>8.0f} {tflops:>8.1f}", flush=True)


def bf16(*shape):
    return torch.randn(shape, dtype=torch.bfloat16, device="cuda")


def fp8(*shape):
    return bf16(*shape).to(torch.float8_e4m3fn)


def linear(m, n, k):
    shape, flops = f"{m}x{n}x{k}", 2 * m * n * k
    size = 2 * (m * k + n * k + m * n)
    measure("bf16 matmul", shape, "cuBLASLt", size, flops, lambda: (bf16(m, k), bf16(n, k)), lambda c: c[0] @ c[1].T)

    def scaled(x, weight, scale_x, scale_weight):
        return torch._scaled_mm(x, weight.T, scale_a=scale_x, scale_b=scale_weight, out_dtype=torch.bfloat16)

    def ones(*shape):
        return torch.ones(shape, device="cuda")

    size = m * k + n * k + 2 * m * n
    rows = lambda: (fp8(m, k), fp8(n, k), ones(m, 1), ones(1, n))
    measure("_scaled_mm", shape, "FP8 by rows", size, flops, rows, lambda c: scaled(*c))
    # Scales of x with the tokens next to each other, those of the weight in blocks of 128 x 128, which must divide n.
    blocks = lambda: (fp8(m, k), fp8(n, k), ones(k // 128, m).T, ones(n // 128, k // 128).T)
    measure("_scaled_mm", shape, "FP8 by blocks", size, flops, blocks, lambda c: scaled(*c))


def main():
    torch.cuda.set_device(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}")
    print(f"{'op':<17} {'shape':<24} {'variant':<18} {'us':>10} {'p90':>10} {'GB/s':>8} {'TFLOPS':>8}")
    for m in NUM_TOKENS:
        for dim in [7168, 1536, 512]:
            norm = lambda c: torch.nn.functional.rms_norm(c[0], (dim,), c[1], 1e-6)
            size = 4 * m * dim + 2 * dim
            measure("rms_norm", f"{m}x{dim}", "bf16", size, 4 * m * dim, lambda: (bf16(m, dim), bf16(dim)), norm)
    for n, k in LINEAR:
        for m in NUM_TOKENS:
            linear(m, n, k)
    for rows in [1, 8, 64]:
        for length in [8192, 65536, 131072]:
            scores = lambda: torch.randn(rows, length, device="cuda")
            size = 4 * rows * (length + 2049)
            measure("topk", f"{rows}x{length}", "k 2048, unsorted", size, 0, scores, lambda c: c.topk(2048, sorted=False))
        logits = lambda: torch.randn(rows, 129280, device="cuda")
        draw = lambda c: torch.multinomial(torch.softmax(c / 0.7, -1), 1)
        measure("sample", f"{rows}x129280", "softmax+multinomial", rows * (4 * 129280 + 24), 0, logits, draw)


if __name__ == "__main__":
    main()
