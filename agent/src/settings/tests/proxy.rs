//! `[proxy]`: what is merged and refused, and that no URL is repeated.

use super::*;

#[test]
fn proxies_reach_the_channel_and_merge_key_by_key() {
    let image = "[proxy]\nhttps = \"http://a:1\"\nno_proxy = [\".corp.example\"]\n[update]\nurl = \"https://u.example\"\n";
    let data = format!("{USER_DATA_MARK}\n[proxy]\nhttps = \"\"\nhttp = \"http://b:2\"\n");
    let settings = ImageFiles::with(&format!("{IMAGE}{image}"))
        .load(Some(&data))
        .unwrap();
    assert_eq!(settings.proxy.https.as_deref(), Some(""));
    assert_eq!(settings.proxy.http.as_deref(), Some("http://b:2"));
    assert_eq!(
        settings.proxy.no_proxy,
        Some(vec![".corp.example".to_owned()])
    );
    assert_eq!(settings.update.unwrap().proxy, settings.proxy);
    assert!(ImageFiles::with(IMAGE).load(None).unwrap().proxy.is_empty());
}

#[test]
fn unusable_proxies_are_refused_at_once_without_their_text() {
    let wrong = "[proxy]\nhttps = \"socks5://user:hush@p:1\"\nhttp = \"http://user:hush@p:1/hush\"\n\
                 no_proxy = [\"localhost\", \"*.hush.example\"]\n";
    let refusal = ImageFiles::with(&format!("{IMAGE}{wrong}")).refusal(None);
    for part in [
        "proxy.https names a SOCKS proxy",
        "proxy.http is not the URL of a proxy",
        "number 2 of proxy.no_proxy is no host name",
        "hint: https = \"http://proxy.example:3128\"",
    ] {
        assert!(refusal.contains(part), "{refusal}");
    }
    assert!(
        !refusal.contains("hush") && !refusal.contains("user"),
        "{refusal}"
    );
    for text in [
        "https = 1",
        "https = [\"hush\"]",
        "no_proxy = \"hush\"",
        "https = \"hush",
        "httsp = \"hush\"",
    ] {
        let refusal = ImageFiles::with(&format!("{IMAGE}[proxy]\n{text}\n")).refusal(None);
        assert!(!refusal.contains("hush"), "{refusal}");
    }
}

#[test]
fn a_refused_file_still_has_its_proxies() {
    let files = ImageFiles::with(&format!(
        "{IMAGE}[proxy]\nhttps = \"http://user:hush@a:1\"\n"
    ));
    let data = format!("{USER_DATA_MARK}\n[gat]\n");
    assert!(files.load(Some(&data)).is_err());
    let proxy = files.sources().image_proxy();
    assert_eq!(proxy.https.as_deref(), Some("http://user:hush@a:1"));
    let shown = format!("{proxy:?} {:?}", files.load(None).unwrap());
    assert!(
        shown.contains("http://a:1") && !shown.contains("hush"),
        "{shown}"
    );
}
