//! The internal listener: a Unix socket that only our own user opens, a loopback port, or an address with certificates
//! on both sides. It is another socket than the public one, and has other routes.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::{SocketAddr as SocketPath, UnixListener},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use axum_server::{Handle, accept::Accept, tls_rustls::RustlsConfig};
use platform::{
    Config,
    config::{InternalListen, MutualTls},
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{net::UnixStream, task::JoinHandle};

/// Where it is in the data folder.
const DEFAULT_SOCKET: &str = "internal.sock";
/// Bytes that the system allows for the path of a socket, with the zero behind it.
const LONGEST_PATH: usize = 107;

/// The internal listener cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InternalError {
    /// The path is too long.
    #[error("the path of the internal socket, {path}, is longer than the 107 bytes that the system allows; FABRIC_INTERNAL_LISTEN sets another one", path = .0.display())]
    TooLong(PathBuf),
    /// Something else lies there.
    #[error("{path} is there and is no socket; FABRIC_INTERNAL_LISTEN sets another path", path = .0.display())]
    NotASocket(PathBuf),
    /// It cannot be listened at.
    #[error("cannot listen on {0} for internal requests: {1}; FABRIC_INTERNAL_LISTEN sets another place")]
    Listen(String, #[source] io::Error),
    /// The certificates cannot be used.
    #[error("cannot serve internal requests with {path}: {reason}", path = .0.display(), reason = .1)]
    Tls(PathBuf, String),
}

impl InternalError {
    /// Whether it is a matter of configuration (exit code 78).
    pub fn is_configuration(&self) -> bool {
        !matches!(self, Self::Listen(..))
    }
}

/// The running listener.
pub(crate) struct Internal {
    stop: Stop,
    server: JoinHandle<io::Result<()>>,
    socket: Option<PathBuf>,
}

enum Stop {
    Socket(Handle<SocketPath>),
    Address(Handle<SocketAddr>),
}

impl Internal {
    pub(crate) async fn stop(self, within: Duration) {
        match &self.stop {
            Stop::Socket(handle) => handle.graceful_shutdown(Some(within)),
            Stop::Address(handle) => handle.graceful_shutdown(Some(within)),
        }
        if let Ok(Err(error)) = self.server.await {
            tracing::error!(%error, "the internal listener failed");
        }
        if let Some(socket) = self.socket {
            fs::remove_file(socket).ok();
        }
    }
}

/// Listens where the configuration says; `None` where it says nowhere.
pub(crate) fn start(config: &Config, routes: Router) -> Result<Option<Internal>, InternalError> {
    match &config.vault.internal {
        InternalListen::Off => Ok(None),
        InternalListen::Socket(path) => match socket(path, routes) {
            // A long path of the data folder is no reason not to start; one that was asked for is.
            Err(error @ InternalError::TooLong(_)) if *path == config.data_dir.join(DEFAULT_SOCKET) => {
                tracing::warn!("no internal listener: {error}");
                Ok(None)
            }
            listening => listening.map(Some),
        },
        InternalListen::Address(at, tls) => address(*at, tls.as_ref(), routes).map(Some),
    }
}

#[expect(clippy::disallowed_methods, reason = "the server ends by its handle, not by the shutdown token")]
fn socket(path: &Path, routes: Router) -> Result<Internal, InternalError> {
    if path.as_os_str().len() > LONGEST_PATH {
        return Err(InternalError::TooLong(path.to_owned()));
    }
    let failed = |error| InternalError::Listen(path.display().to_string(), error);
    // One that a killed program left; this data folder is ours alone.
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path).map_err(failed)?,
        Ok(_) => return Err(InternalError::NotASocket(path.to_owned())),
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let handle = Handle::new();
    let server = axum_server::from_unix(listener).map_err(failed)?.acceptor(OwnUser).handle(handle.clone());
    let server = tokio::spawn(server.serve(routes.into_make_service()));
    Ok(Internal { stop: Stop::Socket(handle), server, socket: Some(path.to_owned()) })
}

#[expect(clippy::disallowed_methods, reason = "the server ends by its handle, not by the shutdown token")]
fn address(at: SocketAddr, tls: Option<&MutualTls>, routes: Router) -> Result<Internal, InternalError> {
    let failed = |error| InternalError::Listen(at.to_string(), error);
    let tls = tls.map(load).transpose()?;
    let listener = std::net::TcpListener::bind(at).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let handle = Handle::new();
    let routes = routes.into_make_service_with_connect_info::<SocketAddr>();
    let server = match tls {
        Some(tls) => tokio::spawn(axum_server::from_tcp_rustls(listener, tls).map_err(failed)?.handle(handle.clone()).serve(routes)),
        None => tokio::spawn(axum_server::from_tcp(listener).map_err(failed)?.handle(handle.clone()).serve(routes)),
    };
    Ok(Internal { stop: Stop::Address(handle), server, socket: None })
}

fn load(tls: &MutualTls) -> Result<RustlsConfig, InternalError> {
    let failed = |path: &Path, reason: &dyn std::fmt::Display| InternalError::Tls(path.to_owned(), reason.to_string());
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, InternalError> {
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| failed(path, &error))
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&tls.client_ca)? {
        roots.add(certificate).map_err(|error| failed(&tls.client_ca, &error))?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().map_err(|error| failed(&tls.client_ca, &error))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| failed(&tls.key, &error))?;
    let config = rustls::ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(certificates(&tls.certificate)?, key);
    let mut config = config.map_err(|error| failed(&tls.certificate, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(RustlsConfig::from_config(Arc::new(config)))
}

/// Accepts connections of our own user, and of root, who could have any of ours.
#[derive(Clone, Copy, Debug)]
struct OwnUser;

impl<S: Send + 'static> Accept<UnixStream, S> for OwnUser {
    type Stream = UnixStream;
    type Service = S;
    type Future = std::future::Ready<io::Result<(UnixStream, S)>>;

    fn accept(&self, stream: UnixStream, service: S) -> Self::Future {
        let own = rustix::process::geteuid().as_raw();
        let is_ours = stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0);
        std::future::ready(if is_ours { Ok((stream, service)) } else { Err(io::ErrorKind::PermissionDenied.into()) })
    }
}
