#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_readers::read_npy(data));
