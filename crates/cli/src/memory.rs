//! What the machine and this process have of memory. Linux tells through files; elsewhere the answers are unknown.

use std::fs;

/// Bytes that can be taken without pushing anything out but files that can be read again: what the kernel calls available, less
/// if a control group allows less.
pub(crate) fn available_bytes() -> Option<u64> {
    let machine = kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let cached = fs::read_to_string("/sys/fs/cgroup/memory.stat").map_or(0, |stat| cached_bytes(&stat));
    let group = number("/sys/fs/cgroup/memory.max")
        .zip(number("/sys/fs/cgroup/memory.current"))
        .map(|(limit, used)| limit.saturating_sub(used.saturating_sub(cached)));
    Some(group.map_or(machine, |group| machine.min(group)))
}

/// Bytes of files that a control group counts as its own, by its `memory.stat`: weights that were read before are among them.
fn cached_bytes(stat: &str) -> u64 {
    let lines = stat.lines().filter_map(|line| line.split_once(' '));
    let of_files = lines.filter(|(key, _)| matches!(*key, "active_file" | "inactive_file"));
    of_files.filter_map(|(_, bytes)| bytes.parse::<u64>().ok()).sum()
}

/// The most memory that this process has held at once, in bytes.
pub(crate) fn peak_rss_bytes() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// The value of a line such as `VmHWM:   1234 kB`, in bytes.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_are_found_by_key() {
        let text = "VmPeak:\t  900 kB\nVmHWM:\t    12 kB\nThreads:\t3\n";
        let check = |key: &str, expected: Option<u64>| assert_eq!(kilobytes(text, key), expected, "{key}");
        check("VmHWM:", Some(12 * 1024));
        check("VmPeak:", Some(900 * 1024));
        check("Threads:", None);
        check("VmRSS:", None);
    }

    #[test]
    fn files_in_memory_are_not_in_the_way() {
        let stat = "anon 100\nfile 70\nshmem 10\ninactive_file 40\nactive_file 20\nworkingset_refault_file 5\n";
        assert_eq!(cached_bytes(stat), 60);
        assert_eq!(cached_bytes("inactive_file many\n"), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_tells_both() {
        assert!(available_bytes().is_some_and(|bytes| bytes > 1 << 20));
        assert!(peak_rss_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
