//! A server in front of another that loses, cuts, slows and refuses what passes through it as a test
//! decides, request by request. Test code only.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fate {
    /// It goes through, and the answer comes back.
    Passes,
    /// So, but later.
    Late(Duration),
    /// It goes through, the server acts, and the answer is lost.
    AnswerLost,
    /// It never arrives.
    Lost,
    /// Half of it arrives.
    Cut,
    /// It is answered with this status and body by somebody in between.
    Answered(u16, String),
    /// It is never answered.
    Silence,
}

/// A request's head.
#[derive(Debug, Clone)]
pub(crate) struct Head(String);

impl Head {
    /// Its first line: method, path, version.
    pub(crate) fn line(&self) -> &str {
        self.0.lines().next().unwrap_or_default()
    }

    /// The value of a header, by its lower-case name; empty when there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.0
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map_or("", |(_, value)| value.trim())
    }
}

type Decide = dyn Fn(&Head) -> Fate + Send + Sync;

/// The server; it ends with this value.
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
    /// Stands before `inside` (`http://…`) and asks `decide` about every request.
    pub(crate) async fn before(
        inside: &str,
        decide: impl Fn(&Head) -> Fate + Send + Sync + 'static,
    ) -> Self {
        let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", door.local_addr().unwrap());
        let inside: Arc<str> = inside.trim_start_matches("http://").into();
        let decide: Arc<Decide> = Arc::new(decide);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = door.accept().await {
                let (inside, decide) = (Arc::clone(&inside), Arc::clone(&decide));
                // One that broke off is what this is for.
                tokio::spawn(async move { drop(attend(client, &inside, &*decide).await) });
            }
        });
        Self {
            endpoint,
            accepting,
        }
    }
}

/// One request; then the connection is closed.
async fn attend(mut client: TcpStream, inside: &str, decide: &Decide) -> std::io::Result<()> {
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
        // Half of the body, or, where there is none, of the head.
        let half = if length > 1 {
            head_end + length / 2
        } else {
            head_end / 2
        };
        return server.write_all(&request[..half]).await;
    }
    // The server is to close, so that the end of its answer shows.
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
