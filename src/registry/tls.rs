//! TLS: whom to believe, and who we are.

use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::error::{Error, ErrorKind, Result};

/// Certificates beyond the system's.
#[derive(Default)]
pub(super) struct Trust {
    authorities: Vec<CertificateDer<'static>>,
    roots: OnceLock<Arc<RootCertStore>>,
}

/// A certificate by which a registry knows us.
pub(super) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads certificate and key in the PEM format.
    pub(super) fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self> {
        let chain = certificates(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|err| {
            Error::invalid(format!("it is no private key in the PEM format: {err}"))
        })?;
        Ok(Self { chain, key })
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let wrong =
        |why: String| Error::invalid(format!("it is no certificate in the PEM format{why}"));
    let read = read.map_err(|err| wrong(format!(": {err}")))?;
    if read.is_empty() { Err(wrong(String::new())) } else { Ok(read) }
}

impl Trust {
    /// Believes those whom these sign for, too.
    pub(super) fn add_pem(&mut self, pem: &[u8]) -> Result<()> {
        let added = certificates(pem)?;
        let mut probe = RootCertStore::empty();
        for certificate in &added {
            probe.add(certificate.clone()).map_err(|err| {
                Error::invalid(format!("the certificate cannot be that of an authority: {err}"))
            })?;
        }
        self.authorities.extend(added);
        Ok(())
    }

    /// The system's and the added ones. Reading some hundred takes milliseconds, so it is done when first needed.
    fn roots(&self) -> Arc<RootCertStore> {
        let load = || {
            let mut roots = RootCertStore::empty();
            // A damaged one among the system's is no reason to believe nobody.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots.add_parsable_certificates(self.authorities.iter().cloned());
            Arc::new(roots)
        };
        self.roots.get_or_init(load).clone()
    }

    /// Believes nobody: for connections without TLS.
    pub(super) fn nobody() -> Result<ClientConfig> {
        Self::client(Arc::new(RootCertStore::empty()), None)
    }

    /// For a host that may know us by a certificate.
    pub(super) fn config(&self, identity: Option<&Identity>) -> Result<ClientConfig> {
        check_processor()?;
        Self::client(self.roots(), identity)
    }

    fn client(roots: Arc<RootCertStore>, identity: Option<&Identity>) -> Result<ClientConfig> {
        let failed =
            |err: rustls::Error| Error::new(ErrorKind::InvalidInput, format!("set up TLS: {err}"));
        let provider = Arc::new(rustls_graviola::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_root_certificates(roots);
        match identity {
            None => Ok(builder.with_no_client_auth()),
            Some(Identity { chain, key }) => {
                builder.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(failed)
            }
        }
    }
}

/// The cryptography panics where it lacks an instruction.
fn check_processor() -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    let suits = is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("pclmulqdq")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("adx")
        && is_x86_feature_detected!("avx")
        && is_x86_feature_detected!("avx2");
    #[cfg(target_arch = "aarch64")]
    let suits = std::arch::is_aarch64_feature_detected!("neon")
        && std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull")
        && std::arch::is_aarch64_feature_detected!("sha2");
    if suits {
        return Ok(());
    }
    Err(Error::unsupported("TLS needs a processor with instructions for AES (adx, aes, avx2, bmi1 and pclmulqdq, or aes, pmull and sha2)")
        .with_hint("processors since about 2014 have them; an emulator may hide them"))
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("added", &self.authorities.len()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_refused() {
        let mut trust = Trust::default();
        for wrong in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
        {
            let err = trust.add_pem(wrong.as_bytes()).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidInput, "{wrong:?}: {err}");
        }
        assert!(Identity::from_pem(b"", b"").is_err());
    }
}
