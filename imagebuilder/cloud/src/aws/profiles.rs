//! The profiles that the SDK finds, for a message about one that it does not.

use std::path::PathBuf;

use aws_types::os_shim_internal::{Env, Fs};

/// The names of all profiles, in order.
///
/// # Errors
/// When a file cannot be read or parsed.
pub async fn profiles() -> anyhow::Result<Vec<String>> {
    let standard = Default::default();
    let set = aws_config::profile::load(&Fs::real(), &Env::real(), &standard, None).await?;
    let mut names: Vec<String> = set.profiles().map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

/// The files that profiles are read from, for a message.
pub fn profile_files() -> String {
    let file = |variable: &str, name: &str| match std::env::var_os(variable) {
        Some(path) => PathBuf::from(path).display().to_string(),
        None => format!("~/.aws/{name}"),
    };
    format!(
        "{} and {}",
        file("AWS_CONFIG_FILE", "config"),
        file("AWS_SHARED_CREDENTIALS_FILE", "credentials")
    )
}
