//! Enough of Rust's grammar to read which paths a file names: words, punctuation, `use` trees. Comments, strings and
//! lifetimes are not seen.

/// A word or a sign, and the line it stands on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    pub line: usize,
    pub text: String,
}

impl Token {
    fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// A path of at least two segments as the file names it, `use` trees spelled out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    pub line: usize,
    /// The inline modules around it, outermost first.
    pub inside: Vec<String>,
    pub segments: Vec<String>,
}

/// Everything that is code. `::` is one token, any other sign is one for each character; numbers are left out.
pub fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let (mut tokens, mut i, mut line) = (Vec::new(), 0, 1);
    while i < chars.len() {
        let start = i;
        match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 || i >= chars.len() {
                        break;
                    }
                }
            }
            '"' => i = quoted(&chars, i),
            '\'' if at(i + 1) == '\\' || at(i + 2) == '\'' => {
                i += if at(i + 1) == '\\' { 3 } else { 2 };
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            }
            '\'' => {
                i += 1;
                while at(i).is_alphanumeric() || at(i) == '_' {
                    i += 1;
                }
            }
            c if c.is_alphanumeric() || c == '_' => {
                while at(i).is_alphanumeric() || at(i) == '_' {
                    i += 1;
                }
                let word: String = chars[start..i].iter().collect();
                let prefix = matches!(&*word, "r" | "b" | "c" | "br" | "cr");
                let hashes = chars[i..].iter().take_while(|&&c| c == '#').count();
                if prefix && at(i + hashes) == '"' && (hashes == 0 || word.ends_with('r')) {
                    i = if word.ends_with('r') { raw(&chars, i + hashes, hashes) } else { quoted(&chars, i) };
                } else if !c.is_numeric() {
                    tokens.push(Token { line, text: word });
                }
            }
            ':' if at(i + 1) == ':' => {
                tokens.push(Token { line, text: "::".into() });
                i += 2;
            }
            c => {
                if !c.is_whitespace() {
                    tokens.push(Token { line, text: c.into() });
                }
                i += 1;
            }
        }
        line += chars[start..i.min(chars.len())].iter().filter(|&&c| c == '\n').count();
    }
    tokens
}

/// Behind the string whose quote is at `i`.
fn quoted(chars: &[char], mut i: usize) -> usize {
    i += 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// Behind the raw string whose quote is at `i`, closed by a quote and `hashes` hashes.
fn raw(chars: &[char], mut i: usize, hashes: usize) -> usize {
    i += 1;
    while i < chars.len()
        && !(chars[i] == '"' && chars[i + 1..].iter().take_while(|&&c| c == '#').count() >= hashes)
    {
        i += 1;
    }
    i + 1 + hashes
}

/// Every path that the file names.
pub fn paths(tokens: &[Token]) -> Vec<Named> {
    let (mut found, mut inside, mut depth, mut i) = (Vec::new(), Vec::<(String, usize)>::new(), 0, 0);
    let text = |i: usize| tokens.get(i).map_or("", |token| &token.text);
    while i < tokens.len() {
        if text(i) == "mod" && text(i + 2) == "{" {
            depth += 1;
            inside.push((tokens[i + 1].text.clone(), depth));
            i += 3;
            continue;
        }
        match text(i) {
            "{" => depth += 1,
            "}" => {
                if inside.last().is_some_and(|(_, opened)| *opened == depth) {
                    inside.pop();
                }
                depth -= 1;
            }
            _ => {}
        }
        let continued = i > 1 && text(i - 1) == "::" && (tokens[i - 2].is_word() || text(i - 2) == ">");
        if tokens[i].is_word() && text(i + 1) == "::" && !continued && (i == 0 || text(i - 1) != ".") {
            let modules: Vec<String> = inside.iter().map(|(name, _)| name.clone()).collect();
            let mut branches = Vec::new();
            i = tree(tokens, i, &[], &mut branches);
            found.extend(branches.into_iter().map(|(line, segments)| Named {
                line,
                inside: modules.clone(),
                segments,
            }));
        } else {
            i += 1;
        }
    }
    found
}

/// Reads the path or `use` tree at `i` into `found`, each branch with `prefix` before it. Returns what comes behind.
fn tree(tokens: &[Token], mut i: usize, prefix: &[String], found: &mut Vec<(usize, Vec<String>)>) -> usize {
    let text = |i: usize| tokens.get(i).map_or("", |token| &token.text);
    let mut segments = prefix.to_vec();
    let line = tokens[i].line;
    loop {
        match text(i) {
            "{" => {
                i += 1;
                while i < tokens.len() && text(i) != "}" {
                    i = if text(i) == "," { i + 1 } else { tree(tokens, i, &segments, found) };
                }
                return i + 1;
            }
            "*" => {
                segments.push("*".into());
                i += 1;
                break;
            }
            word if tokens.get(i).is_some_and(Token::is_word) => {
                segments.push(word.into());
                i += 1;
                if text(i) != "::" {
                    break;
                }
                i += 1;
            }
            // A turbofish, or something that is no path after all.
            _ => break,
        }
    }
    if text(i) == "as" {
        i += 2;
    }
    found.push((line, segments));
    // Nothing was read only where there is no path: then the sign is passed over.
    if found.last().is_some_and(|(_, segments)| segments.len() == prefix.len()) { i + 1 } else { i }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Vec<String> {
        paths(&tokens(text)).into_iter().map(|named| named.segments.join("::")).collect()
    }

    #[test]
    fn a_use_tree_is_spelled_out() {
        assert_eq!(
            named("pub use crate::{a::B, c::{self, D as E}, f::*};\nlet x = g::h::<I>::new();"),
            ["crate::a::B", "crate::c::self", "crate::c::D", "crate::f::*", "g::h"]
        );
    }

    #[test]
    fn comments_strings_characters_and_lifetimes_are_no_code() {
        let text = r##"
            // use a::b; /* use a::b;
            /* use c::d; /* unsafe */ use e::f; */
            let s = ("use g::h;", r#"use " i::j"#, b"k::l", '"', '\'', '\u{41}');
            fn f<'a>(x: &'a str) -> m::N<'a> { x }
        "##;
        assert_eq!(named(text), ["m::N"]);
        assert!(!tokens(text).iter().any(|token| token.text == "unsafe"));
    }

    #[test]
    fn lines_and_inline_modules_are_known() {
        let text = "use a::b;\nmod m {\n  \"\n\";\n  fn f() { super::c::d() }\n}\nuse e::f;\n";
        let found = paths(&tokens(text));
        let seen: Vec<_> = found.iter().map(|named| (named.line, named.inside.len())).collect();
        assert_eq!(seen, [(1, 0), (5, 1), (7, 0)]);
    }
}
