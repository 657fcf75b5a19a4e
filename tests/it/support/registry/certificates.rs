//! An authority of the test's own and what it signs, made by openssl(1).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::support::Run;

/// Certificates in a directory.
pub(crate) struct Certificates {
    dir: PathBuf,
    wants_client: bool,
}

impl Certificates {
    /// Makes an authority, and a certificate for 127.0.0.1, localhost and r.test.
    pub(crate) fn make(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let own = Self { dir: dir.to_owned(), wants_client: false };
        own.openssl("ca", &["-addext", "basicConstraints=critical,CA:TRUE"]);
        own.signed("server", &["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:r.test"]);
        own.signed("client", &["-addext", "extendedKeyUsage=clientAuth"]);
        own
    }

    /// The server's certificate is then one that begins to be good in 2099.
    pub(crate) fn of_the_future(self) -> Self {
        let at = |file: &str| self.path(file).to_str().unwrap().to_owned();
        let config = format!(
            "[ca]\ndefault_ca=own\n[own]\nnew_certs_dir={0}\ndatabase={0}/index.txt\nrand_serial=yes\n\
             default_md=sha256\npolicy=any\ncopy_extensions=copy\n[any]\ncommonName=supplied\n",
            self.dir.display()
        );
        std::fs::write(at("ca.conf"), config).unwrap();
        std::fs::write(at("index.txt"), "").unwrap();
        Run::new("openssl")
            .args(["req", "-new", "-key", &at("server.key"), "-subj", "/CN=server", "-config", "/dev/null"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1", "-out", &at("server.csr")])
            .go()
            .ok();
        Run::new("openssl")
            .args(["ca", "-batch", "-notext", "-config", &at("ca.conf")])
            .args(["-cert", &at("ca.pem"), "-keyfile", &at("ca.key")])
            .args(["-startdate", "20990101000000Z", "-enddate", "20991231000000Z"])
            .args(["-in", &at("server.csr"), "-out", &at("server.pem")])
            .go()
            .ok();
        self
    }

    /// The server then wants to see the client's certificate.
    pub(crate) fn wanting_client(mut self) -> Self {
        self.wants_client = true;
        self
    }

    /// The path of `ca`, `server` or `client`, with `.pem` or `.key`.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    fn signed(&self, name: &str, more: &[&str]) {
        let (ca, key) = (self.path("ca.pem"), self.path("ca.key"));
        let mut args = vec!["-addext", "basicConstraints=critical,CA:FALSE", "-CA", ca.to_str().unwrap()];
        args.extend(["-CAkey", key.to_str().unwrap()]);
        args.extend(more);
        self.openssl(name, &args);
    }

    fn openssl(&self, name: &str, more: &[&str]) {
        let (pem, key) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        Run::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "2", "-subj", &format!("/CN={name}"), "-config", "/dev/null"])
            .args(["-keyout", key.to_str().unwrap(), "-out", pem.to_str().unwrap()])
            .args(more)
            .go()
            .ok();
    }

    pub(super) fn server_config(&self) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = vec![CertificateDer::from_pem_file(self.path("server.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(self.path("server.key")).unwrap();
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if self.wants_client {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        Arc::new(builder.with_single_cert(chain, key).unwrap())
    }
}
