//! The programs, and what they are given to do.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A program with its arguments.
pub struct Program {
    pub name: &'static str,
    /// Whether it is one of those that the project's figures are about, or told beside them.
    pub counts: bool,
    pub command: Vec<String>,
    /// What is its standard input, if anything is.
    pub input: Option<PathBuf>,
    pub environment: &'static [(&'static str, &'static str)],
}

/// All of them. An error names what is missing.
pub fn all() -> Result<Vec<Program>, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs");
    let file = |name: &str| folder.join(name).display().to_string();
    let python = python()?;
    let lua = ["lua5.4", "lua"]
        .into_iter()
        .find(|name| runs(name, "-v"))
        .ok_or("lua is missing: install lua5.4")?;
    for (tool, argument) in
        [("sqlite3", "--version"), ("gcc", "--version"), ("g++", "--version"), ("git", "--version")]
    {
        if !runs(tool, argument) {
            return Err(format!("{tool} is missing: install it"));
        }
    }
    let program = |name, counts, command: &[&str]| Program {
        name,
        counts,
        command: command.iter().map(|part| part.to_string()).collect(),
        input: None,
        environment: &[("PYTHONMALLOC", "malloc"), ("PYTHONHASHSEED", "0")],
    };
    Ok(vec![
        program("python-json", true, &[&python, &file("json_words.py")]),
        program("python-objects", true, &[&python, &file("objects.py")]),
        program("lua", true, &[lua, &file("tables.lua")]),
        program("gcc", true, &["gcc", "-O2", "-S", "-o", "/dev/stdout", &file("functions.c")]),
        program(
            "g++",
            true,
            &["g++", "-std=c++17", "-O1", "-S", "-o", "/dev/stdout", &file("templates.cpp")],
        ),
        Program { input: Some(folder.join("rows.sql")), ..program("sqlite", true, &["sqlite3", ":memory:"]) },
        program("bash", false, &["bash", &file("words.sh")]),
        program("git", false, &["bash", &file("history.sh")]),
    ])
}

fn runs(tool: &str, argument: &str) -> bool {
    Command::new(tool).arg(argument).output().is_ok_and(|output| output.status.success())
}

/// The interpreter itself: what is first on the path may be a script that looks for it.
fn python() -> Result<String, String> {
    let output = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
    let output = output.map_err(|_| "python3 is missing: install it")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}
