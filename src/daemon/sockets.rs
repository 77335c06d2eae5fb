//! Listening sockets: passed in by the supervisor, or bound here.
//!
//! Passed sockets allow restarts that lose no connection: new connections wait in the kernel's backlog while one process
//! replaces the other, or both accept from the same socket. The protocol is systemd's (`sd_listen_fds(3)`): `LISTEN_FDS`,
//! `LISTEN_PID`, and `LISTEN_FDNAMES` with the names `clients` and `admin`.

use std::env;
use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;

use super::problem::StartProblem;
use crate::config;

/// Sockets passed in by the supervisor.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// Replaces `listen.address`.
    pub clients: Option<TcpListener>,
    /// Replaces `listen.admin`.
    pub admin: Option<TcpListener>,
}

/// A listening socket, and whether it was passed in.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: tokio::net::TcpListener,
    pub(super) passed: bool,
}

impl Listener {
    /// The remark that follows the address in the log.
    pub(super) fn note(&self, key: &str) -> String {
        if self.passed {
            format!(" (a socket that was passed in; {key} is not bound)")
        } else {
            String::new()
        }
    }
}

impl Passed {
    /// Takes over the sockets passed to this process and clears the environment variables that announce them. Call it
    /// once, before any thread starts. Without names, the first socket is for clients and the second for the admin
    /// listener.
    ///
    /// # Errors
    /// A name is unknown or repeated, the numbers of sockets and names differ, or a descriptor is not a TCP socket.
    pub(crate) fn from_environment() -> Result<Self, StartProblem> {
        let names = env::var("LISTEN_FDNAMES").ok();
        let mut sockets = ListenFd::from_env();
        let mut passed = Self::default();
        for (index, name) in names_of(sockets.len(), names.as_deref())?
            .into_iter()
            .enumerate()
        {
            let socket = sockets
                .take_tcp_listener(index)
                .and_then(|socket| socket.ok_or_else(|| io::ErrorKind::NotFound.into()))
                .map_err(|error| StartProblem::Passed(format!("socket {name}: {error}")))?;
            match name {
                Name::Clients => passed.clients = Some(socket),
                Name::Admin => passed.admin = Some(socket),
            }
        }
        Ok(passed)
    }
}

/// The purpose of a passed socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Clients,
    Admin,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Clients => "clients",
            Self::Admin => "admin",
        })
    }
}

fn names_of(count: usize, names: Option<&str>) -> Result<Vec<Name>, StartProblem> {
    let refuse = |got: &str| {
        Err(StartProblem::Passed(format!(
            "LISTEN_FDNAMES: got \"{got}\" for {count} sockets, takes \"clients\" and \"admin\", each once"
        )))
    };
    let names: Vec<&str> = match names {
        _ if count == 0 => return Ok(Vec::new()),
        None => ["clients", "admin"].into_iter().take(count).collect(),
        Some(names) => names.split(':').collect(),
    };
    let said = names.join(":");
    let mut known = Vec::new();
    for name in names {
        let name = match name {
            "clients" => Name::Clients,
            "admin" => Name::Admin,
            _ => return refuse(&said),
        };
        if known.contains(&name) {
            return refuse(&said);
        }
        known.push(name);
    }
    if known.len() != count {
        return refuse(&said);
    }
    Ok(known)
}

/// Opens the listener for clients.
pub(super) async fn clients(
    listen: &config::Listen,
    passed: Option<TcpListener>,
) -> Result<Listener, StartProblem> {
    open("listen.address", listen.address, passed).await
}

/// Opens the admin listener; `None` if it is off and no socket was passed.
pub(super) async fn admin(
    listen: &config::Listen,
    passed: Option<TcpListener>,
) -> Result<Option<Listener>, StartProblem> {
    let Some(socket) = passed else {
        return match listen.admin {
            Some(address) => open("listen.admin", address, None).await.map(Some),
            None => Ok(None),
        };
    };
    // The rule for a configured address applies to a passed socket as well.
    let address = socket.local_addr().map_err(unusable)?;
    if !address.ip().is_loopback() && !listen.admin_public {
        return Err(StartProblem::Passed(format!(
            "socket admin: got {address}, takes a loopback address; to let other machines in, also set \
             listen.admin_public = true"
        )));
    }
    open("listen.admin", address, Some(socket)).await.map(Some)
}

async fn open(
    key: &'static str,
    address: SocketAddr,
    passed: Option<TcpListener>,
) -> Result<Listener, StartProblem> {
    if let Some(socket) = passed {
        socket.set_nonblocking(true).map_err(unusable)?;
        return Ok(Listener {
            socket: tokio::net::TcpListener::from_std(socket).map_err(unusable)?,
            passed: true,
        });
    }
    let socket = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| StartProblem::Bind {
            key,
            address,
            error,
        })?;
    Ok(Listener {
        socket,
        passed: false,
    })
}

#[allow(clippy::needless_pass_by_value, reason = "stands in `map_err`")]
fn unusable(error: io::Error) -> StartProblem {
    StartProblem::Passed(format!("passed socket: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_go_by_their_names_or_else_by_their_order() {
        for (count, names, known) in [
            (0, Some("whatever"), &[][..]),
            (1, None, &[Name::Clients]),
            (2, None, &[Name::Clients, Name::Admin]),
            (1, Some("admin"), &[Name::Admin]),
            (2, Some("admin:clients"), &[Name::Admin, Name::Clients]),
        ] {
            assert_eq!(names_of(count, names).expect("are known"), known);
        }
    }

    #[test]
    fn names_that_say_nothing_are_refused() {
        for (count, names) in [
            (1, Some("pollgate.socket")),
            (2, Some("clients:clients")),
            (2, Some("clients")),
            (1, Some("clients:admin")),
            (1, Some("")),
            (3, None),
        ] {
            assert!(names_of(count, names).is_err(), "{count} {names:?}");
        }
    }
}
