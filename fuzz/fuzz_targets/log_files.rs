#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let dir = tempfile::Builder::new().prefix("coracle-fuzz-").tempdir_in("/dev/shm");
    coracle::fuzzing::log_files(dir.expect("make a directory").path(), data);
});
