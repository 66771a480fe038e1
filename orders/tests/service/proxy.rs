//! A TCP proxy whose address stays the same while the service behind it restarts, and which can lose
//! responses.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A running proxy; stops when dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    target: Mutex<Option<SocketAddr>>,
    closed: AtomicBool,
    /// Cuts the connection instead of every Nth response; never if 0.
    lose_every: AtomicUsize,
    answers: AtomicUsize,
    connections: AtomicUsize,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        // Wakes the thread.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Proxy {
    pub(crate) fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let shared = Arc::new(Shared::default());
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if shared.closed.load(Ordering::SeqCst) {
                        return;
                    }
                    shared.connections.fetch_add(1, Ordering::SeqCst);
                    let target = *shared.target.lock().unwrap();
                    // Without a service the connection is closed.
                    if let Some(inner) = target.and_then(|to| TcpStream::connect(to).ok()) {
                        shared.join(stream, inner);
                    }
                }
            }
        });
        Self {
            address,
            shared,
            thread: Some(thread),
        }
    }

    /// Forwards new connections to `address`.
    pub(crate) fn set_target(&self, address: SocketAddr) {
        *self.shared.target.lock().unwrap() = Some(address);
    }

    /// The number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Cuts the connection instead of every `count`th response.
    pub(crate) fn lose_every(&self, count: usize) {
        self.shared.lose_every.store(count, Ordering::SeqCst);
    }
}

impl Shared {
    /// Forwards both directions until either side ends.
    fn join(self: &Arc<Self>, outer: TcpStream, inner: TcpStream) {
        let (asking, asked) = (outer.try_clone().unwrap(), inner.try_clone().unwrap());
        std::thread::spawn(move || carry(asking, asked, || true));
        let shared = Arc::clone(self);
        std::thread::spawn(move || carry(inner, outer, || shared.forwards()));
    }

    fn forwards(&self) -> bool {
        let number = self.answers.fetch_add(1, Ordering::SeqCst) + 1;
        // No number but 0 is a multiple of 0.
        !number.is_multiple_of(self.lose_every.load(Ordering::SeqCst))
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, mut forwards: impl FnMut() -> bool) {
    let mut piece = [0; 16 * 1024];
    while let Ok(count) = from.read(&mut piece)
        && count > 0
        && forwards()
        && to.write_all(&piece[..count]).is_ok()
    {}
    for stream in [from, to] {
        // It may be closed already.
        let _ = stream.shutdown(Shutdown::Both);
    }
}
