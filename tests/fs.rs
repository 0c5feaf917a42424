//! Files: what is read, what is refused and how it is said. Checkpoints are in `safetensors.rs`, their faults in `durable.rs`.
#![cfg(feature = "std")]
#![cfg_attr(not(unix), allow(unused_imports))]

#[path = "fs/common.rs"]
mod common;

use common::{Directory, file, npy, npy_with, read, refusal, saved};
use democratising::fs::ModelCheckpoint;
use democratising::{DType, DemoError, MemoryPool, Result, Tensor};
use std::fs::File;
use std::io::{Error, ErrorKind, Seek, SeekFrom, Write};
#[cfg(unix)]
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

// ---- what is said ----

#[test]
fn an_empty_file_is_said_to_be_empty_and_not_to_be_of_a_format() {
    let directory = Directory::new();
    let path = directory.with("model.npz", "");
    let said = ModelCheckpoint::load(&path).map(drop).unwrap_err().to_string();
    assert_eq!(said, format!("cannot read checkpoint {}: the file is empty", path.display()));
}

#[test]
fn an_error_of_a_connection_that_a_program_passes_on_is_not_said_to_be_of_a_file() {
    let error = DemoError::from(Error::from(ErrorKind::ConnectionReset));
    assert_eq!(error.to_string(), "cannot do an I/O operation: connection reset");
}

// ---- text ----

#[test]
fn numbers_are_separated_by_whitespace_or_commas() -> Result<()> {
    let wanted = Tensor::new(&[2, 3], [1.0f32, -2.5, 3e2, 4.0, 0.5, 6.0])?;
    for text in [
        "1 -2.5 3e2\n4 .5 6",
        "1,-2.5,300\n4,0.5,6\n",
        "1\u{b}-2.5\u{c}3e2\n4 .5 6",
        "1, -2.5 ,\t3e2\r\n+4\t0.5 , 6.\r\n",
        "\u{feff}1 -2.5 300\n4 5e-1 6\n",
        "# x y z\n\n  1 -2.5 3e2 # the first\n\n#\n   \n4 0.5 6#the second\n\n",
    ] {
        assert_eq!(read(text)?, wanted, "{text:?}");
    }
    Ok(())
}

#[test]
fn a_text_of_a_few_bytes_is_a_checkpoint_as_a_longer_one_is() -> Result<()> {
    let directory = Directory::new();
    for text in ["7", "1 2", "1,2\n", "\u{feff}8\n", "1\n2\n3\n4\n", "1 2 3 4\n"] {
        let path = directory.with("small.csv", text);
        assert_eq!(ModelCheckpoint::load(&path)?.get("")?, Tensor::open(&path)?, "{text:?}");
    }
    let path = directory.with("small.csv", "1 2\n3\n");
    let said = ModelCheckpoint::load(&path).unwrap_err().to_string();
    assert!(said.contains("text") && said.contains("line 2: this row has 1 numbers"), "{said}");
    // No text begins so.
    let path = directory.with("cut.safetensors", [0x98]);
    let said = ModelCheckpoint::load(&path).unwrap_err().to_string();
    assert!(said.contains("a file of 1 bytes has no room for the header's length"), "{said}");
    Ok(())
}

#[test]
fn text_has_two_dimensions_whatever_it_holds() -> Result<()> {
    assert_eq!(read("1 2 3\n")?.shape(), [1, 3]);
    assert_eq!(read("1\n2\n3\n")?.shape(), [3, 1]);
    assert_eq!(read("7")?.shape(), [1, 1]);
    Ok(())
}

#[test]
fn infinities_and_nan_are_numbers_when_they_are_written() -> Result<()> {
    let t = read("inf -inf nan Infinity 3.4028235e38\n")?;
    let t = t.as_slice::<f32>()?;
    assert_eq!((t[0], t[1], t[3], t[4]), (f32::INFINITY, f32::NEG_INFINITY, f32::INFINITY, f32::MAX));
    assert!(t[2].is_nan());
    assert_eq!(
        refusal("1\n2\n1e39\n"),
        "cannot read text line 3, field 1: \"1e39\" is more than an f32 can hold"
    );
    Ok(())
}

#[test]
fn a_first_line_of_names_is_skipped() -> Result<()> {
    for text in [
        "price,volume\n1,2\n3,4\n",
        "price, volume\r\n1, 2\r\n3, 4\r\n",
        "\"price, in cents\",\"volume\"\n1,2\n3,4\n",
        "\n# both daily\n,volume # of shares\n1,2\n3,4",
        "price volume\n1 2\n3 4\n",
        "\"the price\" volume\n1 2\n3 4\n",
    ] {
        let t = read(text)?;
        assert_eq!((t.shape(), t.as_slice::<f32>()?), (&[2, 2][..], &[1., 2., 3., 4.][..]), "{text:?}");
    }
    let wide: String = (0..200_000).map(|i| format!("column {i},")).collect::<String>() + "last\n1";
    let said = refusal(wide);
    assert!(said.contains("\"column\" is no number"), "longer than a line of names may be: {said}");
    Ok(())
}

#[test]
fn text_that_is_no_table_is_refused_with_its_place() {
    for (text, message) in [
        ("1 2\n3\n", "line 2: this row has 1 numbers, those above have 2"),
        ("1 2\n\n3 4 5\n", "line 3: this row has 3 numbers, those above have 2"),
        ("1 2\n3 x4 5\n", "line 2, field 2: \"x4\" is no number"),
        ("a,2\n1,2\n", "line 1, field 1: \"a\" is no number; begin the line with # to have it skipped"),
        ("1,2\na,b\n", "line 2, field 1: \"a\" is no number"),
        ("a,b\n1,2,3\n", "line 2: this row has 3 numbers, the first line names 2"),
        ("a,b\nc,d\n1,2\n", "line 2, field 1: \"c\" is no number"),
        ("a,b\n", "cannot read text: it holds no number"),
        (",\n1,2\n", "line 1, field 1: a number is missing beside a comma"),
        ("1,,2\n", "line 1, field 2: a number is missing beside a comma"),
        ("1,2,\n", "line 1, field 3: a number is missing beside a comma"),
        ("1\n,2\n", "line 2, field 1: a number is missing beside a comma"),
        ("1,#2\n", "line 1, field 2: a number is missing beside a comma"),
        ("1;2\n", "line 1, field 1: \"1;2\" is no number"),
        ("0x10\n", "line 1, field 1: \"0x10\" is no number"),
        ("1 é\n", "line 1, field 2: \"é\" is no number"),
        ("", "cannot read text: it holds no number"),
        ("\n# nothing\n", "cannot read text: it holds no number"),
    ] {
        let said = refusal(text);
        assert!(said.contains(message), "{text:?}: {said}");
    }
    let endless = refusal("9".repeat(100_000));
    assert!(endless.contains("line 1, field 1: a field of more than"), "{endless}");
}

#[test]
fn a_large_text_is_read_piece_by_piece() -> Result<()> {
    let rows: String = (0..20_000).map(|i| format!("{i}, {}, {}\n", i * 2, i * 3)).collect();
    let t = read(rows)?;
    assert_eq!(t.shape(), [20_000, 3]);
    assert_eq!(t.as_slice::<f32>()?[59_997..], [19_999.0, 39_998.0, 59_997.0]);
    Ok(())
}

// ---- what a file is ----

#[test]
fn a_file_is_read_from_where_it_stands() -> Result<()> {
    let mut file = file("not this line\n1 2\n");
    file.seek(SeekFrom::Start(14))?;
    assert_eq!(Tensor::from_file(&file)?.shape(), [1, 2]);
    assert!(Tensor::from_file(&file).is_err(), "nothing is left");
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_pipe_is_read_like_a_file() -> Result<()> {
    let numbers = [1f32, 2., 3., 4.];
    let wanted = Tensor::new(&[2, 2], numbers)?;
    let array = npy(1, "<f4", false, "(2, 2)", numbers.map(f32::to_le_bytes));
    for content in [b"1 2\n3 4\n".to_vec(), array, saved(&[("w", &wanted)])] {
        // `cat` hands on what comes, byte for byte.
        let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut to = cat.stdin.take().unwrap();
        let file = File::from(OwnedFd::from(cat.stdout.take().unwrap()));
        let writing =
            std::thread::spawn(move || content.iter().for_each(|&byte| to.write_all(&[byte]).unwrap()));
        assert_eq!(Tensor::from_file(&file)?, wanted);
        writing.join().unwrap();
        assert!(cat.wait()?.success());
    }
    Ok(())
}

#[test]
fn a_file_of_no_known_kind_is_refused() {
    let zip = refusal(b"PK\x03\x04rest of an archive");
    assert!(zip.contains("cannot read zip: it has no table at its end"), "{zip}");
    let binary = refusal([0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    assert!(binary.contains("7f, 45"), "{binary}");
    #[cfg(unix)]
    {
        let error = Tensor::open("/dev/zero").unwrap_err();
        assert!(error.to_string().starts_with("cannot read tensor /dev/zero: it is no npy"), "{error}");
    }
}

#[test]
fn an_opened_path_is_named_in_every_error() {
    let directory = Directory::new();
    let (text, cut) =
        (directory.with("a.csv", "1 2\n3\n"), directory.with("b.npy", b"\x93NUMPY\x01\x00\x10\x00{"));
    let bools = directory.with("c.npy", npy(1, "|b1", false, "(3,)", [[0], [1], [2]]));
    for (path, message) in [
        (text, "line 2: this row has 1 numbers"),
        (cut, "cut short inside the header"),
        (bools, "element 2: a bool is stored as 0 or 1, not 2"),
        (directory.path("missing"), "cannot open"),
        (directory.path(""), if cfg!(windows) { "cannot open" } else { "cannot read" }),
    ] {
        let error = Tensor::open(&path).unwrap_err().to_string();
        assert!(error.contains(message) && error.contains(path.to_str().unwrap()), "{error}");
    }
}

// ---- npy ----

/// `numpy.save` of `numpy.arange(6, dtype='>i2').reshape(2, 3, order='F')`, byte for byte (NumPy 2).
const SAVED_BY_NUMPY: &[u8] = b"\x93NUMPY\x01\x00\x76\x00{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3), }\
    \x20                                                          \n\x00\x00\x00\x01\x00\x02\x00\x03\x00\x04\x00\x05";

#[test]
fn what_numpy_saved_is_read() -> Result<()> {
    assert_eq!(read(SAVED_BY_NUMPY)?, Tensor::new(&[2, 3], [0i16, 2, 4, 1, 3, 5])?);
    Ok(())
}

#[test]
fn npy_of_every_version_and_byte_order_is_read() -> Result<()> {
    let wanted = Tensor::new(&[3], [1.5f64, -2.0, 1e300])?;
    for version in [1, 2, 3] {
        let little = wanted.as_slice::<f64>()?.iter().map(|x| x.to_le_bytes());
        assert_eq!(read(npy(version, "<f8", false, "(3,)", little))?, wanted);
        let big = wanted.as_slice::<f64>()?.iter().map(|x| x.to_be_bytes());
        assert_eq!(read(npy(version, ">f8", true, "(3,)", big))?, wanted);
    }
    Ok(())
}

#[test]
fn npy_in_fortran_order_is_turned_around() -> Result<()> {
    // Element (i, j, k) is 100i + 10j + k; the first index changes fastest in the file.
    let (a, b, c) = (3, 50, 41);
    let mut in_file = Vec::new();
    for k in 0..c {
        for j in 0..b {
            for i in 0..a {
                in_file.push((10_000 * i + 100 * j + k) as u32);
            }
        }
    }
    let content = npy(1, "<u4", true, "(3, 50, 41)", in_file.iter().map(|x| x.to_le_bytes()));
    let t = read(content)?;
    assert_eq!(t.shape(), [3, 50, 41]);
    let t = t.as_slice::<u32>()?;
    for i in 0..a {
        for j in 0..b {
            for k in 0..c {
                assert_eq!(t[(i * b + j) * c + k], (10_000 * i + 100 * j + k) as u32);
            }
        }
    }
    Ok(())
}

#[test]
fn npy_of_every_number_type_is_read() -> Result<()> {
    let one =
        |descr: &str, bytes: &[u8]| read([&npy(1, descr, false, "(1,)", [[0u8; 0]])[..], bytes].concat());
    assert_eq!(one("|b1", &[1])?, Tensor::new(&[1], [true])?);
    assert_eq!(one("|i1", &[255])?, Tensor::new(&[1], [-1i8])?);
    assert_eq!(one("|u1", &[255])?, Tensor::new(&[1], [255u8])?);
    assert_eq!(one("<i2", &[1, 2])?, Tensor::new(&[1], [0x201i16])?);
    assert_eq!(one(">u2", &[1, 2])?, Tensor::new(&[1], [0x102u16])?);
    assert_eq!(one("<i4", &[1, 0, 0, 0x80])?, Tensor::new(&[1], [i32::MIN + 1])?);
    assert_eq!(one(">u4", &[0, 0, 0, 9])?, Tensor::new(&[1], [9u32])?);
    assert_eq!(one("<i8", &[255; 8])?, Tensor::new(&[1], [-1i64])?);
    assert_eq!(one(">u8", &[0, 0, 0, 0, 0, 0, 1, 0])?, Tensor::new(&[1], [256u64])?);
    assert_eq!(one("<f4", &1.5f32.to_le_bytes())?, Tensor::new(&[1], [1.5f32])?);
    assert_eq!(one(">f8", &1.5f64.to_be_bytes())?, Tensor::new(&[1], [1.5f64])?);
    let half = one(">f2", &[0x3e, 0x00])?;
    assert_eq!((half.dtype(), half.as_bytes().unwrap()), (DType::F16, &0x3e00u16.to_ne_bytes()[..]));
    Ok(())
}

#[test]
fn npy_scalars_and_empty_arrays_are_read() -> Result<()> {
    assert_eq!(read(npy(1, "<f4", false, "()", [2.5f32.to_le_bytes()]))?, Tensor::new(&[], [2.5f32])?);
    assert_eq!(read(npy(1, "<f4", true, "(0, 3)", [[0u8; 0]]))?, Tensor::zeros(&[0, 3])?);
    assert_eq!(
        read(npy(1, "<f4", false, "(1L,)", [2.5f32.to_le_bytes()]))?.shape(),
        [1],
        "as Python 2 wrote it"
    );
    Ok(())
}

#[test]
fn several_arrays_in_one_file_are_read_by_as_many_calls() -> Result<()> {
    let mut content = npy(1, "|u1", false, "(2,)", [[1], [2]]);
    content.extend(npy(2, "|u1", false, "(1,)", [[3]]));
    let file = file(&content);
    assert_eq!(Tensor::from_file(&file)?, Tensor::new(&[2], [1u8, 2])?);
    assert_eq!(Tensor::from_file(&file)?, Tensor::new(&[1], [3u8])?);

    let directory = Directory::new();
    let error = Tensor::open(directory.with("two.npy", &content)).unwrap_err().to_string();
    assert!(error.contains("byte 130: something follows the array"), "{error}");
    Ok(())
}

#[test]
fn npy_that_is_no_array_of_numbers_is_refused_by_its_type() {
    for (descr, message) in [
        ("|O", "\"|O\": Python objects"),
        ("<c16", "\"<c16\": complex numbers"),
        ("<U7", "\"<U7\": strings"),
        ("|S3", "\"|S3\": strings"),
        ("<M8[s]", "\"<M8[s]\": dates"),
        ("|V2", "\"|V2\": raw bytes"),
        ("<f16", "\"<f16\": floats of a width"),
        ("|i4", "\"|i4\": nothing"),
        ("", "\"\": nothing"),
        ("\u{e9}", "nothing"),
    ] {
        let said = refusal(npy(3, descr, false, "(1,)", [[0; 16]]));
        assert!(said.contains(message), "{said}");
    }
    let structured = "{'descr': [('a', '<f4'), ('b', '<i4')], 'fortran_order': False, 'shape': (1,), }";
    let said = refusal(npy_with(1, structured, [[0; 8]]));
    assert!(said.contains("[('a', '<f4'), ('b'") && said.contains("structured"), "{said}");
}

#[test]
fn an_npy_header_that_is_wrong_is_refused_with_its_place() {
    for (header, message) in [
        ("{'descr': '<f4', 'fortran_order': False}", "the key \"shape\" is missing"),
        ("{'fortran_order': False, 'shape': ()}", "the key \"descr\" is missing"),
        ("{'descr': '<f4', 'shape': ()}", "the key \"fortran_order\" is missing"),
        ("{'descr': '<f4', 'fortran_order': 0, 'shape': ()}", "byte 44: True or False was expected, not '0'"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", "a length was expected, not '-'"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': 3}", "'(' was expected, not '3'"),
        (
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
            "more than can be counted",
        ),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967295, 4294967295)}", "cannot exist"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1)}", "more than 8 dimensions"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (), 'x': 1}", "a key \"x\" that no array has"),
        ("{'descr': '<f4', 'descr': '<f4'}", "the key \"descr\" twice"),
        ("{'descr': '<f4", "a string without an end"),
        ("{'descr': '<f\\x34'}", "a string with an escape"),
        ("[]", "byte 10: '{' was expected, not '['"),
        ("{} {}", "something follows the dictionary"),
        ("", "'{' was expected, not the end of the header"),
    ] {
        let said = refusal(npy_with(1, header, [[0; 4]]));
        assert!(said.starts_with("cannot read npy") && said.contains(message), "{header}: {said}");
    }
    assert!(refusal(npy(4, "<f4", false, "()", [[0; 4]])).contains("version 4.0"));
    let nested = format!("{{'descr': {}", "[(".repeat(30_000));
    assert!(refusal(npy_with(1, &nested, [[0; 4]])).contains("structured"));
}

#[test]
fn an_npy_file_cut_anywhere_is_refused() {
    let whole = npy(2, "<f4", false, "(2, 3)", [[7; 4]; 6]);
    assert!(read(&whole).is_ok());
    for end in 6..whole.len() {
        let said = refusal(&whole[..end]);
        assert!(said.contains("cut short"), "at {end}: {said}");
    }
}

#[test]
fn what_stands_before_an_array_is_not_counted_as_its_elements() -> Result<()> {
    let mut content = vec![0; 1000];
    content.extend(npy(1, "<f4", false, "(3,)", [[7; 4]; 2]));
    let mut file = file(content);
    file.seek(SeekFrom::Start(1000))?;
    let error = Tensor::from_file(&file).unwrap_err().to_string();
    assert!(error.contains("have 12 bytes, but only 8 are there"), "{error}");
    Ok(())
}

#[test]
fn a_header_that_promises_too_much_takes_no_memory() {
    let before = MemoryPool::stats().peak_in_use_bytes;
    let wide = ["(1099511627776,)", "(2147483648, 1024)"];
    for shape in if cfg!(target_pointer_width = "64") { wide } else { ["(268435456,)", "(262144, 1024)"] } {
        let said = refusal(npy(1, "<f4", false, shape, [[0; 4]]));
        assert!(said.contains("but only 4 are there"), "{said}");
    }
    let mut long = b"\x93NUMPY\x02\x00".to_vec();
    long.extend(u32::MAX.to_le_bytes());
    assert!(refusal(&long).contains("a header of 4294967295 bytes"));
    assert!(MemoryPool::stats().peak_in_use_bytes < before + (1 << 30));
}

// ---- mapped files in memory ----

/// What the process has in memory of files.
#[cfg(target_os = "linux")]
fn resident_of_files() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

#[cfg(target_os = "linux")]
#[test]
fn a_collection_lets_the_pages_of_mapped_files_go_and_they_come_again() -> Result<()> {
    use democratising::{fs::ModelCheckpoint, gc};
    const ELEMENTS: usize = 8 << 20;
    let folder = democratising::fs::temp_dir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let path = folder.path().join("w.safetensors");
    let numbers: Vec<f32> = (0..ELEMENTS).map(|i| i as f32).collect();
    ModelCheckpoint::create(&path)?.add("w", &Tensor::new(&[ELEMENTS], numbers)?)?.commit()?;
    let tensor = ModelCheckpoint::load(&path)?.get("w")?;
    let sum = || -> Result<f64> { Ok(tensor.as_slice::<f32>()?.iter().map(|&x| f64::from(x)).sum()) };
    let first = sum()?;
    let before = resident_of_files();
    // A pool that ran out is not helped by it.
    let mut report = gc::host_report(1000);
    report.limit_bytes = u64::MAX;
    let _ = gc::with_retry(|_| -> Result<()> { Err(report.clone().into()) });
    assert!(resident_of_files() + (4 << 20) > before);
    let collected = gc::collect()?;
    assert!(collected.mapped_bytes >= ELEMENTS as u64 * 4, "{collected:?}");
    let after = resident_of_files();
    assert!(after + (28 << 20) < before, "{before} {after}");
    assert_eq!(gc::collect()?.mapped_bytes, 0, "nobody looked since");
    assert_eq!(sum()?, first);
    // Of mapped bytes: of any other kind, what the tests beside this one leave idle would be enough.
    assert!(gc::collect_resource(gc::Resource::MappedBytes, 1 << 20)? >= 1 << 20);
    Ok(())
}
