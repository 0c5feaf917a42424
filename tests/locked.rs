//! A program that locks all its memory (`mlockall`), as those do that must never wait for a page: what it uses is resident, and not what was
//! reserved for it.

#![cfg(target_os = "linux")]

use democratising::{Global, Tensor, gc};
use std::fs::read_to_string;

#[global_allocator]
static GLOBAL: Global = Global;

const MIB: usize = 1 << 20;

/// A number of `/proc/self/status`, in MiB.
fn status_mib(name: &str) -> usize {
    let text = read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<usize>().unwrap() >> 10
}

/// Blocks of all sizes, `mib` of them in all, each with a byte of its own.
fn filled(mib: usize) -> Vec<Vec<u8>> {
    let mut blocks = Vec::new();
    let mut bytes = 0;
    for size in [24, 700, 9_000, 130_000, 3 * MIB].into_iter().cycle() {
        if bytes >= mib * MIB {
            break;
        }
        for _ in 0..(3 * MIB).div_ceil(size) {
            blocks.push(vec![blocks.len() as u8; size]);
            bytes += size;
        }
    }
    blocks
}

fn are_whole(blocks: &[Vec<u8>]) -> bool {
    blocks.iter().enumerate().all(|(number, block)| is_all(block, number as u8))
}

/// Each byte is the first one, or the one before it.
fn is_all(block: &[u8], byte: u8) -> bool {
    block[0] == byte && block[1..] == block[..block.len() - 1]
}

#[test]
fn a_program_that_locks_its_memory_has_what_it_uses_resident_and_little_more() {
    let kept = filled(64);
    let tensor = Tensor::zeros(&[16 << 20]).unwrap();
    // What can be written is what a lock makes resident: so much that is not used is the machine's loss, or its end.
    let data_mib = status_mib("VmData");
    assert!(data_mib < 400, "{data_mib} MiB can be written");
    // SAFETY: 1. A lock changes nothing that can be read.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } != 0 {
        let why = std::io::Error::last_os_error();
        assert!(std::env::var_os("CI").is_none(), "CI may lock memory: {why}");
        return println!("NOT TESTED: memory cannot be locked here: {why}");
    }
    let locked_mib = status_mib("VmRSS");
    assert!(locked_mib < 400, "{locked_mib} MiB are resident");
    // Of all that can be read the lock made page tables, too.
    let tables_mib = status_mib("VmPTE");
    assert!(tables_mib < 4, "{tables_mib} MiB of page tables");
    assert!(are_whole(&kept));

    // From here on all that is mapped is resident at once. What is freed is given up all the same, and zeros are zeros.
    for _ in 0..2 {
        let more = filled(300);
        let grown_mib = status_mib("VmRSS");
        assert!(
            (locked_mib + 200..locked_mib + 450).contains(&grown_mib),
            "{grown_mib} MiB, {locked_mib} before"
        );
        assert!(are_whole(&more));
        drop(more);
        gc::collect().unwrap();
        let zeros = vec![0u8; 200 * MIB];
        assert!(is_all(&zeros, 0));
    }
    gc::collect().unwrap();
    let left_mib = status_mib("VmRSS");
    assert!(left_mib < locked_mib + 150, "{left_mib} MiB, {locked_mib} before");
    // Threads, which have stacks and caches of their own.
    let blocks = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| filled(8))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(blocks.iter().all(|blocks| are_whole(blocks)));
    assert!(are_whole(&kept) && tensor.as_slice::<f32>().unwrap().iter().all(|number| *number == 0.0));
}
