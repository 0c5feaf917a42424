//! The shared object, and programs under it.

#![allow(dead_code)]

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The longest that a program may take: one that hangs is a failure, not a wait.
const PATIENCE: Duration = Duration::from_secs(120);

/// `libdemocratising.so`, built now from this source.
pub fn object() -> &'static Path {
    static OBJECT: OnceLock<PathBuf> = OnceLock::new();
    OBJECT.get_or_init(|| {
        let built = Command::new(env!("CARGO"))
            .args([
                "build",
                "--release",
                "--quiet",
                "--message-format=json-render-diagnostics",
                "--manifest-path",
            ])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
            .args(if cfg!(feature = "hardened") { &["--features", "hardened"][..] } else { &[] })
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(built.status.success(), "the shared object does not build");
        let messages = String::from_utf8(built.stdout).unwrap();
        PathBuf::from(messages.split('"').rfind(|part| part.ends_with("/libdemocratising.so")).unwrap())
    })
}

/// A folder of this test's own, gone when it ends.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("democratising-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A file of `programs`.
pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name)
}

/// Compiles a source of `programs`, with every warning an error.
pub fn compile(compiler: &str, options: &[&str], name: &str, folder: &Path) -> PathBuf {
    let program = folder.join(name.replace('.', "_"));
    let done = Command::new(compiler)
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-pthread"])
        .args(options)
        .arg("-o")
        .arg(&program)
        .arg(source(name))
        .arg("-ldl")
        .output()
        .unwrap_or_else(|error| panic!("{compiler} cannot be run: {error}"));
    assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
    program
}

/// What a program printed, and how it ended.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

/// Runs a program, with the object before all others if `preload` says so.
pub fn run(command: &mut Command, preload: bool, folder: &Path) -> Outcome {
    // Through files: a pipe that fills would stop the program, and one that a grandchild keeps would never end.
    let (out, err) = (folder.join("out"), folder.join("err"));
    command.stdin(Stdio::null()).stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
    match preload {
        true => command.env("LD_PRELOAD", object()),
        false => command.env_remove("LD_PRELOAD"),
    };
    let mut child =
        command.spawn().unwrap_or_else(|error| panic!("{:?} cannot be run: {error}", command.get_program()));
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{command:?} hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let text = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    Outcome { status, out: text(&out), err: text(&err) }
}

/// Whether a tool is here. One that is missing is told; in CI it is a failure.
pub fn has(tool: &str) -> bool {
    let there = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(tool).is_file()));
    if !there {
        assert!(std::env::var_os("CI").is_none(), "{tool} is missing: install it");
        eprintln!("NOT TESTED: {tool} is missing: install it");
    }
    there
}

/// A command with arguments.
pub fn command<I: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = I>,
) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}
