//! `libdemocratising.so`: C's `malloc` and C++'s `new`, with all that belongs to them, over the process's heap.
//!
//! ```text
//! LD_PRELOAD=/path/to/libdemocratising.so program
//! ```
//!
//! 1. Small requests are a class by table and a pop, `free` is a class by address and a push: see the crate `democratising`.
//!    What is written here is the standards' side: which sizes and alignments are refused, and how.
//! 2. `errno` is ENOMEM where there is no memory and EINVAL where an alignment cannot be; `posix_memalign` returns those and,
//!    like `free`, leaves `errno` alone.
//! 3. Nothing here panics or unwinds, but `new` throws `std::bad_alloc` as C++ asks for, through the program's own C++
//!    library.
//! 4. With the feature `cuda` it has device memory too, by PyTorch's signatures: `democratising_torch_alloc` and `_free`.
//! 5. `dlopen` takes no `RTLD_DEEPBIND`, by which a library would have the C library's `free` for blocks of this heap.
//! 6. `DEMOCRATISING_STATS=1` prints the heap's numbers to standard error when the program ends.

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
compile_error!(
    "this object takes the place of the GNU C library's malloc: build it for a target with linux-gnu"
);

mod bind;
mod c;
#[cfg(target_pointer_width = "64")]
mod cxx;
mod info;
mod line;
mod start;
#[cfg(feature = "cuda")]
mod torch;
mod unwind;
