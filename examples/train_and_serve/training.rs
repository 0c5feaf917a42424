//! Training within a limit: what to do when a batch does not fit, and checkpoints that survive.

use crate::data::Data;
use crate::model::{Model, Random};
use democratising::fs::CheckpointDir;
use democratising::gc::{self, Deadline, Reclaim};
use democratising::pool::budget::scope::{Kind, Scope};
use democratising::{DemoError, Result, Tensor};
use std::sync::{Arc, Mutex};

const STEPS: u64 = 300;
const CHECKPOINT_EVERY: u64 = 50;
const RATE: f32 = 0.5;

/// Batches that were made before: worth keeping only while nobody needs their memory.
#[derive(Default)]
struct Batches(Mutex<Vec<(Tensor, Vec<usize>)>>);

impl Reclaim for Batches {
    fn reclaimable_bytes(&self) -> u64 {
        self.0.lock().unwrap().iter().map(|(rows, _)| rows.byte_len() as u64).sum()
    }

    fn reclaim(&self, target_bytes: u64, _until: Deadline) -> u64 {
        let mut given = 0;
        while given < target_bytes
            && let Some((rows, _)) = self.0.lock().unwrap().pop()
        {
            given += rows.byte_len() as u64;
        }
        given
    }
}

/// Trains a model within `limit_bytes`, from the last checkpoint on if there is one.
pub fn train(data: &Data, checkpoints: &CheckpointDir, limit_bytes: u64) -> Result<()> {
    let scope = Scope::new("training");
    scope.set_limit(Kind::HostBytes, limit_bytes);
    let batches = Arc::new(Batches::default());
    let cache = gc::register("batches", 0, batches.clone());
    let result = scope.run(|| run(data, checkpoints, &batches));
    gc::unregister(cache);
    drop(batches);
    println!("training held {} KiB at most, of {} KiB", scope.peak(Kind::HostBytes) >> 10, limit_bytes >> 10);
    let left = scope.end();
    if !left.is_nothing() {
        println!("training forgot something: {left}");
    }
    result
}

fn run(data: &Data, checkpoints: &CheckpointDir, batches: &Batches) -> Result<()> {
    let mut random = Random(7);
    let (mut step, mut model) = match checkpoints.latest_valid()? {
        Some((step, checkpoint)) => {
            println!("going on from the checkpoint of step {step}");
            (step, Model::load(&checkpoint)?)
        }
        None => (0, Model::new(data, &mut random)?),
    };
    // Far more than fits: what fits is found out.
    let mut batch = 1 << 16;
    while step < STEPS {
        match Scope::new("step").run(|| one_step(&mut model, data, batch, batches, &mut random)) {
            Ok(loss) => {
                step += 1;
                if step % CHECKPOINT_EVERY == 0 {
                    let accuracy = model.accuracy(data)?;
                    checkpoints.save_with(step, model.tensors(), [("accuracy", accuracy.to_string())])?;
                    println!("step {step}: loss {loss:.4}, accuracy {accuracy:.1} %; checkpoint saved");
                }
            }
            Err(DemoError::OutOfMemory(report)) if batch > 1 => {
                println!("a batch of {batch} does not fit:\n  {report}");
                // Room for whatever else there is, then a smaller size.
                gc::collect()?;
                batch /= 2;
            }
            Err(error) => return Err(error),
        }
    }
    println!("batches of {batch}, {} of them in the cache at the end", batches.0.lock().unwrap().len());
    Ok(())
}

fn one_step(
    model: &mut Model,
    data: &Data,
    batch: usize,
    batches: &Batches,
    random: &mut Random,
) -> Result<f32> {
    // Now and then one that was made before.
    let kept = batches.0.lock().unwrap();
    let known = kept.iter().find(|(_, classes)| classes.len() == batch && random.next() > 0.9).cloned();
    drop(kept);
    let (rows, classes) = match known {
        Some(batch) => batch,
        None => made(data, batch, random)?,
    };
    let loss = model.step(&rows, &classes, RATE)?;
    batches.0.lock().unwrap().push((rows, classes));
    Ok(loss)
}

/// Rows of the data with a little noise.
fn made(data: &Data, batch: usize, random: &mut Random) -> Result<(Tensor, Vec<usize>)> {
    let features = data.features();
    let mut rows = Tensor::zeros(&[batch, features])?;
    let from = data.rows.as_slice::<f32>()?;
    let mut classes = Vec::with_capacity(batch);
    for row in rows.as_mut_slice::<f32>()?.chunks_exact_mut(features) {
        let which =
            (((random.next() + 1.0) / 2.0 * data.classes.len() as f32) as usize).min(data.classes.len() - 1);
        for (to, x) in row.iter_mut().zip(&from[which * features..]) {
            *to = x + 0.1 * random.next();
        }
        classes.push(data.classes[which]);
    }
    Ok((rows, classes))
}
