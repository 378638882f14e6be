//! Keys that change while an archive lives: data keys every day, recipients when their owners do.

use std::sync::Arc;
use std::time::Duration;

use pitr_archive::Archive;
use pitr_archive::keys::{Identity, Opener, Wrapper, WriterKey};
use pitr_archive::object::{Frame, Id, Kind, Sealed};
use pitr_archive::writer::Writer;
use pitr_archive::{Reading, layout};
use pitr_tests::life::stream;
use pitr_tests::memory_store::MemoryStore;

const HOUR: Duration = Duration::from_secs(3600);

async fn seal(writer: &Arc<Writer>, seq: u64) -> Sealed {
    let mut header = writer.header(Kind::Segment, &stream(), Id::default(), seq);
    (header.start, header.end) = (seq + 1, seq + 2);
    (header.run_seq, header.run_start) = (0, 1);
    let sealed = writer.seal(header, vec![Frame::compress(b"x", 1)], Vec::new());
    sealed.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_data_key_is_used_for_a_day_and_what_every_one_sealed_stays_readable() {
    let medium = MemoryStore::new();
    let (key, identity) = (WriterKey::generate(), Identity::generate());
    let wrappers = vec![Wrapper::Recipient(identity.recipient())];
    let store = Arc::new(medium.clone());
    let archive = Archive::create(store, "test", "none", [].into(), &key, &wrappers);
    let archive = archive.await.unwrap();
    let writer = Writer::new(Arc::clone(&archive), key, wrappers).unwrap();

    let mut sealed = vec![seal(&writer, 0).await];
    for (hours, same) in [(23, true), (2, false), (23, true), (1, false)] {
        tokio::time::advance(HOUR * hours).await;
        let next = seal(&writer, sealed.len() as u64).await;
        let before = sealed.last().unwrap().header.key_id;
        assert_eq!(next.header.key_id == before, same, "{hours} h later");
        sealed.push(next);
    }
    let reading = Reading::new(archive, Opener::Identity(identity));
    for object in sealed {
        let header = &object.header;
        let name = layout::data_key(header.key_id);
        assert!(medium.object(&name).is_some(), "{name}");
        let key = layout::segment(&stream(), header.seq);
        writer.put(&key, object.bytes.clone()).await.unwrap();
        let expected =
            reading
                .archive()
                .expected(Kind::Segment, Some(&stream()), Id::default(), header.seq);
        let opened = reading.fetch(&key, &expected).await.unwrap();
        assert_eq!(opened.plaintext().unwrap(), b"x");
    }
}

#[tokio::test]
async fn a_new_recipient_can_bring_the_signing_key_back_and_an_old_one_no_longer() {
    let store = Arc::new(MemoryStore::new());
    let (key, old, new) = (
        WriterKey::generate(),
        Identity::generate(),
        Identity::generate(),
    );
    let wrappers = |identity: &Identity| vec![Wrapper::Recipient(identity.recipient())];
    let first = wrappers(&old);
    let archive = Archive::create(store, "test", "none", [].into(), &key, &first);
    let archive = archive.await.unwrap();
    assert!(
        !archive
            .seal_writer_key(&key, &wrappers(&old))
            .await
            .unwrap()
    );
    assert!(
        archive
            .seal_writer_key(&key, &wrappers(&new))
            .await
            .unwrap()
    );
    assert!(
        !archive
            .seal_writer_key(&key, &wrappers(&new))
            .await
            .unwrap()
    );
    let brought = archive.recover_writer_key(&Opener::Identity(new)).await;
    assert_eq!(brought.unwrap().public(), key.public());
    let refused = archive.recover_writer_key(&Opener::Identity(old)).await;
    assert!(refused.is_err());
    let stranger = WriterKey::generate();
    assert!(archive.seal_writer_key(&stranger, &[]).await.is_err());
}
