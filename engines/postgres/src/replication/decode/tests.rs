//! Tests of `decode`.

use super::*;
use proptest::prelude::*;

fn bytes(parts: &[&[u8]]) -> Bytes {
    parts.concat().into()
}

#[test]
fn frames_come_off_one_by_one_and_only_whole() {
    let mut buffer = BytesMut::from(&b"d\0\0\0\x06abZ\0\0\0\x05I"[..]);
    let mut short = BytesMut::from(&buffer[..6]);
    assert_eq!(parse_frame(&mut short, 100), Ok(None));
    assert_eq!(short.len(), 6);
    let first = parse_frame(&mut buffer, 100).unwrap().unwrap();
    assert_eq!((first.tag, &first.body[..]), (b'd', &b"ab"[..]));
    assert_eq!(parse_frame(&mut buffer, 100).unwrap().unwrap().tag, b'Z');
    assert_eq!(parse_frame(&mut buffer, 100), Ok(None));
}

#[test]
fn lengths_out_of_bounds_are_refused_before_a_byte_is_kept() {
    for wrong in [&b"d\0\0\0\x03"[..], b"d\xff\xff\xff\xff", b"d\0\0\0\x65"] {
        assert!(parse_frame(&mut BytesMut::from(wrong), 100).is_err());
    }
    assert_eq!(
        parse_frame(&mut BytesMut::from(&b"d\0\0\0\x64"[..]), 100),
        Ok(None)
    );
}

#[test]
fn wal_and_keepalives_are_read() {
    let head = [
        &0x1_0000_0028_u64.to_be_bytes()[..],
        &0x1_0000_1000_u64.to_be_bytes(),
        &1_i64.to_be_bytes(),
    ]
    .concat();
    assert_eq!(
        parse_wal_message(bytes(&[b"w", &head, b"abc"])),
        Ok(WalMessage::Wal {
            start: Lsn(0x1_0000_0028),
            server_end: Lsn(0x1_0000_1000),
            clock: 946_684_800_000_001,
            data: Bytes::from_static(b"abc")
        })
    );
    assert_eq!(
        parse_wal_message(bytes(&[b"k", &head[8..], b"\x01"])),
        Ok(WalMessage::Keepalive {
            server_end: Lsn(0x1_0000_1000),
            clock: 946_684_800_000_001,
            reply_requested: true
        })
    );
    let last = [&u64::MAX.to_be_bytes()[..], &[0; 16]].concat();
    for wrong in [
        bytes(&[b"w", &head[1..]]),
        bytes(&[b"k", &head, b"\0"]),
        bytes(&[b"x"]),
        Bytes::new(),
        bytes(&[b"w", &last, b"a"]),
    ] {
        assert!(parse_wal_message(wrong).is_err());
    }
}

#[test]
fn an_error_keeps_what_an_operator_needs() {
    let body = b"SFEHLER\0VERROR\0C42704\0Mno slot\0Ddetail\0Hhint\0Fslot.c\0\0";
    let error = parse_error(Bytes::from_static(body));
    assert_eq!(
        (error.severity.as_str(), error.code.as_str()),
        ("ERROR", "42704")
    );
    assert_eq!(
        (error.detail.as_deref(), error.hint.as_deref()),
        (Some("detail"), Some("hint"))
    );
    assert_eq!(parse_error(Bytes::from_static(b"Mcut")).message, "");
}

#[test]
fn rows_are_read_with_their_nulls() {
    let row = b"\0\x03\0\0\0\x01a\xff\xff\xff\xff\0\0\0\0";
    let values = parse_data_row(Bytes::from_static(row)).unwrap();
    assert_eq!(
        values,
        [Some(Bytes::from_static(b"a")), None, Some(Bytes::new())]
    );
    for wrong in [
        &b"\0\x01\0\0\0\x02a"[..],
        b"\0\x01\xff\xff\xff\xfe",
        b"\0",
        b"\xff\xff",
        b"\0\x01",
    ] {
        assert!(parse_data_row(Bytes::from_static(wrong)).is_err());
    }
}

#[test]
fn backup_messages_are_read() {
    assert_eq!(
        parse_backup_message(Bytes::from_static(b"n16384.tar\0/srv/ts\0")),
        Ok(BackupMessage::Archive {
            name: "16384.tar".into(),
            location: "/srv/ts".into()
        })
    );
    assert_eq!(
        parse_backup_message(Bytes::from_static(b"p\0\0\0\0\0\0\x01\0")),
        Ok(BackupMessage::Progress(256))
    );
    for wrong in [&b""[..], b"nx", b"nx\0y", b"p1", b"mx", b"z"] {
        assert!(parse_backup_message(Bytes::from_static(wrong)).is_err());
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(
        frames in proptest::collection::vec((proptest::sample::select(&b"RENTDdXZ"[..]), proptest::collection::vec(any::<u8>(), 0..60)), 0..6),
        cut in 0..400_usize,
    ) {
        let mut all = Vec::new();
        for (tag, body) in frames {
            all.push(tag);
            all.extend((body.len() as u32 + 4).to_be_bytes());
            all.extend(body);
        }
        all.truncate(cut);
        let _ = decode_any(&all);
    }
}
