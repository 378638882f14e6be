//! A server's X.509 certificate (DER) → the few facts that TLS libraries do not hand out: the hash for channel binding, the
//! common name for servers without a subjectAltName, and the time of validity for certificates trusted directly.

use sha2::{Digest, Sha256, Sha384, Sha512};

/// The facts. Slices point into the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// X.509 version, 1 to 3.
    pub version: u8,
    /// Hash function of the signature; `None` if it is not one of SHA-1 and SHA-2, or the algorithm has none.
    pub signature_hash: Option<Hash>,
    /// Last common name of the subject, if it is text.
    pub common_name: Option<&'a str>,
    /// Whether the subjectAltName has a DNS name or an IP address, in which case the common name says nothing.
    pub names_hosts: bool,
    /// Validity in seconds since the Unix epoch, both ends included.
    pub valid: (i64, i64),
}

/// A hash function of certificate signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// MD5 and SHA-1, for which channel binding uses SHA-256 (RFC 5929), and SHA-256 itself.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// `tls-server-end-point`: the hash of the whole certificate.
    pub(super) fn of(self, der: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(der).to_vec(),
            Self::Sha384 => Sha384::digest(der).to_vec(),
            Self::Sha512 => Sha512::digest(der).to_vec(),
        }
    }
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const OID: u8 = 0x06;
const OCTETS: u8 = 0x04;
const BOOLEAN: u8 = 0x01;

/// The rest of the bytes of one DER value.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next element: tag and contents. `None` at the end and for anything malformed.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&short, mut rest) = rest.split_first()?;
        let length = match short {
            0..=0x7F => usize::from(short),
            _ if (0x81..=0x84).contains(&short) => {
                let (bytes, after) = rest.split_at_checked(usize::from(short & 0x7f))?;
                rest = after;
                bytes.iter().fold(0, |n, &b| n << 8 | usize::from(b))
            }
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, contents))
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(t, _)| *t == tag).map(|(_, c)| c)
    }

    /// The next element only if it has this tag.
    fn optional(&mut self, tag: u8) -> Option<&'a [u8]> {
        (self.0.first() == Some(&tag)).then(|| self.expect(tag))?
    }
}

/// Reads a DER certificate; `None` if it is not one. Never panics, whatever the bytes.
#[must_use]
pub fn parse_certificate(der: &[u8]) -> Option<Certificate<'_>> {
    let mut certificate = Der(Der(der).expect(SEQUENCE)?);
    let mut body = Der(certificate.expect(SEQUENCE)?);
    let signature_hash = signature_hash(certificate.expect(SEQUENCE)?);
    let version = match body.optional(0xA0) {
        Some(version) => match Der(version).expect(INTEGER)? {
            [version @ 0..=2] => version + 1,
            _ => return None,
        },
        None => 1,
    };
    body.expect(INTEGER)?;
    body.expect(SEQUENCE)?;
    body.expect(SEQUENCE)?;
    let mut validity = Der(body.expect(SEQUENCE)?);
    let valid = (moment(validity.next()?)?, moment(validity.next()?)?);
    let subject = body.expect(SEQUENCE)?;
    body.expect(SEQUENCE)?;
    body.optional(0x81);
    body.optional(0x82);
    let extensions = body.optional(0xA3).and_then(|e| Der(e).expect(SEQUENCE));
    Some(Certificate {
        version,
        signature_hash,
        common_name: common_name(subject),
        names_hosts: names_hosts(extensions.unwrap_or_default()),
        valid,
    })
}

fn signature_hash(algorithm: &[u8]) -> Option<Hash> {
    let mut algorithm = Der(algorithm);
    let oid = algorithm.expect(OID)?;
    let rsa = [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01];
    let ecdsa = [0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04];
    if let Some(kind) = oid.strip_prefix(&rsa) {
        return match kind {
            [4 | 5 | 11] => Some(Hash::Sha256),
            [12] => Some(Hash::Sha384),
            [13] => Some(Hash::Sha512),
            [10] => pss_hash(algorithm.expect(SEQUENCE)?),
            _ => None,
        };
    }
    match oid.strip_prefix(&ecdsa)? {
        [1] | [3, 2] => Some(Hash::Sha256),
        [3, 3] => Some(Hash::Sha384),
        [3, 4] => Some(Hash::Sha512),
        _ => None,
    }
}

/// RSASSA-PSS names its hash in the parameters; without one it is SHA-1.
fn pss_hash(parameters: &[u8]) -> Option<Hash> {
    let Some(hash) = Der(parameters).optional(0xA0) else {
        return Some(Hash::Sha256);
    };
    match Der(Der(hash).expect(SEQUENCE)?).expect(OID)? {
        [0x2B, 0x0E, 0x03, 0x02, 0x1A] => Some(Hash::Sha256),
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, kind] => match kind {
            1 => Some(Hash::Sha256),
            2 => Some(Hash::Sha384),
            3 => Some(Hash::Sha512),
            _ => None,
        },
        _ => None,
    }
}

fn common_name(subject: &[u8]) -> Option<&str> {
    let (mut sets, mut found) = (Der(subject), None);
    while let Some(set) = sets.optional(SET) {
        let mut attributes = Der(set);
        while let Some(attribute) = attributes.optional(SEQUENCE) {
            let mut attribute = Der(attribute);
            if attribute.expect(OID) == Some(&[0x55, 0x04, 0x03]) {
                // UTF8String, PrintableString, IA5String; what else there is cannot be a host name.
                let text = attribute
                    .next()
                    .filter(|(tag, _)| matches!(tag, 0x0C | 0x13 | 0x16));
                found = text.and_then(|(_, text)| str::from_utf8(text).ok());
            }
        }
    }
    found
}

fn names_hosts(extensions: &[u8]) -> bool {
    let mut extensions = Der(extensions);
    while let Some(extension) = extensions.optional(SEQUENCE) {
        let mut extension = Der(extension);
        if extension.expect(OID) != Some(&[0x55, 0x1D, 0x11]) {
            continue;
        }
        extension.optional(BOOLEAN);
        let names = extension
            .expect(OCTETS)
            .and_then(|o| Der(o).expect(SEQUENCE));
        let mut names = Der(names.unwrap_or_default());
        while let Some((tag, _)) = names.next() {
            if matches!(tag, 0x82 | 0x87) {
                return true;
            }
        }
    }
    false
}

/// UTCTime or GeneralizedTime, as RFC 5280 allows them: to the second, in UTC.
fn moment((tag, text): (u8, &[u8])) -> Option<i64> {
    let digits = text
        .strip_suffix(b"Z")
        .filter(|d| d.iter().all(u8::is_ascii_digit))?;
    let number = |at: usize, length: usize| {
        let part = digits.get(at..at + length)?;
        Some(part.iter().fold(0_i16, |n, d| n * 10 + i16::from(d - b'0')))
    };
    let (year, at) = match (tag, digits.len()) {
        (0x17, 12) => match number(0, 2)? {
            year @ 0..50 => (2000 + year, 2),
            year => (1900 + year, 2),
        },
        (0x18, 14) => (number(0, 4)?, 4),
        _ => return None,
    };
    let field = |nth: usize| number(at + 2 * nth, 2).and_then(|n| i8::try_from(n).ok());
    let moment = jiff::civil::DateTime::new(
        year,
        field(0)?,
        field(1)?,
        field(2)?,
        field(3)?,
        field(4)?,
        0,
    );
    let zoned = moment.ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(zoned.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustls::pki_types::{CertificateDer, pem::PemObject};

    // openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 7300 -sha384 -subj "/O=x/CN=db.example" \
    //   -addext "basicConstraints=critical,CA:TRUE"
    const PLAIN: &str = include_str!("testdata/common-name.pem");
    // the same with -sigopt rsa_padding_mode:pss -sha512 -newkey rsa:2048 and -addext "subjectAltName=DNS:db.example"
    const PSS: &str = include_str!("testdata/pss-alt-name.pem");

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    #[test]
    fn the_facts_of_a_certificate_are_read() {
        let plain = der(PLAIN);
        let facts = parse_certificate(&plain).unwrap();
        assert_eq!(facts.version, 3);
        assert_eq!(facts.signature_hash, Some(Hash::Sha384));
        assert_eq!(facts.common_name, Some("db.example"));
        assert!(!facts.names_hosts);
        assert_eq!(facts.valid.1 - facts.valid.0, 7300 * 86400);
        let pss = der(PSS);
        let facts = parse_certificate(&pss).unwrap();
        assert_eq!(facts.signature_hash, Some(Hash::Sha512));
        assert!(facts.names_hosts);
    }

    #[test]
    fn times_are_read_as_rfc_5280_has_them() {
        assert_eq!(moment((0x17, b"700101000000Z")), Some(0));
        assert_eq!(moment((0x18, b"20260101000000Z")), Some(1_767_225_600));
        assert_eq!(moment((0x17, b"491231235959Z")), Some(2_524_607_999));
        for wrong in [
            &b"700101000000"[..],
            b"701301000000Z",
            b"7001010000Z",
            b"70010100000\xffZ",
            b"",
        ] {
            assert_eq!(moment((0x17, wrong)), None);
        }
    }

    proptest! {
        #[test]
        fn no_damage_panics(at in 0..400_usize, byte in any::<u8>(), cut in 0..1200_usize) {
            let mut bytes = der(PLAIN).to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(cut);
            let _ = parse_certificate(&bytes);
        }
    }
}
