//! The `hefu` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    hefu::cli::main()
}
