//! Where commands under `rehearsal exec` may connect by HTTPS: anywhere except the real AWS.
//!
//! Rule: no call of such a command reaches AWS. A client that reads AWS_ENDPOINT_URL calls the cloud; one that does not
//! (old SDKs) would call AWS itself, with keys that are invalid there. So `exec` makes the cloud the HTTPS proxy of the
//! command, and the cloud refuses to connect to AWS, with an explanation, and connects to all other hosts: for a
//! template's module, a plugin, a package. It reads the name of the host only, and none of the traffic.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hyper::http::uri::Authority;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Domains of AWS.
const AWS: [&str; 6] = [
    "amazonaws.com",
    "amazonaws.com.cn",
    "amazonaws.eu",
    "api.aws",
    "on.aws",
    "sc2s.sgov.gov",
];
/// How long it may take to open a connection.
const PATIENCE: Duration = Duration::from_secs(30);
/// The user name with which `exec` passes on the user's own proxy.
const USER: &str = "by";
/// The longest answer head of that proxy, in bytes.
const LONGEST_HEAD: usize = 16 * 1024;
/// Hosts that are connected to without any proxy.
const LOOPBACK: [&str; 4] = ["localhost", "127.0.0.1", "::1", "127.0.0.0/8"];

/// Why no connection was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The host is AWS.
    Aws(String),
    /// The connection failed.
    Failed(String),
}

/// Whether a host belongs to AWS.
pub(crate) fn is_aws(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    AWS.iter().any(|domain| {
        host.strip_suffix(domain)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

/// The proxy variables for a command's environment, from those of this process: the HTTPS proxy, and the hosts without
/// a proxy.
///
/// # Errors
/// When the user's own proxy is of an unsupported kind.
pub(crate) fn environment(
    port: u16,
    user: impl Fn(&str) -> Option<String>,
) -> anyhow::Result<Vec<(&'static str, String)>> {
    let given = |names: [&str; 4]| {
        let mut found = names.into_iter().filter_map(&user);
        found.find(|value| !value.is_empty())
    };
    let own = given(["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]);
    let by = match own {
        None => String::new(),
        // A nested `exec`: the cloud is the proxy already.
        Some(own) if own.ends_with(&format!("@127.0.0.1:{port}")) => own
            .strip_prefix("http://")
            .and_then(|rest| rest.strip_suffix(&format!("127.0.0.1:{port}")))
            .unwrap_or_default()
            .to_owned(),
        Some(own) if own == format!("http://127.0.0.1:{port}") => String::new(),
        Some(own) => {
            let url = match own.contains("://") {
                true => own.clone(),
                false => format!("http://{own}"),
            };
            let authority = url.strip_prefix("http://").map(|rest| {
                let end = rest.find('/').unwrap_or(rest.len());
                &rest[..end]
            });
            let authority = authority.and_then(|text| text.parse::<Authority>().ok());
            anyhow::ensure!(
                authority.is_some(),
                "the HTTPS proxy {own} is of an unsupported kind, and connections to the real AWS would go through it\n\
                 hint: `env -u HTTPS_PROXY -u https_proxy -u ALL_PROXY -u all_proxy rehearsal exec …`"
            );
            // In an alphabet that clients do not escape.
            let named = authority.map(|authority| URL_SAFE_NO_PAD.encode(authority.as_str()));
            format!("{USER}:{}@", named.unwrap_or_default())
        }
    };
    let proxy = format!("http://{by}127.0.0.1:{port}");
    let own = given(["NO_PROXY", "no_proxy", "", ""]).unwrap_or_default();
    let direct: Vec<&str> = LOOPBACK
        .into_iter()
        .chain(own.split(',').map(str::trim).filter(|entry| {
            let host = entry.trim_start_matches(['*', '.']);
            !host.is_empty() && !is_aws(host) && !AWS.iter().any(|aws| aws.ends_with(host))
        }))
        .collect();
    let direct = direct.join(",");
    Ok(vec![
        ("HTTPS_PROXY", proxy.clone()),
        ("https_proxy", proxy),
        ("NO_PROXY", direct.clone()),
        ("no_proxy", direct),
    ])
}

/// Connects to `target` (`host:port`); `authorization` is the request's `Proxy-Authorization`, with which `exec` passes
/// on the user's own proxy.
///
/// # Errors
/// When it belongs to AWS, or cannot be reached.
pub(crate) async fn connect(
    target: &Authority,
    authorization: Option<&str>,
) -> Result<TcpStream, Refusal> {
    if is_aws(target.host()) {
        return Err(Refusal::Aws(format!(
            "rehearsal exec: {} is the real AWS; this client does not read AWS_ENDPOINT_URL, so configure the endpoint in the client",
            target.host()
        )));
    }
    let failed = |error: &dyn std::fmt::Display| {
        Refusal::Failed(format!("rehearsal exec: connect to {target}: {error}"))
    };
    let by = authorization.and_then(named_proxy);
    let connecting = async {
        match &by {
            None => {
                let port = target.port_u16().unwrap_or(443);
                TcpStream::connect((target.host().trim_matches(['[', ']']), port)).await
            }
            Some(proxy) => through(proxy, target).await,
        }
    };
    match tokio::time::timeout(PATIENCE, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(failed(&format_args!(
            "no answer within {} s",
            PATIENCE.as_secs()
        ))),
    }
}

/// Another proxy: `[user:password@]host:port`.
fn named_proxy(authorization: &str) -> Option<Authority> {
    let given = STANDARD
        .decode(authorization.strip_prefix("Basic ")?)
        .ok()?;
    let given = String::from_utf8(given).ok()?;
    let named = given.strip_prefix(USER)?.strip_prefix(':')?;
    let named = URL_SAFE_NO_PAD.decode(named).ok()?;
    String::from_utf8(named).ok()?.parse().ok()
}

/// Connects through another proxy.
async fn through(proxy: &Authority, target: &Authority) -> std::io::Result<TcpStream> {
    let port = proxy.port_u16().unwrap_or(80);
    let mut stream = TcpStream::connect((proxy.host(), port)).await?;
    let login = proxy
        .as_str()
        .rsplit_once('@')
        .map(|(login, _)| {
            // Percent-encoded as in a form, except for the plus sign.
            let login = login.replace('+', "%2B");
            let login = form_urlencoded::parse(login.as_bytes()).next();
            let login = login
                .map(|(login, _)| login.into_owned())
                .unwrap_or_default();
            format!("proxy-authorization: Basic {}\r\n", STANDARD.encode(login))
        })
        .unwrap_or_default();
    let ask = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n{login}\r\n");
    stream.write_all(ask.as_bytes()).await?;
    let mut head = Vec::new();
    // Byte by byte: what follows the head belongs to the tunnel.
    while !head.ends_with(b"\r\n\r\n") && head.len() < LONGEST_HEAD {
        head.push(stream.read_u8().await?);
    }
    let status = String::from_utf8_lossy(&head);
    let status = status.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("200") {
        return Ok(stream);
    }
    Err(std::io::Error::other(format!(
        "the proxy {}:{port} answered {status:?}",
        proxy.host()
    )))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn aws_is_recognised_by_its_domains() {
        for (host, expected) in [
            ("ec2.us-east-1.amazonaws.com", true),
            ("EC2.US-EAST-1.AMAZONAWS.COM.", true),
            ("amazonaws.com", true),
            ("ec2.cn-north-1.amazonaws.com.cn", true),
            ("ec2.eu-west-1.api.aws", true),
            ("notamazonaws.com", false),
            ("amazonaws.com.example.org", false),
            ("github.com", false),
            ("127.0.0.1", false),
        ] {
            assert_eq!(is_aws(host), expected, "{host}");
        }
    }

    fn environment_of(user: &[(&str, &str)]) -> anyhow::Result<(String, String)> {
        let get = |name: &str| {
            let found = user.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let all = environment(4800, get)?;
        let of = |name: &str| {
            all.iter()
                .find(|(known, _)| *known == name)
                .unwrap()
                .1
                .clone()
        };
        assert_eq!(of("HTTPS_PROXY"), of("https_proxy"));
        assert_eq!(of("NO_PROXY"), of("no_proxy"));
        Ok((of("HTTPS_PROXY"), of("NO_PROXY")))
    }

    #[test]
    fn the_cloud_is_the_proxy_for_every_aws_host() {
        let loopback = LOOPBACK.join(",");
        let plain = ("http://127.0.0.1:4800".to_owned(), loopback.clone());
        assert_eq!(environment_of(&[]).unwrap(), plain);
        let nested = [("HTTPS_PROXY", plain.0.as_str())];
        assert_eq!(environment_of(&nested).unwrap(), plain);
        for around in [
            "*",
            ".amazonaws.com",
            "ec2.us-east-1.amazonaws.com",
            "com",
            ".aws",
        ] {
            let (_, direct) = environment_of(&[("no_proxy", around)]).unwrap();
            assert_eq!(direct, loopback, "{around}");
        }
        let (_, direct) = environment_of(&[("NO_PROXY", "example.org, .corp")]).unwrap();
        assert_eq!(direct, format!("{loopback},example.org,.corp"));
        assert!(environment_of(&[("https_proxy", "socks5://1.2.3.4")]).is_err());
    }

    #[tokio::test]
    async fn the_users_proxy_is_used_except_for_aws() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = format!("http://me:s%40y@127.0.0.1:{port}/");
        let (proxy, _) = environment_of(&[("HTTPS_PROXY", &own)]).unwrap();
        let (login, _) = proxy
            .strip_prefix("http://")
            .unwrap()
            .rsplit_once('@')
            .unwrap();
        let (user, password) = login.split_once(':').unwrap();
        let aws = "ec2.us-east-1.amazonaws.com:443".parse().unwrap();
        let other = "example.org:443".parse().unwrap();
        let sent = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        assert!(named_proxy(&sent).is_some());
        let refused = connect(&aws, Some(&sent)).await.unwrap_err();
        assert!(matches!(refused, Refusal::Aws(_)), "{refused:?}");
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 1024];
            let read = stream.read(&mut asked).await.unwrap();
            let answer = "HTTP/1.1 200 Connected\r\nx: y\r\n\r\nhello";
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(asked[..read].to_vec()).unwrap()
        };
        let (asked, made) = tokio::join!(serve, connect(&other, Some(&sent)));
        let mut greeting = [0; 5];
        made.unwrap().read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"hello");
        assert!(
            asked.starts_with("CONNECT example.org:443 HTTP/1.1\r\n"),
            "{asked}"
        );
        let login = STANDARD.encode("me:s@y");
        assert!(asked.contains(&format!("Basic {login}\r\n")), "{asked}");
    }
}
