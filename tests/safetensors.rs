//! Safetensors files: what others wrote, what lies, and files of every format with random damage.
#![cfg(feature = "std")]

#[path = "fs/common.rs"]
mod common;

use common::{Directory, file, npy, read, refusal, saved};
use democratising::fs::ModelCheckpoint;
use democratising::{DType, DemoError, Device, Result, Tensor};
use proptest::prelude::*;

#[test]
fn a_safetensors_file_with_one_tensor_is_that_tensor() -> Result<()> {
    let t = Tensor::new(&[3, 7], (0..21i64).collect::<Vec<_>>())?;
    assert_eq!(read(saved(&[("only", &t)]))?, t);

    let said = refusal(saved(&[("a", &t), ("b", &t)]));
    assert!(said.contains("2 tensors") && said.contains("ModelCheckpoint::load"), "{said}");
    assert!(refusal(saved(&[])).contains("0 tensors"));
    let whole = saved(&[("only", &t)]);
    for end in [9, 20, 63, whole.len() - 1] {
        assert!(refusal(&whole[..end]).contains("cut short"), "{end}");
    }
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(refusal(damaged).contains("its bytes are damaged"));
    let mut longer = whole;
    longer.push(0);
    assert!(refusal(longer).contains("belong to no tensor"));
    Ok(())
}

#[test]
fn a_file_of_another_kind_is_not_told_to_be_a_damaged_safetensors() -> Result<()> {
    let directory = Directory::new();
    let path = directory.path("model");
    for first in [
        &b"GGUF\x03\0\0\0\x10\0\0\0"[..],
        b"\x89HDF\r\n\x1a\n\0\0",
        b"\x1f\x8b\x08\0\0\0\0\0\0\x03",
        b"\x80\x04\x95*\0\0\0\0\0\0\0}\x94",
    ] {
        std::fs::write(&path, first)?;
        let said = ModelCheckpoint::load(&path).unwrap_err().to_string();
        assert!(
            said.contains("it is no npy, npz, safetensors, PyTorch file or text") && said.contains("model"),
            "{said}"
        );
    }
    // One whose header's length is damaged is one.
    ModelCheckpoint::create(&path)?.add("w", &Tensor::zeros(&[2])?)?.commit()?;
    let mut whole = std::fs::read(&path)?;
    whole[7] = 1;
    std::fs::write(&path, whole)?;
    let said = ModelCheckpoint::load(&path).unwrap_err().to_string();
    assert!(said.contains("more than the 100000000 of the format"), "{said}");
    Ok(())
}

#[test]
fn a_tensor_that_cannot_be_had_is_named() -> Result<()> {
    let directory = Directory::new();
    let header = r#"{"mask":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]},
        "deep":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[1,2]},
        "small":{"dtype":"F4","shape":[2],"data_offsets":[2,3]}}"#;
    let mut content = (header.len() as u64).to_le_bytes().to_vec();
    content.extend(header.bytes());
    content.extend([7; 3]);
    let path = directory.with("m.safetensors", content);
    let checkpoint = ModelCheckpoint::load(&path)?;
    for (name, problem) in
        [("mask", "stored as 0 or 1, not 7"), ("deep", "more than 8 dimensions"), ("small", "holds F4")]
    {
        let said = checkpoint.get(name).unwrap_err().to_string();
        assert!(said.contains(problem) && said.contains("m.safetensors"), "{said}");
        assert_eq!(said.matches(&format!("tensor {name:?}")).count(), 1, "{said}");
    }
    Ok(())
}

#[test]
fn a_header_that_no_reader_takes_is_refused_by_the_commit() -> Result<()> {
    let directory = Directory::new();
    let path = directory.path("m.safetensors");
    let checkpoint = ModelCheckpoint::create(&path)?.metadata("notes", "x".repeat(100_000_000))?;
    let said = checkpoint.commit().unwrap_err().to_string();
    assert!(said.contains("more than the 100000000 of the format") && !path.exists(), "{said}");
    Ok(())
}

#[test]
fn what_the_safetensors_crate_wrote_is_read() -> Result<()> {
    use safetensors::tensor::{Dtype, TensorView, serialize};
    let floats: Vec<u8> = [1.0f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let views = [
        ("w", TensorView::new(Dtype::F32, vec![2, 1], &floats).unwrap()),
        ("flags", TensorView::new(Dtype::BOOL, vec![3], &[1, 0, 1]).unwrap()),
        ("f8", TensorView::new(Dtype::F8_E4M3, vec![1], &[0x38]).unwrap()),
        ("f4", TensorView::new(Dtype::F4, vec![2], &[0x38]).unwrap()),
    ];
    let metadata = [("step".to_string(), "7".to_string())].into();
    let directory = Directory::new();
    let path = directory.with("x.safetensors", serialize(views, Some(metadata)).unwrap());

    let c = ModelCheckpoint::load(&path)?;
    assert_eq!(c.names(), ["f4", "f8", "flags", "w"]);
    assert_eq!(c.get("w")?, Tensor::new(&[2, 1], [1.0f32, 2.0])?);
    assert_eq!(c.get("flags")?, Tensor::new(&[3], [true, false, true])?);
    assert_eq!((c.get("f8")?.dtype(), c.get("f8")?.as_bytes().unwrap()), (DType::F8E4M3, &[0x38][..]));
    assert_eq!(c.metadata("step"), Some("7"));
    assert_eq!(c.metadata("steps"), None);
    let error = c.get("f4").unwrap_err().to_string();
    assert!(error.contains("\"f4\" holds F4, which this version does not know"), "{error}");
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    let error = c.get("W").unwrap_err();
    assert!(error.to_string().contains("tensor \"W\" is not in the checkpoint"), "{error}");
    Ok(())
}

#[test]
fn a_file_that_lies_about_its_tensors_is_refused() {
    let directory = Directory::new();
    let info = |fields: &str| format!("{{\"t\":{{{fields}}}}}");
    for (header, data_bytes, message) in [
        (
            info(&format!("\"dtype\":\"U8\",\"shape\":[{0}],\"data_offsets\":[0,{0}]", usize::MAX)),
            4,
            "overflow",
        ),
        (info("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]"), 4, "invalid shape"),
        (info("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]"), 8, "invalid offset"),
        (info("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,4]"), 8, "invalid offset"),
        (info("\"dtype\":\"F32\",\"shape\":[4294967295,4294967295,4],\"data_offsets\":[0,0]"), 0, "overflow"),
        (info("\"dtype\":\"F99\",\"shape\":[1],\"data_offsets\":[0,4]"), 4, "F99"),
        (info("\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]"), 4, "-1"),
        (info("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]"), 5, "5 follow"),
        ("{\"t\":".into(), 0, "EOF"),
        ("[1]".into(), 0, "cannot read safetensors"),
        ("{\"t\":".repeat(10_000), 0, "recursion"),
    ] {
        let mut content = (header.len() as u64).to_le_bytes().to_vec();
        content.extend(header.as_bytes());
        content.resize(content.len() + data_bytes, 1);
        let path = directory.with("x", content);
        let error = ModelCheckpoint::load(&path).unwrap_err().to_string();
        assert!(error.contains(message) && error.contains(path.to_str().unwrap()), "{header:.90}: {error}");
        assert!(Tensor::open(&path).is_err());
    }
    for content in [
        &[][..],
        &[1, 0],
        &[255; 8],
        &[255, 255, 255, 255, 0, 0, 0, 0, b'{'],
        &[9, 0, 0, 0, 0, 0, 0, 0, b'{'],
    ] {
        assert!(matches!(ModelCheckpoint::load(directory.with("x", content)), Err(DemoError::Format { .. })));
    }
    // Each of these alone can be; their sum and the header's length are more than can be counted.
    let many: Vec<_> = (0..8u64)
        .map(|i| {
            let eighth = 1u64 << (usize::BITS - 3);
            let (start, length) = (i * eighth, eighth - 1 - i / 7);
            let start = start - i;
            format!(
                "\"{i}\":{{\"dtype\":\"U8\",\"shape\":[{length}],\"data_offsets\":[{start},{}]}}",
                start + length
            )
        })
        .collect();
    let many = format!("{{{}}}", many.join(","));
    let mut content = (many.len() as u64).to_le_bytes().to_vec();
    content.extend(many.as_bytes());
    let error = ModelCheckpoint::load(directory.with("x", content)).unwrap_err().to_string();
    assert!(error.contains("bytes, but 0 follow the header"), "{error}");

    let nine = info("\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]");
    let mut content = (nine.len() as u64).to_le_bytes().to_vec();
    content.extend(nine.as_bytes());
    content.push(1);
    let c = ModelCheckpoint::load(directory.with("x", content)).unwrap();
    assert!(matches!(c.get("t"), Err(DemoError::Format { .. })));
}

#[cfg(unix)]
#[test]
fn large_tensors_are_read_into_memory_from_pages_of_any_size() -> Result<()> {
    let directory = Directory::new();
    let numbers: Vec<u32> = (0..5_000_000u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
    let (w, v) = (Tensor::new(&[5_000_000], numbers)?, Tensor::new(&[3], vec![1.0f32, 2.0, 3.0])?);
    let path = directory.path("m.safetensors");
    ModelCheckpoint::create(&path)?.add("v", &v)?.add("w", &w)?.commit()?;
    let mut content = std::fs::read(&path)?;
    // In pieces that leave no large page, and as it was committed.
    let small = directory.path("small.safetensors");
    let mut pieces = std::fs::File::create(&small)?;
    content.chunks(5000).try_for_each(|piece| std::io::Write::write_all(&mut pieces, piece))?;
    for path in [&small, &path] {
        for load in [ModelCheckpoint::load, ModelCheckpoint::load_unchecked] {
            // What is read comes into this memory, which holds something else: nothing is right by what stood there before.
            Tensor::zeros(&[5_000_000])?.as_mut_slice::<f32>()?.fill(7.0);
            let loaded = load(path)?.load_to(&Device::host())?;
            assert!(loaded["w"] == w && loaded["v"] == v);
        }
        let open = ModelCheckpoint::load(path)?;
        std::fs::File::options().write(true).open(path)?.set_len(9 << 20)?;
        let error = open.load_to(&Device::host()).unwrap_err().to_string();
        assert!(error.contains("cut short") && error.contains(path.to_str().unwrap()), "{error}");
    }
    let at = content.len() - 4_000_000;
    content[at] ^= 4;
    std::fs::write(&path, content)?;
    let error = ModelCheckpoint::load(&path)?.load_to(&Device::host()).unwrap_err().to_string();
    assert!(error.contains("\"w\"") && error.contains("checksum"), "{error}");
    assert!(ModelCheckpoint::load_unchecked(&path)?.load_to(&Device::host())?["w"] != w);
    Ok(())
}

#[cfg(unix)]
#[test]
fn what_cannot_be_mapped_is_refused() {
    let directory = Directory::new();
    let pipe = directory.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (path, message) in [
        (pipe, "regular"),
        (directory.path("missing"), "cannot open"),
        (directory.path(""), "directory"),
        ("/dev/null".into(), "regular"),
    ] {
        let error = ModelCheckpoint::load(&path).unwrap_err().to_string();
        assert!(error.contains(message) && error.contains(path.to_str().unwrap()), "{error}");
    }
}

// ---- random files ----

fn any_tensor() -> impl Strategy<Value = Tensor> {
    let lengths = prop::collection::vec(0usize..6, 0..4);
    (0..DType::ALL.len(), lengths, any::<u64>()).prop_map(|(dtype, lengths, seed)| {
        let mut seed = seed;
        let mut any = || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            seed >> 33
        };
        let n = lengths.iter().product::<usize>();
        macro_rules! tensor {
            ($t:ty) => {
                Tensor::new(&lengths, (0..n).map(|_| any() as $t).collect::<Vec<_>>())
            };
        }
        match DType::ALL[dtype] {
            DType::Bool => Tensor::new(&lengths, (0..n).map(|_| any() & 1 == 1).collect::<Vec<_>>()),
            DType::U8 => tensor!(u8),
            DType::I8 => tensor!(i8),
            DType::U16 => tensor!(u16),
            DType::I16 => tensor!(i16),
            DType::U32 => tensor!(u32),
            DType::I32 => tensor!(i32),
            DType::U64 => tensor!(u64),
            DType::I64 => tensor!(i64),
            DType::F32 => tensor!(f32),
            DType::F64 => tensor!(f64),
            other => Tensor::zeros_with(&lengths, other, &Device::host()),
        }
        .unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn checkpoints_come_back_as_they_were_saved(tensors: Vec<(String, u8)>, pool in prop::collection::vec(any_tensor(), 1..5),
                                                metadata: std::collections::BTreeMap<String, String>) {
        let directory = Directory::new();
        let path = directory.path("m.safetensors");
        let mut checkpoint = ModelCheckpoint::create(&path).unwrap();
        let mut wanted = std::collections::BTreeMap::new();
        for (name, which) in tensors {
            let tensor = &pool[which as usize % pool.len()];
            if wanted.insert(name.clone(), tensor).is_none() {
                checkpoint = checkpoint.add(name, tensor).unwrap();
            } else {
                wanted.remove(&name);
                return Ok(());
            }
        }
        for (key, value) in &metadata {
            checkpoint = checkpoint.metadata(key, value).unwrap();
        }
        checkpoint.commit().unwrap();

        let c = ModelCheckpoint::load(&path).unwrap();
        prop_assert_eq!(c.names(), wanted.keys().map(String::as_str).collect::<Vec<_>>());
        for (name, tensor) in wanted {
            prop_assert_eq!(&c.get(&name).unwrap(), tensor);
        }
        for (key, value) in &metadata {
            prop_assert_eq!(c.metadata(key), Some(value.as_str()));
        }
        let bytes = std::fs::read(&path).unwrap();
        prop_assert!(safetensors::SafeTensors::deserialize(&bytes).is_ok(), "the format's own crate reads it too");
    }

    #[test]
    fn text_comes_back_as_it_was_printed(columns in 1usize..5, numbers in prop::collection::vec(any::<f32>(), 5..40)) {
        let rows: Vec<_> = numbers.chunks_exact(columns).collect();
        let text: String = rows.iter().map(|row| row.iter().map(|x| format!("{x:?} ")).collect::<String>() + "\n").collect();
        let t = read(text).unwrap();
        prop_assert_eq!(t.shape(), &[rows.len(), columns]);
        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        prop_assert!(t.as_slice::<f32>().unwrap().iter().zip(rows.concat().iter()).all(same));
    }

    #[test]
    fn a_damaged_file_is_an_error_or_a_tensor_and_nothing_else(
        which in 0usize..4, damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut: Option<prop::sample::Index>,
    ) {
        let t = Tensor::new(&[3, 4], (0..12i32).collect::<Vec<_>>()).unwrap();
        let mut content = match which {
            0 => npy(1, "<i4", false, "(3, 4)", (0..12i32).map(i32::to_le_bytes)),
            1 => npy(2, ">i4", true, "(3, 4)", (0..12i32).map(i32::to_be_bytes)),
            2 => saved(&[("t", &t)]),
            _ => b"1 2 3\n4 5 6\n# end\n7,8,9\n".to_vec(),
        };
        for (at, byte) in damage {
            // The beginning of a file decides the most.
            let at = at.index(content.len().min(if byte & 1 == 0 { 128 } else { usize::MAX }));
            content[at] = byte;
        }
        if let Some(cut) = cut {
            content.truncate(cut.index(content.len()));
        }
        let directory = Directory::new();
        let path = directory.with("damaged", &content);
        if let Ok(tensor) = Tensor::open(&path) {
            prop_assert!(tensor.byte_len() <= content.len() * 4, "no more than the file can hold");
        }
        if let Ok(c) = ModelCheckpoint::load(&path) {
            for name in c.names() {
                if let Ok(tensor) = c.get(name) {
                    prop_assert!(tensor.byte_len() <= content.len() * 4);
                }
            }
        }
        drop(Tensor::from_file(&file(&content)));
    }
}

#[test]
fn metadata_that_looks_like_the_checksums_changes_nothing() -> Result<()> {
    let directory = Directory::new();
    let path = directory.path("m.safetensors");
    let w = Tensor::new(&[2], [1.0f32, 2.0])?;
    let zeros = "00000000 00000000";
    let texts = [
        ("a", "democratising.crc32"),
        ("b", zeros),
        ("c", "\"democratising.crc32\":\"00000000 00000000\""),
        ("democratising", zeros),
    ];
    let mut checkpoint = ModelCheckpoint::create(&path)?.add("w", &w)?;
    for (key, text) in texts {
        checkpoint = checkpoint.metadata(key, text)?;
    }
    checkpoint.commit()?;
    let c = ModelCheckpoint::load(&path)?;
    c.verify()?;
    assert!(c.info("w").unwrap().crc32.is_some());
    assert_eq!(c.get("w")?, w);
    for (key, text) in texts {
        assert_eq!(c.metadata(key), Some(text));
    }
    Ok(())
}

#[test]
fn a_damaged_name_of_the_checksums_is_a_damaged_header() -> Result<()> {
    let directory = Directory::new();
    let path = directory.path("m.safetensors");
    let w = Tensor::new(&[2], [1.0f32, 2.0])?;
    ModelCheckpoint::create(&path)?.add("w", &w)?.metadata("step", "7")?.commit()?;
    let content = std::fs::read(&path)?;
    let key = b"democratising.crc32";
    let at = content.windows(key.len()).position(|window| window == key).unwrap();
    for (byte, bit) in (at..at + key.len()).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
        let mut damaged = content.clone();
        damaged[byte] ^= 1 << bit;
        let error = ModelCheckpoint::load(directory.with("damaged", &damaged)).unwrap_err().to_string();
        assert!(error.contains("header"), "{byte} {bit}: {error}");
    }
    Ok(())
}
