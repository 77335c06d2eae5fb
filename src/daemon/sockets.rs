//! Where pollgate listens: on sockets that whoever started it passed in, or on ports that it binds itself.
//!
//! A passed socket is the way to restart without losing a connection: the kernel keeps those that wait in its backlog
//! while one process goes and the next comes, or both accept from it side by side. The form is systemd's
//! (`sd_listen_fds(3)`): `LISTEN_FDS`, `LISTEN_PID`, and `LISTEN_FDNAMES` with the names `clients` and `admin`.

use std::env;
use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;

use super::problem::StartProblem;
use crate::config;

/// Sockets that are there before pollgate binds any.
#[derive(Debug, Default)]
pub struct Passed {
    /// Clients come in here, in place of `listen.address`.
    pub clients: Option<TcpListener>,
    /// Metrics and health are served here, in place of `listen.admin`.
    pub admin: Option<TcpListener>,
}

/// A listening socket, and whether it was passed in.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) listener: tokio::net::TcpListener,
    pub(super) passed: bool,
}

impl Door {
    /// What the log says beside the address.
    pub(super) fn note(&self, key: &str) -> String {
        if self.passed {
            format!(" (a socket that was passed in; {key} is not bound)")
        } else {
            String::new()
        }
    }
}

impl Passed {
    /// Takes what was passed to this process, and the variables that say so out of the environment: to be called once,
    /// before there are threads. Without names the first socket is the clients', the second the admin's.
    ///
    /// # Errors
    /// A name that is not known or comes twice, more sockets than names, or something that is no TCP socket.
    pub fn from_environment() -> Result<Self, StartProblem> {
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

/// What a passed socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Clients,
    Admin,
}

impl std::fmt::Display for Name {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(match self {
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

/// The clients' door.
pub(super) async fn clients(
    listen: &config::Listen,
    passed: Option<TcpListener>,
) -> Result<Door, StartProblem> {
    open("listen.address", listen.address, passed).await
}

/// The admin's door; `None` where it is off and none was passed in.
pub(super) async fn admin(
    listen: &config::Listen,
    passed: Option<TcpListener>,
) -> Result<Option<Door>, StartProblem> {
    let Some(socket) = passed else {
        return match listen.admin {
            Some(address) => open("listen.admin", address, None).await.map(Some),
            None => Ok(None),
        };
    };
    // What holds for an address that the configuration names holds for one that comes with a socket.
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
) -> Result<Door, StartProblem> {
    if let Some(socket) = passed {
        socket.set_nonblocking(true).map_err(unusable)?;
        return Ok(Door {
            listener: tokio::net::TcpListener::from_std(socket).map_err(unusable)?,
            passed: true,
        });
    }
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| StartProblem::Bind {
            key,
            address,
            error,
        })?;
    Ok(Door {
        listener,
        passed: false,
    })
}

#[allow(clippy::needless_pass_by_value, reason = "stands in `map_err`")]
fn unusable(error: io::Error) -> StartProblem {
    StartProblem::Passed(format!("a socket that was passed in: {error}"))
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
