//! The calls on key pairs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::State;
use super::keys::{KeyPair, generate, one_line};
use super::select::{CallSpec, Describe, absent, one};
use super::tags;
use crate::ids::{Id as _, KeyPairId};
use crate::request::RequestContext;
use crate::wire::{ApiError, Params, Xml, iso};

fn not_found(names: &[&str]) -> ApiError {
    ApiError::new(
        "InvalidKeyPair.NotFound",
        absent("key pair", "key pairs", names),
    )
}

pub(super) const TAKES: CallSpec = CallSpec {
    ids: "KeyPairId",
    filters: &["fingerprint", "key-name", "key-pair-id"],
    tags: true,
    ..CallSpec::USUAL
};

impl State {
    /// The key pair of that name.
    ///
    /// # Errors
    /// `InvalidKeyPair.NotFound`.
    pub(crate) fn key(&self, name: &str) -> Result<&KeyPair, ApiError> {
        self.keys.get(name).ok_or_else(|| not_found(&[name]))
    }
}

fn check_free(state: &State, name: &str) -> Result<(), ApiError> {
    if state.keys.contains_key(name) {
        return Err(ApiError::new(
            "InvalidKeyPair.Duplicate",
            format!("The keypair already exists: {name}"),
        ));
    }
    Ok(())
}

/// CreateKeyPair.
pub(crate) fn create(
    state: &mut State,
    ctx: &RequestContext,
    params: &Params,
) -> Result<Xml, ApiError> {
    let name = params.required("KeyName")?;
    check_free(state, name)?;
    let kind = params.text("KeyType").unwrap_or("rsa");
    if !["rsa", "ed25519"].contains(&kind) {
        return Err(ApiError::invalid_value(
            "keyType",
            kind,
            "expecting rsa or ed25519",
        ));
    }
    if params
        .text("KeyFormat")
        .is_some_and(|format| format != "pem")
    {
        return Err(ApiError::new(
            "UnsupportedOperation",
            "only the key format pem is supported here",
        ));
    }
    let tags = tags::specified(params, "key-pair")?;
    if params.boolean("DryRun")? == Some(true) {
        // Everything is checked; a key would be discarded.
        return Ok(Xml::new());
    }
    let (private, public) =
        generate(kind).map_err(|error| ApiError::internal(format!("{error:#}")))?;
    let key = add(state, ctx, name, public, tags)?;
    let mut xml = Xml::new();
    xml.text("keyPairId", &key.id)
        .text("keyName", &key.name)
        .text("keyFingerprint", &key.fingerprint)
        .text("keyMaterial", private);
    tags::write(&mut xml, state.tags.get(key.id.as_str()));
    Ok(xml)
}

/// ImportKeyPair.
pub(crate) fn import(
    state: &mut State,
    ctx: &RequestContext,
    params: &Params,
) -> Result<Xml, ApiError> {
    let name = params.required("KeyName")?;
    check_free(state, name)?;
    let tags = tags::specified(params, "key-pair")?;
    let material = params.required("PublicKeyMaterial")?;
    let public = STANDARD
        .decode(material)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|text| one_line(&text))
        .ok_or_else(|| {
            ApiError::new(
                "InvalidKey.Format",
                "Key is not in valid OpenSSH public key format",
            )
        })?;
    let key = add(state, ctx, name, public, tags)?;
    let mut xml = Xml::new();
    xml.text("keyPairId", &key.id)
        .text("keyName", &key.name)
        .text("keyFingerprint", &key.fingerprint);
    tags::write(&mut xml, state.tags.get(key.id.as_str()));
    Ok(xml)
}

fn add(
    state: &mut State,
    ctx: &RequestContext,
    name: &str,
    public: String,
    tags: tags::Tags,
) -> Result<KeyPair, ApiError> {
    let mut words = public.split_whitespace();
    let kind = match words.next() {
        Some("ssh-rsa") => "rsa",
        Some("ssh-ed25519") => "ed25519",
        _ => {
            return Err(ApiError::new(
                "InvalidKey.Format",
                "Key is not in valid OpenSSH public key format",
            ));
        }
    };
    let blob = words
        .next()
        .and_then(|blob| STANDARD.decode(blob).ok())
        .ok_or_else(|| {
            ApiError::new(
                "InvalidKey.Format",
                "Key is not in valid OpenSSH public key format",
            )
        })?;
    let key = KeyPair {
        id: KeyPairId::fresh(),
        name: name.to_owned(),
        kind: kind.to_owned(),
        fingerprint: STANDARD.encode(<sha2::Sha256 as sha2::Digest>::digest(&blob)),
        public,
        created: ctx.now,
    };
    state.tag(&key.id, tags);
    state.keys.insert(name.to_owned(), key.clone());
    Ok(key)
}

/// DeleteKeyPair: an unknown name is no error, as on AWS.
pub(crate) fn delete(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    let name = match params.text("KeyPairId") {
        Some(id) => match state.keys.values().find(|key| key.id == id) {
            Some(key) => key.name.clone(),
            None => return Err(not_found(&[id])),
        },
        None => params.required("KeyName")?.to_owned(),
    };
    if let Some(key) = state.keys.remove(&name) {
        state.tags.remove(key.id.as_str());
    }
    Ok(tags::done())
}

/// DescribeKeyPairs.
pub(crate) fn describe(state: &State, params: &Params) -> Result<Xml, ApiError> {
    let all = state
        .keys
        .values()
        .map(|key| (key.id.clone(), key))
        .collect();
    let mut describe = Describe::new(params, &state.tags, &TAKES);
    let named = params.list("KeyName");
    let mut missing = named.clone();
    missing.retain(|name| !state.keys.contains_key(*name));
    if !missing.is_empty() {
        return Err(not_found(&missing));
    }
    let keys = named.iter().filter_map(|name| state.keys.get(*name));
    describe.wanted.extend(keys.map(|key| key.id.as_str()));
    let chosen = describe.choose(&all, not_found, |key, name| match name {
        "key-name" => one(&key.name),
        "key-pair-id" => one(&key.id),
        "fingerprint" => one(&key.fingerprint),
        _ => None,
    })?;
    let with_public = params.boolean("IncludePublicKey")?.unwrap_or(false);
    let mut xml = Xml::new();
    chosen.write(&mut xml, "keySet", |x, key| {
        x.text("keyPairId", &key.id)
            .text("keyName", &key.name)
            .text("keyType", &key.kind)
            .text("keyFingerprint", &key.fingerprint)
            .text("createTime", iso(key.created))
            .maybe("publicKey", with_public.then_some(&key.public));
        tags::write_all(x, state.tags.get(key.id.as_str()));
    });
    Ok(xml)
}
