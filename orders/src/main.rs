//! The `orders` binary. The library does the work; this only returns its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    orders::cli::main()
}
