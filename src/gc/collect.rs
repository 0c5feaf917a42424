//! Asking the reclaimers, in order, for everything or for so much.

#![forbid(unsafe_code)]

use super::registry::{self, Entry};
use super::under_way::{self, Asking, Short, Turn};
use super::{Deadline, Resource};
use crate::error::{Consumer, DemoError, DeviceId, OutOfMemory, Result, Role};
use crate::heap::shared as heap;
use crate::pool::budget::scope::{Kind, Refused, Scope};
use crate::pool::host;
use crate::sync::Cell;
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering::{Acquire, Release};
use crate::timeline::{self, Place};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use std::{string::String, vec::Vec};

/// How often [`with_retry`] runs an attempt again: what an attempt took before it failed comes back as if somebody had given it.
const RETRIES: u32 = 3;

/// How often in all, where other threads ran out at the same time and may have taken what was given back.
const RETRIES_AMONG_SEVERAL: u32 = 200;

/// The most reclaimers that a report names.
const CONSUMERS: usize = 10;

/// What a collection gave back, by the reclaimers' own account.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Collected {
    /// Bytes of the machine's own memory.
    pub host_bytes: u64,
    /// Bytes of device memory.
    pub device_bytes: u64,
    /// Bytes of mapped files that left the memory.
    pub mapped_bytes: u64,
    /// Connections closed.
    pub connections: u64,
    /// Files closed.
    pub files: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// Reclaimers that panicked, by name. What they gave back before is not counted.
    pub panicked: Vec<String>,
}

impl Collected {
    /// Bytes of any memory.
    fn bytes(&self) -> u64 {
        self.host_bytes.saturating_add(self.device_bytes).saturating_add(self.mapped_bytes)
    }

    /// What was given back of a resource.
    pub(super) fn amount(&self, of: Resource) -> u64 {
        match of {
            Resource::HostBytes => self.host_bytes,
            Resource::DeviceBytes => self.device_bytes,
            Resource::MappedBytes => self.mapped_bytes,
            Resource::Connections => self.connections,
            Resource::Files => self.files,
        }
    }

    /// A reclaimer's account may be wrong by any amount: the sums stop at the top.
    fn add(&mut self, resource: Resource, amount: u64) {
        let sum = match resource {
            Resource::HostBytes => &mut self.host_bytes,
            Resource::DeviceBytes => &mut self.device_bytes,
            Resource::MappedBytes => &mut self.mapped_bytes,
            Resource::Connections => &mut self.connections,
            Resource::Files => &mut self.files,
        };
        *sum = sum.saturating_add(amount);
        if amount > 0 {
            // Release: pairs with the Acquire in `with_retry`, whose next attempt then finds what was given back. Before the
            // collection ends: see `Turn::drop`.
            GIVEN.fetch_add(1, Release);
        }
    }
}

/// Asks every reclaimer for everything it can give back.
///
/// Called from inside a reclaimer it returns at once with nothing.
///
/// # Errors
/// None today; a reclaimer that panics is named in the result.
pub fn collect() -> Result<Collected> {
    Ok(run(Wanted::Everything, Deadline::NEVER))
}

/// Asks reclaimers of memory one after the other, until they gave back `target_bytes` together or `until` has passed.
///
/// Connections and files are left alone. Called from inside a reclaimer it returns at once with nothing.
///
/// # Errors
/// None today; a reclaimer that panics is named in the result.
pub fn collect_until(target_bytes: u64, until: impl Into<Deadline>) -> Result<Collected> {
    Ok(run(Wanted::Bytes { target_bytes, of: None }, until.into()))
}

/// Asks reclaimers of one resource one after the other, until they gave back `amount` of it together; returns how much they gave.
///
/// Called from inside a reclaimer it returns at once with nothing.
///
/// # Errors
/// None today.
pub fn collect_resource(of: Resource, amount: u64) -> Result<u64> {
    let collected = run(Wanted::Bytes { target_bytes: amount, of: Some(of) }, Deadline::NEVER);
    Ok(collected.amount(of))
}

/// Runs `attempt` (with 0); when it runs out of memory, collects and runs it again (with 1, 2, 3), as long as that gave
/// something back. What was asked for is collected first, everything only if that was not enough.
///
/// Where other threads run out at the same time, they may take what was given back before this one runs again. Such an attempt does
/// not count among the three, so the numbers may go on.
///
/// Nothing is collected for a request above the limit, which no collection could make room for.
///
/// ```
/// use democratising::{Tensor, gc};
///
/// // Where it does not fit, not even after a collection, a smaller batch is tried.
/// let batch = gc::with_retry(|attempt| Tensor::zeros(&[64 >> attempt, 1000]))?;
/// assert_eq!(batch.shape(), [64, 1000]);
/// # Ok::<(), democratising::DemoError>(())
/// ```
///
/// # Errors
/// The last attempt's, whatever it is.
pub fn with_retry<T>(mut attempt: impl FnMut(u32) -> Result<T>) -> Result<T> {
    let (mut number, mut counted, mut short) = (0, 0, None);
    loop {
        // Acquire: pairs with the Release in `Collected::add`, here and below.
        let given_before = GIVEN.load(Acquire);
        let report = match attempt(number) {
            Err(DemoError::OutOfMemory(report)) => report,
            other => return other,
        };
        let never_fits = (1..report.requested_bytes).contains(&report.limit_bytes);
        if counted == RETRIES || number == RETRIES_AMONG_SEVERAL || never_fits || Asking::is_under_way() {
            return Err(given_up(report));
        }
        let short = short.get_or_insert_with(Short::begin);
        // Another thread's collection counts as well: it may have emptied what this one found empty. One still under way may
        // have freed and not counted yet. None under way, all counted.
        let helped = || under_way::is_collecting() || GIVEN.load(Acquire) != given_before;
        let full = full_scope(&report);
        let _for = ForDevice::begin(if full.is_none() { report.device } else { DeviceId::Host });
        if number == 0 {
            let of = match report.device {
                DeviceId::Host => Resource::HostBytes,
                DeviceId::Cuda(_) => Resource::DeviceBytes,
            };
            let target_bytes = report.requested_bytes;
            match full {
                None => run(Wanted::Bytes { target_bytes, of: Some(of) }, Deadline::NEVER),
                Some(scope) => {
                    let _in = InScope::begin(scope);
                    run(Wanted::OfScope { target_bytes, of }, Deadline::NEVER)
                }
            };
        }
        if number > 0 || !helped() {
            run(Wanted::Room, Deadline::NEVER);
        }
        if !helped() {
            return Err(given_up(report));
        }
        number += 1;
        counted += u32::from(!short.is_among_several());
    }
}

/// The scope that refused, where one did: it is this thread's, or around that.
fn full_scope(report: &OutOfMemory) -> Option<Scope> {
    let name = report.scope()?;
    core::iter::successors(Some(Scope::current()), Scope::parent).find(|scope| scope.name() == name)
}

std::thread_local! {
    static FULL: Cell<Option<Scope>> = const { Cell::new(None) };
}

/// This thread asks for the sake of a scope that is full, until this is dropped.
struct InScope;

impl InScope {
    fn begin(scope: Scope) -> InScope {
        // Without the thread's variables, at its end, everybody is asked alike.
        let _ = FULL.try_with(|full| full.set(Some(scope)));
        InScope
    }
}

impl Drop for InScope {
    fn drop(&mut self) {
        let _ = FULL.try_with(|full| full.set(None));
    }
}

/// The scope that this thread asks reclaimers for, if it is full: what is held outside of it does not help.
pub(crate) fn for_scope() -> Option<Scope> {
    let full = FULL.try_with(|full| {
        let scope = full.take();
        full.set(scope.clone());
        scope
    });
    full.ok().flatten()
}

std::thread_local! {
    /// [`DeviceId::Host`] where it is no device's memory alone.
    static SHORT: Cell<DeviceId> = const { Cell::new(DeviceId::Host) };
}

/// This thread asks since this device's memory is short, until this is dropped.
struct ForDevice(DeviceId);

impl ForDevice {
    fn begin(device: DeviceId) -> ForDevice {
        // Without the thread's variables, at its end, everybody is asked alike.
        ForDevice(SHORT.try_with(|short| short.replace(device)).unwrap_or(DeviceId::Host))
    }
}

impl Drop for ForDevice {
    fn drop(&mut self) {
        let _ = SHORT.try_with(|short| short.set(self.0));
    }
}

/// Whether this thread asks reclaimers for the sake of another device than that one, whose memory does not help then.
pub(crate) fn is_for_another(device: DeviceId) -> bool {
    let short = SHORT.try_with(Cell::get).unwrap_or(DeviceId::Host);
    short != DeviceId::Host && short != device
}

/// Nothing helped: the timeline hears of it.
#[cold]
fn given_up(report: OutOfMemory) -> DemoError {
    let place = match report.device {
        DeviceId::Host => Place::Pool,
        DeviceId::Cuda(ordinal) => Place::Cuda(ordinal as u8),
    };
    timeline::out_of_memory(place, report.requested_bytes, Scope::current().name());
    report.into()
}

/// The report for `requested_bytes` of host memory that could not be had: the pool's numbers, and who could give back what.
///
/// Asks every reclaimer how much it could give back: not to be called under a lock that one might take. Called from
/// inside a reclaimer it asks nobody.
pub fn host_report(requested_bytes: u64) -> OutOfMemory {
    report_beside(requested_bytes, Kind::HostBytes, &Scope::process())
}

/// The report for bytes of the host's memory or of devices', without the scope that has a row of its own. What a device's own pool has it
/// does not tell.
fn report_beside(requested_bytes: u64, kind: Kind, full: &Scope) -> OutOfMemory {
    let (mut report, of) = match kind {
        Kind::DeviceBytes => {
            let largest_free_bytes = u64::MAX;
            let report = OutOfMemory { requested_bytes, largest_free_bytes, ..OutOfMemory::default() };
            (report, Resource::DeviceBytes)
        }
        _ => {
            let mut report = host::report(requested_bytes);
            add(&mut report, "pool, idle", host::idle_bytes());
            add(&mut report, "heap, idle", heap::idle_bytes());
            (report, Resource::HostBytes)
        }
    };
    add_scopes(&mut report, kind, full);
    let Some(_asking) = Asking::begin() else {
        largest(&mut report.consumers);
        return report;
    };
    let entries = registry::entries();
    for entry in entries.iter().flat_map(|entries| entries.iter()) {
        let answer = contained(|| (entry.reclaimer.resource(), entry.reclaimer.reclaimable_bytes()));
        if let Some((_, bytes)) = answer.filter(|(resource, _)| *resource == of) {
            add(&mut report, &entry.name, bytes);
        }
    }
    largest(&mut report.consumers);
    report
}

/// What could be given back now, by whom and of what: the pools' idle memory and every reclaimer, most first.
///
/// Asks every reclaimer: not to be called under a lock that one might take. Called from inside a reclaimer it asks nobody.
pub fn reclaimable() -> Vec<(String, Resource, u64)> {
    let mut all = Vec::new();
    all.push(("pool, idle".into(), Resource::HostBytes, host::idle_bytes()));
    all.push(("heap, idle".into(), Resource::HostBytes, heap::idle_bytes()));
    if let Some(_asking) = Asking::begin() {
        let entries = registry::entries();
        for entry in entries.iter().flat_map(|entries| entries.iter()) {
            let answer = contained(|| (entry.reclaimer.resource(), entry.reclaimer.reclaimable_bytes()));
            all.extend(answer.map(|(resource, amount)| (String::from(&*entry.name), resource, amount)));
        }
    }
    all.retain(|&(_, _, amount)| amount > 0);
    all.sort_by_key(|&(_, _, amount)| core::cmp::Reverse(amount));
    all
}

/// The report for a charge that a scope refused, in that scope's numbers. To be called as [`host_report`] is.
pub fn scope_report(refused: &Refused) -> OutOfMemory {
    let over = refused.over();
    let mut report = report_beside(over.asked, refused.kind(), refused.scope());
    if refused.scope().parent().is_some()
        && let (Some(name), Ok(())) = (owned(refused.scope().name()), report.consumers.try_reserve(1))
    {
        let bytes = refused.scope().used(refused.kind());
        report.consumers.push(Consumer { name, bytes, role: Role::FullScope });
        report.consumers.sort_by_key(|it| it.role);
    }
    report.limit_bytes = over.limit;
    report.in_use_bytes = refused.scope().used(refused.kind());
    report.largest_free_bytes = report.largest_free_bytes.min(over.left);
    report
}

/// The scopes that hold something of a kind, of several with one name each, and not `beside`.
fn add_scopes(report: &mut OutOfMemory, kind: Kind, beside: &Scope) {
    for scope in Scope::all() {
        let bytes = scope.used(kind);
        if bytes > 0
            && scope != *beside
            && let (Some(name), Ok(())) = (owned(scope.name()), report.consumers.try_reserve(1))
        {
            report.consumers.push(Consumer { name, bytes, role: Role::Scope });
        }
    }
}

fn largest(consumers: &mut Vec<Consumer>) {
    consumers.sort_unstable_by(|a, b| {
        a.role.cmp(&b.role).then(b.bytes.cmp(&a.bytes)).then_with(|| a.name.cmp(&b.name))
    });
    let mut seen = [0; 2];
    consumers.retain(|consumer| {
        let seen = &mut seen[usize::from(consumer.role != Role::Reclaimer)];
        *seen += 1;
        *seen <= CONSUMERS
    });
}

/// Counts `bytes` that `name` could give back, and names it if there is memory to do so.
fn add(report: &mut OutOfMemory, name: &str, bytes: u64) {
    report.reclaimable_bytes = report.reclaimable_bytes.saturating_add(bytes);
    if bytes == 0 {
        return;
    }
    if let (Some(name), Ok(())) = (owned(name), report.consumers.try_reserve(1)) {
        report.consumers.push(Consumer { name, bytes, role: Role::Reclaimer });
    }
}

/// What a collection is for.
#[derive(Clone, Copy)]
pub(super) enum Wanted {
    Everything,
    /// Everything that can make room in a pool, which pages of files cannot.
    Room,
    /// So many bytes of one memory, or of any.
    Bytes {
        target_bytes: u64,
        of: Option<Resource>,
    },
    /// So many bytes of one memory, for a scope that is full: what its pool keeps idle is charged to nobody.
    OfScope {
        target_bytes: u64,
        of: Resource,
    },
}

impl Wanted {
    /// What is still wanted of a reclaimer of `resource`; `None` when it need not be asked.
    fn of(self, resource: Resource, collected: &Collected) -> Option<u64> {
        match (self, resource) {
            (Wanted::OfScope { target_bytes, of }, _) => {
                Wanted::Bytes { target_bytes, of: Some(of) }.of(resource, collected)
            }
            (Wanted::Room, Resource::MappedBytes) => None,
            (Wanted::Everything | Wanted::Room, _) => Some(u64::MAX),
            (Wanted::Bytes { of: Some(of), .. }, _) if of != resource => None,
            (Wanted::Bytes { of: Some(of @ (Resource::Connections | Resource::Files)), target_bytes }, _) => {
                let given = if of == Resource::Files { collected.files } else { collected.connections };
                target_bytes.checked_sub(given).filter(|&left| left > 0)
            }
            (
                Wanted::Bytes { target_bytes, .. },
                Resource::HostBytes | Resource::DeviceBytes | Resource::MappedBytes,
            ) => target_bytes.checked_sub(collected.bytes()).filter(|&bytes| bytes > 0),
            (Wanted::Bytes { .. }, _) => None,
        }
    }

    /// What is wanted of the process as a whole: nothing, where only a pool ran out.
    fn of_process(&self, collected: &Collected) -> Option<u64> {
        match self {
            Wanted::Bytes { of: Some(_), .. } | Wanted::OfScope { .. } => None,
            _ => self.of(Resource::HostBytes, collected),
        }
    }

    /// What is wanted of what the pool keeps idle.
    fn of_pool(&self, collected: &Collected) -> Option<u64> {
        match self {
            Wanted::OfScope { .. } => None,
            _ => self.of(Resource::HostBytes, collected),
        }
    }
}

pub(super) fn run(wanted: Wanted, until: Deadline) -> Collected {
    let mut collected = Collected::default();
    let Some(_turn) = Turn::begin() else { return collected };
    let began = Instant::now();
    if let Some(bytes) = wanted.of_pool(&collected).filter(|_| !until.has_passed()) {
        collected.add(Resource::HostBytes, host::trim(bytes));
    }
    // The heap is no part of a pool that ran out; it is asked by whoever wants the process to be smaller.
    if let Some(bytes) = wanted.of_process(&collected).filter(|_| !until.has_passed()) {
        collected.add(Resource::HostBytes, heap::trim(bytes));
    }
    let entries = registry::entries();
    let entries = entries.as_deref().map_or(&[][..], |entries| &entries[..]);
    let order = largest_first(entries, &mut collected);
    for place in 0..entries.len() {
        if until.has_passed() {
            break;
        }
        let Some(entry) = (match &order {
            Some(order) => order.get(place).map(|&(at, _)| &entries[at]),
            None => Some(&entries[place]),
        }) else {
            break;
        };
        let given = contained(|| {
            let resource = entry.reclaimer.resource();
            let wanted = wanted.of(resource, &collected)?;
            Some((resource, entry.reclaimer.reclaim(wanted, until)))
        });
        match given {
            Some(Some((resource, amount))) => collected.add(resource, amount),
            Some(None) => {}
            None => collected.panicked.extend(owned(&entry.name)),
        }
    }
    if let Wanted::Everything | Wanted::Room = wanted {
        // What the reclaimers freed lies idle in the pool now. It is counted already.
        host::trim(u64::MAX);
        heap::trim(u64::MAX);
    }
    collected.elapsed = began.elapsed();
    timeline::collected(collected.bytes(), collected.elapsed);
    collected
}

/// The order to ask in: by priority, among equals whoever has most. One that panics when asked how much it has is left out.
///
/// `None` when there is no memory to sort in: then the order of registration has to do.
fn largest_first(entries: &[Entry], collected: &mut Collected) -> Option<Vec<(usize, u64)>> {
    let mut order = Vec::new();
    order.try_reserve_exact(entries.len()).ok()?;
    for (at, entry) in entries.iter().enumerate() {
        match contained(|| entry.reclaimer.reclaimable_bytes()) {
            Some(bytes) => order.push((at, bytes)),
            None => collected.panicked.extend(owned(&entry.name)),
        }
    }
    order.sort_unstable_by_key(|&(at, bytes)| (entries[at].priority(), u64::MAX - bytes, at));
    Some(order)
}

/// Runs somebody else's code; `None` when it panicked.
pub(crate) fn contained<T>(code: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(code)) {
        Ok(value) => Some(value),
        Err(payload) => {
            // Dropping what was thrown is somebody else's code too. What that throws is not looked at any more.
            if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                core::mem::forget(again);
            }
            None
        }
    }
}

/// A copy of `name`, unless there is no memory for one.
fn owned(name: &str) -> Option<String> {
    let mut copy = String::new();
    copy.try_reserve_exact(name.len()).ok()?;
    copy.push_str(name);
    Some(copy)
}

/// How often anybody gave something back, around the end of the integer.
static GIVEN: AtomicUsize = AtomicUsize::new(0);
