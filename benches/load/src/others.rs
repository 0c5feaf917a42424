//! Other programs' loaders.

use crate::clock::Time;
use std::path::Path;
use std::process::Command;

pub fn candle(path: &Path, tensors: usize) {
    let loaded = candle_core::safetensors::load(path, &candle_core::Device::Cpu).expect("candle loads it");
    assert_eq!(loaded.len(), tensors);
}

pub fn candle_mapped(path: &Path, tensors: usize) {
    // SAFETY: 1. Nobody changes the file meanwhile.
    let mapped = unsafe { candle_core::safetensors::MmapedSafetensors::new(path) }.expect("candle maps it");
    let load = |name: &str| mapped.load(name, &candle_core::Device::Cpu).expect("candle loads it");
    let loaded: Vec<_> = mapped.tensors().iter().map(|(name, _)| load(name)).collect();
    assert_eq!(loaded.len(), tensors);
}

const SCRIPT: &str = "
import resource, sys, time, torch, safetensors.torch
path, repeats = sys.argv[1], int(sys.argv[2])
def measure(name, load):
    best = [1e9, 1e9]
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        loaded = load()
        best = [min(best[0], time.process_time() - cpu), min(best[1], time.perf_counter() - wall)]
        assert len(loaded) == 64
        del loaded
    print(name, best[0] * 1e3, best[1] * 1e3, sep='\\t')
torch.save(safetensors.torch.load_file(path), path + '.pt')
measure('torch.load', lambda: torch.load(path + '.pt', weights_only=True))
measure('safetensors.torch: load_file, and a copy of each', lambda: {k: v.clone() for k, v in safetensors.torch.load_file(path).items()})
def numpy_load():
    import numpy
    with numpy.load(path + '.npz') as arrays:
        return {name: arrays[name] for name in arrays.files}
import numpy, safetensors.numpy
numpy.savez(path + '.npz', **safetensors.numpy.load_file(path))
measure('numpy.load of an .npz', numpy_load)
";

/// Calls `each` with the times of Python's loaders, where a Python with them is named.
pub fn python(path: &Path, repeats: usize, mut each: impl FnMut(&str, Time)) {
    let Some(python) = std::env::var_os("DEMOCRATISING_PYTHON") else {
        println!("  (no torch: name a Python with it in DEMOCRATISING_PYTHON)");
        return;
    };
    let output = Command::new(python)
        .args(["-c", SCRIPT])
        .arg(path)
        .arg(repeats.to_string())
        .output()
        .expect("Python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let mut fields = line.split('\t');
        let name = fields.next().unwrap_or("?");
        let mut number = || fields.next().and_then(|field| field.parse().ok()).unwrap_or(f64::NAN);
        each(name, Time { cpu_ms: number(), wall_ms: number() });
    }
}
