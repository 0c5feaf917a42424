//! The rooms of the crate: who may import whom, where `unsafe` may stand, who names atomics and locks.

#[path = "layering/source.rs"]
mod source;

use source::{Named, paths, tokens};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Each room and the rooms below it: it may import those, and what those may.
const LAW: &[(&str, &[&str])] = &[
    ("error", &["size"]),
    ("size", &["error"]),
    ("sync", &["error", "size"]),
    ("arena::index", &["sync"]),
    ("space", &["arena::index"]),
    ("arena", &["space"]),
    ("timeline", &["sync"]),
    ("pool::budget", &["sync", "timeline"]),
    ("pool", &["arena", "pool::budget"]),
    ("heap", &["pool"]),
    ("gc", &["pool", "heap"]),
    ("device", &["gc"]),
    ("tensor", &["device", "heap"]),
    ("fs", &["tensor"]),
    ("report", &["tensor"]),
    ("guide", &[]),
    ("cuda", &["device", "space"]),
    ("net", &["error", "sync", "pool::budget", "gc"]),
];

/// Rooms that may import what is named in [`LAW`] and nothing that those import.
const NO_FURTHER: &[&str] = &["net"];

/// Modules whose room is not their first segment. A space names its index and its tables, so those lie below spaces.
const PLACES: &[(&str, &str)] = &[
    ("arena::index", "arena::index"),
    ("arena::metadata", "arena::index"),
    ("arena::bits", "arena::index"),
    ("pool::budget", "pool::budget"),
];

/// The files that may contain `unsafe`, and why.
const UNSAFE: &[(&str, &str)] = &[
    ("arena/metadata.rs", "tables of integers are carved from raw bytes"),
    ("bin/democratising/target.rs", "frees blocks of a pool, and lends a mapping to a fixed space"),
    ("cuda/buffer.rs", "sees elements as bytes, and bytes as elements"),
    ("cuda/context.rs", "calls the driver"),
    ("cuda/driver.rs", "starts the driver"),
    ("cuda/gpu.rs", "takes and gives blocks of a pool, in the order of streams"),
    ("cuda/pinned.rs", "implements the contract of a space over mapped memory"),
    ("cuda/ranges.rs", "implements the contract of a space, for what the driver's allocator gave"),
    ("cuda/raw.rs", "takes blocks and streams on another framework's word"),
    ("cuda/space.rs", "implements the contract of a space, for mapped device memory"),
    ("cuda/staging.rs", "fills pinned blocks that copies are queued from"),
    ("cuda/stream.rs", "takes streams on another library's word"),
    ("cuda/sys.rs", "loads the driver's library, and types its functions"),
    ("fs/large_pages.rs", "copies past the caches, and asks for the thread's page faults"),
    ("fs/load.rs", "maps a checkpoint's file"),
    ("fs/parallel.rs", "reads into memory that holds nothing yet"),
    ("heap/by_address.rs", "sees a mapped table as atomic bytes, and frees and moves blocks"),
    ("heap/cache.rs", "blocks are words in a cache that a thread has alone"),
    ("heap/cache/exchange.rs", "works on the thread's own cache"),
    ("heap/cache/exchange/tests.rs", "makes caches of nobody's"),
    ("heap/cache/stir.rs", "works on the thread's own cache"),
    ("heap/decay.rs", "reads the clock"),
    ("heap/dispatch.rs", "implements GlobalAlloc and Allocator"),
    ("heap/errno.rs", "sets the C library's error number"),
    ("heap/hardened.rs", "marks a mapped table, and takes blocks apart that it alone has"),
    ("heap/hardened/fill.rs", "writes what stands behind a block, and in one that is free"),
    ("heap/misuse/process.rs", "keeps a hook as an address, and prints without the standard library"),
    ("heap/newest.rs", "implements Allocator of another version by forwarding it"),
    ("heap/shared.rs", "flushes freed blocks, and hooks into fork"),
    ("heap/shared/tests.rs", "lets locks go that were kept as for a fork"),
    ("heap/stock.rs", "flushes blocks that the caller gives up"),
    ("heap/stock/owner.rs", "tags are found by a shift and a mask"),
    ("heap/stock/spare.rs", "links caches that nobody has"),
    ("heap/thread.rs", "works on the thread's own cache"),
    ("heap/thread/barrier.rs", "asks the system for a barrier in every thread"),
    ("heap/thread/number.rs", "asks the system whether a thread is there"),
    ("heap/thread/place.rs", "reaches the thread's word by two instructions"),
    ("heap/fixed.rs", "claims memory that the caller gives away, and takes blocks back"),
    ("heap/fixed/alloc.rs", "implements GlobalAlloc and Allocator"),
    ("heap/fixed/origin.rs", "is where memory begins that was given away for good"),
    ("heap/fixed/single.rs", "is shared on the word of its maker"),
    ("pool.rs", "implements Allocator over a space's bytes"),
    ("pool/depot.rs", "lets a lock go that was kept for a fork"),
    ("pool/budget/windows.rs", "asks the system what memory there is"),
    ("pool/host.rs", "implements Allocator over the process's pool, and hooks into fork"),
    ("pool/host/tests.rs", "lets locks go that were kept as for a fork"),
    ("space.rs", "the contract of a space is unsafe to implement"),
    ("space/fixed.rs", "turns offsets into addresses of the caller's bytes"),
    ("space/mapped.rs", "turns offsets into addresses of mapped memory"),
    ("space/mapped/other.rs", "takes its range from the system allocator"),
    ("space/mapped/shelf.rs", "puts several tables into one mapping"),
    ("space/mapped/tables.rs", "sees a mapping as a table"),
    ("space/mapped/unix.rs", "maps and unmaps memory"),
    ("space/mapped/windows.rs", "maps and unmaps memory"),
    ("space/simulated.rs", "implements the contract of a space, for addresses that are never touched"),
    ("space/with_index.rs", "implements the contract of a space by forwarding it"),
    ("sync.rs", "lets a lock go that was kept for a fork; shares a cell that nobody writes"),
    ("sync/host.rs", "implements the contract of a lock, and sleeps by a system call"),
    ("sync/forks.rs", "hooks into fork"),
    ("sync/forks/tests.rs", "forks"),
    ("sync/bare.rs", "implements the contract of a lock, without threads"),
    ("tensor/buf.rs", "owns a block of any allocator"),
    ("tensor/element.rs", "says of which types every byte pattern is a value"),
    ("tensor/interop/dlpack.rs", "takes memory on another library's word"),
    ("tensor/storage.rs", "sees bytes as elements"),
    ("tensor/storage/adopted.rs", "takes a vector apart and puts it together again"),
    ("tensor/storage/foreign.rs", "sees memory that another library owns"),
    ("tensor/storage/resident.rs", "lets the pages of mapped files go"),
    ("tensor/storage/unfilled.rs", "owns a block that holds nothing yet"),
];

/// What only `sync.rs` may name.
const SYNC_ONLY: &[&str] = &[
    "core::sync::atomic",
    "std::sync::atomic",
    "core::cell",
    "std::cell",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::sync::OnceLock",
    "std::sync::LazyLock",
    "std::sync::Condvar",
    "spin",
    "portable_atomic",
    "loom",
];

/// The files under `src`, with `/` between folders.
fn files() -> BTreeMap<String, String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&src, &mut found);
    let name = |path: &Path| path.strip_prefix(&src).unwrap().to_str().unwrap().replace('\\', "/");
    found.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

/// The module that a file is: `pool/host.rs` is `pool::host`, `lib.rs` the root.
fn module(file: &str) -> Vec<String> {
    let path = file.strip_suffix(".rs").unwrap();
    if path == "lib" { Vec::new() } else { path.split('/').map(String::from).collect() }
}

/// The room of a module or of something in it.
fn room(path: &[String]) -> Option<&'static str> {
    let place = PLACES.iter().find(|(place, _)| {
        let mut segments = path.iter();
        place.split("::").all(|segment| segments.next().is_some_and(|s| s == segment))
    });
    match place {
        Some((_, room)) => Some(room),
        None => LAW.iter().map(|(room, _)| *room).find(|room| Some(*room) == path.first().map(|s| &**s)),
    }
}

/// Everything that a room may import, itself included.
fn reach(room: &'static str) -> BTreeSet<&'static str> {
    let below = |room| LAW.iter().find(|(name, _)| *name == room).map_or(&[][..], |(_, below)| below);
    let mut reached = BTreeSet::from([room]);
    let mut next: Vec<&str> = below(room).to_vec();
    while let Some(room_below) = next.pop() {
        if reached.insert(room_below) && !NO_FURTHER.contains(&room) {
            next.extend(below(room_below));
        }
    }
    reached
}

/// What the crate root offers under another name than its path: `Tensor` is `tensor::Tensor`.
fn root_names(lib: &str) -> BTreeMap<String, Vec<String>> {
    let reexports = paths(&tokens(lib)).into_iter().filter(|named| room(&named.segments).is_some());
    reexports.map(|named| (named.segments.last().unwrap().clone(), named.segments.clone())).collect()
}

/// The path from the crate root that `named` in `file` means; `None` for a path that is not the crate's own.
fn resolved(file: &str, named: &Named, roots: &BTreeMap<String, Vec<String>>) -> Option<Vec<String>> {
    let mut at: Vec<String> = module(file);
    at.extend(named.inside.iter().cloned());
    let mut rest = named.segments.iter().peekable();
    match rest.peek().map(|segment| &***segment) {
        Some("crate") => {
            rest.next();
            at.clear();
        }
        Some("super") => {
            while rest.next_if(|segment| *segment == "super").is_some() {
                at.pop();
            }
        }
        _ => return None,
    }
    at.extend(rest.filter(|segment| *segment != "self").cloned());
    match at.first().and_then(|first| roots.get(first)) {
        Some(real) if room(&at).is_none() => Some(real.clone()),
        _ => Some(at),
    }
}

/// What `file` imports against the law, each in one line.
fn wrong_imports(file: &str, text: &str, roots: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    // The root re-exports; the program stands on top and is imported by nobody.
    if file == "lib.rs" || file.starts_with("bin/") {
        return Vec::new();
    }
    let Some(here) = room(&module(file)) else {
        return vec![format!("src/{file} is in no room: name it in LAW or PLACES of tests/layering.rs")];
    };
    let may = reach(here);
    let judge = |named: &Named| {
        let path = resolved(file, named, roots)?;
        let shown = named.segments.join("::");
        match room(&path) {
            Some(there) if may.contains(there) => None,
            Some(there) => Some(format!(
                "src/{file}:{}: room `{here}` may not import room `{there}` ({shown}); it may import {}",
                named.line,
                may.iter().copied().collect::<Vec<_>>().join(", ")
            )),
            None => Some(format!("src/{file}:{}: `{shown}` is in no room that this test knows", named.line)),
        }
    };
    paths(&tokens(text)).iter().filter_map(judge).collect()
}

/// Whether the compiler refuses `unsafe` in `file`: by its own attribute or by that of a module around it.
fn forbids_unsafe(file: &str, files: &BTreeMap<String, String>) -> bool {
    let module = module(file);
    (1..=module.len()).any(|depth| {
        let around = format!("{}.rs", module[..depth].join("/"));
        files.get(&around).is_some_and(|text| {
            let words: Vec<String> = tokens(text).into_iter().map(|token| token.text).collect();
            words.windows(6).any(|at| at == ["#", "!", "[", "forbid", "(", "unsafe_code"])
        })
    })
}

/// Where `file` names something that only `sync.rs` may.
fn wrong_sync(file: &str, text: &str) -> Vec<String> {
    if file == "sync.rs" {
        return Vec::new();
    }
    let all = tokens(text);
    let mut found: Vec<String> = paths(&all)
        .iter()
        .filter(|named| {
            let path = format!("{}::", named.segments.join("::"));
            SYNC_ONLY.iter().any(|only| path.starts_with(&format!("{only}::")))
        })
        .map(|named| {
            format!("src/{file}:{}: only sync.rs may name {}", named.line, named.segments.join("::"))
        })
        .collect();
    let cells = all.iter().filter(|token| token.text == "UnsafeCell");
    found.extend(cells.map(|token| format!("src/{file}:{}: only sync.rs may name UnsafeCell", token.line)));
    found
}

fn report(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn imports_go_one_way() {
    let files = files();
    let roots = root_names(&files["lib.rs"]);
    report(files.iter().flat_map(|(file, text)| wrong_imports(file, text, &roots)).collect());
}

#[test]
fn unsafe_stands_only_where_it_is_listed_and_everywhere_listed() {
    let files = files();
    let mut problems = Vec::new();
    for (file, text) in &files {
        let listed = UNSAFE.iter().any(|(name, _)| name == file);
        let first = tokens(text).into_iter().find(|token| token.text == "unsafe");
        match first {
            Some(token) if !listed => problems.push(format!(
                "src/{file}:{}: `unsafe` in a file that is not listed in UNSAFE of tests/layering.rs",
                token.line
            )),
            None if listed => {
                problems.push(format!("src/{file} is listed in UNSAFE but has none: take it off"))
            }
            _ => {}
        }
    }
    let missing = UNSAFE.iter().filter(|(file, _)| !files.contains_key(*file));
    problems.extend(missing.map(|(file, _)| format!("src/{file} is listed in UNSAFE but does not exist")));
    report(problems);
}

#[test]
fn every_other_file_forbids_unsafe_unless_a_room_below_it_needs_some() {
    let files = files();
    let is_unsafe = |file: &str| UNSAFE.iter().any(|(name, _)| *name == file);
    let open = files.keys().filter(|file| {
        let folder = format!("{}/", file.strip_suffix("/main.rs").or(file.strip_suffix(".rs")).unwrap());
        // `forbid` in the module of a folder would reach the files in it, and that in a crate's root all of them.
        let above_unsafe = UNSAFE.iter().any(|(name, _)| name.starts_with(&folder));
        !is_unsafe(file) && !above_unsafe && *file != "lib.rs" && !forbids_unsafe(file, &files)
    });
    report(open.map(|file| format!("src/{file} has no `#![forbid(unsafe_code)]`")).collect());
}

#[test]
fn only_sync_names_atomics_cells_and_locks() {
    report(files().iter().flat_map(|(file, text)| wrong_sync(file, text)).collect());
}

#[test]
fn what_the_crate_imports_today_is_seen() {
    let files = files();
    assert!(files.len() > 20, "{} files", files.len());
    let roots = root_names(&files["lib.rs"]);
    let seen = |file: &str, there: &str| {
        let named = paths(&tokens(&files[file]));
        named.iter().filter_map(|named| resolved(file, named, &roots)).any(|path| room(&path) == Some(there))
    };
    assert!(seen("pool.rs", "arena") && seen("pool/host.rs", "pool") && seen("space.rs", "arena::index"));
    assert_eq!(roots["Result"], ["error", "Result"]);
}

#[test]
fn a_planted_wrong_import_is_found() {
    let roots = root_names("pub use tensor::{Tensor, dtype::DType};");
    let count = |file, text| wrong_imports(file, text, &roots).len();
    assert_eq!(count("space.rs", "use crate::arena::index::BuddyTree;"), 0);
    assert_eq!(
        count("space/fixed.rs", "use super::{Space, Span};\nuse crate::arena::{metadata::Metadata};"),
        0
    );
    let found = wrong_imports("space/fixed.rs", "\nuse crate::{size::Span, pool::{Budget, Pool}};", &roots);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].starts_with(
            "src/space/fixed.rs:2: room `space` may not import room `pool` (crate::pool::Budget)"
        )
    );
    assert_eq!(count("pool/budget.rs", "use super::Pool;"), 1, "a room below its own folder");
    assert_eq!(count("pool/budget.rs", "mod tests { use super::*; use super::super::Pool; }"), 1);
    assert_eq!(count("gc.rs", "fn f() { crate::Tensor::zeros(); }"), 1, "through the crate root");
    assert_eq!(count("fs.rs", "use crate::{DType, Tensor};"), 0);
    assert_eq!(count("net.rs", "use crate::gc::collect; use crate::pool::budget::Budget;"), 0);
    assert_eq!(count("net.rs", "use crate::pool::Pool;"), 1, "net goes no further than what is named");
    assert_eq!(
        count("tensor.rs", "use crate::fs::persist; use crate::cuda::Stream; use crate::net::Server;"),
        3
    );
    assert_eq!(count("arena.rs", "use crate::attic::Box;"), 1, "no room");
    assert_eq!(count("attic.rs", ""), 1, "in no room");
}

#[test]
fn planted_atomics_and_locks_are_found() {
    let count = |text| wrong_sync("pool.rs", text).len();
    assert_eq!(count("use std::sync::{Arc, Mutex, atomic::{AtomicU64, Ordering}};"), 3);
    assert_eq!(count("static A: core::sync::atomic::AtomicBool = x; fn f(c: &UnsafeCell<u8>) {}"), 2);
    assert_eq!(count("use spin::Mutex;\nuse core::cell::RefCell;"), 2);
    assert_eq!(count("use crate::sync::atomic::AtomicU64; use std::sync::Arc; // std::sync::Mutex"), 0);
}

#[test]
fn the_law_has_no_circle_but_error_and_size() {
    for (room, below) in LAW {
        assert!(below.iter().all(|name| LAW.iter().any(|(room, _)| room == name)), "{room}: an unknown room");
        for other in reach(room).into_iter().filter(|other| other != room) {
            let both = BTreeSet::from([*room, other]);
            assert!(
                !reach(other).contains(room) || both == BTreeSet::from(["error", "size"]),
                "{room}, {other}"
            );
        }
    }
}
