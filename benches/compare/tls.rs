//! A certificate for 127.0.0.1, and TLS with it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::generate_simple_self_signed;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Writes one that signs itself, `cert.pem` and `key.pem`.
pub(crate) fn write_certificate(folder: &Path) {
    let names = ["127.0.0.1".to_owned()];
    let made = generate_simple_self_signed(names).expect("a certificate");
    fs::write(folder.join("cert.pem"), made.cert.pem()).expect("is written");
    let key = made.signing_key.serialize_pem();
    fs::write(folder.join("key.pem"), key).expect("is written");
}

/// HTTP/1.1 over TLS, as nginx asks an upstream.
pub(crate) fn server(folder: &Path) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(folder.join("cert.pem"));
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.expect("a certificate")],
            key.expect("a key"),
        )
        .expect("a certificate with its key");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}
