//! Tests of `tar`.

use super::*;
use proptest::prelude::*;

fn octal(field: &mut [u8], number: u64) {
    let digits = format!("{number:0width$o} ", width = field.len() - 1);
    field.copy_from_slice(digits.as_bytes());
}

fn seal(block: &mut [u8; 512]) {
    block[CHECKSUM_FIELD].fill(b' ');
    let sum = block.iter().map(|&byte| u64::from(byte)).sum();
    octal(&mut block[148..155], sum);
}

/// A header as PostgreSQL lays it out.
fn header(name: &[u8], kind: u8, size: u64, target: &[u8]) -> [u8; 512] {
    let mut block = [0; 512];
    block[..name.len()].copy_from_slice(name);
    octal(&mut block[100..108], 0o100_600);
    octal(&mut block[108..116], 26);
    octal(&mut block[116..124], 26);
    if size < 1 << 33 {
        octal(&mut block[124..136], size);
    } else {
        block[124] = 0x80;
        block[128..136].copy_from_slice(&size.to_be_bytes());
    }
    octal(&mut block[136..148], 1_795_233_394);
    block[156] = kind;
    block[157..157 + target.len()].copy_from_slice(target);
    block[257..263].copy_from_slice(b"ustar\0");
    block[263..265].copy_from_slice(b"00");
    seal(&mut block);
    block
}

fn archive(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, contents) in files {
        bytes.extend(header(name.as_bytes(), b'0', contents.len() as u64, b""));
        bytes.extend(contents);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.extend([0; 1024]);
    bytes
}

type Files = Vec<(PathBuf, Vec<u8>)>;

/// Paths with contents, how many entries ended, and whether the archive did.
fn read(bytes: &[u8], slice: usize) -> Result<(Files, usize, bool), TarError> {
    let mut reader = TarReader::new();
    let (mut files, mut ends, mut ended) = (Vec::new(), 0, false);
    for piece in bytes.chunks(slice) {
        reader.feed(piece, &mut |event| match event {
            TarEvent::Entry(entry) => files.push((entry.path, Vec::new())),
            TarEvent::Data(data) => files.last_mut().expect("an entry").1.extend(data),
            TarEvent::EndOfEntry => ends += 1,
            TarEvent::EndOfArchive => ended = true,
        })?;
    }
    reader.finish()?;
    Ok((files, ends, ended))
}

fn entry(block: &[u8; 512]) -> Result<TarEntry, TarError> {
    let mut entries = Vec::new();
    TarReader::new().feed(block, &mut |event| {
        if let TarEvent::Entry(entry) = event {
            entries.push(entry);
        }
    })?;
    Ok(entries.remove(0))
}

#[test]
fn files_directories_and_links_come_out_as_they_went_in() {
    let file = entry(&header(b"base/5/INCREMENTAL.1259", b'0', 0, b"")).expect("a file");
    assert_eq!(file.path, PathBuf::from("base/5/INCREMENTAL.1259"));
    assert_eq!((file.mode, file.mtime), (0o600, 1_795_233_394));
    let directory = entry(&header(b"./pg_wal/archive_status/", b'5', 0, b"")).expect("one");
    assert_eq!(directory.path, PathBuf::from("pg_wal/archive_status"));
    assert_eq!(directory.kind, TarKind::Directory);
    let link = entry(&header(b"pg_tblspc/24576", b'2', 0, b"/srv/fast disk")).expect("one");
    let target = PathBuf::from("/srv/fast disk");
    assert_eq!(link.kind, TarKind::Symlink { target });
    let odd = entry(&header(b"odd\xffname", b'0', 0, b"")).expect("one");
    assert_eq!(odd.path.as_os_str().as_encoded_bytes(), b"odd\xffname");
}

#[test]
fn sizes_beyond_eight_gigabytes_are_read() {
    for size in [(1 << 33) - 1, 1 << 33, 5 << 40] {
        assert_eq!(
            entry(&header(b"big", b'0', size, b"")).map(|e| e.size),
            Ok(size)
        );
    }
    let endless = entry(&header(b"big", b'0', u64::MAX, b""));
    assert_eq!(
        endless,
        Err(TarError::Header {
            offset: 0,
            field: "size"
        })
    );
}

#[test]
fn a_path_that_leads_out_is_refused() {
    for name in [
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/..",
        "..",
        "",
        "./",
        ".",
    ] {
        let found = entry(&header(name.as_bytes(), b'0', 0, b""));
        assert_eq!(found, Err(TarError::UnsafePath { offset: 0 }), "{name}");
    }
}

#[test]
fn kinds_no_base_backup_has_are_refused() {
    for kind in [b'1', b'3', b'6', b'L', b'x', b'g'] {
        let found = entry(&header(b"a", kind, 0, b""));
        assert_eq!(
            found,
            Err(TarError::Header {
                offset: 0,
                field: "kind"
            })
        );
    }
    let sized = entry(&header(b"a", b'5', 1, b""));
    assert_eq!(
        sized,
        Err(TarError::Header {
            offset: 0,
            field: "size"
        })
    );
}

#[test]
fn an_archive_that_goes_on_behind_its_end_is_refused_where_it_does() {
    let mut bytes = archive(&[("a", vec![1; 10])]);
    let end = bytes.len();
    bytes.extend([0; 700]);
    assert!(read(&bytes, 100).is_ok());
    bytes.push(1);
    let offset = end as u64 + 700;
    assert_eq!(read(&bytes, 100), Err(TarError::AfterEnd { offset }));
    let mut one_block = archive(&[("a", vec![1; 10])]);
    one_block.truncate(end - 512);
    one_block.extend(header(b"b", b'0', 0, b""));
    let offset = end as u64 - 512;
    assert_eq!(read(&one_block, 7), Err(TarError::AfterEnd { offset }));
}

#[test]
fn every_flipped_bit_of_a_header_is_noticed_or_changes_nothing() {
    let whole = archive(&[("base/1/1259", vec![7; 100])]);
    let expected = read(&whole, 512);
    assert!(expected.is_ok());
    for (at, bit) in (0..512).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << bit;
        let found = read(&bytes, 512);
        // Within the checksum's own field a zero may become a blank: the number is the same.
        let same = (148..156).contains(&at) && found == expected;
        assert!(found.is_err() || same, "byte {at}, bit {bit}");
    }
}

proptest! {
    #[test]
    fn slices_of_any_length_give_the_same_files(
        contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 0..6),
        slice in 1..3000_usize,
    ) {
        let names = ["a", "b/c", "b/d", "e", "f", "g"];
        let files: Vec<_> = names.into_iter().zip(contents).collect();
        let bytes = archive(&files);
        let found = read(&bytes, slice).expect("a whole archive");
        let expected: Vec<_> = files.into_iter().map(|(n, c)| (PathBuf::from(n), c)).collect();
        prop_assert_eq!(found, (expected.clone(), expected.len(), true));
    }

    #[test]
    fn every_truncation_is_noticed(
        sizes in prop::collection::vec(0..2000_usize, 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let names = ["a", "b", "c", "d"];
        let files: Vec<_> = names.into_iter().zip(sizes.iter().map(|&s| vec![7; s])).collect();
        let bytes = archive(&files);
        let cut = cut.index(bytes.len());
        let found = read(&bytes[..cut], 600);
        prop_assert_eq!(found, Err(TarError::Truncated { offset: cut as u64 }));
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..3000),
        slice in 1..600_usize,
        sealed in any::<bool>(),
    ) {
        if let (true, Some(block)) = (sealed, bytes.first_chunk_mut::<512>()) {
            block[257..262].copy_from_slice(b"ustar");
            seal(block);
        }
        let _ = read(&bytes, slice);
    }
}
