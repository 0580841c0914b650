//! A proxy whose log proves that requests came that way.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use crate::common::http::{Head, Request, ask, ask_over};
use crate::common::proxy::ForwardProxy;
use crate::common::registry::Registry;
use crate::common::tokens::basic;
use crate::common::{program, require};

#[test]
fn a_proxy_passes_on_and_tells() {
    let registry = require!(Registry::start());
    let proxy = require!(ForwardProxy::start());
    assert!(proxy.requests().is_empty());
    let url = format!("{}/v2/", registry.url());
    let answer = ask(proxy.address(), &Request::new("GET", &url)).unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"{}"[..]));
    assert_eq!(proxy.requests(), [format!("GET {url} HTTP/1.1")]);
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn a_tunnel_leads_through_a_proxy_with_an_account() {
    let registry = require!(Registry::start());
    let proxy = require!(ForwardProxy::with_account("alice", "sesame"));
    let tunnel = |authorization: Option<String>| {
        let stream = TcpStream::connect(proxy.address()).unwrap();
        let mut request = Request::new("CONNECT", registry.address());
        if let Some(value) = authorization {
            request = request.with_header("Proxy-Authorization", value);
        }
        request.with_header("Host", registry.address()).write_head(&mut &stream).unwrap();
        (&stream).flush().unwrap();
        let status = Head::read(&mut BufReader::new(&stream)).unwrap().status;
        (status, stream)
    };
    assert_eq!(tunnel(None).0, 407);
    assert_eq!(tunnel(Some(basic("alice", "open"))).0, 401);
    let (status, stream) = tunnel(Some(basic("alice", "sesame")));
    assert_eq!(status, 200);
    let request = Request::new("GET", "/v2/").with_header("Host", registry.address());
    assert_eq!(ask_over(&mut BufReader::new(&stream), &request).unwrap().body, b"{}");
    let line = format!("CONNECT {} HTTP/1.1", registry.address());
    assert_eq!(proxy.requests(), [line.as_str(); 3]);
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn tls_goes_through_a_tunnel() {
    let curl = require!(program("curl"));
    let registry = require!(Registry::builder().tls().start());
    let proxy = require!(ForwardProxy::with_account("alice", "sesame"));
    let mut command = Command::new(curl);
    command.args(["--silent", "--show-error", "--noproxy", "", "--proxy"]);
    command.arg(proxy.url_as("alice", "sesame")).arg("--cacert").arg(registry.ca_pem());
    let output = command.arg(format!("{}/v2/", registry.url())).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "{}");
    assert_eq!(proxy.requests(), [format!("CONNECT {} HTTP/1.1", registry.address())]);
}

#[test]
fn a_proxy_ends_on_drop() {
    let proxy = require!(ForwardProxy::start());
    let (address, process) = (proxy.address().to_owned(), format!("/proc/{}", proxy.pid()));
    assert!(Path::new(&process).exists());
    drop(proxy);
    assert!(!Path::new(&process).exists());
    assert!(TcpStream::connect(address).is_err());
}
