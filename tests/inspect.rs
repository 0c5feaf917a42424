//! The program's `inspect`.
#![cfg(feature = "cli")]

#[path = "fs/common.rs"]
#[allow(dead_code, reason = "several tests share it")]
mod common;
#[path = "common/start.rs"]
mod start;
#[path = "fs/zip.rs"]
mod zip;

use common::{Directory, npy};
use democratising::Tensor;
use democratising::fs::ModelCheckpoint;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn inspect(arguments: &[&str], file: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_democratising"));
    start::output(command.arg("inspect").args(arguments).arg(file)).unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn checkpoint(directory: &Directory, name: &str) -> std::path::PathBuf {
    let path = directory.path(name);
    let w = Tensor::new(&[2, 50], (0..100i32).collect::<Vec<_>>()).unwrap();
    let c = ModelCheckpoint::create(&path).unwrap().add("w", &w).unwrap();
    c.add("scale", &Tensor::new(&[], [2.0f32]).unwrap())
        .unwrap()
        .metadata("step", "7")
        .unwrap()
        .commit()
        .unwrap();
    path
}

#[test]
fn a_file_is_listed_as_a_table_and_as_json() {
    let directory = Directory::new();
    for (name, format) in [("m.safetensors", "safetensors"), ("m.pt", "pt")] {
        let path = checkpoint(&directory, name);
        let output = inspect(&[], &path);
        assert!(output.status.success(), "{output:?}");
        let table = text(&output.stdout);
        assert!(
            table.lines().next().unwrap().ends_with(&format!("{name}: {format}, 2 tensors, 404 B")),
            "{table}"
        );
        assert!(table.contains("step = 7"), "{table}");
        let w: Vec<_> = table.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(w, ["w", "I32", "[2,", "50]", "400", "ok"]);

        let json: Value = serde_json::from_slice(&inspect(&["--json"], &path).stdout).unwrap();
        assert_eq!(
            (&json["format"], &json["bytes"], &json["metadata"]["step"]),
            (&format.into(), &404.into(), &"7".into())
        );
        assert_eq!(json["tensors"][1]["shape"], serde_json::json!([2, 50]));
        assert_eq!(json["tensors"][1]["checksum"], "ok");
        assert_eq!(json["tensors"][1]["crc32"].as_str().unwrap().len(), 8);
        let quick: Value = serde_json::from_slice(&inspect(&["--json", "--quick"], &path).stdout).unwrap();
        assert_eq!(quick["tensors"][1]["checksum"], "not compared");
    }
    let array = directory.with("a.npy", npy(1, "<f8", false, "(2, 3)", [[0u8; 8]; 6]));
    let json: Value = serde_json::from_slice(&inspect(&["--json"], &array).stdout).unwrap();
    assert_eq!((&json["format"], &json["tensors"][0]["checksum"]), (&"npy".into(), &"none".into()));
}

#[test]
fn a_damaged_file_is_listed_and_told_by_the_exit_code() {
    let directory = Directory::new();
    let path = checkpoint(&directory, "m.safetensors");
    let mut content = std::fs::read(&path).unwrap();
    *content.last_mut().unwrap() ^= 1;
    std::fs::write(&path, content).unwrap();
    let output = inspect(&[], &path);
    assert_eq!(output.status.code(), Some(2));
    let table = text(&output.stdout);
    assert!(table.contains("DAMAGED") && table.contains("ok"), "{table}");
    assert!(text(&output.stderr).contains("checksum"), "{output:?}");
    assert!(inspect(&["--quick"], &path).status.success());

    let none = directory.with("none.pt", b"PK\x03\x04");
    let output = inspect(&[], &none);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), String::new()));
    assert_eq!(text(&output.stderr).lines().count(), 1);
    assert_eq!(inspect(&[], &directory.path("missing")).status.code(), Some(2));
}

#[test]
fn what_cannot_be_read_is_never_called_sound() {
    let directory = Directory::new();
    let real = npy(1, "<f4", false, "(2,)", [[0; 4]; 2]);
    let whole = zip::zip(&[("w.npy", &real), ("z.npy", &npy(1, "<c8", false, "(1,)", [[7; 8]]))], false);
    let states = |arguments: &[&str], path: &Path| -> (Option<i32>, Vec<String>) {
        let output = inspect(&[arguments, &["--json"]].concat(), path);
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        let tensors = json["tensors"].as_array().unwrap();
        let states = tensors.iter().map(|tensor| tensor["checksum"].as_str().unwrap().to_string());
        (output.status.code(), states.collect())
    };
    let path = directory.with("a.npz", &whole);
    assert_eq!(states(&[], &path), (Some(0), vec!["ok".into(), "not read".into()]));
    assert_eq!(states(&["--quick"], &path), (Some(0), vec!["not compared".into(), "not read".into()]));

    let mut damaged = whole;
    let header = damaged.windows(6).rposition(|w| w == b"\x93NUMPY").unwrap();
    damaged[header + 20] ^= 1;
    let path = directory.with("b.npz", damaged);
    assert_eq!(states(&[], &path), (Some(2), vec!["ok".into(), "DAMAGED".into()]));
}

#[test]
fn a_name_of_any_length_is_listed() {
    let directory = Directory::new();
    let (path, name) = (directory.path("m.safetensors"), "w".repeat(70_000));
    let scalar = Tensor::new(&[], [2.0f32]).unwrap();
    let long = ModelCheckpoint::create(&path).unwrap().add(&name, &scalar).unwrap();
    long.add("scale", &scalar).unwrap().commit().unwrap();
    let output = inspect(&[], &path);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    assert!(table.contains(&format!("\n  {name}  F32")), "all of it is there");
    let short = table.lines().find(|line| line.contains("scale")).unwrap();
    assert!(short.len() < 200, "others are not spread as far: {} bytes", short.len());
}

#[test]
fn every_file_that_cannot_be_listed_is_told() {
    let directory = Directory::new();
    let sound = checkpoint(&directory, "m.safetensors");
    let missing = [directory.path("a"), directory.path("b")];
    let files = [&missing[0], &sound, &missing[1]].map(|path| path.to_str().unwrap());
    let output = inspect(&files, Path::new("/dev/null"));
    let told = text(&output.stderr);
    let lines: Vec<_> = told.lines().collect();
    assert_eq!((output.status.code(), lines.len()), (Some(2), 3), "{told}");
    for (line, path) in lines.iter().zip([files[0], files[2], "/dev/null"]) {
        assert!(line.starts_with(&format!("democratising: {path}: ")), "{line}");
    }
    assert!(text(&output.stdout).contains("2 tensors"), "the one between them is listed");
}
