//! Compiles the protos without a system protoc, and keeps their descriptors for reflection.

use std::{env, fs, io, path::PathBuf};

fn protos() -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("proto/hefu")];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder)? {
            let path = item?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "proto") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(protos()?)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Encoded by protox, not by prost: prost's types would drop what they do not know.
    fs::write(
        out.join("descriptors.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    tonic_prost_build::configure()
        .bytes(".hefu.ledger.v1.LoggedEntry.entry_bytes")
        .bytes(".hefu.ledger.v1.Entry.record")
        .bytes(".hefu.replication.v1.Batch.entries")
        .bytes(".hefu.replication.v1.ExportCourierResponse.chunk")
        .bytes(".hefu.replication.v1.ImportCourierRequest.chunk")
        .bytes(".hefu.replication.v1.ImportCourierResponse.receipt_chunk")
        .bytes(".hefu.replication.v1.ImportReceiptRequest.chunk")
        .include_file("hefu.rs")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
