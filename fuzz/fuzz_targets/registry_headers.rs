#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| coracle::fuzzing::registry_headers(data));
