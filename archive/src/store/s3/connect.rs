//! The client of an S3 store: TLS, credentials, endpoint. Built anew when credentials turn out to have been replaced.

use std::path::Path;
use std::time::{Duration, Instant};

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::SharedHttpClient;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use tokio::sync::Mutex;

use super::error::causes;
use super::settings::S3Settings;
use crate::store::StoreError;

/// A connection is made within this time or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that lie idle are kept for the next call.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Credentials are looked up anew at most so often.
const REFRESH_EVERY: Duration = Duration::from_secs(5);
/// A service that is compatible with S3 and has no regions takes any.
const ANY_REGION: &str = "us-east-1";

/// The client in use.
#[derive(Debug)]
pub(super) struct Connection {
    settings: S3Settings,
    http: SharedHttpClient,
    current: Mutex<(Client, Instant)>,
    secure: bool,
}

impl Connection {
    pub(super) async fn new(settings: S3Settings) -> Result<Self, StoreError> {
        let ca_file = settings
            .ca_file
            .clone()
            .or_else(|| environment("AWS_CA_BUNDLE").map(Into::into));
        let http = http_client(&settings, ca_file.as_deref())?;
        Self::over(settings, http).await
    }

    /// With calls that go through `http`.
    pub(super) async fn over(
        settings: S3Settings,
        http: SharedHttpClient,
    ) -> Result<Self, StoreError> {
        let (client, secure) = client(&settings, &http).await;
        if client.config().region().is_none() {
            return Err(StoreError::Denied {
                key: settings.place(),
                reason: "no region is named: set region, or AWS_REGION".into(),
            });
        }
        Ok(Self {
            settings,
            http,
            current: Mutex::new((client, Instant::now())),
            secure,
        })
    }

    pub(super) async fn client(&self) -> Client {
        self.current.lock().await.0.clone()
    }

    /// True if calls go through TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.secure
    }

    /// The store refused the credentials: looks them up again where they come from.
    pub(super) async fn renew_credentials(&self) {
        let mut current = self.current.lock().await;
        if current.1.elapsed() >= REFRESH_EVERY {
            *current = (client(&self.settings, &self.http).await.0, Instant::now());
            tracing::info!(archive = %self.settings.place(), "credentials were looked up again");
        }
    }
}

fn http_client(
    settings: &S3Settings,
    ca_file: Option<&Path>,
) -> Result<SharedHttpClient, StoreError> {
    let broken = |reason: String| StoreError::Broken {
        key: settings.place(),
        reason,
    };
    let mut trust = TrustStore::default();
    if let Some(path) = ca_file {
        let pem = std::fs::read(path)
            .map_err(|error| broken(format!("read the CA file {}: {error}", path.display())))?;
        if !pem.windows(10).any(|bytes| bytes == b"-----BEGIN") {
            return Err(broken(format!(
                "the CA file {} holds no PEM certificate",
                path.display()
            )));
        }
        trust = trust.with_pem_certificate(pem);
    }
    let context = TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|error| broken(causes(&error)))?;
    Ok(Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(context)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .build_https())
}

/// The client, and whether it speaks TLS. Credentials and what the settings leave open come from the SDK's chain: environment,
/// shared files, container, instance, web identity.
async fn client(settings: &S3Settings, http: &SharedHttpClient) -> (Client, bool) {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http.clone())
        .timeout_config(timeouts)
        // The store's callers know better whether and how long trying again makes sense.
        .retry_config(RetryConfig::disabled());
    if let Some(profile) = &settings.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(path) = &settings.credentials_file {
        let files = EnvConfigFiles::builder()
            .include_default_config_file(true)
            .with_file(EnvConfigFileKind::Credentials, path);
        loader = loader.profile_files(files.build());
    }
    let for_s3 = settings.endpoint.clone();
    let for_s3 = for_s3.or_else(|| environment("AWS_ENDPOINT_URL_S3"));
    let endpoint = for_s3.or_else(|| environment("AWS_ENDPOINT_URL"));
    if let Some(endpoint) = &endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    match (&settings.region, &endpoint) {
        (Some(region), _) => loader = loader.region(Region::new(region.clone())),
        // Such a service may have no regions, and no instance to ask for one.
        (None, Some(_)) => {
            let said = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new());
            let said = said.or_else(ProfileFileRegionProvider::new());
            loader = loader.region(said.or_else(Region::new(ANY_REGION)));
        }
        (None, None) => {}
    }
    let shared = loader.load().await;
    let endpoint = endpoint.or_else(|| shared.endpoint_url().map(str::to_owned));
    let path_style = settings.path_style.unwrap_or(endpoint.is_some());
    let config = aws_sdk_s3::config::Builder::from(&shared).force_path_style(path_style);
    let secure = endpoint.is_none_or(|url| url.starts_with("https://"));
    (Client::from_conf(config.build()), secure)
}

/// An environment variable that is set to something.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
