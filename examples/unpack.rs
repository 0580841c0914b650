//! Unpacks a layer, compressed or not, to a directory: `unpack LAYER DIRECTORY`.

use std::fs::{self, File};

use coracle::layers::{Compression, Unpack};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(layer), Some(directory)) = (arguments.next(), arguments.next()) else {
        return Err("usage: unpack LAYER DIRECTORY".into());
    };
    fs::create_dir(&directory)?;
    let layer = Compression::detect(File::open(layer)?)?;
    let unpacked = Unpack::new().run(layer, File::open(directory)?)?;
    println!("{} entries, {} bytes", unpacked.entries, unpacked.bytes);
    Ok(())
}
