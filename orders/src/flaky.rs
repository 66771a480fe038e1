//! A proxy that loses, cuts, delays and refuses requests as a test decides, request by request. Test code
//! only.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What happens to a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fate {
    /// It is forwarded, and the response returned.
    Passes,
    /// The same, after a delay.
    Late(Duration),
    /// The server handles it, but the response is lost.
    AnswerLost,
    /// It never arrives.
    Lost,
    /// Half of it arrives.
    Cut,
    /// The proxy responds with this status and body.
    Answered(u16, String),
    /// It gets no response.
    Silence,
}

/// A request's head.
#[derive(Debug, Clone)]
pub(crate) struct Head(String);

impl Head {
    /// The first line: method, path, version.
    pub(crate) fn line(&self) -> &str {
        self.0.lines().next().unwrap_or_default()
    }

    /// The value of a header, by its lower-case name; empty if absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.0
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map_or("", |(_, value)| value.trim())
    }
}

type Decide = dyn Fn(&Head) -> Fate + Send + Sync;

/// A running proxy; stops when dropped.
pub(crate) struct Flaky {
    pub(crate) endpoint: String,
    accepting: JoinHandle<()>,
}

impl Drop for Flaky {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Flaky {
    /// Listens in front of `inside` (`http://…`) and calls `decide` for every request.
    pub(crate) async fn before(
        inside: &str,
        decide: impl Fn(&Head) -> Fate + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let inside: Arc<str> = inside.trim_start_matches("http://").into();
        let decide: Arc<Decide> = Arc::new(decide);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (inside, decide) = (Arc::clone(&inside), Arc::clone(&decide));
                // Broken connections are the purpose of this proxy.
                tokio::spawn(async move { drop(handle(client, &inside, &*decide).await) });
            }
        });
        Self {
            endpoint,
            accepting,
        }
    }
}

/// Handles one request, then closes the connection.
async fn handle(mut client: TcpStream, inside: &str, decide: &Decide) -> std::io::Result<()> {
    let mut request = Vec::new();
    let head_end = loop {
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    };
    let head = Head(String::from_utf8_lossy(&request[..head_end]).into_owned());
    let length: usize = head.header("content-length").parse().unwrap_or(0);
    while request.len() < head_end + length {
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let fate = decide(&head);
    match fate {
        Fate::Lost => return Ok(()),
        Fate::Silence => return std::future::pending().await,
        Fate::Answered(status, body) => {
            let answer = format!(
                "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            return client.write_all(answer.as_bytes()).await;
        }
        Fate::Late(time) => tokio::time::sleep(time).await,
        Fate::Passes | Fate::AnswerLost | Fate::Cut => {}
    }
    let mut server = TcpStream::connect(inside).await?;
    if fate == Fate::Cut {
        // Half of the body or, without one, of the head.
        let half = if length > 1 {
            head_end + length / 2
        } else {
            head_end / 2
        };
        return server.write_all(&request[..half]).await;
    }
    // Requests that the server closes, which marks the end of its response.
    let host_at = head.line().len() + 2;
    server.write_all(&request[..host_at]).await?;
    server.write_all(b"connection: close\r\n").await?;
    server.write_all(&request[host_at..]).await?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    if fate == Fate::AnswerLost {
        return Ok(());
    }
    client.write_all(&answer).await
}
