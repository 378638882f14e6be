//! Tests against a server that follows a script, for what a real one does only when it is broken, hostile or dying.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::connect::{ConnInfo, ConnectError};
use crate::{Lsn, TimelineId};

/// One backend message.
fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

fn wal(start: u64, data: &[u8]) -> Vec<u8> {
    let mut body = BytesMut::from(&b"w"[..]);
    body.put_u64(start);
    body.put_u64(start + data.len() as u64);
    body.put_i64(0);
    body.put_slice(data);
    message(b'd', &body)
}

fn authentication(method: u32, rest: &[u8]) -> Vec<u8> {
    message(b'R', &[&method.to_be_bytes()[..], rest].concat())
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

fn let_in() -> Vec<u8> {
    let version = message(b'S', b"server_version\x0017.1\0");
    [authentication(0, b""), version, ready()].concat()
}

const SHUT_DOWN: &[u8] = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0";

/// Reads the start-up packet or one message; empty at the end.
async fn receive(socket: &mut UnixStream, startup: bool) -> Bytes {
    let head = if startup { 4 } else { 5 };
    let mut bytes = vec![0; head];
    if socket.read_exact(&mut bytes).await.is_err() {
        return Bytes::new();
    }
    let length = (&bytes[head - 4..]).get_u32() as usize;
    bytes.resize(head + length - 4, 0);
    socket.read_exact(&mut bytes[head..]).await.unwrap();
    bytes.into()
}

/// Runs `script` as the server of one connection and `client` against it.
async fn against<S, C, T>(
    script: impl FnOnce(UnixStream) -> S,
    client: impl FnOnce(ConnInfo) -> C,
) -> T
where
    S: Future<Output = ()> + Send + 'static,
    C: Future<Output = T>,
{
    let directory = tempfile::tempdir().unwrap();
    let path: &Path = directory.path();
    let listener = UnixListener::bind(path.join(".s.PGSQL.5432")).unwrap();
    let text = format!("host={} user=u password=secret", path.display());
    let info = ConnInfo::parse_with(&text, &|_| None).unwrap();
    let accept = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        receive(&mut socket, true).await;
        script(socket).await;
    };
    let (result, ()) = tokio::join!(client(info), accept);
    result
}

async fn streaming(info: ConnInfo) -> WalStream {
    let client = ReplicationClient::connect(&info, Mode::Physical)
        .await
        .unwrap();
    match client
        .start_physical(None, Lsn(0), TimelineId(1))
        .await
        .unwrap()
    {
        Start::Streaming(stream) => stream,
        Start::TimelineEnded { .. } => panic!("the script streams"),
    }
}

/// Lets the client in, answers START_REPLICATION, then sends `bytes` in pieces of `piece`.
async fn play(mut socket: UnixStream, bytes: Vec<u8>, piece: usize) -> UnixStream {
    socket.write_all(&let_in()).await.unwrap();
    receive(&mut socket, false).await;
    socket.write_all(&message(b'W', &[0; 3])).await.unwrap();
    for piece in bytes.chunks(piece) {
        socket.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    socket
}

/// WAL whose every byte can be told from its position.
fn pattern(start: u64, length: usize) -> Vec<u8> {
    let positions = start..start + length as u64;
    positions
        .map(|at| (at ^ at >> 8 ^ at >> 16) as u8)
        .collect()
}

#[tokio::test]
async fn a_cancelled_next_loses_no_byte() {
    let (mut sent, mut at) = (Vec::new(), 0);
    for length in [1, 3000, 0, 70_000, 17, 131_072, 5] {
        sent.extend(wal(at, &pattern(at, length)));
        at += length as u64;
    }
    sent.extend(message(b'c', b""));
    let got = against(
        |socket| async move { drop(play(socket, sent, 701).await) },
        |info| async {
            let mut stream = streaming(info).await;
            let mut got = Vec::new();
            loop {
                // Polled once and dropped, over and over: only what `next` keeps outside of its future survives.
                tokio::select! {
                    biased;
                    message = stream.next() => match message.unwrap() {
                        WalMessage::Wal { start, data, .. } => {
                            assert_eq!(start.0, got.len() as u64);
                            got.extend_from_slice(&data);
                        }
                        WalMessage::Keepalive { .. } => panic!("not in the script"),
                        WalMessage::Ended => break got,
                    },
                    () = tokio::task::yield_now() => {}
                }
            }
        },
    );
    let got = got.await;
    assert_eq!(got.len() as u64, at);
    assert!(got == pattern(0, got.len()));
}

#[tokio::test]
async fn windows_stay_intact_while_blocks_are_used_again() {
    const PIECE: usize = 100_000;
    let mut sent = Vec::new();
    for n in 0..120 {
        sent.extend(wal(n * PIECE as u64, &pattern(n * PIECE as u64, PIECE)));
    }
    let script = |socket| async move { drop(play(socket, sent, 1 << 18).await) };
    let client = |info| async {
        let mut stream = streaming(info).await;
        let mut kept = Vec::new();
        for n in 0..120_u64 {
            match stream.next().await.unwrap() {
                // Some are kept, most dropped: blocks come free in every order.
                WalMessage::Wal { data, .. } if n % 7 == 0 => kept.push((n, data)),
                WalMessage::Wal { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        kept
    };
    for (n, data) in against(script, client).await {
        assert!(data == pattern(n * PIECE as u64, PIECE), "piece {n}");
    }
}

#[tokio::test]
async fn a_server_that_reads_nothing_does_not_block_us_for_ever() {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let script = |socket| async move {
        let socket = play(socket, Vec::new(), 1).await;
        let _ = stopped.await;
        drop(socket);
    };
    let client = |info| async {
        let mut stream = streaming(info).await;
        let patience = Duration::from_millis(100);
        let mut sent = Ok(());
        while sent.is_ok() {
            let wire = stream.wire();
            wire.queue(|out| {
                out.put_slice(&message(b'd', &[b'r'; 60_000]));
                Ok(())
            })
            .unwrap();
            sent = wire.send(patience).await;
        }
        drop(stop);
        sent.unwrap_err()
    };
    let error = against(script, client).await;
    assert!(
        matches!(error, ReplicationError::TimedOut { .. }) && !error.is_permanent(),
        "{error}"
    );
}

#[tokio::test]
async fn the_reason_is_found_although_writing_fails_first() {
    let (closed, is_closed) = tokio::sync::oneshot::channel::<()>();
    let script = |socket| async move {
        let bytes = [wal(0, b"last"), message(b'E', SHUT_DOWN)].concat();
        drop(play(socket, bytes, 1000).await);
        closed.send(()).unwrap();
    };
    let client = |info| async {
        let mut stream = streaming(info).await;
        is_closed.await.unwrap();
        for _ in 0..3 {
            stream.send_status(Status::default()).await.unwrap();
        }
        assert!(matches!(
            stream.next().await.unwrap(),
            WalMessage::Wal { .. }
        ));
        stream.next().await.unwrap_err()
    };
    match against(script, client).await {
        ReplicationError::Server(error) => assert_eq!(error.code, "57P01"),
        other => panic!("{other}"),
    }
}

/// What `next` says after these bytes.
async fn after(bytes: Vec<u8>) -> ReplicationError {
    let script = |socket| async move { drop(play(socket, bytes, 1000).await) };
    let client = |info| async { streaming(info).await.next().await.unwrap_err() };
    against(script, client).await
}

#[tokio::test]
async fn each_end_of_a_stream_is_told_from_the_others() {
    let removed = b"SERROR\0VERROR\0C58P01\0Mrequested WAL segment has already been removed\0\0";
    assert!(matches!(
        after(message(b'E', removed)).await,
        ReplicationError::WalRemoved(_)
    ));
    assert!(matches!(
        after(message(b'C', b"COPY 0\0")).await,
        ReplicationError::ShuttingDown
    ));
    assert!(matches!(after(Vec::new()).await, ReplicationError::Lost(_)));
    assert!(matches!(
        after(wal(0, b"x")[..20].to_vec()).await,
        ReplicationError::Lost(_)
    ));
    assert!(matches!(
        after(b"d\xff\xff\xff\xff".to_vec()).await,
        ReplicationError::Protocol(_)
    ));
    assert!(matches!(
        after(message(b'd', b"?")).await,
        ReplicationError::Protocol(_)
    ));
    assert!(matches!(
        after(message(b'T', b"")).await,
        ReplicationError::Protocol(_)
    ));
}

#[tokio::test]
async fn the_end_of_a_timeline_names_the_next() {
    let script = |socket| async move {
        let mut socket = play(socket, message(b'c', b""), 10).await;
        assert_eq!(receive(&mut socket, false).await[0], b'c');
        let column = |name: &str| [name.as_bytes(), &[0; 19]].concat();
        let columns = [
            &[0, 2][..],
            &column("next_tli"),
            &column("next_tli_startpos"),
        ]
        .concat();
        let row = [&[0, 2, 0, 0, 0, 1][..], b"2", &[0, 0, 0, 6], b"0/1234"].concat();
        let done = |text| message(b'C', text);
        let answer = [
            message(b'T', &columns),
            message(b'D', &row),
            done(b"SELECT\0"),
            done(b"START_REPLICATION\0"),
            ready(),
        ];
        socket.write_all(&answer.concat()).await.unwrap();
    };
    let client = |info| async {
        let mut stream = streaming(info).await;
        for _ in 0..2 {
            assert_eq!(stream.next().await.unwrap(), WalMessage::Ended);
        }
        stream.finish().await.unwrap().1
    };
    assert_eq!(
        against(script, client).await,
        Some((TimelineId(2), Lsn(0x1234)))
    );
}

/// Why `connect` fails when the server answers the start-up packet with `bytes`.
async fn refusal(bytes: Vec<u8>, binding_required: bool) -> ConnectError {
    let script = |mut socket: UnixStream| async move {
        socket.write_all(&bytes).await.unwrap();
        while !receive(&mut socket, false).await.is_empty() {}
    };
    let client = |mut info: ConnInfo| async move {
        if binding_required {
            info.channel_binding = crate::connect::ChannelBinding::Require;
        }
        ReplicationClient::connect(&info, Mode::Physical)
            .await
            .unwrap_err()
    };
    against(script, client).await
}

#[tokio::test]
async fn a_server_that_skips_its_proof_is_not_believed() {
    let scram = authentication(10, b"SCRAM-SHA-256\0\0");
    let error = refusal([scram.clone(), let_in()].concat(), false).await;
    assert!(error.to_string().contains("without proving"), "{error}");
    let error = refusal([scram, authentication(12, b"v=AAAA")].concat(), false).await;
    assert!(error.to_string().contains("did not prove"), "{error}");
    for unbound in [let_in(), authentication(3, b""), authentication(5, b"salt")] {
        let error = refusal(unbound, true).await;
        assert!(
            error.is_permanent() && error.to_string().contains("channel_binding=require"),
            "{error}"
        );
    }
    let plus_without_tls = authentication(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
    let error = refusal(plus_without_tls, false).await;
    assert!(
        error.to_string().contains("something stands between"),
        "{error}"
    );
}

#[tokio::test]
async fn a_stranger_s_bytes_are_an_error_and_show_no_password() {
    for bytes in [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        message(b'R', b"\0\0"),
        message(b'T', b""),
        authentication(11, b"x"),
        authentication(7, b""),
        [authentication(0, b""), message(b'S', b"no end")].concat(),
        message(b'E', SHUT_DOWN),
    ] {
        let error = refusal(bytes.clone(), false).await;
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("secret"), "{shown}");
    }
}
