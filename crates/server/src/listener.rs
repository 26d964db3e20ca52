//! The socket that connections come in on.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};

/// How long to wait when no connection can be taken, until some have gone.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How often to say that none can be taken. At the limit each client that goes lets one in, and then it is the same again.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// A listener that survives a lack of file descriptors or memory, and says so.
pub(crate) struct Connections {
    listener: TcpListener,
    complained: Option<Instant>,
}

impl Connections {
    pub(crate) fn new(listener: TcpListener) -> Self {
        Connections { listener, complained: None }
    }
}

impl Listener for Connections {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => return accepted,
                // That client has gone; the next one is as good as ever.
                Err(error) if is_about_the_client(&error) => {}
                Err(error) => {
                    if self.complained.is_none_or(|complained| complained.elapsed() >= COMPLAINT_INTERVAL) {
                        self.complained = Some(Instant::now());
                        tracing::error!(
                            "cannot accept connections: {error}; new clients wait until others have gone. If files are short, \
                             raise the limit (ulimit -n, or LimitNOFILE= in systemd): each connection takes one"
                        );
                    }
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

fn is_about_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
