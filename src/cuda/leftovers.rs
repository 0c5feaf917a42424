//! What the driver refused to take back while something else was undone: no frame of the pool's, and the device's memory all the same.
//!
//! What is refused where frames are given up stays a frame of the pool's, and is none of this.

#![forbid(unsafe_code)]

use std::vec::Vec;

/// What is left over in one space. Tried again whenever memory is given back.
pub(super) struct Leftovers {
    /// Frames with memory of their own that could not be unmapped; the next request for one takes it as it is.
    pub(super) frames: Vec<usize>,
    /// Mappings of another frame's memory, and its handle: nothing else can be mapped there, and that memory is not free without it.
    pub(super) aliases: Vec<(usize, u64)>,
    /// Memory that is mapped nowhere and could not be released; the next frame that is backed takes it.
    pub(super) handles: Vec<u64>,
}

impl Leftovers {
    pub(super) const NONE: Leftovers =
        Leftovers { frames: Vec::new(), aliases: Vec::new(), handles: Vec::new() };

    /// How many frames' worth of memory that is. Aliases have none of their own.
    pub(super) fn frames_held(&self) -> usize {
        self.frames.len() + self.handles.len()
    }
}
