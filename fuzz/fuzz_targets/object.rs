//! Any bytes, also with a genuine preamble in front, are no object, and their refusal takes no memory beyond their own length.
#![no_main]

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use libfuzzer_sys::fuzz_target;
use pitr_archive::keys::DataKey;
use pitr_archive::object::{
    Expected, Frame, Header, Id, Kind, Object, PREAMBLE_BYTES, Proofs, StreamName, seal,
};

fn header() -> Header {
    Header {
        kind: Kind::Part,
        refill: false,
        archive_id: Id([1; 16]),
        key_id: Id([2; 16]),
        writer_id: Id([3; 16]),
        stream: StreamName::new("00000001").expect("a name"),
        set_id: Id::default(),
        seq: 0,
        start: 0,
        end: 5,
        time_min: None,
        time_max: None,
        time_high: None,
        run_seq: 0,
        run_start: 0,
        unsure_seq: None,
        damage: None,
        proofs: Proofs::default(),
        plaintext_bytes: 0,
        payload_bytes: 0,
        previous: [0; 32],
    }
}

fuzz_target!(|input: (bool, &[u8])| {
    let (genuine, bytes) = input;
    let (signing, key) = (
        SigningKey::from_bytes(&[7; 32]),
        DataKey::from_parts(Id([2; 16]), [9; 32]),
    );
    let expected = Expected {
        archive_id: Id([1; 16]),
        kind: Kind::Part,
        stream: None,
        set_id: Id::default(),
        seq: 0,
    };
    let open = |bytes: Vec<u8>| {
        let object = Object::new(
            "fuzz",
            Bytes::from(bytes),
            &expected,
            &signing.verifying_key(),
        )?;
        object.open(&key)?.plaintext()
    };
    if genuine {
        let sealed = seal(
            header(),
            &[Frame::compress(b"hello", 1)],
            b"",
            &key,
            &signing,
        )
        .bytes;
        let spliced = [&sealed[..PREAMBLE_BYTES], bytes].concat();
        assert!(spliced == sealed || open(spliced).is_err());
    } else {
        assert!(open(bytes.to_vec()).is_err());
    }
});
