//! Finding a free run of granules: the contract of every span index.
//!
//! Granule numbers in, granule numbers out. Spans are exact: nothing is rounded to a power of two. The index keeps
//! three facts of every granule: whether it is live, whether a live span starts there, and (where the space is
//! backed in frames) whether it is free and backed. It never learns an address.

#![forbid(unsafe_code)]

#[cfg(test)]
mod contract;
pub mod fit;
pub mod tree;

use crate::arena::metadata::{Metadata, NoTable};
use crate::size::{Granule, Span};
use core::marker::PhantomData;

pub use fit::{Backing, FitTable, Framed, Unframed};
pub use tree::BuddyTree;

/// A span is not live as it was given. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotLive {
    /// The span lies, in whole or in part, outside the space.
    Outside,
    /// Its first granule is free.
    Free,
    /// Its first granule lies inside a live span.
    Inside,
    /// A live span starts there, of another length.
    OtherLength(
        /// The granules it really has.
        u32,
    ),
}

/// What every span index does.
pub trait SpanIndex<M: Metadata>: Sized {
    /// An index of `granules` free granules, none of them backed. Granule 0 lies `skew` granules behind a multiple of
    /// every alignment that will be asked for.
    ///
    /// # Errors
    /// [`NoTable`] when `meta` has no room for the tables.
    fn new(meta: &mut M, granules: u32, skew: u32) -> Result<Self, NoTable>;

    /// Takes a free run of `granules` granules at a multiple of `align` (a power of two), or `None` where there is
    /// none. Runs that are backed come first, as far as the index knows of them: the buddy tree of every granule, the fit
    /// table of whole free runs. Among the others it compares places, and takes the one where `cost` (the frames of it
    /// that are not backed; zero is a run that is) is least.
    fn take(&mut self, granules: u32, align: u32, cost: &impl Fn(Span) -> u32) -> Option<Span>;

    /// Gives a live span back; its granules are free and backed.
    ///
    /// # Errors
    /// [`NotLive`] when exactly this span is not live: a second free is refused.
    fn give(&mut self, span: Span) -> Result<(), NotLive>;

    /// Lengthens a live span to `granules` in place, if the granules behind it are free.
    fn extend(&mut self, span: Span, granules: u32) -> bool;

    /// Shortens a live span to its first `granules` granules (at least one); the rest is free and backed.
    ///
    /// # Errors
    /// [`NotLive`] when exactly this span is not live.
    fn cut(&mut self, span: Span, granules: u32) -> Result<(), NotLive>;

    /// The live span that starts at `start`.
    ///
    /// # Errors
    /// [`NotLive`] when none does.
    fn live(&self, start: Granule) -> Result<Span, NotLive>;

    /// The first live span at or behind `from`.
    fn next_live(&self, from: Granule) -> Option<Span>;

    /// The free granules of `span` have been backed.
    fn backed(&mut self, span: Span);

    /// The granules of `span`, all of them free, are no longer backed.
    fn unbacked(&mut self, span: Span);

    /// The granules of the largest free run, backed or not.
    fn largest_free(&self) -> u32;

    /// The granules up to the end of the highest run ever taken.
    fn high_water(&self) -> u32;
}

/// A kind of span index, whatever its tables live in: those of this crate. (Pools hand memory out as their index says.)
pub trait IndexKind: Kind {
    /// The index.
    type Index<M: Metadata>: SpanIndex<M>;
}

mod sealed {
    /// What nobody else can name.
    pub trait Kind {}
}
use sealed::Kind;

/// The kind of the [`BuddyTree`].
#[derive(Debug)]
pub enum ByTree {}

impl Kind for ByTree {}

impl IndexKind for ByTree {
    type Index<M: Metadata> = BuddyTree<M>;
}

/// The kind of the [`FitTable`], for spaces that are backed as `B` says.
#[derive(Debug)]
pub struct ByFit<B: Backing = Framed>(PhantomData<fn() -> B>);

impl<B: Backing> Kind for ByFit<B> {}

impl<B: Backing> IndexKind for ByFit<B> {
    type Index<M: Metadata> = FitTable<M, B>;
}
