//! Records what a few training steps take, and writes the recording in every form: `cargo run --example timeline -- FOLDER`.

use democratising::pool::budget::scope::Scope;
use democratising::timeline::{self, Options};
use democratising::{MemoryPool, Result, Tensor};
use std::fs::File;
use std::path::PathBuf;

fn step(batch: usize) -> Result<()> {
    let activations = Scope::new("activations")
        .run(|| (1..=8).map(|layer| Tensor::zeros(&[batch, 256 * layer])).collect::<Result<Vec<Tensor>>>())?;
    for layer in activations.iter().rev() {
        Scope::new("gradients").run(|| Tensor::zeros(layer.shape()))?;
    }
    Ok(())
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).unwrap_or_else(|| "target/timeline".into()));
    std::fs::create_dir_all(&folder)?;
    MemoryPool::configure().max_size(256 << 20).enable()?;

    let options = Options::new().capacity(100_000);
    #[cfg(feature = "backtrace")]
    let options = options.stacks(24);
    timeline::start(options)?;
    let weights = Scope::new("weights").run(|| Tensor::zeros(&[1024, 1024]))?;
    for epoch in 0..3 {
        timeline::mark(&format!("epoch {epoch}"));
        for batch in [64, 256, 1000] {
            step(batch)?;
        }
    }
    let refused = step(1 << 20).unwrap_err();
    println!("a step that is too large: {refused}");
    let timeline = timeline::stop()?;

    println!("{} events, {} dropped", timeline.events().len(), timeline.dropped());
    timeline.save(folder.join("steps.timeline"))?;
    timeline.write_pytorch(&mut File::create(folder.join("steps.pickle"))?)?;
    timeline.write_chrome(&mut File::create(folder.join("steps.trace.json"))?)?;
    timeline.write_dhat(&mut File::create(folder.join("steps.dhat.json"))?)?;
    println!("written to {}", folder.display());
    drop(weights);
    Ok(())
}
