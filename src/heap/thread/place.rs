//! Where a thread keeps the pointer to its cache: one word that is there from a thread's start to its very end.

use crate::heap::cache::Cache;

pub(super) use word::{address, get, set};

/// A word of the initial-exec model. Compiled into a library, `thread_local!` asks for its address by a call, before which
/// a caller saves its registers even if the linker takes the call out later; this is two loads wherever it is inlined, and on ARM64 what
/// makes them up.
#[cfg(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_os = "linux",
    not(miri),
    not(feature = "dylib")
))]
mod word {
    use super::Cache;
    use crate::heap::cache::EMPTY;
    use crate::sync::atomic::AtomicPtr;
    use core::arch::{asm, global_asm};
    use core::ptr::NonNull;

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

    #[inline(always)]
    pub(in crate::heap) fn get() -> *mut Cache {
        let cache;
        // SAFETY: 1. The word is this thread's, and always holds a cache. 2. Reading it changes nothing.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            asm!(
                concat!("mov {at}, qword ptr [rip + ", name!(), "@GOTTPOFF]"),
                "mov {at}, qword ptr fs:[{at}]",
                at = out(reg) cache,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        // SAFETY: 1. and 2. as above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            asm!(
                concat!("adrp {at}, :gottprel:", name!()),
                concat!("ldr {at}, [{at}, #:gottprel_lo12:", name!(), "]"),
                "mrs {block}, tpidr_el0",
                "ldr {at}, [{block}, {at}]",
                at = out(reg) cache,
                block = out(reg) _,
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
        #[cfg(target_arch = "x86_64")]
        unsafe {
            asm!(
                concat!("mov {at}, qword ptr [rip + ", name!(), "@GOTTPOFF]"),
                "add {at}, qword ptr fs:[0]",
                at = out(reg) at,
                options(pure, readonly, nostack),
            );
        }
        // SAFETY: 1. Only registers change.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            asm!(
                concat!("adrp {at}, :gottprel:", name!()),
                concat!("ldr {at}, [{at}, #:gottprel_lo12:", name!(), "]"),
                "mrs {block}, tpidr_el0",
                "add {at}, {at}, {block}",
                at = out(reg) at,
                block = out(reg) _,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        NonNull::new(at)
    }

    #[inline(always)]
    pub(in crate::heap) fn set(cache: *mut Cache) {
        // SAFETY: 1. The word is this thread's, and nothing refers to it.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            asm!(
                concat!("mov {at}, qword ptr [rip + ", name!(), "@GOTTPOFF]"),
                "mov qword ptr fs:[{at}], {cache}",
                at = out(reg) _,
                cache = in(reg) cache,
                options(nostack, preserves_flags),
            );
        }
        // SAFETY: 1. As above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            asm!(
                concat!("adrp {at}, :gottprel:", name!()),
                concat!("ldr {at}, [{at}, #:gottprel_lo12:", name!(), "]"),
                "mrs {block}, tpidr_el0",
                "str {cache}, [{block}, {at}]",
                at = out(reg) _,
                block = out(reg) _,
                cache = in(reg) cache,
                options(nostack, preserves_flags),
            );
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
    use super::Cache;
    use crate::heap::cache::empty;
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
