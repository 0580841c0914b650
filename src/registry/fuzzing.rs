//! What [`crate::fuzzing`] needs of this module.

use reqwest::header::{HeaderMap, HeaderValue, LINK, WWW_AUTHENTICATE};

use super::challenge::Challenge;
use super::endpoint::{Endpoint, Scheme, is_local, is_loopback, same_site};
use super::listing::next_page;
use crate::image::media_type;

/// What a registry may say in a header, or be called.
pub(crate) fn headers(data: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(data) {
        let mut headers = HeaderMap::new();
        headers.insert(WWW_AUTHENTICATE, value.clone());
        headers.insert(LINK, value);
        if let Ok(Challenge::Bearer { realm, .. }) = Challenge::of(&headers) {
            assert!(matches!(realm.scheme(), "http" | "https") && realm.has_host());
        }
        let endpoint = Endpoint::registry("registry.example:5000");
        if let Ok(here) = endpoint.url(Scheme::Https, "/v2/_catalog")
            && let Ok(Some(next)) = next_page(&headers, &here, &endpoint)
        {
            let next = endpoint.url(Scheme::Https, &next).expect("a path of the same host");
            assert_eq!(next.host_str(), here.host_str());
        }
    }
    let text = String::from_utf8_lossy(data);
    let endpoint = Endpoint::registry(&text);
    let host = endpoint.host();
    assert!(!endpoint.is_loopback() || is_loopback(&host) && is_local(&host));
    assert!(same_site(&host, &host));
    let _ = media_type(data, Some(&text));
}
