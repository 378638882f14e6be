//! From a connection string to an authenticated session: settings, sockets, TLS, and who may be talked to.
//!
//! Both kinds of session use it: replication (`crate::replication`) and ordinary SQL ([`connect_sql`]). So one connection
//! string, one password file and one set of certificates mean the same thing to both.

mod certificate;
mod conninfo;
mod error;
mod hosts;
mod keywords;
mod passfile;
mod settings;
mod socket;
mod sql;
mod syntax;
mod tls;
mod transport;
mod verify;

pub use certificate::parse_certificate;
pub use conninfo::{
    ChannelBinding, ConnInfo, Host, Keepalives, Secret, SslMode, TargetSession, TlsVersion,
};
pub use error::{ConnectError, ServerError};
pub use passfile::find_password;
pub use sql::connect_sql;

pub(crate) use hosts::{LoggedIn, Place, connect_first};
pub(crate) use sql::no_password;
pub(crate) use transport::{Transport, UNBOUND};
