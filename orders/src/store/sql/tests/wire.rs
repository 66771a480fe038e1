//! A TCP proxy in front of a server that can be made to fail. Test code only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the proxy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Forwards everything.
    Through,
    /// Forwards nothing and stays silent.
    Silent,
    /// Closes every connection.
    Cut,
    /// Forwards the next COMMIT and closes instead of forwarding its response; then it is `Through`.
    LosesACommit,
}

/// The proxy and its port on this machine.
pub(super) struct Wire {
    pub(super) port: u16,
    mode: Arc<watch::Sender<Mode>>,
}

impl Wire {
    /// A proxy to `port` of this machine.
    pub(super) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Self {
            port: listener.local_addr().unwrap().port(),
            mode: Arc::new(watch::Sender::new(Mode::Through)),
        };
        let mode = Arc::clone(&wire.mode);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, port, Arc::clone(&mode)));
            }
        });
        wire
    }

    pub(super) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    pub(super) fn mode(&self) -> Mode {
        *self.mode.borrow()
    }
}

async fn carry(mut client: TcpStream, port: u16, mode: Arc<watch::Sender<Mode>>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    let committing = AtomicBool::new(false);
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let there = async {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut bytes).await {
            until_not_silent(&mode).await;
            let commits = bytes[..length].windows(6).any(|part| part == b"COMMIT");
            if commits && *mode.borrow() == Mode::LosesACommit {
                committing.store(true, Ordering::SeqCst);
            }
            if to_server.write_all(&bytes[..length]).await.is_err() {
                return;
            }
        }
    };
    let back = async {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_server.read(&mut bytes).await {
            until_not_silent(&mode).await;
            if committing.load(Ordering::SeqCst) {
                mode.send_replace(Mode::Through);
                return;
            }
            if to_client.write_all(&bytes[..length]).await.is_err() {
                return;
            }
        }
    };
    let mut changes = mode.subscribe();
    let cut = changes.wait_for(|mode| *mode == Mode::Cut);
    tokio::select! {
        () = there => {}
        () = back => {}
        _ = cut => {}
    }
}

async fn until_not_silent(mode: &watch::Sender<Mode>) {
    let mut changes = mode.subscribe();
    // The sender is alive in this scope.
    let _ = changes.wait_for(|mode| *mode != Mode::Silent).await;
}
