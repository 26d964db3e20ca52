use super::*;

fn memory_of(bytes: u64) -> (GlobalMemory, u64) {
    let memory = GlobalMemory::new();
    let base = memory.allocate(bytes).unwrap();
    (memory, base)
}

/// Says that `result` failed in the given way, with all of `words` in its message.
#[track_caller]
fn assert_misuse<T: std::fmt::Debug>(result: Result<T, Misuse>, kind: &str, words: &[&str]) {
    let misuse = result.expect_err("this must be found");
    assert_eq!(misuse.kind(), kind, "{misuse}");
    for word in words {
        assert!(misuse.to_string().contains(word), "`{word}` is missing in: {misuse}");
    }
}

#[test]
fn allocations_are_aligned_and_apart() {
    let memory = GlobalMemory::new();
    let mut end = 0;
    for bytes in [1, 0, 255, 256, 257, 100_000] {
        let base = memory.allocate(bytes).unwrap();
        assert_eq!(base % 256, 0);
        assert!(base >= end + 256, "{bytes} bytes at {base:#x} after {end:#x}");
        end = base + bytes;
    }
    assert_misuse(memory.allocate(u64::MAX), "out of bounds", &["18446744073709551615 bytes"]);
}

#[test]
fn what_is_stored_is_loaded_in_every_size() {
    let (memory, base) = memory_of(200_000);
    let mut cursor = Cursor::default();
    let bytes: Vec<u8> = (0..200_000_u32).map(|i| (i * 7 + i / 256) as u8).collect();
    memory.write(base, &bytes).unwrap();
    for len in [1, 2, 4, 8, 16] {
        // Both sides of the edge between two chunks of 64 KiB.
        for start in (0..64).chain(65_536 - 64..65_536 + 64).filter(|start| start % len == 0) {
            let mut out = vec![0; len];
            memory.load(&mut cursor, base + start as u64, &mut out).unwrap();
            assert_eq!(out, bytes[start..start + len], "{len} bytes at {start}");
            out.iter_mut().for_each(|byte| *byte ^= 0xa5);
            memory.store(&mut cursor, base + start as u64, &out).unwrap();
            let mut back = vec![0; len];
            memory.read(base + start as u64, &mut back).unwrap();
            assert_eq!(back, out);
            memory.store(&mut cursor, base + start as u64, &bytes[start..start + len]).unwrap();
        }
    }
    let mut all = vec![0; bytes.len()];
    memory.read(base, &mut all).unwrap();
    assert!(all == bytes, "a store reached beyond its bytes");
}

#[test]
fn the_host_reads_and_writes_at_any_offset() {
    let (memory, base) = memory_of(64);
    for start in 0..16 {
        for len in 0..32 {
            memory.fill(base, 0xee, 64).unwrap();
            let bytes: Vec<u8> = (1..=len).collect();
            memory.write(base + start, &bytes).unwrap();
            let mut expected = vec![0xee; 64];
            expected[start as usize..][..len as usize].copy_from_slice(&bytes);
            let mut all = vec![0; 64];
            memory.read(base, &mut all).unwrap();
            assert_eq!(all, expected, "{len} bytes at {start}");
        }
    }
}

#[test]
fn edges_are_seen() {
    let (memory, base) = memory_of(100);
    memory.fill(base, 1, 100).unwrap();
    let mut cursor = Cursor::default();
    memory.load_bits(&mut cursor, base + 96, 4).unwrap();
    let nearest = "the nearest allocation, 100 bytes at 0x7f0000000000";
    for (addr, len, words) in [
        (base + 100, 1, "1-byte load at 0x7f0000000064: begins 0 bytes after the end of"),
        (base + 100, 4, "4-byte load at 0x7f0000000064: begins 0 bytes after the end of"),
        (base + 96, 8, "8-byte load at 0x7f0000000060: 4 of its bytes lie after the end of"),
        (base - 4, 4, "4-byte load at 0x7efffffffffc: begins 4 bytes before"),
        (0, 8, "8-byte load at 0x0: begins 139637976727552 bytes before"),
        (u64::MAX - 7, 8, "bytes after the end of"),
    ] {
        assert_misuse(memory.load_bits(&mut cursor, addr, len), "out of bounds", &[words, nearest]);
    }
    assert_misuse(memory.load_16(&mut cursor, base + 96), "out of bounds", &["12 of its bytes"]);
    assert_misuse(memory.store_bits(&mut cursor, base + 100, 4, 0), "out of bounds", &["4-byte store"]);
    assert_misuse(memory.store_16(&mut cursor, base + 96, [0; 2]), "out of bounds", &["16-byte store"]);
    assert_misuse(memory.atomic(&mut cursor, base + 100, 4, |x| x), "out of bounds", &["4-byte atomic"]);
    assert_misuse(memory.write(base + 90, &[0; 11]), "out of bounds", &["11-byte host write", "1 of its bytes"]);
    assert_misuse(memory.fill(base, 0, 101), "out of bounds", &["host fill"]);
    assert_misuse(memory.mark_unwritten(base, 101), "out of bounds", &["marking"]);
    memory.write(base + 100, &[]).unwrap();
    assert_misuse(GlobalMemory::new().read(base, &mut [0]), "out of bounds", &["nothing is allocated"]);
}

#[test]
fn misaligned_addresses_are_refused() {
    let (memory, base) = memory_of(64);
    memory.fill(base, 0, 64).unwrap();
    let mut cursor = Cursor::default();
    for (len, offset) in [(2, 1), (4, 2), (8, 4), (16, 8)] {
        let mut out = vec![0; len];
        let words = [format!("{len}-byte"), format!("no multiple of {len}")];
        let words = [words[0].as_str(), words[1].as_str()];
        assert_misuse(memory.load(&mut cursor, base + offset, &mut out), "misaligned", &words);
        assert_misuse(memory.store(&mut cursor, base + offset, &out), "misaligned", &words);
    }
    assert_misuse(memory.atomic(&mut cursor, base + 4, 8, |x| x), "misaligned", &["8-byte atomic"]);
}

#[test]
fn unwritten_bytes_are_not_read() {
    let (memory, base) = memory_of(64);
    let mut cursor = Cursor::default();
    assert_misuse(memory.load_bits(&mut cursor, base, 4), "uninitialised read", &["4 of these bytes"]);
    memory.store_bits(&mut cursor, base + 8, 2, 7).unwrap();
    assert_eq!(memory.load_bits(&mut cursor, base + 8, 2).unwrap(), 7);
    let words = ["4-byte load at 0x7f0000000008", "2 of these", "first at 0x7f000000000a", "byte 10 of the 64 bytes"];
    assert_misuse(memory.load_bits(&mut cursor, base + 8, 4), "uninitialised read", &words);
    memory.fill(base + 10, 1, 6).unwrap();
    memory.store_bits(&mut cursor, base, 8, 0).unwrap();
    memory.load_16(&mut cursor, base).unwrap();
    memory.mark_unwritten(base + 13, 2).unwrap();
    assert_misuse(memory.load_16(&mut cursor, base), "uninitialised read", &["2 of these", "first at 0x7f000000000d"]);
    assert_misuse(memory.read(base, &mut [0; 14]), "uninitialised read", &["host read", "0x7f000000000d"]);
    assert_misuse(memory.atomic(&mut cursor, base + 12, 4, |x| x), "uninitialised read", &["4-byte atomic"]);
    memory.read(base, &mut [0; 13]).unwrap();
}

#[test]
fn copies_carry_what_is_unwritten() {
    let (memory, from) = memory_of(100);
    let to = memory.allocate(100).unwrap();
    for (source, target) in [(0, 0), (3, 0), (0, 5), (6, 3)] {
        memory.fill(to, 0xff, 100).unwrap();
        memory.mark_unwritten(from, 100).unwrap();
        memory.write(from + source, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]).unwrap();
        memory.write(from + source + 15, &[16, 17, 18, 19, 20]).unwrap();
        memory.copy(to + target, from + source, 20).unwrap();
        let mut out = [0; 20];
        assert_misuse(memory.read(to + target, &mut out), "uninitialised read", &[]);
        for i in 0..20 {
            let byte = memory.read(to + target + i, &mut out[..1]).is_ok().then_some(out[0]);
            assert_eq!(byte, (!(10..15).contains(&i)).then_some(i as u8 + 1), "byte {i} of {source} to {target}");
        }
        memory.read(to + target + 20, &mut out).unwrap();
        assert_eq!(out, [0xff; 20]);
    }
    assert_misuse(memory.copy(to + 1, to, 2), "out of bounds", &["overlap"]);
    assert_misuse(memory.copy(to, from, 101), "out of bounds", &["host copy from"]);
}

#[test]
fn freed_memory_stays_invalid() {
    let (memory, base) = memory_of(256);
    let mut cursor = Cursor::default();
    memory.store_bits(&mut cursor, base, 4, 1).unwrap();
    memory.free(base).unwrap();
    let words = ["byte 0 of the nearest freed allocation, 256 bytes at 0x7f0000000000"];
    assert_misuse(memory.load_bits(&mut cursor, base, 4), "out of bounds", &words);
    assert!(memory.allocate(256).unwrap() > base);
    assert_misuse(memory.load_bits(&mut cursor, base, 4), "out of bounds", &words);
    assert_misuse(memory.free(base), "out of bounds", &["free of 0x7f0000000000", "freed allocation"]);
    assert_misuse(memory.free(base + 512 + 8), "out of bounds", &["byte 8 of"]);
}

#[test]
fn regions_have_edges() {
    let (memory, base) = memory_of(4096);
    memory.fill(base, 3, 4096).unwrap();
    let mut cursor = Cursor::default();
    memory.load_bits(&mut cursor, base + 60, 4).unwrap();
    memory.carve(base + 64, 36).unwrap();
    memory.carve(base + 100, 100).unwrap();
    memory.carve(base + 1024, 0).unwrap();
    // What the cursor remembers of the time before the first carving is not used.
    let nearest = ["4 bytes before the nearest region, 36 bytes at 0x7f0000000040"];
    assert_misuse(memory.load_bits(&mut cursor, base + 60, 4), "out of bounds", &nearest);
    memory.load_bits(&mut cursor, base + 96, 4).unwrap();
    memory.load_bits(&mut cursor, base + 100, 4).unwrap();
    let words = ["4 of its bytes lie after the end of the nearest region, 36 bytes at"];
    assert_misuse(memory.load_bits(&mut cursor, base + 96, 8), "out of bounds", &words);
    assert_misuse(memory.load_bits(&mut cursor, base + 200, 4), "out of bounds", &["after the end"]);
    assert_misuse(memory.load_bits(&mut cursor, base + 1024, 1), "out of bounds", &["region, 0 bytes"]);
    for (offset, len) in [(99, 1), (0, 65), (100, 1), (150, 0), (199, 300), (1024, 0), (1000, 100)] {
        let words = ["carving", "overlaps the region"];
        assert_misuse(memory.carve(base + offset, len), "out of bounds", &words);
    }
    assert_misuse(memory.carve(base + 4000, 97), "out of bounds", &["carving 97 bytes"]);
}

#[test]
fn a_cursor_serves_more_arrays_than_it_remembers() {
    let memory = GlobalMemory::new();
    let arrays: Vec<u64> = (0..7).map(|_| memory.allocate(64).unwrap()).collect();
    let mut cursor = Cursor::default();
    for round in 0..3 {
        for (i, array) in arrays.iter().enumerate() {
            memory.store_bits(&mut cursor, *array, 8, i as u64 * 3 + round).unwrap();
        }
        for (i, array) in arrays.iter().enumerate().rev() {
            assert_eq!(memory.load_bits(&mut cursor, *array, 8).unwrap(), i as u64 * 3 + round);
        }
    }
}

#[test]
fn atomics_of_several_threads_lose_nothing() {
    let (memory, base) = memory_of(64);
    memory.fill(base, 0, 64).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let memory = &memory;
            scope.spawn(move || {
                let mut cursor = Cursor::default();
                for _ in 0..10_000 {
                    memory.atomic(&mut cursor, base, 2, |x| x + 1).unwrap();
                    memory.atomic(&mut cursor, base + 4, 4, |x| x + 3).unwrap();
                    memory.atomic(&mut cursor, base + 8, 8, |x| x + (1 << 32) + 1).unwrap();
                    // A plain store beside them, in the word of the 2-byte counter.
                    memory.store_bits(&mut cursor, base + 2, 2, thread).unwrap();
                }
            });
        }
    });
    let mut cursor = Cursor::default();
    assert_eq!(memory.load_bits(&mut cursor, base, 2).unwrap(), 40_000);
    assert_eq!(memory.load_bits(&mut cursor, base + 4, 4).unwrap(), 120_000);
    assert_eq!(memory.load_bits(&mut cursor, base + 8, 8).unwrap(), (40_000 << 32) + 40_000);
    // An atomic wraps in its own bytes and returns what was there.
    assert_eq!(memory.atomic(&mut cursor, base, 2, |x| x + 0xffff).unwrap(), 40_000);
    assert_eq!(memory.load_bits(&mut cursor, base, 2).unwrap(), 39_999);
}
