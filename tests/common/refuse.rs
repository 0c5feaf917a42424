//! System calls of a thread that fail when a test says, as they do where memory is short. The kernel hands each to a handler here, which
//! makes it or does not.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, Once, PoisonError, mpsc};
use std::thread;

/// What a call has in place of an argument that is none, so that the kernel lets it through.
const MADE_HERE: usize = 0x5a5a_5000;

/// The calls seen since the start, and which of them fail: so many from that one on.
static SEEN: AtomicUsize = AtomicUsize::new(0);
static FIRST: AtomicUsize = AtomicUsize::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(0);

extern "C" fn handle(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let seen = SEEN.fetch_add(1, SeqCst) + 1;
    let first = FIRST.load(SeqCst);
    // SAFETY: 1. The kernel gives the thread's own state, as it was at the call. 2. The call is one that the thread was about to make, with
    // one argument more that it does not look at. 3. The place of the thread's own error number is there.
    unsafe {
        let state = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let of = |register: libc::c_int| state[register as usize];
        let answer = if (first..first + COUNT.load(SeqCst)).contains(&seen) {
            -i64::from(libc::ENOMEM)
        } else {
            let error = libc::__errno_location();
            let kept = *error;
            let call = of(libc::REG_RAX);
            let [a, b, c] = [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX].map(of);
            let [d, e] = [libc::REG_R10, libc::REG_R8].map(of);
            let answer = libc::syscall(call, a, b, c, d, e, MADE_HERE);
            let answer = if answer == -1 { -i64::from(*error) } else { answer };
            *error = kept;
            answer
        };
        state[libc::REG_RAX as usize] = answer;
    }
}

/// Runs this in a thread in which `count` of these calls (of `mmap` only those for new memory) fail from the `first` on, which is 1. Second: how
/// many it made. The thread waits for the end of the process, since the C library gives its stack back where no handler can be called.
pub fn refusing<T: Send + 'static>(
    call: libc::c_long,
    first: usize,
    count: usize,
    run: impl FnOnce() -> T + Send + 'static,
) -> (T, usize) {
    static TURN: Mutex<()> = Mutex::new(());
    static HANDLER: Once = Once::new();
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    HANDLER.call_once(|| {
        // SAFETY: 1. All zeros is a set of nothing. 2. The handler calls nothing that is not safe there.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            assert_eq!(libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()), 0);
        }
    });
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        // The C library's own memory for this thread.
        drop(std::hint::black_box(vec![1u8; 1000]));
        FIRST.store(first, SeqCst);
        COUNT.store(count, SeqCst);
        SEEN.store(0, SeqCst);
        hand_over(call);
        let result = catch_unwind(AssertUnwindSafe(run));
        let seen = SEEN.load(SeqCst);
        COUNT.store(0, SeqCst);
        tell.send((result, seen)).unwrap();
        loop {
            thread::park();
        }
    });
    let (result, seen) = told.recv().unwrap();
    (result.unwrap_or_else(|panic| resume_unwind(panic)), seen)
}

/// From now on the handler gets this call of this thread.
fn hand_over(call: libc::c_long) {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const HAS: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    /// Where the lower half of an argument is.
    const fn argument(at: u32) -> u32 {
        16 + 8 * at
    }
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // Of `mmap` its flags; of others the number itself, which is not 0.
    let (looked_at, is_new) =
        if call == libc::SYS_mmap { (argument(3), libc::MAP_ANONYMOUS as u32) } else { (0, u32::MAX) };
    let mut program = [
        op(LOAD, 0, 0, 0),
        op(IS, 0, 5, call as u32),
        op(LOAD, 0, 0, argument(5)),
        op(IS, 3, 0, MADE_HERE as u32),
        op(LOAD, 0, 0, looked_at),
        op(HAS, 0, 1, is_new),
        op(RETURN, 0, 0, libc::SECCOMP_RET_TRAP),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: 1. The filter and its program are there until the call returns, which is of this thread alone.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter), 0);
    }
}
