//! The `orders` binary. Owns nothing: the library does the work and says how it ended.

use std::process::ExitCode;

fn main() -> ExitCode {
    orders::cli::main()
}
