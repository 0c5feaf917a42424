//! One build for each allocator, with its feature alone.
#![forbid(unsafe_code)]

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Builds the binary of that name with the feature of that name, and tells where it lies or why it could not be built.
pub fn binary(name: &str, profile: &str) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(&cargo)
        .args(["build", "--locked", "--message-format", "json-render-diagnostics", "--profile", profile])
        .args(["--no-default-features", "--features", name, "--bin", name])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run {}: {error}", cargo.to_string_lossy()))?;
    if !output.status.success() {
        return Err(reason(&String::from_utf8_lossy(&output.stderr)));
    }
    executable(&String::from_utf8_lossy(&output.stdout), name)
        .ok_or_else(|| format!("cargo built {name} and named no executable"))
}

/// The first error, which says what failed, and the last, which says why if a compiler behind a build script did.
fn reason(stderr: &str) -> String {
    let mut errors = stderr.lines().map(str::trim).filter(|line| line.starts_with("error"));
    let short = |line: &str| line.chars().take(200).collect::<String>();
    match (errors.next(), errors.next_back()) {
        (Some(first), Some(last)) => format!("{}: {}", short(first), short(last)),
        (Some(only), None) => short(only),
        _ => "cargo failed without an error message".to_owned(),
    }
}

/// The executable among cargo's messages, one JSON object a line.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    let mut messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages.find_map(|message| {
        let ours = message["reason"] == "compiler-artifact" && message["target"]["name"] == name;
        message["executable"].as_str().filter(|_| ours).map(PathBuf::from)
    })
}

#[cfg(test)]
mod tests {
    use super::{executable, reason};
    use std::path::PathBuf;

    #[test]
    fn the_executable_is_found_among_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"talc"},"executable":null}"#,
            "\nnot json\n",
            r#"{"reason":"compiler-artifact","target":{"name":"other"},"executable":"/a/other"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"talc"},"executable":"/a/talc"}"#,
        );
        assert_eq!(executable(messages, "talc"), Some(PathBuf::from("/a/talc")));
        assert_eq!(executable(messages, "jemalloc"), None);
    }

    #[test]
    fn the_first_and_the_last_error_are_the_reason() {
        assert_eq!(
            reason("   Compiling x\nerror: y failed\n\n  note: z\n  error in cc\n"),
            "error: y failed: error in cc"
        );
        assert_eq!(reason("error: no crate\n"), "error: no crate");
        assert_eq!(reason(&format!("error: {}", "long ".repeat(100))).len(), 200);
        assert!(!reason("").is_empty());
    }
}
