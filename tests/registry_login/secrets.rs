//! What must stay between a client and a registry is in no log, however much is logged, and in nothing that is shown.

use std::sync::Mutex;

use coracle::image::Store;
use coracle::registry::Registry;
use log::{LevelFilter, Log, Metadata, Record};

use crate::common::http::Response;
use crate::common::registry::Registry as Server;
use crate::common::relay::Relay;
use crate::common::server::Scripted;
use crate::common::tokens::{TokenServer, basic};
use crate::common::{require, setup};
use crate::{PASSWORD, anna, config, configured, later, told};

/// Everything that this process has logged.
struct Journal(Mutex<String>);

static JOURNAL: Journal = Journal(Mutex::new(String::new()));

impl Log for Journal {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut journal = self.0.lock().unwrap();
        *journal += &format!("{} {}: {}\n", record.level(), record.target(), record.args());
    }

    fn flush(&self) {}
}

#[test]
fn secrets_are_in_no_log_and_in_nothing_that_is_shown() {
    configured(|_| {
        log::set_logger(&JOURNAL).unwrap();
        log::set_max_level(LevelFilter::Trace);
        let tokens = require!(TokenServer::start());
        tokens.user("anna", PASSWORD);
        let server = require!(Server::builder().tokens(&tokens).start());
        let relay = Relay::start(server.address());
        let sandbox = setup("login-secrets");
        let store = Store::open(sandbox.join("store")).unwrap();
        let mut shown = String::new();

        let client = later();
        client.login(relay.address(), anna()).blocking().unwrap();
        let err = client.pull(relay.name("nothing:1"), &store).blocking().unwrap_err();
        assert!(told(&err).contains("404"), "{err:?}");
        shown += &format!("{client:?} {client:#?} {err:?} {err:#}");

        // A proxy that has a password sees what is asked of any registry.
        let proxy = Scripted::start(|_| Response::new(404));
        let address = proxy.url().replace("http://", &format!("http://anna:{PASSWORD}@"));
        let builder = Registry::builder().proxy(address).plain_http("registry.example");
        shown += &format!("{builder:?}");
        let client = builder.credentials("registry.example", anna()).build().unwrap();
        let err = client.pull("registry.example/nothing:1", &store).blocking().unwrap_err();
        shown += &format!("{client:?} {client:#?} {err:?} {err:#}");

        let password = basic("anna", PASSWORD);
        let proved = proxy.requests();
        assert_eq!(proved[0].header("Proxy-Authorization"), Some(&*password));
        let auths = config()["auths"][relay.address()].clone();
        let refresh = auths["identitytoken"].as_str().unwrap().to_owned();
        let mut secrets = vec![PASSWORD.to_owned(), password.replace("Basic ", ""), refresh];
        let bearers = relay.requests();
        let bearers = bearers.iter().filter_map(|it| it.header("Authorization"));
        secrets.extend(bearers.filter_map(|it| it.strip_prefix("Bearer ")).map(str::to_owned));
        assert!(secrets.len() > 3, "no token was shown");

        let journal = JOURNAL.0.lock().unwrap();
        for host in ["\"127.0.0.1\"", "\"registry.example\"", &proxy.address()] {
            assert!(journal.contains(host), "of {host} nothing is logged:\n{journal}");
        }
        for secret in &secrets {
            assert!(!journal.contains(secret), "{secret} in\n{journal}");
            assert!(!shown.contains(secret), "{secret} in\n{shown}");
        }
    });
}
