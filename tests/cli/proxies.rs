//! Registries that are reached through a proxy, as the environment says.

use crate::common::proxy::ForwardProxy;
use crate::common::registry::Registry;
use crate::common::require;
use crate::remote::{Scene, open, scene};
use crate::{Ran, finish};

/// The registry by an address that leads to this machine and does not show it: nobody asks a proxy for loopback.
fn elsewhere(scene: &Scene) -> String {
    scene.server.address().replace("127.0.0.1", "0.0.0.0")
}

/// Pulls `app:1` with these variables.
fn pull(scene: &Scene, more: &[&str], variables: &[(&str, &str)]) -> Ran {
    let host = elsewhere(scene);
    let name = format!("{host}/app:1");
    let mut command = scene.command(&[more, &["pull", "-q", &name]].concat());
    finish(command.envs(variables.iter().copied()))
}

const SECRET: &str = "hidden-4711";

#[test]
fn plain_http_goes_through_the_proxy_of_the_environment() {
    let scene = require!(open("cli-proxy"));
    let proxy = require!(ForwardProxy::start());
    let host = elsewhere(&scene);
    let insecure = ["--insecure-registry", host.as_str()];
    let url = proxy.url();
    for variable in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let before = proxy.requests().len();
        let ran = pull(&scene, &insecure, &[(variable, &url)]);
        assert!(ran.status == 0 && ran.err.is_empty(), "{variable}: {ran:?}");
        let asked = format!("http://{host}/v2/app/manifests/1");
        let requests = proxy.requests().split_off(before);
        assert!(requests.iter().any(|line| line.contains(&asked)), "{variable}: {requests:#?}");
    }
    let before = proxy.requests().len();
    for no_proxy in ["0.0.0.0", "example.com,0.0.0.0", "*"] {
        let ran = pull(&scene, &insecure, &[("HTTP_PROXY", &url), ("NO_PROXY", no_proxy)]);
        assert_eq!(ran.status, 0, "{no_proxy}: {ran:?}");
        assert_eq!(proxy.requests().len(), before, "{no_proxy}");
    }
    assert_eq!(pull(&scene, &insecure, &[("HTTPS_PROXY", &url)]).status, 0, "another protocol's");
    assert_eq!(proxy.requests().len(), before);
    // What is on this machine is not the proxy's to reach.
    let name = scene.server.name("app:1");
    let mut command = scene.command(&["pull", "-q", &name]);
    let ran = finish(command.env("HTTP_PROXY", "http://127.0.0.1:1"));
    assert_eq!((ran.status, ran.out.trim()), (0, name.as_str()), "{ran:?}");
}

#[test]
fn tls_goes_through_a_tunnel() {
    let server = require!(Registry::builder().tls_for("IP:127.0.0.1,IP:0.0.0.0").start());
    let scene = require!(scene("cli-proxy-tls", server));
    let proxy = require!(ForwardProxy::start());
    let host = elsewhere(&scene);
    let certificates = scene.dir.dir("certs");
    let trusted = scene.dir.dir("certs").join(&host);
    std::fs::create_dir(&trusted).unwrap();
    std::fs::copy(scene.server.ca_pem(), trusted.join("ca.crt")).unwrap();
    let certificates = ["--cert-dir", certificates.to_str().unwrap()];
    let url = proxy.url();
    let ran = pull(&scene, &certificates, &[("HTTPS_PROXY", &url)]);
    assert!(ran.status == 0 && ran.err.is_empty(), "{ran:?}");
    let tunnel = format!("CONNECT {host} ");
    assert!(
        proxy.requests().iter().all(|line| line.starts_with(&tunnel)),
        "{:?}",
        proxy.requests()
    );
    let before = proxy.connections();
    assert!(before > 0);
    let variables = [("HTTPS_PROXY", url.as_str()), ("NO_PROXY", "0.0.0.0")];
    assert_eq!(pull(&scene, &certificates, &variables).status, 0);
    assert_eq!(proxy.connections(), before);
}

#[test]
fn a_proxy_that_wants_a_password_gets_it_and_nobody_else_sees_it() {
    let server = require!(Registry::builder().tls_for("IP:127.0.0.1,IP:0.0.0.0").start());
    let tls = require!(scene("cli-proxy-password-tls", server));
    let plain = require!(open("cli-proxy-password"));
    let proxy = require!(ForwardProxy::with_account("anna", SECRET));
    let host = elsewhere(&tls);
    let trusted = tls.dir.dir("certs").join(&host);
    std::fs::create_dir(&trusted).unwrap();
    std::fs::copy(tls.server.ca_pem(), trusted.join("ca.crt")).unwrap();
    let certificates = tls.dir.join("certs");
    let certificates = ["--cert-dir", certificates.to_str().unwrap()];
    let host = elsewhere(&plain);
    let insecure = ["--insecure-registry", host.as_str()];
    let right = proxy.url_as("anna", SECRET);
    let wrong = proxy.url_as("otto", SECRET);
    for (scene, options, variable) in
        [(&plain, &insecure, "HTTP_PROXY"), (&tls, &certificates, "HTTPS_PROXY")]
    {
        for url in [&wrong, &proxy.url()] {
            let ran = pull(scene, options, &[(variable, url)]);
            assert_eq!(ran.status, 1, "{ran:?}");
            assert!(!format!("{ran:?}").contains(SECRET), "{ran:?}");
            // tinyproxy answers as if it were the registry, where it is not asked for a tunnel.
            let refused = ["407", "401", "proxy"].iter().any(|word| ran.err.contains(word));
            assert!(refused, "{ran:?}");
        }
        let ran = pull(scene, options, &[(variable, &right)]);
        assert!(ran.status == 0 && ran.err.is_empty(), "{ran:?}");
        assert!(!scene.server.log().contains(SECRET) && !scene.server.log().contains("Proxy-Auth"));
    }
}

#[test]
fn a_proxy_that_is_not_there_is_told_of() {
    let scene = require!(open("cli-proxy-gone"));
    let host = elsewhere(&scene);
    let gone = [("HTTP_PROXY", "http://anna:hidden-4711@127.0.0.1:1")];
    let ran = pull(&scene, &["--insecure-registry", &host], &gone);
    assert!(ran.status == 1 && ran.err.contains("ECONNREFUSED"), "{ran:?}");
    assert!(!ran.err.contains(SECRET), "{ran:?}");
}
