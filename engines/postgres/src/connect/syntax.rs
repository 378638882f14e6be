//! Connection string → (keyword, value) pairs. Both of libpq's forms: `host=db user=x` and `postgresql://x@db/`.
//!
//! Errors name a place in the string but never quote the string: it may hold a password.

/// The pairs of a connection string, in order, undecoded no further than libpq's own quoting and percent signs.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    for scheme in ["postgresql://", "postgres://"] {
        if let Some(rest) = text.strip_prefix(scheme) {
            return uri(rest);
        }
    }
    keyword_value(text)
}

fn keyword_value(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| c == '=' || c.is_ascii_whitespace())
            .unwrap_or(rest.len());
        let (keyword, after) = rest.split_at(end);
        let Some(value) = after.trim_start().strip_prefix('=') else {
            // What has no `=` may be the tail of an unquoted password: only a plain word is repeated.
            let place = text.len() - rest.len() + 1;
            return Err(format!(
                "the connection string has no \"=\" after the word at character {place}; \
                 quote values with spaces, as in password='two words'"
            ));
        };
        if keyword.is_empty() {
            return Err("the connection string has \"=\" without a keyword before it".into());
        }
        let (value, after) = unquote(value.trim_start(), keyword)?;
        found.push((keyword.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(found)
}

/// One value and what follows it. A backslash takes the next character as it is, inside quotes and outside.
fn unquote<'a>(text: &'a str, keyword: &str) -> Result<(String, &'a str), String> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = characters.next() {
        match c {
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            c if !quoted && c.is_ascii_whitespace() => return Ok((value, &text[at..])),
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    if quoted {
        return Err(format!(
            "the value of {keyword} in the connection string has no closing quote"
        ));
    }
    Ok((value, ""))
}

fn uri(rest: &str) -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    let rest = match rest.find(['@', '/']) {
        Some(at) if rest[at..].starts_with('@') => {
            let who = &rest[..at];
            let (user, password) = match who.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (who, None),
            };
            push_decoded(&mut found, "user", Some(user))?;
            push_decoded(&mut found, "password", password)?;
            &rest[at + 1..]
        }
        _ => rest,
    };
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query)),
        None => (rest, None),
    };
    let (hosts, dbname) = match rest.split_once('/') {
        Some((hosts, dbname)) => (hosts, Some(dbname)),
        None => (rest, None),
    };
    uri_hosts(hosts, &mut found)?;
    push_decoded(&mut found, "dbname", dbname)?;
    for parameter in query
        .unwrap_or_default()
        .split('&')
        .filter(|p| !p.is_empty())
    {
        let Some((keyword, value)) = parameter.split_once('=') else {
            return Err("a parameter after \"?\" in the connection URI has no \"=\"".into());
        };
        let (keyword, value) = (percent_decode(keyword)?, percent_decode(value)?);
        match (keyword.as_str(), value.as_str()) {
            ("ssl", "true") => found.push(("sslmode".into(), "require".into())),
            _ => found.push((keyword, value)),
        }
    }
    Ok(found)
}

fn push_decoded(
    found: &mut Vec<(String, String)>,
    keyword: &str,
    value: Option<&str>,
) -> Result<(), String> {
    if let Some(value) = value.filter(|v| !v.is_empty()) {
        found.push((keyword.into(), percent_decode(value)?));
    }
    Ok(())
}

fn uri_hosts(list: &str, found: &mut Vec<(String, String)>) -> Result<(), String> {
    if list.is_empty() {
        return Ok(());
    }
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for entry in list.split(',') {
        let (host, port) = match entry.strip_prefix('[') {
            Some(bracketed) => {
                let (host, after) = bracketed
                    .split_once(']')
                    .ok_or("an IPv6 address in the connection URI has no closing \"]\"")?;
                let port = match after.strip_prefix(':') {
                    Some(port) => port,
                    None if after.is_empty() => "",
                    None => {
                        return Err(
                            "after the \"]\" of an IPv6 address comes \":port\" or nothing".into(),
                        );
                    }
                };
                (host, port)
            }
            None => entry.split_once(':').unwrap_or((entry, "")),
        };
        hosts.push(percent_decode(host)?);
        ports.push(percent_decode(port)?);
    }
    if hosts.iter().any(|h| !h.is_empty()) {
        found.push(("host".into(), hosts.join(",")));
    }
    if ports.iter().any(|p| !p.is_empty()) {
        found.push(("port".into(), ports.join(",")));
    }
    Ok(())
}

fn percent_decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |b: &u8| {
            char::from(*b)
                .to_digit(16)
                .and_then(|d| u8::try_from(d).ok())
        };
        let decoded = match after {
            [high, low, ..] => digit(high).zip(digit(low)).map(|(h, l)| h << 4 | l),
            _ => None,
        };
        match decoded {
            Some(byte) if byte != 0 => bytes.push(byte),
            _ => {
                return Err(
                    "the connection URI has a \"%\" that no two hexadecimal digits follow; \
                     write %25 for a percent sign"
                        .into(),
                );
            }
        }
        rest = &after[2..];
    }
    String::from_utf8(bytes)
        .map_err(|_| "the connection URI decodes to text that is not UTF-8".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Vec<(String, String)> {
        pairs(text).expect(text)
    }

    fn pair(keyword: &str, value: &str) -> (String, String) {
        (keyword.into(), value.into())
    }

    #[test]
    fn quoting_is_libpq_s() {
        assert_eq!(
            read(r"host = db  password='it\'s \\ here' dbname=a\ b user=''"),
            [
                pair("host", "db"),
                pair("password", r"it's \ here"),
                pair("dbname", "a b"),
                pair("user", ""),
            ]
        );
        for wrong in ["host", "host db", "=x", "password='x", "host=a b"] {
            assert!(pairs(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_uri_says_the_same_in_other_words() {
        assert_eq!(
            read(
                "postgresql://al%40ice:p%3Aw@h1:5433,[::1]:5434,%2Frun%2Fpg/db%20x?sslmode=require&options=-c%20a"
            ),
            [
                pair("user", "al@ice"),
                pair("password", "p:w"),
                pair("host", "h1,::1,/run/pg"),
                pair("port", "5433,5434,"),
                pair("dbname", "db x"),
                pair("sslmode", "require"),
                pair("options", "-c a"),
            ]
        );
        assert_eq!(read("postgres://"), []);
        assert_eq!(
            read("postgres:///x?host=/tmp&ssl=true")[1..],
            [pair("host", "/tmp"), pair("sslmode", "require")]
        );
        for wrong in [
            "postgres://%",
            "postgres://%zz",
            "postgres://%00",
            "postgres://[::1",
            "postgres://h?x",
            "postgres://[::1]x",
            "postgres://%ff",
        ] {
            assert!(pairs(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_error_never_repeats_a_password() {
        for text in [
            "password=hunter2 hunter3",
            "password='hunter2",
            "postgres://u:hunter2%@h",
            "postgres://u:p@h?password=hunter2%",
        ] {
            let error = pairs(text).expect_err(text);
            assert!(!error.contains("hunter"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_value_survives_quoting(value in "\\PC*") {
            let quoted = value.replace('\\', r"\\").replace('\'', r"\'");
            let text = format!("user='{quoted}' dbname=x");
            prop_assert_eq!(pairs(&text), Ok(vec![pair("user", &value), pair("dbname", "x")]));
        }

        #[test]
        fn any_password_survives_a_uri(value in "[^\\x00]{1,40}") {
            let encoded: String = value.bytes().map(|b| format!("%{b:02X}")).collect();
            let text = format!("postgres://u:{encoded}@h/d");
            prop_assert_eq!(&pairs(&text).unwrap()[1], &pair("password", &value));
        }

        #[test]
        fn no_text_panics(text in "(postgres://)?\\PC*", tail in "[%\\\\'=\\[\\]:@/?&, a]*") {
            let _ = pairs(&format!("{text}{tail}"));
        }
    }
}
