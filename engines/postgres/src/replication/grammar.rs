//! Names and texts inside replication commands, whose grammar is not SQL's: no escape strings, doubled quotes only.

/// `name` in double quotes, so that case and odd characters survive.
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `text` in single quotes.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_inside_are_doubled_and_backslashes_stay() {
        assert_eq!(quote_identifier(r#"a"b\"#), r#""a""b\""#);
        assert_eq!(quote_literal(r"it's \"), r"'it''s \'");
    }
}
