//! The hits of a loaded magazine, and what somebody else may take out of it meanwhile.
//!
//! 1. A hit reads the top and does one of two things: it reads the block below and moves the top down, or it writes a block at the
//!    top and moves the top up. It asks nobody, and waits for nobody.
//! 2. A visitor is whoever takes blocks out of a magazine that is another thread's. Before, it has made sure that the owner begins
//!    no other hit. One may be under way all the same, for as long as it pleases: it has read the top or is about to,
//!    and will read or write next to it.
//! 3. So the visitor leaves the uppermost block and all places above it alone, and never moves the top. It takes what lies
//!    below, and ends the magazine there. A hit under way then leaves 0, 1 or 2 blocks behind.
//! 4. Where the visitor reads a top that the hit under way has just moved up, the uppermost place may not be written yet. It is
//!    not looked at.

#![forbid(unsafe_code)]

/// A loaded magazine: words, of which one below the blocks is 0, and a top.
pub trait Loaded {
    /// A place of a word.
    type At: Copy + PartialEq;
    /// The place above the uppermost block.
    fn top(&self) -> Self::At;
    /// Moves the top.
    fn set_top(&self, to: Self::At);
    /// The place that lies so many words below another.
    fn below(&self, at: Self::At, words: usize) -> Self::At;
    /// The place above another.
    fn above(&self, at: Self::At) -> Self::At;
    /// What stands there.
    fn word(&self, at: Self::At) -> usize;
    /// Writes there.
    fn set_word(&self, at: Self::At, word: usize);
    /// Whether no word of the magazine is there: it is full.
    fn is_end(&self, at: Self::At) -> bool;
}

/// The uppermost block, or 0.
#[inline(always)]
pub fn pop(loaded: &impl Loaded) -> usize {
    let below = loaded.below(loaded.top(), 1);
    let block = loaded.word(below);
    if block != 0 {
        loaded.set_top(below);
    }
    block
}

/// Puts a block on top. `false`, and nothing is done: the magazine is full.
#[inline(always)]
pub fn push(loaded: &impl Loaded, block: usize) -> bool {
    let above = loaded.top();
    if loaded.is_end(above) {
        return false;
    }
    loaded.set_word(above, block);
    loaded.set_top(loaded.above(above));
    true
}

/// Takes every block below the uppermost for `out`, lowest first, and ends the magazine under that one. `blocks` of a top: how
/// many the magazine had if that were its top. The new bottom and how many were taken; `None`: none could be.
pub fn skim<L: Loaded>(
    loaded: &L,
    blocks: impl FnOnce(L::At) -> usize,
    out: &mut [usize],
) -> Option<(L::At, usize)> {
    // Read once: it may move.
    let top = loaded.top();
    let taken = blocks(top).checked_sub(1).filter(|&taken| taken > 0)?;
    for (at, block) in out[..taken].iter_mut().enumerate() {
        *block = loaded.word(loaded.below(top, taken + 1 - at));
    }
    loaded.set_word(loaded.below(top, 2), 0);
    Some((loaded.below(top, 1), taken))
}
