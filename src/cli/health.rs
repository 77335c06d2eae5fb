//! `pollgate health`: asks a gateway that runs with the same configuration whether it lives. For health checks in
//! images that hold no other program.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::config::Config;
use crate::gateway::Problem;

/// For each step: connecting, asking, hearing.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks `/healthz` on the admin listener.
///
/// # Errors
/// There is no admin listener, nobody answers within two seconds, or the answer is not 200.
pub(super) fn ask(config: &Config) -> Result<(), Problem> {
    let Some(address) = config.listen.admin.map(reachable) else {
        return Err("listen.admin is off: there is nobody to ask".into());
    };
    let told = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("{address} does not answer within {PATIENCE:?}")
        }
        _ => format!("{address} does not answer: {error}"),
    };
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(told)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /healthz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(told)?;
    let mut status = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut status).map_err(told)?;
    if status == *b"HTTP/1.1 200" {
        Ok(())
    } else {
        let status = String::from_utf8_lossy(&status).into_owned();
        Err(format!("{address} answers {status}").into())
    }
}

/// One that listens everywhere is asked on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}
