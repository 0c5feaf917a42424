//! The whole story in one program: reads a table, trains a small model within a limit of memory and recovers where a batch does not fit,
//! saves checkpoints that survive a power loss, serves predictions to pooled connections, shuts down, and shows that nothing is left.
//!
//! `cargo run --release --example train_and_serve [TABLE [DIRECTORY]]`: a table of numbers with the class in its last column, and where to
//! keep checkpoints. Run again with the same directory, it goes on from the last one.

mod data;
mod model;
mod serving;
mod training;

use data::Data;
use democratising::fs::{CheckpointDir, Metric, temp_dir};
use democratising::pool::budget::scope::{Kind, Scope};
use democratising::{Global, MemoryPool, Result, Tensor, gc, resources};
use model::Model;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[global_allocator]
static GLOBAL: Global = Global;

/// What training may hold, and what tensors may hold together.
const TRAINING_BYTES: u64 = 2 << 20;
const TENSOR_BYTES: u64 = 64 << 20;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("train_and_serve: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything was given back.
fn run() -> Result<bool> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let table = arguments
        .next()
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/wine.csv"));
    let temporary = temp_dir()?;
    let directory = arguments.next().unwrap_or_else(|| temporary.path().join("checkpoints"));

    MemoryPool::configure().initial_size(1 << 20).max_size(TENSOR_BYTES).enable()?;
    let data = Data::read(&table)?;
    println!(
        "{}: {} rows, {} features, {} classes",
        table.display(),
        data.classes.len(),
        data.features(),
        data.class_count
    );
    let questions = questions(&table)?;

    let checkpoints = CheckpointDir::open(&directory)?.keep_last(2).keep_best(Metric::highest("accuracy"), 1);
    training::train(&data, &checkpoints, TRAINING_BYTES)?;
    println!("checkpoints kept: {:?}", checkpoints.steps()?);

    // What is served is what was saved, mapped from its file.
    let Some((step, checkpoint)) = checkpoints.latest_valid()? else { unreachable!("one was saved") };
    println!("serving the model of step {step}");
    let asked = questions.len();
    let serving = serving::serve_and_ask(Model::load(&checkpoint)?, questions);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let right = runtime.block_on(serving)?;
    drop(runtime);
    println!("{right} of {asked} predictions were right");

    drop((data, checkpoint, checkpoints, temporary));
    gc::collect()?;
    println!("\n{}", resources());
    let process = Scope::process();
    let left: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| process.used(*kind) > 0).collect();
    if left.is_empty() {
        println!("nothing is left");
    } else {
        println!("still held: {left:?}");
    }
    Ok(left.is_empty())
}

/// Every row as it was measured, as a client would send it.
fn questions(table: &Path) -> Result<Vec<(String, usize)>> {
    let table = Tensor::open(table)?;
    let columns = table.shape()[1];
    let rows = table.as_slice::<f32>()?.chunks_exact(columns);
    Ok(rows
        .map(|row| {
            let (features, class) = row.split_at(columns - 1);
            let features: Vec<String> = features.iter().map(f32::to_string).collect();
            (features.join(","), class[0] as usize)
        })
        .collect())
}
