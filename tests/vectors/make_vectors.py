#!/usr/bin/env python3
"""Makes the golden vectors of the archive format, from docs/format.md alone.

No test and no build runs this file. It was run once, its output is committed, and that output is what the Rust code is held
against; it shares no line with that code. Run it again only for a new version of the format, into a new directory:

    pip install cryptography blake3 zstandard
    python3 make_vectors.py DIRECTORY

The body is cross-checked against the Cobblestone-256 of the `cryptography` package, and HPKE against its HPKE.
Every "random" byte is BLAKE3 of a label, so that a second run makes the same bytes.
"""

import base64
import json
import struct
import sys
from pathlib import Path

import blake3
import zstandard
from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hmac, hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

NONE_TIME, NONE_SEQ = -(2**63), 2**64 - 1
CHUNK, TAG = 16384, 16
SEGMENT, PART, MANIFEST, HISTORY = 1, 2, 3, 4


def random(label, n):
    return blake3.blake3(b"golden " + label.encode()).digest(length=n)


def u16(n): return struct.pack(">H", n)
def u32(n): return struct.pack(">I", n)
def u64(n): return struct.pack(">Q", n)
def i64(n): return struct.pack(">q", n)
def b64(b): return base64.b64encode(b).decode()


ARCHIVE, OTHER_ARCHIVE = random("archive", 16), random("other archive", 16)
WRITER_ID = random("writer id", 16)
KEY_ID, KEY = random("key id", 16), random("key", 32)
OTHER_KEY_ID, OTHER_KEY = random("other key id", 16), random("other key", 32)
SIGNER = Ed25519PrivateKey.from_private_bytes(random("signing", 32))
OTHER_SIGNER = Ed25519PrivateKey.from_private_bytes(random("other signing", 32))
BACKUP = b"20261121T031500Z"
assert len(BACKUP) == 16


# ---- 3.1 header ------------------------------------------------------------------------------------------------

def header(**changes):
    h = dict(magic=b"PITRD\0\r\n", version=1, kind=SEGMENT, codec=1, flags=0, zero14=bytes(2), archive=ARCHIVE,
             key=KEY_ID, writer=WRITER_ID, stream=b"00000001", set=bytes(16), seq=7, start=0x1000000, end=None,
             time_min=1_800_000_000_000_000, time_max=1_800_000_000_500_000, time_high=1_800_000_000_700_000, run_seq=3,
             run_start=0x800000, unsure=NONE_SEQ, plaintext=None, previous=random("previous", 32), payload=None,
             zero232=bytes(24))
    h.update(changes)
    return h


def encode_header(h):
    out = (h["magic"] + u16(h["version"]) + bytes([h["kind"], h["codec"]]) + u16(h["flags"]) + h["zero14"] + h["archive"]
           + h["key"] + h["writer"] + h["stream"].ljust(32, b"\0") + h["set"] + u64(h["seq"]) + u64(h["start"])
           + u64(h["end"]) + i64(h["time_min"]) + i64(h["time_max"]) + i64(h["time_high"]) + u64(h["run_seq"])
           + u64(h["run_start"]) + u64(h["unsure"]) + u64(h["plaintext"]) + h["previous"] + u64(h["payload"]) + h["zero232"])
    assert len(out) == 256
    return out


# ---- 4 payload ---------------------------------------------------------------------------------------------------

def compress(piece, level=1):
    return zstandard.ZstdCompressor(level=level, write_content_size=True).compress(piece)


def payload(frames, summary=b"", entries=None, count=None, summary_len=None, magic=b"PITRFOOT"):
    """frames: list of (plaintext length, compressed bytes)."""
    entries = [(p, len(c)) for p, c in frames] if entries is None else entries
    body = b"".join(c for _, c in frames) + b"".join(u32(p) + u32(c) for p, c in entries) + summary
    return body + u32(len(frames) if count is None else count) + u32(len(summary) if summary_len is None else summary_len) + magic


def frames_of(plaintext, size=1 << 20, level=1):
    pieces = [plaintext[i:i + size] for i in range(0, len(plaintext), size)]
    return [(len(p), compress(p, level)) for p in pieces]


# ---- 3.3 body ------------------------------------------------------------------------------------------------------

def derive(key, salt, context):
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM" + b"\0" + salt + context
    okm = HKDFExpand(hashes.SHA512(), 76, info).derive(key)
    return okm[:32], okm[32:44], okm[44:]


def chunks(key, nonce, text, numbers=None):
    pieces = [text[i:i + CHUNK] for i in range(0, len(text) // CHUNK * CHUNK + 1, CHUNK)]
    assert len(pieces[-1]) < CHUNK
    out = []
    for k, piece in enumerate(pieces):
        k = k if numbers is None else numbers[k]
        n = bytes(a ^ b for a, b in zip(nonce, bytes(4) + u64(k)))
        out.append(AESGCM(key).encrypt(n, piece, None))
    return out


def seal(h, body, label, key=KEY, signer=SIGNER, header_signer=None, numbers=None, domain=b"pitrd/header/v1\0",
         object_domain=b"pitrd/object/v1\0", check=True, commitment_of=None):
    """The whole object. The header's lengths must be set."""
    hb, salt = encode_header(h), random("salt " + label, 24)
    k, nonce, commitment = derive(key, salt, hb)
    if commitment_of is not None:
        commitment = derive(commitment_of, salt, hb)[2]
    signature = (header_signer or signer).sign(domain + hb + salt + commitment)
    sealed = b"".join(chunks(k, nonce, body, numbers))
    if check:  # an implementation that is neither this one nor ours opens the body
        opener = Cobblestone256Decryptor(key, hb)
        assert opener.update(salt + commitment + sealed) + opener.finalize() == body
    out = hb + signature + salt + commitment + sealed
    digest = blake3.blake3(out).digest()
    return out + digest + signer.sign(object_domain + digest)


def make(label, frames, summary=b"", seal_args=None, raw_payload=None, **changes):
    body = payload(frames, summary) if raw_payload is None else raw_payload
    length = sum(p for p, _ in frames)
    h = header(**changes)
    h["plaintext"] = length if h["plaintext"] is None else h["plaintext"]
    h["payload"] = len(body) if h["payload"] is None else h["payload"]
    h["end"] = h["start"] + max(length, 1) if h["end"] is None else h["end"]
    return seal(h, body, label, **(seal_args or {})), h


def text(label, n):
    """Compressible, never the same."""
    words = [b"commit", b"insert", b"update", b"vacuum", b"\x00\x00\x00\x00", b"checkpoint"]
    stream = random(label, n)
    return b"".join(words[b % len(words)] + bytes([b]) for b in stream)[:n]


# ---- 5 keys ----------------------------------------------------------------------------------------------------------

def key_text(k):
    return base64.urlsafe_b64encode(k + blake3.blake3(k, derive_key_context="pitrd 2026 key checksum v1").digest()[:4]).decode().rstrip("=")


def public_of(secret):
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def hmac256(key, data):
    h = hmac.HMAC(key, hashes.SHA256())
    h.update(data)
    return h.finalize()


def hpke_seal(public, ephemeral, info, aad, plaintext):
    """RFC 9180, base mode, single shot, from its sections 4.1, 5.1 and 5.2."""
    kem, suite = b"KEM" + u16(0x20), b"HPKE" + u16(0x20) + u16(1) + u16(2)
    def extract(suite, salt, label, ikm): return hmac256(salt or bytes(32), b"HPKE-v1" + suite + label + ikm)
    def expand(suite, prk, label, info, n):
        return HKDFExpand(hashes.SHA256(), n, u16(n) + b"HPKE-v1" + suite + label + info).derive(prk)
    secret = X25519PrivateKey.from_private_bytes(ephemeral)
    enc = secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    dh = secret.exchange(X25519PublicKey.from_public_bytes(public))
    shared = expand(kem, extract(kem, b"", b"eae_prk", dh), b"shared_secret", enc + public, 32)
    context = b"\0" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    prk = extract(suite, shared, b"secret", b"")
    key, nonce = expand(suite, prk, b"key", context, 32), expand(suite, prk, b"base_nonce", context, 12)
    return enc, AESGCM(key).encrypt(nonce, plaintext, aad)


def check_hpke():
    secret = random("hpke check", 32)
    enc, ct = hpke_seal(public_of(secret), random("hpke ephemeral", 32), b"info", b"", b"hello")
    suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    assert suite.decrypt(enc + ct, X25519PrivateKey.from_private_bytes(secret), b"info") == b"hello"


IDENTITY, OTHER_IDENTITY = random("identity", 32), random("other identity", 32)
KEY_FILE, OTHER_KEY_FILE = random("key file", 32), random("other key file", 32)


def recipient(secret): return "x25519:" + key_text(public_of(secret))


def wrap_hpke(identity, secret, context, label):
    enc, ct = hpke_seal(public_of(identity), random("ephemeral " + label, 32), b"pitrd/wrap/v1", context, secret)
    return {"method": "hpke-x25519", "recipient": recipient(identity), "encapsulated": b64(enc), "ciphertext": b64(ct)}


def wrap_file(key, secret, context, label):
    nonce = random("nonce " + label, 12)
    under = blake3.blake3(key, derive_key_context="pitrd 2026 key file wrapping v1").digest()
    fingerprint = blake3.blake3(key, derive_key_context="pitrd 2026 key file fingerprint v1").digest()[:8].hex()
    return {"method": "key-file", "fingerprint": fingerprint, "nonce": b64(nonce), "ciphertext": b64(AESGCM(under).encrypt(nonce, secret, context))}


def key_context(archive, key_id): return b"data key" + archive + key_id


def sign_document(object_key, value, signer=SIGNER, signed_key=None):
    document = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    signature = signer.sign(b"pitrd/document/v1\0" + (signed_key or object_key).encode() + b"\0" + document.encode())
    return {"document": document, "signature": b64(signature)}


# ---- the vectors -----------------------------------------------------------------------------------------------------

OBJECTS, DOCUMENTS, TEXTS, ARCHIVE_OBJECTS = {}, {}, {}, {}


def wanted(h, **changes):
    """What the key of the store says the object is."""
    names = {1: "segment", 2: "part", 3: "manifest", 4: "history"}
    w = {"archive_id": h["archive"].hex(), "kind": names.get(h["kind"], "segment"),
         "stream": h["stream"].decode() if h["kind"] == SEGMENT else None, "set_id": h["set"].hex(), "seq": h["seq"]}
    w.update(changes)
    return w


def good(name, frames, summary=b"", **changes):
    data, h = make(name, frames, summary, **changes)
    def time(t): return None if t == NONE_TIME else t
    plaintext = b"".join(zstandard.ZstdDecompressor().decompress(c, max_output_size=p) for p, c in frames)
    OBJECTS["good/" + name] = (data, {
        "expected": wanted(h), "key_id": h["key"].hex(), "key": (KEY if h["key"] == KEY_ID else OTHER_KEY).hex(),
        "header": {"refill": h["flags"] == 1, "writer_id": h["writer"].hex(), "stream": h["stream"].decode(),
                   "start": h["start"], "end": h["end"], "time_min": time(h["time_min"]), "time_max": time(h["time_max"]),
                   "time_high": time(h["time_high"]), "run_seq": h["run_seq"], "run_start": h["run_start"],
                   "unsure_seq": None if h["unsure"] == NONE_SEQ else h["unsure"], "plaintext_bytes": h["plaintext"],
                   "payload_bytes": h["payload"], "previous": h["previous"].hex()},
        "summary": summary.hex(), "frames": len(frames), "plaintext_blake3": blake3.blake3(plaintext).hexdigest(),
        "hash": data[-96:-64].hex()})
    return data, h


def bad(name, data, expected, fault, key_id=KEY_ID, key=KEY):
    assert "bad/" + name not in OBJECTS, name
    OBJECTS["bad/" + name] = (data, {"expected": expected, "key_id": key_id.hex(), "key": key.hex(), "fault": fault})


def flip(data, offset, bit=0):
    out = bytearray(data)
    out[offset] ^= 1 << bit
    return bytes(out)


def field(name, offset):
    return {"variant": "Header", "error": "Field", "field": name, "offset": offset}


def make_good():
    no_times = dict(time_min=NONE_TIME, time_max=NONE_TIME, time_high=NONE_TIME)
    other = dict(time_min=NONE_TIME, time_max=NONE_TIME, time_high=NONE_TIME, run_seq=0, run_start=0)
    small = b"the worked example of docs/format.md"
    good("worked-example", frames_of(small), b"note", seq=0, run_seq=0, run_start=0x1000000, previous=bytes(32))
    good("segment", frames_of(text("segment", 5000)), b"summary of the engine")
    good("segment-without-times", frames_of(text("no times", 300)), **no_times)
    good("segment-whose-run-has-a-time-and-itself-none", frames_of(text("high", 300)), time_min=NONE_TIME, time_max=NONE_TIME)
    good("segment-before-1970", frames_of(text("1970", 300)), time_min=-9_000_000, time_max=-1, time_high=0)
    good("refill", frames_of(text("refill", 700)), flags=1, unsure=7)
    good("first-of-a-run", frames_of(text("run", 100)), run_seq=7, run_start=0x1000000, unsure=7)
    good("many-frames", frames_of(text("many", 60_000), 7_000))
    good("frame-of-one-mebibyte", frames_of(bytes(1 << 20)))
    good("incompressible-many-chunks", frames_of(random("noise", 70_000)))
    for extra in (-1, 0, 1):  # the payload ends just before, on and just after a chunk's end
        for whole in (1, 2):
            length = whole * CHUNK + extra
            noise = random("boundary", length)
            frame = compress(noise)
            summary = bytes(8)
            cut = len(payload([(length, frame)], summary)) - length
            frames = frames_of(noise[:length - cut])
            pad = length - len(payload(frames, summary))
            summary = bytes(8 + pad)
            assert len(payload(frames, summary)) == length
            good(f"payload-of-{whole}-chunks{extra:+d}", frames, summary)
    good("header-extremes", frames_of(b"x"), archive=bytes(16), stream=b"A-z.0_9" + b"-" * 25, seq=2**64 - 2,
         start=2**64 - 2, end=2**64 - 1, time_min=NONE_TIME + 1, time_max=2**63 - 1, time_high=2**63 - 1, run_seq=2**64 - 2,
         run_start=2**64 - 2, unsure=2**64 - 2, writer=b"\xff" * 16, previous=b"\xff" * 32)
    good("number-zero", frames_of(b"\0"), seq=0, start=0, end=1, run_seq=0, run_start=0, previous=bytes(32))
    good("part", frames_of(text("part", 40_000), 16_384), kind=PART, set=BACKUP, seq=1, start=0, end=40_000, **other)
    good("manifest", frames_of(b'{"format":1}'), kind=MANIFEST, set=BACKUP, seq=0, start=0x2000028, end=0x2000100, **other)
    good("manifest-empty", [], kind=MANIFEST, set=BACKUP, seq=0, start=5, end=5, **other)
    good("history", frames_of(b"1\t0/3000000\tno recovery target specified\n"), kind=HISTORY, stream=b"00000002", seq=0,
         start=0, end=0, previous=bytes(32), **other)
    good("empty-plaintext-with-summary", [], b"nothing happened", start=10, end=20, run_start=10, run_seq=7)
    good("other-data-key", frames_of(b"two keys in one archive"), key=OTHER_KEY_ID, seal_args={"key": OTHER_KEY})


def make_bad_headers():
    base = frames_of(text("bad", 400))
    data, h = make("bad header", base)
    w = wanted(h)
    def edited(offset, new): return data[:offset] + new + data[offset + len(new):]
    bad("empty", b"", w, {"variant": "Length", "actual": 0, "expected": 376})
    bad("preamble-cut-off", data[:375], w, {"variant": "Length", "actual": 375, "expected": 376})
    bad("wrong-magic", edited(0, b"PITRE"), w, {"variant": "Header", "error": "Magic"})
    bad("magic-after-text-conversion", data[:6] + data[7:] + b"\0", w, {"variant": "Header", "error": "Magic"})
    for version in (0, 2, 65535):
        signed, _ = make(f"version {version}", base, version=version)
        bad(f"unknown-version-{version}", signed, w, {"variant": "Header", "error": "Version", "version": version})
    other = "codec, flags, padding or reserved"
    structure = [
        ("unknown-kind", dict(kind=5), field("kind", 10)), ("kind-zero", dict(kind=0), field("kind", 10)),
        ("unknown-codec", dict(codec=2), field(other, 11)), ("codec-zero", dict(codec=0), field(other, 11)),
        ("unknown-flag", dict(flags=2), field(other, 13)), ("refill-and-unknown-flag", dict(flags=3), field(other, 13)),
        ("unknown-high-flag", dict(flags=0x8000), field(other, 12)),
        ("reserved-byte-set-at-14", dict(zero14=b"\1\0"), field(other, 14)),
        ("reserved-byte-set-at-232", dict(zero232=b"\1" + bytes(23)), field(other, 232)),
        ("reserved-byte-set-at-255", dict(zero232=bytes(23) + b"\1"), field(other, 255)),
        ("stream-empty", dict(stream=b""), field("stream", 64)), ("stream-hidden", dict(stream=b".hidden"), field("stream", 64)),
        ("stream-with-slash", dict(stream=b"a/b"), field("stream", 64)),
        ("stream-climbs", dict(stream=b"../../etc"), field("stream", 64)),
        ("stream-not-ascii", dict(stream="straße".encode()), field("stream", 64)),
        ("stream-not-utf8", dict(stream=b"a\xff"), field("stream", 64)),
        ("stream-padding-not-zero", dict(stream=b"00000001\0x"), field(other, 73)),
        ("end-before-start", dict(start=9, end=8, run_start=1), field("end", 128)),
        ("segment-without-positions", dict(start=9, end=9, run_start=1), field("end", 128)),
        ("time-min-without-max", dict(time_max=NONE_TIME), field("time_max", 144)),
        ("time-max-without-min", dict(time_min=NONE_TIME), field("time_max", 144)),
        ("time-min-after-max", dict(time_min=6, time_max=5), field("time_max", 144)),
        ("time-high-below-max", dict(time_min=1, time_max=5, time_high=4), field("time_high", 152)),
        ("time-high-unknown-and-max-known", dict(time_high=NONE_TIME), field("time_high", 152)),
        ("run-seq-after-seq", dict(run_seq=8), field("run_seq", 160)),
        ("run-start-after-start", dict(run_start=0x1000001), field("run_start", 168)),
        ("run-begins-here-and-starts-elsewhere", dict(run_seq=7), field("run_start", 168)),
        ("unsure-seq-after-seq", dict(unsure=8), field("unsure_seq", 176)),
        ("unsure-seq-before-run", dict(unsure=2), field("unsure_seq", 176)),
        ("plaintext-larger-than-a-gibibyte", dict(plaintext=2**30 + 1), field("plaintext_bytes", 184)),
        ("payload-larger-than-a-gibibyte", dict(payload=2**30 + 1), field("payload_bytes", 224)),
        ("payload-length-wraps-around", dict(payload=2**64 - 1), field("payload_bytes", 224)),
    ]
    for name, changes, fault in structure:  # signed by the genuine writer: a valid signature excuses nothing
        signed, _ = make(name, base, **changes)
        bad(name, signed, w, fault)


def make_bad_signatures():
    base = frames_of(text("bad signature", 400))
    data, h = make("bad signature", base)
    w = wanted(h)
    broken = {"variant": "HeaderSignature"}
    for name, offset in [("archive-id", 16), ("key-id", 32), ("writer-id", 63), ("set-id", 96), ("seq", 119), ("start", 127),
                         ("end", 135), ("time-min", 143), ("time-max", 151), ("time-high", 159), ("run-start", 175),
                         ("plaintext-bytes", 191), ("previous", 192), ("payload-bytes", 231), ("refill", 13)]:
        bad(f"header-edited-{name}", flip(data, offset), w, broken)
    bad("header-signature-flipped", flip(data, 256), w, broken)
    bad("salt-flipped", flip(data, 320), w, broken)
    bad("commitment-flipped", flip(data, 375, 7), w, broken)
    for name, args in [("header-signature-by-another-writer", dict(header_signer=OTHER_SIGNER)),
                       ("object-by-another-writer", dict(signer=OTHER_SIGNER)),
                       ("header-signature-without-domain", dict(domain=b"")),
                       ("header-signature-of-an-object-s-domain", dict(domain=b"pitrd/object/v1\0"))]:
        bad(name, make(name, base, seal_args=args)[0], w, broken)
    other, _ = make("another object", base)
    bad("signature-of-another-object", data[:256] + other[256:320] + data[320:], w, broken)
    bad("salt-of-another-object", data[:320] + other[320:344] + data[344:], w, broken)


def make_bad_places():
    base = frames_of(text("bad place", 400))
    data, h = make("bad place", base)
    def misplaced(name, change, fieldname, found, want, d=data):
        bad(name, d, wanted(h, **change), {"variant": "Misplaced", "field": fieldname, "found": found, "wanted": want})
    misplaced("seq-of-another-object", {"seq": 8}, "number", "7", "8")
    misplaced("stream-of-another-timeline", {"stream": "00000002"}, "stream", "00000001", "00000002")
    misplaced("object-of-another-archive", {"archive_id": OTHER_ARCHIVE.hex()}, "archive id", ARCHIVE.hex(), OTHER_ARCHIVE.hex())
    misplaced("segment-put-as-manifest", {"kind": "manifest", "stream": None}, "kind", "Segment", "Manifest")
    part, p = make("part of one backup", base, kind=PART, set=BACKUP, seq=1, start=0, end=400)
    later = b"20261122T031500Z".hex()
    bad("part-of-another-backup", part, wanted(p, set_id=later),
        {"variant": "Misplaced", "field": "set id", "found": BACKUP.hex(), "wanted": later})
    bad("part-under-another-number", part, wanted(p, seq=2), {"variant": "Misplaced", "field": "number", "found": "1", "wanted": "2"})


def make_bad_keys():
    base = frames_of(text("bad key", 400))
    data, h = make("bad key", base)
    w = wanted(h)
    wrong = {"variant": "WrongKey", "key_id": KEY_ID.hex()}
    bad("wrong-key-of-the-same-name", data, w, wrong, key=OTHER_KEY)
    bad("key-of-another-name", data, w, wrong, key_id=OTHER_KEY_ID, key=OTHER_KEY)
    bad("right-key-under-another-name", data, w, wrong, key_id=OTHER_KEY_ID)
    bad("commitment-of-another-key", make("c", base, seal_args=dict(commitment_of=OTHER_KEY, check=False))[0], w, wrong)
    k, _ = make("sealed by another key", base, seal_args=dict(key=OTHER_KEY))
    bad("sealed-with-another-key-than-the-header-names", k, w, wrong)
    # The writer itself signs another header over the same body: the commitment binds the header.
    edited = dict(h, start=h["start"] + 1)
    hb = encode_header(edited)
    forged = hb + SIGNER.sign(b"pitrd/header/v1\0" + hb + data[320:376]) + data[320:-96]
    digest = blake3.blake3(forged).digest()
    bad("header-edited-and-signed-again", forged + digest + SIGNER.sign(b"pitrd/object/v1\0" + digest), w, wrong)


def make_bad_bodies():
    noise = frames_of(random("bad body", 40_000))
    data, h = make("bad body", noise)
    w, size = wanted(h), len(data)
    def chunk(k): return {"variant": "Chunk", "index": k, "offset": 376 + 16400 * k}
    def again(body):  # trailer made anew by the writer: only the chunks can tell
        digest = blake3.blake3(body).digest()
        return body + digest + SIGNER.sign(b"pitrd/object/v1\0" + digest)
    bad("chunk-0-first-bit-flipped", flip(data, 376), w, chunk(0))
    bad("chunk-1-tag-flipped", flip(data, 376 + 2 * 16400 - 1), w, chunk(1))
    bad("chunk-2-last-flipped", flip(data, size - 97), w, chunk(2))
    bad("chunk-1-flipped-and-signed-again", again(flip(data, 376 + 16400 + 5)[:-96]), w, chunk(1))
    a, b = data[376:376 + 16400], data[376 + 16400:376 + 32800]
    bad("chunks-0-and-1-swapped", data[:376] + b + a + data[376 + 32800:], w, chunk(0))
    bad("chunks-0-and-1-swapped-and-signed-again", again(data[:376] + b + a + data[376 + 32800:-96]), w, chunk(0))
    bad("chunk-1-is-chunk-0-again", data[:376] + a + a + data[376 + 32800:], w, chunk(1))
    other, _ = make("bad body 2", noise)
    bad("chunk-1-of-another-object", data[:376 + 16400] + other[376 + 16400:376 + 32800] + data[376 + 32800:], w, chunk(1))
    numbered, _ = make("numbered", noise, seal_args=dict(numbers=[0, 2, 1], check=False))
    bad("chunk-sealed-under-another-number", numbered, w, chunk(1))
    bad("chunk-2-zeroed", data[:376 + 32800] + bytes(size - 96 - 376 - 32800) + data[-96:], w, chunk(2))
    def length(name, d): bad(name, d, w, {"variant": "Length", "actual": len(d), "expected": size})
    length("truncated-by-one-byte", data[:-1])
    length("truncated-by-the-trailer", data[:-96])
    length("truncated-by-one-chunk", data[:376 + 32800])
    length("truncated-after-the-preamble", data[:376])
    length("last-chunk-left-out", data[:376 + 32800] + data[-96:])
    length("last-chunk-left-out-and-signed-again", again(data[:376 + 32800]))
    length("extended-by-one-byte", data + b"\0")
    length("extended-by-one-chunk", data[:-96] + a + data[-96:])
    length("object-twice", data + data)
    hash_at = {"variant": "Hash", "offset": size - 96}
    signature_at = {"variant": "Signature", "offset": size - 64}
    bad("trailer-hash-flipped", flip(data, size - 96), w, hash_at)
    bad("trailer-of-another-object", data[:-96] + other[-96:], w, hash_at)
    bad("trailer-signature-flipped", flip(data, size - 64), w, signature_at)
    bad("trailer-signature-last-bit-flipped", flip(data, size - 1, 7), w, signature_at)
    bad("trailer-signature-zeroed", data[:-64] + bytes(64), w, signature_at)
    by_other = data[:-64] + OTHER_SIGNER.sign(b"pitrd/object/v1\0" + data[-96:-64])
    bad("trailer-signature-by-another-writer", by_other, w, signature_at)
    bad("trailer-signature-without-domain", data[:-64] + SIGNER.sign(data[-96:-64]), w, signature_at)


def make_bad_payloads():
    plain = text("bad payload", 3000)
    frames = frames_of(plain)
    (n, c), = frames
    def footer(name, raw, reason, **changes):
        data, h = make(name, frames, raw_payload=raw, **changes)
        bad(name, data, wanted(h), {"variant": "Footer", "reason": reason})
    sums, end = "the frames do not add up to the lengths in the header", "the footer's end is not valid"
    longer = "the footer is longer than the payload"
    footer("footer-magic-wrong", payload(frames, magic=b"PITRFEET"), end)
    footer("footer-missing", c, end)
    footer("footer-cut-off", b"PITRFOOT", "the footer is cut off")
    footer("payload-empty", b"", "the footer is cut off")
    footer("footer-summary-longer-than-a-mebibyte", payload(frames, summary_len=2**20 + 1), end)
    footer("footer-count-too-large", payload(frames, count=1000), longer)
    footer("footer-count-largest", payload(frames, count=2**32 - 1), longer)
    footer("footer-count-too-small", payload(frames, count=0), sums)
    footer("footer-summary-longer-than-the-payload", payload(frames, summary_len=2**20), longer)
    footer("footer-compressed-too-small", payload(frames, entries=[(n, len(c) - 1)]), sums)
    footer("footer-compressed-too-large", payload(frames, entries=[(n, 2**32 - 1)]), sums)
    footer("footer-plaintext-differs-from-the-header", payload(frames, entries=[(n - 1, len(c))]), sums)
    footer("header-plaintext-differs-from-the-footer", payload(frames), sums, plaintext=n + 1, end=0x1000000 + n)
    lengths = "a frame is longer than a frame may be"
    footer("frame-of-no-bytes", payload(frames + [(0, b"")]), lengths)
    big = bytes(2**20 + 1)
    data, h = make("frame-longer-than-a-mebibyte", [(len(big), compress(big))])
    bad("frame-longer-than-a-mebibyte", data, wanted(h), {"variant": "Footer", "reason": lengths})

    def frame(name, index, fr, reason):
        data, h = make(name, fr)
        bad(name, data, wanted(h), {"variant": "Frame", "index": index, "reason": reason})
    short, wrong = "it holds fewer bytes than the footer says", "it does not decompress to the length in the footer"
    frame("frame-bomb", 0, [(1000, compress(bytes(2**20)))], wrong)
    frame("frame-bomb-second", 1, [(n, c), (1, compress(bytes(2**20), 19))], wrong)
    frame("frame-one-byte-more-than-said", 0, [(n - 1, c)], wrong)
    frame("frame-one-byte-less-than-said", 0, [(n + 1, c)], short)
    frame("frame-not-zstd", 0, [(n, random("no frame", len(c)))], wrong)
    frame("frame-empty", 0, [(n, b"")], short)
    frame("frame-cut-off", 0, [(n, c[:-1])], wrong)
    frame("frame-skippable-only", 0, [(n, bytes.fromhex("502a4d18") + struct.pack("<I", 4) + b"skip")], short)
    words = zstandard.train_dictionary(2048, [text(f"train {i}", 400) for i in range(200)])
    with_dictionary = zstandard.ZstdCompressor(dict_data=words).compress(plain)
    frame("frame-needs-a-dictionary", 0, [(n, with_dictionary)], wrong)


def wrapped(archive=ARCHIVE, key_id=KEY_ID, wraps=None, **extra):
    return {"key_id": key_id.hex(), "archive_id": archive.hex(), "created": "2026-11-21T03:15:00Z", "wraps": wraps, **extra}


def make_documents():
    name = f"keys/{KEY_ID.hex()}.json"
    context = key_context(ARCHIVE, KEY_ID)
    ours, theirs = wrap_hpke(IDENTITY, KEY, context, "ours"), wrap_hpke(OTHER_IDENTITY, KEY, context, "theirs")
    file, other_file = wrap_file(KEY_FILE, KEY, context, "file"), wrap_file(OTHER_KEY_FILE, KEY, context, "other file")
    both = sign_document(name, wrapped(wraps=[theirs, ours, file]))

    def document(label, body, result, opener="identity"):
        body = body if isinstance(body, (bytes, str)) else json.dumps(body, indent=1)
        body = body.encode() if isinstance(body, str) else body
        DOCUMENTS[label] = (body, {"object": name, "opener": opener, "result": result})

    document("good-for-the-identity", both, "opens")
    document("good-for-the-key-file", both, "opens", "key-file")
    document("good-for-one-recipient", sign_document(name, wrapped(wraps=[ours])), "opens")
    document("good-with-escapes", json.dumps(both).replace("k", "\\u006b"), "opens")
    document("wrapped-for-others", sign_document(name, wrapped(wraps=[theirs, other_file])), "NotForUs")
    document("wrapped-for-others-key-file", sign_document(name, wrapped(wraps=[ours, other_file])), "NotForUs", "key-file")
    document("wrapped-for-nobody", sign_document(name, wrapped(wraps=[])), "NotForUs")

    def not_signed(label, body): document(label, body, "NotSigned")
    other_name = f"keys/{OTHER_KEY_ID.hex()}.json"
    not_signed("document-of-another-key", sign_document(name, wrapped(wraps=[ours]), signed_key=other_name))
    not_signed("document-by-another-writer", sign_document(name, wrapped(wraps=[ours]), OTHER_SIGNER))
    edited = dict(both, document=both["document"].replace("2026", "2027", 1))
    not_signed("document-edited", edited)
    not_signed("document-white-space-added", dict(both, document=both["document"] + " "))
    not_signed("signature-flipped", dict(both, signature=b64(flip(base64.b64decode(both["signature"]), 0))))
    not_signed("signature-short", dict(both, signature=b64(base64.b64decode(both["signature"])[:63])))
    not_signed("signature-without-padding", dict(both, signature=both["signature"].rstrip("=")))
    not_signed("signature-empty", dict(both, signature=""))
    not_signed("not-json", json.dumps(both)[:-5])
    not_signed("empty", b"")
    not_signed("not-utf8", json.dumps(both).encode().replace(b"document", b"docum\xffnt", 1))
    not_signed("unknown-field-outside", dict(both, extra=1))
    not_signed("signature-missing", {"document": both["document"]})
    not_signed("document-twice", json.dumps(both)[:-1] + ', "document": "{}"}')
    not_signed("two-documents", json.dumps(both) + json.dumps(both))
    not_signed("unknown-field-inside", sign_document(name, wrapped(wraps=[ours], extra=1)))
    not_signed("field-missing-inside", sign_document(name, {"key_id": KEY_ID.hex(), "archive_id": ARCHIVE.hex(), "wraps": [ours]}))
    not_signed("unknown-method", sign_document(name, wrapped(wraps=[dict(ours, method="rot13"), ours])))
    not_signed("wrap-with-unknown-field", sign_document(name, wrapped(wraps=[dict(ours, note="")])))
    not_signed("key-id-of-another-key", sign_document(name, wrapped(key_id=OTHER_KEY_ID, wraps=[ours])))
    not_signed("archive-of-another", sign_document(name, wrapped(archive=OTHER_ARCHIVE, wraps=[ours])))

    def damaged(label, wrap, opener="identity"): document(label, sign_document(name, wrapped(wraps=[wrap])), "Damaged", opener)
    def cut(text64, n): return b64(base64.b64decode(text64)[:n])
    def flipped(text64, i): return b64(flip(base64.b64decode(text64), i))
    damaged("wrap-made-for-another-archive", wrap_hpke(IDENTITY, KEY, key_context(OTHER_ARCHIVE, KEY_ID), "x"))
    damaged("wrap-made-for-another-key-id", wrap_hpke(IDENTITY, KEY, key_context(ARCHIVE, OTHER_KEY_ID), "y"))
    damaged("wrap-ciphertext-flipped", dict(ours, ciphertext=flipped(ours["ciphertext"], 0)))
    damaged("wrap-ciphertext-cut-off", dict(ours, ciphertext=cut(ours["ciphertext"], 47)))
    damaged("wrap-encapsulated-flipped", dict(ours, encapsulated=flipped(ours["encapsulated"], 31)))
    damaged("wrap-encapsulated-short", dict(ours, encapsulated=cut(ours["encapsulated"], 31)))
    damaged("wrap-encapsulated-zero", dict(ours, encapsulated=b64(bytes(32))))
    damaged("wrap-not-base64", dict(ours, ciphertext="*" * 64))
    damaged("wrap-of-31-bytes", wrap_hpke(IDENTITY, KEY[:31], context, "z"))
    damaged("wrap-renamed-to-us", dict(theirs, recipient=recipient(IDENTITY)))
    damaged("key-file-nonce-flipped", dict(file, nonce=flipped(file["nonce"], 3)), "key-file")
    damaged("key-file-nonce-short", dict(file, nonce=cut(file["nonce"], 11)), "key-file")
    damaged("key-file-ciphertext-flipped", dict(file, ciphertext=flipped(file["ciphertext"], 40)), "key-file")
    damaged("key-file-wrap-made-for-another-archive", wrap_file(KEY_FILE, KEY, key_context(OTHER_ARCHIVE, KEY_ID), "w"), "key-file")


def make_texts():
    identity, key_file = "PITRD-IDENTITY-X25519:" + key_text(IDENTITY), "PITRD-KEY-FILE:" + key_text(KEY_FILE)
    seed = random("signing", 32)
    def entry(label, form, content, result): TEXTS[label] = {"form": form, "text": content, "result": result}
    public = SIGNER.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    entry("recipient", "recipient", recipient(IDENTITY), recipient(IDENTITY))
    entry("recipient-other", "recipient", recipient(OTHER_IDENTITY), recipient(OTHER_IDENTITY))
    entry("identity", "identity", f"# created: now\n# recipient: {recipient(IDENTITY)}\n{identity}\n", recipient(IDENTITY))
    entry("identity-white-space", "identity", f"\r\n   {identity}\t\r\n\n", recipient(IDENTITY))
    entry("identity-without-newline", "identity", identity, recipient(IDENTITY))
    fingerprint = wrap_file(KEY_FILE, KEY, b"", "t")["fingerprint"]
    entry("key-file", "key-file", key_file + "\n", fingerprint)
    entry("signing-key", "signing-key", "PITRD-SIGNING-ED25519:" + key_text(seed) + "\n", public.hex())
    good_text = key_text(public_of(IDENTITY))
    refused = {
        "recipient-mistyped": "x25519:" + ("B" if good_text[0] == "A" else "A") + good_text[1:],
        "recipient-short": "x25519:" + good_text[:-1], "recipient-long": "x25519:" + good_text + "A",
        "recipient-without-checksum": "x25519:" + base64.urlsafe_b64encode(public_of(IDENTITY)).decode().rstrip("="),
        "recipient-padded": "x25519:" + good_text + "=", "recipient-standard-base64": "x25519:" + good_text[:-1] + "+",
        "recipient-without-prefix": good_text, "recipient-upper-case-prefix": "X25519:" + good_text,
        "recipient-with-newline": "x25519:" + good_text + "\n", "recipient-empty": "",
        "recipient-zero": "x25519:" + key_text(bytes(32)), "recipient-one": "x25519:" + key_text(b"\1" + bytes(31)),
        "recipient-order-eight": "x25519:" + key_text(bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")),
        "recipient-is-an-identity": identity,
    }
    for label, content in refused.items():
        entry(label, "recipient", content, None)
    entry("identity-mistyped", "identity", identity[:-1] + ("B" if identity[-1] == "A" else "A"), None)
    entry("identity-twice", "identity", f"{identity}\n{identity}\n", None)
    entry("identity-commented-out", "identity", f"#{identity}\n", None)
    entry("identity-is-a-key-file", "identity", key_file, None)
    entry("identity-is-a-recipient", "identity", recipient(IDENTITY), None)
    entry("identity-empty", "identity", "", None)
    entry("key-file-is-an-identity", "key-file", identity, None)
    entry("signing-key-is-a-key-file", "signing-key", key_file, None)


def make_archive():
    """A whole small archive: two runs, a refilled hole, a history, a base backup, two data keys."""
    created = "2026-11-21T03:15:00Z"
    put = ARCHIVE_OBJECTS
    source = {"system_identifier": "7710468613557509837", "wal_segment_bytes": "16777216"}
    public = SIGNER.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    put["archive.json"] = json.dumps({"format": 1, "archive_id": ARCHIVE.hex(), "engine": "postgres", "source": source,
                                      "writer_key": b64(public), "created": created}).encode(), None
    context = b"signing key" + ARCHIVE
    wraps = [wrap_hpke(OTHER_IDENTITY, random("signing", 32), context, "w1"), wrap_hpke(IDENTITY, random("signing", 32), context, "w2")]
    put["keys/writer.json"] = json.dumps(sign_document("keys/writer.json", {"wraps": wraps})).encode(), None
    for key_id, key in ((KEY_ID, KEY), (OTHER_KEY_ID, OTHER_KEY)):
        name, context = f"keys/{key_id.hex()}.json", key_context(ARCHIVE, key_id)
        document = wrapped(key_id=key_id, wraps=[wrap_hpke(IDENTITY, key, context, name), wrap_file(KEY_FILE, key, context, name)])
        put[name] = json.dumps(sign_document(name, document)).encode(), None

    def sealed(name, plaintext, previous, frame_bytes=1 << 20, **changes):
        data, _ = make("archive " + name, frames_of(plaintext, frame_bytes), b"", previous=previous, **changes)
        put[name] = data, plaintext
        return data[-96:-64]

    def segment(seq, start, length, previous, run, **changes):
        moment = 1_800_000_000_000_000 + start
        run_seq, run_start = run
        return sealed(f"log/00000001/{seq:016x}", text(f"log {seq}", length), previous, 700, seq=seq, start=start,
                      end=start + length, run_seq=run_seq, run_start=run_start, time_min=moment,
                      time_max=moment + length - 1, time_high=moment + length - 1, **changes)

    first, second = (0, 0x3000000), (4, 0x5000000)
    h0 = segment(0, 0x3000000, 1000, bytes(32), first)
    lost = random("the hash of what a crash took", 32)  # number 2 named it; number 1 was filled in later
    h1 = segment(1, 0x30003E8, 2000, h0, first, flags=1)
    h2 = segment(2, 0x3000BB8, 300, lost, first)
    h3 = segment(3, 0x3000CE4, 20_000, h2, first, writer=random("writer 2", 16))
    changes = dict(key=OTHER_KEY_ID, seal_args={"key": OTHER_KEY}, unsure=4)
    h4 = segment(4, 0x5000000, 500, h3, second, **changes)
    segment(5, 0x50001F4, 1, h4, second, **dict(changes))
    head = {"seq": 4, "end": 0x50001F4, "covered": 1_800_000_000_000_000 + 0x50001F3, "written": created}
    put["log/00000001/head"] = json.dumps(sign_document("log/00000001/head", head)).encode(), None
    none = dict(time_min=NONE_TIME, time_max=NONE_TIME, time_high=NONE_TIME, run_start=0)
    history = b"1\t0/50001F5\tno recovery target specified\n"
    sealed("timelines/00000002.history", history, blake3.blake3(history).digest(), kind=HISTORY, stream=b"00000002", seq=0,
           start=0x50001F5, end=0x50001F5, run_seq=1, **none)
    base = f"base/{BACKUP.decode()}/"
    part = dict(kind=PART, set=BACKUP, run_seq=0, **none)
    p0 = sealed(f"{base}{0:016x}", text("part 0", 30_000), bytes(32), seq=0, start=0, end=30_000, **part)
    p1 = sealed(f"{base}{1:016x}", text("part 1", 10), p0, seq=1, start=30_000, end=30_010, **part)
    sealed(base + "manifest", b'{"what":"the engine says"}', p1, kind=MANIFEST, set=BACKUP, seq=0, start=0x3000028, end=0x3000100,
           run_seq=2, run_start=0, time_min=5, time_max=9, time_high=9)
    # Begun, and never finished: no manifest.
    sealed(f"base/20261122T031500Z/{0:016x}", b"half", bytes(32), kind=PART, set=b"20261122T031500Z", seq=0, start=0, end=4,
           run_seq=0, **none)


def main():
    out = Path(sys.argv[1])
    check_hpke()
    for step in (make_good, make_bad_headers, make_bad_signatures, make_bad_places, make_bad_keys, make_bad_bodies,
                 make_bad_payloads, make_documents, make_texts, make_archive):
        step()
    for name in ("good", "bad", "documents"):
        (out / name).mkdir(parents=True, exist_ok=True)
    for name, (data, _) in OBJECTS.items():
        (out / f"{name}.object").write_bytes(data)
    for name, (data, _) in DOCUMENTS.items():
        (out / "documents" / f"{name}.json").write_bytes(data)
    for name, (data, _) in ARCHIVE_OBJECTS.items():
        path = out / "archive" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    public = SIGNER.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    expectations = {
        "writer_public": public.hex(), "archive_id": ARCHIVE.hex(), "key_id": KEY_ID.hex(),
        "identity": "PITRD-IDENTITY-X25519:" + key_text(IDENTITY), "key_file": "PITRD-KEY-FILE:" + key_text(KEY_FILE),
        "objects": {f"{n}.object": e for n, (_, e) in OBJECTS.items()},
        "documents": {f"documents/{n}.json": e for n, (_, e) in DOCUMENTS.items()},
        "texts": TEXTS,
        "archive": {n: None if p is None else blake3.blake3(p).hexdigest() for n, (_, p) in ARCHIVE_OBJECTS.items()},
    }
    (out / "expectations.json").write_text(json.dumps(expectations, indent=1, ensure_ascii=False) + "\n")
    print(len(OBJECTS), "objects,", len(DOCUMENTS), "documents,", len(TEXTS), "texts")


if __name__ == "__main__":
    main()
