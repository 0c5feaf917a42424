//! The unwinder, which a program may have or not.
//!
//! Nothing here unwinds: a fault ends the process before. But the standard library refers to the unwinder, and were these symbols not
//! weak, every C program would load `libgcc_s` for it, some 100 KiB. Where a C++ library is loaded its unwinder goes through `new` by
//! the tables alone, and calls nothing here.

core::arch::global_asm!(
    ".weak _Unwind_Backtrace",
    ".weak _Unwind_DeleteException",
    ".weak _Unwind_GetDataRelBase",
    ".weak _Unwind_GetIP",
    ".weak _Unwind_GetIPInfo",
    ".weak _Unwind_GetLanguageSpecificData",
    ".weak _Unwind_GetRegionStart",
    ".weak _Unwind_GetTextRelBase",
    ".weak _Unwind_RaiseException",
    ".weak _Unwind_Resume",
    ".weak _Unwind_SetGR",
    ".weak _Unwind_SetIP",
);
