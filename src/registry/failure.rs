//! Failures of requests: what they are called, and whether to try again.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use super::guard::Refused;
use crate::error::{Context, Error, ErrorKind};

const TROUBLE: &str = "the network or the other side is in trouble: try again later; Builder::retries sets how often that happens by itself";

/// Why a request failed, and what follows from it.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) remedy: Remedy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// It would fail again.
    None,
    /// It may work later: after this long, if the other side said.
    Again(Option<Duration>),
    /// The other side does not speak TLS.
    WithoutTls,
}

impl Failure {
    pub(super) fn again(error: Error) -> Self {
        Self { error, remedy: Remedy::Again(None) }
    }

    pub(super) fn context(self, message: impl FnOnce() -> String) -> Self {
        Self { error: self.error.context(message()), ..self }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, remedy: Remedy::None }
    }
}

/// What is under all the wrapping that says where in the client it happened.
fn causes<'a>(
    err: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    fn inner<'a>(err: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
        // An io::Error keeps an error that was put into it to itself.
        match err.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => err.source(),
        }
    }
    std::iter::successors(Some(err), |err| inner(*err))
}

/// Says why the HTTP client failed. The address is left out: where it came from a redirect, it may hold secrets.
pub(super) fn explain(err: &reqwest::Error) -> Failure {
    let tls = causes(err).find_map(|cause| cause.downcast_ref::<rustls::Error>());
    if let Some(tls) = tls {
        return explain_tls(tls);
    }
    if let Some(refused) = causes(err).find_map(|cause| cause.downcast_ref::<Refused>()) {
        return Error::new(ErrorKind::SafetyViolation, refused.to_string()).into();
    }
    if err.is_timeout() {
        return too_late();
    }
    let os = causes(err).find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error());
    let innermost = causes(err).last().map(ToString::to_string).unwrap_or_default();
    if err.is_dns() {
        let error =
            Error::new(ErrorKind::Unavailable, format!("its address is not known: {innermost}"));
        return Failure { error: error.with_hint("is the name right?"), remedy: Remedy::None };
    }
    if let Some(why) = innermost.strip_prefix("tunnel error: ") {
        let message = format!("the proxy makes no connection to it: {why}");
        let error = Error::new(ErrorKind::Unavailable, message);
        return Failure::again(error.with_hint(
            "the proxy may not reach it, or want a name and a password, which belong in its address",
        ));
    }
    match os {
        Some(errno) => {
            let refused = errno == libc::ECONNREFUSED;
            let failed = Err::<(), _>(io::Error::from_raw_os_error(errno));
            let what = if err.is_connect() { "connect" } else { "talk to it" };
            let error =
                failed.context(|| what).expect_err("it is one").with_kind(ErrorKind::Unavailable);
            match refused {
                true => Failure {
                    error: error.with_hint("nothing listens there: is the port right?"),
                    remedy: Remedy::None,
                },
                false => Failure::again(error.with_hint(TROUBLE)),
            }
        }
        None => {
            let message = format!("the connection broke: {innermost}");
            Failure::again(Error::new(ErrorKind::Unavailable, message).with_hint(TROUBLE))
        }
    }
}

/// Says that nothing came for too long.
pub(super) fn too_late() -> Failure {
    let error = Error::new(ErrorKind::TimedOut, "it did not answer in time");
    Failure::again(
        error.with_hint("Builder::read_timeout and connect_timeout set how long is waited"),
    )
}

fn explain_tls(err: &rustls::Error) -> Failure {
    use rustls::{CertificateError as Certificate, Error as Tls};
    let hint = match err {
        Tls::InvalidMessage(_) => {
            "it does not seem to speak TLS: Builder::plain_http allows plain HTTP by the registry's name"
        }
        Tls::InvalidCertificate(Certificate::UnknownIssuer) => {
            "Builder::certificate_authority adds the one that signed it"
        }
        Tls::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => "the certificate is another host's: use the name that it was made for",
        Tls::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            "the certificate has expired, or this machine's clock is wrong"
        }
        Tls::AlertReceived(
            rustls::AlertDescription::CertificateRequired
            | rustls::AlertDescription::BadCertificate,
        ) => "it wants to know us by a certificate: Builder::client_certificate gives one",
        _ => "another port may be the right one, or something on the way may change what is sent",
    };
    let error = Error::new(ErrorKind::Unavailable, format!("TLS failed: {err}")).with_hint(hint);
    let remedy =
        if matches!(err, Tls::InvalidMessage(_)) { Remedy::WithoutTls } else { Remedy::None };
    Failure { error, remedy }
}
