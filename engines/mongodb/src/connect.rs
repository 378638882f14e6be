//! A session with the source, through the official driver: from the URI of the configuration to a client.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mongodb::Client;
use mongodb::options::{ClientOptions, Credential, ServerAddress, Tls};
use pitr_archive::keys::read_password_file;

use crate::EngineError;

/// A server that does not answer for so long is not there.
const PATIENCE: Duration = Duration::from_secs(15);
/// How servers' logs name us, unless the URI says otherwise.
const APPLICATION: &str = "pitrd";

/// How to connect. Holds a password, which `Debug` does not show.
#[derive(Clone)]
pub struct Connection {
    options: ClientOptions,
    /// Read for every client, so that the password can be changed while a daemon runs.
    password_file: Option<PathBuf>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("hosts", &self.options.hosts)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// From a URI as MongoDB's drivers have them; the password in `password_file` replaces the URI's. A name below `mongodb+srv://` is resolved here.
    ///
    /// # Errors
    /// [`EngineError::Uri`], which does not quote the URI: it may hold a password.
    pub async fn parse(uri: &str, password_file: Option<&Path>) -> Result<Self, EngineError> {
        let mut options = ClientOptions::parse(uri).await.map_err(|error| {
            // What the driver quotes of a URI without user cannot be a password.
            let said = if uri.contains('@') {
                String::new()
            } else {
                format!(": {error}")
            };
            EngineError::Uri(format!("it is not one that MongoDB's driver reads{said}"))
        })?;
        options.app_name.get_or_insert_with(|| APPLICATION.into());
        options.server_selection_timeout.get_or_insert(PATIENCE);
        options.connect_timeout.get_or_insert(PATIENCE);
        if password_file.is_some() && options.credential.is_none() {
            return Err(EngineError::Uri(
                "password_file is given and the uri names no user".into(),
            ));
        }
        Ok(Self {
            options,
            password_file: password_file.map(Into::into),
        })
    }

    /// The user, if there is one.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        let Credential { username, .. } = self.options.credential.as_ref()?;
        username.as_deref()
    }

    /// The hosts, as they are shown.
    #[must_use]
    pub fn hosts(&self) -> String {
        let hosts: Vec<String> = self.options.hosts.iter().map(ToString::to_string).collect();
        hosts.join(",")
    }

    /// Whether what goes over the network can be read there: no TLS, and a host that is not this one.
    #[must_use]
    pub fn is_plain_on_the_network(&self) -> bool {
        let plain = !matches!(self.options.tls, Some(Tls::Enabled(_)));
        plain && self.options.hosts.iter().any(|host| !is_this_host(host))
    }

    /// A client with connections of its own.
    ///
    /// # Errors
    /// [`EngineError::PasswordFile`], or what the driver does not like.
    pub fn client(&self) -> Result<Client, EngineError> {
        let mut options = self.options.clone();
        if let (Some(path), Some(credential)) = (&self.password_file, &mut options.credential) {
            credential.password = Some(password(path)?);
        }
        Ok(Client::with_options(options)?)
    }
}

fn password(path: &Path) -> Result<String, EngineError> {
    let line =
        read_password_file(path).map_err(|error| EngineError::PasswordFile(error.to_string()))?;
    let text = String::from_utf8(line.to_vec());
    text.map_err(|_| {
        let message = format!("password file {} does not hold text", path.display());
        EngineError::PasswordFile(message)
    })
}

fn is_this_host(address: &ServerAddress) -> bool {
    let ServerAddress::Tcp { host, .. } = address else {
        return true;
    };
    let name = host.trim_matches(['[', ']']);
    let address = name.parse::<IpAddr>();
    address.map_or(name.eq_ignore_ascii_case("localhost"), |address| {
        address.is_loopback()
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_uri_that_is_refused_is_not_quoted() {
        for wrong in [
            "mongodb://user:canary@",
            "mongodb://user:can@ary@host/",
            "postgres://user:canary@host",
        ] {
            let error = Connection::parse(wrong, None).await.unwrap_err();
            assert!(
                !error.to_string().contains("canary") && !error.to_string().contains("can@"),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn the_password_file_s_password_belongs_to_the_uri_s_user() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let connection = Connection::parse("mongodb://backup@host/", Some(&path))
            .await
            .unwrap();
        assert_eq!(connection.user(), Some("backup"));
        let missing = connection.client().unwrap_err();
        assert!(matches!(missing, EngineError::PasswordFile(_)), "{missing}");
        std::fs::write(&path, "canary\n").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert!(connection.client().is_ok(), "it is read when it is needed");
        assert!(!format!("{connection:?}").contains("canary"));
        assert!(
            Connection::parse("mongodb://host/", Some(&path))
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn what_leaves_this_host_without_tls_can_be_read() {
        for (uri, plain) in [
            ("mongodb://db1,localhost/", true),
            ("mongodb://db1/?tls=true", false),
            ("mongodb://localhost,127.0.0.1,[::1]:27018/", false),
        ] {
            let connection = Connection::parse(uri, None).await.unwrap();
            assert_eq!(connection.is_plain_on_the_network(), plain, "{uri}");
        }
    }
}
