//! One HTTP/1.1 exchange, byte by byte.
//!
//! A library would read ahead, and would not hang up in the middle of a header or send what is no HTTP at all.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// A slow reader takes this much,
const SLOW_BYTES: usize = 64;
/// this often, and has a receive buffer so small that the server notices.
const SLOW_INTERVAL: Duration = Duration::from_millis(100);
const SLOW_RECEIVE_BUFFER: u32 = 4096;

/// How fast a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// What there is, at once.
    Fast,
    /// A few bytes every 100 ms.
    Slow,
}

/// Status and headers of an answer.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// As it was sent, in lower case.
    text: String,
}

impl Head {
    /// The value of a header; `name` in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }
}

/// Where a body ends.
#[derive(Clone, Copy, Debug)]
enum Framing {
    Length(usize),
    Chunked,
    Ended,
}

/// A connection to the server, for one request.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    pub(crate) pace: Pace,
    /// Bytes that were read and not used.
    buffer: Vec<u8>,
    framing: Framing,
    /// When the latest bytes were read.
    pub(crate) read_at: Instant,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr, pace: Pace) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if pace == Pace::Slow {
            socket.set_recv_buffer_size(SLOW_RECEIVE_BUFFER)?;
        }
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, pace, buffer: Vec::new(), framing: Framing::Ended, read_at: Instant::now() })
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn finish_sending(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// Goes away with a reset instead of a farewell.
    pub(crate) fn reset(self) {
        // If it cannot be a reset it is a farewell.
        let _ = self.stream.set_zero_linger();
    }

    /// Reads more into the buffer; false at the end of the connection.
    async fn fill(&mut self) -> io::Result<bool> {
        let mut piece = [0; 16 << 10];
        let at_most = match self.pace {
            Pace::Fast => piece.len(),
            Pace::Slow => {
                tokio::time::sleep(SLOW_INTERVAL).await;
                SLOW_BYTES
            }
        };
        let num_bytes = self.stream.read(&mut piece[..at_most]).await?;
        self.read_at = Instant::now();
        self.buffer.extend_from_slice(&piece[..num_bytes]);
        Ok(num_bytes > 0)
    }

    /// Reads until the buffer holds `end`; returns the bytes before it.
    async fn read_until(&mut self, end: &[u8]) -> anyhow::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                let mut bytes: Vec<u8> = self.buffer.drain(..at + end.len()).collect();
                bytes.truncate(at);
                return Ok(bytes);
            }
            ensure!(self.fill().await?, "the connection ended within the answer");
        }
    }

    /// The head of the answer; interim answers such as `100 Continue` are passed over.
    pub(crate) async fn head(&mut self) -> anyhow::Result<Head> {
        loop {
            let text = String::from_utf8(self.read_until(b"\r\n\r\n").await?)?.to_ascii_lowercase();
            let status = text.strip_prefix("http/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
            let status = status.with_context(|| format!("the answer does not begin as HTTP does: {text}"))?;
            let head = Head { status, text };
            if status >= 200 {
                self.framing = match (head.header("content-length"), head.header("transfer-encoding")) {
                    (Some(length), None) => Framing::Length(length.parse()?),
                    (None, Some("chunked")) => Framing::Chunked,
                    _ => bail!("the answer does not say where it ends: {}", head.text),
                };
                return Ok(head);
            }
        }
    }

    /// The next piece of the body; `None` at its end.
    pub(crate) async fn piece(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        match self.framing {
            Framing::Ended | Framing::Length(0) => Ok(None),
            Framing::Length(left) => {
                if self.buffer.is_empty() {
                    ensure!(self.fill().await?, "the connection ended {left} bytes before the body did");
                }
                let length = left.min(self.buffer.len());
                self.framing = Framing::Length(left - length);
                Ok(Some(self.buffer.drain(..length).collect()))
            }
            Framing::Chunked => {
                let line = self.read_until(b"\r\n").await?;
                let size = std::str::from_utf8(&line).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
                let size = size.with_context(|| format!("{:?} is not the size of a chunk", line.escape_ascii()))?;
                while self.buffer.len() < size + 2 {
                    ensure!(self.fill().await?, "the connection ended within a chunk");
                }
                ensure!(self.buffer[size..size + 2] == *b"\r\n", "a chunk of {size} bytes is longer than it says");
                if size == 0 {
                    self.framing = Framing::Ended;
                }
                let mut chunk: Vec<u8> = self.buffer.drain(..size + 2).collect();
                chunk.truncate(size);
                Ok((size > 0).then_some(chunk))
            }
        }
    }

    /// The rest of the body.
    pub(crate) async fn body(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece().await? {
            body.extend(piece);
        }
        Ok(body)
    }

    /// Reads until the server closes the connection.
    ///
    /// # Errors
    /// If it says anything more.
    pub(crate) async fn closed(&mut self) -> anyhow::Result<()> {
        while self.fill().await? {}
        ensure!(self.buffer.is_empty(), "something follows the answer: {:?}", self.buffer.escape_ascii().to_string());
        Ok(())
    }
}

/// A request with a JSON body.
pub(crate) fn post(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: load-test\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// One whole exchange.
pub(crate) async fn exchange(address: SocketAddr, request: &[u8]) -> anyhow::Result<(Head, Vec<u8>)> {
    let mut connection = Connection::open(address, Pace::Fast).await?;
    connection.send(request).await?;
    let head = connection.head().await?;
    let body = connection.body().await?;
    Ok((head, body))
}

/// The body of an answer to `GET path`.
pub(crate) async fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: load-test\r\nconnection: close\r\n\r\n");
    let (head, body) = exchange(address, request.as_bytes()).await?;
    ensure!(head.status == 200, "GET {path} is answered with {}", head.status);
    Ok(String::from_utf8(body)?)
}
