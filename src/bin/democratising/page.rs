//! One page that shows memory over time, who holds it, and the addresses at any instant. It holds its data, style and script, and
//! asks nothing of any network.
//!
//! The steps are written as bytes, in base64: numbers of seven bits a byte, the lowest first, the eighth bit set on all but the last.
//!
//! | first number | then |
//! |---|---|
//! | 0: taken | holder; address less the address taken before (zigzag); bytes; block bytes less bytes (zigzag) |
//! | 1: given | how many takes ago, 1 the last |
//! | 2: reserved | bytes |
//! | 3: failed | bytes |

#![forbid(unsafe_code)]

use crate::story::{FRAME_BYTES, Step, Story};
use serde_json::json;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// The whole page.
pub fn page(stories: &[Story]) -> String {
    let stories: Vec<_> = stories
        .iter()
        .map(|story| {
            json!({
                "title": story.title, "memory": story.memory, "frame": if story.is_reserved { FRAME_BYTES } else { 0 },
                "holders": story.holders, "marks": story.marks, "peak": story.peak().0, "steps": base64(&packed(&story.steps)),
            })
        })
        .collect();
    // In a script nothing but `<` could end it, or begin a comment.
    let data = json!(stories).to_string().replace('<', "\\u003c");
    let mut page = String::with_capacity(PAGE.len() + STYLE.len() + SCRIPT.len() + data.len());
    let mut rest = PAGE;
    for (place, text) in [("{{style}}", STYLE), ("{{data}}", &data), ("{{script}}", SCRIPT)] {
        let Some((before, after)) = rest.split_once(place) else {
            unreachable!("the page has a place for {place}")
        };
        page.push_str(before);
        page.push_str(text);
        rest = after;
    }
    page + rest
}

fn packed(steps: &[Step]) -> Vec<u8> {
    let mut out = Vec::with_capacity(steps.len() * 8);
    let (mut takes, mut last) = (0u64, 0u64);
    for step in steps {
        match *step {
            Step::Take { address, bytes, block_bytes, holder } => {
                number(&mut out, 0);
                number(&mut out, holder.into());
                number(&mut out, zigzag(address.wrapping_sub(last)));
                number(&mut out, bytes);
                number(&mut out, zigzag(block_bytes.wrapping_sub(bytes)));
                last = address;
                takes += 1;
            }
            Step::Give(take) => {
                number(&mut out, 1);
                number(&mut out, takes - u64::from(take));
            }
            Step::Reserve(bytes) => {
                number(&mut out, 2);
                number(&mut out, bytes);
            }
            Step::Fail(bytes) => {
                number(&mut out, 3);
                number(&mut out, bytes);
            }
        }
    }
    out
}

fn zigzag(difference: u64) -> u64 {
    difference << 1 ^ ((difference as i64) >> 63) as u64
}

fn number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 128 {
        out.push(number as u8 | 128);
        number >>= 7;
    }
    out.push(number as u8);
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let all = three.iter().chain([&0; 2]).take(3).fold(0u32, |all, &byte| all << 8 | u32::from(byte));
        for digit in 0..4 {
            let six = all >> (18 - 6 * digit) & 63;
            out.push(if digit > three.len() { '=' } else { DIGITS[six as usize] as char });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_the_rfc_says() {
        let known = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        for (length, wanted) in known.iter().enumerate() {
            assert_eq!(base64(&b"foobar"[..length]), *wanted);
        }
    }

    #[test]
    fn numbers_take_seven_bits_a_byte_and_differences_a_sign() {
        let mut out = Vec::new();
        for n in [0, 127, 128, 300, u64::MAX] {
            number(&mut out, n);
        }
        assert_eq!(out[..6], [0, 127, 128, 1, 172, 2]);
        assert_eq!(out.len(), 16);
        assert_eq!([zigzag(0), zigzag(1), zigzag(1u64.wrapping_neg()), zigzag(2)], [0, 2, 1, 4]);
    }

    #[test]
    fn a_name_cannot_leave_the_data() {
        let name = "</script><b>{{script}}";
        let story = Story {
            title: name.into(),
            memory: name.into(),
            steps: vec![Step::Reserve(5)],
            holders: vec![name.into()],
            marks: vec![(0, name.into())],
            is_reserved: true,
            steals: 0,
        };
        let page = page(&[story]);
        assert_eq!(page.matches("</script>").count(), 2, "of the data and of the script");
        assert!(!page.contains("<b>"));
        assert_eq!(page.matches("{{script}}").count(), 4, "only where the name stands");
    }
}
