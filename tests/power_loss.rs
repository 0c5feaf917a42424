//! Power loss, as far as a running machine can have one: a file system of its own on a loop device is stopped without
//! writing out anything (FS_IOC_SHUTDOWN without a flush of the log), mounted again and read.
//!
//! Needs root, loop devices, mkfs.ext4 and mkfs.xfs. Where one is missing it says so; with `CI` set it fails then.
#![cfg(all(feature = "std", target_os = "linux"))]

#[path = "fs/child.rs"]
mod child;

use democratising::Tensor;
use democratising::fs::CheckpointDir;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// `_IOR('X', 125, __u32)`, the same for every file system that knows it, and its flag "do not flush the log".
const FS_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
const NO_LOG_FLUSH: u32 = 2;

const ROUNDS: u64 = 20;

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().into()),
        false => Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// A file system in a file.
struct Disk {
    at: PathBuf,
    device: String,
    mounted: bool,
    _image: democratising::tempfile::TempDir,
}

impl Disk {
    fn new(kind: &str, megabytes: u64) -> Result<Disk, String> {
        let directory = democratising::tempfile::tempdir().map_err(|error| error.to_string())?;
        let image = directory.path().join("image");
        File::create(&image)
            .and_then(|file| file.set_len(megabytes << 20))
            .map_err(|error| error.to_string())?;
        run(&format!("mkfs.{kind}"), &["-q", image.to_str().unwrap()])?;
        let device = run("losetup", &["--find", "--show", image.to_str().unwrap()])?;
        let at = directory.path().join("mounted");
        std::fs::create_dir(&at).map_err(|error| error.to_string())?;
        let mut disk = Disk { at, device, mounted: false, _image: directory };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&mut self) -> Result<(), String> {
        run("mount", &[&self.device, self.at.to_str().unwrap()])?;
        self.mounted = true;
        Ok(())
    }

    /// From this moment on nothing reaches the device any more.
    fn lose_power(&self) {
        let root = File::open(&self.at).unwrap();
        // SAFETY: 1. The descriptor is open. 2. The request reads a u32 through the pointer, and one is there.
        let result = unsafe { libc::ioctl(root.as_raw_fd(), FS_IOC_SHUTDOWN, &NO_LOG_FLUSH) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    fn power_on(&mut self) {
        // A process that another test is just starting has our descriptors until it has become another program.
        let tried = (0..200).find_map(|_| match run("umount", &[self.at.to_str().unwrap()]) {
            Err(problem) if problem.contains("busy") => {
                std::thread::sleep(Duration::from_millis(20));
                None
            }
            other => Some(other),
        });
        tried.expect("nobody keeps the disk busy for seconds").unwrap();
        self.mounted = false;
        self.mount().unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            let _ = run("umount", &["--lazy", self.at.to_str().unwrap()]);
        }
        let _ = run("losetup", &["--detach", &self.device]);
    }
}

/// What step `n` holds: some pages to some megabytes.
fn tensor(step: u64) -> Tensor {
    let length = 1000 + (step as usize * 7919) % 300_000;
    Tensor::new(&[length], vec![step as f32; length]).unwrap()
}

/// The child: saves one step after the other, says so after each, and goes on when it is answered.
#[test]
fn steps_saved_by_a_child() {
    let Some(directory) = child::child() else { return };
    let dir = CheckpointDir::open(directory).unwrap().keep_last(2);
    let first = dir.steps().unwrap().last().map_or(1, |last| last + 1);
    for step in first.. {
        if dir.save(step, [("w", &tensor(step))]).is_err() {
            return;
        }
        println!("\ncommitted {step}");
        std::io::stdout().flush().unwrap();
        if std::io::stdin().read_line(&mut String::new()).unwrap() == 0 {
            return;
        }
    }
}

/// One power loss. `wait`: how long after the last commit that was waited for.
fn round(disk: &mut Disk, commits: u64, wait: Option<Duration>) -> (u64, u64) {
    let directory = disk.at.join("run");
    let mut child = child::command(&[], "steps_saved_by_a_child", &directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    // The program lies elsewhere than on the disk that stops.
    let child = child.as_mut().unwrap();
    let mut answers = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut committed = || {
        lines.find_map(|line| {
            line.unwrap().strip_prefix("committed ").map(|step| step.parse::<u64>().unwrap())
        })
    };
    let mut promised = 0;
    for commit in 1..=commits {
        promised = committed().expect("a child that saves");
        if commit < commits {
            answers.write_all(b"\n").unwrap();
        }
    }
    if let Some(wait) = wait {
        // As many as it manages meanwhile.
        answers.write_all(&[b'\n'; 1000]).unwrap();
        std::thread::sleep(wait);
    }
    disk.lose_power();
    drop(answers);
    while let Some(step) = committed() {
        promised = step;
    }
    child.wait().unwrap();
    disk.power_on();

    let dir = CheckpointDir::open(&directory).unwrap();
    let (step, checkpoint) = dir.latest_valid().unwrap().expect("what was committed is there");
    assert!(checkpoint.skipped().is_empty(), "nothing torn stands under a name: {:?}", checkpoint.skipped());
    assert!(step >= promised, "step {promised} was committed, and {step} is the last that is there");
    assert!(step <= promised + 1, "step {step} was never begun");
    assert_eq!(checkpoint.get("w").unwrap(), tensor(step));
    (promised, step)
}

fn rounds(kind: &str, megabytes: u64) {
    if child::child().is_some() {
        return;
    }
    let mut disk = match Disk::new(kind, megabytes) {
        Ok(disk) => disk,
        Err(problem) => {
            eprintln!("\n*** NOT TESTED: power loss on {kind}, since this failed: {problem}\n");
            assert!(
                std::env::var_os("CI").is_none(),
                "CI is root and has loop devices and mkfs.{kind}: {problem}"
            );
            return;
        }
    };
    std::fs::create_dir(disk.at.join("run")).unwrap();
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut last = 0;
    for n in 0..ROUNDS {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let moment = Duration::from_micros((seed >> 33) % 60_000);
        // In turn right after a commit, and at any moment of a save.
        let wait = (n % 2 == 1).then_some(moment);
        let (promised, step) = round(&mut disk, 1 + n % 3, wait);
        assert!(promised > last, "it went on from where it was");
        last = step;
    }
    println!("{kind}: {ROUNDS} power losses, {last} steps");
}

#[test]
fn checkpoints_survive_power_loss_on_ext4() {
    rounds("ext4", 128);
}

#[test]
fn checkpoints_survive_power_loss_on_xfs() {
    rounds("xfs", 320);
}
