//! The vocabulary of libpq: which keyword means what here, which environment variable stands in for it, and what is
//! refused because ignoring it would change whom we trust or where we connect.

/// Keywords that have an effect, each with the environment variable that is its default.
pub(super) const KNOWN: &[(&str, Option<&str>)] = &[
    ("host", Some("PGHOST")),
    ("hostaddr", Some("PGHOSTADDR")),
    ("port", Some("PGPORT")),
    ("user", Some("PGUSER")),
    ("password", Some("PGPASSWORD")),
    ("passfile", Some("PGPASSFILE")),
    ("dbname", Some("PGDATABASE")),
    ("sslmode", Some("PGSSLMODE")),
    ("sslrootcert", Some("PGSSLROOTCERT")),
    ("sslcert", Some("PGSSLCERT")),
    ("sslkey", Some("PGSSLKEY")),
    ("sslsni", Some("PGSSLSNI")),
    ("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION")),
    ("channel_binding", Some("PGCHANNELBINDING")),
    ("connect_timeout", Some("PGCONNECT_TIMEOUT")),
    ("application_name", Some("PGAPPNAME")),
    ("fallback_application_name", None),
    ("target_session_attrs", Some("PGTARGETSESSIONATTRS")),
    ("options", Some("PGOPTIONS")),
    ("keepalives", None),
    ("keepalives_idle", None),
    ("keepalives_interval", None),
    ("keepalives_count", None),
    ("tcp_user_timeout", None),
];

/// libpq keywords that may be given only with values that ask for nothing we lack.
const HARMLESS: &[(&str, &[&str])] = &[
    (
        "client_encoding",
        &["", "auto", "UTF8", "utf8", "UTF-8", "utf-8"],
    ),
    ("gssencmode", &["", "disable", "prefer"]),
    ("sslcompression", &["", "0"]),
    ("sslnegotiation", &["", "postgres"]),
    ("load_balance_hosts", &["", "disable"]),
    ("sslcertmode", &["", "allow"]),
    ("ssl_max_protocol_version", &["", "TLSv1.3"]),
];

/// libpq keywords that mean something we do not do.
const REFUSED: &[(&str, &str)] = &[
    (
        "service",
        "write the settings of the service into the connection string",
    ),
    (
        "servicefile",
        "write the settings of the service into the connection string",
    ),
    (
        "replication",
        "leave it out: it is chosen for each connection",
    ),
    (
        "require_auth",
        "leave it out and restrict the methods in pg_hba.conf; channel_binding=require insists on SCRAM",
    ),
    ("sslcrl", "leave it out: revocation lists are not read"),
    ("sslcrldir", "leave it out: revocation lists are not read"),
    (
        "sslpassword",
        "store the key unencrypted, readable by its owner alone",
    ),
    (
        "requirepeer",
        "leave it out: the owner of a socket is not checked",
    ),
    (
        "krbsrvname",
        "use a password or a client certificate: there is no GSSAPI here",
    ),
    (
        "gsslib",
        "use a password or a client certificate: there is no GSSAPI here",
    ),
    (
        "gssdelegation",
        "use a password or a client certificate: there is no GSSAPI here",
    ),
    ("scram_client_key", "use password or passfile"),
    ("scram_server_key", "use password or passfile"),
];

/// Environment variables of libpq that would send the connection elsewhere if they were passed over.
pub(super) const REFUSED_ENVIRONMENT: &[(&str, &str)] = &[
    ("PGSERVICE", "service"),
    ("PGREQUIREAUTH", "require_auth"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLCRLDIR", "sslcrldir"),
    ("PGREQUIREPEER", "requirepeer"),
];

/// Ok if this pair may stay; the error is a sentence. `true` means the pair has an effect.
pub(super) fn check(keyword: &str, value: &str) -> Result<bool, String> {
    if KNOWN.iter().any(|(known, _)| *known == keyword) {
        return Ok(true);
    }
    if let Some((_, harmless)) = HARMLESS.iter().find(|(k, _)| *k == keyword) {
        return match harmless.contains(&value) {
            true => Ok(false),
            false => Err(format!(
                "{keyword}={value} is not supported here; leave {keyword} out"
            )),
        };
    }
    match REFUSED.iter().find(|(k, _)| *k == keyword) {
        Some((_, instead)) => Err(format!("{keyword} is not supported here: {instead}")),
        None => Err(unknown(keyword)),
    }
}

/// The sentence for a keyword that libpq does not have either.
fn unknown(keyword: &str) -> String {
    let all = KNOWN
        .iter()
        .map(|(k, _)| *k)
        .chain(HARMLESS.iter().map(|(k, _)| *k));
    let nearest = all
        .map(|known| (strsim::damerau_levenshtein(keyword, known), known))
        .min()
        .filter(|(distance, known)| *distance <= known.len() / 2);
    match nearest {
        Some((_, known)) => {
            format!("unknown connection keyword {keyword:?}; did you mean {known:?}?")
        }
        None => format!("unknown connection keyword {keyword:?}"),
    }
}
