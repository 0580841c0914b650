//! How a registry wants to be spoken to: the header `WWW-Authenticate`.

use http_auth::ChallengeRef;
use reqwest::Url;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

use crate::error::{Error, ErrorKind, Result};

/// What answers a 401.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

impl Challenge {
    /// The best that the headers offer: tokens before passwords.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self> {
        let mut unknown = Vec::new();
        let mut basic = false;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(value) = value.to_str() else { continue };
            let challenges = http_auth::parse_challenges(value).map_err(|err| {
                malformed(format!("its header WWW-Authenticate cannot be read: {err}"))
            })?;
            for challenge in challenges {
                match challenge.scheme {
                    bearer if bearer.eq_ignore_ascii_case("bearer") => {
                        return bearer_of(&challenge);
                    }
                    scheme if scheme.eq_ignore_ascii_case("basic") => basic = true,
                    other => unknown.push(other.to_owned()),
                }
            }
        }
        match (basic, unknown.first()) {
            (true, _) => Ok(Self::Basic),
            (false, Some(scheme)) => Err(Error::unsupported(format!(
                "it wants to know us by the scheme {scheme:?}; Basic and Bearer are spoken"
            ))
            .with_hint("whoever runs it may give out a password or token for tools like this")),
            (false, None) => Err(malformed("it answers 401 and does not say how to log in")
                .with_hint("this may be a web server that is no registry")),
        }
    }
}

fn bearer_of(challenge: &ChallengeRef<'_>) -> Result<Challenge> {
    let get = |name: &str| {
        let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_unescaped())
    };
    let realm = get("realm").ok_or_else(|| malformed("it wants a token and does not say whose"))?;
    let realm: Url = realm
        .parse()
        .map_err(|err| malformed(format!("its token server {realm:?} is no address: {err}")))?;
    match realm.scheme() {
        "https" | "http" if realm.host_str().is_some() => {}
        other => return Err(malformed(format!("its token server speaks {other:?}, not HTTP"))),
    }
    Ok(Challenge::Bearer { realm, service: get("service") })
}

fn malformed(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Malformed, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Result<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::of(&headers)
    }

    #[test]
    fn tokens_are_preferred_and_parameters_found_in_any_order() {
        let bearer = r#"bearer scope="repository:a:pull,push", service="the \"one\"",REALM="https://auth.example.com/token?x=1""#;
        let expected = Challenge::Bearer {
            realm: "https://auth.example.com/token?x=1".parse().unwrap(),
            service: Some("the \"one\"".to_owned()),
        };
        assert_eq!(of(&[bearer]).unwrap(), expected);
        assert_eq!(of(&["Basic realm=\"r\"", bearer]).unwrap(), expected);
        assert_eq!(of(&["Negotiate, Basic realm=\"r\""]).unwrap(), Challenge::Basic);
    }

    #[test]
    fn what_cannot_be_answered_is_named() {
        for (values, kind, why) in [
            (&[][..], ErrorKind::Malformed, "how to log in"),
            (&["Digest realm=\"r\""], ErrorKind::Unsupported, "Digest"),
            (&["Bearer service=\"s\""], ErrorKind::Malformed, "whose"),
            (&["Bearer realm=\"file:///etc/passwd\""], ErrorKind::Malformed, "not HTTP"),
            (&["Bearer realm=\"nonsense\""], ErrorKind::Malformed, "no address"),
            (&["Bearer realm=\""], ErrorKind::Malformed, "cannot be read"),
        ] {
            let err = of(values).unwrap_err();
            assert_eq!(err.kind(), kind, "{err}");
            assert!(err.to_string().contains(why), "{err}");
        }
    }
}
