//! The golden vectors of docs/format.md: bytes that an independent implementation made, and what opening them must say.

use std::collections::BTreeSet;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ed25519_dalek::VerifyingKey;
use pitr_archive::keys::{
    DataKey, Identity, KeyError, KeyFile, Opener, Recipient, SignedDocument, WrappedDataKey,
    WriterKey,
};
use pitr_archive::object::{
    Expected, Fault, HeaderError, Id, Kind, Object, ObjectError, Opened, StreamName,
};
use serde_json::{Value, json};

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn expectations() -> Value {
    let text = std::fs::read_to_string(vectors().join("expectations.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

fn id(value: &Value) -> Id {
    Id::parse(text(value)).expect("an id")
}

fn bytes32(value: &Value) -> [u8; 32] {
    let digits = text(value);
    std::array::from_fn(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn writer(all: &Value) -> VerifyingKey {
    VerifyingKey::from_bytes(&bytes32(&all["writer_public"])).unwrap()
}

fn expected(value: &Value) -> Expected {
    let stream = value["stream"].as_str();
    Expected {
        archive_id: id(&value["archive_id"]),
        kind: match text(&value["kind"]) {
            "segment" => Kind::Segment,
            "part" => Kind::Part,
            "manifest" => Kind::Manifest,
            "history" => Kind::History,
            other => panic!("unknown kind {other}"),
        },
        stream: stream.map(|name| StreamName::new(name).unwrap()),
        set_id: id(&value["set_id"]),
        seq: value["seq"].as_u64().unwrap(),
    }
}

/// The object as a reader takes it from the store.
fn object(name: &str, vector: &Value, all: &Value) -> Result<Object, ObjectError> {
    let bytes = Bytes::from(std::fs::read(vectors().join(name)).unwrap());
    Object::new(name, bytes, &expected(&vector["expected"]), &writer(all))
}

/// Opens a vector to its plaintext, as a reader does.
fn open(name: &str, vector: &Value, all: &Value) -> Result<(Opened, Vec<u8>), ObjectError> {
    let key = DataKey::from_parts(id(&vector["key_id"]), bytes32(&vector["key"]));
    let opened = object(name, vector, all)?.open(&key)?;
    let plaintext = opened.plaintext()?;
    Ok((opened, plaintext))
}

/// A fault as expectations.json writes it.
fn describe(fault: &Fault) -> Value {
    match fault {
        Fault::Header(HeaderError::Magic) => json!({"variant": "Header", "error": "Magic"}),
        Fault::Header(HeaderError::Version(version)) => {
            json!({"variant": "Header", "error": "Version", "version": version})
        }
        Fault::Header(HeaderError::Field { field, offset }) => {
            json!({"variant": "Header", "error": "Field", "field": field, "offset": offset})
        }
        Fault::Length { actual, expected } => {
            json!({"variant": "Length", "actual": actual, "expected": expected})
        }
        Fault::HeaderSignature => json!({"variant": "HeaderSignature"}),
        Fault::Misplaced {
            field,
            found,
            wanted,
        } => json!({"variant": "Misplaced", "field": field, "found": found, "wanted": wanted}),
        Fault::WrongKey { key_id } => json!({"variant": "WrongKey", "key_id": key_id.to_string()}),
        Fault::Chunk { index, offset } => {
            json!({"variant": "Chunk", "index": index, "offset": offset})
        }
        Fault::Hash { offset } => json!({"variant": "Hash", "offset": offset}),
        Fault::Signature { offset } => json!({"variant": "Signature", "offset": offset}),
        Fault::Footer(reason) => json!({"variant": "Footer", "reason": reason}),
        Fault::Frame { index, reason } => {
            json!({"variant": "Frame", "index": index, "reason": reason})
        }
    }
}

fn header_as_json(opened: &Opened) -> Value {
    let header = &opened.header;
    json!({
        "refill": header.refill, "writer_id": header.writer_id.to_string(), "stream": header.stream.as_str(),
        "start": header.start, "end": header.end, "time_min": header.time_min, "time_max": header.time_max,
        "time_high": header.time_high, "run_seq": header.run_seq, "run_start": header.run_start,
        "unsure_seq": header.unsure_seq, "plaintext_bytes": header.plaintext_bytes,
        "payload_bytes": header.payload_bytes, "previous": hex(&header.previous),
    })
}

#[test]
fn every_good_object_opens_to_what_was_sealed() {
    let all = expectations();
    let mut seen = 0;
    for (name, vector) in all["objects"].as_object().unwrap() {
        if vector.get("fault").is_some() {
            continue;
        }
        let (opened, plaintext) =
            open(name, vector, &all).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(header_as_json(&opened), vector["header"], "{name}");
        assert_eq!(hex(&opened.summary), text(&vector["summary"]), "{name}");
        assert_eq!(Some(opened.frames() as u64), vector["frames"].as_u64());
        let found = blake3::hash(&plaintext).to_hex();
        assert_eq!(found.as_str(), text(&vector["plaintext_blake3"]), "{name}");
        let hash = object(name, vector, &all).unwrap().verify().unwrap();
        assert_eq!(hex(&hash), text(&vector["hash"]), "{name}");
        seen += 1;
    }
    assert!(seen >= 20, "only {seen} good vectors");
}

#[test]
fn every_bad_object_is_refused_for_its_defect_and_named() {
    let all = expectations();
    let mut seen = 0;
    for (name, vector) in all["objects"].as_object().unwrap() {
        let Some(fault) = vector.get("fault") else {
            continue;
        };
        let error = match open(name, vector, &all) {
            Ok(_) => panic!("{name} opens"),
            Err(error) => error,
        };
        assert_eq!(&describe(&error.fault), fault, "{name}: {error}");
        let message = error.to_string();
        assert!(message.contains(&format!("object {name}")), "{message}");
        for number in ["index", "offset", "actual", "version"] {
            if let Some(number) = fault.get(number) {
                assert!(message.contains(&number.to_string()), "{name}: {message}");
            }
        }
        let wrong_key = text(&fault["variant"]) == "WrongKey";
        assert_eq!(error.is_wrong_key(), wrong_key, "{name}");
        assert_eq!(message.contains("wrong key"), wrong_key, "{message}");
        seen += 1;
    }
    assert!(seen >= 100, "only {seen} bad vectors");
}

#[test]
fn every_vector_has_an_expectation_and_every_expectation_a_vector() {
    let all = expectations();
    let told: BTreeSet<String> = ["objects", "documents"]
        .iter()
        .flat_map(|section| all[*section].as_object().unwrap().keys().cloned())
        .collect();
    let mut found = BTreeSet::new();
    for folder in ["good", "bad", "documents"] {
        for entry in std::fs::read_dir(vectors().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            found.insert(format!("{folder}/{name}"));
        }
    }
    let none = Vec::<&String>::new();
    assert_eq!(told.difference(&found).collect::<Vec<_>>(), none);
    assert_eq!(found.difference(&told).collect::<Vec<_>>(), none);
}

#[test]
fn the_worked_example_of_the_document_is_the_vector() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let document = std::fs::read_to_string(root.join("docs/format.md")).unwrap();
    let example = document
        .split("\n## 10. A worked example\n")
        .nth(1)
        .unwrap();
    let example = example.split("\n## 11.").next().unwrap();
    let mut bytes = Vec::new();
    for line in example.lines() {
        // Lines of a dump begin with their offset, of four digits.
        let Some((offset, row)) = line.split_once("  ") else {
            continue;
        };
        if offset.len() == 4 && usize::from_str_radix(offset, 16) == Ok(bytes.len()) {
            let row = row.split(' ').map(|byte| u8::from_str_radix(byte, 16));
            bytes.extend(row.map(Result::unwrap));
        }
    }
    let vector = std::fs::read(vectors().join("good/worked-example.object")).unwrap();
    assert_eq!(hex(&bytes), hex(&vector));
    let all = expectations();
    let told = &all["objects"]["good/worked-example.object"];
    for value in [&told["key"], &told["key_id"], &all["writer_public"]] {
        assert!(example.contains(text(value)), "{value}");
    }
}

/// A file with mode 0600 that holds `content`.
fn secret_file(directory: &tempfile::TempDir, content: &str) -> PathBuf {
    let path = directory.path().join(Id::random().to_string());
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .unwrap();
    std::io::Write::write_all(&mut file, content.as_bytes()).unwrap();
    path
}

#[test]
fn every_wrapped_key_document_opens_or_is_refused_for_its_defect() {
    let all = expectations();
    let directory = tempfile::tempdir().unwrap();
    let identity = Identity::load(&secret_file(&directory, text(&all["identity"]))).unwrap();
    let key_file = KeyFile::load(&secret_file(&directory, text(&all["key_file"]))).unwrap();
    let (archive, key) = (id(&all["archive_id"]), id(&all["key_id"]));
    let probe = "good/worked-example.object";
    for (name, vector) in all["documents"].as_object().unwrap() {
        let opener = match text(&vector["opener"]) {
            "identity" => Opener::Identity(identity.clone()),
            _ => Opener::KeyFile(key_file.clone()),
        };
        let bytes = std::fs::read(vectors().join(name)).unwrap();
        let stored_as = text(&vector["object"]);
        let unwrapped = SignedDocument::verify::<WrappedDataKey>(stored_as, &bytes, &writer(&all))
            .and_then(|document| document.unwrap(stored_as, archive, key, &opener));
        let result = match &unwrapped {
            Ok(data_key) => {
                // A wrap that yields other bytes than the key's is no success: the key has to open an object.
                let object = object(probe, &all["objects"][probe], &all).unwrap();
                object.open(data_key).unwrap();
                "opens"
            }
            Err(KeyError::NotForUs { .. }) => "NotForUs",
            Err(KeyError::Damaged { .. }) => "Damaged",
            Err(KeyError::NotSigned { .. }) => "NotSigned",
            Err(error) => panic!("{name}: {error}"),
        };
        assert_eq!(result, text(&vector["result"]), "{name}: {unwrapped:?}");
        if let Err(error) = unwrapped {
            let message = error.to_string();
            assert!(message.contains(stored_as), "{name}: {message}");
            let wrong_key = message.contains("wrong key");
            assert_eq!(result == "NotForUs", wrong_key, "{name}: {message}");
        }
    }
}

#[test]
fn every_text_form_is_read_or_refused() {
    let all = expectations();
    let directory = tempfile::tempdir().unwrap();
    for (name, vector) in all["texts"].as_object().unwrap() {
        let content = text(&vector["text"]);
        let path = secret_file(&directory, content);
        let read = match text(&vector["form"]) {
            "recipient" => content.parse::<Recipient>().map(|r| r.to_string()),
            "identity" => Identity::load(&path).map(|i| i.recipient().to_string()),
            "key-file" => KeyFile::load(&path).map(|file| file.fingerprint()),
            "signing-key" => WriterKey::load(&path).map(|key| hex(key.public().as_bytes())),
            other => panic!("unknown form {other}"),
        };
        let wanted = vector["result"].as_str();
        assert_eq!(read.as_deref().ok(), wanted, "{name}: {read:?}");
    }
}
