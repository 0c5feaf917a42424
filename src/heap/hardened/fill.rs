//! What stands in a block besides the program's own: a pattern while it is free, and a trailer behind what was asked for.
//!
//! The last word of every block holds how much was asked for, scrambled with the block's address and a secret of the process.
//! Where there is more between, the eight bytes behind what was asked for and the eight before that word are watched too: none
//! of them is 0, nor is the first of the last word, so that a stray zero, as of a text one too long, is always seen.

use crate::arena::draw::mix;
use core::ptr::NonNull;

/// The bytes that every block has beyond what was asked for, at least.
pub(super) const TRAILER: usize = size_of::<u64>();

/// The bytes of a free block. As an address eight of them are none on any machine of today.
const FREE: u8 = 0xdf;
const FREE_WORD: u64 = u64::from_ne_bytes([FREE; 8]);

/// The bytes that are watched behind what was asked for, and before the trailer.
const PAD: usize = size_of::<u64>();

/// Odd, so that it has an inverse: one byte changed of the product changes all of the number that lie above it.
const SPREAD: u64 = 0xd6e8_feb8_6659_fd93;
const GATHER: u64 = inverse(SPREAD);

const fn inverse(odd: u64) -> u64 {
    // Newton's iteration: each round doubles the bits that are right, of which an odd number is its own inverse in three.
    let mut inverse = odd;
    let mut round = 0;
    while round < 5 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
        round += 1;
    }
    inverse
}
const _: () = assert!(SPREAD.wrapping_mul(GATHER) == 1);

/// How much was asked for, as a trailer whose first byte is not 0: with the first of a few keys that gives such a one.
#[inline]
fn scrambled(key: u64, asked_bytes: u64) -> u64 {
    let trailer = (key ^ asked_bytes).wrapping_mul(SPREAD);
    if trailer.to_le() as u8 != 0 {
        return trailer;
    }
    // Of 2^32 blocks one finds none, and keeps its 0.
    let mut others = (1..KEYS).map(|turn| (mix(key.wrapping_add(turn)) ^ asked_bytes).wrapping_mul(SPREAD));
    others.find(|trailer| trailer.to_le() as u8 != 0).unwrap_or(trailer)
}

/// How much was asked for; more than `most` where no key fits.
#[inline]
fn unscrambled(key: u64, trailer: u64, most: u64) -> u64 {
    let product = trailer.wrapping_mul(GATHER);
    if product ^ key <= most {
        return product ^ key;
    }
    (1..KEYS)
        .map(|turn| product ^ mix(key.wrapping_add(turn)))
        .find(|asked| *asked <= most)
        .unwrap_or(u64::MAX)
}

const KEYS: u64 = 4;

/// What a trailer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trailer {
    /// It is as it was written, for a block of so many bytes.
    Whole { asked_bytes: usize },
    /// Something wrote behind the end: the first byte found changed, counted from the block's start.
    Overrun { byte: usize },
}

/// A block of so many bytes, a multiple of 16, which the caller has alone.
#[derive(Clone, Copy)]
pub(super) struct Bytes {
    pub(super) at: NonNull<u8>,
    pub(super) bytes: usize,
}

impl Bytes {
    fn key(self, secret: u64) -> u64 {
        mix(secret ^ self.at.as_ptr() as u64)
    }

    /// What stands between, byte by byte: it depends on the block.
    fn pad(key: u64) -> u64 {
        u64::from_ne_bytes([(key >> 56) as u8 | 1; 8])
    }

    /// Of the eight bytes before the trailer, those that lie behind so many that were asked for: the mask has ones there.
    fn last(self, asked_bytes: usize) -> u64 {
        let behind = self.bytes - TRAILER - asked_bytes;
        let mask = if behind >= PAD { u64::MAX } else { !(u64::MAX >> (8 * behind)) };
        // In the order of addresses: the last bytes are the highest of a little-endian word.
        u64::from_le(mask)
    }

    /// A word of the block, at any byte of it.
    fn word(self, byte: usize) -> *mut u64 {
        self.at.as_ptr().wrapping_add(byte).cast()
    }

    fn trailer(self) -> *mut u64 {
        self.at.as_ptr().wrapping_add(self.bytes - TRAILER).cast()
    }

    /// Fills the block with the pattern of free ones.
    ///
    /// # Safety
    /// The block is the caller's, and may be written.
    pub(super) unsafe fn make_free(self) {
        // SAFETY: 1. As the caller promises.
        unsafe { self.at.write_bytes(FREE, self.bytes) }
    }

    /// Where a free block was written to, if it was.
    ///
    /// # Safety
    /// The block is the caller's, and may be read.
    pub(super) unsafe fn written(self) -> Option<usize> {
        // SAFETY: 1. As the caller promises. 2. Blocks start at and consist of multiples of 16 bytes. 3. Nobody writes meanwhile,
        // but for a bug that this is to find.
        let words = unsafe { core::slice::from_raw_parts(self.at.as_ptr().cast::<u64>(), self.bytes / 8) };
        // Without a branch for each word, so that several are compared at once.
        if words.iter().fold(0, |differs, &word| differs | (word ^ FREE_WORD)) == 0 {
            return None;
        }
        let word = words.iter().position(|&word| word != FREE_WORD)?;
        let byte = words[word].to_ne_bytes().iter().position(|&byte| byte != FREE)?;
        Some(word * 8 + byte)
    }

    /// Writes the trailer of a block of which so many bytes are the program's: at least [`TRAILER`] fewer than it has.
    ///
    /// # Safety
    /// As for [`make_free`](Self::make_free).
    pub(super) unsafe fn close(self, secret: u64, asked_bytes: usize) {
        debug_assert!(asked_bytes <= self.bytes - TRAILER);
        let (key, most, last) = (self.key(secret), self.bytes - TRAILER, self.last(asked_bytes));
        let pad = Self::pad(key);
        // SAFETY: 1. All lie in the block, which has at least 16 bytes. 2. The trailer's place is a multiple of 8.
        unsafe {
            if most - asked_bytes > PAD {
                self.word(asked_bytes).write_unaligned(pad);
            }
            let before = self.word(most - PAD);
            before.write(before.read() & !last | pad & last);
            self.trailer().write(scrambled(key, asked_bytes as u64));
        }
    }

    /// Reads the trailer. `told_bytes` is what the caller says was asked for.
    ///
    /// # Safety
    /// As for [`written`](Self::written).
    pub(super) unsafe fn check(self, secret: u64, told_bytes: Option<usize>) -> Trailer {
        let key = self.key(secret);
        let most = self.bytes - TRAILER;
        // SAFETY: 1. The trailer is the last word of the block.
        let asked = unscrambled(key, unsafe { self.trailer().read() }, most as u64);
        let whole = asked <= most as u64;
        let asked_bytes = if whole { asked as usize } else { told_bytes.unwrap_or(most).min(most) };
        let (pad, last) = (Self::pad(key), self.last(asked_bytes));
        // SAFETY: 1. As for the words of `written`: both lie before the trailer, the second at a multiple of 8.
        unsafe {
            let first = match most - asked_bytes > PAD {
                true => self.word(asked_bytes).read_unaligned() ^ pad,
                false => 0,
            };
            let before = (self.word(most - PAD).read() ^ pad) & last;
            if first | before == 0 {
                return if whole { Trailer::Whole { asked_bytes } } else { Trailer::Overrun { byte: most } };
            }
            let lowest = |differs: u64| (differs.to_le().trailing_zeros() / 8) as usize;
            let byte = if first != 0 { asked_bytes + lowest(first) } else { most - PAD + lowest(before) };
            Trailer::Overrun { byte }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_behind_what_was_asked_for_is_seen_whichever_it_is_and_whatever_becomes_of_it() {
        let mut words = [0u64; 16];
        let block = Bytes { at: NonNull::from(&mut words).cast(), bytes: 128 };
        let secrets = (0..600).map(|secret| (secret, if secret % 2 == 0 { 120 } else { 56 }));
        let secrets = secrets.chain([0, 1, 7, 8, 56, 119].map(|asked| (77, asked)));
        for (secret, asked) in secrets {
            for changed in asked..128 {
                for becomes in [0, 1, 0x80, 0xff] {
                    // SAFETY: 1. The words are this block's.
                    unsafe {
                        block.close(secret, asked);
                        assert_eq!(block.check(secret, None), Trailer::Whole { asked_bytes: asked });
                        let place = block.at.add(changed);
                        let watched = changed < asked + PAD || changed >= 120 - PAD;
                        assert!(changed != asked || place.read() != 0, "a zero is always seen");
                        if place.read() == becomes || !watched {
                            continue;
                        }
                        place.write(becomes);
                        for told in [None, Some(asked)] {
                            let seen = block.check(secret, told);
                            assert!(matches!(seen, Trailer::Overrun { .. }), "{asked} {changed} {seen:?}");
                            if told.is_some() && changed < 120 {
                                assert_eq!(seen, Trailer::Overrun { byte: changed });
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_write_to_a_free_block_is_seen_where_it_was() {
        let mut words = [0u64; 6];
        let block = Bytes { at: NonNull::from(&mut words).cast(), bytes: 48 };
        for byte in 0..48 {
            // SAFETY: 1. The words are this block's.
            unsafe {
                block.make_free();
                assert_eq!(block.written(), None);
                block.at.add(byte).write(0);
                assert_eq!(block.written(), Some(byte));
            }
        }
    }
}
