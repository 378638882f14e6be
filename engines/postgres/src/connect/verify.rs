//! Is this the server we meant? Chain and name of a server's certificate, checked as far as `sslmode` asks.
//!
//! Two things are libpq's and not a web browser's: a certificate that itself lies in `sslrootcert` is trusted directly (the usual
//! self-signed server), and without a subjectAltName the subject's common name is the host name.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate::{Certificate, parse_certificate};

/// Whom to trust.
#[derive(Debug)]
pub(super) struct Authorities {
    /// As roots of chains.
    pub(super) roots: RootCertStore,
    /// The same certificates, to recognise the server's own among them.
    pub(super) certificates: Vec<CertificateDer<'static>>,
}

/// A verifier for one host.
#[derive(Debug)]
pub(super) struct Verifier {
    /// `None` accepts any certificate; the server still has to prove that it holds its key.
    pub(super) authorities: Option<Authorities>,
    /// `None` accepts any name.
    pub(super) host: Option<String>,
    pub(super) provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(authorities) = &self.authorities else {
            return Ok(ServerCertVerified::assertion());
        };
        let facts = parse_certificate(leaf).ok_or(CertificateError::BadEncoding)?;
        let parsed = ParsedCertificate::try_from(leaf)?;
        if authorities.certificates.contains(leaf) {
            in_time(&facts, now)?;
        } else {
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &authorities.roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        match &self.host {
            Some(host) if !facts.names_hosts => match facts.common_name {
                Some(name) if name_matches(name, host) => {}
                _ => return Err(CertificateError::NotValidForName.into()),
            },
            Some(_) => verify_server_name(&parsed, server_name)?,
            None => {}
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, leaf, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, leaf, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

fn in_time(facts: &Certificate<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let (from, to) = facts.valid;
    match now {
        now if now < from => Err(CertificateError::NotValidYet),
        now if now > to => Err(CertificateError::Expired),
        _ => Ok(()),
    }
}

/// Whether a common name is this host; a leading `*.` stands for exactly one label, never for part of an address.
fn name_matches(name: &str, host: &str) -> bool {
    if name.eq_ignore_ascii_case(host) {
        return true;
    }
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    match (name.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((label, rest))) => {
            !is_address
                && !label.is_empty()
                && domain.contains('.')
                && domain.eq_ignore_ascii_case(rest)
        }
        _ => false,
    }
}

/// What a failed handshake means for an operator. `trusted` names the place of the trusted authorities.
pub(super) fn explain(error: &Error, host: &str, trusted: &str) -> String {
    let Error::InvalidCertificate(reason) = error else {
        return match error {
            Error::AlertReceived(alert) => format!(
                "the server ended the handshake with the alert {alert:?}; its log says why (a client certificate may be missing or wrong)"
            ),
            error => format!("the handshake failed: {error}"),
        };
    };
    match reason {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "no authority in {trusted} has issued the server's certificate; put the right one there, or check that this is the right server"
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => format!(
            "the server's certificate does not name {host}; connect by a name it has, or use sslmode=verify-ca if every server of that authority may be trusted"
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired; renew it (or set this machine's clock)".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet; check this machine's clock".into()
        }
        other if other.to_string().contains("UnsupportedCertVersion") => {
            "the server's certificate is of X.509 version 1, which cannot be checked; issue it again with a subjectAltName, which makes it version 3".into()
        }
        other if other.to_string().contains("CaUsedAsEndEntity") => format!(
            "the server's certificate is an authority's own (CA:TRUE); to trust exactly this certificate, put it into {trusted}"
        ),
        other => format!("the server's certificate is not acceptable: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::pem::PemObject;
    use std::time::Duration;

    fn verify(host: Option<&str>, trusted: bool, at: u64) -> Result<(), String> {
        let pem = include_str!("testdata/common-name.pem");
        let leaf = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let verifier = Verifier {
            authorities: Some(Authorities {
                roots: RootCertStore::empty(),
                certificates: if trusted { vec![leaf.clone()] } else { vec![] },
            }),
            host: host.map(str::to_owned),
            provider: Arc::new(rustls::crypto::ring::default_provider()),
        };
        let name = ServerName::try_from(host.unwrap_or("any").to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(at));
        verifier
            .verify_server_cert(&leaf, &[], &name, &[], now)
            .map(|_| ())
            .map_err(|e| explain(&e, host.unwrap_or_default(), "root.crt"))
    }

    #[test]
    fn a_certificate_trusted_by_itself_still_needs_its_name_and_time() {
        let valid = parse_certificate(
            &CertificateDer::from_pem_slice(include_bytes!("testdata/common-name.pem")).unwrap(),
        )
        .unwrap()
        .valid;
        let (from, to) = (valid.0 as u64, valid.1 as u64);
        assert_eq!(verify(Some("db.example"), true, from), Ok(()));
        assert_eq!(verify(None, true, to), Ok(()));
        assert!(
            verify(Some("other.example"), true, from)
                .unwrap_err()
                .contains("does not name other.example")
        );
        assert!(verify(None, true, to + 1).unwrap_err().contains("expired"));
        assert!(verify(None, true, from - 1).unwrap_err().contains("clock"));
        assert!(verify(None, false, from).is_err());
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        assert!(name_matches("DB.example", "db.EXAMPLE"));
        assert!(name_matches("*.example.org", "db.example.org"));
        for (name, host) in [
            ("*.example.org", "a.b.example.org"),
            ("*.example.org", "example.org"),
            ("*.org", "example.org"),
            ("*.0.0.1", "127.0.0.1"),
            ("*", "db"),
            ("", "db"),
        ] {
            assert!(!name_matches(name, host), "{name} {host}");
        }
    }
}
