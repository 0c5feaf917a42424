//! Tensors that may leave their memory while nobody uses them, and come back when they are wanted.
//!
//! 1. A tensor on a device goes to the host, one on the host to a temp file. It comes back to where it was.
//! 2. Whoever has it in hand keeps it there: only what [`Evictable`] alone holds is moved. Who was wanted longest ago goes first.
//! 3. The reclaimers of memory move them, after everybody who loses nothing by giving. One that is just coming back is passed over.
//! 4. Whoever moves one says so in its state and holds no lock meanwhile: it may want memory, and so call anybody. Others who want it wait
//!    until it has moved; who may be called by the one that moves it, as a reclaimer, could wait for ever, and gets an error.
//! 5. It stays in its place until it is in the next. So the child of a fork, which has not the thread that moves it, has it where it was.
//! 6. What is in a file has a checksum, so that it comes back as it went or not at all.

#![forbid(unsafe_code)]

use super::temp::{TempFile, temp_file};
use crate::device::Device;
use crate::error::{DemoError, Result};
use crate::gc::{self, Deadline, Reclaim, Resource, Standing};
use crate::pool::budget::scope::Scope;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sync::forks::ForkLock;
use crate::sync::{HostLock, Lock};
use crate::tensor::{DType, Tensor};
use core::time::Duration;
use core::{fmt, mem};
use std::boxed::Box;
use std::format;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::string::String;
use std::sync::{Arc, Weak};
use std::thread::{self, ThreadId};
use std::vec::Vec;

/// Behind all that can be had without work.
const LAST: i32 = 1_000_000;

/// A tensor that may be moved from its device to the host, and from there to a temp file, while nobody uses it.
///
/// ```
/// use democratising::{Tensor, fs::Kept, gc};
///
/// let activations = Tensor::new(&[1000], (0..1000).collect::<Vec<i32>>())?.evictable("activations");
/// gc::collect()?;
/// assert_eq!(activations.kept(), Kept::File);
/// assert_eq!(activations.get()?.as_slice::<i32>()?[999], 999);
/// assert_eq!(activations.kept(), Kept::InPlace);
/// # Ok::<(), democratising::DemoError>(())
/// ```
pub struct Evictable(Arc<Inner>);

/// Where an [`Evictable`] is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Kept {
    /// On its own device, or on the host, where it was made.
    InPlace,
    /// On the host, of a tensor on a device.
    Host,
    /// In a temp file.
    File,
}

struct Inner {
    name: Box<str>,
    home: Device,
    dtype: DType,
    shape: Box<[usize]>,
    /// Where it was marked: what it holds is charged there, wherever it is moved by whomever.
    scope: Scope,
    /// When it was wanted last, by [`CLOCK`].
    wanted: AtomicU64,
    /// Looked at within [`look`](Self::look) only.
    state: Lock<HostLock, State>,
}

struct State {
    place: Place,
    mover: Option<Mover>,
}

#[derive(Clone)]
enum Place {
    Home(Tensor),
    Host(Tensor),
    File(Arc<Written>),
}

/// A tensor in a file.
struct Written {
    file: TempFile,
    crc32: u32,
}

/// Who moves it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mover {
    thread: ThreadId,
    process: u32,
}

impl Mover {
    /// This thread. To be called with nothing held: a thread's first look at itself takes memory.
    fn here() -> Mover {
        Mover { thread: thread::current().id(), process: std::process::id() }
    }
}

impl State {
    fn kept(&self) -> Kept {
        match self.place {
            Place::Home(_) => Kept::InPlace,
            Place::Host(_) => Kept::Host,
            Place::File(_) => Kept::File,
        }
    }

    /// The thread that moves it, where that is one of this process: that of a parent which forked meanwhile is not here.
    fn mover(&self, here: Mover) -> Option<ThreadId> {
        self.mover.filter(|mover| mover.process == here.process).map(|mover| mover.thread)
    }

    /// What would come free of `of` if it went.
    fn movable(&self, of: Resource, here: Mover) -> u64 {
        if self.mover(here).is_some() {
            return 0;
        }
        match (&self.place, of) {
            (Place::Home(tensor), Resource::DeviceBytes)
                if !tensor.device().is_host() && !gc::is_for_another(tensor.device().id()) =>
            {
                tensor.sole_bytes()
            }
            (Place::Home(tensor), Resource::HostBytes) if tensor.device().is_host() => tensor.sole_bytes(),
            (Place::Host(tensor), Resource::HostBytes) => tensor.sole_bytes(),
            _ => 0,
        }
    }
}

/// One that this thread moves: until this is dropped, however that comes.
struct Moving<'a> {
    inner: &'a Inner,
    /// Where it is from then on; `None` where it stays.
    to: Option<Place>,
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        let to = self.to.take();
        let left = self.inner.look(|state| {
            state.mover = None;
            to.map(|to| mem::replace(&mut state.place, to))
        });
        drop(left);
    }
}

/// Counts what is wanted.
static CLOCK: AtomicU64 = AtomicU64::new(0);

/// Held by whoever looks at the state of one, so that a fork finds nobody at it.
static LOOKS: ForkLock<()> = ForkLock::new(());

/// Between two looks at one that is being moved. Nobody is told when that is over: who tells has a lock, which the child of a fork could find held.
const PAUSE: Duration = Duration::from_micros(500);

/// All that live.
struct All(Vec<Weak<Inner>>);

static ALL: ForkLock<All> = ForkLock::new(All(Vec::new()));

impl Tensor {
    /// The tensor, free to be moved to the host or to a temp file by whoever collects memory, while nobody has it in hand. `name` stands
    /// in messages.
    ///
    /// Clones and views that were made of it before keep it where it is as long as they live. What it holds is charged to the scope that
    /// this thread is in now.
    pub fn evictable(self, name: impl Into<String>) -> Evictable {
        register();
        let inner = Arc::new(Inner {
            name: name.into().into(),
            home: self.device().clone(),
            dtype: self.dtype(),
            shape: self.shape().into(),
            scope: Scope::current(),
            wanted: AtomicU64::new(CLOCK.fetch_add(1, Relaxed)),
            state: Lock::new(State { place: Place::Home(self), mover: None }),
        });
        let mut held = ALL.lock();
        let all = &mut held.0;
        if all.len() == all.capacity() {
            all.retain(|one| one.strong_count() > 0);
        }
        all.push(Arc::downgrade(&inner));
        Evictable(inner)
    }
}

impl Evictable {
    /// The tensor, on its own device, brought back if it was moved. It stays while what this returns, or a clone or view of it, lives.
    ///
    /// # Errors
    /// [`DemoError::OutOfMemory`] where there is no room to come back to: it stays where it is, and may be asked for again.
    /// [`DemoError::Io`] and [`DemoError::Format`] where its file cannot be read, or is not what was written. [`DemoError::Io`] of kind
    /// [`ErrorKind::Deadlock`] from inside a reclaimer while it is being moved: it may be that for which room is made.
    pub fn get(&self) -> Result<Tensor> {
        let inner = &*self.0;
        inner.wanted.store(CLOCK.fetch_add(1, Relaxed), Relaxed);
        inner.scope.run(|| inner.come_back())
    }

    /// The tensor for good, brought back if it was moved.
    ///
    /// # Errors
    /// Those of [`get`](Self::get). The tensor is given up then, wherever it is: where that must not be, `get` it, and drop this behind that.
    pub fn into_tensor(self) -> Result<Tensor> {
        self.get()
    }

    /// Where it is now; while it is being moved, where it was.
    pub fn kept(&self) -> Kept {
        self.0.look(|state| state.kept())
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The lengths of its dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// The device that it comes back to.
    pub fn device(&self) -> &Device {
        &self.0.home
    }
}

impl fmt::Debug for Evictable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { name, shape, dtype, home, .. } = &*self.0;
        write!(f, "Evictable({name:?}, {shape:?}, {dtype:?} of {home}, {:?})", self.kept())
    }
}

impl Inner {
    /// A look or an exchange. Nothing is dropped and no memory asked for meanwhile.
    fn look<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        let _no_fork = LOOKS.lock();
        look(&mut self.state.lock())
    }

    fn come_back(&self) -> Result<Tensor> {
        let here = Mover::here();
        let (from, mut moving) = loop {
            let seen = self.look(|state| match (&state.place, state.mover(here)) {
                (Place::Home(tensor), None) => Ok(Place::Home(tensor.clone())),
                (_, Some(thread)) => Err(thread),
                (place, None) => {
                    state.mover = Some(here);
                    Ok(place.clone())
                }
            });
            match seen {
                Ok(Place::Home(tensor)) => return Ok(tensor),
                Ok(from) => break (from, Moving { inner: self, to: None }),
                Err(thread) if thread == here.thread || gc::is_asking() => return Err(self.wanted_within()),
                Err(_) => thread::sleep(PAUSE),
            }
        };
        let back = match from {
            Place::Home(tensor) => tensor,
            Place::Host(tensor) => tensor.to_device(&self.home)?,
            Place::File(written) => self.read(&written)?.to_device(&self.home)?,
        };
        moving.to = Some(Place::Home(back.clone()));
        Ok(back)
    }

    #[cold]
    fn wanted_within(&self) -> DemoError {
        let problem = format!(
            "{:?} is being moved, and may wait for this very thread to give memory back; a reclaimer is not to want it",
            self.name
        );
        let source = io::Error::new(ErrorKind::Deadlock, problem);
        DemoError::Io { action: "bring back an evicted tensor", path: None, source }
    }

    fn read(&self, written: &Written) -> Result<Tensor> {
        let Written { file, crc32 } = written;
        let path = PathBuf::from(file.path());
        Tensor::filled(&self.shape, self.dtype, |bytes| {
            let read = read_all(file.as_file(), bytes);
            read.map_err(|source| DemoError::Io { action: "read back", path: Some(path.clone()), source })?;
            let found = crc32fast::hash(bytes);
            if found == *crc32 {
                return Ok(());
            }
            Err(DemoError::Format {
                format: "evicted tensor",
                path: Some(path),
                at: format!(" of {:?}", self.name),
                problem: format!(
                    "its checksum is {found:08x}, {crc32:08x} was written; somebody changed the file"
                ),
            })
        })
    }

    /// What would come free of `of` if it went.
    fn movable(&self, of: Resource) -> u64 {
        let here = Mover::here();
        self.look(|state| state.movable(of, here))
    }

    /// Moves it one step down. Returns the bytes that came free: none where there is no room below.
    fn go(&self, of: Resource) -> u64 {
        let here = Mover::here();
        let taken = self.look(|state| {
            let bytes = state.movable(of, here);
            let (Place::Home(tensor) | Place::Host(tensor)) = &state.place else { return None };
            // Nobody gets hold of it from here on.
            (bytes > 0).then(|| {
                state.mover = Some(here);
                (bytes, tensor.clone())
            })
        });
        let Some((bytes, tensor)) = taken else { return 0 };
        let mut moving = Moving { inner: self, to: None };
        let moved = self.scope.run(|| match of {
            Resource::DeviceBytes => tensor.to_device(&Device::host()).map(Place::Host),
            _ => written(&tensor),
        });
        match moved {
            Ok(below) => {
                moving.to = Some(below);
                bytes
            }
            // It stays: no room on the host, or on the disk.
            Err(_) => 0,
        }
    }
}

/// Fills these bytes from the beginning of a file. Where a file stands, processes that one was forked from the other have in common.
fn read_all(file: &File, bytes: &mut [u8]) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, bytes, 0);
    #[cfg(not(unix))]
    {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = file;
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_exact(bytes))
    }
}

fn written(tensor: &Tensor) -> Result<Place> {
    let tensor = tensor.contiguous()?;
    let bytes = tensor.as_bytes()?;
    let mut file = temp_file()?;
    let path = PathBuf::from(file.path());
    let failed = |source| DemoError::Io { action: "write an evicted tensor to", path: Some(path), source };
    file.as_file_mut().write_all(bytes).map_err(failed)?;
    Ok(Place::File(Arc::new(Written { file, crc32: crc32fast::hash(bytes) })))
}

/// From the first marked tensor on, collections ask for them.
fn register() {
    static OF_DEVICES: Standing = Standing::new();
    static OF_THE_HOST: Standing = Standing::new();
    // The devices' first: what they give to the host can go on to a file in the same collection.
    OF_DEVICES.register("evictable tensors on devices", LAST, Evictables(Resource::DeviceBytes));
    OF_THE_HOST.register("evictable tensors", LAST + 1, Evictables(Resource::HostBytes));
}

struct Evictables(Resource);

impl Evictables {
    /// Who was wanted longest ago first; where a scope is full, those of that scope before all others.
    fn all(&self) -> Vec<Arc<Inner>> {
        let mut all: Vec<Arc<Inner>> = ALL.lock().0.iter().filter_map(Weak::upgrade).collect();
        let full = gc::for_scope();
        let is_elsewhere = |one: &Inner| full.as_ref().is_some_and(|full| !one.scope.is_within(full));
        // Each is looked at once: it may be wanted meanwhile, and a sort that meets two answers panics.
        all.sort_by_cached_key(|one| (is_elsewhere(one), one.wanted.load(Relaxed)));
        all
    }
}

impl Reclaim for Evictables {
    fn reclaimable_bytes(&self) -> u64 {
        self.all().iter().map(|one| one.movable(self.0)).sum()
    }

    fn reclaim(&self, target_bytes: u64, until: Deadline) -> u64 {
        let mut given = 0;
        for one in self.all() {
            if given >= target_bytes || until.has_passed() {
                break;
            }
            given += one.go(self.0);
        }
        given
    }

    fn resource(&self) -> Resource {
        self.0
    }
}
