//! As much of HTTP/1.1 as the servers of the tests need: heads, and how long a body is.

use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// No head of a message is longer.
const LONGEST_HEAD: u64 = 256 << 10;
/// No body that is kept in memory is longer.
const LONGEST_BODY: u64 = 512 << 20;

/// The headers of a message, in their order. Names are compared without regard to case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    pub fn get(&self, name: &str) -> Option<&str> {
        let mine = self.0.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        mine.map(|(_, value)| value.as_str())
    }

    /// Every header of this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let mine = self.0.iter().filter(move |(other, _)| other.eq_ignore_ascii_case(name));
        mine.map(|(_, value)| value.as_str())
    }

    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
    }

    /// Sets a header, in place of those that it may have.
    pub fn set(&mut self, name: &str, value: impl ToString) {
        self.remove(name);
        self.0.push((name.to_owned(), value.to_string()));
    }

    /// Whether a header that is a list of words has this one.
    pub fn has_word(&self, name: &str, word: &str) -> bool {
        let mut words = self.all(name).flat_map(|value| value.split(','));
        words.any(|other| other.trim().eq_ignore_ascii_case(word))
    }

    fn write(&self, into: &mut Vec<u8>) {
        for (name, value) in &self.0 {
            into.extend(format!("{name}: {value}\r\n").into_bytes());
        }
        into.extend(b"\r\n");
    }
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    /// With the connection.
    Close,
}

/// A request that a server got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// As the client wrote it: a path with a query, or a URL if it takes this server for a proxy.
    pub target: String,
    pub headers: Headers,
    /// Empty where the server passes it on.
    pub body: Vec<u8>,
}

impl Request {
    pub fn new(method: &str, target: &str) -> Self {
        Self { method: method.to_owned(), target: target.to_owned(), ..Self::default() }
    }

    pub fn with_header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.set(name, value);
        self
    }

    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.headers.set("Content-Length", self.body.len());
        self
    }

    /// Reads a request's head. Nothing, if the client has closed the connection instead.
    pub fn read_head(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let Some((first, headers)) = read_head(from)? else { return Ok(None) };
        let mut words = first.split(' ');
        let words = [words.next(), words.next(), words.next(), words.next()];
        let [Some(method), Some(target), Some(version @ ("HTTP/1.1" | "HTTP/1.0")), None] = words
        else {
            return Err(invalid(format!("no request of HTTP/1: {first:?}")));
        };
        let mut request = Self { headers, ..Self::new(method, target) };
        if version == "HTTP/1.0" {
            request.headers.set("Connection", "close");
        }
        Ok(Some(request))
    }

    /// How its body ends.
    pub fn framing(&self) -> io::Result<Framing> {
        match framing(&self.headers)? {
            Framing::Close => Ok(Framing::None),
            framing => Ok(framing),
        }
    }

    pub fn write_head(&self, into: &mut impl Write) -> io::Result<()> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        self.headers.write(&mut head);
        into.write_all(&head)
    }

    /// The path without the query.
    pub fn path(&self) -> &str {
        let target = match self.target.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
            None => &self.target,
        };
        target.split('?').next().unwrap_or_default()
    }

    /// Every value of a parameter of the query, decoded.
    pub fn query(&self, name: &str) -> Vec<String> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        form_values(query, name)
    }

    /// Every value of a parameter of a form in the body, decoded.
    pub fn form(&self, name: &str) -> Vec<String> {
        form_values(&String::from_utf8_lossy(&self.body), name)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }
}

/// An answer as the test wants it, however wrong.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Headers,
    pub body: Vec<u8>,
    framing: Option<Framing>,
    endless: Option<Vec<u8>>,
}

impl Response {
    pub fn new(status: u16) -> Self {
        let (headers, body) = (Headers::default(), Vec::new());
        Self { status, headers, body, framing: None, endless: None }
    }

    pub fn json(text: impl ToString) -> Self {
        Self::new(200).header("Content-Type", "application/json").body(text.to_string())
    }

    pub fn html(text: impl ToString) -> Self {
        Self::new(200).header("Content-Type", "text/html; charset=utf-8").body(text.to_string())
    }

    pub fn redirect(status: u16, to: impl ToString) -> Self {
        Self::new(status).header("Location", to)
    }

    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.set(name, value);
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Announces this length, whatever it is. The connection is closed after the body if it is another.
    pub fn content_length(mut self, length: u64) -> Self {
        self.framing = Some(Framing::Length(length));
        self
    }

    pub fn chunked(mut self) -> Self {
        self.framing = Some(Framing::Chunked);
        self
    }

    /// Announces no length: the body ends with the connection.
    pub fn until_closed(mut self) -> Self {
        self.framing = Some(Framing::Close);
        self
    }

    /// After the body comes this, again and again, until the client has enough or the server is dropped.
    pub fn endless(mut self, pattern: impl Into<Vec<u8>>) -> Self {
        let pattern = pattern.into();
        assert!(!pattern.is_empty(), "the pattern must not be empty");
        // Larger pieces cost less.
        let times = (64_usize << 10).div_ceil(pattern.len());
        self.endless = Some(pattern.repeat(times));
        self
    }

    /// How much of a body is sent where this answers a request of the method, if it ends at all.
    pub fn length(&self, method: &str) -> Option<u64> {
        if self.bodiless(method) {
            return Some(0);
        }
        self.endless.is_none().then_some(self.body.len() as u64)
    }

    fn bodiless(&self, method: &str) -> bool {
        method == "HEAD" || self.status == 204 || self.status == 304
    }

    /// Sends it. `sent` hears of every piece of the body that goes out; whether the connection can be used again.
    pub fn write(
        &self,
        request: &Request,
        into: &mut impl Write,
        mut sent: impl FnMut(u64),
    ) -> io::Result<bool> {
        let length = self.body.len() as u64;
        let framing = match self.framing {
            Some(framing) => framing,
            None if self.endless.is_some() => Framing::Close,
            None => Framing::Length(length),
        };
        let honest = self.endless.is_none()
            && (framing == Framing::Chunked || framing == Framing::Length(length));
        let mut head = Head { status: self.status, headers: self.headers.clone() };
        let no_content = self.bodiless("");
        match framing {
            Framing::Length(length) if !no_content => head.headers.set("Content-Length", length),
            Framing::Chunked => head.headers.set("Transfer-Encoding", "chunked"),
            _ => {}
        }
        if !honest {
            head.headers.set("Connection", "close");
        }
        head.write(into)?;
        if self.bodiless(&request.method) {
            return Ok(honest);
        }
        let mut piece = |bytes: &[u8]| {
            // First, so that whoever has got the bytes finds them counted.
            sent(bytes.len() as u64);
            if framing != Framing::Chunked {
                return into.write_all(bytes);
            }
            into.write_all(format!("{:x}\r\n", bytes.len()).as_bytes())?;
            into.write_all(bytes)?;
            into.write_all(b"\r\n")
        };
        if !self.body.is_empty() {
            piece(&self.body)?;
        }
        if let Some(pattern) = &self.endless {
            loop {
                piece(pattern)?;
            }
        }
        if framing == Framing::Chunked {
            into.write_all(b"0\r\n\r\n")?;
        }
        Ok(honest)
    }
}

/// The head of an answer.
#[derive(Clone, Debug)]
pub struct Head {
    pub status: u16,
    pub headers: Headers,
}

impl Head {
    pub fn read(from: &mut impl BufRead) -> io::Result<Self> {
        let Some((first, headers)) = read_head(from)? else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| invalid(format!("no answer of HTTP: {first:?}")))?;
        Ok(Self { status, headers })
    }

    /// How the body ends that answers a request of this method.
    pub fn framing(&self, method: &str) -> io::Result<Framing> {
        if method == "HEAD" || self.status < 200 || self.status == 204 || self.status == 304 {
            return Ok(Framing::None);
        }
        framing(&self.headers)
    }

    pub fn write(&self, into: &mut impl Write) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status)).into_bytes();
        self.headers.write(&mut head);
        into.write_all(&head)
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200..300 => "OK",
        300..400 => "Elsewhere",
        400..500 => "Refused",
        _ => "Failed",
    }
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn read_head(from: &mut impl BufRead) -> io::Result<Option<(String, Headers)>> {
    let mut from = from.take(LONGEST_HEAD);
    let mut line = || {
        let mut line = String::new();
        if from.read_line(&mut line)? > 0 && !line.ends_with('\n') {
            return Err(invalid("a head that does not end"));
        }
        Ok(line)
    };
    let first = line()?;
    if first.is_empty() {
        return Ok(None);
    }
    let mut headers = Headers::default();
    loop {
        let line = line()?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            return Ok(Some((first.trim_end_matches(['\r', '\n']).to_owned(), headers)));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| invalid(line))?;
        headers.0.push((name.to_owned(), value.trim().to_owned()));
    }
}

fn framing(headers: &Headers) -> io::Result<Framing> {
    if headers.has_word("Transfer-Encoding", "chunked") {
        return Ok(Framing::Chunked);
    }
    match headers.get("Content-Length") {
        Some(length) => Ok(Framing::Length(length.parse().map_err(|_| invalid(length))?)),
        None => Ok(Framing::Close),
    }
}

/// Reads a body to its end: `data` gets what it holds, `frame` what lies between.
pub fn read_body<S>(
    from: &mut impl BufRead,
    framing: Framing,
    to: &mut S,
    data: impl Fn(&mut S, &mut [u8]) -> io::Result<()>,
    frame: impl Fn(&mut S, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut copy = |from: &mut dyn BufRead, to: &mut S, length: Option<u64>| {
        let mut left = length.unwrap_or(u64::MAX);
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = from.read(&mut buffer[..most])?;
            if read == 0 {
                let cut = length.is_some();
                return if cut { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) };
            }
            data(to, &mut buffer[..read])?;
            left -= read as u64;
        }
        Ok(())
    };
    match framing {
        Framing::None => Ok(()),
        Framing::Length(length) => copy(from, to, Some(length)),
        Framing::Close => copy(from, to, None),
        Framing::Chunked => loop {
            let mut line = Vec::new();
            from.take(LONGEST_HEAD).read_until(b'\n', &mut line)?;
            frame(to, &line)?;
            let text = String::from_utf8_lossy(&line);
            let size = text.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| invalid(text.clone()))?;
            copy(from, to, Some(size))?;
            // The line end after a chunk; after the last one there may be trailers before it.
            loop {
                line.clear();
                from.take(LONGEST_HEAD).read_until(b'\n', &mut line)?;
                frame(to, &line)?;
                if line.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if size > 0 || line == b"\r\n" || line == b"\n" {
                    break;
                }
            }
            if size == 0 {
                return Ok(());
            }
        },
    }
}

/// Reads a body into memory.
pub fn read_whole(from: &mut impl BufRead, framing: Framing) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    let keep = |body: &mut Vec<u8>, data: &mut [u8]| {
        body.extend_from_slice(data);
        if body.len() as u64 > LONGEST_BODY { Err(invalid("too long a body")) } else { Ok(()) }
    };
    read_body(from, framing, &mut body, keep, |_, _| Ok(()))?;
    Ok(body)
}

/// Asks a server on loopback over a connection of its own, and takes its answer as it is: no redirect is followed.
pub fn ask(address: &str, request: &Request) -> io::Result<Response> {
    let stream = TcpStream::connect(address)?;
    let mut from = io::BufReader::new(&stream);
    let mut request = request.clone();
    request.headers.set("Host", address);
    request.headers.set("Connection", "close");
    ask_over(&mut from, &request)
}

/// Asks over a connection that stays open if the server lets it.
pub fn ask_over(from: &mut io::BufReader<&TcpStream>, request: &Request) -> io::Result<Response> {
    let mut stream = *from.get_ref();
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    request.write_head(&mut stream)?;
    stream.write_all(&request.body)?;
    let head = Head::read(from)?;
    let framing = head.framing(&request.method)?;
    let body = read_whole(from, framing)?;
    let (status, headers) = (head.status, head.headers);
    Ok(Response { status, headers, body, framing: Some(framing), endless: None })
}

fn form_values(form: &str, name: &str) -> Vec<String> {
    let pairs = form.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(other, _)| decode(other) == name).map(|(_, value)| decode(value)).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut at = 0;
    while let Some(&byte) = text.as_bytes().get(at) {
        let code = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (byte, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                at += 2;
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
