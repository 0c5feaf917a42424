//! A network of one hidden layer, in tensors of the pool.

use crate::data::{Data, scaled};
use democratising::fs::Checkpoint;
use democratising::{Result, Tensor};

const HIDDEN: usize = 16;

pub struct Model {
    /// `[features, HIDDEN]`, `[HIDDEN]`, `[HIDDEN, classes]`, `[classes]`.
    parts: [Tensor; 4],
    /// `[2, features]`.
    scale: Tensor,
}

const NAMES: [&str; 4] = ["hidden.weight", "hidden.bias", "out.weight", "out.bias"];

/// A small generator: the example needs no good one, and the same run each time.
pub struct Random(pub u64);

impl Random {
    /// From -1 to 1.
    pub fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

impl Model {
    pub fn new(data: &Data, random: &mut Random) -> Result<Model> {
        let (features, classes) = (data.features(), data.class_count);
        let mut parts = [
            Tensor::zeros(&[features, HIDDEN])?,
            Tensor::zeros(&[HIDDEN])?,
            Tensor::zeros(&[HIDDEN, classes])?,
            Tensor::zeros(&[classes])?,
        ];
        for (part, inputs) in [(0, features), (2, HIDDEN)] {
            let spread = 1.0 / (inputs as f32).sqrt();
            parts[part].as_mut_slice::<f32>()?.iter_mut().for_each(|weight| *weight = random.next() * spread);
        }
        Ok(Model { parts, scale: data.scale.clone() })
    }

    /// The tensors of a checkpoint: views of the mapped file, until one of them is changed.
    pub fn load(checkpoint: &Checkpoint) -> Result<Model> {
        let [a, b, c, d] = NAMES.map(|name| checkpoint.get(name));
        Ok(Model { parts: [a?, b?, c?, d?], scale: checkpoint.get("scale")? })
    }

    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        NAMES.into_iter().zip(&self.parts).chain([("scale", &self.scale)])
    }

    pub fn features(&self) -> usize {
        self.parts[0].shape()[0]
    }

    pub fn classes(&self) -> usize {
        self.parts[3].shape()[0]
    }

    /// The hidden layer and the probabilities of each row.
    pub fn forward(&self, rows: &[f32], hidden: &mut [f32], out: &mut [f32]) -> Result<()> {
        let [w1, b1, w2, b2] = self.weights()?;
        let (features, classes) = (self.features(), self.classes());
        let rows = rows.chunks_exact(features);
        for ((row, hidden), out) in
            rows.zip(hidden.chunks_exact_mut(HIDDEN)).zip(out.chunks_exact_mut(classes))
        {
            layer(row, w1, b1, hidden);
            hidden.iter_mut().for_each(|x| *x = x.tanh());
            layer(hidden, w2, b2, out);
            let most = out.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            out.iter_mut().for_each(|x| *x = (*x - most).exp());
            let sum: f32 = out.iter().sum();
            out.iter_mut().for_each(|x| *x /= sum);
        }
        Ok(())
    }

    /// One step of gradient descent over a batch. Everything between the layers is in tensors of this step.
    pub fn step(&mut self, rows: &Tensor, classes_of: &[usize], rate: f32) -> Result<f32> {
        let (count, classes) = (classes_of.len(), self.classes());
        let mut hidden = Tensor::zeros(&[count, HIDDEN])?;
        let mut out = Tensor::zeros(&[count, classes])?;
        let mut gradients: Vec<Tensor> =
            self.parts.iter().map(|part| Tensor::zeros(part.shape())).collect::<Result<_>>()?;
        let rows = rows.as_slice::<f32>()?;
        self.forward(rows, hidden.as_mut_slice()?, out.as_mut_slice()?)?;

        let (hidden, out) = (hidden.as_slice::<f32>()?, out.as_mut_slice::<f32>()?);
        let mut loss = 0.0;
        let [_, _, w2, _] = self.weights()?;
        let [g1, gb1, g2, gb2] = gradients.as_mut_slice() else { unreachable!("four parts") };
        let (g1, gb1) = (g1.as_mut_slice::<f32>()?, gb1.as_mut_slice::<f32>()?);
        let (g2, gb2) = (g2.as_mut_slice::<f32>()?, gb2.as_mut_slice::<f32>()?);
        for (i, &class) in classes_of.iter().enumerate() {
            let row = &rows[i * self.features()..][..self.features()];
            let hidden = &hidden[i * HIDDEN..][..HIDDEN];
            let out = &mut out[i * classes..][..classes];
            loss -= out[class].max(1e-9).ln();
            out[class] -= 1.0;
            for (j, (&h, into)) in hidden.iter().zip(g2.chunks_exact_mut(classes)).enumerate() {
                add(into, out, h);
                let back: f32 = out.iter().zip(&w2[j * classes..]).map(|(x, w)| x * w).sum();
                let back = back * (1.0 - h * h);
                gb1[j] += back;
                row.iter().enumerate().for_each(|(k, x)| g1[k * HIDDEN + j] += back * x);
            }
            add(gb2, out, 1.0);
        }
        for (part, gradient) in self.parts.iter_mut().zip(&gradients) {
            // A tensor that is a view of a mapped file gets memory of its own here.
            add(part.as_mut_slice()?, gradient.as_slice()?, -rate / count as f32);
        }
        Ok(loss / count as f32)
    }

    /// The class of a row as it was measured, and how probable it is.
    pub fn predict(&self, measured: &[f32]) -> Result<(usize, f32)> {
        let mut row = vec![0.0; self.features()];
        let (means, deviations) = self.scale.as_slice::<f32>()?.split_at(self.features());
        scaled(measured, means, deviations, &mut row);
        let (mut hidden, mut out) = (vec![0.0; HIDDEN], vec![0.0; self.classes()]);
        self.forward(&row, &mut hidden, &mut out)?;
        let best = (0..out.len()).max_by(|&a, &b| out[a].total_cmp(&out[b])).unwrap_or(0);
        Ok((best, out[best]))
    }

    /// How many of a hundred rows it gets right.
    pub fn accuracy(&self, data: &Data) -> Result<f32> {
        let count = data.classes.len();
        let mut hidden = Tensor::zeros(&[count, HIDDEN])?;
        let mut out = Tensor::zeros(&[count, self.classes()])?;
        self.forward(data.rows.as_slice()?, hidden.as_mut_slice()?, out.as_mut_slice()?)?;
        let out = out.as_slice::<f32>()?.chunks_exact(self.classes());
        let right =
            out.zip(&data.classes).filter(|(out, class)| out.iter().all(|x| *x <= out[**class])).count();
        Ok(100.0 * right as f32 / count as f32)
    }

    fn weights(&self) -> Result<[&[f32]; 4]> {
        let [a, b, c, d] = self.parts.each_ref().map(|part| part.as_slice::<f32>());
        Ok([a?, b?, c?, d?])
    }
}

fn layer(from: &[f32], weights: &[f32], bias: &[f32], to: &mut [f32]) {
    to.copy_from_slice(bias);
    for (x, weights) in from.iter().zip(weights.chunks_exact(to.len())) {
        add(to, weights, *x);
    }
}

fn add(to: &mut [f32], from: &[f32], times: f32) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from * times);
}
