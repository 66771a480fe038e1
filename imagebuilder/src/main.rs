//! The program `imagebuilder`; all of it is in the library.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    imagebuilder::main().await
}
