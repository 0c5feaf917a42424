//! From the boot loader's 32-bit entry to `main` in 64-bit mode, and the memory map that it hands over.
//!
//! The protocol is PVH (`xen/include/public/arch-x86/hvm/start_info.h`): a note in the image names the entry, which is
//! reached in protected mode without paging, with the address of a `StartInfo` in ebx.

use core::arch::global_asm;

global_asm!(
    // An ELF note: the length of the name and of the value, the type (18: a 32-bit entry), name and value.
    ".pushsection .note.pvh, \"a\", @note",
    ".balign 4",
    ".long 4, 4, 18",
    ".asciz \"Xen\"",
    ".long kernel_entry",
    ".popsection",
    // Tables that map the first GiB to itself in pages of 2 MiB, and a stack.
    ".pushsection .bss, \"aw\", @nobits",
    ".balign 4096",
    "table_4: .skip 4096",
    "table_3: .skip 4096",
    "table_2: .skip 4096",
    "stack: .skip 262144",
    "stack_end:",
    ".popsection",
    // Code for ring 0 in 64-bit mode, and data.
    ".pushsection .rodata, \"a\"",
    ".balign 8",
    "segments: .quad 0, 0x00209a0000000000, 0x0000920000000000",
    "segments_end:",
    "segments_register: .word segments_end - segments - 1",
    ".long segments",
    ".popsection",
    ".pushsection .text.entry, \"ax\"",
    ".globl kernel_entry",
    ".code32",
    "kernel_entry:",
    "cli",
    "cld",
    // Present and writable (3); the entries of the last table are pages (0x80).
    "lea eax, [table_3 + 3]",
    "mov [table_4], eax",
    "lea eax, [table_2 + 3]",
    "mov [table_3], eax",
    "xor ecx, ecx",
    "next_page:",
    "mov eax, ecx",
    "shl eax, 21",
    "or eax, 0x83",
    "mov [table_2 + ecx * 8], eax",
    "inc ecx",
    "cmp ecx, 512",
    "jne next_page",
    "lea eax, [table_4]",
    "mov cr3, eax",
    // CR4: large page tables (PAE), and SSE, which compiled code uses (OSFXSR, OSXMMEXCPT).
    "mov eax, cr4",
    "or eax, 0x620",
    "mov cr4, eax",
    // EFER: long mode, as soon as there is paging.
    "mov ecx, 0xc0000080",
    "rdmsr",
    "or eax, 0x100",
    "wrmsr",
    // CR0: paging and MP on, the emulation of a coprocessor off.
    "mov eax, cr0",
    "and eax, 0xfffffffb",
    "or eax, 0x80000002",
    "mov cr0, eax",
    "lgdt [segments_register]",
    // A far jump, which the assembler has no name for: into the second segment.
    ".byte 0xea",
    ".long long_mode",
    ".word 8",
    ".code64",
    "long_mode:",
    "mov eax, 16",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "lea rsp, [rip + stack_end]",
    "xor ebp, ebp",
    "mov edi, ebx",
    "call {main}",
    "ud2",
    ".popsection",
    main = sym crate::main,
);

unsafe extern "C" {
    static image_start: u8;
    static image_end: u8;
}

/// The first bytes that the boot code maps.
const MAPPED_END: u64 = 1 << 30;

/// What the boot loader hands over.
#[repr(C)]
pub struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

/// An entry of the memory map.
#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    start: u64,
    bytes: u64,
    kind: u32,
    reserved: u32,
}

const MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;

/// The most free ranges that are told.
pub const RANGES: usize = 8;

/// The parts of the memory map that nobody uses: RAM, mapped, not the image, and not the first 4 KiB, since address 0 is
/// no address to Rust. `None` when there is no map.
///
/// # Safety
/// `info` is what the boot loader handed over, and nothing was written to memory outside the image.
pub unsafe fn free_ranges(info: *const StartInfo) -> Option<[Option<(u64, u64)>; RANGES]> {
    // SAFETY: 1. The boot loader hands over a valid structure.
    let info = unsafe { info.as_ref() }?;
    if info.magic != MAGIC || info.version < 1 || info.memory_map == 0 {
        return None;
    }
    // SAFETY: 1. The structure says where so many entries are.
    let entries = unsafe {
        core::slice::from_raw_parts(info.memory_map as *const Entry, info.memory_map_entries as usize)
    };
    let (image_from, image_to) = (&raw const image_start as u64, &raw const image_end as u64);
    let mut ranges = [None; RANGES];
    let mut places = ranges.iter_mut();
    for entry in entries.iter().filter(|entry| entry.kind == RAM) {
        let (start, end) = (entry.start.max(4096), (entry.start + entry.bytes).min(MAPPED_END));
        // What lies before the image, and what behind.
        for (start, end) in [(start, end.min(image_from)), (start.max(image_to), end)] {
            if start < end {
                *places.next()? = Some((start, end - start));
            }
        }
    }
    Some(ranges)
}
