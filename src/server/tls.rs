//! HTTPS for clients: a certificate and its key from PEM files.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config;

/// The certificate and key that clients see. Clones are one identity.
#[derive(Clone)]
pub struct TlsIdentity(Arc<ArcSwap<ServerConfig>>);

/// Why the certificate or the key cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub struct TlsProblem(String);

impl TlsIdentity {
    /// Reads both files. HTTP/2 and HTTP/1.1 are offered, in this order.
    ///
    /// # Errors
    /// A file that cannot be read, holds something else, or a key that is not the certificate's.
    pub fn read(tls: &config::Tls) -> Result<Self, TlsProblem> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(read(tls)?))))
    }

    /// Reads both files again, for handshakes from now on. Open connections keep what they have.
    ///
    /// # Errors
    /// As with [`TlsIdentity::read`]; nothing has changed then.
    pub fn reload(&self, tls: &config::Tls) -> Result<(), TlsProblem> {
        self.0.store(Arc::new(read(tls)?));
        Ok(())
    }

    /// An acceptor with what was read last.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.load_full())
    }
}

fn read(tls: &config::Tls) -> Result<ServerConfig, TlsProblem> {
    let chain = CertificateDer::pem_file_iter(&tls.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .and_then(|chain| {
            if chain.is_empty() {
                Err(pem::Error::NoItemsFound)
            } else {
                Ok(chain)
            }
        })
        .map_err(|error| {
            unreadable(
                "cert",
                &tls.cert,
                "a PEM file with the certificate first",
                &error,
            )
        })?;
    let key = PrivateKeyDer::from_pem_file(&tls.key)
        .map_err(|error| unreadable("key", &tls.key, "a PEM file with a private key", &error))?;
    let mut config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| {
                TlsProblem(format!(
                    "listen.tls: takes a certificate and the key that belongs to it: {error}"
                ))
            })?;
    config.alpn_protocols = vec![b"h2".into(), b"http/1.1".into()];
    Ok(config)
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("TlsIdentity")
    }
}

impl fmt::Display for TlsProblem {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

impl std::error::Error for TlsProblem {}

fn unreadable(key: &str, path: &Path, takes: &str, error: &pem::Error) -> TlsProblem {
    TlsProblem(format!(
        "listen.tls.{key}: got \"{}\", takes {takes}: {error}",
        path.display()
    ))
}
