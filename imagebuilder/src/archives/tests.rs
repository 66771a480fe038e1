//! Archives over HTTP and in a folder, whole and broken.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::Written;

const NGINX: &str =
    "Package: nginx\nVersion: 1.22.1-9\nProvides: httpd\n\nPackage: curl\nVersion: 7.88.1-10\n";
const SUITE: &str = "dists/bookworm";

/// How a file is served.
#[derive(Clone)]
enum Answer {
    Bytes(Vec<u8>),
    /// The connection ends before the file does.
    Cut(Vec<u8>),
    /// There is never one.
    Hang,
    Status(&'static str),
}

/// The files of an archive by path.
#[derive(Clone, Default)]
struct Tree(BTreeMap<String, Answer>);

fn xz(text: &str) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    writer.write_all(text.as_bytes()).unwrap();
    writer.finish().unwrap()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(text.as_bytes()).unwrap();
    writer.finish().unwrap()
}

impl Tree {
    /// An archive of these files below its suite.
    fn of(files: &[(&str, Vec<u8>)]) -> Self {
        let mut tree = Self::default();
        let mut release = "Origin: Test\nSHA256:\n".to_owned();
        for (path, bytes) in files {
            let hash = crate::image::sha256(bytes);
            release += &format!(" {} {} {path}\n", hash.as_str(), bytes.len());
            tree.put(path, Answer::Bytes(bytes.clone()));
        }
        tree.put("InRelease", Answer::Bytes(release.into_bytes()));
        tree
    }

    /// One for amd64 alone.
    fn small() -> Self {
        Self::of(&[("main/binary-amd64/Packages.xz", xz(NGINX))])
    }

    fn put(&mut self, path: &str, answer: Answer) {
        self.0.insert(format!("/{SUITE}/{path}"), answer);
    }

    fn without(mut self, path: &str) -> Self {
        self.0.remove(&format!("/{SUITE}/{path}"));
        self
    }

    fn with(mut self, path: &str, answer: Answer) -> Self {
        self.put(path, answer);
        self
    }
}

/// A server of an archive.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn of(tree: Tree) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/debian", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let asked = requests.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, tree.clone(), asked.clone()));
            }
        });
        Self { url, requests }
    }

    fn line(&self) -> String {
        format!("{} bookworm main", self.url)
    }

    /// The requests since the last call, below the suite.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

async fn answer(mut stream: TcpStream, tree: Tree, asked: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap();
    let path = path.strip_prefix("/debian").unwrap();
    let below = path.trim_start_matches(&format!("/{SUITE}/"));
    asked.lock().unwrap().push(below.to_owned());
    let missing = Answer::Status("404 Not Found");
    let (status, bytes, length) = match tree.0.get(path).unwrap_or(&missing) {
        Answer::Bytes(bytes) => ("200 OK", &bytes[..], bytes.len()),
        Answer::Cut(bytes) => ("200 OK", &bytes[..bytes.len() / 2], bytes.len()),
        Answer::Status(status) => (*status, &b""[..], 0),
        Answer::Hang => return std::future::pending().await,
    };
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
}

fn packages(apt: &[&str], archives: &[String]) -> Packages {
    Packages {
        apt: apt.iter().map(|&name| name.to_owned()).collect(),
        archives: archives.to_vec(),
        place: Written(Some("test.toml:7".to_owned())),
        ..Packages::default()
    }
}

async fn checked(apt: &[&str], archives: &[String]) -> Checked {
    let cache = tempfile::tempdir().unwrap();
    let packages = packages(apt, archives);
    check(&packages, Arch::X86_64, cache.path(), Limits::default()).await
}

fn whats(checked: &Checked) -> Vec<&str> {
    checked.wrong.iter().map(|one| one.what.as_str()).collect()
}

#[tokio::test]
async fn names_are_looked_up_for_the_architecture() {
    let other = NGINX.replace("nginx", "nginx-arm");
    let server = Server::of(Tree::of(&[
        ("main/binary-amd64/Packages.xz", xz(NGINX)),
        ("main/binary-amd64/Packages.gz", gzip("")),
        ("main/binary-arm64/Packages.gz", gzip(&other)),
        ("extra/binary-amd64/Packages", b"Package: vim\n".to_vec()),
        ("extra/binary-arm64/Packages", b"Package: vim\n".to_vec()),
    ]))
    .await;
    let cache = tempfile::tempdir().unwrap();
    let packages = packages(
        &["nginx", "curl=7.88.*", "vim", "httpd"],
        &[format!("{} extra", server.line())],
    );
    for (arch, found, missing) in [(Arch::X86_64, 4, 0), (Arch::Arm64, 3, 1)] {
        let checked = check(&packages, arch, cache.path(), Limits::default()).await;
        assert_eq!(checked.found, found, "{checked:?}");
        assert_eq!(checked.wrong.len(), missing, "{checked:?}");
        assert!(checked.not_checked.is_empty(), "{checked:?}");
    }
}

#[tokio::test]
async fn all_that_is_missing_is_named_with_its_fix() {
    let server = Server::of(Tree::small()).await;
    let apt = ["nginxx", "flowers-for-all", "curl=8.*", "httpd=1", "nginx"];
    let checked = checked(&apt, &[server.line()]).await;
    let found: Vec<String> = checked
        .wrong
        .iter()
        .map(|one| format!("{} | {}", one.what, one.fix))
        .collect();
    insta::assert_snapshot!(found.join("\n"), @r"
    there is no package `nginxx` for amd64 in any of `archives` | did you mean `nginx`? correct `nginxx` in `apt` of [image.packages] (test.toml:7), or add the archive that has it to `archives`
    there is no package `flowers-for-all` for amd64 in any of `archives` | correct `flowers-for-all` in `apt` of [image.packages] (test.toml:7), or add the archive that has it to `archives`
    no version fits `curl=8.*` for amd64: there is 7.88.1-10 | correct the version of `curl=8.*` in `apt` of [image.packages] (test.toml:7), or leave it out for the newest
    `httpd=1` is not a package but provided by nginx, and apt does not choose | name one of them instead of `httpd=1` in `apt` of [image.packages] (test.toml:7)
    ");
    assert_eq!((checked.found, checked.not_checked.len()), (1, 0));
}

#[tokio::test]
async fn what_cannot_be_read_is_a_warning() {
    let xz_path = "main/binary-amd64/Packages.xz";
    let other = Answer::Bytes(xz(&NGINX.replace("nginx", "nginxx")));
    let mut garbled = xz(NGINX);
    garbled.truncate(garbled.len() / 2);
    for (tree, want) in [
        (Tree::small().with(xz_path, other), "its SHA-256 is another"),
        (
            Tree::small().with(xz_path, Answer::Cut(xz(NGINX))),
            "Packages.xz: ",
        ),
        (Tree::small().with(xz_path, Answer::Hang), "within 1 s"),
        (Tree::small().with("InRelease", Answer::Hang), "within 1 s"),
        (
            Tree::small().without(xz_path),
            "although its Release file lists it",
        ),
        (
            Tree::small().without("InRelease"),
            "correct the suite or the URL in `archives`",
        ),
        (
            Tree::small().with("InRelease", Answer::Status("503 Busy")),
            "InRelease: the server answered 503",
        ),
        (Tree::of(&[]), "it has no main for amd64"),
        (Tree::of(&[(xz_path, garbled)]), "Packages.xz: "),
        (
            Tree::of(&[(xz_path, xz(&"Package: a\n\n".repeat(100_000)))]),
            "it has more than 1 MB",
        ),
        (
            Tree::of(&[("main/binary-amd64/Packages", vec![b'\n'; 1_000_001])]),
            "it has more than 1 MB",
        ),
    ] {
        let server = Server::of(tree).await;
        let cache = tempfile::tempdir().unwrap();
        let limits = Limits {
            archive: match want {
                "within 1 s" => Duration::from_secs(1),
                _ => Limits::default().archive,
            },
            file: 1_000_000,
            ..Limits::default()
        };
        let packages = packages(&["nginxx", "curl"], &[server.line()]);
        let checked = check(&packages, Arch::X86_64, cache.path(), limits).await;
        assert!(checked.wrong.is_empty(), "{want}: {checked:?}");
        let [line] = &checked.not_checked[..] else {
            panic!("{want}: {checked:?}");
        };
        assert!(
            line.starts_with("packages were not checked: nginxx"),
            "{line}"
        );
        assert!(line.contains(&server.line()), "{line}");
        assert!(line.contains(want), "{want}: {line}");
    }
}

#[tokio::test]
async fn an_unread_archive_leaves_only_unknown_names_open() {
    let server = Server::of(Tree::small()).await;
    // Nothing listens on a port that was given back.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let lines = [server.line(), format!("http://{address}/x sid main")];
    let some = checked(&["nginx", "nginxx"], &lines).await;
    assert_eq!((some.found, whats(&some).len()), (1, 0), "{some:?}");
    assert!(some.not_checked[0].starts_with("packages were not checked: nginxx ("));
    let all = checked(&["nginx"], &lines).await;
    assert!(
        all.not_checked[0].ends_with("all packages are in others"),
        "{all:?}"
    );
}

#[tokio::test]
async fn unchanged_files_are_fetched_once() {
    let server = Server::of(Tree::small()).await;
    let cache = tempfile::tempdir().unwrap();
    let packages = packages(&["nginx"], &[server.line()]);
    let again = async || {
        let checked = check(&packages, Arch::X86_64, cache.path(), Limits::default()).await;
        assert_eq!(checked.found, 1, "{checked:?}");
        server.asked()
    };
    let file = "main/binary-amd64/Packages.xz";
    assert_eq!(again().await, ["InRelease", file]);
    assert_eq!(again().await, ["InRelease"]);
    let kept = std::fs::read_dir(cache.path()).unwrap().next().unwrap();
    std::fs::write(kept.unwrap().path(), "damaged").unwrap();
    assert_eq!(again().await, ["InRelease", file]);
    assert_eq!(again().await, ["InRelease"]);
}

#[tokio::test]
async fn files_are_fetched_by_hash_where_the_archive_has_them() {
    let tree = Tree::small();
    let path = "main/binary-amd64/Packages.xz";
    let Answer::Bytes(release) = tree.0[&format!("/{SUITE}/InRelease")].clone() else {
        panic!("no release");
    };
    let release = [&b"Acquire-By-Hash: yes\n"[..], &release[..]].concat();
    let hashed = crate::image::sha256(&xz(NGINX));
    let hashed = format!("main/binary-amd64/by-hash/SHA256/{}", hashed.as_str());
    let tree = tree.with("InRelease", Answer::Bytes(release));
    let without = tree.clone();
    let with = tree.with(&hashed, Answer::Bytes(xz(NGINX))).without(path);
    for (tree, want) in [
        (with, vec!["InRelease", &hashed]),
        (without, vec!["InRelease", &hashed, path]),
    ] {
        let server = Server::of(tree).await;
        let checked = checked(&["nginx"], &[server.line()]).await;
        assert_eq!(checked.found, 1, "{checked:?}");
        assert_eq!(server.asked(), want);
    }
}

#[tokio::test]
async fn an_archive_may_be_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    for (path, answer) in Tree::small().0 {
        let Answer::Bytes(bytes) = answer else {
            continue;
        };
        let path = folder.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let line = format!("file://{} bookworm main", folder.path().display());
    let checked = checked(&["nginx", "nginxx"], &[line]).await;
    assert_eq!((checked.found, checked.wrong.len()), (1, 1), "{checked:?}");
}

#[tokio::test]
async fn what_is_not_judged_is_named_or_silent() {
    let server = Server::of(Tree::small()).await;
    let foreign = checked(&["curl:i386", "curl:amd64"], &[server.line()]).await;
    assert_eq!(foreign.found, 1);
    assert_eq!(
        foreign.not_checked,
        ["packages were not checked: curl:i386 (not for amd64)"]
    );
    server.asked();
    assert_eq!(checked(&["nginxx"], &[]).await, Checked::default());
    assert_eq!(checked(&[], &[server.line()]).await, Checked::default());
    assert!(server.asked().is_empty());
}
