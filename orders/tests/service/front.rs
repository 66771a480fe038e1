//! A door in front of the service that stays where it is while the service behind it comes and goes,
//! and that can lose answers on their way.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A running door; it closes with this value.
pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    way: Arc<Way>,
    door: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Way {
    leads_to: Mutex<Option<SocketAddr>>,
    closed: AtomicBool,
    /// Of so many answers one is lost; none when 0.
    loses_one_in: AtomicUsize,
    answers: AtomicUsize,
    visitors: AtomicUsize,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.way.closed.store(true, Ordering::SeqCst);
        // Wakes the door up.
        let _ = TcpStream::connect(self.address);
        if let Some(door) = self.door.take() {
            let _ = door.join();
        }
    }
}

impl Front {
    pub(crate) fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let way = Arc::new(Way::default());
        let address = listener.local_addr().unwrap();
        let door = std::thread::spawn({
            let way = Arc::clone(&way);
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if way.closed.load(Ordering::SeqCst) {
                        return;
                    }
                    way.visitors.fetch_add(1, Ordering::SeqCst);
                    let leads_to = *way.leads_to.lock().unwrap();
                    // Where nobody listens the visitor finds the door shut.
                    if let Some(inner) = leads_to.and_then(|to| TcpStream::connect(to).ok()) {
                        way.join(stream, inner);
                    }
                }
            }
        });
        Self {
            address,
            way,
            door: Some(door),
        }
    }

    /// Leads new connections to `address`.
    pub(crate) fn lead_to(&self, address: SocketAddr) {
        *self.way.leads_to.lock().unwrap() = Some(address);
    }

    /// How many connections came.
    pub(crate) fn visitors(&self) -> usize {
        self.way.visitors.load(Ordering::SeqCst)
    }

    /// Cuts a connection instead of every `count`th answer.
    pub(crate) fn lose_one_in(&self, count: usize) {
        self.way.loses_one_in.store(count, Ordering::SeqCst);
    }
}

impl Way {
    /// Carries both ways until either side ends.
    fn join(self: &Arc<Self>, outer: TcpStream, inner: TcpStream) {
        let (asking, asked) = (outer.try_clone().unwrap(), inner.try_clone().unwrap());
        std::thread::spawn(move || carry(asking, asked, || true));
        let way = Arc::clone(self);
        std::thread::spawn(move || carry(inner, outer, || way.lets_pass()));
    }

    fn lets_pass(&self) -> bool {
        let number = self.answers.fetch_add(1, Ordering::SeqCst) + 1;
        // No number but 0 is a multiple of 0.
        !number.is_multiple_of(self.loses_one_in.load(Ordering::SeqCst))
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, mut lets_pass: impl FnMut() -> bool) {
    let mut piece = [0; 16 * 1024];
    while let Ok(count) = from.read(&mut piece)
        && count > 0
        && lets_pass()
        && to.write_all(&piece[..count]).is_ok()
    {}
    for stream in [from, to] {
        // It may be closed already.
        let _ = stream.shutdown(Shutdown::Both);
    }
}
