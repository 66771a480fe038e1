//! What `[image]` lists beside programs: payloads, units, packages, users, folders, kernel settings and scripts.
//!
//! Becomes files of the image, and lists that the provisioning scripts read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;

use super::{Content, Staging, UPLOAD, file, read_text, unreadable, write};
use crate::config::{
    Config, Image, ImagePath, ImageScript, ImdsNetwork, Mode, Payload, Unit, User, file_name,
};
use crate::image::Inputs;
use crate::shebang;
use crate::template::Script;
use run::exit::Exit;

/// The folder of the scripts, in the run folder and in what is uploaded.
const SCRIPTS: &str = "scripts";
/// The folder on the builder that everything is uploaded to. On disk: `/tmp` may be a small one in memory, and is emptied at
/// a boot.
const ON_BUILDER: &str = "/var/tmp/imagebuilder";
/// The user and group of what names none.
const ROOT: &str = "root";
/// Seconds between the signals that end a script: TERM, then KILL.
const KILL_SECONDS: u32 = 30;

/// What the provisioning scripts read beside `files`, `programs` and `units`.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Lists by file name.
    lists: BTreeMap<&'static str, String>,
    /// Owner and group of those files that are not root's.
    owners: BTreeMap<String, (String, String)>,
    /// Mode, owner and group of folders; a folder without a mode is only made when it is missing.
    folders: BTreeMap<String, (String, String, String)>,
    /// Targets of symbolic links.
    links: BTreeMap<String, String>,
    /// The names of the configuration's own units.
    units: BTreeSet<String>,
    /// The units that are on the image already.
    installed: BTreeSet<String>,
    /// The scripts, in their order.
    scripts: Vec<OwnScript>,
}

/// A script of the configuration.
#[derive(Debug)]
struct OwnScript {
    /// Its file's name in the run folder: numbered, so that two may have one name.
    name: String,
    text: String,
    /// What Packer runs: it sets the environment and the time limit.
    wrapper: String,
    reboot: bool,
}

impl Contents {
    /// Whether a unit is one of the configuration's own.
    pub(super) fn brings(&self, unit: &str) -> bool {
        self.units.contains(unit)
    }

    /// Records a unit that the image has already.
    pub(super) fn expects(&mut self, unit: &str) {
        self.installed.insert(unit.to_owned());
    }

    /// The scripts as the Packer template names them.
    pub(super) fn scripts(&self) -> impl Iterator<Item = Script> {
        self.scripts.iter().map(|script| Script {
            path: format!("{SCRIPTS}/{}", script.name),
            interpreter: vec!["/bin/sh".to_owned()],
            reboot: script.reboot,
        })
    }

    /// The texts of the scripts.
    pub(super) fn script_texts(&self) -> impl Iterator<Item = &str> {
        self.scripts.iter().map(|script| script.text.as_str())
    }

    /// All lists by file name, also the empty ones: the provisioning scripts read each.
    fn all_lists(&self) -> BTreeMap<&'static str, String> {
        let mut lists = self.lists.clone();
        let mut owners = String::new();
        for (dest, (owner, group)) in &self.owners {
            let _ = writeln!(owners, "{owner} {group} {dest}");
        }
        let mut folders = String::new();
        for (path, (mode, owner, group)) in &self.folders {
            let _ = writeln!(folders, "{mode} {owner} {group} {path}");
        }
        let mut links = String::new();
        for (path, target) in &self.links {
            let _ = writeln!(links, "{path}\n{target}");
        }
        lists.insert("owners", owners);
        lists.insert("folders", folders);
        lists.insert("links", links);
        lists.insert("units-installed", lines(&self.installed));
        lists
    }

    /// Adds all of it to the inputs of an image.
    pub(super) fn digest(&self, inputs: &mut Inputs) {
        for (name, list) in self.all_lists() {
            // What is not configured leaves the digest as it is.
            if !list.is_empty() {
                inputs.add(&format!("list {name}"), list.as_bytes());
            }
        }
        for script in &self.scripts {
            let label = format!("image script {}", script.name);
            inputs.add(&label, script.text.as_bytes());
            inputs.add(&format!("{label} as run"), script.wrapper.as_bytes());
        }
    }

    /// Writes it into a run folder.
    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let upload = folder.join(UPLOAD);
        for (name, list) in self.all_lists() {
            write(&upload.join(name), list.as_bytes(), 0o644)?;
        }
        for script in &self.scripts {
            let path = upload.join(SCRIPTS).join(&script.name);
            write(&path, script.text.as_bytes(), 0o755)?;
            let path = folder.join(SCRIPTS).join(&script.name);
            write(&path, script.wrapper.as_bytes(), 0o755)?;
        }
        Ok(())
    }
}

fn lines<'a>(items: impl IntoIterator<Item = &'a String>) -> String {
    let mut text = String::new();
    for item in items {
        let _ = writeln!(text, "{item}");
    }
    text
}

impl Staging {
    /// Gathers everything of this module.
    pub(super) fn contents(&mut self, config: &Config, root: &Path) -> anyhow::Result<()> {
        let image = &config.image;
        for payload in &image.payload {
            self.payload(config, root, payload)?;
        }
        for folder in &image.folder {
            let (owner, group) = (folder.owner.clone(), folder.group.clone());
            let value = (folder.mode.as_str().to_owned(), owner, group);
            let path = folder.path.as_str();
            if self.files.contains_key(path) || self.contents.links.contains_key(path) {
                return Err(two(path));
            }
            self.contents.folders.insert(path.to_owned(), value);
        }
        for unit in &image.unit {
            self.own_unit(config, root, unit)?;
        }
        if !image.sysctl.is_empty() {
            let dest = format!("/etc/sysctl.d/60-{}.conf", image.name);
            self.put(&dest, "0644", sysctl(image).into_bytes())?;
        }
        let lists = &mut self.contents.lists;
        lists.insert("packages-apt", lines(&image.packages.apt));
        lists.insert("packages-dnf", lines(&image.packages.dnf));
        let mut arguments = image.kernel_arguments.clone();
        arguments.extend(image.imds_network.map(ImdsNetwork::kernel_argument));
        lists.insert("kernel-arguments", lines(&arguments));
        lists.insert("groups", groups(image));
        lists.insert("users", users(image));
        for (at, script) in image.script.iter().enumerate() {
            self.contents.scripts.push(own_script(root, at, script)?);
        }
        Ok(())
    }

    fn payload(&mut self, config: &Config, root: &Path, payload: &Payload) -> anyhow::Result<()> {
        let at = root.join(&payload.source);
        if !at.is_dir() {
            let mode = payload.mode.clone().unwrap_or_else(Mode::plain);
            let dest = payload.dest.as_str();
            return self.payload_file(config, &at, dest, mode.as_str(), payload);
        }
        self.missing_folder(payload.dest.as_str(), payload);
        let mut entries = Vec::new();
        walk(&at, &mut entries)
            .map_err(|error| unreadable(&at, "[[image.payload]] source", error))?;
        for path in entries {
            self.payload_entry(config, &at, &path, payload)?;
        }
        Ok(())
    }

    /// One entry of a folder of which `top` is the highest.
    fn payload_entry(
        &mut self,
        config: &Config,
        top: &Path,
        path: &Path,
        payload: &Payload,
    ) -> anyhow::Result<()> {
        let refused = |why: &str| -> anyhow::Error {
            Exit::Usage
                .error(format!(
                    "[[image.payload]] source: {} {why}",
                    path.display()
                ))
                .hint("remove it from the folder, or name another `source`")
                .into()
        };
        let below = path
            .strip_prefix(top)
            .context("an entry outside its folder")?;
        let Some(name) = below.to_str() else {
            return Err(refused("has a name that is not UTF-8"));
        };
        let dest = format!("{}/{name}", payload.dest.as_str());
        ImagePath::try_from(dest.clone())
            .map_err(|why| refused(&format!("has no usable name: {why}")))?;
        let meta = path
            .symlink_metadata()
            .with_context(|| format!("read {}", path.display()))?;
        if meta.is_symlink() {
            let target =
                std::fs::read_link(path).with_context(|| format!("read {}", path.display()))?;
            let target = inside(top, below, &target).map_err(|why| refused(&why))?;
            if self.files.contains_key(&dest)
                || self.contents.links.insert(dest.clone(), target).is_some()
            {
                return Err(two(&dest));
            }
            return Ok(());
        }
        if meta.is_dir() {
            self.missing_folder(&dest, payload);
            return Ok(());
        }
        if !meta.is_file() {
            return Err(refused("is neither a file, a folder nor a symbolic link"));
        }
        let executable = meta.permissions().mode() & 0o111 != 0;
        let mode = match &payload.mode {
            Some(mode) => mode.as_str(),
            None if executable => "0755",
            None => "0644",
        };
        self.payload_file(config, path, &dest, mode, payload)
    }

    fn payload_file(
        &mut self,
        config: &Config,
        path: &Path,
        dest: &str,
        mode: &str,
        payload: &Payload,
    ) -> anyhow::Result<()> {
        // The path is complete already.
        let none = Path::new("");
        let key = "[[image.payload]] source";
        let content = if payload.template {
            let text = read_text(none, path, key)?;
            let text = self
                .templates
                .text(config, &path.display().to_string(), &text)?;
            Content::Bytes(text.into_bytes())
        } else {
            file(none, path, key)?
        };
        if self.contents.links.contains_key(dest) {
            return Err(two(dest));
        }
        if payload.owner != ROOT || payload.group != ROOT {
            let owners = (payload.owner.clone(), payload.group.clone());
            self.contents.owners.insert(dest.to_owned(), owners);
        }
        self.put(dest, mode, content)
    }

    /// A folder that is made, with the payload's owner, only when the image has none: it may be one like `/etc`.
    fn missing_folder(&mut self, dest: &str, payload: &Payload) {
        let value = ("-".to_owned(), payload.owner.clone(), payload.group.clone());
        self.contents
            .folders
            .entry(dest.to_owned())
            .or_insert(value);
    }

    fn own_unit(&mut self, config: &Config, root: &Path, unit: &Unit) -> anyhow::Result<()> {
        let mut text = read_text(root, &unit.source, "[[image.unit]] source")?;
        let path = root.join(&unit.source).display().to_string();
        if unit.template {
            text = self.templates.text(config, &path, &text)?;
        }
        let name = unit.name();
        if unit.drop_in_of.is_none() {
            self.contents.units.insert(name.to_owned());
            let can = text.lines().any(|line| line.trim() == "[Install]");
            if unit.enable == Some(true) && !can {
                return Err(Exit::Usage
                    .error(format!(
                        "[[image.unit]] {path} cannot be enabled: it has no [Install]"
                    ))
                    .hint("add `[Install]` with `WantedBy=multi-user.target`, or remove `enable`")
                    .into());
            }
            if can && unit.enable != Some(false) {
                self.enable(name);
            }
        }
        self.put(&unit.dest(), "0644", text.into_bytes())
    }
}

fn two(dest: &str) -> anyhow::Error {
    Exit::Usage
        .error(format!("two files are to be {dest} on the image"))
        .hint("give one of them another `dest`, or remove it")
        .into()
}

/// Everything below a folder, sorted; symbolic links are not followed.
fn walk(folder: &Path, into: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let entries = std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
    let mut entries = entries.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort();
    for path in entries {
        let is_folder = path.symlink_metadata()?.is_dir();
        into.push(path.clone());
        if is_folder {
            walk(&path, into)?;
        }
    }
    Ok(())
}

/// The target of a symbolic link at `below` in the folder `top`, unless it leads out of that folder.
fn inside(top: &Path, below: &Path, target: &Path) -> Result<String, String> {
    let leaves = || {
        format!(
            "is a symbolic link that leaves the folder: {}",
            target.display()
        )
    };
    let mut depth = below.components().count() - 1;
    for component in target.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => depth = depth.checked_sub(1).ok_or_else(leaves)?,
            Component::RootDir | Component::Prefix(_) => return Err(leaves()),
        }
    }
    // Through other links of the folder it may lead elsewhere than its text does.
    if let (Ok(real), Ok(top)) = (top.join(below).canonicalize(), top.canonicalize())
        && !real.starts_with(top)
    {
        return Err(leaves());
    }
    let text = target
        .to_str()
        .filter(|text| !text.contains(char::is_control));
    text.map(ToOwned::to_owned)
        .ok_or_else(|| "is a symbolic link whose target is not one line of text".to_owned())
}

fn sysctl(image: &Image) -> String {
    let mut text = String::from("# [image.sysctl] of imagebuilder.toml\n");
    for (key, value) in &image.sysctl {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), |text| text.trim().to_owned());
        let _ = writeln!(text, "{key} = {value}");
    }
    text
}

fn number(id: Option<u32>) -> String {
    id.map_or_else(|| "-".to_owned(), |id| id.to_string())
}

fn yes_or_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn groups(image: &Image) -> String {
    let mut text = String::new();
    for (name, group) in &image.groups {
        let _ = writeln!(
            text,
            "{name} {} {}",
            number(group.gid),
            yes_or_no(group.system)
        );
    }
    text
}

fn users(image: &Image) -> String {
    let text = |value: &Option<String>| {
        value
            .clone()
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| "-".to_owned())
    };
    let line = |(name, user): (&String, &User)| {
        let groups = Some(user.groups.join(","));
        format!(
            "{name} {} {} {} {} {} {} {}\n",
            number(user.uid),
            yes_or_no(user.system),
            text(&user.group),
            text(&groups),
            text(&user.home),
            text(&user.shell),
            text(&user.comment),
        )
    };
    image.users.iter().map(line).collect()
}

/// The script number `at`.
fn own_script(root: &Path, at: usize, script: &ImageScript) -> anyhow::Result<OwnScript> {
    let path = root.join(&script.source);
    let key = "[[image.script]] source";
    let bytes = std::fs::read(&path).map_err(|error| unreadable(&path, key, error))?;
    let (text, interpreter) = shebang::required(&bytes).map_err(|why| {
        Exit::Usage
            .error(format!("{key}: {}: {why}", path.display()))
            .hint("make it a text file whose first line is such as #!/bin/sh or #!/usr/bin/env python3, with Unix line ends")
    })?;
    let name = format!("{:02}-{}", at + 1, file_name(&script.source));
    Ok(OwnScript {
        wrapper: wrapper(&name, &interpreter, script),
        name,
        text: text.to_owned(),
        reboot: script.reboot,
    })
}

/// Sets the environment and the time limit. In a file, so that the environment is in no command line.
fn wrapper(name: &str, interpreter: &[String], script: &ImageScript) -> String {
    let mut text = format!("#!/bin/sh\n# [[image.script]] {name}\nset -eu\n");
    for (key, value) in &script.environment {
        let _ = writeln!(
            text,
            "{key}={}\nexport {key}",
            shebang::quoted(std::slice::from_ref(value))
        );
    }
    let seconds = script.timeout_seconds;
    let command = shebang::quoted(interpreter);
    let _ = write!(
        text,
        "cd /
status=0
timeout --kill-after={KILL_SECONDS} {seconds} {command} '{ON_BUILDER}/{SCRIPTS}/{name}' || status=$?
case $status in
124 | 137) echo 'imagebuilder: [[image.script]] {name} did not end within {seconds} s (timeout_seconds)' >&2 ;;
esac
exit $status
"
    );
    text
}

#[cfg(test)]
mod tests;
