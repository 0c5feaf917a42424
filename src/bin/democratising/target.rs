//! The one place that touches the allocator: what a replay needs of it.

use std::fmt::Display;

/// Something that blocks come from.
pub trait Target {
    /// What a live block is known by.
    type Handle: Copy;
    /// Why a block could not be given back.
    type Refusal: Display;

    /// A block, or `None` when there is no room.
    fn allocate(&mut self, bytes: u64) -> Option<Self::Handle>;

    /// Gives back a block that was allocated with so many bytes.
    fn free(&mut self, handle: Self::Handle, bytes: u64) -> Result<(), Self::Refusal>;

    /// The counters at this moment.
    fn figures(&self) -> Figures;
}

/// The counters of a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    pub reserved_bytes: u64,
    pub peak_reserved_bytes: u64,
    /// In blocks, as the allocator rounds them.
    pub in_use_bytes: u64,
    /// Units of backing that were made new.
    pub creates: u64,
    /// Units of backing that were moved to where they were needed.
    pub steals: u64,
}

/// An exact model of an allocator that wastes nothing within its frames and never gives one back.
#[cfg(test)]
pub mod model {
    use super::*;

    /// What a model does wrong, on purpose.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub enum Fault {
        RefusesFree,
        KeepsBytes,
    }

    pub struct Model {
        frame_bytes: u64,
        limit_bytes: u64,
        fault: Option<Fault>,
        figures: Figures,
    }

    impl Model {
        pub fn new(frame_bytes: u64, limit_bytes: u64) -> Model {
            Model { frame_bytes, limit_bytes, fault: None, figures: Figures::default() }
        }

        pub fn with(mut self, fault: Fault) -> Model {
            self.fault = Some(fault);
            self
        }
    }

    impl Target for Model {
        type Handle = u64;
        type Refusal = &'static str;

        fn allocate(&mut self, bytes: u64) -> Option<u64> {
            let in_use = self.figures.in_use_bytes.checked_add(bytes)?;
            let needed = in_use.checked_next_multiple_of(self.frame_bytes)?;
            if needed > self.limit_bytes {
                return None;
            }
            self.figures.creates += needed.saturating_sub(self.figures.reserved_bytes) / self.frame_bytes;
            self.figures.reserved_bytes = self.figures.reserved_bytes.max(needed);
            self.figures.peak_reserved_bytes = self.figures.reserved_bytes;
            self.figures.in_use_bytes = in_use;
            Some(bytes)
        }

        fn free(&mut self, handle: u64, bytes: u64) -> Result<(), &'static str> {
            assert_eq!(handle, bytes, "a block is freed with the size it was allocated with");
            match self.fault {
                Some(Fault::RefusesFree) => Err("refused on purpose"),
                Some(Fault::KeepsBytes) => Ok(()),
                None => {
                    self.figures.in_use_bytes -= bytes;
                    Ok(())
                }
            }
        }

        fn figures(&self) -> Figures {
            self.figures
        }
    }
}
