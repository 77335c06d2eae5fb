//! When the signature of a URL runs out, as far as the URL itself tells.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use base64::Engine;
use base64::alphabet::{Alphabet, URL_SAFE};
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, NO_PAD};
use jiff::civil::Date;
use memchr::memchr;
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::json::Object;
use super::values::{rfc3339, time};

/// Parameters that tell a time and how many seconds after it the end is.
const PAIRS: [(&str, &str); 4] = [
    ("x-amz-date", "x-amz-expires"),
    ("x-tos-date", "x-tos-expires"),
    ("x-goog-date", "x-goog-expires"),
    ("x-oss-date", "x-oss-expires"),
];

/// Reads a time, in Unix seconds, from a parameter's value.
type Read = fn(&str) -> Option<i64>;

/// Parameters that tell the end by themselves.
const ENDS: [(&str, Read); 11] = [
    ("expires", seconds),
    ("x-expires", seconds),
    ("exp", seconds),
    ("e", seconds),
    ("se", azure),
    ("policy", cloudfront),
    ("q-sign-time", tencent),
    ("auth_key", alibaba),
    ("hdnts", akamai),
    ("hdnea", akamai),
    ("ex", hexadecimal),
];

/// Values that tell the end by their own form, whatever the parameter is called.
const FORMS: [(&str, Read); 2] = [("eyJ", jwt), ("bce-auth-v1/", baidu)];

/// Times that can be meant: 2001 to 5138. `e=1` is anything but a time.
const PLAUSIBLE: RangeInclusive<i64> = 1_000_000_000..=99_999_999_999;

/// CloudFront's base64: `-` for `+`, `~` for `/`, and `_` for the padding, which is cut off before.
const CLOUDFRONT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &match Alphabet::new("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-~") {
        Ok(alphabet) => alphabet,
        Err(_) => panic!("64 letters"),
    },
    NO_PAD.with_decode_allow_trailing_bits(true),
);

/// JWT's base64, with padding where there is some.
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The earliest time, in Unix seconds, at which a signature in the URL's query runs out.
///
/// Names count in any case. `None` means that the URL does not tell, not that it lasts.
#[must_use]
pub fn url_expiry(url: &str) -> Option<i64> {
    let (path, query) = url.split_at(memchr(b'?', url.as_bytes())?);
    let query = &query[1..];
    if path.contains('#') || path.starts_with("data:") {
        return None;
    }
    let (query, _) = query.split_once('#').unwrap_or((query, ""));
    let parameters: Vec<_> = query
        .split('&')
        .filter_map(|parameter| parameter.split_once('='))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect();
    let named = |wanted: &'static str| {
        let parameters = parameters.iter();
        let wanted = parameters.filter(move |(name, _)| name.eq_ignore_ascii_case(wanted));
        wanted.map(|(_, value)| &**value)
    };
    let pairs = PAIRS.into_iter().filter_map(|(date, length)| {
        let date = named(date).filter_map(rfc3339).min()?;
        let length = named(length).filter_map(|value| value.parse::<u32>().ok());
        date.checked_add(length.min()?.into())
    });
    let alone = parameters.iter().filter_map(|(name, value)| {
        let is_name = |(known, _): &&(&str, Read)| name.eq_ignore_ascii_case(known);
        let is_form = |(start, _): &&(&str, Read)| value.starts_with(start);
        let by_name = || ENDS.iter().find(is_name)?.1(value);
        let by_form = || FORMS.iter().find(is_form)?.1(value);
        by_name().or_else(by_form)
    });
    // a hexadecimal `t` is a time only in Tencent's way of signing, which has a `sign` beside it
    let is_signed = named("sign").next().is_some();
    let beside_sign = named("t").filter(|_| is_signed).filter_map(hexadecimal);
    let times = pairs.chain(alone).chain(beside_sign);
    times.filter(|time| PLAUSIBLE.contains(time)).min()
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

fn seconds(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// Seconds in at most eight hexadecimal digits, as Discord and Tencent write them.
fn hexadecimal(text: &str) -> Option<i64> {
    let is_hexadecimal = text.len() <= 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    i64::from_str_radix(text, 16)
        .ok()
        .filter(|_| is_hexadecimal)
}

/// Tencent's `begin;end`.
fn tencent(text: &str) -> Option<i64> {
    seconds(text.split_once(';')?.1)
}

/// Alibaba's `end-random-uid-digest`.
fn alibaba(text: &str) -> Option<i64> {
    seconds(text.split_once('-')?.0)
}

/// Akamai's `st=begin~exp=end~acl=…~hmac=…`.
fn akamai(text: &str) -> Option<i64> {
    let mut fields = text.split('~');
    seconds(fields.find_map(|field| field.strip_prefix("exp="))?)
}

/// Baidu's `bce-auth-v1/key/begin/length/headers/signature`.
fn baidu(text: &str) -> Option<i64> {
    let mut fields = text.split('/').skip(2);
    let (begin, length) = (fields.next()?, fields.next()?);
    rfc3339(begin)?.checked_add(length.parse::<u32>().ok()?.into())
}

/// A JWT's `exp`, which may have a fraction (RFC 7519 §2).
fn jwt(text: &str) -> Option<i64> {
    let (_, rest) = text.split_once('.')?;
    let (claims, _) = rest.split_once('.')?;
    let claims = BASE64_URL.decode(claims).ok()?;
    let claims = Object::parse(std::str::from_utf8(&claims).ok()?)?;
    time(claims.get("exp")?)
}

/// Azure takes a time with or without seconds, or a day alone, which ends as it begins.
fn azure(text: &str) -> Option<i64> {
    let midnight = || rfc3339(&format!("{}T00:00:00Z", text.parse::<Date>().ok()?));
    rfc3339(text).or_else(midnight)
}

/// The time after which a CloudFront policy no longer allows anything.
fn cloudfront(policy: &str) -> Option<i64> {
    #[derive(Deserialize)]
    struct Policy {
        #[serde(rename = "Statement")]
        statements: Vec<Statement>,
    }
    #[derive(Deserialize)]
    struct Statement {
        #[serde(rename = "Condition")]
        condition: Condition,
    }
    #[derive(Deserialize)]
    struct Condition {
        #[serde(rename = "DateLessThan")]
        before: Time,
    }
    #[derive(Deserialize)]
    struct Time {
        #[serde(rename = "AWS:EpochTime")]
        unix: i64,
    }

    let json = CLOUDFRONT_BASE64
        .decode(policy.trim_end_matches('_'))
        .ok()?;
    let policy: Policy = serde_json::from_slice(&json).ok()?;
    let times = policy.statements.into_iter();
    times.map(|statement| statement.condition.before.unix).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2026-11-23T12:00:00Z
    const NOON: i64 = 1_795_435_200;

    #[test]
    fn aws_date_and_length() {
        let url = "https://bucket.s3.us-east-1.amazonaws.com/v/abc.mp4?X-Amz-Algorithm=AWS4-HMAC-SHA256\
            &X-Amz-Credential=AKIA%2F20261123%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20261123T120000Z\
            &X-Amz-Expires=3600&X-Amz-SignedHeaders=host&X-Amz-Signature=0f3c";
        assert_eq!(url_expiry(url), Some(NOON + 3600));
    }

    #[test]
    fn volcano_tos_date_and_length() {
        let url = "https://ark-acg-cn-beijing.tos-cn-beijing.volces.com/seedance/0217.mp4?X-Tos-Algorithm=TOS4-HMAC-SHA256\
            &X-Tos-Credential=AKLT%2F20261123%2Fcn-beijing%2Ftos%2Frequest&X-Tos-Date=20261123T120000Z\
            &X-Tos-Expires=86400&X-Tos-Signature=ab12&X-Tos-SignedHeaders=host";
        assert_eq!(url_expiry(url), Some(NOON + 86_400));
    }

    #[test]
    fn google_date_and_length() {
        let url = "https://storage.googleapis.com/veo/out/sample_0.mp4?X-Goog-Algorithm=GOOG4-RSA-SHA256\
            &X-Goog-Credential=sa%40p.iam.gserviceaccount.com%2F20261123%2Fauto%2Fstorage%2Fgoog4_request\
            &X-Goog-Date=20261123T120000Z&X-Goog-Expires=900&X-Goog-SignedHeaders=host&X-Goog-Signature=5c";
        assert_eq!(url_expiry(url), Some(NOON + 900));
    }

    #[test]
    fn aliyun_oss_date_and_length_in_lower_case() {
        let url = "https://dashscope-result.oss-cn-beijing.aliyuncs.com/1d/wan.mp4?x-oss-signature-version=OSS4-HMAC-SHA256\
            &x-oss-date=20261123T120000Z&x-oss-expires=600&x-oss-credential=LTAI%2F20261123&x-oss-signature=9e";
        assert_eq!(url_expiry(url), Some(NOON + 600));
    }

    #[test]
    fn expires_in_unix_seconds() {
        let url = "https://dashscope-result-bj.oss-cn-beijing.aliyuncs.com/1d/x.mp4?Expires=1795435200&OSSAccessKeyId=LTAI&Signature=h%2Bk%3D";
        assert_eq!(url_expiry(url), Some(NOON));
    }

    #[test]
    fn azure_signed_expiry() {
        for se in [
            "2026-11-23T12%3A00%3A00Z",
            "2026-11-23T12:00Z",
            "2026-11-23T20%3A00%3A00%2B08%3A00",
        ] {
            let url = format!(
                "https://acct.blob.core.windows.net/videos/x.mp4?sv=2024-11-04&st=2026-11-22T12%3A00%3A00Z&se={se}&sr=b&sp=r&sig=a%2Fb%3D"
            );
            assert_eq!(url_expiry(&url), Some(NOON), "{se}");
        }
        let day = "https://acct.blob.core.windows.net/videos/x.mp4?se=2026-11-23&sig=x";
        assert_eq!(url_expiry(day), Some(NOON - 43_200));
    }

    #[test]
    fn cloudfront_policy_in_its_own_base64() {
        // {"Statement":[{"Resource":"https://d1.cloudfront.net/v/???>.mp4","Condition":{"DateLessThan":{"AWS:EpochTime":1795435200}}}]}
        let url = "https://d1.cloudfront.net/v/x.mp4?Policy=eyJTdGF0ZW1lbnQiOlt7IlJlc291cmNlIjoiaHR0cHM6Ly9kMS5jbG91ZGZyb250Lm5ldC92Lz8~Pz4ubXA0IiwiQ29uZGl0aW9uIjp7IkRhdGVMZXNzVGhhbiI6eyJBV1M6RXBvY2hUaW1lIjoxNzk1NDM1MjAwfX19XX0_\
            &Signature=Zm9v~bar__&Key-Pair-Id=K2JCJMDEHXQW5F";
        assert_eq!(url_expiry(url), Some(NOON));
    }

    #[test]
    fn bare_exp_and_e() {
        for url in [
            "https://cdn.example.com/v/x.mp4?exp=1795435200&sig=a",
            "https://cdn.example.com/v/x.mp4?token=t&e=1795435200",
        ] {
            assert_eq!(url_expiry(url), Some(NOON), "{url}");
        }
    }

    #[test]
    fn each_vendor_has_a_form_of_its_own() {
        for query in [
            // TikTok's and ByteDance's CDNs
            "lk3s=1&x-expires=1795435200&x-signature=a",
            // Runway, in base64url without and with padding
            "_jwt=eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjE3OTU0MzUyMDB9.c2ln",
            "token=eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjE3OTU0MzUyMDAuNSwiYSI6IiJ9.c2ln",
            "any=eyJhbGciOiJIUzI1NiJ9.eyJhIjoiPz8-IiwiZXhwIjoxNzk1NDM1MjAwfQ%3D%3D.c2ln",
            "auth_key=eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjE3OTU0MzUyMDB9.c2ln",
            // Tencent's object store and its CDN
            "q-sign-algorithm=sha1&q-ak=A&q-sign-time=1795431600;1795435200&q-signature=a",
            "q-sign-time=1795431600%3B1795435200",
            "t=6b042ac0&us=1&sign=aa",
            // Alibaba's CDN
            "auth_key=1795435200-0-0-aa",
            // Akamai
            "hdnts=st=1795431600~exp=1795435200~acl=/*~hmac=aa",
            "hdnea=exp=1795435200~hmac=aa",
            // Discord
            "ex=6b042ac0&is=6b02d940&hm=aa",
            // Baidu
            "authorization=bce-auth-v1%2Fak%2F2026-11-23T11:00:00Z%2F3600%2Fhost%2Fsig",
        ] {
            let url = format!("https://h/x.mp4?{query}");
            assert_eq!(url_expiry(&url), Some(NOON), "{query}");
        }
    }

    #[test]
    fn forms_that_only_look_alike_tell_nothing() {
        for query in [
            "t=6b042ac0",
            "t=1795435200&sign=aa",
            "ex=1795435200",
            "ex=+b042ac0",
            "auth_key=1795435200",
            "q-sign-time=1795435200",
            "hdnts=acl=/*~hmac=aa",
            "token=eyJhbGciOiJIUzI1NiJ9.e30.c2ln",
            "token=eyJhbGciOiJIUzI1NiJ9.!!.c2ln",
            "token=eyJhbGciOiJIUzI1NiJ9",
            "authorization=bce-auth-v1/ak/soon/3600/host/sig",
            "authorization=bce-auth-v1/ak",
        ] {
            let url = format!("https://h/x.mp4?{query}");
            assert_eq!(url_expiry(&url), None, "{query}");
        }
    }

    #[test]
    fn earliest_of_several_counts() {
        let url = "https://h/x?Expires=1795435300&X-Amz-Date=20261123T120000Z&X-Amz-Expires=30&exp=1795435250#e=1000000001";
        assert_eq!(url_expiry(url), Some(NOON + 30));
    }

    #[test]
    fn what_is_no_time_is_passed_over() {
        for url in [
            "https://h/x.mp4",
            "https://h/x?e=1&exp=3600&Expires=-1&Expires=soon",
            "https://h/x?e=1795435200.5&exp=1795435200000",
            "https://h/x?X-Amz-Expires=3600",
            "https://h/x?X-Amz-Date=20261123T120000Z",
            "https://h/x?X-Amz-Date=20261123T120000Z&X-Tos-Expires=60",
            "https://h/x?X-Amz-Date=20261123T120000Z&X-Amz-Expires=9223372036854775807",
            "https://h/x?X-Amz-Date=20261323T120000Z&X-Amz-Expires=1",
            "https://h/x?X-Amz-Date=99991123T120000Z&X-Amz-Expires=1&se=0001-01-01",
            "https://h/x?se=tomorrow&Policy=AAAA&Policy=%FF",
            "https://h/x#?e=1795435200",
            "data:video/mp4;base64,e=1795435200",
        ] {
            assert_eq!(url_expiry(url), None, "{url}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC*|https://h/x\\?(((X-Amz-|x-oss-)(Date|Expires)|se|Policy|e|exp|Expires|ex|t|sign|auth_key|hdnts|q-sign-time|_jwt)=(eyJ|bce-auth-v1/|exp=)?[0-9a-fTZ:;./%+~_-]{0,24}&){0,6}") {
            let _ = url_expiry(&text);
        }
    }
}
