//! The restored files against PostgreSQL's own manifest: nothing missing, no other size, no other checksum. CRC-32C, the
//! server's default, was taken while the bytes were written; other checksums read the files again.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::error::RestoreError;
use super::mark::{Part, Written};
use super::tree::{POSTGRES_MANIFEST, Tree};
use crate::{BackupManifest as PostgresManifest, ManifestChecksum, ManifestFile};

const CRC_DIFFERS: &str = "its CRC-32C is not the one in PostgreSQL's manifest";
const READ_BYTES: usize = 1 << 20;

/// What was written of one file: pieces by offset.
type Pieces = Vec<Written>;

/// Checks what `parts` wrote into `tree` against the manifest that came with the backup.
pub(super) fn written(tree: &Tree, parts: &[Part]) -> Result<(), RestoreError> {
    let mut pieces: Vec<Pieces> = vec![Vec::new(); tree.files.len()];
    for piece in parts.iter().flat_map(|part| &part.files) {
        let file = pieces.get_mut(piece.0).ok_or_else(|| {
            RestoreError::place(
                &tree.root,
                "its record of what is done does not fit the backup",
            )
        })?;
        file.push(*piece);
    }
    let names = tree.files.iter().enumerate();
    let numbers: HashMap<&str, usize> = names
        .map(|(number, file)| (file.name.as_str(), number))
        .collect();
    let mut read_again = Vec::new();
    let manifest = load(&tree.root)?;
    for file in &manifest.files {
        let number = file.path.to_str().and_then(|name| numbers.get(name));
        let number = *number.ok_or_else(|| {
            mismatch(file, "it is in PostgreSQL's manifest and not in the backup")
        })?;
        let size = tree.files[number].contents.bytes;
        if size != file.size {
            return Err(mismatch(
                file,
                &format!("it has {size} bytes, PostgreSQL says {}", file.size),
            ));
        }
        match file.checksum {
            Some(ManifestChecksum::Crc32c(expected)) => {
                let found = whole_crc(&mut pieces[number], size);
                (found == Some(expected))
                    .then_some(())
                    .ok_or_else(|| mismatch(file, CRC_DIFFERS))?;
            }
            Some(checksum) => read_again.push((file, &*tree.files[number].path, checksum)),
            None => {}
        }
    }
    check_contents(&read_again)
}

/// Checks the files below `root` against the manifest that lies there, reading all of them. Their bytes.
pub(super) fn directory(root: &Path) -> Result<u64, RestoreError> {
    let manifest = load(root)?;
    let mut files = Vec::new();
    for file in &manifest.files {
        let path = root.join(&file.path);
        let size = std::fs::metadata(&path).map(|metadata| metadata.len());
        if size.as_ref().ok() != Some(&file.size) {
            return Err(mismatch(
                file,
                "it is missing, or has another size than PostgreSQL says",
            ));
        }
        files.extend(file.checksum.map(|checksum| (file, path, checksum)));
    }
    let files: Vec<_> = files
        .iter()
        .map(|(file, path, checksum)| (*file, path.as_path(), *checksum))
        .collect();
    check_contents(&files)?;
    Ok(manifest.files.iter().map(|file| file.size).sum())
}

fn load(root: &Path) -> Result<PostgresManifest, RestoreError> {
    let path = root.join(POSTGRES_MANIFEST);
    let bytes = std::fs::read(&path).map_err(RestoreError::file("read", &path))?;
    PostgresManifest::parse(&bytes).map_err(|error| RestoreError::Mismatch {
        file: POSTGRES_MANIFEST.into(),
        reason: error.to_string(),
    })
}

/// The CRC of a file from those of its pieces; `None` if they do not lie end to end.
fn whole_crc(pieces: &mut Pieces, bytes: u64) -> Option<u32> {
    pieces.sort_by_key(|piece| piece.1);
    let (mut end, mut crc) = (0, 0);
    for &Written(_, offset, length, piece) in pieces.iter() {
        if offset != end {
            return None;
        }
        crc = crc32c::crc32c_combine(crc, piece, usize::try_from(length).ok()?);
        end += length;
    }
    (end == bytes).then_some(crc)
}

/// Reads files and compares their checksums, on every core.
fn check_contents(files: &[(&ManifestFile, &Path, ManifestChecksum)]) -> Result<(), RestoreError> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((file, path, checksum)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            check_file(file, path, *checksum)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores.min(files.len()))
            .map(|_| scope.spawn(work))
            .collect();
        let mut results = threads.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        results.try_for_each(|result| result)
    })
}

fn check_file(
    file: &ManifestFile,
    path: &Path,
    checksum: ManifestChecksum,
) -> Result<(), RestoreError> {
    let mut open = File::open(path).map_err(RestoreError::file("read", path))?;
    let mut verifier = checksum.verifier();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let bytes = open
            .read(&mut buffer)
            .map_err(RestoreError::file("read", path))?;
        if bytes == 0 {
            break;
        }
        verifier.update(&buffer[..bytes]);
    }
    if verifier.matches() {
        Ok(())
    } else {
        Err(mismatch(
            file,
            "its checksum is not the one in PostgreSQL's manifest",
        ))
    }
}

fn mismatch(file: &ManifestFile, reason: &str) -> RestoreError {
    RestoreError::Mismatch {
        file: file.path.display().to_string(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_in_any_order_have_the_checksum_of_the_whole() {
        let text = b"page after page after page";
        let piece = |range: std::ops::Range<usize>| {
            let bytes = &text[range.clone()];
            Written(
                0,
                range.start as u64,
                bytes.len() as u64,
                crc32c::crc32c(bytes),
            )
        };
        let whole = text.len() as u64;
        let mut pieces = vec![piece(10..26), piece(0..10)];
        assert_eq!(whole_crc(&mut pieces, whole), Some(crc32c::crc32c(text)));
        assert_eq!(whole_crc(&mut vec![piece(10..26)], whole), None, "a hole");
        assert_eq!(whole_crc(&mut vec![piece(0..10)], whole), None, "cut off");
        assert_eq!(whole_crc(&mut vec![], 0), Some(0), "an empty file");
    }
}
