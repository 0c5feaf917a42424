/* A library of Windows that Wine 8 has not, with the one function that Rust's standard library wants of it. */
#include <windows.h>

BOOLEAN NTAPI SystemFunction036(PVOID at, ULONG len);

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE at, SIZE_T len) {
    return SystemFunction036(at, (ULONG)len);
}
