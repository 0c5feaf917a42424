//! Round trips with the programs that others use: NumPy and safetensors from PyPI, PyTorch where it is installed.
//!
//! `.ci/run python` makes the Python environment. What they read is compared bit for bit with what was written here, and the
//! other way round.
#![cfg(all(feature = "std", unix))]

#[path = "fs/common.rs"]
#[allow(dead_code, reason = "several tests share it")]
mod common;
#[path = "tools/listing.rs"]
mod listing;

use common::{Directory, npy};
use democratising::fs::ModelCheckpoint;
use democratising::{DType, Device, Result, Tensor};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::path::Path;

/// Tensors of any dtype and shape, views of all kinds among them.
fn any_tensor(dtypes: &'static [DType]) -> impl Strategy<Value = Tensor> {
    let shape = prop::collection::vec(0usize..5, 0..4);
    (prop::sample::select(dtypes), shape, any::<u64>(), prop::collection::vec((0..3u8, any::<u16>()), 0..4))
        .prop_map(|(dtype, shape, seed, views)| {
            let n = shape.iter().product::<usize>() * dtype.size_bytes();
            let mut state = seed | 1;
            let mut byte = || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 40) as u8 & if dtype == DType::Bool { 1 } else { 255 }
            };
            let mut content =
                format!("{{\"t\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[0,{n}]}}}}")
                    .into_bytes();
            content.splice(0..0, (content.len() as u64).to_le_bytes());
            content.extend((0..n).map(|_| byte()));
            let tensor = common::read(content).unwrap();
            views.into_iter().fold(tensor, |tensor, (kind, pick)| {
                let rank = tensor.shape().len();
                let dim = usize::from(pick) % rank.max(1);
                match kind {
                    _ if rank == 0 => tensor.unsqueeze(0).unwrap(),
                    0 => tensor.transpose(dim, rank - 1).unwrap(),
                    1 => {
                        let length = tensor.shape()[dim];
                        let start = usize::from(pick >> 4) % (length + 1);
                        tensor.narrow(dim, start, (length - start).div_ceil(2)).unwrap()
                    }
                    _ => tensor.reshape(&[tensor.len()]).unwrap(),
                }
            })
        })
}

/// Sixty tensors.
fn many(dtypes: &'static [DType]) -> Vec<(String, Tensor)> {
    let mut runner = TestRunner::default();
    let one = |i: usize| (format!("t{i:02}"), any_tensor(dtypes).new_tree(&mut runner).unwrap().current());
    (0..60).map(one).collect()
}

fn wanted(tensors: &[(String, Tensor)]) -> Vec<String> {
    tensors.iter().map(|(name, tensor)| listing::line(name, tensor)).collect()
}

fn save(path: &Path, tensors: &[(String, Tensor)]) {
    let checkpoint = ModelCheckpoint::create(path).unwrap().metadata("step", "7").unwrap();
    let added = tensors.iter().fold(checkpoint, |c, (name, tensor)| c.add(name.as_str(), tensor).unwrap());
    added.commit().unwrap();
}

/// What NumPy has a type for.
const OF_NUMPY: &[DType] = &[
    DType::Bool,
    DType::U8,
    DType::I8,
    DType::U16,
    DType::I16,
    DType::U32,
    DType::I32,
    DType::U64,
    DType::I64,
    DType::F16,
    DType::F32,
    DType::F64,
];

const NUMPY: &str = "
import sys, json, numpy, safetensors, safetensors.numpy, listing
directory = sys.argv[1]
arrays = safetensors.numpy.load_file(directory + '/ours.safetensors')
with safetensors.safe_open(directory + '/ours.safetensors', 'np') as f:
    assert f.metadata()['step'] == '7', f.metadata()
for name in sorted(arrays):
    print(listing.of_numpy(name, arrays[name]))
numpy.savez(directory + '/stored.npz', **arrays)
numpy.savez_compressed(directory + '/packed.npz', **arrays)
turned = {name: array.astype(array.dtype.newbyteorder('>'), order='F') for name, array in arrays.items()}
numpy.savez(directory + '/turned.npz', **turned)
numpy.savez_compressed(directory + '/turned_packed.npz', **turned)
safetensors.numpy.save_file(arrays, directory + '/theirs.safetensors', metadata={'by': 'numpy'})
for name in arrays:
    numpy.save(directory + '/' + name + '.npy', arrays[name])
";

#[test]
fn numpy_and_safetensors_read_what_is_written_here_and_the_other_way_round() -> Result<()> {
    let Some(python) = listing::python("numpy, safetensors.numpy") else {
        assert!(std::env::var_os("CI").is_none(), "CI has NumPy and safetensors");
        return Ok(());
    };
    let directory = Directory::new();
    let tensors = many(OF_NUMPY);
    save(&directory.path("ours.safetensors"), &tensors);
    let wanted = wanted(&tensors);
    let read = listing::run(&python, NUMPY, &[&directory.path("")]);
    assert_eq!(read.lines().collect::<Vec<_>>(), wanted);

    for name in ["theirs.safetensors", "stored.npz", "packed.npz", "turned.npz", "turned_packed.npz"] {
        let c = ModelCheckpoint::load(directory.path(name))?;
        assert_eq!(listing::lines(&c), wanted, "{name}");
        c.verify()?;
        let loaded: Vec<_> =
            c.load_to(&Device::host())?.iter().map(|(name, tensor)| listing::line(name, tensor)).collect();
        assert_eq!(loaded, wanted, "{name}");
    }
    for ((name, _), line) in tensors.iter().zip(&wanted) {
        let tensor = Tensor::open(directory.path(&format!("{name}.npy")))?;
        assert_eq!(&listing::line(name, &tensor), line);
    }
    Ok(())
}

const TORCH: &str = "
import sys, torch, listing
directory = sys.argv[1]
for how in ({}, {'mmap': True}):
    state = torch.load(directory + '/ours.pt', weights_only=True, **how)
    assert state.democratising_metadata == {'step': '7'}, vars(state)
    lines = sorted(listing.flat(state))
print('\\n'.join(lines))
torch.save(state, directory + '/theirs.pt')
torch.save({'a': [dict(state)]}, directory + '/nested.pt')
torch.save(dict(state), directory + '/legacy.pt', _use_new_zipfile_serialization=False)
";

#[test]
fn pytorch_reads_what_is_written_here_and_the_other_way_round() -> Result<()> {
    // A large download, so a stage of its own: the files in tests/data/torch are always tested.
    let Some(python) = listing::python("torch") else { return Ok(()) };
    let directory = Directory::new();
    let tensors = many(&DType::ALL);
    save(&directory.path("ours.pt"), &tensors);
    let wanted = wanted(&tensors);
    let read = listing::run(&python, TORCH, &[&directory.path("")]);
    assert_eq!(read.lines().collect::<Vec<_>>(), wanted);
    for name in ["theirs.pt", "legacy.pt"] {
        assert_eq!(listing::lines(&ModelCheckpoint::load(directory.path(name))?), wanted, "{name}");
    }
    let nested = ModelCheckpoint::load(directory.path("nested.pt"))?;
    assert_eq!(listing::lines(&nested), wanted.iter().map(|line| format!("a.0.{line}")).collect::<Vec<_>>());
    Ok(())
}

const VIEWER: &str = "
import pickle, sys
from torch.cuda import _memory_viz as viewer
snapshot = pickle.load(open(sys.argv[1], 'rb'))
print(viewer.segsum(snapshot).split('total_reserved')[0])
print(viewer.trace(snapshot))
for page in (viewer.trace_plot(snapshot), viewer.segment_plot(snapshot)):
    assert len(page) > 1000
blocks = [block for segment in snapshot['segments'] for block in segment['blocks']]
print('held', sum(block['requested_size'] for block in blocks if block['state'] == 'active_allocated'))
for segment in snapshot['segments']:
    assert segment['total_size'] == sum(block['size'] for block in segment['blocks'])
";

#[test]
fn pytorchs_memory_viewer_opens_the_timeline() -> Result<()> {
    use democratising::timeline;
    let Some(python) = listing::python("torch") else { return Ok(()) };
    let directory = Directory::new();
    timeline::start(timeline::Options::new())?;
    let kept = Tensor::zeros(&[1 << 20])?;
    drop(Tensor::zeros(&[5 << 20])?);
    let timeline = timeline::stop()?;
    drop(kept);
    let path = directory.path("run.pickle");
    timeline
        .write_pytorch(&mut std::fs::File::create(&path).expect("a file of the test"))
        .expect("the disk has room");
    let said = listing::run(&python, VIEWER, &[&path]);
    assert!(said.contains("alloc") && said.contains("segment_map"), "{said}");
    let held: u64 = said
        .lines()
        .last()
        .and_then(|line| line.strip_prefix("held "))
        .expect("the sum")
        .parse()
        .expect("a number");
    assert!(held >= 4 << 20, "{said}");
    Ok(())
}

const MODELS: &str = "
import importlib.util, pathlib
def folder(module):
    return pathlib.Path(importlib.util.find_spec(module).origin).parent
print(folder('silero_vad') / 'data/silero_vad_16k.safetensors')
for file in sorted((folder('lpips') / 'weights').glob('*/*.pth')):
    print(file)
";

#[test]
fn real_models_that_packages_ship_are_read() -> Result<()> {
    let finds =
        "importlib.util as u; assert u.find_spec('silero_vad') and u.find_spec('lpips'); import safetensors";
    let Some(python) = listing::python(finds) else {
        assert!(std::env::var_os("CI").is_none(), "CI has silero-vad and lpips, which ship models");
        return Ok(());
    };
    let paths = listing::run(&python, MODELS, &[]);
    assert_eq!(paths.lines().count(), 7, "{paths}");
    for path in paths.lines() {
        let c = ModelCheckpoint::load(path)?;
        c.verify()?;
        let bytes: u64 = c.names().iter().map(|name| c.info(name).unwrap().bytes).sum();
        let file_bytes = std::fs::metadata(path)?.len();
        assert!(bytes > file_bytes / 4 && bytes <= file_bytes, "{path}: {bytes} of {file_bytes}");
        for (name, tensor) in c.load_to(&Device::host())? {
            assert_eq!(tensor, c.get(&name)?);
            let finite = tensor.dtype() != DType::F32 || tensor.iter::<f32>()?.all(f32::is_finite);
            assert!(finite, "{path}: {name} are weights");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever way a view was made, it is the tensor of its own elements.
    #[test]
    fn a_view_equals_the_copy_of_its_elements(tensor in any_tensor(&DType::ALL)) {
        let copy = tensor.contiguous().unwrap();
        prop_assert!(copy.is_contiguous());
        prop_assert_eq!(listing::line("", &copy), listing::line("", &tensor));
        prop_assert_eq!(copy.shape(), tensor.shape());
        prop_assert_eq!(copy.byte_len(), tensor.byte_len());
        let elements = tensor.len();
        prop_assert_eq!(listing::line("", &tensor.reshape(&[elements]).unwrap().reshape(tensor.shape()).unwrap()),
                        listing::line("", &copy));
        drop(format!("{tensor} {tensor:?}"));
    }

    #[test]
    fn views_are_saved_as_their_elements(tensors in prop::collection::vec(any_tensor(&DType::ALL), 1..6), pt: bool) {
        let directory = Directory::new();
        let path = directory.path(if pt { "m.pt" } else { "m" });
        let named: Vec<_> = tensors.into_iter().enumerate().map(|(i, t)| (format!("t{i}"), t)).collect();
        save(&path, &named);
        prop_assert_eq!(listing::lines(&ModelCheckpoint::load(&path).unwrap()), wanted(&named));
    }

    /// The element that indices say, in a tensor narrowed and turned.
    #[test]
    fn a_view_shows_the_elements_that_its_indices_say(
        (a, b, c) in (1usize..6, 1usize..6, 1usize..6), start in any::<prop::sample::Index>(),
    ) {
        let whole = Tensor::new(&[a, b, c], (0..(a * b * c) as i32).collect::<Vec<_>>()).unwrap();
        let start = start.index(b);
        let view = whole.permute(&[2, 0, 1]).unwrap().narrow(2, start, b - start).unwrap();
        let mut elements = view.iter::<i32>().unwrap();
        for k in 0..c {
            for i in 0..a {
                for j in start..b {
                    prop_assert_eq!(elements.next(), Some(((i * b + j) * c + k) as i32));
                }
            }
        }
        prop_assert_eq!(elements.next(), None);
    }
}

#[test]
fn a_deflated_array_that_lies_is_refused() {
    // Whatever the header says, no more is taken than the member unpacks to: 2^60 bytes are refused at once.
    let array = npy(1, "|u1", false, "(1152921504606846976,)", [[0u8; 64]]);
    let said = common::refusal(array);
    assert!(said.contains("but only 64 are there"), "{said}");
}

const METRICS: &str = "
import json, sys
from prometheus_client.parser import text_string_to_metric_families
for family in text_string_to_metric_families(open(sys.argv[1]).read()):
    assert family.type == 'gauge' and family.documentation, family
    for sample in family.samples:
        print(json.dumps({'name': sample.name, 'labels': sample.labels, 'value': sample.value}))
";

#[test]
fn prometheus_reads_the_metrics() -> Result<()> {
    use democratising::pool::budget::scope::{Kind, Scope};
    use serde_json::{Value, json};
    let Some(python) = listing::python("prometheus_client.parser") else {
        assert!(std::env::var_os("CI").is_none(), "CI has the client of Prometheus");
        return Ok(());
    };
    const NAME: &str = "a \"quoted\" \\ name\nof two lines";
    let outer = Scope::process().child(NAME);
    // Two of one name in one place are one series, as Prometheus wants it.
    let (inner, twin) = (outer.child("step"), outer.child("step"));
    inner.set_limit(Kind::HostBytes, 1 << 20);
    let held = (inner.run(|| Tensor::zeros(&[1000]))?, twin.run(|| Tensor::zeros(&[500]))?);
    let file = outer.run(democratising::fs::temp_file)?;
    let directory = Directory::new();
    std::fs::write(directory.path("metrics"), democratising::resources().to_prometheus())?;
    let read = listing::run(&python, METRICS, &[&directory.path("metrics")]);
    let read: Vec<Value> = read.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let value = |name: &str, labels: Value| {
        let mut same = read.iter().filter(|sample| sample["name"] == name && sample["labels"] == labels);
        let found = same.next().unwrap_or_else(|| panic!("no {name} {labels}"))["value"].as_f64();
        assert!(same.next().is_none(), "{name} {labels} once");
        found
    };
    let (outer, inner) = (format!("process/{NAME}"), format!("process/{NAME}/step"));
    let bytes = |name: &str, scope: &str| value(name, json!({"scope": scope, "memory": "host"}));
    assert_eq!(bytes("democratising_held_bytes", &inner), Some(6000.0));
    assert_eq!(bytes("democratising_held_bytes", &outer), Some(6000.0));
    assert_eq!(bytes("democratising_held_limit_bytes", &inner), Some((1 << 20) as f64));
    assert_eq!(value("democratising_held", json!({"scope": outer, "kind": "files"})), Some(1.0));
    assert!(value("democratising_pool_reserved_bytes", json!({"pool": "pool"})) >= Some(6000.0));
    drop((held, file));
    Ok(())
}
