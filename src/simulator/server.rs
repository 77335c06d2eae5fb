//! Accepts and serves connections: HTTP/1.1 and HTTP/2 without TLS, with a graceful shutdown.

use std::io;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::Simulator;
use super::socket::Socket;

/// Time for answers in flight to end after a shutdown.
const DRAIN: Duration = Duration::from_secs(1);

impl Simulator {
    /// Serves connections from `listener` until `shutdown` completes, then waits up to a second for answers in flight.
    /// Result URLs lead to the listener of the last call.
    ///
    /// # Errors
    ///
    /// The listener's address cannot be determined.
    pub async fn run(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        let address = listener.local_addr()?;
        self.bound(address);
        tracing::info!("simulated OctopusX listening on {address}");
        let server = auto::Builder::new(TokioExecutor::new());
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.serve(stream, &server, &graceful, &mut connections),
                    Err(error) => {
                        tracing::info!("simulated OctopusX cannot accept: {error}");
                        // Out of file descriptors, most likely: wait until some are closed.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
        drop(listener);
        let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
        connections.shutdown().await;
        Ok(())
    }

    fn serve(
        &self,
        stream: TcpStream,
        server: &auto::Builder<TokioExecutor>,
        graceful: &GracefulShutdown,
        connections: &mut JoinSet<()>,
    ) {
        self.0.counter.connected();
        let (socket, switch) = Socket::new(stream);
        let simulator = self.clone();
        let service = service_fn(move |request| {
            let (simulator, switch) = (simulator.clone(), switch.clone());
            async move { simulator.answer(request, &switch).await }
        });
        let connection = server
            .serve_connection(TokioIo::new(socket), service)
            .into_owned();
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            // A client that disconnects and a fault that breaks the connection are both expected.
            let _ = connection.await;
        });
    }
}
