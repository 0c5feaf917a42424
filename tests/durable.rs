//! Checkpoints and durable renames: what stands where after a commit and without one. (Faults of the kernel: `durable_faults.rs`.)
#![cfg(feature = "std")]
#![cfg_attr(not(unix), allow(unused_imports))]

#[path = "fs/steps.rs"]
mod steps;

use democratising::fs::{ModelCheckpoint, persist};
use democratising::tempfile::{self, NamedTempFile};
use democratising::{DType, DemoError, Device, Result, Tensor};
use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
#[cfg(unix)]
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use steps::{entries, ones, save, step, with_old};

// ---- what a commit leaves, and what no commit leaves ----

#[test]
fn a_commit_leaves_the_new_file_and_nothing_else() -> Result<()> {
    let (directory, path) = with_old();
    save(&path, "2")?;
    assert_eq!(step(&path), "2");
    assert_eq!(entries(directory.path()), ["model.safetensors"]);
    Ok(())
}

#[test]
fn a_checkpoint_dropped_without_commit_leaves_nothing() -> Result<()> {
    let (directory, path) = with_old();
    let checkpoint = ModelCheckpoint::create(&path)?.add("w", &ones(10))?;
    assert_eq!(entries(directory.path()).len(), 2, "the temp file stands beside the target");
    assert_eq!(step(&path), "1", "and the target is untouched while it does");
    drop(checkpoint);
    assert_eq!(entries(directory.path()), ["model.safetensors"]);

    let panicked = std::panic::catch_unwind(|| {
        let _checkpoint = ModelCheckpoint::create(&path).unwrap();
        panic!("in training");
    });
    assert!(panicked.is_err());
    assert_eq!(entries(directory.path()), ["model.safetensors"]);
    assert_eq!(step(&path), "1");
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_directory_that_is_moved_meanwhile_keeps_nothing_of_a_commit_that_fails() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (named, moved) = (directory.path().join("named"), directory.path().join("moved"));
    for commits in [true, false] {
        fs::create_dir(&named)?;
        let checkpoint = ModelCheckpoint::create(named.join("m.safetensors"))?.add("w", &ones(10))?;
        fs::rename(&named, &moved)?;
        fs::create_dir(&named)?;
        if commits {
            assert!(checkpoint.commit().is_err());
        } else {
            drop(checkpoint);
        }
        assert_eq!((entries(&named), entries(&moved)), (vec![], vec![]), "{commits}");
        fs::remove_dir(&named)?;
        fs::remove_dir(&moved)?;
    }
    Ok(())
}

#[test]
fn a_tensor_is_saved_as_it_was_when_it_was_added() -> Result<()> {
    let (_directory, path) = with_old();
    let mut w = ones(1000);
    let checkpoint = ModelCheckpoint::create(&path)?.add("w", &w)?;
    w.as_mut_slice::<f32>()?.fill(2.0);
    checkpoint.commit()?;
    assert_eq!(ModelCheckpoint::load(&path)?.get("w")?, ones(1000));
    Ok(())
}

#[test]
fn the_same_content_makes_the_same_bytes() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (a, b) = (directory.path().join("a"), directory.path().join("b"));
    let (w, bias) = (ones(3), Tensor::new(&[2], [1u8, 2])?);
    let first = ModelCheckpoint::create(&a)?.add("w", &w)?.add("bias", &bias)?;
    first.metadata("k", "1")?.metadata("j", "2")?.commit()?;
    let second = ModelCheckpoint::create(&b)?.metadata("j", "2")?.metadata("k", "1")?;
    second.add("bias", &bias)?.add("w", &w)?.commit()?;
    assert_eq!(fs::read(&a)?, fs::read(&b)?);
    Ok(())
}

#[test]
fn a_view_is_saved_whatever_the_length_of_its_rows() -> Result<()> {
    let (_directory, path) = with_old();
    let numbers = Tensor::new(&[300, 1001], (0..300_300u32).collect::<Vec<_>>())?;
    let view = numbers.narrow(1, 1, 999)?;
    ModelCheckpoint::create(&path)?.add("view", &view)?.commit()?;
    assert_eq!(ModelCheckpoint::load(&path)?.get("view")?.to_vec::<u32>()?, view.to_vec::<u32>()?);
    Ok(())
}

#[test]
fn the_end_of_a_name_chooses_the_format_in_whatever_case() -> Result<()> {
    let directory = tempfile::tempdir()?;
    for (name, format) in [
        ("m.pt", "pt"),
        ("m.PT", "pt"),
        ("m.Pth", "pt"),
        ("m.ckpt", "pt"),
        ("m.bin", "pt"),
        ("m.safetensors", "safetensors"),
        ("pt", "safetensors"),
    ] {
        let path = directory.path().join(name);
        ModelCheckpoint::create(&path)?.add("w", &ones(100))?.metadata("step", "7")?.commit()?;
        let c = ModelCheckpoint::load(&path)?;
        assert_eq!((c.format(), c.get("w")?), (format, ones(100)), "{name}");
        assert_eq!(c.all_metadata().collect::<Vec<_>>(), [("step", "7")], "{name}");
    }
    Ok(())
}

#[test]
fn names_are_taken_once_and_never_the_reserved_one() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("m");
    let create = || ModelCheckpoint::create(&path);
    let error = create()?.add("w", &ones(1))?.add("w", &ones(2)).unwrap_err();
    assert!(error.to_string().contains("tensor \"w\" is in the checkpoint already"), "{error}");
    let error = create()?.add("__metadata__", &ones(1)).unwrap_err();
    assert!(error.to_string().contains("tensor \"__metadata__\" is reserved"), "{error}");
    let error = create()?.metadata("democratising.crc32", "1").unwrap_err();
    assert!(error.to_string().contains("which is kept for checksums"), "{error}");
    let error = create()?.metadata("k", "1")?.metadata("k", "1").unwrap_err();
    assert!(error.to_string().contains("metadata key \"k\" has a value"), "{error}");
    assert_eq!(entries(directory.path()), [""; 0], "every refusal removed its temp file");

    create()?
        .add("", &ones(1))?
        .add("a \"quoted\"\n name \u{1f980}", &ones(2))?
        .metadata("__metadata__", "x")?
        .commit()?;
    let c = ModelCheckpoint::load(&path)?;
    assert_eq!(c.names(), ["", "a \"quoted\"\n name \u{1f980}"]);
    assert_eq!(c.metadata("__metadata__"), Some("x"));
    Ok(())
}

// ---- mapped tensors ----

#[test]
fn loaded_tensors_share_one_mapping_and_write_to_copies() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("m");
    let odd = Tensor::new(&[67], [3u8; 67])?;
    let doubles = Tensor::new(&[9], [0.5f64; 9])?;
    let half = Tensor::zeros_with(&[33], DType::F16, &Device::host())?;
    let create = ModelCheckpoint::create(&path)?;
    create.add("a", &odd)?.add("b", &ones(33))?.add("c", &doubles)?.add("d", &half)?.commit()?;
    let before = fs::read(&path)?;

    let c = ModelCheckpoint::load(&path)?;
    for (name, tensor) in [("a", &odd), ("b", &ones(33)), ("c", &doubles), ("d", &half)] {
        let (first, second) = (c.get(name)?, c.get(name)?);
        assert_eq!(&first, tensor);
        assert_eq!(
            first.as_bytes().unwrap().as_ptr(),
            second.as_bytes().unwrap().as_ptr(),
            "{name} is not copied"
        );
        assert!(format!("{first:?}").contains("mapped file"), "{first:?}");
    }
    assert_eq!(c.get("c")?.as_bytes().unwrap().as_ptr().addr() % 64, 0, "the elements begin at a cache line");

    let mut changed = c.get("b")?;
    changed.as_mut_slice::<f32>()?.fill(7.0);
    assert_eq!(c.get("b")?, ones(33));
    assert_eq!(fs::read(&path)?, before);

    let kept = c.get("a")?;
    drop(c);
    let commit = ModelCheckpoint::create(&path)?.add("a", &ones(5))?.commit();
    if cfg!(windows) {
        let error = commit.unwrap_err().to_string();
        assert!(error.contains("drop what was loaded from it"), "{error}");
        assert_eq!((kept, fs::read(&path)?), (odd, before));
        return Ok(());
    }
    commit?;
    assert_eq!(kept, odd, "the mapping keeps the old file after a commit over it");
    Ok(())
}

#[test]
fn elements_that_are_not_aligned_in_the_file_are_copied() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("m");
    let header = r#"{"t":{"dtype":"F32","shape":[20],"data_offsets":[0,80]},"b":{"dtype":"BOOL","shape":[70],"data_offsets":[80,150]}}"#;
    for padding in 0..8 {
        let header = format!("{header}{}", " ".repeat(padding));
        let mut content = (header.len() as u64).to_le_bytes().to_vec();
        content.extend(header.bytes());
        content.extend((0..20).flat_map(|i| (i as f32).to_le_bytes()));
        content.extend([1; 70]);
        fs::write(&path, &content)?;
        let c = ModelCheckpoint::load(&path)?;
        let wanted: Vec<_> = (0..20).map(|i| i as f32).collect();
        assert_eq!(c.get("t")?.as_slice::<f32>()?, wanted, "{padding} spaces");
        assert_eq!(c.get("b")?.as_slice::<bool>()?, [true; 70]);
        drop(c);
        *content.last_mut().unwrap() = 2;
        fs::write(&path, &content)?;
        let error = ModelCheckpoint::load(&path)?.get("b").unwrap_err().to_string();
        assert!(error.contains("element 69: a bool is stored as 0 or 1, not 2"), "{error}");
    }
    Ok(())
}

// ---- where a checkpoint may stand ----

#[cfg(unix)]
#[test]
fn a_place_that_cannot_be_written_is_refused_before_the_work() {
    let (directory, path) = with_old();
    let at = |name: &str| directory.path().join(name);
    symlink(at("loop"), at("loop")).unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    for (place, kind) in [
        (at("missing/m"), ErrorKind::NotFound),
        (path.join("m"), ErrorKind::NotADirectory),
        (directory.path().to_path_buf(), ErrorKind::IsADirectory),
        (at("m/"), ErrorKind::InvalidInput),
        (at("m/."), ErrorKind::InvalidInput),
        (at(".democratising-m.tmp"), ErrorKind::InvalidInput),
        (at(".."), ErrorKind::InvalidInput),
        (PathBuf::new(), ErrorKind::InvalidInput),
        ("/".into(), ErrorKind::InvalidInput),
        (at("pipe"), ErrorKind::InvalidInput),
        (at("loop"), ErrorKind::Other),
    ] {
        for error in [
            ModelCheckpoint::create(&place).unwrap_err(),
            persist(NamedTempFile::new().unwrap(), &place).unwrap_err(),
        ] {
            let DemoError::Io { path: Some(named), source, .. } = &error else { panic!("{error:?}") };
            assert_eq!(named, &place);
            assert_eq!(source.kind(), kind, "{error}");
        }
    }
    let error = ModelCheckpoint::create(at(&"n".repeat(300))).unwrap_err();
    assert!(error.to_string().contains("File name too long"), "{error}");
    let error = ModelCheckpoint::create("/proc/model.safetensors").unwrap_err();
    assert!(
        error.to_string().starts_with("cannot create a temp file beside /proc/model.safetensors"),
        "{error}"
    );
    assert_eq!(entries(directory.path()), ["loop", "model.safetensors", "pipe"]);
    assert!(fs::metadata(at("pipe")).unwrap().mode() & 0o170000 == 0o010000, "still a pipe");
}

#[cfg(unix)]
#[test]
fn a_link_stays_and_the_file_that_it_names_is_replaced() -> Result<()> {
    let (directory, path) = with_old();
    let elsewhere = tempfile::tempdir()?;
    let link = elsewhere.path().join("latest");
    symlink(&path, &link)?;
    let second = elsewhere.path().join("second");
    symlink("latest", &second)?;
    save(&second, "2")?;
    assert_eq!(step(&path), "2");
    assert_eq!((fs::read_link(&link)?, fs::read_link(&second)?), (path.clone(), "latest".into()));
    assert_eq!(entries(directory.path()), ["model.safetensors"]);

    let dangling = elsewhere.path().join("dangling");
    symlink("made", &dangling)?;
    save(&dangling, "3")?;
    assert_eq!(step(&elsewhere.path().join("made")), "3");
    assert!(dangling.is_symlink());

    let chain = |length: usize| -> Result<PathBuf> {
        let chain = tempfile::tempdir_in(elsewhere.path())?.keep();
        symlink(&path, chain.join("1"))?;
        (1..length).try_for_each(|at| symlink(at.to_string(), chain.join((at + 1).to_string())))?;
        Ok(chain.join(length.to_string()))
    };
    let (longest, too_long) = (chain(40)?, chain(41)?);
    assert_eq!(
        (fs::read(&longest).is_ok(), fs::read(&too_long).is_ok()),
        (true, false),
        "what the system follows"
    );
    save(&longest, "4")?;
    assert_eq!(step(&path), "4");
    let refused = ModelCheckpoint::create(&too_long).unwrap_err().to_string();
    assert!(refused.contains("too many symbolic links"), "{refused}");

    let of_a_directory = elsewhere.path().join("of a directory");
    symlink("nowhere/", &of_a_directory)?;
    let refused = ModelCheckpoint::create(&of_a_directory).unwrap_err().to_string();
    assert!(refused.contains("names no file"), "{refused}");
    Ok(())
}

#[test]
fn a_path_may_go_up_and_down() -> Result<()> {
    let (directory, path) = with_old();
    fs::create_dir(directory.path().join("inner"))?;
    save(&directory.path().join("inner/.././inner/../model.safetensors"), "2")?;
    assert_eq!(step(&path), "2");
    Ok(())
}

#[cfg(unix)]
#[test]
fn an_existing_file_keeps_its_permissions() -> Result<()> {
    let (_directory, path) = with_old();
    for mode in [0o600, 0o640, 0o444, 0o777] {
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        let checkpoint = ModelCheckpoint::create(&path)?;
        let temp =
            fs::read_dir(path.parent().unwrap())?.map(|e| e.unwrap().path()).find(|p| p != &path).unwrap();
        let temp_mode = fs::metadata(temp)?.mode() & 0o777;
        assert_eq!(
            temp_mode & !mode,
            0,
            "nobody can read the temp file who cannot read the target: {temp_mode:o}"
        );
        checkpoint.commit()?;
        assert_eq!(fs::metadata(&path)?.mode() & 0o7777, mode);
    }
    Ok(())
}

// ---- durable renames ----

#[test]
fn a_persisted_file_stands_under_its_name_and_is_still_open() -> Result<()> {
    let (directory, path) = with_old();
    let mut temp_file = NamedTempFile::new_in(directory.path())?;
    temp_file.write_all(b"0123456789")?;
    temp_file.seek(SeekFrom::Start(4))?;
    let mut file = persist(temp_file, &path)?;
    let mut rest = String::new();
    file.read_to_string(&mut rest)?;
    assert_eq!((rest.as_str(), fs::read(&path)?), ("456789", b"0123456789".to_vec()));
    assert_eq!(entries(directory.path()), ["model.safetensors"]);
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_is_persisted_across_file_systems() -> Result<()> {
    let (here, path) = with_old();
    let there = tempfile::tempdir_in("/dev/shm").expect("this test needs /dev/shm, a second file system");
    assert_ne!(
        fs::metadata(here.path())?.dev(),
        fs::metadata(there.path())?.dev(),
        "this test needs a temp directory and a /dev/shm on two file systems: set TMPDIR to a directory on disk"
    );
    let mut temp_file = NamedTempFile::new_in(there.path())?;
    temp_file.write_all(b"0123456789")?;
    temp_file.as_file().set_permissions(Permissions::from_mode(0o666))?;
    temp_file.seek(SeekFrom::Start(4))?;
    let mut file = persist(temp_file, &path)?;
    let mut rest = String::new();
    file.read_to_string(&mut rest)?;
    assert_eq!((rest.as_str(), fs::read(&path)?), ("456789", b"0123456789".to_vec()));
    assert_eq!(
        fs::metadata(&path)?.mode() & 0o777,
        0o666,
        "the permissions of the temp file, whatever the mask"
    );
    assert_eq!(entries(here.path()), ["model.safetensors"]);
    assert_eq!(entries(there.path()), [""; 0]);
    Ok(())
}
