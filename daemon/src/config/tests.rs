//! What the configuration accepts and how it refuses.

use super::*;

const SMALLEST: &str = r#"
[archive]
url = "file:///var/lib/pitrd/orders"
[encryption]
recipients = ["x25519:l-FXy7xHObPhdqFts7aez9z3KaytlNfJd_FVvW6fTn9JbKFL"]
[source.postgres]
connection = "host=/run/postgresql user=pitrd"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/etc/pitrd/orders.toml"), text)
}

fn refusal(text: &str) -> String {
    match parse(text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_smallest_file_gets_the_documented_defaults() {
    let config = parse(SMALLEST).unwrap();
    assert_eq!(
        config.archive.url.to_string(),
        "file:///var/lib/pitrd/orders"
    );
    assert_eq!(
        config.archive.signing_key_file,
        Path::new("/etc/pitrd/orders.signing-key")
    );
    let SourceConfig::Postgres(source) = &config.source else {
        panic!("the source is PostgreSQL");
    };
    assert_eq!(source.slot, "pitrd");
    assert!(source.create_slot && !source.allow_standby);
    assert_eq!(config.segment.bytes_max, 16 << 20);
    assert_eq!(config.segment.linger, Duration::from_secs(1));
    assert_eq!(config.segment.compression, Compression::Zstd(1));
    assert_eq!(config.segment.puts_in_flight, 4);
    assert_eq!(config.backup.every, None);
    assert_eq!(config.log.level, LogLevel::INFO);
}

#[test]
fn every_key_can_be_given() {
    let config = parse(
        r#"
[archive]
url = "file:///srv/archive"
signing_key_file = "keys/signing"
[encryption]
key_file = "/etc/pitrd/key"
[source.postgres]
connection = "host=db"
slot = "orders_1"
password_file = "password"
allow_standby = true
create_slot = false
[segment]
bytes_max = 65536
linger = "200ms"
compression = "zstd:-1"
puts_in_flight = 16
[backup]
every = "1d"
rate_limit = "50 MiB/s"
[log]
format = "json"
level = "debug"
"#,
    )
    .unwrap();
    assert_eq!(
        config.archive.signing_key_file,
        Path::new("/etc/pitrd/keys/signing")
    );
    assert!(
        matches!(&config.encryption, Encryption::KeyFile(path) if path == Path::new("/etc/pitrd/key"))
    );
    assert_eq!(
        config.source.password_file(),
        Some(Path::new("/etc/pitrd/password"))
    );
    assert_eq!(config.segment.bytes_max, 64 << 10);
    assert_eq!(config.segment.compression, Compression::Zstd(-1));
    assert_eq!(config.backup.every, Some(Duration::from_secs(86_400)));
    assert_eq!(config.backup.rate_limit, Some(50 << 20));
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn an_unknown_key_is_refused_with_file_line_and_the_nearest() {
    let text = format!("{SMALLEST}[segment]\nlinger = \"1s\"\nbyte_max = \"16 MiB\"\n");
    assert_eq!(
        refusal(&text),
        "/etc/pitrd/orders.toml:10: unknown key \"byte_max\" in [segment]; the nearest known key is \"bytes_max\""
    );
}

#[test]
fn an_unknown_section_is_refused_with_the_nearest() {
    let said = refusal(&format!("{SMALLEST}[segments]\nlinger = \"1s\"\n"));
    assert!(said.starts_with("/etc/pitrd/orders.toml:8: "), "{said}");
    assert!(
        said.ends_with("the nearest known key is \"segment\""),
        "{said}"
    );
}

#[test]
fn a_key_in_the_wrong_section_is_told_where_it_belongs() {
    let said = refusal(&SMALLEST.replace("[encryption]", "linger = \"1s\"\n[encryption]"));
    assert!(
        said.contains(":4: ") && said.ends_with("it belongs in [segment]"),
        "{said}"
    );
}

#[test]
fn a_value_out_of_range_is_refused_with_what_is_allowed() {
    for (line, allowed) in [
        ("[segment]\nbytes_max = \"1 KiB\"", "64 KiB"),
        ("[segment]\nbytes_max = \"65 MiB\"", "64 MiB"),
        ("[segment]\nbytes_max = -1", "64 KiB"),
        ("[segment]\nlinger = \"1ms\"", "10ms"),
        ("[segment]\nlinger = 1", "10ms"),
        ("[segment]\nlinger = \"11min\"", "10min"),
        ("[segment]\ncompression = \"zstd:20\"", "zstd:19"),
        ("[segment]\ncompression = \"zstd:0\"", "zstd:1"),
        ("[segment]\ncompression = \"lz4\"", "zstd:1"),
        ("[segment]\nputs_in_flight = 17", "1 to 16"),
        ("[segment]\nputs_in_flight = \"4\"", "1 to 16"),
        ("[backup]\nevery = \"10s\"", "a minute"),
        ("[backup]\nrate_limit = 0", "above zero"),
        ("[log]\nlevel = \"verbose\"", "\"debug\""),
    ] {
        let said = refusal(&format!("{SMALLEST}{line}\n"));
        assert!(said.starts_with("/etc/pitrd/orders.toml:9: "), "{said}");
        assert!(said.contains("must be") && said.contains(allowed), "{said}");
    }
}

#[test]
fn a_slot_name_that_postgresql_would_refuse_is_refused() {
    for slot in ["", "Pitrd", "pitr-d", "ä", &"x".repeat(64)] {
        let said = refusal(&format!("{SMALLEST}slot = \"{slot}\"\n"));
        assert!(
            said.contains("slot in [source.postgres] must be a slot name"),
            "{said}"
        );
    }
}

#[test]
fn there_is_no_unencrypted_mode() {
    let said = refusal(&SMALLEST.replace(
        "recipients = [\"x25519:l-FXy7xHObPhdqFts7aez9z3KaytlNfJd_FVvW6fTn9JbKFL\"]",
        "",
    ));
    assert!(said.contains("there is no unencrypted mode"), "{said}");
    let said = refusal(&SMALLEST.replace(
        "[\"x25519:l-FXy7xHObPhdqFts7aez9z3KaytlNfJd_FVvW6fTn9JbKFL\"]",
        "[]",
    ));
    assert!(said.contains("one or more recipients"), "{said}");
}

#[test]
fn recipients_and_a_key_file_together_are_refused() {
    let said = refusal(&SMALLEST.replace("[source", "key_file = \"k\"\n[source"));
    assert!(said.contains("keep one of the two"), "{said}");
}

#[test]
fn what_is_needed_and_missing_is_named() {
    let said = refusal("");
    assert!(
        said.starts_with("/etc/pitrd/orders.toml: url in [archive] is missing"),
        "{said}"
    );
    let said = refusal(&SMALLEST.replace("connection", "slot = \"a\" #"));
    assert!(
        said.contains(":6: connection in [source.postgres] is missing"),
        "{said}"
    );
}

#[test]
fn what_is_not_toml_is_refused_with_its_line() {
    assert!(refusal("[archive\nurl = 1").starts_with("/etc/pitrd/orders.toml:1: not TOML: "));
    assert!(refusal("archive = 1").contains("archive is a section"));
}

#[test]
fn debug_output_does_not_show_the_connection_string() {
    let config = parse(&SMALLEST.replace("user=pitrd", "user=pitrd password=canary-7f3a")).unwrap();
    assert!(!format!("{config:?}").contains("canary-7f3a"));
}

#[test]
fn every_key_is_documented_in_its_section() {
    let manual = include_str!("../../../docs/operations.md");
    for (section, keys) in KNOWN
        .iter()
        .filter(|(name, _)| !matches!(*name, "" | "source"))
    {
        let heading = format!("### [{section}]\n");
        let (_, text) = manual
            .split_once(&heading)
            .unwrap_or_else(|| panic!("{heading} is missing"));
        let text = text.split("\n#").next().unwrap_or_default();
        for key in *keys {
            assert!(
                text.contains(&format!("\n| `{key}` |")),
                "[{section}] {key} is not documented"
            );
        }
    }
}

#[test]
fn the_example_needs_nothing_but_a_recipient() {
    let example = include_str!("../../../systemd/pitrd.toml");
    assert!(
        refusal(example).contains("recipients in [encryption] is refused"),
        "nobody holds the example's key"
    );
    let recipient = SMALLEST
        .split('"')
        .find(|part| part.starts_with("x25519:"))
        .unwrap();
    let config = parse(&example.replace("x25519:…", recipient)).unwrap();
    assert_eq!(config.segment.linger, Duration::from_secs(1));
}

#[test]
fn an_archive_in_s3_takes_what_its_section_says() {
    let text = SMALLEST.replace(
        "url = \"file:///var/lib/pitrd/orders\"",
        "url = \"s3://backups/orders?region=eu-west-1\"\nimmutable_for = \"24h\"\nacknowledge = \"all\"",
    ) + r#"
[archive.s3]
endpoint = "https://store.example:9000"
region = "eu-central-1"
path_style = false
profile = "backup"
credentials_file = "aws"
ca_file = "/etc/ca.pem"
sse = "kms"
kms_key = "alias/orders"
storage_class = "STANDARD_IA"
[[archive.copy]]
url = "file:///srv/copy"
[[archive.copy]]
url = "s3://elsewhere"
legal_hold = true
[archive.copy.s3]
region = "us-west-2"
"#;
    let config = parse(&text).unwrap();
    assert_eq!(
        config.archive.url.to_string(),
        "s3://backups/orders?endpoint=https://store.example:9000&region=eu-central-1&path_style=false&profile=backup\
         &credentials_file=/etc/pitrd/aws&ca_file=/etc/ca.pem&sse=kms:alias/orders&storage_class=STANDARD_IA"
    );
    let ArchiveUrl::S3(settings) = &config.archive.url else {
        panic!("not S3");
    };
    assert_eq!(settings.lock, config.archive.lock);
    assert_eq!(
        settings.lock.unwrap().immutable_for,
        Some(Duration::from_secs(86_400))
    );
    assert_eq!(config.archive.acknowledge, Acknowledge::All);
    let copies: Vec<_> = config
        .archive
        .copies
        .iter()
        .map(|copy| copy.url.to_string())
        .collect();
    assert_eq!(
        copies,
        ["file:///srv/copy", "s3://elsewhere?region=us-west-2"]
    );
    assert!(config.archive.copies[1].lock.unwrap().legal_hold);
    assert_eq!(config.segment.puts_in_flight, 16);
}

#[test]
fn what_does_not_go_together_in_an_archive_is_refused() {
    let with =
        |lines: &str| refusal(&SMALLEST.replace("[encryption]", &format!("{lines}\n[encryption]")));
    for (lines, says) in [
        (
            "[archive.s3]\nregion = \"a\"",
            "goes with a url that begins with s3://",
        ),
        ("immutable_mode = \"governance\"", "goes with immutable_for"),
        ("immutable_for = \"1s\"", "from \"1h\""),
        ("acknowledge = \"some\"", "\"primary\""),
        ("copy = \"file:///b\"", "[[archive.copy]]"),
        (
            "[[archive.copy]]\nurl = \"file:///var/lib/pitrd/orders\"",
            "the same place twice",
        ),
        (
            "[[archive.copy]]\nurl = \"file:///b\"\nsigning_key_file = \"x\"",
            "unknown key",
        ),
    ] {
        let said = with(lines);
        assert!(said.contains(says), "{lines}: {said}");
    }
}

#[test]
fn a_mongodb_source_is_one_of_two() {
    let text = SMALLEST.replace(
        &SMALLEST[SMALLEST.find("[source").unwrap()..],
        "[source.mongodb]\nuri = \"mongodb://pitrd:canary@db1/?replicaSet=a\"\npassword_file = \"p\"\n",
    );
    let config = parse(&text).unwrap();
    let SourceConfig::Mongodb(source) = &config.source else {
        panic!("the source is MongoDB");
    };
    assert_eq!(source.capture, MongodbCapture::Oplog);
    let streamed = text.replace("password_file = \"p\"", "capture = \"change-stream\"");
    let SourceConfig::Mongodb(other) = parse(&streamed).expect("it is valid").source else {
        panic!("the source is MongoDB");
    };
    assert_eq!(other.capture, MongodbCapture::ChangeStream);
    assert_eq!(
        source.password_file.as_deref(),
        Some("/etc/pitrd/p".as_ref())
    );
    assert!(!format!("{config:?}").contains("canary"));
    let said = refusal(&format!(
        "{SMALLEST}\n[source.mongodb]\nuri = \"mongodb://db1\"\n"
    ));
    assert!(
        said.contains("mongodb in [source] stands beside postgres"),
        "{said}"
    );
    let size = |size: &str| format!("{text}transaction_bytes_max = \"{size}\"\n");
    assert!(
        refusal(&size("63 MiB")).contains("64 MiB") && refusal(&size("1 GB")).contains("900 MiB")
    );
    let said = refusal(&text.replace("mongodb://", "http://"));
    assert!(
        said.contains("uri in [source.mongodb] must be a URI"),
        "{said}"
    );
}
