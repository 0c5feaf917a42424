//! Tensors that may leave their memory while nobody uses them, and come back when they are wanted.
//!
//! 1. A tensor on a device goes to the host, one on the host to a temp file. It comes back to where it was.
//! 2. Whoever has it in hand keeps it there: only what [`Evictable`] alone holds is moved. Who was wanted longest ago goes first.
//! 3. The reclaimers of memory move them, after everybody who loses nothing by giving. One that is just coming back is passed over.
//! 4. Whoever moves one takes it out of its place and holds no lock meanwhile: it may want memory, and so call anybody. Others who want it wait
//!    until it is put back; who may be called by the one that moves it, as a reclaimer, could wait for ever, and gets an error.
//! 5. What is in a file has a checksum, so that it comes back as it went or not at all.

#![forbid(unsafe_code)]

use super::temp::{TempFile, temp_file};
use crate::device::Device;
use crate::error::{DemoError, Result};
use crate::gc::{self, Deadline, Reclaim, Resource, Standing};
use crate::pool::budget::scope::Scope;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sync::forks::ForkLock;
use crate::sync::{Condvar, Mutex};
use crate::tensor::{DType, Tensor};
use core::{fmt, mem};
use std::boxed::Box;
use std::format;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
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
    place: Mutex<Place>,
    /// Told when it is put back.
    put_back: Condvar,
}

enum Place {
    Home(Tensor),
    Host(Tensor),
    File {
        file: TempFile,
        crc32: u32,
    },
    /// It is being moved from there, by that thread.
    Taken {
        from: Kept,
        by: ThreadId,
    },
}

impl Place {
    fn kept(&self) -> Kept {
        match self {
            Place::Home(_) => Kept::InPlace,
            Place::Host(_) => Kept::Host,
            Place::File { .. } => Kept::File,
            Place::Taken { from, .. } => *from,
        }
    }
}

/// A place that was taken out. It is put back when this is dropped, whatever happened to it and however that ended.
struct Taken<'a> {
    inner: &'a Inner,
    place: Option<Place>,
}

impl<'a> Taken<'a> {
    fn from(inner: &'a Inner, place: &mut Place, by: ThreadId) -> Taken<'a> {
        let taken = Place::Taken { from: place.kept(), by };
        Taken { inner, place: Some(mem::replace(place, taken)) }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            *self.inner.lock() = place;
            self.inner.put_back.notify_all();
        }
    }
}

/// Counts what is wanted.
static CLOCK: AtomicU64 = AtomicU64::new(0);

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
            place: Mutex::new(Place::Home(self)),
            put_back: Condvar::new(),
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
        self.0.lock().kept()
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
    /// Held for a look or an exchange, never while memory is asked for. A panic while it was held left it as it was.
    fn lock(&self) -> std::sync::MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn come_back(&self) -> Result<Tensor> {
        let this = thread::current().id();
        let mut place = self.lock();
        let mut taken = loop {
            match &*place {
                Place::Home(tensor) => return Ok(tensor.clone()),
                Place::Host(_) | Place::File { .. } => break Taken::from(self, &mut place, this),
                Place::Taken { by, .. } if *by == this || gc::is_asking() => {
                    return Err(self.wanted_within());
                }
                Place::Taken { .. } => {
                    place = self.put_back.wait(place).unwrap_or_else(|poisoned| poisoned.into_inner());
                }
            }
        };
        drop(place);
        let back = match &taken.place {
            Some(Place::Host(tensor)) => tensor.to_device(&self.home)?,
            Some(Place::File { file, crc32 }) => self.read(file, *crc32)?.to_device(&self.home)?,
            _ => unreachable!("these two are taken"),
        };
        // What it leaves goes before others see it back.
        taken.place = Some(Place::Home(back.clone()));
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

    fn read(&self, file: &TempFile, crc32: u32) -> Result<Tensor> {
        let path = PathBuf::from(file.path());
        Tensor::filled(&self.shape, self.dtype, |bytes| {
            let mut from = file.as_file();
            let read = from.seek(SeekFrom::Start(0)).and_then(|_| from.read_exact(bytes));
            read.map_err(|source| DemoError::Io { action: "read back", path: Some(path.clone()), source })?;
            let found = crc32fast::hash(bytes);
            if found == crc32 {
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

    /// What would come free of `of` if it went, as far as can be seen without waiting.
    fn movable(&self, of: Resource) -> u64 {
        let Ok(place) = self.place.try_lock() else { return 0 };
        match (&*place, of) {
            (Place::Home(tensor), Resource::DeviceBytes) if !tensor.device().is_host() => tensor.sole_bytes(),
            (Place::Home(tensor), Resource::HostBytes) if tensor.device().is_host() => tensor.sole_bytes(),
            (Place::Host(tensor), Resource::HostBytes) => tensor.sole_bytes(),
            _ => 0,
        }
    }

    /// Moves it one step down. Returns the bytes that came free: none where there is no room below.
    fn go(&self, of: Resource) -> u64 {
        if self.movable(of) == 0 {
            return 0;
        }
        let this = thread::current().id();
        let Ok(mut place) = self.place.try_lock() else { return 0 };
        let (Place::Home(tensor) | Place::Host(tensor)) = &*place else { return 0 };
        // Looked at again under the lock: nobody gets hold of it from here on.
        let bytes = tensor.sole_bytes();
        if bytes == 0 {
            return 0;
        }
        let mut taken = Taken::from(self, &mut place, this);
        drop(place);
        let Some(Place::Home(tensor) | Place::Host(tensor)) = &taken.place else { return 0 };
        let moved = self.scope.run(|| match of {
            Resource::DeviceBytes => tensor.to_device(&Device::host()).map(Place::Host),
            _ => written(tensor),
        });
        match moved {
            Ok(below) => {
                taken.place = Some(below);
                bytes
            }
            // It stays: no room on the host, or on the disk.
            Err(_) => 0,
        }
    }
}

fn written(tensor: &Tensor) -> Result<Place> {
    let tensor = tensor.contiguous()?;
    let bytes = tensor.as_bytes()?;
    let mut file = temp_file()?;
    let path = PathBuf::from(file.path());
    let failed = |source| DemoError::Io { action: "write an evicted tensor to", path: Some(path), source };
    file.as_file_mut().write_all(bytes).map_err(failed)?;
    Ok(Place::File { file, crc32: crc32fast::hash(bytes) })
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
        all.sort_by_key(|one| (is_elsewhere(one), one.wanted.load(Relaxed)));
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
