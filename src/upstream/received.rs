//! A whole answer to a status poll, received within a limit for each and a budget for all.

use std::error::Error as StdError;
use std::io::Read as _;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::response::Parts;
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tower::BoxError;

use crate::error::Error;

/// Answers up to this size, in bytes, do not count against the budget: nearly all are smaller.
const FREE: usize = 64 << 10;

/// A large answer waits so long for room at most: upstream, which has begun to answer, must not be taken for silent.
const ROOM_WITHIN: Duration = Duration::from_secs(1);

/// How much may be buffered.
#[derive(Debug, Clone)]
pub struct BodyLimit {
    /// The largest body, in bytes.
    pub most: usize,
    /// The total size of larger bodies that may be buffered at once, in bytes. At least `most`.
    pub budget: Arc<Semaphore>,
}

/// An answer.
#[derive(Debug)]
pub struct Received {
    /// The head.
    pub head: Parts,
    /// The whole body, in memory of its own.
    pub body: Bytes,
    /// Its share of the budget, held while the body is in use.
    pub budget: Option<OwnedSemaphorePermit>,
}

impl Received {
    /// Receives a body.
    ///
    /// # Errors
    /// [`Error::TooLarge`] where it is larger than the limit, [`Error::UpstreamUnavailable`] where it breaks off, and
    /// [`Error::UpstreamInvalid`] where it is compressed in a way that was not asked for and is not known.
    pub(super) async fn receive(
        head: Parts,
        body: impl Body<Data = Bytes, Error: Into<BoxError>>,
        limit: &BodyLimit,
    ) -> Result<Self, Error> {
        let length = head.headers.get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > limit.most) {
            return Err(Error::TooLarge);
        }
        let mut whole = BytesMut::with_capacity(length.unwrap_or(1024).min(FREE));
        let mut budget = None;
        let mut body = pin!(body);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| broken(&*error.into()))?.into_data() else {
                continue;
            };
            if whole.len() + data.len() > limit.most {
                return Err(Error::TooLarge);
            }
            if whole.len() + data.len() > FREE && budget.is_none() {
                // All at once: polls that each wait for a little more would wait for one another.
                budget = Some(limit.reserve(length.unwrap_or(limit.most)).await?);
            }
            whole.extend_from_slice(&data);
        }
        let body = decoded(&head.headers, whole.freeze(), limit.most)?;
        Ok(Self { head, body, budget })
    }
}

impl BodyLimit {
    async fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let budget = Arc::clone(&self.budget);
        let reserved = timeout(ROOM_WITHIN, budget.acquire_many_owned(bytes)).await;
        reserved
            .map_err(|_| Error::Overloaded("large documents at once"))?
            .map_err(|_| Error::Draining)
    }
}

fn broken(error: &(dyn StdError + 'static)) -> Error {
    tracing::debug!(cause = ?error, "upstream request failed: {BROKE}");
    Error::UpstreamUnavailable(BROKE.into())
}

const BROKE: &str = "the connection broke in the middle of the answer";

/// Decodes a body that upstream compressed although `identity` was requested (RFC 9110 §8.4).
///
/// # Errors
/// [`Error::UpstreamInvalid`] where it is compressed in a way that is not known, or broken, and [`Error::TooLarge`] where it
/// is larger than `most` bytes.
pub fn decoded(headers: &HeaderMap, body: Bytes, most: usize) -> Result<Bytes, Error> {
    let Some(coding) = headers.get(CONTENT_ENCODING) else {
        return Ok(body);
    };
    let coding = coding
        .to_str()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let mut plain = Vec::new();
    let most = most as u64;
    let read = match coding.as_str() {
        "" | "identity" => return Ok(body),
        "gzip" | "x-gzip" => MultiGzDecoder::new(&*body)
            .take(most + 1)
            .read_to_end(&mut plain),
        // `deflate` means the zlib format, but some servers send raw deflate.
        "deflate" => match ZlibDecoder::new(&*body)
            .take(most + 1)
            .read_to_end(&mut plain)
        {
            Err(_) => {
                plain.clear();
                DeflateDecoder::new(&*body)
                    .take(most + 1)
                    .read_to_end(&mut plain)
            }
            read => read,
        },
        _ => {
            return Err(Error::UpstreamInvalid(
                "the body is compressed in a way that was not asked for".into(),
            ));
        }
    };
    match read {
        Err(_) => Err(Error::UpstreamInvalid(
            "the body is compressed, and broken".into(),
        )),
        Ok(length) if length as u64 > most => Err(Error::TooLarge),
        Ok(_) => Ok(plain.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use http::Response;
    use http_body_util::Full;
    use tokio::time::Instant;

    use super::*;

    const PLAIN: &[u8] = br#"{"id":"t","status":"queued"}"#;

    fn head(coding: &str) -> HeaderMap {
        let response = Response::builder()
            .header(CONTENT_ENCODING, coding)
            .body(());
        response.expect("a response").into_parts().0.headers
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_answer_that_finds_no_room_is_given_up_before_upstream_seems_silent() {
        let budget = Arc::new(Semaphore::new(1 << 20));
        let limit = BodyLimit {
            most: 1 << 20,
            budget: Arc::clone(&budget),
        };
        let receive = async || {
            let body = Full::new(Bytes::from(vec![b' '; FREE + 1]));
            let (head, body) = Response::new(body).into_parts();
            Received::receive(head, body, &limit).await
        };
        let held = receive().await.expect("there is room");
        let started = Instant::now();
        assert!(matches!(receive().await, Err(Error::Overloaded(_))));
        assert_eq!(started.elapsed(), ROOM_WITHIN);
        drop(held);
        assert!(receive().await.is_ok());
    }

    #[test]
    fn codings_that_were_not_asked_for_are_undone() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        let mut bare = DeflateEncoder::new(Vec::new(), Compression::fast());
        for encoder in [&mut gzip as &mut dyn std::io::Write, &mut zlib, &mut bare] {
            encoder.write_all(PLAIN).expect("is memory");
        }
        for (coding, body) in [
            ("gzip", gzip.finish()),
            ("deflate", zlib.finish()),
            ("Deflate", bare.finish()),
            ("identity", Ok(PLAIN.to_vec())),
        ] {
            let body = body.expect("is memory").into();
            assert_eq!(
                decoded(&head(coding), body, 1024).expect(coding),
                PLAIN,
                "{coding}"
            );
        }
    }

    #[test]
    fn a_body_that_grows_beyond_the_limit_is_too_large_and_one_that_is_broken_is_told() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&vec![b'a'; 100_000]).expect("is memory");
        let bomb = Bytes::from(gzip.finish().expect("is memory"));
        assert!(bomb.len() < 1024);
        assert_eq!(decoded(&head("gzip"), bomb, 1024), Err(Error::TooLarge));
        for (coding, body) in [("gzip", "no"), ("br", "x"), ("zstd", "x")] {
            let error = decoded(&head(coding), body.into(), 1024).expect_err(coding);
            assert!(
                matches!(error, Error::UpstreamInvalid(_)),
                "{coding}: {error:?}"
            );
        }
    }
}
