//! `--filter`: a documented part of MongoDB's query language, evaluated on documents as the fold made them. What is outside of it is refused
//! by name: a filter that is half understood restores the wrong documents.

use std::cmp::Ordering;

use bson::{Bson, Document as Plain};

use super::RestoreError;
use crate::fold::key::key;
use crate::fold::raw::{Document, Value, kind, whole};

/// What can stand in a filter, for messages.
const KNOWN: &str = "$eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $exists and $not on fields, $and, $or and $nor above them";

/// A filter that is understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter(Clause);

#[derive(Clone, Debug, PartialEq)]
enum Clause {
    All(Vec<Clause>),
    Any(Vec<Clause>),
    Not(Box<Clause>),
    Field(Vec<String>, Test),
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    /// One of these, each a document with one field.
    In(Vec<Vec<u8>>),
    Order(Vec<u8>, Vec<Ordering>),
    Exists,
}

impl Filter {
    /// From extended JSON.
    ///
    /// # Errors
    /// [`RestoreError::Request`], naming what is not understood.
    pub fn parse(text: &str) -> Result<Self, RestoreError> {
        let plain: Plain = serde_json::from_str(text)
            .map_err(|_| refused("it is not a document in extended JSON, as in {\"tenant\": 7}"))?;
        Ok(Self(all_of(&plain)?))
    }

    /// Whether `document` passes.
    #[must_use]
    pub fn holds(&self, document: Document<'_>) -> bool {
        self.0.holds(document)
    }
}

fn refused(what: &str) -> RestoreError {
    RestoreError::Request(format!("the filter cannot be used: {what}"))
}

fn all_of(plain: &Plain) -> Result<Clause, RestoreError> {
    let clauses = plain
        .iter()
        .map(|(name, value)| match (name.as_str(), value) {
            ("$and", Bson::Array(parts)) => Ok(Clause::All(each(parts)?)),
            ("$or", Bson::Array(parts)) => Ok(Clause::Any(each(parts)?)),
            ("$nor", Bson::Array(parts)) => Ok(Clause::Not(Box::new(Clause::Any(each(parts)?)))),
            (name, _) if name.starts_with('$') => {
                Err(refused(&format!("{name} is not known here; {KNOWN} are")))
            }
            (name, value) => field(name, value),
        });
    clauses.collect::<Result<_, _>>().map(Clause::All)
}

fn each(parts: &[Bson]) -> Result<Vec<Clause>, RestoreError> {
    if parts.is_empty() {
        return Err(refused("$and, $or and $nor need at least one document"));
    }
    let part = |part: &Bson| match part {
        Bson::Document(plain) => all_of(plain),
        _ => Err(refused("$and, $or and $nor take documents")),
    };
    parts.iter().map(part).collect()
}

fn field(name: &str, value: &Bson) -> Result<Clause, RestoreError> {
    let path: Vec<String> = name.split('.').map(str::to_owned).collect();
    match value {
        Bson::Document(operators) if operators.keys().any(|name| name.starts_with('$')) => {
            let tests = operators
                .iter()
                .map(|(operator, value)| test(name, &path, operator, value));
            tests.collect::<Result<_, _>>().map(Clause::All)
        }
        value => Ok(Clause::Field(path, Test::In(vec![alone(value)?]))),
    }
}

fn test(name: &str, path: &[String], operator: &str, value: &Bson) -> Result<Clause, RestoreError> {
    let is = |test| Clause::Field(path.to_vec(), test);
    let not = |clause| Clause::Not(Box::new(clause));
    let several = || match value {
        Bson::Array(values) => values.iter().map(alone).collect::<Result<Vec<_>, _>>(),
        _ => Err(refused(&format!("{operator} takes an array"))),
    };
    let order = |orders: &[Ordering]| {
        if matches!(
            value,
            Bson::Document(_) | Bson::Array(_) | Bson::Decimal128(_) | Bson::RegularExpression(_)
        ) {
            return Err(refused(&format!(
                "{operator} compares numbers, text, dates and ids only"
            )));
        }
        Ok(is(Test::Order(alone(value)?, orders.to_vec())))
    };
    Ok(match operator {
        "$eq" => is(Test::In(vec![alone(value)?])),
        "$ne" => not(is(Test::In(vec![alone(value)?]))),
        "$in" => is(Test::In(several()?)),
        "$nin" => not(is(Test::In(several()?))),
        "$gt" => order(&[Ordering::Greater])?,
        "$gte" => order(&[Ordering::Greater, Ordering::Equal])?,
        "$lt" => order(&[Ordering::Less])?,
        "$lte" => order(&[Ordering::Less, Ordering::Equal])?,
        "$exists" => match value {
            Bson::Boolean(true) => is(Test::Exists),
            Bson::Boolean(false) => not(is(Test::Exists)),
            _ => return Err(refused("$exists takes true or false")),
        },
        "$not" => match value {
            Bson::Document(inner)
                if inner.keys().all(|name| name.starts_with('$')) && !inner.is_empty() =>
            {
                not(field(name, value)?)
            }
            _ => return Err(refused("$not takes a document of operators")),
        },
        other => return Err(refused(&format!("{other} is not known here; {KNOWN} are"))),
    })
}

/// A value as a document of its own.
fn alone(value: &Bson) -> Result<Vec<u8>, RestoreError> {
    if let Bson::RegularExpression(_) = value {
        return Err(refused(&format!(
            "regular expressions are not known here; {KNOWN} are"
        )));
    }
    let plain = bson::doc! { "": value.clone() };
    plain.to_vec().map_err(|error| refused(&error.to_string()))
}

fn inside(alone: &[u8]) -> Option<Value<'_>> {
    Document::new(alone).ok()?.get("").ok()?
}

impl Clause {
    fn holds(&self, document: Document<'_>) -> bool {
        match self {
            Self::All(clauses) => clauses.iter().all(|clause| clause.holds(document)),
            Self::Any(clauses) => clauses.iter().any(|clause| clause.holds(document)),
            Self::Not(clause) => !clause.holds(document),
            Self::Field(path, test) => {
                let mut found = Found::default();
                walk(document, path, &mut found);
                test.holds(&found)
            }
        }
    }
}

/// The values at a path, and whether some way to it leads nowhere.
#[derive(Default)]
struct Found<'a> {
    values: Vec<Value<'a>>,
    missing: bool,
}

/// Follows a path as MongoDB does: into documents, and into every element of an array.
fn walk<'a>(document: Document<'a>, path: &[String], found: &mut Found<'a>) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    let Ok(Some(value)) = document.get(first) else {
        found.missing = true;
        return;
    };
    if rest.is_empty() {
        found.values.push(value);
        if value.kind == kind::ARRAY {
            let elements = value.document().into_iter().flat_map(Document::elements);
            found
                .values
                .extend(elements.flatten().map(|element| element.value));
        }
        return;
    }
    match (value.kind, value.document()) {
        (kind::DOCUMENT, Some(inner)) => walk(inner, rest, found),
        (kind::ARRAY, Some(inner)) => {
            // By index, and through every document inside.
            if rest[0].bytes().all(|byte| byte.is_ascii_digit())
                && inner.get(&rest[0]).is_ok_and(|at| at.is_some())
            {
                walk(inner, rest, found);
            }
            for element in inner.elements().flatten() {
                if let (kind::DOCUMENT, Some(inner)) =
                    (element.value.kind, element.value.document())
                {
                    walk(inner, rest, found);
                }
            }
        }
        _ => found.missing = true,
    }
}

impl Test {
    fn holds(&self, found: &Found<'_>) -> bool {
        match self {
            Self::Exists => !found.values.is_empty(),
            Self::In(wanted) => wanted
                .iter()
                .filter_map(|wanted| inside(wanted))
                .any(|wanted| {
                    let same = |value: &Value<'_>| key(0, *value) == key(0, wanted);
                    let nothing = found.missing || found.values.is_empty();
                    found.values.iter().any(same) || (wanted.kind == kind::NULL && nothing)
                }),
            Self::Order(wanted, orders) => inside(wanted).is_some_and(|wanted| {
                let order = |value: &Value<'_>| compare(*value, wanted);
                found
                    .values
                    .iter()
                    .filter_map(order)
                    .any(|order| orders.contains(&order))
            }),
        }
    }
}

/// Values of one kind, in MongoDB's order without a collation; `None` for what is not compared.
fn compare(one: Value<'_>, other: Value<'_>) -> Option<Ordering> {
    match (number(one), number(other)) {
        (Some(one), Some(other)) => return one.compare(&other),
        (None, None) if one.kind == other.kind => {}
        _ => return None,
    }
    match one.kind {
        kind::STRING => {
            let text = |value: Value<'_>| value.bytes.get(4..).map(<[u8]>::to_vec);
            Some(text(one)?.cmp(&text(other)?))
        }
        kind::DATE => Some(one.date()?.cmp(&other.date()?)),
        kind::TIMESTAMP => Some(one.timestamp()?.cmp(&other.timestamp()?)),
        kind::OBJECT_ID | kind::BOOL => Some(one.bytes.cmp(other.bytes)),
        kind::NULL => Some(Ordering::Equal),
        _ => None,
    }
}

enum Number {
    Integer(i64),
    Float(f64),
}

fn number(value: Value<'_>) -> Option<Number> {
    let integer = value.integer().map(Number::Integer);
    integer.or_else(|| value.double().map(Number::Float))
}

impl Number {
    fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Integer(one), Self::Integer(other)) => Some(one.cmp(other)),
            (Self::Float(one), Self::Float(other)) => one.partial_cmp(other),
            (Self::Float(_), Self::Integer(_)) => other.compare(self).map(Ordering::reverse),
            (Self::Integer(one), Self::Float(other)) => {
                // What is no integer lies between two of them, or beyond all.
                let below = whole(other.floor());
                match below {
                    Some(below) => Some(if *one <= below {
                        Ordering::Less
                    } else {
                        Ordering::Greater
                    }),
                    None => 0.0.partial_cmp(other),
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
