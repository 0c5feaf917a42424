//! This program again, as a child that may be traced and killed.

use std::path::{Path, PathBuf};
use std::process::Command;

const CHILD: &str = "DEMOCRATISING_TEST_CHILD";

/// In the child: where it is to work. In the parent: nothing.
pub fn child() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// One test of this program, behind the words of `before`.
pub fn command(before: &[&str], test: &str, path: &Path) -> Command {
    let program = std::env::current_exe().unwrap();
    let words = [program.to_str().unwrap(), "--exact", test, "--nocapture", "--test-threads=1"];
    let mut words = before.iter().copied().chain(words);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).env(CHILD, path);
    command
}
