//! Fetches the `Packages` files of an archive, over HTTP or from a folder, and keeps them by their hash.

use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Once;
use std::time::{Duration, SystemTime};

use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use tokio::io::AsyncReadExt as _;
use url::Url;

use super::Limits;
use super::index::Index;
use super::release::{Compression, Listed, Release};
use crate::config::Archive;
use crate::image::sha256;

/// The largest `Release` file. Debian's has 150 kB.
const LARGEST_RELEASE: u64 = 16 << 20;
/// The memory of an xz decoder, in KiB. `xz -9`, the most that archives use, needs 65 MiB.
const XZ_MEMORY: u32 = 128 << 10;
/// How long a file is kept: it is replaced by another name with every change of the archive.
const KEPT: Duration = Duration::from_secs(30 * 86_400);

/// A `Packages` file, as it came.
#[derive(Debug)]
pub(super) struct Fetched {
    /// The archive, and the path below its suite.
    pub(super) name: String,
    compression: Compression,
    bytes: Vec<u8>,
}

/// Why a file was not read.
enum Failed {
    Absent,
    Other(String),
}

impl Failed {
    fn other(error: impl Into<anyhow::Error>) -> Self {
        Self::Other(format!("{:#}", error.into()))
    }
}

/// All `Packages` files of an archive for an architecture; or why it was not read.
pub(super) async fn packages(
    archive: &Archive,
    arch: &str,
    cache: &Path,
    limits: Limits,
) -> Result<Vec<Fetched>, String> {
    let all = async {
        let reader = Reader::new(archive, limits)?;
        let release = reader.release(archive).await?;
        let mut files = Vec::new();
        for component in &archive.components {
            let listed = release.packages(component, arch);
            if listed.is_empty() {
                return Err(format!("it has no {component} for {arch}"));
            }
            for file in listed {
                let bytes = reader.file(&file, release.by_hash, cache).await?;
                files.push(Fetched {
                    name: format!("{archive}: {}", file.path),
                    compression: file.compression,
                    bytes,
                });
            }
        }
        Ok(files)
    };
    match tokio::time::timeout(limits.archive, all).await {
        Ok(result) => result,
        Err(_) => Err(format!(
            "it was not read within {} s",
            limits.archive.as_secs_f32()
        )),
    }
}

impl Fetched {
    /// Unpacks it into an index, line by line.
    pub(super) fn read(&self, index: &mut Index, most: u64) -> io::Result<()> {
        let packed = &self.bytes[..];
        let unpacked: Box<dyn Read + '_> = match self.compression {
            Compression::Xz => Box::new(XzReader::new_mem_limit(packed, true, XZ_MEMORY)),
            Compression::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Compression::None => Box::new(packed),
        };
        let mut limited = BufReader::new(unpacked.take(most));
        index.read(&mut limited)?;
        match limited.into_inner().limit() {
            0 => Err(io::Error::other(too_large(most))),
            _ => Ok(()),
        }
    }
}

fn too_large(most: u64) -> String {
    format!("it has more than {} MB", most / 1_000_000)
}

/// Reads files of one archive.
struct Reader {
    client: reqwest::Client,
    /// The folder of the suite.
    base: Url,
    largest: u64,
}

impl Reader {
    fn new(archive: &Archive, limits: Limits) -> Result<Self, String> {
        let base = archive.url.join(&format!("dists/{}/", archive.suite));
        Ok(Self {
            client: client(&archive.url, limits.connect)?,
            base: base.map_err(|error| error.to_string())?,
            largest: limits.file,
        })
    }

    async fn release(&self, archive: &Archive) -> Result<Release, String> {
        for name in ["InRelease", "Release"] {
            match self.get(name, LARGEST_RELEASE).await {
                Ok(bytes) => return Ok(Release::parse(&String::from_utf8_lossy(&bytes))),
                Err(Failed::Absent) => {}
                Err(Failed::Other(why)) => return Err(format!("{name}: {why}")),
            }
        }
        Err(format!(
            "there is no dists/{}/InRelease: correct the suite or the URL in `archives`",
            archive.suite
        ))
    }

    /// A listed file: the one kept here, else the archive's. What is not the listed one is not used.
    async fn file(&self, listed: &Listed, by_hash: bool, cache: &Path) -> Result<Vec<u8>, String> {
        let path = &listed.path;
        if listed.size > self.largest {
            return Err(format!("{path}: {}", too_large(self.largest)));
        }
        let kept = cache.join(&listed.sha256);
        let is_listed = |bytes: &[u8]| sha256(bytes).as_str() == listed.sha256;
        if let Ok(bytes) = std::fs::read(&kept)
            && is_listed(&bytes)
        {
            return Ok(bytes);
        }
        let mut found = Err(Failed::Absent);
        if by_hash && let Some((folder, _)) = path.rsplit_once('/') {
            let hashed = format!("{folder}/by-hash/SHA256/{}", listed.sha256);
            found = self.get(&hashed, listed.size).await;
        }
        if let Err(Failed::Absent) = found {
            found = self.get(path, listed.size).await;
        }
        let bytes = found.map_err(|failed| match failed {
            Failed::Absent => format!("{path} is not there, although its Release file lists it"),
            Failed::Other(why) => format!("{path}: {why}"),
        })?;
        if !is_listed(&bytes) {
            return Err(format!(
                "{path} is not the file that its Release file lists: its SHA-256 is another"
            ));
        }
        keep(&kept, &bytes);
        Ok(bytes)
    }

    /// A file below the folder of the suite.
    async fn get(&self, path: &str, most: u64) -> Result<Vec<u8>, Failed> {
        let url = self.base.join(path).map_err(Failed::other)?;
        if url.scheme() == "file" {
            let path = url
                .to_file_path()
                .map_err(|()| Failed::Other("it is not a path of this host".to_owned()))?;
            return of_folder(&path, most).await;
        }
        let failed = |error: reqwest::Error| Failed::other(error.without_url());
        let mut response = self.client.get(url).send().await.map_err(failed)?;
        match response.status() {
            reqwest::StatusCode::NOT_FOUND | reqwest::StatusCode::GONE => {
                return Err(Failed::Absent);
            }
            status if status != reqwest::StatusCode::OK => {
                return Err(Failed::Other(format!("the server answered {status}")));
            }
            _ => {}
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > most {
                return Err(Failed::Other(
                    "it is larger than it may be or is listed".to_owned(),
                ));
            }
        }
        Ok(bytes)
    }
}

async fn of_folder(path: &Path, most: u64) -> Result<Vec<u8>, Failed> {
    let file = match tokio::fs::File::open(path).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Failed::Absent),
        Err(error) => return Err(Failed::other(error)),
    };
    let mut bytes = Vec::new();
    let read = file.take(most + 1).read_to_end(&mut bytes).await;
    read.map_err(Failed::other)?;
    Ok(bytes)
}

/// Keeps a file, and removes what was kept long ago. A folder that cannot be written costs the next bake a download.
fn keep(path: &Path, bytes: &[u8]) {
    let Some(folder) = path.parent() else { return };
    let _ = std::fs::create_dir_all(folder);
    let _ = support::files::replace(path, bytes, 0o644);
    let old = |entry: &std::fs::DirEntry| {
        let written = entry.metadata().and_then(|meta| meta.modified());
        let age = written
            .ok()
            .and_then(|at| SystemTime::now().duration_since(at).ok());
        age.is_some_and(|age| age > KEPT)
    };
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if old(&entry) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// A client that honours the environment: `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`, and `SSL_CERT_FILE` for other certificates than the
/// system's.
fn client(url: &Url, connect: Duration) -> Result<reqwest::Client, String> {
    static TLS: Once = Once::new();
    TLS.call_once(|| {
        // An error means that one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let builder = || {
        reqwest::Client::builder()
            .connect_timeout(connect)
            .user_agent(concat!("imagebuilder/", env!("CARGO_PKG_VERSION")))
    };
    let built = match builder().build() {
        // Without any certificates on this host there is no https; the others do without.
        Err(_) if url.scheme() != "https" => builder().tls_certs_only([]).build(),
        built => built,
    };
    built.map_err(|error| format!("{:#}", anyhow::Error::new(error)))
}
