//! Archives of arrays, as NumPy writes them: what one says of its members is held against their bytes.

use super::common::{self, Directory};
use super::is_told;
use super::zip::zip;
use democratising::Device;
use democratising::fs::ModelCheckpoint;

/// Changes what both headers of a member say of it: its checksum, and how long it is packed and unpacked.
fn told_otherwise(mut archive: Vec<u8>, name: &str, change: impl Fn(&mut [u8])) -> Vec<u8> {
    let is_name = |at: &usize| archive[*at..].starts_with(name.as_bytes());
    let [local, table] = (0..archive.len()).filter(is_name).collect::<Vec<_>>()[..] else { panic!("two") };
    change(&mut archive[local - 16..local - 4]);
    change(&mut archive[table - 30..table - 18]);
    archive
}

#[test]
fn what_an_archive_says_of_its_members_is_held_against_their_bytes() {
    let directory = Directory::new();
    let array = common::npy(1, "<f4", false, "(30,)", (0..30).map(|i| (i as f32).to_le_bytes()));
    let notes = b"by hand, by hand, by hand";
    let members = [("w.npy", &array[..]), ("notes.txt", notes)];
    let load = |content: &[u8]| ModelCheckpoint::load(directory.with("x.npz", content)).unwrap();
    for deflated in [false, true] {
        let whole = zip(&members, deflated);
        load(&whole).verify().unwrap();
        for name in ["w.npy", "notes.txt"] {
            let checkpoint = load(&told_otherwise(whole.clone(), name, |told| told[0] ^= 1));
            let said = checkpoint.verify().unwrap_err().to_string();
            assert!(said.contains("damaged"), "{name} {deflated}: {said}");
            let elements = checkpoint.get("w").and_then(|w| w.to_vec::<f32>());
            assert_eq!(elements.is_ok(), name != "w.npy", "{name} {deflated}");
            let unchecked = ModelCheckpoint::load_unchecked(directory.path("x.npz")).unwrap();
            unchecked.verify().unwrap();
            assert_eq!(unchecked.get("w").unwrap().as_slice::<f32>().unwrap()[29], 29.0);
        }
    }
    let refusal =
        |content: &[u8]| ModelCheckpoint::load(directory.with("x.npz", content)).unwrap_err().to_string();
    for (deflated, unpacked) in [(false, array.len() as u32 - 1), (true, 1 << 24)] {
        let told = |told: &mut [u8]| told[8..].copy_from_slice(&unpacked.to_le_bytes());
        let said = refusal(&told_otherwise(zip(&members, deflated), "w.npy", told));
        assert!(said.contains("which cannot be"), "{said}");
    }
    let said = refusal(&zip(&[("w.npy", &array), ("v.npy", &array), ("w.npy", &array)], false));
    assert!(said.contains("a second \"w.npy\""), "{said}");
    // More is packed than is told of.
    for (at, (name, bytes)) in members.into_iter().enumerate() {
        let longer = [bytes, b"!"].concat();
        let mut longer_members = members;
        longer_members[at].1 = &longer;
        let told = |told: &mut [u8]| {
            told[..4].copy_from_slice(&crc32fast::hash(bytes).to_le_bytes());
            told[8..].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        };
        let said =
            load(&told_otherwise(zip(&longer_members, true), name, told)).verify().unwrap_err().to_string();
        assert!(said.contains("more bytes than it says") || said.contains("or more are there"), "{said}");
        if name == "w.npy" {
            longer_members[1].0 = "v.npy";
            longer_members[1].1 = &array;
            let said = load(&zip(&longer_members, false)).get("w").unwrap_err().to_string();
            assert!(said.contains("have 120 bytes, but 121 are there"), "{said}");
        }
    }
}

#[test]
fn what_is_loaded_at_once_is_what_is_had_one_by_one() {
    let directory = Directory::new();
    let array = |from: u32| {
        common::npy(1, "<f4", false, "(300,)", (from..from + 300).map(|i| (i as f32).to_le_bytes()))
    };
    let load = |content: &[u8]| ModelCheckpoint::load(directory.with("x.npz", content)).unwrap();
    let whole = zip(&[("v.npy", &array(0)), ("w.npy", &array(1000))], false);
    let checkpoint = load(&whole);
    let all = checkpoint.load_to(&Device::host()).unwrap();
    for name in ["v", "w"] {
        assert_eq!(all[name], checkpoint.get(name).unwrap(), "{name}");
    }
    drop(checkpoint);
    let damaged = load(&told_otherwise(whole, "w.npy", |told| told[0] ^= 1));
    assert!(damaged.load_to(&Device::host()).unwrap_err().to_string().contains("damaged"));
    drop(damaged);
    let flags = common::npy(1, "|b1", false, "(100,)", [[2]; 100]);
    let said = load(&zip(&[("f.npy", &flags)], false)).load_to(&Device::host()).unwrap_err().to_string();
    assert!(said.contains("a bool is stored as 0 or 1, not 2"), "{said}");
}

#[test]
fn arrays_of_any_order_are_the_same_packed_and_not() {
    let directory = Directory::new();
    let array = common::npy(1, ">f4", true, "(20, 3)", (0..60).map(|i| (i as f32).to_be_bytes()));
    for deflated in [false, true] {
        let path = directory.with("x.npz", zip(&[("w.npy", &array)], deflated));
        let w = ModelCheckpoint::load(path).unwrap().get("w").unwrap();
        assert!(w.is_contiguous(), "{deflated}");
        assert_eq!(w.as_slice::<f32>().unwrap()[..4], [0.0, 20.0, 40.0, 1.0], "{deflated}");
    }
}

#[test]
fn what_nothing_here_holds_is_verified_by_its_bytes() {
    let directory = Directory::new();
    let real = common::npy(1, "<f4", false, "(2,)", [[0; 4]; 2]);
    let complex = common::npy(1, "<c8", false, "(2,)", [[7; 8]; 2]);
    for deflated in [false, true] {
        let whole = zip(&[("w.npy", &real), ("z.npy", &complex), ("notes.txt", b"by hand")], deflated);
        let path = directory.with("a.npz", &whole);
        let checkpoint = ModelCheckpoint::load(&path).unwrap();
        checkpoint.verify().unwrap();
        assert!(checkpoint.get("z").unwrap_err().to_string().contains("complex"));
        assert!(checkpoint.get("w").is_ok() && checkpoint.info("notes.txt").is_none());
        drop(checkpoint);
        let table = whole.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
        let local = |name: &[u8]| whole.windows(name.len()).position(|w| w == name).unwrap() + name.len();
        let members = [(local(b"w.npy"), local(b"z.npy")), (local(b"z.npy"), local(b"notes.txt"))];
        for (from, to) in [
            (members[0].0, members[0].1 - 35),
            (members[1].0, members[1].1 - 39),
            (local(b"notes.txt"), table),
        ] {
            for at in from..to {
                let mut damaged = whole.clone();
                damaged[at] ^= 1;
                std::fs::write(&path, damaged).unwrap();
                let verified = ModelCheckpoint::load(&path).and_then(|checkpoint| checkpoint.verify());
                // Deflated bytes have bits that mean nothing.
                assert!(verified.is_err() || deflated, "byte {at}");
                assert!(verified.is_err() || is_told(&path, "w"), "byte {at}");
            }
        }
        std::fs::write(&path, &whole).unwrap();
        assert!(ModelCheckpoint::load_unchecked(&path).unwrap().verify().is_ok());
    }
}
