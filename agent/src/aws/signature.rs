//! Signature Version 4 of a request, for the few calls without an SDK client.
//!
//! Algorithm and credentials are the SDK's own. It signs and does not send.

use std::fmt;
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow};
use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;

/// What is to be POSTed.
pub(crate) struct Content {
    /// `content-type` and the other headers that are signed with it.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// The body.
    pub(crate) body: String,
}

/// A request signed for a service, with the headers to send: among them the instance's session token.
#[derive(Clone)]
pub(crate) struct Signed {
    /// The content's headers, `authorization` and the other headers that the signature needs.
    pub(crate) headers: Vec<(String, String)>,
    /// The body, as it was.
    pub(crate) body: String,
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed").finish_non_exhaustive()
    }
}

/// Signs what is to be POSTed to `url`.
///
/// # Errors
/// The configuration has no region, or no credentials are available.
pub(crate) async fn signed(
    config: &SdkConfig,
    service: &str,
    url: &str,
    content: Content,
) -> Result<Signed> {
    let region = config
        .region()
        .ok_or_else(|| anyhow!("no region is known"))?;
    let identity = config
        .credentials_provider()
        .ok_or_else(|| anyhow!("no credentials are known"))?
        .provide_credentials()
        .await
        .context("no credentials")?
        .into();
    let parameters = SigningParams::builder()
        .identity(&identity)
        .region(region.as_ref())
        .name(service)
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .context("cannot sign")?
        .into();
    let signable = SignableRequest::new(
        "POST",
        url,
        content
            .headers
            .iter()
            .map(|(name, value)| (*name, value.as_str())),
        SignableBody::Bytes(content.body.as_bytes()),
    )
    .context("cannot sign")?;
    let (instructions, _) = sign(signable, &parameters)
        .context("cannot sign")?
        .into_parts();
    let (signature, _) = instructions.into_parts();
    let signature = signature
        .iter()
        .map(|header| (header.name().to_owned(), header.value().to_owned()));
    let own = content.headers.into_iter();
    let headers = own.map(|(name, value)| (name.to_owned(), value));
    Ok(Signed {
        headers: headers.chain(signature).collect(),
        body: content.body,
    })
}

#[cfg(test)]
mod tests {
    use aws_config::Region;
    use aws_credential_types::Credentials;
    use aws_credential_types::provider::SharedCredentialsProvider;

    use super::*;

    fn form() -> Content {
        Content {
            headers: vec![(
                "content-type",
                "application/x-www-form-urlencoded".to_owned(),
            )],
            body: "Action=X".to_owned(),
        }
    }

    fn config(region: Option<&'static str>) -> SdkConfig {
        let token = Some("t0k3n-of-the-instance".to_owned());
        let credentials =
            Credentials::new("AKIDBOX", "s3cr3t-of-the-instance", token, None, "test");
        SdkConfig::builder()
            .region(region.map(Region::new))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .build()
    }

    #[tokio::test]
    async fn a_form_is_signed_and_debug_output_shows_no_secret() {
        let config = config(Some("eu-north-1"));
        let url = "https://monitoring.eu-north-1.amazonaws.com/";
        let form = signed(&config, "monitoring", url, form()).await;
        let form = form.unwrap();
        let header = |name: &str| {
            let mut found = form.headers.iter().filter(|(it, _)| it == name);
            found.next().map(|(_, value)| value.as_str()).unwrap()
        };
        let scope = "/eu-north-1/monitoring/aws4_request, \
            SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, Signature=";
        assert!(
            header("authorization").contains(scope),
            "{:?}",
            form.headers
        );
        assert_eq!(header("x-amz-security-token"), "t0k3n-of-the-instance");
        assert_eq!(form.body, "Action=X");
        assert_eq!(format!("{form:?}"), "Signed { .. }");
    }

    #[tokio::test]
    async fn a_missing_region_or_credentials_is_named() {
        let url = "https://monitoring.eu-north-1.amazonaws.com/";
        let nowhere = config(None);
        let nobody = SdkConfig::builder()
            .region(Region::new("eu-north-1"))
            .build();
        for (config, why) in [(nowhere, "no region"), (nobody, "no credentials")] {
            let error = signed(&config, "monitoring", url, form()).await;
            let error = error.unwrap_err().to_string();
            assert!(error.starts_with(why), "{why}: {error}");
        }
    }
}
