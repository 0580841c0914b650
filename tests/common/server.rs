//! Servers in the test's own process, on loopback.

use std::collections::HashMap;
use std::io::{self, BufReader};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::http::{Request, Response, read_whole};
use super::time_limit;

/// Takes connections, each in a thread of its own, until it is dropped.
pub struct Server {
    address: SocketAddr,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    stopped: bool,
    accepted: u64,
    hung_up: u64,
    /// What to shut down so that the threads end.
    open: HashMap<u64, Vec<TcpStream>>,
    threads: Vec<JoinHandle<()>>,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic of one connection's thread is told by the test that sees no answer.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Server {
    /// Starts one on a free port.
    pub fn start(serve: impl Fn(&Connection) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen on loopback");
        let address = listener.local_addr().expect("ask for the own address");
        let state = Arc::new(State::default());
        let serve = Arc::new(serve);
        let theirs = Arc::clone(&state);
        let acceptor = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let mut inner = theirs.lock();
                if inner.stopped {
                    return;
                }
                inner.accepted += 1;
                let number = inner.accepted;
                let connection = Connection { number, stream, state: Arc::clone(&theirs) };
                inner.open.insert(number, vec![connection.copy(&connection.stream)]);
                let serve = Arc::clone(&serve);
                inner.threads.retain(|thread| !thread.is_finished());
                inner.threads.push(std::thread::spawn(move || serve(&connection)));
            }
        });
        Self { address, state, acceptor: Some(acceptor) }
    }

    /// Where it listens: `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// How many connections it has taken so far.
    pub fn connections(&self) -> u64 {
        self.state.lock().accepted
    }

    /// Closes every connection, whatever it is at.
    pub fn hang_up(&self) {
        let mut inner = self.state.lock();
        inner.hung_up += 1;
        shut_down(&inner.open);
        self.state.changed.notify_all();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let (open, threads) = {
            let mut inner = self.state.lock();
            inner.stopped = true;
            (std::mem::take(&mut inner.open), std::mem::take(&mut inner.threads))
        };
        self.state.changed.notify_all();
        shut_down(&open);
        // For the acceptor to see it.
        let _ = TcpStream::connect(self.address);
        let threads = self.acceptor.take().into_iter().chain(threads);
        threads.for_each(|thread| drop(thread.join()));
    }
}

fn shut_down(open: &HashMap<u64, Vec<TcpStream>>) {
    for stream in open.values().flatten() {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// A connection that a [`Server`] has taken. It is closed at the end of the function that serves it.
pub struct Connection {
    pub number: u64,
    pub stream: TcpStream,
    state: Arc<State>,
}

impl Connection {
    fn copy(&self, stream: &TcpStream) -> TcpStream {
        let _ = stream.set_nodelay(true);
        stream.try_clone().expect("copy a descriptor")
    }

    /// Opens a connection to another server, shut down with this one should the test end first.
    pub fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address)?;
        let copy = self.copy(&stream);
        let mut inner = self.state.lock();
        let Some(open) = inner.open.get_mut(&self.number) else {
            return Err(io::ErrorKind::ConnectionAborted.into());
        };
        open.truncate(1);
        open.push(copy);
        Ok(stream)
    }

    /// Waits for that long, or forever, but no longer than the server is there and does not hang up.
    pub fn pause(&self, time: Option<Duration>) {
        let end = time.map(|time| Instant::now() + time);
        let mut inner = self.state.lock();
        let hung_up = inner.hung_up;
        while !inner.stopped && inner.hung_up == hung_up {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let left = left.unwrap_or(Duration::from_secs(3600));
            if left.is_zero() {
                return;
            }
            (inner, _) = self.state.changed.wait_timeout(inner, left).expect("nobody panics here");
        }
    }

    /// Closes it the hard way: the client sees that it was reset, and may not get what was sent last.
    pub fn reset(&self) {
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&self.stream, nix::sys::socket::sockopt::Linger, &linger)
            .expect("set a socket's option");
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.state.lock().open.remove(&self.number);
    }
}

/// What happened so far, for the test to look at and to wait for.
pub struct Record<T> {
    items: Mutex<Vec<T>>,
    changed: Condvar,
}

impl<T> Default for Record<T> {
    fn default() -> Self {
        Self { items: Mutex::default(), changed: Condvar::new() }
    }
}

impl<T: Clone> Record<T> {
    /// Adds one, and returns its number.
    pub fn add(&self, item: T) -> usize {
        let mut items = self.lock();
        items.push(item);
        self.changed.notify_all();
        items.len() - 1
    }

    pub fn change(&self, number: usize, change: impl FnOnce(&mut T)) {
        change(&mut self.lock()[number]);
        self.changed.notify_all();
    }

    pub fn all(&self) -> Vec<T> {
        self.lock().clone()
    }

    /// Waits until `enough` finds what it looks for.
    #[track_caller]
    pub fn wait_for<R>(&self, enough: impl Fn(&[T]) -> Option<R>) -> R
    where
        T: std::fmt::Debug,
    {
        let end = Instant::now() + time_limit(Duration::from_secs(60));
        let mut items = self.lock();
        loop {
            if let Some(found) = enough(&items) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "it did not happen within a minute; this did: {items:?}");
            (items, _) = self.changed.wait_timeout(items, left).expect("nobody panics here");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.items.lock().expect("nobody panics here")
    }
}

/// A server that answers what the test says, and records what it was asked.
pub struct Scripted {
    server: Server,
    record: Arc<Record<Request>>,
}

impl Scripted {
    pub fn start(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let record = Arc::new(Record::default());
        let theirs = Arc::clone(&record);
        let server = Server::start(move |connection| {
            // Whatever goes wrong ends the connection: the client is to see that.
            let _ = converse(connection, &|request| {
                theirs.add(request.clone());
                answer(request)
            });
        });
        Self { server, record }
    }

    /// Where it listens: `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.server.address()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Everything it was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.record.all()
    }
}

fn converse(connection: &Connection, answer: &dyn Fn(&Request) -> Response) -> io::Result<()> {
    let mut from = BufReader::new(&connection.stream);
    while let Some(mut request) = Request::read_head(&mut from)? {
        if request.headers.has_word("Expect", "100-continue") {
            io::Write::write_all(&mut &connection.stream, b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        request.body = read_whole(&mut from, request.framing()?)?;
        let again = answer(&request).write(&request, &mut &connection.stream, |_| {})?;
        if !again || request.headers.has_word("Connection", "close") {
            break;
        }
    }
    Ok(())
}
