//! An arena divides one space. It has no lock and touches no byte of the space; all its tables lie beside it.

#![deny(unsafe_code)]

mod ages;
mod batch;
pub(crate) mod bits;
mod commit;
#[cfg(feature = "std")]
pub(crate) mod draw;
mod frames;
pub mod index;
pub mod metadata;
mod purge;
mod refusal;
mod resize;
mod slab;
mod spans;
mod stats;
#[cfg(all(test, feature = "std"))]
mod tests;
mod zeros;

pub(crate) use batch::Name;
pub use batch::{Flushed, Refilled};
pub use commit::{Grant, Unlimited};
pub use index::{BuddyTree, ByFit, ByTree, FitTable, Framed, IndexKind, SpanIndex, Unframed};
pub use metadata::{Borrowed, Metadata, NoTable, Sizing};
pub use refusal::{NoArena, NoBlock};
pub use spans::{LiveSlots, LiveSpan};
pub use stats::Stats;

use crate::error::BadFree;
use crate::size::{Geometry, Granule, Offset, SizeClass, Span};
use crate::space::{Alignment, Contents, Space, SpaceError};
use commit::{Commit, NotBacked};
use core::alloc::Layout;
use index::NotLive;
use slab::{Found, NotTaken, Slabs};

/// A block that was handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a block that is dropped is not given back"]
pub struct Block<A> {
    /// Where it starts.
    pub addr: A,
    /// The bytes that may be used: at least those asked for.
    pub bytes: u64,
    /// What they hold.
    pub contents: Contents,
}

/// One space, divided into spans and slabs.
///
/// ```
/// use core::{alloc::Layout, mem::MaybeUninit};
/// use democratising::{Arena, arena::{Borrowed, Unlimited}, space::Simulated};
///
/// // Addresses that nobody can touch: the tables lie elsewhere.
/// let space = Simulated::device(64 << 20, 2 << 20);
/// let mut tables = vec![MaybeUninit::uninit(); Arena::<_, Borrowed>::metadata_bytes(&space) as usize];
/// let mut arena = Arena::new(space, Borrowed::new(&mut tables))?;
///
/// let layout = Layout::from_size_align(3 << 20, 256)?;
/// let block = arena.allocate(layout, &Unlimited)?;
/// assert_eq!(arena.stats().in_use_bytes, 3 << 20);
/// arena.free(block.addr, layout, &Unlimited)?;
/// assert!(arena.free(block.addr, layout, &Unlimited).is_err(), "a second free changes nothing");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Arena<S: Space, M: Metadata> {
    space: S,
    geometry: Geometry,
    granules: u32,
    alignment: Alignment,
    index: S::Index<M>,
    slabs: Option<Slabs<M>>,
    commit: Option<Commit<M>>,
    stats: Stats,
}

impl<S: Space, M: Metadata> Arena<S, M> {
    /// Frames that may be created beyond the most ever in use before idle ones are moved, in thousandths.
    pub const DEFAULT_SLACK_PERMILLE: u32 = 30;

    /// The most granules of a space, so that sums of two runs still count.
    const MOST_GRANULES: u64 = 1 << 31;

    /// Divides `space`, with its tables from `meta`.
    ///
    /// # Errors
    /// [`NoArena`] when the tables find no memory or the space has more than 2^31 granules.
    pub fn new(space: S, mut meta: M) -> Result<Self, NoArena> {
        let (geometry, alignment) = (space.geometry(), space.alignment());
        let space_bytes = space.len_bytes();
        let most_bytes = Self::MOST_GRANULES << geometry.granule_shift();
        if space_bytes > most_bytes {
            return Err(NoArena::TooLarge { space_bytes, most_bytes });
        }
        let granules = (space_bytes >> geometry.granule_shift()) as u32;
        let skew = (alignment.skew_bytes >> geometry.granule_shift()) as u32;
        let mut index = S::Index::new(&mut meta, granules, skew)?;
        let slabs = Slabs::new(&mut meta, geometry, granules, skew)?;
        let commit = match (geometry.frame_granules_shift(), geometry.frame_bytes()) {
            (Some(shift), Some(bytes)) => {
                Some(Commit::new(&mut meta, granules, shift, bytes, Self::DEFAULT_SLACK_PERMILLE)?)
            }
            _ => {
                index.backed(Span::new(0, granules));
                None
            }
        };
        let stats = Stats { limit_bytes: u64::MAX, ..Stats::default() };
        Ok(Arena { space, geometry, granules, alignment, index, slabs, commit, stats })
    }

    /// The bytes of tables that an arena over `space` takes from its [`Metadata`].
    pub fn metadata_bytes(space: &S) -> u64 {
        let mut sizing = Sizing::default();
        let counted = Self::count_tables(space, &mut sizing);
        debug_assert!(counted.is_ok(), "counting cannot fail");
        sizing.bytes()
    }

    /// Asks `counting` for the tables of an arena over `space`, as [`new`](Self::new) does.
    pub(crate) fn count_tables<C: Metadata>(space: &S, counting: &mut C) -> Result<(), NoTable> {
        let geometry = space.geometry();
        let granules = (space.len_bytes() >> geometry.granule_shift()) as u32;
        let skew = (space.alignment().skew_bytes >> geometry.granule_shift()) as u32;
        S::Index::<C>::new(counting, granules, skew)?;
        Slabs::new(counting, geometry, granules, skew)?;
        if let (Some(shift), Some(bytes)) = (geometry.frame_granules_shift(), geometry.frame_bytes()) {
            Commit::new(counting, granules, shift, bytes, 0)?;
        }
        Ok(())
    }

    /// The space.
    pub fn space(&self) -> &S {
        &self.space
    }

    /// Sets how many frames more than were ever in use may be created before idle ones are moved, in thousandths:
    /// 0 is tightest.
    pub fn set_slack(&mut self, permille: u32) {
        if let Some(commit) = &mut self.commit {
            commit.set_slack(permille);
        }
    }

    /// A block for `layout`; frames it needs are granted first. Zero bytes get a block too.
    ///
    /// # Errors
    /// [`NoBlock`]; then nothing has changed.
    #[inline]
    pub fn allocate(&mut self, layout: Layout, grant: &impl Grant) -> Result<Block<S::Addr>, NoBlock> {
        let (bytes, align) = (layout.size() as u64, layout.align() as u64);
        let taken = match self.class(bytes, align) {
            Some(class) => self.take_slot(class, grant).or_else(|_| self.take_span(bytes, align, grant)),
            None => self.take_span(bytes, align, grant),
        };
        let (at, bytes, contents) = match taken {
            Ok(taken) => taken,
            Err(why) => {
                self.stats.failures += 1;
                return Err(why);
            }
        };
        let stats = &mut self.stats;
        stats.in_use_bytes += bytes;
        stats.peak_in_use_bytes = stats.peak_in_use_bytes.max(stats.in_use_bytes);
        stats.blocks += 1;
        stats.allocations += 1;
        Ok(Block { addr: self.space.addr(at), bytes, contents })
    }

    /// Gives a block back that was allocated with `layout`.
    ///
    /// # Errors
    /// [`BadFree`] when it is not live, or not of that size; then nothing has changed.
    #[inline]
    pub fn free(&mut self, addr: S::Addr, layout: Layout, grant: &impl Grant) -> Result<(), BadFree> {
        let at = self.space.offset(addr).ok_or(BadFree::Foreign)?;
        let bytes = match self.find_slab(at) {
            Some(found) => {
                if self.class(layout.size() as u64, layout.align() as u64) != Some(found.class()) {
                    return Err(self.wrong_size(at, layout.size() as u64));
                }
                self.give_slot(found, at, grant)?
            }
            None => {
                let granules = self.geometry.granules(layout.size().max(1) as u64).unwrap_or(u32::MAX);
                self.give_span(at, granules, grant)?
            }
        };
        self.stats.in_use_bytes -= bytes;
        self.stats.blocks -= 1;
        Ok(())
    }

    /// Why a block is not freed as a slot of a class.
    #[cold]
    fn no_slot(&self, at: Offset, given_bytes: u64) -> BadFree {
        if self.find_slab(at).is_some() {
            return self.wrong_size(at, given_bytes);
        }
        match self.start_of_span(at).map(|start| self.index.live(start)) {
            Ok(Ok(span)) => self.not_live(at, given_bytes, NotLive::OtherLength(span.granules)),
            Ok(Err(why)) => self.not_live(at, given_bytes, why),
            Err(why) => why,
        }
    }

    /// The bytes that the live block at `addr` can use.
    ///
    /// # Errors
    /// [`BadFree`] when no live block starts there.
    pub fn usable_bytes(&self, addr: S::Addr) -> Result<u64, BadFree> {
        let at = self.space.offset(addr).ok_or(BadFree::Foreign)?;
        if let Some(taken) = self.slabs.as_ref().and_then(|slabs| slabs.taken(at)) {
            return taken.map_err(|why| refused(at, why));
        }
        let start = self.start_of_span(at)?;
        match self.index.live(start) {
            Ok(span) => Ok(self.geometry.bytes(span.granules)),
            Err(why) => Err(self.not_live(at, 0, why)),
        }
    }

    /// Gives a block back whose size is not known, as C's `free` does.
    ///
    /// # Errors
    /// As [`Arena::free`].
    pub fn free_unsized(&mut self, addr: S::Addr, grant: &impl Grant) -> Result<(), BadFree> {
        let bytes = self.usable_bytes(addr)?;
        let at = self.space.offset(addr).ok_or(BadFree::Foreign)?;
        match self.find_slab(at) {
            Some(found) => self.give_slot(found, at, grant)?,
            None => self.give_span(at, self.geometry.granules(bytes).unwrap_or(u32::MAX), grant)?,
        };
        self.stats.in_use_bytes -= bytes;
        self.stats.blocks -= 1;
        Ok(())
    }

    /// Backs free frames until `bytes` are backed in all, as far as that is granted and can be done.
    pub fn grow(&mut self, bytes: u64, grant: &impl Grant) {
        if let Some(commit) = &mut self.commit {
            commit.grow(&self.space, &mut self.index, grant, bytes);
        }
    }

    /// Gives idle frames up, highest first, until at most `keep_bytes` are idle. Returns the bytes given up.
    pub fn trim(&mut self, keep_bytes: u64, grant: &impl Grant) -> u64 {
        match &mut self.commit {
            Some(commit) => commit.trim(&self.space, &mut self.index, grant, keep_bytes),
            None => 0,
        }
    }

    /// Bytes of backed frames that hold nothing.
    #[inline]
    pub fn idle_bytes(&self) -> u64 {
        self.commit.as_ref().map_or(0, |commit| commit.idle_bytes())
    }

    /// Frames given up so far.
    pub fn unmaps(&self) -> u64 {
        self.commit.as_ref().map_or(0, |commit| commit.unmaps())
    }

    /// The least that was idle at any moment since [`Arena::mark_idle`].
    pub fn idle_low_bytes(&self) -> u64 {
        self.commit.as_ref().map_or(0, |commit| commit.idle_low_bytes())
    }

    /// Bytes that are free in frames that are not idle.
    pub fn spare_bytes(&self) -> u64 {
        self.commit.as_ref().map_or(0, |commit| self.geometry.bytes(commit.spare()))
    }

    /// Begins to watch how little is idle.
    pub fn mark_idle(&mut self) {
        if let Some(commit) = &mut self.commit {
            commit.mark_idle();
        }
    }

    /// Bytes that are backed; without frames, all of them.
    pub fn backed_bytes(&self) -> u64 {
        self.commit.as_ref().map_or(self.geometry.bytes(self.granules), |commit| commit.backed_bytes())
    }

    /// Frames created so far.
    #[inline]
    pub fn creates(&self) -> u64 {
        self.commit.as_ref().map_or(0, |commit| commit.creates())
    }

    /// The arena in numbers; the limit is not its own.
    pub fn stats(&self) -> Stats {
        let mut stats = self.stats;
        stats.largest_free_bytes = self.geometry.bytes(self.index.largest_free());
        match &self.commit {
            Some(commit) => commit.tell(&mut stats),
            None => {
                stats.reserved_bytes = self.geometry.bytes(self.index.high_water());
                stats.peak_reserved_bytes = stats.reserved_bytes;
            }
        }
        stats
    }

    #[inline]
    fn class(&self, bytes: u64, align: u64) -> Option<SizeClass> {
        self.slabs.as_ref()?.classes().class(bytes, align)
    }

    #[inline]
    fn take_slot(
        &mut self,
        class: SizeClass,
        grant: &impl Grant,
    ) -> Result<(Offset, u64, Contents), NoBlock> {
        loop {
            let Some(slabs) = &mut self.slabs else { unreachable!("a class comes from slabs") };
            if let Some(slot) = slabs.take(class) {
                return Ok((slot.at, slot.bytes, Contents::Unknown));
            }
            self.open_slab(class, grant)?;
        }
    }

    #[cold]
    #[inline(never)]
    fn open_slab(&mut self, class: SizeClass, grant: &impl Grant) -> Result<(), NoBlock> {
        let Some(slabs) = &self.slabs else { unreachable!("a class comes from slabs") };
        let (granules, align) = slabs.slab_granules(class);
        let (span, _) = self.take_granules(granules, align, grant)?;
        let Some(slabs) = &mut self.slabs else { unreachable!("a class comes from slabs") };
        if let Err(why) = slabs.reach(span) {
            let given = self.give_granules(span, grant);
            debug_assert_eq!(given, Ok(()));
            return Err(NoBlock::NotBacked(SpaceError::new(why.needed_bytes, 0)));
        }
        slabs.open(class, span);
        Ok(())
    }

    #[inline]
    fn find_slab(&self, at: Offset) -> Option<Found> {
        self.slabs.as_ref()?.find(at)
    }

    #[inline]
    fn give_slot(&mut self, found: Found, at: Offset, grant: &impl Grant) -> Result<u64, BadFree> {
        let Some(slabs) = &mut self.slabs else { return Err(BadFree::Foreign) };
        let bytes = slabs.slot_bytes(found.class());
        if let Some(span) = slabs.give(found, at).map_err(|why| refused(at, why))? {
            self.give_granules(span, grant).map_err(|why| self.not_live(at, bytes, why))?;
        }
        Ok(bytes)
    }

    #[inline]
    fn take_span(
        &mut self,
        bytes: u64,
        align: u64,
        grant: &impl Grant,
    ) -> Result<(Offset, u64, Contents), NoBlock> {
        let space_bytes = self.geometry.bytes(self.granules);
        let granules = self.geometry.granules(bytes.max(1)).filter(|&granules| granules <= self.granules);
        let Some(granules) = granules.filter(|_| align <= self.alignment.max_bytes) else {
            return Err(NoBlock::NeverFits { asked_bytes: bytes, space_bytes });
        };
        let align = (align >> self.geometry.granule_shift()).max(1) as u32;
        let (span, contents) = self.take_granules(granules, align, grant)?;
        Ok((self.geometry.offset(span.start), self.geometry.bytes(granules), contents))
    }

    /// A backed span: found, then backed; or nothing has changed.
    #[inline]
    fn take_granules(
        &mut self,
        granules: u32,
        align: u32,
        grant: &impl Grant,
    ) -> Result<(Span, Contents), NoBlock> {
        let Some(commit) = &mut self.commit else { return self.take_unframed(granules, align, grant) };
        let Some(span) = self.index.take(granules, align, &|span| commit.missing(span)) else {
            return Err(self.no_room(granules));
        };
        match commit.back(&self.space, &mut self.index, grant, span) {
            Ok(contents) => Ok((span, contents)),
            Err(why) => Err(self.roll_back(span, why)),
        }
    }

    /// Where everything is backed from the start, what is live is what is granted.
    fn take_unframed(
        &mut self,
        granules: u32,
        align: u32,
        grant: &impl Grant,
    ) -> Result<(Span, Contents), NoBlock> {
        let asked_bytes = self.geometry.bytes(granules);
        if !grant.grant(asked_bytes) {
            return Err(NoBlock::OverBudget { asked_bytes });
        }
        match self.index.take(granules, align, &|_| 0) {
            Some(span) => Ok((span, Contents::Unknown)),
            None => {
                grant.returned(asked_bytes);
                Err(self.no_room(granules))
            }
        }
    }

    #[cold]
    fn no_room(&self, granules: u32) -> NoBlock {
        let largest_free_bytes = self.geometry.bytes(self.index.largest_free());
        let asked_bytes = self.geometry.bytes(granules);
        NoBlock::NoRoom { asked_bytes, largest_free_bytes }
    }

    #[cold]
    fn roll_back(&mut self, span: Span, why: NotBacked) -> NoBlock {
        let given = self.index.give(span);
        debug_assert_eq!(given, Ok(()));
        if let Some(commit) = &mut self.commit {
            commit.forget_missing(&mut self.index, span);
        }
        match why {
            NotBacked::Refused { asked_bytes } => NoBlock::OverBudget { asked_bytes },
            NotBacked::Space(why) => NoBlock::NotBacked(why),
        }
    }

    #[inline]
    fn give_span(&mut self, at: Offset, granules: u32, grant: &impl Grant) -> Result<u64, BadFree> {
        let start = self.start_of_span(at)?;
        let bytes = self.geometry.bytes(granules);
        match self.give_granules(Span { start, granules }, grant) {
            Ok(()) => Ok(bytes),
            Err(why) => Err(self.not_live(at, bytes, why)),
        }
    }

    #[inline]
    fn give_granules(&mut self, span: Span, grant: &impl Grant) -> Result<(), NotLive> {
        self.index.give(span)?;
        match &mut self.commit {
            Some(commit) => commit.vacate(span),
            None => grant.returned(self.geometry.bytes(span.granules)),
        }
        Ok(())
    }

    /// The granule that starts at an offset.
    #[inline]
    fn start_of_span(&self, at: Offset) -> Result<Granule, BadFree> {
        let start = self.geometry.granule(at);
        if self.geometry.offset(start) == at {
            return Ok(start);
        }
        Err(match self.index.live(start) {
            Err(NotLive::Free) => BadFree::AlreadyFree { offset_bytes: at.0 },
            _ => BadFree::Interior { offset_bytes: at.0 },
        })
    }

    #[cold]
    fn not_live(&self, at: Offset, given_bytes: u64, why: NotLive) -> BadFree {
        let offset_bytes = at.0;
        match why {
            NotLive::Outside => BadFree::Foreign,
            NotLive::Free => BadFree::AlreadyFree { offset_bytes },
            NotLive::Inside => BadFree::Interior { offset_bytes },
            NotLive::OtherLength(granules) => {
                BadFree::WrongSize { offset_bytes, held_bytes: self.geometry.bytes(granules), given_bytes }
            }
        }
    }

    /// Why a slot is not freed with a layout of another class: it may not be taken at all.
    #[cold]
    fn wrong_size(&self, at: Offset, given_bytes: u64) -> BadFree {
        match self.slabs.as_ref().and_then(|slabs| slabs.taken(at)) {
            Some(Ok(held_bytes)) => BadFree::WrongSize { offset_bytes: at.0, held_bytes, given_bytes },
            Some(Err(why)) => refused(at, why),
            None => BadFree::Foreign,
        }
    }
}

#[cold]
fn refused(at: Offset, why: NotTaken) -> BadFree {
    match why {
        NotTaken::Free => BadFree::AlreadyFree { offset_bytes: at.0 },
        NotTaken::Inside => BadFree::Interior { offset_bytes: at.0 },
    }
}
