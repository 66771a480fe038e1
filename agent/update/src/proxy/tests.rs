//! What is taken from where, and what goes through a proxy.

use std::collections::BTreeMap;

use super::*;

fn over(settings: &ProxySettings, variables: &[(&str, &str)]) -> Result<Proxy> {
    let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
    settings.over(|name| variables.get(name).map(|value| (*value).to_owned()))
}

fn by_env(variables: &[(&str, &str)]) -> Proxy {
    over(&ProxySettings::default(), variables).unwrap()
}

#[test]
fn the_environment_is_read_as_others_read_it() {
    for (variables, shown) in [
        (&[][..], "none"),
        (&[("HTTPS_PROXY", "http://a:1")], "https by http://a:1"),
        (&[("https_proxy", "http://a:1")], "https by http://a:1"),
        (
            &[("HTTPS_PROXY", "http://a:1"), ("https_proxy", "http://b:1")],
            "https by http://a:1",
        ),
        (
            &[("HTTPS_PROXY", ""), ("https_proxy", " http://b:1 ")],
            "https by http://b:1",
        ),
        (&[("HTTP_PROXY", "a:1")], "http by http://a:1"),
        (
            &[("ALL_PROXY", "http://a:1"), ("http_proxy", "http://b:2")],
            "https by http://a:1, http by http://b:2",
        ),
        (&[("NO_PROXY", "*")], "none"),
        (
            &[("HTTPS_PROXY", "http://a:1"), ("NO_PROXY", "a.example, *")],
            "none",
        ),
        (
            &[
                ("HTTPS_PROXY", "http://a:1"),
                ("no_proxy", ".x, 10.0.0.0/8"),
            ],
            "https by http://a:1, except for .x, 10.0.0.0/8",
        ),
    ] {
        assert_eq!(by_env(variables).to_string(), shown, "{variables:?}");
    }
}

#[test]
fn settings_win_and_can_switch_the_environment_off() {
    let variables = [
        ("HTTPS_PROXY", "http://env:1"),
        ("HTTP_PROXY", "http://env:1"),
        ("NO_PROXY", "env.example"),
    ];
    let text = |text: &str| Some(text.to_owned());
    for (settings, shown) in [
        (
            ProxySettings {
                https: text("http://set:2"),
                ..ProxySettings::default()
            },
            "https by http://set:2, http by http://env:1, except for env.example",
        ),
        (
            ProxySettings {
                https: text(""),
                http: text(""),
                no_proxy: None,
            },
            "none",
        ),
        (
            ProxySettings {
                no_proxy: Some(vec!["a.example".to_owned(), "10.0.0.0/8".to_owned()]),
                ..ProxySettings::default()
            },
            "https by http://env:1, http by http://env:1, except for a.example,10.0.0.0/8",
        ),
    ] {
        assert_eq!(over(&settings, &variables).unwrap().to_string(), shown);
    }
}

/// <https://curl.se/libcurl/c/CURLOPT_NOPROXY.html>
#[test]
fn exceptions_are_domains_addresses_and_networks() {
    let no = ".corp.example, tool.example,10.1.0.0/16, 192.0.2.7,fd00::/8";
    let proxy = by_env(&[("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", no)]);
    for (url, direct) in [
        ("https://updates.example/x", false),
        ("https://corp.example/", true),
        ("https://a.b.corp.example/", true),
        ("https://notcorp.example/", false),
        ("https://tool.example/", true),
        ("https://a.tool.example/", true),
        ("https://A.TOOL.EXAMPLE/", true),
        ("https://mytool.example/", false),
        ("https://10.1.200.3/", true),
        ("https://10.2.0.1/", false),
        ("https://192.0.2.7:8443/", true),
        ("https://192.0.2.8/", false),
        ("https://[fd12::1]/", true),
        ("https://[fe80::1]/", false),
        // No proxy for this scheme.
        ("http://updates.example/x", true),
    ] {
        let uri: Uri = url.parse().unwrap();
        assert_eq!(proxy.matcher().intercept(&uri).is_none(), direct, "{url}");
    }
}

#[test]
fn what_is_no_usable_proxy_is_refused_without_its_text() {
    for good in [
        "http://proxy.example:3128",
        "http://proxy.example:3128/",
        "http://proxy.example",
        "proxy.example:3128",
        "http://user:hush%40@10.0.0.1:3128",
        "http://[fd00::1]:3128",
    ] {
        assert_eq!(check(good), Ok(()), "{good}");
    }
    for (bad, why) in [
        ("https://user:hush@proxy:1", "with TLS"),
        ("socks5://user:hush@proxy:1", "SOCKS"),
        ("http://user:hush@proxy:1/path", "not the URL"),
        ("http://user:hush@proxy:1?x", "not the URL"),
        ("http://user:hush@proxy:1/#x", "not the URL"),
        ("http://user:hu sh@proxy:1", "not the URL"),
        ("http://user:hush@proxy:99999", "not the URL"),
        ("ftp://user:hush@proxy", "not the URL"),
        ("http://", "not the URL"),
        ("/hush", "not the URL"),
    ] {
        let refusal = check(bad).unwrap_err();
        assert!(
            refusal.contains(why) && !refusal.contains("hush"),
            "{bad}: {refusal}"
        );
        let error = over(&ProxySettings::default(), &[("https_proxy", bad)]).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("https_proxy") && !error.contains("hush"),
            "{bad}: {error}"
        );
    }
    for (entry, good) in [
        ("*", true),
        ("localhost", true),
        (".corp.example", true),
        ("10.0.0.0/8", true),
        ("::1", true),
        ("fd00::/8", true),
        ("*.corp.example", false),
        ("10.0.0.0/33", false),
        ("10.0.0/8", false),
        ("host:80", false),
        ("http://host", false),
        ("", false),
        (".", false),
    ] {
        assert_eq!(is_exception(entry), good, "{entry}");
    }
}

#[test]
fn credentials_are_in_no_text_but_the_file() {
    let settings = ProxySettings {
        https: Some("http://user:hush@proxy.example:3128".to_owned()),
        ..ProxySettings::default()
    };
    let proxy = over(
        &settings,
        &[("HTTP_PROXY", "http://user:hush@other.example:1")],
    )
    .unwrap();
    for text in [
        format!("{settings:?}"),
        format!("{proxy:?}"),
        proxy.to_string(),
        format!("{:?}", proxy.matcher()),
    ] {
        assert!(text.contains("proxy.example"), "{text}");
        assert!(!text.contains("hush") && !text.contains("user"), "{text}");
    }
    let uri: Uri = "https://updates.example/".parse().unwrap();
    let intercept = proxy.matcher().intercept(&uri).unwrap();
    assert_eq!(intercept.basic_auth().unwrap(), "Basic dXNlcjpodXNo");
    assert!(has_credentials("http://user:hush@proxy:1") && !has_credentials("http://proxy:1"));

    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        ProxySettings::read(dir.path()).unwrap(),
        ProxySettings::default()
    );
    fs::write(dir.path().join(FILE), settings.to_json().unwrap()).unwrap();
    assert_eq!(ProxySettings::read(dir.path()).unwrap(), settings);
    fs::write(dir.path().join(FILE), "{\"https\": \"hush\"").unwrap();
    let error = format!("{:#}", ProxySettings::read(dir.path()).unwrap_err());
    assert!(
        error.contains("is invalid") && !error.contains("hush"),
        "{error}"
    );
}
