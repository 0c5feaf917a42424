//! Small files that name large things again and again.

use super::common::Directory;
use super::{TENSOR, with_pickle};
use democratising::fs::ModelCheckpoint;

/// Pickles of some hundred kilobytes that name one thing again and again, each with what is said of it, if anything.
fn repeating() -> Vec<(&'static str, Vec<u8>, Option<&'static str>)> {
    const MANY: usize = 400_000;
    let copies = "its calls copy the same things again and again";
    let places = "it names the same things again and again";
    let tuple = [&b"\x80\x02("[..], &vec![b'N'; MANY], b"tq\x000"].concat();
    let pairs = [&b"\x80\x02X\x01\0\0\0kN\x86q\x010]("[..], &b"h\x01".repeat(MANY), b"eq\x000"].concat();
    let lengths = [&b"("[..], &b"K\x00".repeat(MANY), b"tq\x000"].concat();
    let storage = [b"\x80\x02", &TENSOR.as_bytes()[34..], b"q\x010", &lengths[..]].concat();
    let again = |first: &[u8], op: &[u8], last: &[u8]| [first, &op.repeat(MANY), last].concat();
    let equal = again(b"\x80\x02X\x01\0\0\0kq\x010}(", b"h\x01N", b"uq\x000](");
    let long = [&b"\x80\x02}X\0\0\x10\0"[..], &vec![b'k'; 1 << 20], b"}sq\x000]("].concat();
    vec![
        ("ids", again(&tuple, b"h\x00Q0", b"N."), None),
        ("calls", again(&[&tuple[..], b"ctorch\ndevice\nq\x010"].concat(), b"h\x01h\x00R0", b"N."), None),
        (
            "dictionaries",
            again(&[&pairs[..], b"ccollections\nOrderedDict\nq\x020"].concat(), b"h\x02h\x00\x85R0", b"N."),
            Some(copies),
        ),
        (
            "shapes",
            again(
                &[&storage[..], b"ctorch._utils\n_rebuild_tensor_v2\nq\x020"].concat(),
                b"h\x02(h\x01K\x00h\x00h\x00tR0",
                b"N.",
            ),
            Some(copies),
        ),
        ("keys", again(&equal, b"h\x00", b"e."), Some(places)),
        ("long keys", again(&long, b"h\x00", b"e."), Some(places)),
    ]
}

/// In a process of its own, which would take hundreds of gigabytes or hours if it copied what is named.
#[test]
fn what_a_pickle_names_again_and_again_takes_neither_memory_nor_time() {
    const INSIDE: &str = "DEMOCRATISING_TEST_REPEATING";
    let Some(wanted) = std::env::var_os(INSIDE) else {
        for (name, _, _) in repeating() {
            let test = "repeating::what_a_pickle_names_again_and_again_takes_neither_memory_nor_time";
            let output = std::process::Command::new("sh")
                .args(["-c", "ulimit -v 4000000; ulimit -t 120; exec \"$0\" --exact \"$1\" --nocapture"])
                .arg(std::env::current_exe().unwrap())
                .arg(test)
                .env(INSIDE, name)
                .output()
                .unwrap();
            let said = [output.stdout, output.stderr].concat();
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&said));
        }
        return;
    };
    let directory = Directory::new();
    for (name, pickle, message) in repeating() {
        if wanted != name {
            continue;
        }
        let loaded = ModelCheckpoint::load(directory.with("x.pt", with_pickle(&pickle)));
        match message {
            None => assert_eq!(loaded.unwrap().names(), [""; 0]),
            Some(message) => {
                let said = loaded.unwrap_err().to_string();
                assert!(said.contains(message), "{said}");
            }
        }
    }
}
