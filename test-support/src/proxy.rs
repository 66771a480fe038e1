//! An HTTP proxy on loopback: tunnels and forwarded requests, as they should be and not.
//!
//! With threads and not with tasks, so that it works in tests of every kind. Threads end with their connections.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// What the proxy does.
#[derive(Clone, Copy, Debug)]
pub enum Behaviour {
    /// Serves everyone.
    Serves,
    /// Serves requests with this `Proxy-Authorization`, and answers 407 to others.
    Demands(&'static str),
    /// Answers with this status.
    Answers(u16),
    /// Closes the connection before it answers.
    Closes,
    /// Serves, and closes the connection after this many bytes of the server's.
    BreaksOff(usize),
    /// Serves, with every byte of the answer's body replaced where the request's first line contains this.
    Garbles(&'static str),
}

/// One request that it received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The first line.
    pub line: String,
    /// `Proxy-Authorization`.
    pub authorization: Option<String>,
}

struct State {
    behaviour: Behaviour,
    leads_to: Option<SocketAddr>,
    seen: Vec<Seen>,
}

/// The proxy.
pub struct Proxy {
    /// Its address.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    /// A proxy on a free port of loopback, which [`Behaviour::Serves`].
    ///
    /// # Panics
    /// There is no free port.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(Mutex::new(State {
            behaviour: Behaviour::Serves,
            leads_to: None,
            seen: Vec::new(),
        }));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // Clients and servers that go away are what tests are about.
                thread::spawn(move || serve(client, &state));
            }
        });
        Self { address, state }
    }

    /// `http://127.0.0.1:…`
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes what it does.
    pub fn behave(&self, behaviour: Behaviour) {
        lock(&self.state).behaviour = behaviour;
    }

    /// Connects to this address from now on, whatever host is asked for: one that only the proxy knows.
    pub fn lead_to(&self, server: SocketAddr) {
        lock(&self.state).leads_to = Some(server);
    }

    /// The requests since the last call.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut lock(&self.state).seen)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(mut client: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let line = head.lines().next().unwrap_or_default().to_owned();
    let authorization = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        (name.eq_ignore_ascii_case("proxy-authorization")).then(|| value.to_owned())
    });
    let (behaviour, leads_to) = {
        let mut state = lock(state);
        state.seen.push(Seen {
            line: line.clone(),
            authorization: authorization.clone(),
        });
        (state.behaviour, state.leads_to)
    };
    let refused = match behaviour {
        Behaviour::Closes => return Ok(()),
        Behaviour::Answers(status) => Some(status),
        Behaviour::Demands(wanted) if authorization.as_deref() != Some(wanted) => Some(407),
        _ => None,
    };
    if let Some(status) = refused {
        let answer =
            format!("HTTP/1.1 {status} No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
        return client.write_all(answer.as_bytes());
    }
    let mut words = line.split(' ');
    let (method, target) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let (authority, path) = match target.strip_prefix("http://") {
        Some(rest) => rest.split_once('/').unwrap_or((rest, "")),
        None => (target, ""),
    };
    let mut server = match leads_to {
        Some(server) => TcpStream::connect(server)?,
        None => TcpStream::connect(authority)?,
    };
    if method == "CONNECT" {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    } else {
        // One request a connection, so that every one of them is seen.
        let headers = head.lines().skip(1).filter(|line| {
            let line = line.to_ascii_lowercase();
            !line.is_empty() && !line.starts_with("proxy-") && !line.starts_with("connection:")
        });
        let headers: String = headers.map(|line| format!("{line}\r\n")).collect();
        write!(
            server,
            "{method} /{path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"
        )?;
    }
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    relay(&mut server, &mut client, &line, behaviour)?;
    client.shutdown(Shutdown::Both)
}

/// Copies what the server sends in answer to the request that begins with `line`.
fn relay(
    server: &mut TcpStream,
    client: &mut TcpStream,
    line: &str,
    behaviour: Behaviour,
) -> io::Result<()> {
    let most = match behaviour {
        Behaviour::BreaksOff(most) => most,
        _ => usize::MAX,
    };
    let garbles = matches!(behaviour, Behaviour::Garbles(text) if line.contains(text));
    let mut head = Vec::new();
    let mut sent = 0;
    let mut chunk = [0; 4096];
    while sent < most {
        let read = server.read(&mut chunk)?;
        let part = chunk.get_mut(..read.min(most - sent)).unwrap_or_default();
        if part.is_empty() {
            return Ok(());
        }
        for byte in part.iter_mut().filter(|_| garbles) {
            if head.ends_with(b"\r\n\r\n") {
                *byte = b'#';
            } else {
                head.push(*byte);
            }
        }
        client.write_all(part)?;
        sent += part.len();
    }
    Ok(())
}
