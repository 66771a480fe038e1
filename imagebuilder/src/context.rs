//! What every command is given: its configuration, where to print, how to connect to the cloud, when to stop.
//!
//! Nothing is read or connected before a command needs it, so `init` works in an empty folder and `render` offline.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::config::Config;
use crate::config::layers::{self, Argument, Given, Layers};
use crate::packer::Environment;
use cloud::Cloud;
use cloud::aws::Connection;
use run::advice::{DEFAULT_FILE, Options};
use run::cancel::Cancel;
use run::exit::Exit;
use run::output::Output;

/// The folder beside the configuration that contains the runs.
const STATE: &str = ".imagebuilder";
/// Where help lists what every command takes.
const HEADING: &str = "Global options";

/// Global options.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Configuration file; repeat it to put later files over earlier ones.
    #[arg(
        long,
        short,
        global = true,
        help_heading = HEADING,
        value_name = "FILE",
        default_value = DEFAULT_FILE
    )]
    pub(crate) config: Vec<PathBuf>,
    /// Set a configuration key, over all files and the environment, such as bake.instance_type=c7i.large; repeatable.
    #[arg(long, global = true, help_heading = HEADING, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<Argument>,
    /// AWS profile [default: AWS_PROFILE].
    #[arg(long, global = true, help_heading = HEADING, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) profile: Option<String>,
    /// AWS region [default: AWS_REGION, else `region` in [bake], else the profile's].
    #[arg(long, global = true, help_heading = HEADING, value_name = "REGION", value_parser = region)]
    pub(crate) region: Option<String>,
    /// URL that all AWS calls go to [default: AWS_ENDPOINT_URL, else the profile's, else AWS].
    #[arg(long, global = true, help_heading = HEADING, value_name = "URL", value_parser = endpoint)]
    pub(crate) endpoint_url: Option<String>,
    /// Print data as JSON.
    #[arg(long, global = true, help_heading = HEADING)]
    pub(crate) json: bool,
    /// Append progress events to FILE, one JSON object per line.
    #[arg(long, global = true, help_heading = HEADING, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,
}

impl Global {
    /// The options that a command in a hint needs to mean the same configuration and account.
    pub(crate) fn options(&self) -> Options {
        let mut options = Options::default();
        if self.config != [PathBuf::from(DEFAULT_FILE)] {
            for file in &self.config {
                options.add("-c", &file.to_string_lossy());
            }
        }
        for argument in &self.set {
            options.add("--set", argument.as_str());
        }
        for (name, value) in [
            ("--profile", &self.profile),
            ("--region", &self.region),
            ("--endpoint-url", &self.endpoint_url),
        ] {
            if let Some(value) = value {
                options.add(name, value);
            }
        }
        options
    }
}

/// A region's name, as the AWS CLI takes it: a label of a host name. New regions are nothing to be refused.
fn region(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if (1..=63).contains(&text.len())
        && text.chars().all(fits)
        && !text.starts_with('-')
        && !text.ends_with('-')
    {
        Ok(text.to_owned())
    } else {
        Err("a region is a name such as eu-central-1".to_owned())
    }
}

/// An endpoint's URL. What is on the command line can be read by every user of the host, so it holds no password.
fn endpoint(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text)
        .map_err(|error| format!("{error}; an endpoint is a URL such as http://127.0.0.1:4566"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("an endpoint begins with http:// or https:// and a host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "an endpoint has no user or password; name credentials by --profile".to_owned(),
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("an endpoint has no `?` or `#`".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context {
    global: Global,
    /// Where data and progress are printed.
    pub(crate) output: Output,
    /// When to stop.
    pub(crate) cancel: Cancel,
}

impl Context {
    /// Prepares streams and signal handling.
    pub(crate) fn new(global: &Global) -> anyhow::Result<Self> {
        let output = Output::new(global.json, global.events.as_deref(), global.options())?;
        Ok(Self {
            global: global.clone(),
            output,
            cancel: Cancel::on_signals()?,
        })
    }

    /// Refuses a profile that does not exist, before anything else is done.
    pub(crate) async fn check_profile(&self) -> anyhow::Result<()> {
        let Some(profile) = &self.global.profile else {
            return Ok(());
        };
        let files = cloud::aws::profile_files();
        let known = cloud::aws::profiles().await.map_err(|error| {
            let message = format!("cannot read the AWS profiles in {files}");
            Exit::Usage.error(message).because(error)
        })?;
        if known.contains(profile) {
            return Ok(());
        }
        let failure = Exit::Usage.error(format!("there is no AWS profile `{profile}` in {files}"));
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        Err(match support::nearest(profile, known.iter().copied()) {
            Some(nearest) => failure.hint(format!("did you mean `{nearest}`?")),
            None if known.is_empty() => failure.hint("`aws configure --profile NAME` makes one"),
            None => failure.hint(format!("name one of {}", known.join(", "))),
        }
        .into())
    }

    /// Refuses options that a command without a configuration would ignore.
    pub(crate) fn only_one_file(&self) -> anyhow::Result<()> {
        if self.global.config.len() > 1 || !self.global.set.is_empty() {
            return Err(Exit::Usage
                .error("init writes one file: it takes one `-c FILE`, and no `--set`")
                .into());
        }
        Ok(())
    }

    /// The path of the first configuration file.
    pub(crate) fn config_path(&self) -> &Path {
        self.global
            .config
            .first()
            .map_or(Path::new(DEFAULT_FILE), PathBuf::as_path)
    }

    /// The names of all configuration files.
    pub(crate) fn config_files(&self) -> Vec<String> {
        let files = self.global.config.iter();
        files.map(|path| path.display().to_string()).collect()
    }

    /// Reads the layers of the configuration: files, then the environment, then options.
    pub(crate) fn layers(&self) -> anyhow::Result<Layers> {
        let mut environment = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else {
                continue;
            };
            match value.into_string() {
                Ok(value) => environment.push((name, value)),
                Err(_) if layers::is_ours(&name) => {
                    let message = format!("the value of {name} is not UTF-8");
                    return Err(Exit::Usage.error(message).into());
                }
                Err(_) => {}
            }
        }
        for warning in Layers::ignored(&environment) {
            self.output.warn(warning);
        }
        Ok(Layers::read(&Given {
            files: self.global.config.clone(),
            environment,
            set: self.global.set.clone(),
            region: self.global.region.clone(),
        })?)
    }

    /// Reads and validates the configuration, for verbs to which the architecture does not matter.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        Ok(self.configs()?.swap_remove(0))
    }

    /// Reads and validates the configuration: one for each architecture of the image, at least one.
    pub(crate) fn configs(&self) -> anyhow::Result<Vec<Config>> {
        Ok(Config::of(&self.layers()?)?)
    }

    /// The folder the configuration's relative paths start from: that of the first file, whichever layer names them.
    pub(crate) fn root(&self) -> PathBuf {
        match self.config_path().parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        }
    }

    /// The folder of all runs, `.imagebuilder/runs` beside the configuration.
    pub(crate) fn runs(&self) -> PathBuf {
        self.state().join("runs")
    }

    /// The folder of this program's state beside the configuration.
    pub(crate) fn state(&self) -> PathBuf {
        self.root().join(STATE)
    }

    /// Account, region and endpoint: options before the SDK's standard places, those before `configured`, the region of `[bake]`.
    pub(crate) fn connection(&self, configured: Option<&str>) -> Connection {
        Connection {
            profile: self.global.profile.clone(),
            region: self.global.region.clone(),
            endpoint_url: self.global.endpoint_url.clone(),
            configured_region: configured.map(str::to_owned),
        }
    }

    /// The same for Packer.
    pub(crate) fn packer_environment(&self) -> Environment {
        Environment {
            profile: self.global.profile.clone(),
            region: self.global.region.clone(),
            endpoint_url: self.global.endpoint_url.clone(),
        }
    }

    /// Connects to the cloud that options, the SDK's standard places and the configuration name.
    pub(crate) async fn cloud(&self, config: &Config) -> anyhow::Result<Cloud> {
        let connection = self.connection(config.bake.region.as_deref());
        Ok(cloud::aws::connect(&connection)
            .await
            .map_err(run::exit::not_connected)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_and_endpoints_have_a_shape() {
        for (text, fits) in [
            ("eu-central-1", true),
            ("us-gov-west-1", true),
            ("", false),
            ("eu central 1", false),
            ("-x", false),
            ("https://ec2", false),
        ] {
            assert_eq!(region(text).is_ok(), fits, "{text}");
        }
        for (text, want) in [
            ("http://127.0.0.1:4566", Ok("http://127.0.0.1:4566")),
            ("https://ec2.example/", Ok("https://ec2.example")),
            ("127.0.0.1:4566", Err("relative URL")),
            ("localhost:4566", Err("begins with http")),
            ("ftp://x", Err("begins with http")),
            ("http://", Err("empty host")),
            ("http://a:b@x", Err("no user or password")),
            ("http://x/?a=b", Err("no `?`")),
        ] {
            match (endpoint(text), want) {
                (Ok(url), Ok(want)) => assert_eq!(url, want),
                (Err(why), Err(want)) => assert!(why.contains(want), "{text}: {why}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
