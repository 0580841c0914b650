//! Credentials are kept once a registry has taken them.

use coracle::ErrorKind;
use coracle::registry::{Credentials, Kept, Registry};
use serde_json::json;

use crate::common::http::Response;
use crate::common::registry::Registry as Server;
use crate::common::require;
use crate::common::server::Scripted;
use crate::common::tokens::{TokenServer, basic};
use crate::{PASSWORD, anna, config, config_file, configured, is_in, later, locked, told};

#[test]
fn wrong_ones_are_refused_in_the_registrys_words_and_right_ones_found_later() {
    configured(|_| {
        let server = require!(locked());
        let client = later();
        for (user, password) in [("anna", "wrong"), ("nobody", PASSWORD), ("", "")] {
            let wrong = Credentials::password(user, password);
            let err = client.login(server.address(), wrong).blocking().unwrap_err();
            assert_eq!(err.kind(), ErrorKind::PermissionDenied);
            let told = told(&err);
            for word in [server.address(), &format!("as {user}"), "401", "authentication required"]
            {
                assert!(told.contains(word), "{word}: {told}");
            }
            assert_eq!(err.hint(), Some("user name or password are wrong"));
        }
        assert!(!config_file().exists());
        assert!(!is_in(&client, &server));
        let kept = client.login(server.address(), anna()).blocking().unwrap();
        assert_eq!(kept, Kept::File(config_file()));
        assert!(is_in(&client, &server), "the same client");
        assert!(is_in(&later(), &server));
        assert!(!is_in(&Registry::new().unwrap(), &server));
        // Refused, nothing changes.
        let wrong = Credentials::password("anna", "wrong");
        client.login(server.address(), wrong).blocking().unwrap_err();
        assert!(is_in(&client, &server) && is_in(&later(), &server));
        let again = later().login_again(server.address()).blocking().unwrap();
        assert_eq!(again, Some(Kept::File(config_file())));
        assert!(client.logout(format!("https://{}/v2/", server.address())).blocking().unwrap());
        assert!(!is_in(&client, &server) && !is_in(&later(), &server));
        assert!(!client.logout(server.address()).blocking().unwrap());
        assert_eq!(client.login_again(server.address()).blocking().unwrap(), None);
        assert_eq!(config(), json!({ "auths": {} }));
    });
}

#[test]
fn without_a_configuration_they_are_kept_in_memory() {
    configured(|_| {
        let server = require!(locked());
        let client = Registry::new().unwrap();
        let clone = client.clone();
        assert!(!is_in(&client, &server));
        let kept = client.login(server.address(), anna()).blocking().unwrap();
        assert_eq!(kept, Kept::Memory);
        assert!(is_in(&client, &server) && is_in(&clone, &server));
        assert!(!is_in(&Registry::new().unwrap(), &server) && !is_in(&later(), &server));
        assert!(clone.logout(server.address()).blocking().unwrap());
        assert!(!is_in(&client, &server));
        assert!(!client.logout(server.address()).blocking().unwrap());
        assert!(!config_file().exists());
    });
}

#[test]
fn a_login_replaces_credentials_that_were_given() {
    configured(|_| {
        let server = require!(locked());
        let wrong = Credentials::password("anna", "wrong");
        let builder = Registry::builder().credentials(server.address(), wrong).docker_config();
        let client = builder.build().unwrap();
        assert!(!is_in(&client, &server));
        client.login(server.address(), anna()).blocking().unwrap();
        assert!(is_in(&client, &server) && is_in(&later(), &server));
    });
}

#[test]
fn a_registry_over_tls_is_logged_in_to() {
    configured(|_| {
        let server = require!(Server::builder().tls().htpasswd("anna", PASSWORD).start());
        let stranger = later();
        let err = stranger.login(server.address(), anna()).blocking().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable, "{}", told(&err));
        let pem = std::fs::read(server.ca_pem()).unwrap();
        let client = Registry::builder().certificate_authority(pem).docker_config();
        let client = client.build().unwrap();
        client.login(server.address(), anna()).blocking().unwrap();
        assert!(is_in(&client, &server));
    });
}

#[test]
fn an_identity_token_is_kept_in_place_of_the_password() {
    configured(|_| {
        let tokens = require!(TokenServer::start());
        tokens.user("anna", PASSWORD);
        tokens.policy(|user, _, _| user.is_some());
        let server = require!(Server::builder().tokens(&tokens).start());
        let client = later();
        let wrong = Credentials::password("anna", "wrong");
        let err = client.login(server.address(), wrong).blocking().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::PermissionDenied);
        let told = told(&err);
        let words = ["as anna", "get a token", "incorrect username or password"];
        words.iter().for_each(|word| assert!(told.contains(word), "{word}: {told}"));
        assert!(!config_file().exists());
        client.login(server.address(), anna()).blocking().unwrap();
        let auth = basic("anna", "");
        let entry = config()["auths"][server.address()].clone();
        assert_eq!(entry["auth"], auth.strip_prefix("Basic ").unwrap());
        let token = entry["identitytoken"].as_str().unwrap().to_owned();
        assert!(token.starts_with("refresh-"), "{entry}");
        assert!(is_in(&later(), &server));
        let last = tokens.requests().pop().unwrap();
        assert_eq!(last.grant_type.as_deref(), Some("refresh_token"));
        assert_eq!(last.user.as_deref(), Some("anna"));

        // The token itself can be what to log in with, and a newer one that it is answered by is kept.
        client.logout(server.address()).blocking().unwrap();
        assert!(!is_in(&client, &server));
        let credentials = Credentials::IdentityToken(token.clone());
        client.login(server.address(), credentials).blocking().unwrap();
        let newer = config()["auths"][server.address()].clone();
        assert_eq!(newer.as_object().unwrap().len(), 1);
        assert!(newer["identitytoken"].as_str().is_some_and(|newer| newer != token), "{newer}");
        assert!(is_in(&later(), &server));
    });
}

#[test]
fn a_token_server_that_gives_none_leaves_the_password() {
    configured(|_| {
        let tokens = require!(TokenServer::start());
        tokens.user("anna", PASSWORD);
        tokens.policy(|user, _, _| user.is_some());
        tokens.edit(|answer| drop(answer.as_object_mut().unwrap().remove("refresh_token")));
        let server = require!(Server::builder().tokens(&tokens).start());
        later().login(server.address(), anna()).blocking().unwrap();
        let auth = basic("anna", PASSWORD);
        let entry = &config()["auths"][server.address()];
        assert_eq!(*entry, json!({ "auth": auth.strip_prefix("Basic ").unwrap() }));
        assert!(is_in(&later(), &server));
    });
}

#[test]
fn credentials_are_not_shown_to_strangers_nor_where_nobody_asks() {
    configured(|_| {
        let stranger = Scripted::start(|_| Response::json(r#"{"token":"t"}"#));
        // Of another site, by its name.
        let realm = stranger.url().replace("127.0.0.1", "localhost");
        let header = format!(r#"Bearer realm="{realm}/token",service="s""#);
        let server =
            Scripted::start(move |_| Response::new(401).header("WWW-Authenticate", &header));
        let client = later();
        let err = client.login(server.address(), anna()).blocking().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::SafetyViolation, "{}", told(&err));
        assert!(stranger.requests().is_empty());

        let away = stranger.url();
        let server = Scripted::start(move |_| Response::redirect(307, format!("{away}/v2/")));
        client.login(server.address(), anna()).blocking().unwrap();
        let sent = |server: &Scripted| {
            let requests = server.requests();
            requests.iter().any(|request| request.header("Authorization").is_some())
        };
        assert!(!sent(&stranger) && !sent(&server));
        let open = require!(Server::start());
        client.login(open.address(), anna()).blocking().unwrap();
    });
}

#[test]
fn what_is_no_registry_takes_no_login() {
    configured(|_| {
        let page = Scripted::start(|_| Response::html("<p>Welcome"));
        let missing = Scripted::start(|_| Response::new(404));
        let digest = Scripted::start(|_| {
            Response::new(401).header("WWW-Authenticate", "Digest realm=\"r\"")
        });
        let client = Registry::builder().docker_config().retries(0).build().unwrap();
        for (address, kind) in [
            (page.address(), ErrorKind::Malformed),
            (missing.address(), ErrorKind::NotFound),
            (digest.address(), ErrorKind::Unsupported),
            ("127.0.0.1:1".to_owned(), ErrorKind::Unavailable),
            ("no such host".to_owned(), ErrorKind::InvalidInput),
            ("anna:secret@127.0.0.1:1".to_owned(), ErrorKind::InvalidInput),
            (String::new(), ErrorKind::InvalidInput),
        ] {
            let err = client.login(&address, anna()).blocking().unwrap_err();
            assert_eq!(err.kind(), kind, "{}", told(&err));
            assert!(err.to_string().contains(&address), "{err}");
        }
        let server = require!(locked());
        let colon = Credentials::password("an:na", PASSWORD);
        let err = client.login(server.address(), colon).blocking().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidInput, "{}", told(&err));
        assert!(!config_file().exists());
    });
}
