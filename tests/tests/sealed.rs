//! Properties of sealed objects: whatever is changed about one, it does not open, and the error says where.

use bytes::Bytes;
use ed25519_dalek::{SigningKey, VerifyingKey};
use pitr_archive::keys::DataKey;
use pitr_archive::object::{
    Expected, FRAME_BYTES_MAX, Fault, Frame, HEADER_BYTES, Header, Id, Kind, Object, ObjectError,
    PREAMBLE_BYTES, Proofs, Sealed, StreamName, object_bytes, seal,
};
use proptest::prelude::*;

const KEY: &str = "log/00000001/0000000000000005";
const CHUNK: usize = 16 * 1024;

/// Who seals and who opens.
struct Hands {
    data_key: DataKey,
    signing: SigningKey,
}

impl Hands {
    fn new() -> Self {
        Self {
            data_key: DataKey::from_parts(Id([2; 16]), [9; 32]),
            signing: SigningKey::from_bytes(&[7; 32]),
        }
    }

    fn writer(&self) -> VerifyingKey {
        self.signing.verifying_key()
    }

    fn seal(&self, header: Header, frames: &[Frame], summary: &[u8]) -> Sealed {
        seal(header, frames, summary, &self.data_key, &self.signing)
    }

    fn open(&self, bytes: impl Into<Bytes>) -> Result<Vec<u8>, ObjectError> {
        let object = Object::new(KEY, bytes.into(), &expected(), &self.writer())?;
        object.open(&self.data_key)?.plaintext()
    }
}

fn expected() -> Expected {
    Expected {
        archive_id: Id([1; 16]),
        kind: Kind::Segment,
        stream: StreamName::new("00000001"),
        set_id: Id::default(),
        seq: 5,
    }
}

fn header(plaintext: usize) -> Header {
    Header {
        kind: Kind::Segment,
        refill: false,
        archive_id: Id([1; 16]),
        key_id: Id::default(),
        writer_id: Id([3; 16]),
        stream: StreamName::new("00000001").unwrap(),
        set_id: Id::default(),
        seq: 5,
        start: 1000,
        end: 1000 + plaintext.max(1) as u64,
        time_min: Some(5),
        time_max: Some(8),
        time_high: Some(9),
        run_seq: 2,
        run_start: 10,
        unsure_seq: Some(4),
        damage: None,
        proofs: Proofs::default(),
        plaintext_bytes: 0,
        payload_bytes: 0,
        previous: [4; 32],
    }
}

fn frames(plaintext: &[u8]) -> Vec<Frame> {
    let pieces = plaintext.chunks(FRAME_BYTES_MAX);
    pieces.map(|piece| Frame::compress(piece, 1)).collect()
}

fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&[seed])
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// The fault that damage at `offset` of an object of three chunks has to be called.
fn fault_at(offset: usize, length: usize) -> fn(&Fault) -> bool {
    if offset < HEADER_BYTES {
        |fault| matches!(fault, Fault::Header(_) | Fault::HeaderSignature)
    } else if offset < PREAMBLE_BYTES {
        |fault| matches!(fault, Fault::HeaderSignature)
    } else if offset < length - 96 {
        |fault| matches!(fault, Fault::Chunk { .. })
    } else if offset < length - 64 {
        |fault| matches!(fault, Fault::Hash { .. })
    } else {
        |fault| matches!(fault, Fault::Signature { .. })
    }
}

#[test]
fn every_single_bit_flip_is_refused_where_it_is() {
    let hands = Hands::new();
    let sealed = hands.seal(header(64), &frames(&noise(1, 64)), b"summary");
    assert!(hands.open(sealed.bytes.clone()).is_ok());
    for bit in 0..sealed.bytes.len() * 8 {
        let mut flipped = sealed.bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let error = hands.open(flipped).unwrap_err();
        let fits = fault_at(bit / 8, sealed.bytes.len());
        assert!(fits(&error.fault), "bit {bit}: {error}");
        assert!(!error.is_wrong_key(), "bit {bit}: {error}");
    }
}

#[test]
fn a_genuine_preamble_does_not_open_another_body() {
    let hands = Hands::new();
    let sealed = hands.seal(header(64), &frames(&noise(1, 64)), b"");
    let later = Header {
        time_high: Some(10),
        ..header(64)
    };
    let other = hands.seal(later, &frames(&noise(1, 64)), b"");
    let mut spliced = other.bytes[..PREAMBLE_BYTES].to_vec();
    spliced.extend_from_slice(&sealed.bytes[PREAMBLE_BYTES..]);
    let error = hands.open(spliced).unwrap_err();
    assert!(matches!(error.fault, Fault::Chunk { index: 0, .. }));
}

#[test]
fn every_header_edit_is_refused() {
    let hands = Hands::new();
    let sealed = hands.seal(header(64), &frames(&noise(1, 64)), b"");
    for offset in 0..HEADER_BYTES {
        for value in 0..=255 {
            let mut edited = sealed.bytes.to_vec();
            if edited[offset] == value {
                continue;
            }
            edited[offset] = value;
            let error = hands.open(edited).unwrap_err();
            let fault = &error.fault;
            assert!(
                matches!(fault, Fault::Header(_) | Fault::HeaderSignature),
                "offset {offset} to {value}: {error}"
            );
        }
    }
}

#[test]
fn every_truncation_and_every_extension_is_refused_by_its_length() {
    let hands = Hands::new();
    let sealed = hands.seal(header(40_000), &frames(&noise(2, 40_000)), b"");
    let whole = sealed.bytes.len();
    for length in 0..whole {
        let error = hands.open(sealed.bytes.slice(..length)).unwrap_err();
        let wanted = if length < PREAMBLE_BYTES {
            PREAMBLE_BYTES
        } else {
            whole
        };
        let fault = Fault::Length {
            actual: length as u64,
            expected: wanted as u64,
        };
        assert_eq!(error.fault, fault);
    }
    for extra in [1, 15, 16, 96, CHUNK, CHUNK + 16] {
        let mut longer = sealed.bytes.to_vec();
        longer.resize(whole + extra, 0);
        let error = hands.open(longer).unwrap_err();
        assert!(matches!(error.fault, Fault::Length { .. }), "{error}");
    }
}

#[test]
fn of_two_objects_that_differ_in_one_field_neither_passes_for_the_other() {
    let hands = Hands::new();
    let base = header(8);
    let others = [
        Header {
            seq: 6,
            ..base.clone()
        },
        Header {
            archive_id: Id([8; 16]),
            ..base.clone()
        },
        Header {
            stream: StreamName::new("00000002").unwrap(),
            ..base.clone()
        },
        Header {
            set_id: Id([8; 16]),
            ..base.clone()
        },
        Header {
            kind: Kind::Part,
            ..base.clone()
        },
    ];
    for other in others {
        let sealed = hands.seal(other, &frames(&[0; 8]), b"");
        let error = hands.open(sealed.bytes).unwrap_err();
        assert!(matches!(error.fault, Fault::Misplaced { .. }), "{error}");
    }
}

#[test]
fn no_piece_of_one_object_passes_in_another() {
    let hands = Hands::new();
    let (one, two) = (noise(3, 40_000), noise(3, 40_000));
    let one = hands.seal(header(40_000), &frames(&one), b"").bytes;
    let two = hands.seal(header(40_000), &frames(&two), b"").bytes;
    assert_eq!(one.len(), two.len());
    let mut cuts = vec![0, 256, 320, 344, PREAMBLE_BYTES];
    cuts.extend((1..).map(|k| PREAMBLE_BYTES + k * (CHUNK + 16)).take(2));
    cuts.extend([one.len() - 96, one.len() - 64, one.len()]);
    for (first, second) in cuts.iter().zip(&cuts[1..]) {
        let mut spliced = one.to_vec();
        spliced[*first..*second].copy_from_slice(&two[*first..*second]);
        // The same header in both: that piece is no change.
        let opens = hands.open(spliced).is_ok();
        assert_eq!(opens, *first == 0, "bytes {first}..{second}");
    }
}

#[test]
fn another_key_is_called_a_wrong_key_and_nothing_else() {
    let hands = Hands::new();
    let sealed = hands.seal(header(64), &frames(&noise(1, 64)), b"");
    for key in [
        DataKey::from_parts(Id([2; 16]), [8; 32]),
        DataKey::from_parts(Id([3; 16]), [9; 32]),
    ] {
        let object = Object::new(KEY, sealed.bytes.clone(), &expected(), &hands.writer()).unwrap();
        let error = object.open(&key).unwrap_err();
        assert!(error.is_wrong_key(), "{error}");
        assert!(error.to_string().contains("not damaged"), "{error}");
    }
    let mut damaged = sealed.bytes.to_vec();
    damaged[PREAMBLE_BYTES] ^= 1;
    assert!(!hands.open(damaged).unwrap_err().is_wrong_key());
}

#[test]
fn the_same_object_sealed_twice_shares_no_ciphertext() {
    let hands = Hands::new();
    let seal = || hands.seal(header(64), &frames(&noise(1, 64)), b"").bytes;
    let (one, two) = (seal(), seal());
    assert_eq!(one[..HEADER_BYTES], two[..HEADER_BYTES]);
    let pairs = one[320..].chunks(16).zip(two[320..].chunks(16));
    for (ours, theirs) in pairs {
        assert_ne!(ours, theirs);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_sealed_comes_back(length in 0_usize..200_000, seed in any::<u8>(), runs in any::<bool>(), summary in proptest::collection::vec(any::<u8>(), 0..20_000)) {
        let hands = Hands::new();
        let plaintext = if runs { vec![seed; length] } else { noise(seed, length) };
        let sealed = hands.seal(header(length), &frames(&plaintext), &summary);
        prop_assert_eq!(sealed.bytes.len() as u64, object_bytes(sealed.header.payload_bytes));
        let object = Object::new(KEY, sealed.bytes, &expected(), &hands.writer()).unwrap();
        prop_assert_eq!(object.verify().unwrap(), sealed.hash);
        let opened = object.open(&hands.data_key).unwrap();
        prop_assert_eq!(&opened.summary, &summary);
        let mut pieces = Vec::new();
        for index in 0..opened.frames() {
            let mut piece = Vec::new();
            opened.frame_into(index, &mut piece).unwrap();
            let start = opened.frame_range(index).start;
            prop_assert_eq!(start, pieces.len() as u64);
            pieces.extend_from_slice(&piece);
        }
        prop_assert_eq!(&pieces, &plaintext);
        prop_assert_eq!(opened.plaintext().unwrap(), plaintext);
    }

    #[test]
    fn damage_anywhere_in_a_large_object_is_found(length in 1_usize..200_000, at in any::<prop::sample::Index>(), with in 1_u8..=255) {
        let hands = Hands::new();
        let sealed = hands.seal(header(length), &frames(&noise(1, length)), b"");
        let mut damaged = sealed.bytes.to_vec();
        let offset = at.index(damaged.len());
        damaged[offset] ^= with;
        let error = hands.open(damaged).unwrap_err();
        let fits = fault_at(offset, sealed.bytes.len());
        prop_assert!(fits(&error.fault), "offset {}: {}", offset, error);
        if let Fault::Chunk { index, offset: said } = error.fault {
            let chunk = (offset - PREAMBLE_BYTES) / (CHUNK + 16);
            prop_assert_eq!(index, chunk as u64);
            prop_assert_eq!(said, (PREAMBLE_BYTES + chunk * (CHUNK + 16)) as u64);
        }
    }

    #[test]
    fn any_bytes_are_no_object(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(Hands::new().open(bytes).is_err());
    }
}
