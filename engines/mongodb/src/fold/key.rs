//! Which documents are the same: a digest of collection and `_id`, equal exactly where the server's `_id` index takes two ids
//! for one. `1`, `1.0` and the decimal `1` are one id there, and a replacement may turn one into the other.

use super::raw::{Document, Value, kind, whole};

/// Digest of an id within a collection. Made with BLAKE3, so that nobody can make two ids collide.
pub type Key = u128;

/// Decimals have up to 34 digits.
const COEFFICIENT_END: u128 = 10_u128.pow(34);
const DECIMAL_BIAS: i32 = 6176;

/// The key of the document `id` in the collection that is number `collection` of this fold.
#[must_use]
pub fn key(collection: u32, id: Value<'_>) -> Key {
    let mut text = [0; 64];
    text[..4].copy_from_slice(&collection.to_le_bytes());
    // Most ids are short and stand for themselves.
    if let kind::OBJECT_ID | kind::STRING | kind::DATE = id.kind
        && id.bytes.len() < 60
    {
        text[4] = id.kind;
        text[5..5 + id.bytes.len()].copy_from_slice(id.bytes);
        return digest(&text[..5 + id.bytes.len()]);
    }
    let mut text = collection.to_le_bytes().to_vec();
    canonical(id, &mut text);
    digest(&text)
}

/// The first half of the BLAKE3 of `bytes`.
#[must_use]
pub fn digest(bytes: &[u8]) -> u128 {
    let hash = blake3::hash(bytes);
    u128::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

/// A number without its type.
enum Number {
    Integer(i64),
    /// `coefficient · 10^exponent`, the coefficient not a multiple of ten.
    Decimal(bool, u128, i32),
    Float(u64),
    Infinite(bool),
    Nan,
}

fn canonical(value: Value<'_>, out: &mut Vec<u8>) {
    match value.kind {
        kind::INT32 | kind::INT64 | kind::DOUBLE | kind::DECIMAL => {
            write_number(number(value), out)
        }
        kind::DOCUMENT | kind::ARRAY => {
            out.push(value.kind);
            let elements = value.document().into_iter().flat_map(Document::elements);
            for element in elements.flatten() {
                out.push(1);
                out.extend_from_slice(element.name);
                out.push(0);
                canonical(element.value, out);
            }
            out.push(0);
        }
        other => {
            // A symbol compares like text.
            out.push(if other == 0x0e { kind::STRING } else { other });
            out.extend_from_slice(&(value.bytes.len() as u64).to_le_bytes());
            out.extend_from_slice(value.bytes);
        }
    }
}

fn write_number(number: Number, out: &mut Vec<u8>) {
    out.push(kind::INT64);
    match number {
        Number::Integer(integer) => {
            out.push(0);
            out.extend_from_slice(&integer.to_le_bytes());
        }
        Number::Decimal(negative, coefficient, exponent) => {
            out.extend_from_slice(&[1, u8::from(negative)]);
            out.extend_from_slice(&coefficient.to_le_bytes());
            out.extend_from_slice(&exponent.to_le_bytes());
        }
        Number::Float(bits) => {
            out.push(2);
            out.extend_from_slice(&bits.to_le_bytes());
        }
        Number::Infinite(negative) => out.extend_from_slice(&[3, u8::from(negative)]),
        Number::Nan => out.push(4),
    }
}

fn number(value: Value<'_>) -> Number {
    match (value.integer(), value.double()) {
        (Some(integer), _) => Number::Integer(integer),
        (None, Some(float)) => of_float(float),
        (None, None) => {
            let bytes = value.bytes.try_into().unwrap_or([0; 16]);
            of_decimal(u128::from_le_bytes(bytes))
        }
    }
}

fn of_float(float: f64) -> Number {
    if float.is_nan() {
        return Number::Nan;
    }
    if float.is_infinite() {
        return Number::Infinite(float < 0.0);
    }
    if let Some(integer) = whole(float) {
        return Number::Integer(integer);
    }
    let bits = float.to_bits();
    let (fraction, power) = (bits & ((1 << 52) - 1), ((bits >> 52) & 0x7ff) as i32);
    let (mantissa, power) = match power {
        0 => (fraction, -1074),
        power => (fraction | 1 << 52, power - 1075),
    };
    let (mantissa, power) = (
        u128::from(mantissa >> mantissa.trailing_zeros()),
        power + mantissa.trailing_zeros() as i32,
    );
    // Exactly as a decimal, where one of 34 digits holds it: m·2^-k = m·5^k·10^-k.
    let factor = if power < 0 { 5 } else { 2_u128 };
    let coefficient = (0..power.unsigned_abs()).try_fold(mantissa, |product, _| {
        product
            .checked_mul(factor)
            .filter(|product| *product < COEFFICIENT_END)
    });
    match coefficient {
        Some(coefficient) => reduced(float < 0.0, coefficient, power.min(0)),
        None => Number::Float(bits),
    }
}

fn of_decimal(bits: u128) -> Number {
    let negative = bits >> 127 == 1;
    let combination = (bits >> 122) & 0x1f;
    match combination {
        0x1e => return Number::Infinite(negative),
        0x1f => return Number::Nan,
        // The long form holds nothing that 34 digits do.
        0x18..=0x1d => return Number::Integer(0),
        _ => {}
    }
    let coefficient = bits & ((1 << 113) - 1);
    let exponent = ((bits >> 113) & 0x3fff) as i32 - DECIMAL_BIAS;
    if coefficient >= COEFFICIENT_END {
        return Number::Integer(0);
    }
    reduced(negative, coefficient, exponent)
}

fn reduced(negative: bool, mut coefficient: u128, mut exponent: i32) -> Number {
    if coefficient == 0 {
        return Number::Integer(0);
    }
    while coefficient.is_multiple_of(10) {
        coefficient /= 10;
        exponent += 1;
    }
    let magnitude = u32::try_from(exponent)
        .ok()
        .filter(|exponent| *exponent < 20)
        .and_then(|exponent| coefficient.checked_mul(10_u128.pow(exponent)))
        .and_then(|magnitude| i128::try_from(magnitude).ok());
    let signed = magnitude.map(|magnitude| if negative { -magnitude } else { magnitude });
    match signed.and_then(|signed| i64::try_from(signed).ok()) {
        Some(integer) => Number::Integer(integer),
        None => Number::Decimal(negative, coefficient, exponent),
    }
}

#[cfg(test)]
mod tests {
    use bson::{Bson, Decimal128, doc};
    use proptest::prelude::*;

    use super::*;

    fn of(id: impl Into<Bson>) -> Key {
        let bytes = doc! { "_id": id.into() }.to_vec().unwrap();
        let document = Document::new(&bytes).unwrap();
        key(7, document.get("_id").unwrap().unwrap())
    }

    fn decimal(text: &str) -> Bson {
        Bson::Decimal128(text.parse::<Decimal128>().unwrap())
    }

    #[test]
    fn numbers_that_compare_equal_are_one_id_whatever_their_types() {
        let equal: [&[Bson]; 9] = [
            &[
                1_i32.into(),
                1_i64.into(),
                1.0.into(),
                decimal("1"),
                decimal("1.000"),
                decimal("10E-1"),
            ],
            &[0_i32.into(), (-0.0).into(), decimal("0E+10"), decimal("-0")],
            &[0.5.into(), decimal("0.5"), decimal("0.50")],
            &[(-2.75).into(), decimal("-2.75")],
            &[
                1e20.into(),
                decimal("1E20"),
                decimal("100000000000000000000"),
            ],
            &[
                i64::MIN.into(),
                (-9_223_372_036_854_775_808.0).into(),
                decimal("-9223372036854775808"),
            ],
            &[
                9_223_372_036_854_775_808.0.into(),
                decimal("9223372036854775808"),
            ],
            &[f64::INFINITY.into(), decimal("Infinity")],
            &[f64::NAN.into(), (-f64::NAN).into(), decimal("NaN")],
        ];
        for (number, class) in equal.iter().enumerate() {
            let keys: Vec<_> = class.iter().map(|id| of(id.clone())).collect();
            assert!(keys.iter().all(|key| *key == keys[0]), "{class:?}");
            for other in &equal[number + 1..] {
                assert!(!keys.contains(&of(other[0].clone())), "{class:?} {other:?}");
            }
        }
        // A tenth is not the float that is printed like it.
        assert_ne!(of(0.1), of(decimal("0.1")));
        assert_ne!(of(i64::MAX), of(i64::MAX as f64));
    }

    #[test]
    fn equality_reaches_into_documents_and_stops_at_names_and_order() {
        assert_eq!(
            of(doc! { "a": 1, "b": { "c": 2 } }),
            of(doc! { "a": 1.0, "b": { "c": 2_i64 } })
        );
        assert_ne!(of(doc! { "a": 1, "b": 2 }), of(doc! { "b": 2, "a": 1 }));
        assert_ne!(of(doc! { "a": 1 }), of(doc! { "a": 1, "b": null }));
        assert_ne!(of("1"), of(1));
        assert_eq!(of(Bson::Symbol("a".into())), of(Bson::Symbol("a".into())));
    }

    #[test]
    fn long_and_short_texts_are_told_apart_and_so_are_collections() {
        let texts = [
            "",
            "a",
            "b",
            &"x".repeat(54),
            &"x".repeat(55),
            &"x".repeat(56),
            &"x".repeat(300),
        ];
        let keys: std::collections::HashSet<_> = texts.iter().map(|text| of(*text)).collect();
        assert_eq!(keys.len(), texts.len());
        let bytes = doc! { "_id": 1 }.to_vec().unwrap();
        let id = Document::new(&bytes).unwrap().get("_id").unwrap().unwrap();
        assert_ne!(key(1, id), key(2, id));
    }

    proptest! {
        #[test]
        fn integers_and_their_floats_and_decimals_are_one_id(number in -(1_i64 << 53)..(1_i64 << 53)) {
            prop_assert_eq!(of(number), of(number as f64));
            prop_assert_eq!(of(number), of(decimal(&number.to_string())));
        }

        #[test]
        fn different_floats_are_different_ids(one: f64, other: f64) {
            prop_assert_eq!(of(one) == of(other), one == other || (one.is_nan() && other.is_nan()));
        }
    }
}
