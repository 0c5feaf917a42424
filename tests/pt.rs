//! PyTorch's files: those that PyTorch wrote, those that lie, and those that would run something. And NumPy's archives (`pt/npz.rs`), which are
//! zip files too.
#![cfg(feature = "std")]

#[path = "fs/common.rs"]
#[allow(dead_code, reason = "several tests share it")]
mod common;
#[path = "tools/listing.rs"]
mod listing;
#[path = "pt/npz.rs"]
mod npz;
#[cfg(unix)]
#[path = "pt/repeating.rs"]
mod repeating;
#[path = "fs/zip.rs"]
mod zip;

use common::Directory;
use democratising::fs::{Format, ModelCheckpoint};
use democratising::{DType, DemoError, Device, Result, Tensor};
use std::path::PathBuf;
use zip::zip;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/torch").join(name)
}

#[test]
fn what_pytorch_wrote_is_read_bit_for_bit() {
    let mut seen = 0;
    for entry in std::fs::read_dir(data("")).unwrap() {
        let path = entry.unwrap().path();
        let Some(file) = path.to_str().unwrap().strip_suffix(".txt") else { continue };
        let wanted = std::fs::read_to_string(&path).unwrap();
        let c = ModelCheckpoint::load(file).unwrap();
        assert_eq!(c.format(), "pt");
        assert_eq!(listing::lines(&c), wanted.lines().collect::<Vec<_>>(), "{file}");
        c.verify().unwrap();
        for (name, tensor) in c.load_to(&Device::host()).unwrap() {
            assert_eq!(tensor, c.get(&name).unwrap(), "{file}: {name}");
        }
        seen += 1;
    }
    assert!(seen >= 9, "{seen} files");
}

#[test]
fn numbers_and_texts_beside_the_tensors_are_metadata() -> Result<()> {
    for name in ["nested.pt", "nested_legacy.pt"] {
        let c = ModelCheckpoint::load(data(name))?;
        let seen = ["epoch", "loss", "done", "note"].map(|key| c.metadata(key));
        assert_eq!(seen, [Some("3"), Some("0.25"), Some("false"), Some("grüße")], "{name}");
        assert_eq!(c.metadata("optim.param_groups.0.lr"), Some("0.001"));
    }
    Ok(())
}

#[test]
fn views_of_one_storage_share_it() -> Result<()> {
    let c = ModelCheckpoint::load(data("views.pt"))?;
    let (base, turned) = (c.get("base")?, c.get("turned")?);
    assert_eq!(base.transpose(0, 1)?, turned);
    assert_eq!(turned.strides(), [1, 6]);
    assert!(matches!(turned.as_slice::<f32>(), Err(DemoError::NotContiguous { .. })));
    assert_eq!(turned.transpose(0, 1)?.as_slice::<f32>()?.as_ptr(), base.as_slice::<f32>()?.as_ptr());
    assert!(format!("{turned:?}").contains("mapped"), "{turned:?}");

    let loaded = c.load_to(&Device::host())?;
    let (base, turned) = (&loaded["base"], &loaded["turned"]);
    assert_eq!(turned.transpose(0, 1)?.as_slice::<f32>()?.as_ptr(), base.as_slice::<f32>()?.as_ptr());
    assert!(format!("{turned:?}").contains("pool"), "{turned:?}");
    Ok(())
}

#[test]
fn a_bare_tensor_is_read_by_itself() -> Result<()> {
    let wanted = Tensor::new(&[3, 2], [0.0f32, 3.0, 1.0, 4.0, 2.0, 5.0])?;
    for name in ["bare.pt", "bare_legacy.pt"] {
        assert_eq!(Tensor::open(data(name))?, wanted);
        let file = std::fs::File::open(data(name))?;
        assert_eq!(Tensor::from_file(&file)?, wanted);
    }
    Ok(())
}

#[test]
fn code_in_a_file_is_refused_by_its_name_and_never_run() {
    let error = ModelCheckpoint::load(data("trap.pt")).unwrap_err().to_string();
    assert!(error.contains("builtins.print") || error.contains("__builtin__.print"), "{error}");
    assert!(error.contains("nothing of it was run"), "{error}");
}

fn every_dtype() -> Vec<(String, Tensor)> {
    let bytes: Vec<u8> = (0..12u8 * 8).collect();
    let tensor = |dtype: DType, shape: &[usize]| {
        let n = shape.iter().product::<usize>() * dtype.size_bytes();
        let mut content =
            format!("{{\"t\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[0,{n}]}}}}")
                .into_bytes();
        content.splice(0..0, (content.len() as u64).to_le_bytes());
        content.extend(bytes[..n].iter().map(|&byte| if dtype == DType::Bool { byte & 1 } else { byte }));
        common::read(content).unwrap()
    };
    let mut all: Vec<_> =
        DType::ALL.iter().map(|&dtype| (format!("a.{dtype}"), tensor(dtype, &[3, 4]))).collect();
    all.push(("scalar".into(), tensor(DType::F32, &[])));
    all.push(("empty".into(), tensor(DType::I64, &[2, 0])));
    all.push(("view".into(), tensor(DType::I16, &[3, 4]).transpose(0, 1).unwrap().narrow(0, 1, 2).unwrap()));
    all
}

#[test]
fn every_dtype_comes_back_from_either_format() -> Result<()> {
    let directory = Directory::new();
    for (name, format) in [("m.pt", None), ("m.safetensors", None), ("m.data", Some(Format::PyTorch))] {
        let path = directory.path(name);
        let mut checkpoint = ModelCheckpoint::create(&path)?.metadata("step", "7")?.metadata("ü", "\n")?;
        for (name, tensor) in every_dtype() {
            checkpoint = checkpoint.add(name, &tensor)?;
        }
        if let Some(format) = format {
            checkpoint = checkpoint.format(format);
        }
        checkpoint.commit()?;
        let c = ModelCheckpoint::load(&path)?;
        assert_eq!(c.format(), if name == "m.safetensors" { "safetensors" } else { "pt" });
        c.verify()?;
        assert_eq!((c.metadata("step"), c.metadata("ü")), (Some("7"), Some("\n")));
        assert_eq!(c.all_metadata().count(), 2);
        let mut wanted: Vec<_> =
            every_dtype().iter().map(|(name, tensor)| listing::line(name, tensor)).collect();
        wanted.sort();
        assert_eq!(listing::lines(&c), wanted);
        for (name, _) in every_dtype() {
            assert!(c.info(&name).unwrap().crc32.is_some() || c.info(&name).unwrap().bytes == 0, "{name}");
        }
    }
    Ok(())
}

#[test]
fn a_damaged_byte_of_any_tensor_is_found_when_it_is_first_read() -> Result<()> {
    let directory = Directory::new();
    for name in ["m.pt", "m.safetensors"] {
        let path = directory.path(name);
        let tensor = Tensor::new(&[1000], (0..1000u32).collect::<Vec<_>>())?;
        ModelCheckpoint::create(&path)?.add("sound", &Tensor::zeros(&[100])?)?.add("w", &tensor)?.commit()?;
        let mut content = std::fs::read(&path)?;
        let at = content.windows(8).position(|w| w == [244, 1, 0, 0, 245, 1, 0, 0]).unwrap();
        content[at] ^= 0x10;
        std::fs::write(&path, content)?;

        let c = ModelCheckpoint::load(&path)?;
        assert_eq!(c.get("sound")?, Tensor::zeros(&[100])?);
        let w = c.get("w")?;
        for _ in 0..2 {
            let error = w.as_slice::<u32>().unwrap_err().to_string();
            assert!(error.contains("checksum") && error.contains(path.to_str().unwrap()), "{error}");
        }
        assert!(w != w.clone(), "nobody knows what it is");
        assert!(w.to_string().contains("damaged"), "{w}");
        assert!(matches!(w.clone().as_mut_slice::<u32>(), Err(DemoError::Format { .. })));
        assert!(c.verify().is_err() && c.verify_one("sound").is_ok());
        assert!(ModelCheckpoint::load(&path)?.load_to(&Device::host()).is_err());
        let elsewhere = ModelCheckpoint::create(directory.path("copy"))?.add("w", &w)?.commit();
        assert!(matches!(elsewhere, Err(DemoError::Format { .. })), "it is not saved as if it were sound");
        assert!(!directory.path("copy").exists());
        let forced = ModelCheckpoint::load_unchecked(&path)?.get("w")?;
        assert_eq!(forced.as_slice::<u32>()?[500], 500 ^ 0x10);
    }
    Ok(())
}

#[test]
fn a_damaged_header_is_found_when_the_file_is_opened() -> Result<()> {
    let directory = Directory::new();
    let path = directory.path("m.safetensors");
    ModelCheckpoint::create(&path)?
        .add("weight", &Tensor::zeros(&[10])?)?
        .metadata("step", "100")?
        .commit()?;
    let content = std::fs::read(&path)?;
    for (from, to) in
        [("weight", "weighu"), ("100", "101"), ("[10]", "[10 "), ("F32", "I32"), ("crc32", "crc33")]
    {
        let at = content.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut damaged = content.clone();
        damaged[at..at + to.len()].copy_from_slice(to.as_bytes());
        std::fs::write(&path, &damaged)?;
        let error = ModelCheckpoint::load(&path).unwrap_err().to_string();
        assert!(error.contains("header"), "{from}: {error}");
        assert!(Tensor::open(&path).is_err(), "{from}");
        assert_eq!(ModelCheckpoint::load_unchecked(&path).is_ok(), to != "[10 ", "{from}");
    }
    Ok(())
}

#[test]
fn what_a_pt_file_is_made_of_is_read_back_or_refused_by_the_commit() -> Result<()> {
    let directory = Directory::new();
    let path = directory.path("m.pt");
    let one = Tensor::zeros(&[1, 1, 1])?;
    let long = "x".repeat(65 << 20);
    let said = ModelCheckpoint::create(&path)?.metadata("a", &long)?.commit().unwrap_err().to_string();
    assert!(said.contains("more than the 67108864 that are read back") && said.contains("m.pt"), "{said}");
    let said = ModelCheckpoint::create(&path)?.add(&long, &one)?.commit().unwrap_err().to_string();
    assert!(said.contains("more than the 67108864 that are read back"), "{said}");
    #[cfg(target_pointer_width = "64")]
    {
        let lengthy = Tensor::zeros(&[usize::MAX, 0])?;
        let said = ModelCheckpoint::create(&path)?.add("w", &lengthy)?.commit().unwrap_err().to_string();
        assert!(said.contains("tensor \"w\" has a length of 18446744073709551615"), "{said}");
        assert!(!path.exists());
    }

    let wide = Tensor::zeros(&[0, 1 << (usize::BITS - 2), 8])?;
    let mut checkpoint = ModelCheckpoint::create(&path)?.add("wide", &wide)?;
    for i in 0..310_000 {
        checkpoint = checkpoint.add(format!("{i}"), &one)?;
    }
    checkpoint.commit()?;
    let c = ModelCheckpoint::load(&path)?;
    assert_eq!((c.names().len(), c.get("wide")?.shape()), (310_001, &[0, 1 << (usize::BITS - 2), 8][..]));
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_file_cut_short_while_it_is_open_is_an_error() -> Result<()> {
    let directory = Directory::new();
    for name in ["m.pt", "m.safetensors"] {
        let path = directory.path(name);
        let tensor = Tensor::new(&[100_000], (0..100_000u32).collect::<Vec<_>>())?;
        ModelCheckpoint::create(&path)?.add("w", &tensor)?.commit()?;
        let w = ModelCheckpoint::load(&path)?.get("w")?;
        std::fs::OpenOptions::new().write(true).open(&path)?.set_len(5000)?;
        let error = w.as_slice::<u32>().unwrap_err().to_string();
        assert!(error.contains("cut short while it was open: 5000 bytes are left"), "{error}");
    }
    Ok(())
}

/// A zip of one pickle, as PyTorch lays it out.
fn with_pickle(pickle: &[u8]) -> Vec<u8> {
    zip(&[("x/data.pkl", pickle), ("x/data/0", &[0; 64])], false)
}

const TENSOR: &str = "ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x10tQ";

#[test]
fn a_pickle_that_lies_is_refused() {
    let directory = Directory::new();
    let load = |pickle: &[u8]| ModelCheckpoint::load(directory.with("x.pt", with_pickle(pickle)));
    let tensor = |rest: &[u8]| [b"\x80\x02", TENSOR.as_bytes(), rest, b"."].concat();

    // What is loaded is gone before the file is written again: Windows lets nobody write to what is mapped.
    let sound = load(&tensor(b"K\x00K\x04K\x04\x86K\x04K\x01\x86\x89}tR")).unwrap().get("");
    assert_eq!(sound.unwrap(), Tensor::zeros(&[4, 4]).unwrap());
    let no = "is no length";
    let [many, none] = if cfg!(target_pointer_width = "64") {
        ["one element stands for many", "cannot exist"]
    } else {
        [no; 2]
    };
    for (rest, message) in [
        (&b"K\x01K\x04K\x04\x86K\x04K\x01\x86\x89}tR"[..], "not within the 16 elements"),
        (b"K\x00K\x04K\x04\x86K\x05K\x01\x86\x89}tR", "not within the 16 elements"),
        (b"K\x00J\xff\xff\xff\xff\x85K\x01\x85\x89}tR", "-1 is no length"),
        (b"J\xff\xff\xff\xffK\x01\x85K\x01\x85\x89}tR", "begins at element -1"),
        (b"K\x00K\x04\x85K\x01K\x01\x86\x89}tR", "not within"),
        (b"K\x00\x8a\x08\0\0\0\0\0\0\0\x10\x85K\x00\x85\x89}tR", many),
        (b"K\x00\x8a\x08\0\0\0\0\0\0\0\x70\x85K\x00\x85\x89}tR", none),
    ] {
        let said = match load(&tensor(rest)) {
            Ok(c) => c.get("").unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(said.contains(message), "{said}");
    }
    for (pickle, message) in [
        (&b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R."[..], "asks for os.system"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "asks for posix.system"),
        (b"\x80\x02", "cut short"),
        (b"\x80\x02X\xff\xff\xff\xffab", "cut short"),
        (b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\x7f", "cut short"),
        (b".", "stack is empty"),
        (b"tR.", "mark is missing"),
        (b"(0.", "stack is empty"),
        (b"h\x07.", "memo has no 7"),
        (b"]K\x01R.", "called"),
        (b"\x80\x02\xff.", "opcode 0xff"),
    ] {
        let said = load(pickle).unwrap_err().to_string();
        assert!(said.contains(message) && said.contains("its pickle"), "{said}");
    }
    // Dictionaries without end: each holds the one before twice.
    let mut twice = b"\x80\x02}q\x00X\x01\0\0\0xK\x01s0".to_vec();
    for _ in 0..40 {
        twice.extend(b"}(X\x01\0\0\0ah\x00X\x01\0\0\0bh\x00uq\x000");
    }
    twice.extend(b"h\x00.");
    assert!(load(&twice).unwrap_err().to_string().contains("again and again"));
    // One that holds itself, and one that is very deep.
    assert!(load(b"]q\x00h\x00a.").unwrap_err().to_string().contains("nested more than"));
    let deep = [b"\x80\x02N".to_vec(), vec![0x85; 1_000_000], b".".to_vec()].concat();
    assert!(load(&deep).unwrap_err().to_string().contains("nested more than"));
}

/// A pickle of one tensor of 20 numbers: its shape and strides, and where it stands.
fn twenty(strides: u8) -> Vec<u8> {
    [b"\x80\x02", TENSOR.as_bytes(), b"K\x00K\x14\x85K", &[strides], b"\x85\x89}tR."].concat()
}

fn floats(bytes: impl Fn(f32) -> [u8; 4]) -> Vec<u8> {
    (0..20).flat_map(|i| bytes(i as f32)).collect()
}

#[test]
fn bytes_of_either_order_are_read() {
    let directory = Directory::new();
    let wanted: Vec<f32> = (0..20).map(|i| i as f32).collect();
    for (order, bytes) in [("little", floats(f32::to_le_bytes)), ("big", floats(f32::to_be_bytes))] {
        let members =
            [("x/data.pkl", &twenty(1)[..]), ("x/byteorder", order.as_bytes()), ("x/data/0", &bytes)];
        let checkpoint = ModelCheckpoint::load(directory.with("x.pt", zip(&members, false))).unwrap();
        assert_eq!(checkpoint.get("").unwrap().as_slice::<f32>().unwrap(), wanted, "{order}");
        let read = checkpoint.load_to(&Device::host()).unwrap();
        assert_eq!(read[""].as_slice::<f32>().unwrap(), wanted, "{order}");
    }
}

#[test]
fn what_pytorch_writes_seldom_is_read_or_named() {
    let directory = Directory::new();
    let bytes = floats(f32::to_le_bytes);
    let load = |content: &[u8]| ModelCheckpoint::load(directory.with("x.pt", content)).unwrap();
    let of = |pickle: &[u8], deflated| zip(&[("x/data.pkl", pickle), ("x/data/0", &bytes)], deflated);
    let get = |content: &[u8]| load(content).get("").unwrap().to_vec::<f32>().unwrap();
    let expanded = zip(&[("x/data.pkl", &twenty(0)), ("x/data/0", &[0, 0, 128, 63])], false);
    assert_eq!(get(&expanded), [1.0; 20], "expand() of one element");
    let said = load(&of(&twenty(1), true)).get("").unwrap_err().to_string();
    assert!(said.contains("\"x/data/0\" is compressed"), "{said}");

    // It can be told to leave the checksums out: behind the name are 16 and 30 bytes to go back.
    let mut unsummed = of(&twenty(1), false);
    let is_name = |at: &usize| unsummed[*at..].starts_with(b"x/data/0");
    let [local, table] = (0..unsummed.len()).filter(is_name).collect::<Vec<_>>()[..] else { panic!("two") };
    unsummed[local - 16..local - 12].fill(0);
    unsummed[table - 30..table - 26].fill(0);
    assert_eq!(get(&unsummed).len(), 20);

    let outermost = load(&zip(&[("data.pkl", &twenty(1)), ("data/0", &bytes)], false));
    assert_eq!((outermost.format(), outermost.get("").unwrap().len()), ("pt", 20));
    drop(outermost);
    let array = common::npy(1, "<f4", false, "(2,)", [[0; 4]; 2]);
    let deep = load(&zip(&[("a/b/data.pkl", &twenty(1)), ("w.npy", &array)], false));
    assert_eq!((deep.format(), deep.get("w").unwrap().len()), ("npz", 2));
}

#[test]
fn two_tensors_that_come_to_one_name_are_an_error() {
    let tensor = [TENSOR.as_bytes(), b"K\x00K\x04\x85K\x01\x85\x89}tR"].concat();
    let pickle =
        [b"\x80\x02}(X\x03\0\0\0a.b", &tensor[..], b"X\x01\0\0\0a}X\x01\0\0\0b", &tensor, b"su."].concat();
    let directory = Directory::new();
    let said = ModelCheckpoint::load(directory.with("x.pt", with_pickle(&pickle))).unwrap_err().to_string();
    assert!(said.contains("two tensors come to the name \"a.b\""), "{said}");
}

#[test]
fn a_file_of_the_old_format_that_is_cut_in_its_bytes_is_refused() {
    let whole = std::fs::read(data("bare_legacy.pt")).unwrap();
    let directory = Directory::new();
    for missing in [1, 4, 9] {
        let path = directory.with("cut.pt", &whole[..whole.len() - missing]);
        let said = ModelCheckpoint::load(path).unwrap_err().to_string();
        assert!(said.contains("cut short in storage"), "{missing}: {said}");
    }
}

#[test]
fn a_tensor_may_be_larger_than_what_one_element_may_be_repeated_to() -> Result<()> {
    let directory = Directory::new();
    let path = directory.path("large.pt");
    let large = Tensor::zeros_with(&[(64 << 20) + 1], DType::U8, &Device::host())?;
    ModelCheckpoint::create(&path)?.add("large", &large)?.commit()?;
    assert_eq!(ModelCheckpoint::load(&path)?.get("large")?.shape(), [(64 << 20) + 1]);
    Ok(())
}

#[test]
fn an_archive_is_read_from_where_its_file_stands_to_the_end() -> Result<()> {
    use std::io::{Seek, SeekFrom};
    let array = common::npy(1, "<f4", false, "(2,)", [[0; 4], [0, 0, 128, 63]]);
    for before in [0, 7] {
        let content = [&vec![b'x'; before][..], &zip(&[("a.npy", &array)], false)].concat();
        let mut file = common::file(&content);
        file.seek(SeekFrom::Start(before as u64)).unwrap();
        assert_eq!(Tensor::from_file(&file)?, Tensor::new(&[2], [0.0f32, 1.0])?, "{before}");
        assert_eq!(file.stream_position().unwrap(), content.len() as u64, "{before}");
    }
    Ok(())
}

#[test]
fn an_archive_that_lies_is_refused_and_takes_no_memory() {
    let directory = Directory::new();
    let load =
        |content: Vec<u8>| ModelCheckpoint::load(directory.with("x", content)).unwrap_err().to_string();
    let whole = with_pickle(b"\x80\x02}.");
    assert!(ModelCheckpoint::load(directory.with("x", &whole)).is_ok());
    assert!(load(zip(&[], false)).contains("a zip archive without an array"), "as numpy.savez of nothing");
    for end in [5, whole.len() / 2, whole.len() - 1] {
        let said = load(whole[..end].to_vec());
        assert!(said.contains("no table at its end"), "{said}");
    }
    let table = whole.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut lie = whole.clone();
        lie[at..at + bytes.len()].copy_from_slice(bytes);
        load(lie)
    };
    assert!(with(table + 24, &[255, 255, 255, 0x7f]).contains("claims to unpack"));
    assert!(with(table + 20, &[255, 255, 255, 0x7f]).contains("lies outside"));
    assert!(with(table + 42, &[255, 255, 255, 0x7f]).contains("lies outside"));
    // As long as to the end of the next one, and to the middle of it.
    for bytes in [4 + 30 + 8 + 64, 4 + 30 + 8 + 1] {
        assert!(with(table + 20, &[bytes, 0, 0, 0, bytes, 0, 0, 0]).contains("its bytes are also those of"));
    }
    assert!(with(table + 20, &[255; 4]).contains("64-bit sizes"));
    assert!(with(table + 8, &[1]).contains("encrypted"));
    assert!(with(table + 10, &[12]).contains("method 12"));
    assert!(with(whole.len() - 12, &[200, 0]).contains("its table ends before the 200 members"));
    assert!(with(whole.len() - 10, &[255, 255, 255]).contains("is not within the file"));
    assert!(with(table + 16, &[1, 2, 3, 4]).contains("damaged"));
    // Tables of many megabytes in some kilobytes: too large, and too much to do.
    for (fill, megabytes, message) in [(b'N', 200u32, "more than the"), (b'}', 60, "more opcodes than")] {
        let packed = {
            use std::io::Write;
            let mut packed = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
            (0..megabytes).for_each(|_| packed.write_all(&vec![fill; 1 << 20]).unwrap());
            packed.finish().unwrap()
        };
        let mut bomb = zip(&[("x/data.pkl", &packed)], false);
        let table = bomb.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
        bomb[table + 10] = 8;
        bomb[table + 24..table + 28].copy_from_slice(&(megabytes << 20).to_le_bytes());
        let mut whole = crc32fast::Hasher::new();
        (0..megabytes).for_each(|_| whole.update(&vec![fill; 1 << 20]));
        bomb[table + 16..table + 20].copy_from_slice(&whole.finalize().to_le_bytes());
        let said = load(bomb);
        assert!(said.contains(message), "{said}");
    }
}

#[test]
fn a_message_is_short_however_long_what_it_tells_of() {
    const LENGTH: usize = 100_000;
    let directory = Directory::new();
    let long = "\u{1}".repeat(LENGTH);
    let key = [&b"X"[..], &(LENGTH as u32).to_le_bytes(), long.as_bytes()].concat();
    let mut refused = Vec::new();
    for op in [b'F', b'I', b'g'] {
        let pickle = [&b"\x80\x02"[..], &[op], long.as_bytes(), b"\n."].concat();
        refused.push(ModelCheckpoint::load(directory.with("x.pt", zip(&[("x/data.pkl", &pickle)], true))));
    }
    let tensor = [TENSOR.as_bytes(), b"K\x00K\x09\x85K\x09\x85\x89}tR"].concat();
    let pickle = [&b"\x80\x02}"[..], &key, &tensor, b"s."].concat();
    let damaged = ModelCheckpoint::load(directory.with("y.pt", with_pickle(&pickle))).unwrap();
    let error = damaged.get(damaged.names()[0]).unwrap_err().to_string();
    assert!(error.contains("is not within") && error.len() < 10_000, "{} bytes", error.len());

    for header in [format!("{{\"a\":\"{}\"}}", "x".repeat(LENGTH)), format!("{{\"{}\"", "x".repeat(LENGTH))] {
        let content = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
        refused.push(ModelCheckpoint::load(directory.with("z", content)));
    }
    // Of characters of two bytes, cut between two of them wherever they begin.
    for name in ["\u{e9}".repeat(3000), format!("x{}", "\u{e9}".repeat(3000))] {
        refused.push(ModelCheckpoint::load(directory.with("z", zip(&[(&name, b""), (&name, b"")], false))));
    }
    for refused in refused {
        let error = refused.unwrap_err().to_string();
        assert!(error.len() < 10_000, "{} bytes", error.len());
    }
}

/// Whether nothing that was wrong with the file is passed over: it cannot be loaded, or is not verified, or gives its tensor.
fn is_told(path: &std::path::Path, name: &str) -> bool {
    match ModelCheckpoint::load(path) {
        Ok(checkpoint) => checkpoint.verify().is_err() || checkpoint.get(name).is_ok(),
        Err(_) => true,
    }
}

#[test]
fn a_file_is_verified_only_where_every_tensor_can_be_had() {
    let directory = Directory::new();
    let path = directory.path("a.pt");
    ModelCheckpoint::create(&path)
        .unwrap()
        .add("w", &Tensor::zeros(&[35]).unwrap())
        .unwrap()
        .commit()
        .unwrap();
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << bit;
            std::fs::write(&path, damaged).unwrap();
            assert!(is_told(&path, "w"), "bit {bit} of byte {at}");
        }
    }
    let pickle = [b"\x80\x02", TENSOR.as_bytes(), b"K\x00K\x04K\x04\x86K\x04K\x01\x86\x89}tR."].concat();
    let path = directory.with("missing.pt", zip(&[("x/data.pkl", &pickle)], false));
    let error = ModelCheckpoint::load(&path).unwrap().verify().unwrap_err().to_string();
    assert!(error.contains("it has no \"x/data/0\"") && error.contains("missing.pt"), "{error}");
}

#[test]
fn a_member_whose_name_or_number_is_damaged_is_told_and_none_is_left_out() {
    let directory = Directory::new();
    let real = common::npy(1, "<f4", false, "(2,)", [[0; 4]; 2]);
    let whole = zip(&[("weights.npy", &real), ("z.npy", &real)], false);
    for (damaged, message) in [
        (0, "is called \"weights.npy\" where its bytes are"),
        (1, "its table has more than the 1 members that it announces"),
    ] {
        let mut bytes = whole.clone();
        if damaged == 0 {
            let name = bytes.windows(7).rposition(|w| w == b"weights").unwrap();
            bytes[name] ^= 1;
        } else {
            let end = bytes.windows(4).rposition(|w| w == b"PK\x05\x06").unwrap();
            bytes[end + 8..end + 12].copy_from_slice(&[1, 0, 1, 0]);
        }
        let path = directory.with("a.npz", bytes);
        let error = ModelCheckpoint::load(&path).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}
