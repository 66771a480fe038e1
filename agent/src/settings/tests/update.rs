//! `[update]`: its defaults, who wins, and what is refused.

use agent_update::subscription::Windows;

use super::*;

fn settings_of(update: &str) -> Result<Option<Subscription>> {
    let settings = ImageFiles::with(IMAGE)
        .drop_in("50.toml", update)
        .load(None)?;
    Ok(settings.update)
}

#[test]
fn no_table_is_no_channel_and_the_rest_has_defaults() {
    assert_eq!(settings_of("").unwrap(), None);
    let found = settings_of("[update]\nurl = \"https://x.example/agent//\"")
        .unwrap()
        .unwrap();
    assert_eq!(found.channel, "stable");
    assert_eq!(found.url, "https://x.example/agent");
    assert_eq!(found.soak.as_secs(), 120);
    assert_eq!(found.windows, Windows::default());
    assert_eq!((found.plain_http, found.ca_file), (false, None));
}

#[test]
fn user_data_wins_key_by_key_and_can_take_the_channel_back() {
    let image = ImageFiles::with(IMAGE).drop_in(
        "50.toml",
        "[update]\nurl = \"https://x.example\"\nwindows = [\"Mon-Fri 09:00-16:00\"]\nsoak_seconds = 60",
    );
    let data = "#imagebuilder-agent\n[update]\nchannel = \"beta\"\nwindows = []";
    let found = image.load(Some(data)).unwrap().update.unwrap();
    assert_eq!((found.channel.as_str(), found.soak.as_secs()), ("beta", 60));
    assert_eq!(found.windows, Windows::default());
    let off = "#imagebuilder-agent\nupdate.channel = \"\"";
    assert_eq!(image.load(Some(off)).unwrap().update, None);
}

#[test]
fn http_must_be_asked_for_and_folders_are_fine() {
    for (url, more) in [
        ("http://127.0.0.1:8080/c", "plain_http = true"),
        ("file:///srv/channel", ""),
        ("https://[::1]:8443/c", "ca_file = \"/etc/ca.pem\""),
    ] {
        let found = settings_of(&format!("[update]\nurl = \"{url}\"\n{more}")).unwrap();
        assert_eq!(found.unwrap().url, url, "{url}");
    }
}

#[test]
fn invalid_settings_are_refused_without_their_value() {
    for (table, words) in [
        ("", "update.url: missing\nhint: set the URL of the channel"),
        (
            "url = \"hunter2\"",
            "update.url: not an address of a channel\nhint: use https://host/path",
        ),
        (
            "url = \"ftp://hunter2/\"",
            "update.url: not an address of a channel\nhint: use https://host/path",
        ),
        (
            "url = \"http://hunter2/\"",
            "update.url: not an address of a channel\nhint: use https://, or set",
        ),
        (
            "url = \"https://u:hunter2@x/\"",
            "update.url: not an address of a channel\nhint: remove the user",
        ),
        (
            "url = \"https://x/?hunter2\"",
            "update.url: not an address of a channel\nhint: remove ? and #",
        ),
        (
            "url = \"file://hunter2/c\"",
            "update.url: not an address of a channel\nhint: write a folder as",
        ),
        (
            "url = \"https://x\"\nca_file = \"hunter2.pem\"",
            "update.ca_file: not an absolute path",
        ),
        (
            "url = \"https://x\"\nsoak_seconds = 600",
            "update.soak_seconds: 600 is not between 1 and 599",
        ),
        (
            "url = \"https://x\"\nchannel = \"hunter2 \"",
            "update.channel: not a name",
        ),
        (
            "url = \"https://x\"\nwindows = [\"00:00-24:00\", \"hunter2\"]",
            "update.windows: number 2: its hours are not HH:MM-HH:MM\nhint: use a window such as",
        ),
    ] {
        let data = format!("#imagebuilder-agent\n[update]\n{table}");
        let refusal = ImageFiles::with(IMAGE).refusal(Some(&data));
        assert!(refusal.starts_with(words), "{table}: {refusal}");
        assert!(!refusal.contains("hunter2"), "{table}: {refusal}");
    }
    let refusal =
        ImageFiles::with(IMAGE).refusal(Some("#imagebuilder-agent\n[update]\nchanel = \"x\""));
    assert_eq!(
        refusal,
        "user data:3:1: unknown key `chanel`\nhint: did you mean `channel`?"
    );
}

#[test]
fn without_configure_the_updater_uses_the_image_settings() {
    let image = ImageFiles::with(IMAGE).drop_in("50.toml", "[update]\nurl = \"file:///image\"");
    let run_dir = tempfile::tempdir().unwrap();
    let url = || {
        let subject = image.sources().subject(run_dir.path()).unwrap();
        (subject.instance_id, subject.subscription.unwrap().url)
    };
    let (name, found) = url();
    assert!(name.starts_with("machine-"), "{name}");
    assert_eq!(found, "file:///image");
    let left = run_dir.path().join("update.json");
    fs::write(&left, "{").unwrap();
    assert_eq!(url().1, "file:///image");
    let json = "{\"instance_id\":\"i-1\",\"channel\":\"beta\",\"url\":\"file:///given\",\"soak_seconds\":9}";
    fs::write(&left, json).unwrap();
    assert_eq!(url(), ("i-1".to_owned(), "file:///given".to_owned()));
}
