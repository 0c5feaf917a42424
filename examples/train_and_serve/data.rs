//! The data: rows of numbers, the class of each in the last column.

use democratising::{DemoError, Result, Tensor};
use std::path::Path;

/// Rows as the model wants them, and what each feature was before.
pub struct Data {
    /// `[rows, features]`, each feature with a mean of 0 and a deviation of 1.
    pub rows: Tensor,
    pub classes: Vec<usize>,
    pub class_count: usize,
    /// `[2, features]`: means, and deviations. A model needs them for every row that it is asked about.
    pub scale: Tensor,
}

impl Data {
    pub fn read(path: &Path) -> Result<Data> {
        // Text, .npy, safetensors or .pt: the content says what it is. A header line is skipped.
        let table = Tensor::open(path)?;
        let &[count, columns] = table.shape() else { return Err(wrong(path, "it is no table")) };
        if count < 10 || columns < 2 {
            return Err(wrong(path, "it has too few rows or columns"));
        }
        let features = columns - 1;
        let table = table.as_slice::<f32>()?;
        let mut classes = Vec::with_capacity(count);
        for row in table.chunks_exact(columns) {
            let class = row[features];
            if !(0.0..1000.0).contains(&class) || class.fract() != 0.0 {
                return Err(wrong(path, "its last column is no class: whole numbers from 0 on"));
            }
            classes.push(class as usize);
        }
        let class_count = classes.iter().max().map_or(0, |most| most + 1);

        let mut scale = Tensor::zeros(&[2, features])?;
        let (means, deviations) = scale.as_mut_slice::<f32>()?.split_at_mut(features);
        for feature in 0..features {
            let values = table.iter().skip(feature).step_by(columns);
            let mean = values.clone().sum::<f32>() / count as f32;
            let variance = values.map(|x| (x - mean).powi(2)).sum::<f32>() / count as f32;
            (means[feature], deviations[feature]) = (mean, variance.sqrt().max(1e-6));
        }
        let mut rows = Tensor::zeros(&[count, features])?;
        for (to, from) in
            rows.as_mut_slice::<f32>()?.chunks_exact_mut(features).zip(table.chunks_exact(columns))
        {
            scaled(from, means, deviations, to);
        }
        Ok(Data { rows, classes, class_count, scale })
    }

    pub fn features(&self) -> usize {
        self.rows.shape()[1]
    }
}

/// A row as the model wants it.
pub fn scaled(row: &[f32], means: &[f32], deviations: &[f32], to: &mut [f32]) {
    for (((to, x), mean), deviation) in to.iter_mut().zip(row).zip(means).zip(deviations) {
        *to = (x - mean) / deviation;
    }
}

fn wrong(path: &Path, problem: &str) -> DemoError {
    let source = std::io::Error::new(std::io::ErrorKind::InvalidData, problem);
    DemoError::Io { action: "use as training data", path: Some(path.into()), source }
}
