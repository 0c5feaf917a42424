//! Texts by number, each kept once.

#![forbid(unsafe_code)]

use std::boxed::Box;
use std::collections::HashMap;
use std::string::String;
use std::vec::Vec;

/// The most texts, and the most bytes of one: what is recorded stays bounded, whatever programs call their scopes.
const MOST: usize = 1 << 16;
const MOST_BYTES: usize = 256;

#[derive(Clone, Default)]
pub(super) struct Names {
    numbers: HashMap<Box<str>, u32>,
}

impl Names {
    /// The number of a text, cut to 256 bytes; that of "(others)" once there are 65,536.
    pub(super) fn number(&mut self, text: &str) -> u32 {
        let text = &text[..text.cut_at(MOST_BYTES)];
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        let text = if self.numbers.len() + 1 < MOST { text } else { "(others)" };
        let next = self.numbers.len() as u32;
        *self.numbers.entry(text.into()).or_insert(next)
    }

    pub(super) fn into_vec(self) -> Vec<String> {
        let mut all: Vec<(u32, Box<str>)> =
            self.numbers.into_iter().map(|(text, number)| (number, text)).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, text)| text.into()).collect()
    }
}

trait Boundary {
    fn cut_at(&self, most: usize) -> usize;
}

impl Boundary for str {
    /// The last place, at most `most`, where the text can be cut.
    fn cut_at(&self, most: usize) -> usize {
        (0..=most.min(self.len())).rev().find(|&at| self.is_char_boundary(at)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn a_text_has_one_number_and_is_cut_where_characters_end() {
        let mut names = Names::default();
        let long = "\u{e4}".repeat(200);
        assert_eq!([names.number("a"), names.number(&long), names.number("a")], [0, 1, 0]);
        assert_eq!(names.into_vec(), ["a", &"\u{e4}".repeat(128)]);
    }

    #[test]
    fn texts_beyond_the_most_share_one_number() {
        let mut names = Names::default();
        for i in 0..MOST + 100 {
            names.number(&format!("request {i}"));
        }
        let last = names.number("one more");
        let all = names.into_vec();
        assert_eq!((all.len(), all[last as usize].as_str()), (MOST, "(others)"));
    }
}
