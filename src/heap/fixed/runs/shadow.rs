//! The shadow of a range: a byte beside it for each granule, in which spans keep what is known of them.
//!
//! 1. A span has the bytes of its own granules. No two share one, and there is no pool of records that could run dry.
//! 2. Only the first and the last bytes of a span are read:
//!
//!    | span | first bytes | last bytes |
//!    |---|---|---|
//!    | free, shorter than a header | `0xc0` + granules | the same byte |
//!    | free | `0x8000_0000` + granules, the highest byte first; two links | the same number, the highest byte last |
//!    | live | granules, the highest byte first | a byte below `0x80` |
//!    | set aside | `0x4000_0000` + granules, the highest byte first; a link | a byte below `0x80` |
//!    | slab | `0x80` + class; two links; a bit for each slot | a byte below `0x80` |
//!
//!    So the byte before a span tells whether what ends there is free. What starts behind it is free if the bits beside do not say
//!    that something else starts there.
//!    Where code is dear, a free span of up to 63 granules is as one that is shorter than a header, and of a longer one the first byte is
//!    `0x80`, and its granules stand behind the header; the links of both are those of the tree (`runs/tree.rs`).
//! 3. In between stands what was left there. A last byte is written whenever a span becomes live or changes its end.

#![forbid(unsafe_code)]

use super::super::COPIES;

/// The granules of the shortest span that can be live: as many as a header has bytes.
pub(in super::super) const LEAST: u32 = 16;
/// The number of the lowest granule. So number 0 is none's, and what is read there is a header of zeros: of a span that is nothing.
pub(in super::super) const LOWEST: u32 = LEAST;
/// The first bytes of a span of at least that length.
pub(in super::super) type Header = [u8; LEAST as usize];

pub(super) const FREE: u32 = 1 << 31;
pub(super) const FREE_BYTE: u8 = 0x80;
const SHORT_BYTE: u8 = 0xc0;
pub(super) const SHORT_MASK: u8 = 0x3f;
/// Where code is dear, and a span is too long for one byte: where its length stands, behind the links.
pub(super) const LENGTH: u32 = LEAST;
const ASIDE_BYTE: u8 = 0x40;
/// A slab's first byte: this and the class.
pub(in super::super) const SLAB_BYTE: u8 = 0x80;
const _: () = assert!(LEAST <= SHORT_MASK as u32, "a short span's length fits its byte");

/// The bytes, each at its granule's number. A span's **place** is the number of its first granule; a link of 0 leads nowhere.
pub(in super::super) struct Shadow(&'static mut [u8]);

impl Shadow {
    /// The bytes for so many granules: a header can be read at every place, and behind the last.
    pub(super) const fn len_for(granules: u32) -> usize {
        (LOWEST + granules + LEAST) as usize
    }

    pub(super) const fn new(bytes: &'static mut [u8]) -> Shadow {
        Shadow(bytes)
    }

    #[inline]
    pub(super) fn bytes<const N: usize>(&self, at: usize) -> &[u8; N] {
        match self.0[at..at + N].first_chunk() {
            Some(bytes) => bytes,
            None => unreachable!("a slice has its length"),
        }
    }

    #[inline]
    pub(super) fn bytes_mut<const N: usize>(&mut self, at: usize) -> &mut [u8; N] {
        match self.0[at..at + N].first_chunk_mut() {
            Some(bytes) => bytes,
            None => unreachable!("a slice has its length"),
        }
    }

    /// The first bytes of the span at a place.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(in super::super) fn header(&self, place: u32) -> &Header {
        self.bytes(place as usize)
    }

    /// The same of a place that there may not be.
    #[inline(always)]
    pub(in super::super) fn find(&self, place: usize) -> Option<&Header> {
        self.0.get(place..place + LEAST as usize)?.first_chunk()
    }

    /// The same, to be written.
    #[inline(always)]
    pub(in super::super) fn find_mut(&mut self, place: usize) -> Option<&mut Header> {
        self.0.get_mut(place..place + LEAST as usize)?.first_chunk_mut()
    }

    /// The first bytes of the span at a place, to be written.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(in super::super) fn header_mut(&mut self, place: u32) -> &mut Header {
        self.bytes_mut(place as usize)
    }

    /// The four bytes from one on.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn word(&self, at: usize) -> u32 {
        self.0
            .get(at..at + 4)
            .and_then(|rest| rest.first_chunk())
            .map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    /// Writes them.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn set_word(&mut self, at: usize, word: u32) {
        if let Some(bytes) = self.0.get_mut(at..at + 4).and_then(|rest| rest.first_chunk_mut()) {
            *bytes = word.to_le_bytes();
        }
    }

    /// The granules of the live span at a place; more than any span has where that is a slab.
    #[inline]
    pub(super) fn live(&self, place: u32) -> u32 {
        self.word(place as usize).swap_bytes()
    }

    /// A live span stands at a place.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn set_live(&mut self, place: u32, granules: u32) {
        self.set_word(place as usize, granules.swap_bytes());
        self.set_byte(place + granules - 1, 0);
    }

    #[inline]
    fn byte(&self, place: u32) -> u8 {
        self.0.get(place as usize).map_or(0, |byte| *byte)
    }

    #[inline]
    pub(super) fn set_byte(&mut self, place: u32, byte: u8) {
        if let Some(place) = self.0.get_mut(place as usize) {
            *place = byte;
        }
    }

    /// The granules of the span at a place that was set aside; `None` where it was not.
    pub(super) fn aside(&self, place: u32) -> Option<u32> {
        let granules = self.live(place) ^ (ASIDE_BYTE as u32) << 24;
        (granules >> 24 == 0).then_some(granules)
    }

    /// The granules of the free span at a place where nothing else starts.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(super) fn free(&self, place: u32) -> u32 {
        let first = self.byte(place);
        if first & SHORT_BYTE == SHORT_BYTE {
            (first & SHORT_MASK) as u32
        } else if COPIES {
            self.listed(place)
        } else {
            self.word((place + LENGTH) as usize)
        }
    }

    /// The same for one in a list.
    #[cfg_attr(target_pointer_width = "64", inline)]
    pub(super) fn listed(&self, place: u32) -> u32 {
        if !COPIES {
            return self.free(place);
        }
        self.live(place) & !FREE
    }

    /// The granules of the free span that ends before a place; none where what ends there is not free.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    pub(super) fn free_before(&self, place: u32) -> u32 {
        let last = self.byte(place - 1);
        if last & FREE_BYTE == 0 {
            0
        } else if last & SHORT_BYTE == SHORT_BYTE {
            (last & SHORT_MASK) as u32
        } else {
            self.word(place as usize - 4) & !FREE
        }
    }

    /// A free span stands at a place that is shorter than a header.
    #[inline]
    pub(super) fn set_short(&mut self, place: u32, granules: u32) {
        let byte = SHORT_BYTE | granules as u8;
        self.set_byte(place, byte);
        self.set_byte(place + granules - 1, byte);
    }

    /// The free span behind one in its list.
    #[inline]
    pub(super) fn next(&self, place: u32) -> u32 {
        self.word(place as usize + 4)
    }

    /// The slabs behind and before one in its list.
    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(in super::super) fn links(&self, place: u32) -> Links {
        // The first four bytes are the class and the lower bits of one link; the last four the other link, the upper bits, and a mark, so
        // that the last byte stays below 0x80.
        let header = self.header(place);
        let (first, last) = (word(header, 0), word(header, 12) & !STAYED);
        Links { next: last & (MOST_GRANULES - 1), prev: first >> 8 | last >> LINK_BITS << 24 }
    }

    #[cfg_attr(target_pointer_width = "64", inline)]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(in super::super) fn set_links(&mut self, place: u32, Links { next, prev }: Links) {
        let header = self.header_mut(place);
        let first = header[0] as u32 | prev << 8;
        header[..4].copy_from_slice(&first.to_le_bytes());
        let last = word(header, 12) & STAYED | next | prev >> 24 << LINK_BITS;
        header[12..].copy_from_slice(&last.to_le_bytes());
    }
}

/// Whether a live span with that header has so many granules.
#[inline]
pub(super) fn is_live(header: &Header, granules: u32) -> bool {
    word(header, 0) == granules.swap_bytes()
}

/// The live span with that header is set aside, before this one. (It is short: its first byte holds nothing else.)
#[inline]
pub(super) fn set_aside(header: &mut Header, next: u32) {
    header[0] = ASIDE_BYTE;
    header[4..8].copy_from_slice(&next.to_le_bytes());
}

/// The span with that header, which was set aside, is live. The one behind it.
#[inline]
pub(super) fn take_aside(header: &mut Header) -> u32 {
    header[0] = 0;
    word(header, 4)
}

/// The bits of a slab's header: the slots that are free.
#[inline]
pub(in super::super) fn bits(header: &Header) -> u64 {
    u64::from_le_bytes(header[4..12].try_into().unwrap_or_default())
}

#[inline]
pub(in super::super) fn set_bits(header: &mut Header, bits: u64) {
    header[4..12].copy_from_slice(&bits.to_le_bytes());
}

/// The mark of a slab of which a block became smaller and stayed, among the links.
const STAYED: u32 = 1 << 30;
const _: () = assert!(LINK_BITS + 2 <= 30, "a mark beside the links");

#[inline]
pub(in super::super) fn has_stayed(header: &Header) -> bool {
    word(header, 12) & STAYED != 0
}

#[inline]
pub(in super::super) fn let_stay(header: &mut Header) {
    let last = word(header, 12) | STAYED;
    header[12..].copy_from_slice(&last.to_le_bytes());
}

/// The places of the slabs before and behind one in its list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in super::super) struct Links {
    pub(in super::super) next: u32,
    pub(in super::super) prev: u32,
}

/// The bits of a link.
const LINK_BITS: u32 = 26;
/// The most granules of a range whose slabs can be linked.
pub(in super::super) const MOST_GRANULES: u32 = 1 << LINK_BITS;

/// Four bytes as a number.
#[inline]
pub(super) fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default())
}
