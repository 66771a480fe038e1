//! Which commit the configuration is of. Only asks git; an image baked outside a repository simply has no commit.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

/// The commit, `-dirty` appended when the tree was; empty outside a repository.
pub(super) async fn describe(folder: &Path) -> String {
    let output = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args([
            "describe",
            "--always",
            "--dirty",
            "--abbrev=40",
            "--exclude=*",
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .await;
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => String::new(),
    }
}
