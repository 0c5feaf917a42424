//! Ordinary Rust programs over generated input.
#![forbid(unsafe_code)]

use super::Scale;
use crate::rng::Rng;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

/// A map whose hashes are the same in every process.
type Counts = HashMap<String, usize, BuildHasherDefault<DefaultHasher>>;

/// Words of 2 to 14 letters.
fn vocabulary(words: usize) -> Vec<String> {
    let mut rng = Rng::new(19);
    let mut word = || (0..rng.between(2, 14)).map(|_| char::from(b'a' + rng.below(26) as u8)).collect();
    (0..words).map(|_| word()).collect()
}

fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Lines of words, frequent ones most of the time.
fn text(seed: u64, words: usize) -> String {
    let vocabulary = vocabulary(20_000);
    let mut rng = Rng::new(seed);
    let mut text = String::new();
    for number in 0..words {
        let bound = rng.below(vocabulary.len()) + 1;
        text.push_str(&vocabulary[rng.below(bound)]);
        text.push(if number % 12 == 11 { '\n' } else { ' ' });
    }
    text
}

/// The words of a text, as a beginner's program counts them: an owned `String` a word.
pub fn word_count(scale: Scale) -> u64 {
    let text = text(20, scale.of(1_200_000));
    let mut counts = Counts::default();
    for line in text.lines() {
        let words: Vec<String> = line.split(' ').map(str::to_uppercase).collect();
        for word in words {
            *counts.entry(word).or_insert(0) += 1;
        }
    }
    let mut ranked: Vec<(String, usize)> = counts.into_iter().collect();
    ranked.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    ranked.iter().take(1000).fold(0, |sum: u64, (word, count)| {
        sum.rotate_left(1).wrapping_add(hash(word)).wrapping_add(*count as u64)
    })
}

fn record(rng: &mut Rng, words: &[String], number: usize) -> Value {
    let word = |rank: usize| words[rank].clone();
    let tags: Vec<Value> = (0..rng.below(6)).map(|_| Value::from(word(rng.below(500)))).collect();
    let mut fields = Map::new();
    for _ in 0..rng.below(5) {
        fields.insert(word(rng.below(200)), Value::from(rng.below(1_000_000)));
    }
    json!({
        "id": number,
        "name": format!("{} {}", words[rng.below(5000)], words[rng.below(5000)]),
        "active": rng.below(2) == 0,
        "position": [rng.below(360), rng.below(180), -(rng.below(90) as i64)],
        "tags": tags,
        "fields": fields,
        "note": if rng.below(3) == 0 { Value::Null } else { Value::from("a \"quoted\" note\n".repeat(rng.below(4))) },
    })
}

/// Documents as a service sees them: parsed into values, changed, printed, dropped.
pub fn json(scale: Scale) -> u64 {
    let words = vocabulary(5000);
    let mut rng = Rng::new(21);
    let mut sum = 0u64;
    for round in 0..scale.of(60) {
        let document = Value::Array((0..1000).map(|number| record(&mut rng, &words, number)).collect());
        let mut printed = document.to_string();
        for _ in 0..2 {
            match serde_json::from_str::<Value>(&printed) {
                Ok(Value::Array(mut records)) => {
                    for record in records.iter_mut().step_by(3) {
                        record["round"] = Value::from(round);
                    }
                    printed = Value::Array(records).to_string();
                }
                other => panic!("serde_json did not read its own array back: {other:?}"),
            }
        }
        sum = sum.rotate_left(1).wrapping_add(hash(&printed));
    }
    sum
}

/// Keys cloned, sorted, joined into one text and split again.
pub fn sort_strings(scale: Scale) -> u64 {
    let words = vocabulary(3000);
    let mut rng = Rng::new(22);
    let mut sum = 0u64;
    for _ in 0..scale.of(40) {
        let mut lines: Vec<String> =
            (0..10_000).map(|_| format!("{}-{}", words[rng.below(3000)], rng.below(100_000))).collect();
        let by_length = {
            let mut copy = lines.clone();
            copy.sort_by_key(|line| (line.len(), line.to_uppercase()));
            copy
        };
        lines.sort();
        let joined = lines.join("\n");
        let split: Vec<String> = joined.split('-').map(str::to_owned).collect();
        sum = sum.rotate_left(1).wrapping_add(hash(&joined)).wrapping_add(split.len() as u64);
        sum = sum.wrapping_add(hash(&by_length[by_length.len() / 2]));
    }
    sum
}
