//! Byte stream → authenticated replication session: the start-up packet, the password exchange, the server's settings.
//!
//! Methods: trust, SCRAM-SHA-256 and SCRAM-SHA-256-PLUS; `password` and `md5` as libpq does them (the first shows the password to
//! whoever can read the connection, the second is weak: prefer SCRAM, and TLS). `channel_binding=require` refuses all but PLUS.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::time::Duration;

use bytes::Buf;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    self, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;

use super::client::Mode;
use super::decode::{Authentication, Frame, parse_authentication, parse_error, text};
use super::error::ReplicationError;
use super::wire::Wire;
use crate::connect::{
    ChannelBinding, ConnectError, LoggedIn, Place, Secret, Transport, UNBOUND, no_password,
};

/// A stranger gets no more memory than this.
const FRAME_BYTES_MAX_BEFORE_TRUST: usize = 64 << 10;
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
const PARAMETERS_MAX: usize = 256;

/// What a login leaves behind.
pub(super) struct Session {
    pub(super) wire: Wire,
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) backend_pid: Option<u32>,
}

/// Starts and authenticates a session on `transport`.
pub(super) async fn log_in(
    place: Place<'_>,
    transport: Transport,
    mode: &Mode,
) -> Result<LoggedIn<Session>, ConnectError> {
    let info = place.info;
    let mut parameters = vec![("user", info.user.as_str()), ("client_encoding", "UTF8")];
    match mode {
        Mode::Physical => parameters.push(("replication", "true")),
        Mode::Database(name) => {
            parameters.extend([("replication", "database"), ("database", name.as_str())]);
        }
    }
    if let Some(name) = &info.application_name {
        parameters.push(("application_name", name));
    }
    if let Some(options) = &info.options {
        parameters.push(("options", options));
    }
    let wire = Wire::new(transport, FRAME_BYTES_MAX_BEFORE_TRUST);
    let mut login = Login {
        place: &place,
        mode,
        wire,
        scram: None,
        proven: false,
    };
    login
        .send(|out| frontend::startup_message(parameters, out))
        .await?;
    login.authenticate().await?;
    login.wire.trust();
    let (parameters, backend_pid) = login.settings().await?;
    let is_on = |name: &str| parameters.get(name).is_some_and(|v| v == "on");
    let (standby, read_only) = (
        is_on("in_hot_standby"),
        is_on("default_transaction_read_only"),
    );
    let session = Session {
        wire: login.wire,
        parameters,
        backend_pid,
    };
    Ok(LoggedIn {
        session,
        standby,
        read_only,
    })
}

struct Login<'a> {
    place: &'a Place<'a>,
    mode: &'a Mode,
    wire: Wire,
    scram: Option<ScramSha256>,
    /// The SCRAM exchange ended with the server's proof that it knows the password, bound to the channel if it had to be.
    proven: bool,
}

impl Login<'_> {
    async fn authenticate(&mut self) -> Result<(), ConnectError> {
        let required = self.place.info.channel_binding == ChannelBinding::Require;
        loop {
            let frame = self.frame().await?;
            if frame.tag != b'R' {
                return Err(self.broken(format!(
                    "a message of type 0x{:02X} while authenticating",
                    frame.tag
                )));
            }
            let request = parse_authentication(frame.body).map_err(|e| self.broken(e.0))?;
            let unbound = matches!(
                request,
                Authentication::Ok | Authentication::Cleartext | Authentication::Md5(_)
            );
            if unbound && required && !self.proven {
                return Err(self.refuse(UNBOUND));
            }
            match request {
                Authentication::Ok if self.scram.is_some() && !self.proven => {
                    return Err(self.refuse(
                        "the server let us in without proving that it knows the password",
                    ));
                }
                Authentication::Ok => return Ok(()),
                Authentication::Cleartext => {
                    let password = self.password()?;
                    self.send(|out| frontend::password_message(password.bytes(), out))
                        .await?;
                }
                Authentication::Md5(salt) => {
                    let password = self.password()?;
                    let hash = md5_hash(self.place.info.user.as_bytes(), password.bytes(), salt);
                    self.send(|out| frontend::password_message(hash.as_bytes(), out))
                        .await?;
                }
                Authentication::Sasl(mechanisms) => self.scram_first(&mechanisms).await?,
                Authentication::SaslContinue(message) => self.scram_continue(&message).await?,
                Authentication::SaslFinal(message) => self.scram_final(&message)?,
                Authentication::Other(method) => {
                    return Err(self.refuse(&format!(
                        "the server asks for method {method}, which is not spoken here; use scram-sha-256, cert, trust or peer in pg_hba.conf"
                    )));
                }
            }
        }
    }

    async fn scram_first(&mut self, mechanisms: &[String]) -> Result<(), ConnectError> {
        let offers = |name| mechanisms.iter().any(|m| m == name);
        let setting = self.place.info.channel_binding;
        let transport = self.wire.transport();
        let data = transport
            .end_point()
            .filter(|_| setting != ChannelBinding::Disable);
        let (plus, encrypted) = (offers(SCRAM_SHA_256_PLUS), transport.is_encrypted());
        if plus && !encrypted {
            return Err(self.refuse(
                "the server offers channel binding without TLS: something stands between us and it",
            ));
        }
        let (mechanism, binding) = match data {
            Some(data) if plus => (
                SCRAM_SHA_256_PLUS,
                sasl::ChannelBinding::tls_server_end_point(data.to_vec()),
            ),
            _ if setting == ChannelBinding::Require => {
                let obstacle = transport.can_bind().err();
                return Err(self.refuse(obstacle.unwrap_or(UNBOUND)));
            }
            _ if !offers(SCRAM_SHA_256) => {
                return Err(self.refuse("the server offers no SASL mechanism that is spoken here; use scram-sha-256 in pg_hba.conf"));
            }
            Some(_) => (SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
            None => (SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
        };
        let scram = ScramSha256::new(self.password()?.bytes(), binding);
        self.send(|out| frontend::sasl_initial_response(mechanism, scram.message(), out))
            .await?;
        self.scram = Some(scram);
        Ok(())
    }

    async fn scram_continue(&mut self, message: &[u8]) -> Result<(), ConnectError> {
        let Some(mut scram) = self.scram.take() else {
            return Err(self.broken("a SASL answer without a question".into()));
        };
        scram
            .update(message)
            .map_err(|e| self.refuse(&format!("SCRAM: {e}")))?;
        self.send(|out| frontend::sasl_response(scram.message(), out))
            .await?;
        self.scram = Some(scram);
        Ok(())
    }

    fn scram_final(&mut self, message: &[u8]) -> Result<(), ConnectError> {
        let Some(scram) = &mut self.scram else {
            return Err(self.broken("a SASL answer without a question".into()));
        };
        match scram.finish(message) {
            Ok(()) => {
                self.proven = true;
                Ok(())
            }
            Err(error) => Err(self.refuse(&format!(
                "the server did not prove that it knows the password ({error})"
            ))),
        }
    }

    /// What follows the authentication, up to ReadyForQuery.
    async fn settings(&mut self) -> Result<(BTreeMap<String, String>, Option<u32>), ConnectError> {
        let (mut parameters, mut backend_pid) = (BTreeMap::new(), None);
        loop {
            let mut frame = self.frame().await?;
            match frame.tag {
                b'Z' => return Ok((parameters, backend_pid)),
                b'K' if frame.body.len() >= 4 => backend_pid = Some(frame.body.get_u32()),
                b'S' if parameters.len() < PARAMETERS_MAX => {
                    let name = text(&mut frame.body).map_err(|e| self.broken(e.0))?;
                    let value = text(&mut frame.body).map_err(|e| self.broken(e.0))?;
                    parameters.insert(name, value);
                }
                tag => {
                    return Err(self.broken(format!(
                        "a message of type 0x{tag:02X} after authentication"
                    )));
                }
            }
        }
    }

    fn password(&self) -> Result<Secret, ConnectError> {
        let databases = match self.mode {
            Mode::Physical => ["replication", self.place.info.dbname.as_str()],
            Mode::Database(name) => [name.as_str(), "replication"],
        };
        let found = self.place.password(&databases)?;
        found.ok_or_else(|| no_password(&self.place.name))
    }

    async fn send(
        &mut self,
        write: impl FnOnce(&mut bytes::BytesMut) -> std::io::Result<()>,
    ) -> Result<(), ConnectError> {
        let sent = match self.wire.queue(write) {
            Ok(()) => self.wire.send(SEND_TIMEOUT).await,
            Err(error) => Err(error),
        };
        sent.map_err(|e| self.failed(e))
    }

    /// The next frame except notices; what the server refuses is an error.
    async fn frame(&mut self) -> Result<Frame, ConnectError> {
        loop {
            let frame = poll_fn(|cx| self.wire.poll_frame(cx)).await;
            match frame.map_err(|e| self.failed(e))? {
                Frame { tag: b'N', .. } => {}
                Frame { tag: b'E', body } => {
                    return Err(ConnectError::Refused {
                        place: self.place.name.clone(),
                        error: Box::new(parse_error(body)),
                    });
                }
                frame => return Ok(frame),
            }
        }
    }

    fn failed(&self, error: ReplicationError) -> ConnectError {
        let place = self.place.name.clone();
        match error {
            ReplicationError::Lost(error) => ConnectError::broke(&place, &error),
            ReplicationError::TimedOut { after, .. } => ConnectError::TimedOut { place, after },
            ReplicationError::Unsupported(text) => ConnectError::Settings(text),
            other => ConnectError::Protocol {
                place,
                what: other.to_string(),
            },
        }
    }

    fn broken(&self, what: String) -> ConnectError {
        ConnectError::Protocol {
            place: self.place.name.clone(),
            what,
        }
    }

    fn refuse(&self, reason: &str) -> ConnectError {
        ConnectError::Authentication {
            place: self.place.name.clone(),
            reason: reason.into(),
        }
    }
}
