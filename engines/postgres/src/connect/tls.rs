//! Certificate files → a TLS client for one host. Files are read for every connection, so renewed ones need no restart.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::ConnectError;
use super::certificate::parse_certificate;
use super::conninfo::{ConnInfo, Host, SslMode, TlsVersion};
use super::socket::Socket;
use super::verify::{Authorities, Verifier, explain};

/// TLS as one connection string wants it for one host.
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    host: String,
    trusted: String,
}

impl Tls {
    /// Reads the files. Errors are [`ConnectError::Settings`] and name the file.
    pub(super) fn new(info: &ConnInfo, host: &Host) -> Result<Self, ConnectError> {
        let settings = ConnectError::Settings;
        let full = info.sslmode == SslMode::VerifyFull;
        let text =
            match (&host.name, host.addr) {
                (Some(name), _) => name.clone(),
                (None, Some(addr)) if !full => addr.to_string(),
                _ => return Err(settings(
                    "sslmode=verify-full needs a host name to verify; give host besides hostaddr"
                        .into(),
                )),
            };
        // A final dot makes a name absolute for the resolver; certificates have none.
        let text = text.trim_end_matches('.').to_owned();
        let name = match ServerName::try_from(text.clone()) {
            Ok(name) => name,
            Err(_) if full => {
                return Err(settings(format!(
                    "host {text:?} is not a name that a certificate can have"
                )));
            }
            Err(_) => ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()),
        };
        let (authorities, trusted) = authorities(info).map_err(settings)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions: &[_] = match info.tls_version_min {
            TlsVersion::V13 => &[&rustls::version::TLS13],
            TlsVersion::V1 | TlsVersion::V11 | TlsVersion::V12 => rustls::ALL_VERSIONS,
        };
        let verifier = Verifier {
            authorities,
            host: full.then(|| text.clone()),
            provider: Arc::clone(&provider),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|e| settings(format!("TLS cannot be set up: {e}")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match identity(info).map_err(settings)? {
            Some((chain, key, path)) => builder.with_client_auth_cert(chain, key).map_err(|e| {
                settings(match e {
                    rustls::Error::InconsistentKeys(_) => format!(
                        "sslkey is not the key of the client certificate {}",
                        path.display()
                    ),
                    e => format!("client certificate {}: {e}", path.display()),
                })
            })?,
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = info.sslsni;
        config.resumption = Resumption::disabled();
        Ok(Self {
            config: Arc::new(config),
            name,
            host: text,
            trusted,
        })
    }

    /// The handshake. The error is a sentence.
    pub(super) async fn handshake(&self, tcp: Socket) -> Result<TlsStream<Socket>, String> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let connecting = connector.connect(self.name.clone(), tcp);
        connecting.await.map_err(|error| {
            let inner = error
                .get_ref()
                .and_then(|e| e.downcast_ref::<rustls::Error>());
            match inner {
                Some(inner) => explain(inner, &self.host, &self.trusted),
                None => format!("the connection broke during the handshake: {error}"),
            }
        })
    }
}

/// `tls-server-end-point` channel binding data (RFC 5929); `None` if the certificate's signature has no hash of its own.
pub(super) fn end_point(stream: &TlsStream<Socket>) -> Option<Vec<u8>> {
    let leaf = stream.get_ref().1.peer_certificates()?.first()?;
    let hash = parse_certificate(leaf)?.signature_hash?;
    Some(hash.of(leaf))
}

/// Whom to trust and the words for it. `None`: anybody.
fn authorities(info: &ConnInfo) -> Result<(Option<Authorities>, String), String> {
    let verify = info.sslmode >= SslMode::VerifyCa;
    if info.sslmode < SslMode::Require {
        return Ok((None, String::new()));
    }
    if info
        .sslrootcert
        .as_ref()
        .is_some_and(|p| p.as_os_str() == "system")
    {
        let found = rustls_native_certs::load_native_certs();
        if found.certs.is_empty() {
            return Err("sslrootcert=system, but this machine has no trusted certificates; install its ca-certificates package".into());
        }
        return Ok((Some(trust(found.certs)), "the system's trust store".into()));
    }
    let named = info.sslrootcert.clone();
    let path = match named.or_else(|| in_home(info, "root.crt")) {
        Some(path) => path,
        None if verify => {
            return Err(format!(
                "sslmode={} needs trusted certificates: set sslrootcert to a file or to the word system, or create ~/.postgresql/root.crt",
                info.sslmode.word()
            ));
        }
        None => return Ok((None, String::new())),
    };
    let certificates = certificates(&path, "sslrootcert")?;
    Ok((Some(trust(certificates)), path.display().to_string()))
}

fn trust(certificates: Vec<CertificateDer<'static>>) -> Authorities {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates.iter().cloned());
    Authorities {
        roots,
        certificates,
    }
}

type Identity = (
    Vec<CertificateDer<'static>>,
    PrivateKeyDer<'static>,
    PathBuf,
);

/// The client's certificate chain and key, if there is one.
fn identity(info: &ConnInfo) -> Result<Option<Identity>, String> {
    let Some(path) = info
        .sslcert
        .clone()
        .or_else(|| in_home(info, "postgresql.crt"))
    else {
        return Ok(None);
    };
    let chain = certificates(&path, "sslcert")?;
    let key = info
        .sslkey
        .clone()
        .or_else(|| in_home(info, "postgresql.key"));
    let key = key.ok_or_else(|| {
        format!(
            "client certificate {} has no key: set sslkey",
            path.display()
        )
    })?;
    private(&key).map_err(|e| format!("sslkey {}: {e}", key.display()))?;
    let secret = PrivateKeyDer::from_pem_file(&key).map_err(|e| {
        format!(
            "sslkey {}: {}; it has to be one unencrypted private key in PEM",
            key.display(),
            pem_error(&e)
        )
    })?;
    Ok(Some((chain, secret, path)))
}

fn in_home(info: &ConnInfo, name: &str) -> Option<PathBuf> {
    let path = info.home.as_ref()?.join(".postgresql").join(name);
    path.exists().then_some(path)
}

fn certificates(path: &Path, keyword: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |e: pem::Error| format!("{keyword} {}: {}", path.display(), pem_error(&e));
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(wrong)?
        .collect();
    let found = found.map_err(wrong)?;
    if found.is_empty() {
        return Err(format!(
            "{keyword} {} holds no certificate in PEM",
            path.display()
        ));
    }
    Ok(found)
}

fn pem_error(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "it holds nothing of the kind".into(),
        other => other.to_string(),
    }
}

/// libpq's rule: 0600 or stricter, or 0640 if root owns it.
fn private(path: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(path)?;
    let allowed = if metadata.uid() == 0 { 0o640 } else { 0o600 };
    if metadata.mode() & 0o777 & !allowed & !0o100 != 0 {
        return Err(io::Error::other(format!(
            "others have access to it (mode {:04o}); run chmod 0600 on it",
            metadata.mode() & 0o7777
        )));
    }
    Ok(())
}
