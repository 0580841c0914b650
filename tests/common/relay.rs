//! A relay in front of a registry that looks at every request, and breaks those that it is told to.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::http::{Framing, Head, Request, Response, read_body};
use super::server::{Connection, Record, Server};

/// A fault. Bytes are counted in the body, from 0: heads and what lies between chunks do not count.
#[derive(Clone)]
pub enum Fault {
    /// The connection is closed in place of an answer. The registry is not asked.
    HangUp,
    /// The connection is closed after so many bytes of the answer. What is not longer arrives whole.
    CutAfter(u64),
    /// Like [`CutAfter`](Self::CutAfter), but the connection is reset: of the bytes sent last the client may see none.
    ResetAfter(u64),
    /// After so many bytes nothing comes, as long as the relay is there.
    StallAfter(u64),
    /// This byte of the answer is another.
    CorruptAt(u64),
    /// The connections to both sides are closed after so many bytes of the request's body.
    CutUploadAfter(u64),
    /// The answer is this. The registry is not asked.
    Respond(Response),
    /// The request is passed on only after this time.
    Delay(Duration),
    /// The request is changed before the registry gets it.
    EditRequest(Arc<dyn Fn(&mut Request) + Send + Sync>),
    /// The head of the answer is changed before the client gets it.
    EditHead(Arc<dyn Fn(&mut Head) + Send + Sync>),
}

impl Fault {
    pub fn edit_request(edit: impl Fn(&mut Request) + Send + Sync + 'static) -> Self {
        Self::EditRequest(Arc::new(edit))
    }

    pub fn edit_head(edit: impl Fn(&mut Head) + Send + Sync + 'static) -> Self {
        Self::EditHead(Arc::new(edit))
    }
}

/// Which requests get which faults.
///
/// ```ignore
/// // Every blob is cut every 10 MB.
/// relay.rule(Rule::get("/v2/app/blobs/").fault(Fault::CutAfter(10 << 20)));
/// // The third request for a manifest is one too many.
/// let busy = Response::new(429).header("Retry-After", 1);
/// relay.rule(Rule::get("/v2/app/manifests/").skip(2).times(1).fault(Fault::Respond(busy)));
/// ```
pub struct Rule {
    method: Option<String>,
    prefix: String,
    when: Box<dyn Fn(&Request) -> bool + Send>,
    skip: usize,
    times: usize,
    faults: Vec<Fault>,
}

impl Rule {
    /// For requests of any method whose path begins like this.
    pub fn any(prefix: &str) -> Self {
        let (prefix, when) = (prefix.to_owned(), Box::new(|_: &Request| true));
        Self { method: None, prefix, when, skip: 0, times: usize::MAX, faults: Vec::new() }
    }

    /// For requests of this method whose path begins like this.
    pub fn of(method: &str, prefix: &str) -> Self {
        Self { method: Some(method.to_owned()), ..Self::any(prefix) }
    }

    pub fn get(prefix: &str) -> Self {
        Self::of("GET", prefix)
    }

    /// Only for requests that this is true of.
    #[must_use]
    pub fn when(self, when: impl Fn(&Request) -> bool + Send + 'static) -> Self {
        Self { when: Box::new(when), ..self }
    }

    /// Lets the first ones pass.
    #[must_use]
    pub fn skip(self, skip: usize) -> Self {
        Self { skip, ..self }
    }

    /// Ends after so many requests.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    /// What happens to them. Several faults come together.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// The faults for a request, if it is one of these; counts it.
    fn apply(&mut self, request: &Request) -> Option<Vec<Fault>> {
        let mine = self.method.as_ref().is_none_or(|method| *method == request.method)
            && request.path().starts_with(&self.prefix)
            && (self.when)(request);
        if !mine {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.times = self.times.checked_sub(1)?;
        Some(self.faults.clone())
    }
}

/// A request that came through, and what became of it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The head, as the client sent it.
    pub request: Request,
    /// Which of the client's connections it came over: 1 is the first.
    pub connection: u64,
    /// The status that the client was sent.
    pub status: Option<u16>,
    /// How many bytes of the answer's body were sent to the client. Whatever it has got is counted.
    pub sent: u64,
    /// How many bytes of the request's body came from the client.
    pub received: u64,
    /// Whether a fault has struck: one at a byte that was never reached has not.
    pub faulty: bool,
    pub started: Instant,
    /// When the last byte of the answer was sent, or the connection broken off. Whoever has got that byte finds it set.
    pub ended: Option<Instant>,
}

impl Seen {
    pub fn method(&self) -> &str {
        &self.request.method
    }

    pub fn path(&self) -> &str {
        self.request.path()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.request.header(name)
    }
}

type Decide = dyn Fn(&Request) -> Vec<Fault> + Send + Sync;

/// Stands on loopback in front of a registry that speaks plain HTTP, and passes requests on as they come.
/// The client's `Host` is kept, so that the registry sends it back here.
pub struct Relay {
    server: Server,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: String,
    rules: Mutex<Vec<Rule>>,
    decide: Mutex<Option<Arc<Decide>>>,
    record: Record<Seen>,
}

impl Relay {
    /// Starts one in front of an address.
    pub fn start(upstream: &str) -> Self {
        let (upstream, rules) = (upstream.to_owned(), Mutex::default());
        let shared =
            Shared { upstream, rules, decide: Mutex::default(), record: Record::default() };
        let shared = Arc::new(shared);
        let theirs = Arc::clone(&shared);
        let server = Server::start(move |connection| {
            // Whatever goes wrong ends the connection: the client is to see that.
            let _ = theirs.converse(connection);
        });
        Self { server, shared }
    }

    /// Adds a rule. Of those that are for a request the first one counts.
    pub fn rule(&self, rule: Rule) {
        self.shared.rules.lock().expect("no condition panics").push(rule);
    }

    /// Decides about those requests that no rule is for. No fault lets it pass.
    pub fn decide(&self, decide: impl Fn(&Request) -> Vec<Fault> + Send + Sync + 'static) {
        *self.shared.decide.lock().expect("nobody panics here") = Some(Arc::new(decide));
    }

    /// From now on lets everything pass.
    pub fn heal(&self) {
        self.shared.rules.lock().expect("no condition panics").clear();
        *self.shared.decide.lock().expect("nobody panics here") = None;
    }

    /// Closes every connection, whatever it is at.
    pub fn hang_up(&self) {
        self.server.hang_up();
    }

    /// Where it listens: `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.server.address()
    }

    /// A name in the registry behind it: `127.0.0.1:PORT/NAME`.
    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address())
    }

    /// Everything that came through so far, in order.
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.record.all()
    }

    /// How many connections clients have opened so far.
    pub fn connections(&self) -> u64 {
        self.server.connections()
    }

    /// How many bytes of bodies were sent to clients, of those paths.
    pub fn bytes_down(&self, path: impl Fn(&str) -> bool) -> u64 {
        self.requests().iter().filter(|seen| path(seen.path())).map(|seen| seen.sent).sum()
    }

    /// How many bytes of bodies came from clients, of those paths.
    pub fn bytes_up(&self, path: impl Fn(&str) -> bool) -> u64 {
        self.requests().iter().filter(|seen| path(seen.path())).map(|seen| seen.received).sum()
    }

    /// How many of those requests were under way side by side, at the most.
    pub fn most_at_once(&self, which: impl Fn(&Seen) -> bool) -> usize {
        let requests = self.requests();
        let mine: Vec<_> = requests.iter().filter(|seen| which(seen)).collect();
        let at = |time: Instant| {
            let open =
                |seen: &&&Seen| seen.started <= time && seen.ended.is_none_or(|ended| ended > time);
            mine.iter().filter(open).count()
        };
        mine.iter().map(|seen| at(seen.started)).max().unwrap_or(0)
    }

    /// Waits until `enough` finds what it looks for among the requests and what became of them, such as a byte count.
    #[track_caller]
    pub fn wait_for<R>(&self, enough: impl Fn(&[Seen]) -> Option<R>) -> R {
        self.shared.record.wait_for(enough)
    }
}

impl Shared {
    fn faults(&self, request: &Request) -> Vec<Fault> {
        let mut rules = self.rules.lock().expect("no condition panics");
        if let Some(faults) = rules.iter_mut().find_map(|rule| rule.apply(request)) {
            return faults;
        }
        drop(rules);
        let decide = self.decide.lock().expect("nobody panics here").clone();
        decide.map(|decide| decide(request)).unwrap_or_default()
    }

    fn end(&self, number: usize) {
        self.record.change(number, |seen| seen.ended = seen.ended.or_else(|| Some(Instant::now())));
    }

    fn converse(&self, connection: &Connection) -> io::Result<()> {
        let mut from = BufReader::new(&connection.stream);
        while let Some(request) = Request::read_head(&mut from)? {
            let started = Instant::now();
            let number = self.record.add(Seen {
                request: request.clone(),
                connection: connection.number,
                status: None,
                sent: 0,
                received: 0,
                faulty: false,
                started,
                ended: None,
            });
            let faults = self.faults(&request);
            let exchange = Exchange { shared: self, connection, number, request, faults };
            let again = exchange.run(&mut from);
            self.end(number);
            if !again? {
                break;
            }
        }
        Ok(())
    }
}

/// One request and its answer.
struct Exchange<'a> {
    shared: &'a Shared,
    connection: &'a Connection,
    number: usize,
    request: Request,
    faults: Vec<Fault>,
}

/// Where a request's body goes.
struct Upload<'a> {
    to: Option<&'a TcpStream>,
    received: u64,
    /// The registry takes no more; it may have answered already.
    refused: bool,
}

/// How far an answer's body has got.
struct Download {
    framing: Framing,
    sent: u64,
}

impl Exchange<'_> {
    /// Whether the connection can be used again.
    fn run(&self, from: &mut BufReader<&TcpStream>) -> io::Result<bool> {
        let mut client = &self.connection.stream;
        let mut request = self.request.clone();
        let mut respond = None;
        for fault in &self.faults {
            match fault {
                Fault::HangUp => {
                    self.strike();
                    return Ok(false);
                }
                Fault::Delay(time) => {
                    self.strike();
                    self.connection.pause(Some(*time));
                }
                Fault::EditRequest(edit) => {
                    self.strike();
                    edit(&mut request);
                }
                Fault::Respond(response) => respond = Some(response),
                _ => {}
            }
        }
        if self.request.headers.has_word("Expect", "100-continue") {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let last = self.request.headers.has_word("Connection", "close");
        if let Some(response) = respond {
            self.upload(from, None)?;
            self.strike();
            self.shared.record.change(self.number, |seen| seen.status = Some(response.status));
            let mut left = response.length(&self.request.method);
            if left == Some(0) {
                self.shared.end(self.number);
            }
            let again = response.write(&self.request, &mut client, |sent| {
                left = left.map(|left| left - sent);
                self.sent(sent, left == Some(0));
            })?;
            return Ok(again && !last);
        }
        let upstream = self.connection.connect(&self.shared.upstream)?;
        for name in ["Connection", "Keep-Alive", "Proxy-Connection", "Expect"] {
            request.headers.remove(name);
        }
        // One connection a request: where an answer ends is then the registry's to say.
        request.headers.set("Connection", "close");
        request.write_head(&mut &upstream)?;
        let whole = self.upload(from, Some(&upstream))?;
        let again = self.download(&upstream)?;
        Ok(again && whole && !last)
    }

    fn strike(&self) {
        self.shared.record.change(self.number, |seen| seen.faulty = true);
    }

    /// Counts what is about to be sent, and notes whether it is the last.
    fn sent(&self, bytes: u64, last: bool) {
        self.shared.record.change(self.number, |seen| seen.sent += bytes);
        if last {
            self.shared.end(self.number);
        }
    }

    /// Passes the request's body on; whether all of it went.
    fn upload(&self, from: &mut BufReader<&TcpStream>, to: Option<&TcpStream>) -> io::Result<bool> {
        let cut = self.faults.iter().find_map(|fault| match fault {
            Fault::CutUploadAfter(bytes) => Some(*bytes),
            _ => None,
        });
        let mut upload = Upload { to, received: 0, refused: false };
        let write = |upload: &mut Upload<'_>, bytes: &[u8]| {
            let Some(mut to) = upload.to else { return Ok(()) };
            to.write_all(bytes).inspect_err(|_| upload.refused = true)
        };
        let data = |upload: &mut Upload<'_>, bytes: &mut [u8]| {
            let end = upload.received + bytes.len() as u64;
            let stop = cut.filter(|cut| end >= *cut);
            let take = stop.map_or(end, |cut| cut) - upload.received;
            let bytes = &bytes[..usize::try_from(take).expect("it is in memory")];
            upload.received += take;
            self.shared.record.change(self.number, |seen| seen.received += take);
            write(upload, bytes)?;
            if stop.is_some() {
                self.strike();
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            Ok(())
        };
        match read_body(from, self.request.framing()?, &mut upload, data, write) {
            Ok(()) => Ok(true),
            Err(_) if upload.refused => Ok(false),
            Err(err) => {
                if let Some(to) = to {
                    let _ = to.shutdown(Shutdown::Both);
                }
                Err(err)
            }
        }
    }

    /// Passes the answer on; whether the client's connection can be used again.
    fn download(&self, upstream: &TcpStream) -> io::Result<bool> {
        let mut from = BufReader::new(upstream);
        let mut head = Head::read(&mut from)?;
        while head.status < 200 {
            head = Head::read(&mut from)?;
        }
        let framing = head.framing(&self.request.method)?;
        head.headers.remove("Connection");
        let mut again = framing != Framing::Close;
        for fault in &self.faults {
            if let Fault::EditHead(edit) = fault {
                self.strike();
                edit(&mut head);
                // The client may now think otherwise of where the body ends.
                again = false;
            }
        }
        if !again {
            head.headers.set("Connection", "close");
        }
        self.shared.record.change(self.number, |seen| seen.status = Some(head.status));
        if matches!(framing, Framing::None | Framing::Length(0)) {
            self.shared.end(self.number);
        }
        head.write(&mut &self.connection.stream)?;
        let mut download = Download { framing, sent: 0 };
        let data = |download: &mut Download, bytes: &mut [u8]| self.data(download, bytes);
        let frame = |_: &mut Download, bytes: &[u8]| {
            // The last chunk is the empty one.
            if bytes.starts_with(b"0\r") {
                self.shared.end(self.number);
            }
            (&self.connection.stream).write_all(bytes)
        };
        read_body(&mut from, framing, &mut download, data, frame)?;
        Ok(again)
    }

    /// Passes a piece of the answer on.
    fn data(&self, download: &mut Download, bytes: &mut [u8]) -> io::Result<()> {
        let start = download.sent;
        let end = start + bytes.len() as u64;
        let mut stop: Option<(u64, &Fault)> = None;
        for fault in &self.faults {
            match fault {
                Fault::CorruptAt(at) if (start..end).contains(at) => {
                    self.strike();
                    bytes[usize::try_from(*at - start).expect("it is in memory")] ^= 0xff;
                }
                Fault::CutAfter(at) | Fault::ResetAfter(at) | Fault::StallAfter(at)
                    if *at <= end && stop.is_none_or(|(first, _)| *at < first) =>
                {
                    stop = Some((*at, fault));
                }
                _ => {}
            }
        }
        let take = stop.map_or(end, |(at, _)| at) - start;
        let bytes = &bytes[..usize::try_from(take).expect("it is in memory")];
        download.sent += take;
        if stop.is_some() {
            self.strike();
        }
        let last = stop.is_none() && download.framing == Framing::Length(download.sent);
        self.sent(take, last);
        (&self.connection.stream).write_all(bytes)?;
        match stop {
            None => return Ok(()),
            Some((_, Fault::ResetAfter(_))) => self.connection.reset(),
            Some((_, Fault::StallAfter(_))) => self.connection.pause(None),
            Some(_) => {}
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}
