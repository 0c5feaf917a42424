//! Allocators for bare metal against each other. `cargo run --release` prints every table; with names of tables behind it,
//! those: time, instructions, fill, objects, small, worst, size.

mod fill;
mod latency;
mod script;
mod size;
mod subject;
mod time;

use core::alloc::Layout;
use subject::{KINDS, Kind, Memory, Nobody};

const HEAP: usize = 128 << 20;

fn head(title: &str, columns: &[String]) {
    println!(
        "\n{title}\n{:>16}{}",
        "",
        columns.iter().map(|column| format!(" {column:>9}")).collect::<String>()
    );
}

fn row(name: &str, cells: impl IntoIterator<Item = Option<f64>>, digits: usize) {
    let cells = cells.into_iter().map(|cell| match cell {
        Some(cell) => format!(" {cell:>9.digits$}"),
        None => format!(" {:>9}", "-"),
    });
    println!("{name:>16}{}", cells.collect::<String>());
}

fn fast() -> Vec<Kind> {
    KINDS.into_iter().filter(|kind| !kind.slow).collect()
}

fn times(memory: Memory) {
    let (kinds, rounds) = (fast(), 7);
    for resizes in [false, true] {
        let columns: Vec<Vec<f64>> =
            time::MOST.iter().map(|most| time::nanoseconds(&kinds, memory, *most, resizes, rounds)).collect();
        let with = if resizes { "with" } else { "without" };
        head(
            &format!("Random actions {with} realloc, ns of CPU by largest size (least of {rounds})"),
            &time::MOST.map(|most| most.to_string()),
        );
        for (at, kind) in kinds.iter().enumerate() {
            row(kind.name, columns.iter().map(|column| Some(column[at])), 1);
        }
    }
}

fn instructions() {
    for resizes in [false, true] {
        let with = if resizes { "with" } else { "without" };
        head(
            &format!("Random actions {with} realloc, instructions by largest size"),
            &time::MOST.map(|most| most.to_string()),
        );
        for kind in fast() {
            row(kind.name, time::MOST.map(|most| time::instructions(kind.name, most, resizes)), 0);
        }
    }
}

fn fills(memory: Memory) {
    head("In use at the first failure, % of 128 MiB", &["realloc", "no realloc"].map(String::from));
    for kind in fast() {
        let of = |mix| Some(fill::efficiency(kind, memory, mix, 20));
        row(kind.name, [of(fill::TALC), of(fill::WITHOUT_RESIZES)], 1);
    }
}

fn objects(memory: Memory) {
    let layouts = [(8, 8), (16, 8), (24, 8), (48, 8), (64, 64), (100, 4), (4096, 4096)];
    let columns = layouts
        .map(|(bytes, align)| if bytes == align { format!("{bytes}@{align}") } else { bytes.to_string() });
    head("Blocks of one size, % of 128 MiB (64@64: aligned to 64)", &columns);
    for kind in KINDS {
        let of = |(bytes, align)| {
            Some(fill::same(kind, memory, Layout::from_size_align(bytes, align).expect("a layout")))
        };
        row(kind.name, layouts.map(of), 1);
    }
    head(
        "The worst of all multiples of 8 from 16 to 4,096, % of 16 MiB; and of all powers of two, aligned so",
        &["multiples", "at", "aligned", "at"].map(String::from),
    );
    for kind in fast() {
        let worst = |layouts: &mut dyn Iterator<Item = Layout>| {
            let memory = memory.first(16 << 20);
            layouts
                .map(|layout| (fill::same(kind, memory, layout), layout.size()))
                .min_by(|a, b| a.0.total_cmp(&b.0))
                .expect("a layout")
        };
        let of = |bytes, align| Layout::from_size_align(bytes, align).expect("a layout");
        let multiples = worst(&mut (2..=512).map(|eights| of(8 * eights, 8)));
        let aligned = worst(&mut (4..=12).map(|shift| of(1 << shift, 1 << shift)));
        row(kind.name, [multiples.0, multiples.1 as f64, aligned.0, aligned.1 as f64].map(Some), 1);
    }
}

fn small(memory: Memory) {
    const SIZES: [usize; 4] = [4 << 10, 16 << 10, 64 << 10, 1 << 20];
    let columns = ["4 KiB", "16 KiB", "64 KiB", "1 MiB", "own bytes"].map(String::from);
    head("Mixed sizes to a sixteenth of the memory, in use at the first failure, %", &columns);
    for kind in KINDS {
        let of = |bytes| Some(fill::efficiency(kind, memory.first(bytes), fill::mixed(bytes), 1000));
        let own = kind.own_bytes(memory.first(SIZES[0]));
        row(kind.name, SIZES.map(of).into_iter().chain([Some(own as f64)]), 1);
    }
}

fn worst(memory: Memory) {
    for holes in [1_000, 16_000] {
        for pattern in latency::patterns(holes) {
            let percent = ["50 %", "99 %", "99.9 %", "worst"].map(String::from);
            head(&format!("ns of an operation, {holes} holes: {}", pattern.name), &percent);
            for kind in fast() {
                let found = latency::latencies(kind, memory, &pattern, 9);
                row(
                    kind.name,
                    [500, 990, 999, 1000].map(|part| found.as_ref().map(|found| found.permille(part) as f64)),
                    0,
                );
            }
        }
    }
}

fn count(words: &[String]) -> Option<()> {
    let [name, most, resizes] = words else { return None };
    let (most, resizes) = (most.parse().ok()?, resizes == "resizes");
    if name == "nobody" {
        time::count(&Nobody, most, resizes);
    } else {
        let kind = KINDS.iter().find(|kind| kind.name == name)?;
        time::count(&*kind.over(Memory::new(HEAP)), most, resizes);
    }
    Some(())
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "count") {
        count(&words[1..]).expect("count NAME LARGEST plain|resizes");
        return;
    }
    let memory = Memory::new(HEAP);
    let wanted = |table: &str| words.is_empty() || words.iter().any(|word| word == table);
    let tables: [(&str, &dyn Fn()); 7] = [
        ("time", &|| times(memory)),
        ("instructions", &instructions),
        ("fill", &|| fills(memory)),
        ("objects", &|| objects(memory)),
        ("small", &|| small(memory)),
        ("worst", &|| worst(memory)),
        ("size", &size::table),
    ];
    for word in &words {
        assert!(tables.iter().any(|(table, _)| table == word), "no table is called {word}");
    }
    for (table, print) in tables {
        if wanted(table) {
            print();
        }
    }
}
