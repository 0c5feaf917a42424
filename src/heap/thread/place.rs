//! Where a thread keeps the pointer to its cache: one word that is there from a thread's start to its very end.

pub(super) use word::{address, get, set};

/// A word of the initial-exec model. Compiled into a library, `thread_local!` asks for its address by a call, before which
/// a caller saves its registers even if the linker takes the call out later; this is two loads wherever it is inlined, and on ARM64
/// two instructions more.
#[cfg(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_os = "linux",
    not(miri),
    not(feature = "dylib")
))]
mod word {
    use crate::heap::cache::EMPTY;
    use core::arch::global_asm;

    pub(in crate::heap) use reach::{address, get, set};

    /// Two versions of the crate in one program have a word each. Nobody can see the word of a Rust library that is linked at run
    /// time; the linker says the name then, and the name says what to do.
    macro_rules! name {
        () => {
            concat!("\"democratising_", env!("CARGO_PKG_VERSION"), "_in_a_dylib_needs_its_feature_dylib\"")
        };
    }

    global_asm!(
        ".pushsection .tdata.democratising_cache,\"awT\",@progbits",
        concat!(".globl ", name!()),
        concat!(".hidden ", name!()),
        concat!(".type ", name!(), ",@object"),
        ".p2align 3",
        concat!(name!(), ": .quad {empty}"),
        concat!(".size ", name!(), ", 8"),
        ".popsection",
        empty = sym EMPTY,
    );

    #[cfg(target_arch = "x86_64")]
    mod reach {
        use crate::heap::cache::Cache;
        use crate::sync::atomic::AtomicPtr;
        use core::arch::asm;
        use core::ptr::NonNull;

        #[inline(always)]
        pub(in crate::heap) fn get() -> *mut Cache {
            let cache;
            // SAFETY: 1. The word is this thread's, and always holds a cache. 2. Reading it changes nothing.
            unsafe {
                asm!(
                    concat!("mov {at}, qword ptr [rip + ", name!(), "@GOTTPOFF]"),
                    "mov {at}, qword ptr fs:[{at}]",
                    at = out(reg) cache,
                    options(pure, readonly, nostack, preserves_flags),
                );
            }
            cache
        }

        /// Where the word is, for a visitor. It may be changed there, since `get` says that it reads memory, and every hit ends with a
        /// store: the next hit's `get` stands behind that.
        pub(in crate::heap) fn address() -> Option<NonNull<AtomicPtr<Cache>>> {
            let at: *mut AtomicPtr<Cache>;
            // SAFETY: 1. The word at the start of a thread's block holds that block's own address.
            unsafe {
                asm!(
                    concat!("mov {at}, qword ptr [rip + ", name!(), "@GOTTPOFF]"),
                    "add {at}, qword ptr fs:[0]",
                    at = out(reg) at,
                    options(pure, readonly, nostack),
                );
            }
            NonNull::new(at)
        }

        #[inline(always)]
        pub(in crate::heap) fn set(cache: *mut Cache) {
            // SAFETY: 1. The word is this thread's, and nothing refers to it.
            unsafe {
                asm!(
                    concat!("mov {at}, qword ptr [rip + ", name!(), "@GOTTPOFF]"),
                    "mov qword ptr fs:[{at}], {cache}",
                    at = out(reg) _,
                    cache = in(reg) cache,
                    options(nostack, preserves_flags),
                );
            }
        }
    }

    #[cfg(target_arch = "aarch64")]
    mod reach {
        use crate::heap::cache::Cache;
        use crate::sync::atomic::{AtomicPtr, Ordering::Relaxed};
        use core::arch::asm;
        use core::ptr::NonNull;

        /// The word, from the start of the thread's block.
        #[inline(always)]
        fn word() -> *mut AtomicPtr<Cache> {
            let (block, at): (*mut u8, usize);
            // SAFETY: 1. Only registers change.
            unsafe {
                asm!(
                    concat!("adrp {at}, :gottprel:", name!()),
                    concat!("ldr {at}, [{at}, #:gottprel_lo12:", name!(), "]"),
                    "mrs {block}, tpidr_el0",
                    at = out(reg) at,
                    block = out(reg) block,
                    options(pure, readonly, nostack, preserves_flags),
                );
            }
            block.wrapping_add(at).cast()
        }

        #[inline(always)]
        pub(in crate::heap) fn get() -> *mut Cache {
            // SAFETY: 1. The word is this thread's, and always holds a cache. 2. Who else writes it does so by one instruction, too.
            unsafe { &*word() }.load(Relaxed)
        }

        /// Where the word is, for a visitor.
        pub(in crate::heap) fn address() -> Option<NonNull<AtomicPtr<Cache>>> {
            NonNull::new(word())
        }

        #[inline(always)]
        pub(in crate::heap) fn set(cache: *mut Cache) {
            // SAFETY: 1. and 2. as above.
            unsafe { &*word() }.store(cache, Relaxed)
        }
    }
}

#[cfg(not(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_os = "linux",
    not(miri),
    not(feature = "dylib")
)))]
mod word {
    use crate::heap::cache::{Cache, empty};
    use crate::sync::Cell;
    use crate::sync::atomic::AtomicPtr;
    use core::ptr::NonNull;

    std::thread_local! {
        /// Without a destructor it is one access, at any time of a thread's life.
        static CACHE: Cell<*mut Cache> = const { Cell::new(empty()) };
    }

    /// Nobody else may change it: a compiler may read it once for several hits.
    pub(in crate::heap) fn address() -> Option<NonNull<AtomicPtr<Cache>>> {
        None
    }

    #[inline(always)]
    pub(in crate::heap) fn get() -> *mut Cache {
        CACHE.with(Cell::get)
    }

    #[inline(always)]
    pub(in crate::heap) fn set(cache: *mut Cache) {
        CACHE.with(|at| at.set(cache));
    }
}
