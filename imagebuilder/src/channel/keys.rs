//! Keys that sign metadata: from files and from KMS, behind one type.
//!
//! A private key is read only when something is to be signed, and appears in no message, argument or file but its own.

use std::fmt;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use tokio::sync::OnceCell;
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::key::Key;
use tough::sign::Sign;

use crate::config::KeySource;
use cloud::{Kind, SigningAlgorithm, SigningKeys};
use run::exit::Exit;

/// A key's name in metadata: SHA-256 over its canonical form, TUF section 4.2.
pub(crate) type KeyId = Decoded<Hex>;

/// What begins the DER of every Ed25519 SubjectPublicKeyInfo, RFC 8410 section 4; 32 bytes of key follow.
const ED25519_SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

const PRIVATE: &str = "PRIVATE KEY";
const PUBLIC: &str = "PUBLIC KEY";

/// A key by its source: its public half, and its private one if available.
#[derive(Clone)]
pub(crate) struct Opened {
    /// Where it came from.
    pub(crate) source: KeySource,
    /// Its name.
    pub(crate) id: KeyId,
    /// The public half.
    pub(crate) public: Key,
    signer: Option<Arc<dyn Sign>>,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.source, self.short())
    }
}

impl Opened {
    fn new(source: KeySource, public: Key, signer: Option<Arc<dyn Sign>>) -> anyhow::Result<Self> {
        Ok(Self {
            id: public
                .key_id()
                .with_context(|| format!("name key {source}"))?,
            source,
            public,
            signer,
        })
    }

    /// Whether it can sign here.
    pub(crate) fn signs(&self) -> bool {
        self.signer.is_some()
    }

    /// The beginning of its name, for messages.
    pub(crate) fn short(&self) -> String {
        short(&self.id)
    }

    /// Signs; `None` when the private half is elsewhere.
    pub(crate) async fn sign(&self, message: &[u8]) -> anyhow::Result<Option<Vec<u8>>> {
        let Some(signer) = &self.signer else {
            return Ok(None);
        };
        match signer.sign(message, &SystemRandom::new()).await {
            Ok(signature) => Ok(Some(signature)),
            Err(error) => {
                Err(anyhow::Error::from_boxed(error).context(format!("sign with {}", self.source)))
            }
        }
    }
}

/// The beginning of a key's name, for messages.
pub(crate) fn short(id: &KeyId) -> String {
    hex::encode(&id[..id.len().min(4)])
}

/// Opens keys. Cheap to make: KMS is connected to when the first of its keys is asked for.
pub(crate) struct Keyring {
    folder: PathBuf,
    connect: Connect,
    kms: OnceCell<Arc<dyn SigningKeys>>,
}

/// Connects to KMS.
pub(crate) type Connect = Box<
    dyn Fn() -> std::pin::Pin<Box<dyn Future<Output = anyhow::Result<Arc<dyn SigningKeys>>> + Send>>
        + Send
        + Sync,
>;

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl Keyring {
    /// Keys in files relative to `folder`, and in the KMS that `connect` connects to.
    pub(crate) fn new(folder: PathBuf, connect: Connect) -> Self {
        Self {
            folder,
            connect,
            kms: OnceCell::new(),
        }
    }

    /// Opens one key.
    ///
    /// # Errors
    /// When there is none, its type is not supported by TUF, or others may read it.
    pub(crate) async fn open(&self, source: &KeySource) -> anyhow::Result<Opened> {
        match source {
            KeySource::File(path) => open_file(source, &self.folder.join(path)),
            KeySource::AwsKms(id) => {
                let kms = self.kms.get_or_try_init(|| (self.connect)()).await?;
                open_kms(source, id, Arc::clone(kms)).await
            }
        }
    }

    /// Opens all of them, in this order.
    pub(crate) async fn open_all<'a>(
        &self,
        sources: impl IntoIterator<Item = &'a KeySource>,
    ) -> anyhow::Result<Vec<Opened>> {
        let mut opened = Vec::new();
        for source in sources {
            opened.push(self.open(source).await?);
        }
        Ok(opened)
    }
}

/// Where the public half of a key file lies: `root-1.pub.pem` for `root-1.pem`.
pub(crate) fn public_path(path: &Path) -> PathBuf {
    path.with_extension("pub.pem")
}

fn open_file(source: &KeySource, path: &Path) -> anyhow::Result<Opened> {
    let public = public_path(path);
    let (path, text) = match std::fs::read(path) {
        // The private key is elsewhere: its public half here identifies it.
        Err(error) if error.kind() == ErrorKind::NotFound && public.exists() => {
            let text = std::fs::read(&public);
            (public.as_path(), text)
        }
        read => (path, read),
    };
    let text = match text {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Exit::Refused
                .error(format!("there is no key {}", path.display()))
                .hint(format!(
                    "copy it here, or only its public half as {}; `imagebuilder channel init --generate-keys DIR` makes new ones",
                    public.display()
                ))
                .into());
        }
        Err(error) => return Err(error).with_context(|| format!("read key {}", path.display())),
    };
    let refuse = |why: &str| {
        Exit::Refused
            .error(format!("{} is not a usable channel key: {why}", path.display()))
            .hint("use an Ed25519, P-256 or RSA key as PKCS#8 in PEM, such as `openssl genpkey -algorithm ed25519` makes")
    };
    // The parser's message could repeat a part of the key.
    let parsed = pem::parse(&text).map_err(|_| refuse("it is not PEM"))?;
    match parsed.tag() {
        PUBLIC => {
            let key =
                public_key(parsed.contents()).ok_or_else(|| refuse("its type is not supported"))?;
            Opened::new(source.clone(), key, None)
        }
        PRIVATE => {
            let mode = std::fs::metadata(path)
                .with_context(|| format!("read the mode of {}", path.display()))?
                .permissions()
                .mode();
            if mode & 0o077 != 0 {
                return Err(Exit::Refused
                    .error(format!(
                        "key {} may be read by others (mode {:04o})",
                        path.display(),
                        mode & 0o7777
                    ))
                    .hint(format!(
                        "run `chmod 600 {}` if it was not copied",
                        path.display()
                    ))
                    .into());
            }
            // DER for the first two kinds, PEM for RSA.
            let signer: Arc<dyn Sign> =
                if let Ok(signer) = tough::sign::parse_keypair(parsed.contents()) {
                    Arc::new(signer)
                } else if let Ok(signer) = tough::sign::parse_keypair(&text) {
                    Arc::new(signer)
                } else {
                    return Err(refuse("its type is not supported").into());
                };
            Opened::new(source.clone(), signer.tuf_key(), Some(signer))
        }
        _ => Err(refuse("its PEM block is not a key").into()),
    }
}

/// A public key from the DER of its SubjectPublicKeyInfo.
fn public_key(der: &[u8]) -> Option<Key> {
    if let Some(raw) = der.strip_prefix(&ED25519_SPKI) {
        return hex::encode(raw).parse().ok();
    }
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    // Without a line break at its end, as the reference implementation writes it into metadata.
    pem::encode_config(&pem::Pem::new(PUBLIC, der), config)
        .trim_end()
        .parse()
        .ok()
}

async fn open_kms(
    source: &KeySource,
    id: &str,
    kms: Arc<dyn SigningKeys>,
) -> anyhow::Result<Opened> {
    let public = match kms.public_key(id).await {
        Err(error) if error.kind == Kind::Denied => {
            return Err(Exit::Refused
                .error(format!("the public half of {source} may not be read"))
                .because(error)
                .hint("allow kms:GetPublicKey and kms:Sign on the key: docs/channel.md")
                .into());
        }
        answer => answer?,
    };
    let key = public_key(&public.der)
        .ok_or_else(|| anyhow!("KMS gave a public key of {id} that cannot be read"))?;
    let signer = KmsKey {
        kms,
        id: id.to_owned(),
        algorithm: public.algorithm,
        public: key.clone(),
    };
    Opened::new(source.clone(), key, Some(Arc::new(signer)))
}

/// A key that KMS signs with.
struct KmsKey {
    kms: Arc<dyn SigningKeys>,
    id: String,
    algorithm: SigningAlgorithm,
    public: Key,
}

#[async_trait]
impl Sign for KmsKey {
    fn tuf_key(&self) -> Key {
        self.public.clone()
    }

    async fn sign(
        &self,
        message: &[u8],
        _: &(dyn SecureRandom + Sync),
    ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync + 'static>> {
        Ok(self.kms.sign(&self.id, self.algorithm, message).await?)
    }
}

/// Makes a fresh Ed25519 key: `path` for its owner alone, and its public half beside it.
///
/// # Errors
/// When either file is there already, or cannot be written.
pub(crate) fn generate(path: &Path) -> anyhow::Result<()> {
    let pair = Ed25519KeyPair::generate().map_err(|_| anyhow!("no randomness for a key"))?;
    let private = pair
        .to_pkcs8v1()
        .map_err(|_| anyhow!("a fresh key could not be encoded"))?;
    let public: PublicKeyX509Der<'_> = pair
        .public_key()
        .as_der()
        .map_err(|_| anyhow!("a fresh public key could not be encoded"))?;
    let config = || pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    let write = |path: &Path, mode: u32, tag: &str, der: &[u8]| {
        let text = pem::encode_config(&pem::Pem::new(tag, der), config());
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
            .with_context(|| format!("create key {}", path.display()))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .with_context(|| format!("write key {}", path.display()))
    };
    write(path, 0o600, PRIVATE, private.as_ref())?;
    write(&public_path(path), 0o644, PUBLIC, public.as_ref())
}
