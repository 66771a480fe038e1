//! The proxies of AWS's APIs. The metadata service has a client of its own, without one.

use std::sync::{Arc, OnceLock};

use agent_update::proxy::ProxySettings;
use anyhow::Result;
use aws_smithy_http_client::proxy::ProxyConfig;

/// The settings' proxies, which are known once the instance is identified: before the first call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies(Arc<OnceLock<ProxySettings>>);

impl Proxies {
    /// Sets them; they are not set twice.
    pub(crate) fn set(&self, settings: ProxySettings) {
        let _ = self.0.set(settings);
    }

    /// As the SDK takes them.
    ///
    /// # Errors
    /// A variable is not the URL of a proxy.
    pub(super) fn config(&self) -> Result<ProxyConfig> {
        let settings = self.0.get().cloned().unwrap_or_default();
        if settings.is_empty() {
            // The SDK reads the environment itself: it also supports TLS to the proxy.
            return Ok(ProxyConfig::from_env());
        }
        let proxy = settings.effective()?;
        if !proxy.is_none() {
            tracing::info!("proxies of AWS's APIs: {proxy}");
        }
        let config = match (proxy.https(), proxy.http()) {
            (None, None) => return Ok(ProxyConfig::disabled()),
            (Some(https), Some(http)) if https == http => ProxyConfig::all(https),
            // The APIs are at https://; the SDK has no form for two proxies.
            (Some(https), _) => ProxyConfig::https(https),
            (None, Some(http)) => ProxyConfig::http(http),
        };
        Ok(config?.no_proxy(proxy.no_proxy()))
    }
}
