//! Images on HTTP servers, read in ranges.
//!
//! Source: RFC 9110, sections 8.8 (validators), 13 (conditional requests) and 14 (ranges).

use super::certificates::system_roots;
use super::credentials::Login;
use super::origin::{Failure, Identity, MOST_VERSION, Origin, Version};
use super::url::RemoteUrl;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::io::{self, Read};
use std::time::Duration;
use ureq::config::{Config, RedirectAuthHeaders};
use ureq::http::{HeaderMap, Response, StatusCode, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

/// How often a server may send a request elsewhere.
const MOST_REDIRECTS: u32 = 5;
/// Longest head of a response in bytes.
const MOST_HEAD: usize = 16 << 10;
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Connections that are kept open.
const MOST_IDLE: usize = 16;
/// An image on an HTTP server.
pub(super) struct HttpOrigin {
    agent: Agent,
    target: String,
    authorization: Option<String>,
}

impl HttpOrigin {
    /// The image at `url`. Reads the certificates of CAs; does not connect.
    pub(super) fn new(url: &RemoteUrl, login: Option<&Login>) -> Self {
        let builder = Config::builder()
            .http_status_as_error(false)
            // An encrypted URL stays encrypted.
            .https_only(url.is_encrypted())
            .max_redirects(MOST_REDIRECTS)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .max_response_header_size(MOST_HEAD)
            .max_idle_connections(MOST_IDLE)
            .max_idle_connections_per_host(MOST_IDLE)
            .user_agent(concat!("synthdisk/", env!("CARGO_PKG_VERSION")))
            .accept("*/*")
            // What is compressed has no ranges of the image.
            .accept_encoding("identity");
        let _ = rustls::crypto::ring::default_provider().install_default(); // a second time is no harm
        let roots = system_roots().into_iter().map(|root| Certificate::from_der(&root).to_owned());
        let tls = TlsConfig::builder().root_certs(RootCerts::from(roots));
        Self {
            agent: builder.tls_config(tls.build()).build().new_agent(),
            target: url.target(),
            authorization: login.map(basic),
        }
    }

    /// The response to a request for the bytes from `first` to `last`.
    fn get(
        &self,
        (first, last): (u64, u64),
        version: Option<&Version>,
        time: Duration,
    ) -> Result<Response<Body>, Failure> {
        let mut request =
            self.agent.get(&self.target).header(header::RANGE, format!("bytes={first}-{last}"));
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        request = match version {
            // A weak tag never matches; it is compared here.
            Some(Version::Tag(tag)) if !tag.starts_with("W/") => {
                request.header(header::IF_MATCH, tag)
            }
            Some(Version::Date(date)) => request.header(header::IF_UNMODIFIED_SINCE, date),
            _ => request,
        };
        let config =
            request.config().timeout_global(Some(time)).timeout_connect(Some(CONNECT.min(time)));
        config.build().call().map_err(|e| self.failure(e))
    }

    /// What an error of the client means. Its own words may contain a redirect's URL, and so secrets.
    fn failure(&self, e: ureq::Error) -> Failure {
        use ureq::Error as E;
        match e {
            E::Timeout(_) => Failure::Passing("the server did not answer in time".into()),
            E::Io(e) => {
                let what = e.to_string();
                // rustls reports refused certificates as this.
                match e.kind() {
                    io::ErrorKind::InvalidData => Failure::Lasting(what),
                    _ => Failure::Passing(what),
                }
            }
            E::HostNotFound => Failure::Passing("there is no such host".into()),
            E::ConnectionFailed => Failure::Passing("the connection failed".into()),
            E::TooManyRedirects => {
                Failure::Lasting(format!("the server redirects more than {MOST_REDIRECTS} times"))
            }
            E::RequireHttpsOnly(_) => {
                Failure::Lasting("the server redirects to a URL without encryption".into())
            }
            E::Rustls(e) => Failure::Lasting(e.to_string()),
            E::BodyStalled => Failure::Passing("the server did not answer in time".into()),
            E::Tls(what) => Failure::Lasting(what.to_owned()),
            E::LargeResponseHeader(..) | E::Protocol(_) | E::Http(_) => {
                Failure::Passing("the answer is not valid HTTP".into())
            }
            _ => Failure::Passing("the request failed".into()),
        }
    }

    /// What a response says that is not the requested range.
    fn refusal(&self, status: StatusCode) -> Failure {
        match status.as_u16() {
            200 => Failure::Lasting(
                "the server cannot send parts of a file (it ignores Range); copy the image, or \
                 serve it with a server that can (nginx, Apache, Caddy, S3)"
                    .into(),
            ),
            401 | 403 => Failure::Lasting(format!(
                "the server denies access (status {}); give user and password in ~/.netrc",
                status.as_u16()
            )),
            404 | 410 => Failure::Lasting(format!(
                "the server has no such file (status {})",
                status.as_u16()
            )),
            412 => self.changed(),
            416 => Failure::Changed("it is shorter than it was; mount it again".into()),
            408 | 425 | 429 | 500..=599 => {
                Failure::Passing(format!("the server answers with status {}", status.as_u16()))
            }
            other => Failure::Lasting(format!("the server answers with status {other}")),
        }
    }

    fn changed(&self) -> Failure {
        Failure::Changed("it has changed since it was opened; mount it again".into())
    }

    /// Length and version of the image according to a response with the bytes from `first` to `last`.
    fn check(&self, response: &Response<Body>, first: u64, last: u64) -> Result<Identity, Failure> {
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(self.refusal(response.status()));
        }
        let headers = response.headers();
        let encoded = text(headers, header::CONTENT_ENCODING);
        if encoded.is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
            return Err(Failure::Lasting(
                "the server compresses what it sends; turn that off for images".into(),
            ));
        }
        let range = text(headers, header::CONTENT_RANGE).and_then(content_range);
        match range {
            Some((from, to, len)) if (from, to) == (first, last) => {
                Ok(Identity { len, version: version(headers) })
            }
            _ => Err(Failure::Passing(
                "the server sends another range than the requested one".into(),
            )),
        }
    }
}

impl Origin for HttpOrigin {
    fn identify(&self, time: Duration) -> Result<Identity, Failure> {
        let response = self.get((0, 0), None, time)?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(Failure::Lasting("it is empty".into()));
        }
        self.check(&response, 0, 0)
    }

    fn read(
        &self,
        buf: &mut [u8],
        offset: u64,
        identity: &Identity,
        time: Duration,
    ) -> Result<(), Failure> {
        let last = offset + buf.len() as u64 - 1; // within the image
        let mut response = self.get((offset, last), identity.version.as_ref(), time)?;
        let now = self.check(&response, offset, last)?;
        let is_same = now.len == identity.len
            && match (&identity.version, &now.version) {
                (Some(pinned), Some(now)) => pinned == now,
                // Nothing was promised; or the condition of the request was checked by the server.
                (None, _) => true,
                (Some(Version::Tag(tag)), None) => !tag.starts_with("W/"),
                (Some(Version::Date(_)), None) => true,
            };
        if !is_same {
            return Err(self.changed());
        }
        let failed = |e: io::Error| Failure::Passing(e.to_string());
        let mut body = response.body_mut().with_config().limit(buf.len() as u64 + 1).reader();
        body.read_exact(buf).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => {
                Failure::Passing("the server sends less than announced".into())
            }
            _ => failed(e),
        })?;
        // At the end, the connection can be used again.
        match body.read(&mut [0]).map_err(failed)? {
            0 => Ok(()),
            _ => Err(Failure::Passing("the server sends more than announced".into())),
        }
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// First and last byte of `bytes FIRST-LAST/LENGTH`, and the length.
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, len) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u64>().ok().filter(|_| digits)
    };
    let (first, last, len) = (number(first)?, number(last)?, number(len)?);
    (first <= last && last < len).then_some((first, last, len))
}

/// The version of a file according to the `headers` of a response.
fn version(headers: &HeaderMap) -> Option<Version> {
    let short = |text: &&str| text.len() <= MOST_VERSION;
    let tag = text(headers, header::ETAG).filter(short).filter(|tag| tag.ends_with('"'));
    let date = || text(headers, header::LAST_MODIFIED).filter(short);
    match tag {
        Some(tag) => Some(Version::Tag(tag.to_owned())),
        None => date().map(|date| Version::Date(date.to_owned())),
    }
}

/// The value of an `Authorization` header. Source: RFC 7617.
fn basic(login: &Login) -> String {
    let plain = format!("{}:{}", login.user, login.password);
    format!("Basic {}", BASE64_STANDARD.encode(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_responses() {
        for (text, expected) in [
            ("bytes 0-0/10", Some((0, 0, 10))),
            ("bytes 5-9/10", Some((5, 9, 10))),
            ("bytes 5-10/10", None),
            ("bytes 9-5/10", None),
            ("bytes 0-0/*", None),
            ("bytes */10", None),
            ("bytes 0-0/+10", None),
            ("bytes 0-18446744073709551616/10", None),
            ("items 0-0/10", None),
            ("", None),
        ] {
            assert_eq!(content_range(text), expected, "{text}");
        }
    }

    #[test]
    fn basic_authentication() {
        let login = Login { user: "Aladdin".into(), password: "open sesame".into() };
        assert_eq!(basic(&login), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }

    #[test]
    fn the_strongest_version_counts() {
        let mut headers = HeaderMap::new();
        assert_eq!(version(&headers), None);
        headers.insert(header::LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
        assert!(matches!(version(&headers), Some(Version::Date(_))));
        headers.insert(header::ETAG, "W/\"1\"".parse().unwrap());
        assert_eq!(version(&headers), Some(Version::Tag("W/\"1\"".into())));
        headers.insert(header::ETAG, "broken".parse().unwrap());
        assert!(matches!(version(&headers), Some(Version::Date(_))));
    }
}
