//! Reading an object or a piece of it: asked again until it is whole, also where a delete marker hides it.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Config, ResponseChecksumValidation};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use bytes::{Bytes, BytesMut};

use super::error::{Failure, causes};
use super::listing::{PAGE_KEYS, WholeDocument};
use super::{S3Store, TRIES, answered, deadline};
use crate::store::{Fetched, Piece};

/// Room that is made for a body before its bytes come, at most: what an answer says of its length may be wrong.
const ROOM_BYTES_FIRST: u64 = 64 << 20;
/// S3 takes no more in one put.
const BODY_BYTES_MAX: u64 = 5 << 30;

impl S3Store {
    /// One GET. `version` names one that is not the latest.
    async fn fetch(
        &self,
        client: Client,
        key: &str,
        piece: &Piece,
        version: Option<&str>,
        verify: bool,
    ) -> Result<Fetched, Failure> {
        let request = client
            .get_object()
            .bucket(&self.settings.bucket)
            .key(key)
            .set_range(range_header(piece))
            .set_version_id(version.map(str::to_owned));
        let mut request = request.customize();
        if !verify {
            let unverified = ResponseChecksumValidation::WhenRequired;
            request =
                request.config_override(Config::builder().response_checksum_validation(unverified));
        }
        let output = answered(0, request.send()).await?;
        read_body(output, piece).await
    }

    /// Bytes of an object of which is known that it exists.
    async fn object_bytes(&self, client: Client, key: &str) -> Result<u64, Failure> {
        let request = client.head_object().bucket(&self.settings.bucket).key(key);
        let output = answered(0, request.send()).await?;
        let length = output
            .content_length()
            .and_then(|bytes| bytes.try_into().ok());
        length.ok_or_else(|| Failure::without_answer("it does not say how long the object is"))
    }

    /// The newest version of a key that a delete marker hides.
    pub(super) async fn hidden_version(&self, key: &str) -> Result<Option<String>, Failure> {
        let find = |client: Client, _| async move {
            let request = client
                .list_object_versions()
                .bucket(&self.settings.bucket)
                .prefix(key)
                .max_keys(PAGE_KEYS);
            let page = answered(0, request.customize().interceptor(WholeDocument).send()).await?;
            let mut versions = page.versions().iter();
            // The newest of a key comes first.
            let version = versions.find(|version| version.key() == Some(key));
            Ok(version.and_then(|version| version.version_id().map(str::to_owned)))
        };
        self.reading(find).await
    }

    pub(super) async fn get_piece(
        &self,
        key: &str,
        piece: &Piece,
        version: Option<&str>,
    ) -> Result<Fetched, Failure> {
        // The last try takes the bytes as they are: what is wrong with them is found, and named, where they are opened.
        let get = |client, attempt| self.fetch(client, key, piece, version, attempt + 1 < TRIES);
        match (self.reading(get).await, piece) {
            (
                Err(Failure {
                    status: Some(416), ..
                }),
                Piece::Range(_),
            ) => {
                let length = |client, _| self.object_bytes(client, key);
                Ok(Fetched {
                    bytes: Bytes::new(),
                    object_bytes: self.reading(length).await?,
                })
            }
            (result, _) => result,
        }
    }
}

/// The `Range` of a piece. An empty one asks for one byte, so that a missing object is still missing.
fn range_header(piece: &Piece) -> Option<String> {
    let Piece::Range(range) = piece else {
        return None;
    };
    let last = range.end.saturating_sub(1).max(range.start);
    Some(if last > i64::MAX as u64 {
        format!("bytes={}-", range.start)
    } else {
        format!("bytes={}-{last}", range.start)
    })
}

/// The body of an answer, whole, or the piece that was asked for.
async fn read_body(output: GetObjectOutput, piece: &Piece) -> Result<Fetched, Failure> {
    let length = output
        .content_length()
        .and_then(|bytes| u64::try_from(bytes).ok());
    let total = output
        .content_range()
        .and_then(|range| range.rsplit('/').next()?.parse().ok());
    let mut body = output.body;
    let mut bytes = BytesMut::with_capacity(length.unwrap_or(0).min(ROOM_BYTES_FIRST) as usize);
    let start = tokio::time::Instant::now();
    loop {
        // It moves on with every byte, so that a large body may take its time and one that drips may not.
        let due = start + deadline(bytes.len() as u64);
        let Ok(piece) = tokio::time::timeout_at(due, body.next()).await else {
            return Err(Failure::without_answer("the answer arrives too slowly"));
        };
        match piece {
            None => break,
            Some(Ok(piece)) if (bytes.len() + piece.len()) as u64 > BODY_BYTES_MAX => {
                return Err(Failure::without_answer("the answer does not end"));
            }
            Some(Ok(piece)) => bytes.extend_from_slice(&piece),
            Some(Err(error)) => return Err(Failure::without_answer(causes(&error))),
        }
    }
    let bytes = bytes.freeze();
    if length.is_some_and(|length| length != bytes.len() as u64) {
        return Err(Failure::without_answer("the answer ended before its end"));
    }
    let answered = bytes.len() as u64;
    // A store may answer a range with the whole object.
    let (skipped, object_bytes) = match (piece, total) {
        (Piece::Range(range), None) => (range.start.min(answered), answered),
        (_, total) => (0, total.unwrap_or(answered)),
    };
    let wanted = match piece {
        Piece::Whole if answered != object_bytes => {
            return Err(Failure::without_answer(
                "the answer is a part of the object",
            ));
        }
        Piece::Whole => answered,
        Piece::Range(range) => {
            let wanted = range.end.min(object_bytes).saturating_sub(range.start);
            if answered - skipped < wanted {
                return Err(Failure::without_answer(
                    "the answer is less than was asked for",
                ));
            }
            wanted
        }
    };
    Ok(Fetched {
        bytes: bytes.slice(skipped as usize..(skipped + wanted) as usize),
        object_bytes,
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll, ready};
    use std::time::Duration;

    use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
    use aws_sdk_s3::primitives::SdkBody;
    use aws_smithy_runtime_api::client::http::{
        HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
    };
    use http_body::{Body, Frame};
    use tokio::time::{Instant, Sleep};

    use super::*;
    use crate::store::s3::Connection;
    use crate::store::s3::pace::Pace;
    use crate::store::{Store, StoreError};

    const PIECE_BYTES: usize = 256 << 10;

    /// A service whose bodies come piece by piece, each after a pause.
    #[derive(Clone, Copy, Debug)]
    struct Slow {
        pieces: usize,
        pause: Duration,
    }

    struct SlowBody {
        slow: Slow,
        piece: Bytes,
        sleep: Pin<Box<Sleep>>,
    }

    impl Body for SlowBody {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.slow.pieces == 0 {
                return Poll::Ready(None);
            }
            ready!(self.sleep.as_mut().poll(context));
            let next = Instant::now() + self.slow.pause;
            self.sleep.as_mut().reset(next);
            self.slow.pieces -= 1;
            Poll::Ready(Some(Ok(Frame::data(self.piece.clone()))))
        }
    }

    impl HttpConnector for Slow {
        fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
            let body = SlowBody {
                slow: *self,
                piece: Bytes::from(vec![7; PIECE_BYTES]),
                sleep: Box::pin(tokio::time::sleep(self.pause)),
            };
            let status = 200.try_into().expect("a status");
            let mut answer = HttpResponse::new(status, SdkBody::from_body_1_x(body));
            let bytes = (self.pieces * PIECE_BYTES).to_string();
            answer.headers_mut().insert("content-length", bytes);
            HttpConnectorFuture::ready(Ok(answer))
        }
    }

    /// What is read of an object of so many pieces, and how long that takes.
    async fn read_slowly(
        pieces: usize,
        pause: Duration,
    ) -> (Result<Fetched, StoreError>, Duration) {
        let directory = tempfile::tempdir().unwrap();
        let credentials = directory.path().join("credentials");
        let text = "[default]\naws_access_key_id = a\naws_secret_access_key = b\n";
        std::fs::write(&credentials, text).unwrap();
        let url = format!(
            "s3://b?endpoint=http://store&credentials_file={}",
            credentials.display()
        );
        let settings: super::super::S3Settings = url.parse().unwrap();
        let slow = Slow { pieces, pause };
        let http = http_client_fn(move |_, _| SharedHttpConnector::new(slow));
        let store = S3Store {
            connection: Connection::over(settings.clone(), http).await.unwrap(),
            settings,
            pace: Pace::new(),
        };
        let start = Instant::now();
        (store.get("log/a/0", Piece::Whole).await, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_body_may_take_as_long_as_its_bytes_need() {
        // 96 MiB at 160 KiB a second: more than ten minutes.
        let (read, took) = read_slowly(384, Duration::from_millis(1600)).await;
        assert_eq!(read.unwrap().bytes.len(), 384 * PIECE_BYTES);
        assert!(took > Duration::from_secs(600), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_cut_however_large_it_is() {
        // Every try is cut within a minute, where 16 KiB a second would take four hours.
        let (read, took) = read_slowly(1000, Duration::from_secs(16)).await;
        let error = read.unwrap_err();
        assert!(error.to_string().contains("too slowly"), "{error}");
        assert!(took < Duration::from_secs(10 * 60), "{took:?}");
    }

    #[test]
    fn a_range_is_written_as_the_protocol_has_it() {
        let header = |range| range_header(&Piece::Range(range));
        assert_eq!(header(0..3).as_deref(), Some("bytes=0-2"));
        assert_eq!(header(4..4).as_deref(), Some("bytes=4-4"));
        assert_eq!(header(9..u64::MAX).as_deref(), Some("bytes=9-"));
        assert_eq!(range_header(&Piece::Whole), None);
    }
}
