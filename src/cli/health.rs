//! `pollgate health`: checks whether a gateway with the same configuration is alive. For container images that contain
//! no other program.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::config::Config;
use crate::gateway::Problem;

/// Applies to each step: connect, write, read.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Requests `/healthz` from the admin listener.
///
/// # Errors
/// There is no admin listener, it does not answer within two seconds, or the answer is not 200.
pub(super) fn check(config: &Config) -> Result<(), Problem> {
    let Some(address) = config.listen.admin.map(reachable) else {
        return Err("listen.admin is off: there is no listener to check".into());
    };
    let describe = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("{address} does not answer within {TIMEOUT:?}")
        }
        _ => format!("{address} does not answer: {error}"),
    };
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).map_err(describe)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let request = format!("GET /healthz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(describe)?;
    let mut status = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut status).map_err(describe)?;
    if status == *b"HTTP/1.1 200" {
        Ok(())
    } else {
        let status = String::from_utf8_lossy(&status).into_owned();
        Err(format!("{address} answers {status}").into())
    }
}

/// Replaces the unspecified address with loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}
