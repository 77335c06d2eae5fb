//! The proxy for upstream connections, read from the environment variables that curl reads.

use std::fmt;
use std::net::IpAddr;

use http::{HeaderValue, Uri, uri::Scheme};
use hyper_util::client::proxy::matcher::Matcher;

use super::UpstreamUrl;

const TAKES: &str = "http://host:port, with user:password@ before the host where the proxy asks for them; NO_PROXY names hosts that are reached without it";

/// The proxy through which upstream is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    uri: Uri,
    authorization: Option<HeaderValue>,
    variable: &'static str,
}

impl Proxy {
    /// Chooses the proxy for this upstream: `HTTPS_PROXY` or `HTTP_PROXY` by the upstream's scheme, else `ALL_PROXY`, in
    /// upper or lower case. Loopback addresses and what `NO_PROXY` lists (names and their subdomains, addresses,
    /// networks, `*`) are reached directly.
    ///
    /// # Errors
    /// The variable's value is not a proxy URL. The error does not repeat it, since it may contain a password.
    pub(super) fn from_environment(
        environment: &[(String, String)],
        upstream: &UpstreamUrl,
    ) -> Result<Option<Self>, String> {
        let value = |wanted: &str| {
            let found = environment.iter().find(|(name, _)| name == wanted);
            found
                .map(|(_, value)| value.as_str())
                .filter(|value| !value.is_empty())
        };
        let names = if *upstream.scheme() == Scheme::HTTPS {
            ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
        } else {
            ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
        };
        let Some((variable, text)) = names
            .into_iter()
            .find_map(|name| Some((name, value(name)?)))
        else {
            return Ok(None);
        };
        let exceptions = value("NO_PROXY").or_else(|| value("no_proxy"));
        let target: Uri = upstream.to_string().parse().unwrap_or_default();
        let any = Matcher::builder()
            .all("http://any")
            .no(exceptions.unwrap_or_default())
            .build();
        if is_loopback(upstream.authority().host()) || any.intercept(&target).is_none() {
            return Ok(None);
        }
        Matcher::builder()
            .all(text)
            .build()
            .intercept(&target)
            .filter(|proxy| is_usable(proxy.uri()))
            .map(|proxy| Self {
                uri: proxy.uri().clone(),
                authorization: proxy.basic_auth().cloned(),
                variable,
            })
            .map(Some)
            .ok_or_else(|| {
                format!(
                    "environment {variable}: got something else (not repeated here), takes {TAKES}"
                )
            })
    }

    /// The proxy's URL, without credentials.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The value of `Proxy-Authorization`, if the proxy requires credentials.
    #[must_use]
    pub fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }
}

/// Address and origin, without credentials.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self
            .uri
            .authority()
            .map_or("", |authority| authority.as_str());
        write!(f, "http://{address} (environment {})", self.variable)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

fn is_usable(uri: &Uri) -> bool {
    let host_and_port = uri.authority().map_or("", |authority| authority.as_str());
    let has_host = uri.host().is_some_and(|host| !host.is_empty());
    // `Uri` does not reject a port that is not a number.
    let port_is_right = uri.port().is_none() == (uri.host() == Some(host_and_port));
    uri.scheme() == Some(&Scheme::HTTP) && has_host && port_is_right
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    address
        .parse()
        .is_ok_and(|address: IpAddr| address.is_loopback())
        || host.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(upstream: &str, environment: &[(&str, &str)]) -> Result<Option<String>, String> {
        let environment: Vec<_> = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let upstream = UpstreamUrl::parse(upstream).expect("a URL");
        let proxy = Proxy::from_environment(&environment, &upstream)?;
        Ok(proxy.map(|proxy| proxy.to_string()))
    }

    #[test]
    fn the_variable_is_chosen_by_the_scheme_of_upstream() {
        let all = [
            ("ALL_PROXY", "http://all:1"),
            ("HTTP_PROXY", "http://plain:2"),
            ("https_proxy", "secure:3"),
        ];
        for (upstream, environment, through) in [
            (
                "https://a.test",
                &all[..],
                Some("http://secure:3 (environment https_proxy)"),
            ),
            (
                "http://a.test",
                &all[..],
                Some("http://plain:2 (environment HTTP_PROXY)"),
            ),
            (
                "https://a.test",
                &all[..2],
                Some("http://all:1 (environment ALL_PROXY)"),
            ),
            ("https://a.test", &[("HTTPS_PROXY", "")], None),
            ("https://a.test", &[], None),
        ] {
            assert_eq!(
                proxy(upstream, environment),
                Ok(through.map(str::to_owned)),
                "{upstream}"
            );
        }
    }

    #[test]
    fn loopback_and_exceptions_are_reached_directly() {
        for (upstream, exceptions, direct) in [
            ("https://127.0.0.1:1", "", true),
            ("https://[::1]:1", "", true),
            ("https://localhost", "", true),
            ("https://api.a.test", "b.test, a.test", true),
            ("https://api.a.test", ".a.test", true),
            ("https://bad-a.test", "a.test", false),
            ("https://10.1.2.3", "10.0.0.0/8", true),
            ("https://api.a.test", "*", true),
            ("https://a.test", "", false),
        ] {
            let environment = [("HTTPS_PROXY", "http://p:1"), ("no_proxy", exceptions)];
            let through = proxy(upstream, &environment).expect("is a proxy");
            assert_eq!(through.is_none(), direct, "{upstream}, {exceptions:?}");
        }
    }

    #[test]
    fn credentials_are_for_the_proxy_only() {
        let environment = [(
            "HTTPS_PROXY".to_owned(),
            "http://me:hunter%202@p:1".to_owned(),
        )];
        let upstream = UpstreamUrl::octopusx();
        let proxy = Proxy::from_environment(&environment, &upstream).expect("is one");
        let proxy = proxy.expect("is used");
        let shown = format!("{proxy} {proxy:?} {}", proxy.uri());
        assert!(
            !shown.contains("hunter") && !shown.contains("me:"),
            "{shown}"
        );
        // me:hunter 2
        let authorization = proxy.authorization().expect("is told");
        assert_eq!(authorization, "Basic bWU6aHVudGVyIDI=");
    }

    #[test]
    fn what_is_no_proxy_is_told_and_not_repeated() {
        for value in [
            "https://p:1",
            "socks5://u:hunter2@p:1",
            "http://",
            "hunter2:@@",
            "http://p:99999",
        ] {
            let told = proxy("https://a.test", &[("HTTPS_PROXY", value)]).expect_err(value);
            assert!(
                told.starts_with("environment HTTPS_PROXY: ")
                    && told.contains("takes http://host:port")
            );
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
}
