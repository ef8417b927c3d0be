//! A VM on its thread, and what it was sent.

use super::error::StartError;
use super::home;
use super::jobs::Jobs;
use super::registered::{Bound, noted};
use crate::pending::{PendingCall, PendingQueue, QueueOptions};
use crate::registry::{RegisterError, Registry};
use crate::signal_safe::word::InterpreterId;
use crate::thread_state;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

/// A VM on the thread that made it, which runs what it is sent: see the [module](crate::bound).
///
/// Its descriptor ([`AsFd`], [`AsRawFd`]) is readable when there is something for a [`turn`](Self::turn) to do, and
/// when it is to stop. Nobody else should read it.
///
/// Dropping it drops the VM, and what waits for it. An interpreter that is registered still has nobody then that would
/// run what it is sent, and refuses jobs. A call that a handler pushes is run by a drain of the interpreter, on
/// whatever thread that is, and is told [`Refused::Elsewhere`](super::Refused::Elsewhere) there.
pub struct Loop<V: 'static> {
    id: InterpreterId,
    queue: PendingQueue<'static, Bound<V>>,
    /// Before `vm`: what it is about to drop is nobody's to find any more.
    end: End<V>,
    vm: Rc<RefCell<V>>,
}

/// Dropped, it ends what a [`Loop`] has begun.
struct End<V: 'static> {
    jobs: Arc<Jobs<V>>,
    queue: PendingQueue<'static, Bound<V>>,
}

impl<V: 'static> Drop for End<V> {
    fn drop(&mut self) {
        home::remove(self.jobs.number);
        self.jobs.end(|| self.queue.discard());
        self.queue.abandon();
    }
}

/// A runner: while a call of a VM of this thread runs, handlers are told so.
fn told<V: 'static>(call: PendingCall<'_, Bound<V>>) {
    let noted = noted(call.guard());
    match home::is_here(call.guard().jobs.number) {
        true => thread_state::noted_while(noted, || call.run()),
        false => call.run(),
    }
}

impl<V: 'static> Loop<V> {
    /// Makes a VM on the calling thread, and registers it: `make` is told its ID.
    ///
    /// Context: normal; takes as long as `make` does.
    ///
    /// # Errors
    /// [`StartError`], but for `Thread` and `Panicked`. The VM, if it was made, is dropped.
    ///
    /// # Panics
    /// If `make` does. Nothing is registered.
    ///
    /// ```
    /// use interp_guard::{Registry, bound::{Bound, Loop}};
    /// use std::rc::Rc;
    ///
    /// static VMS: Registry<Bound<Rc<u32>>> = Registry::new();
    /// let mut vm = Loop::new(&VMS, |_id| Rc::new(7))?;
    /// assert_eq!(vm.with(|vm| **vm), 7);
    /// # Ok::<(), interp_guard::bound::StartError>(())
    /// ```
    pub fn new(
        registry: &'static Registry<Bound<V>>,
        make: impl FnOnce(InterpreterId) -> V,
    ) -> Result<Self, StartError> {
        let options = QueueOptions::new().name("a bound interpreter's").runner(told);
        let queue = PendingQueue::with(registry, options).map_err(StartError::Queue)?;
        let jobs = Arc::new(Jobs::new());
        let (mut made, bound) = (None, Bound { jobs: jobs.clone(), queue: queue.clone() });
        let id = registry
            .register_with(|id| {
                made = Some(make(id));
                bound
            })
            .map_err(|refused| StartError::Register(without_bound(refused)))?;
        let Some(vm) = made else { unreachable!("what is registered was made") };
        let vm = Rc::new(RefCell::new(vm));
        home::add(jobs.number, vm.clone());
        let end = End { jobs, queue: queue.clone() };
        queue.run_pending(); // from here on it is this thread's
        Ok(Self { id, queue, end, vm })
    }

    /// The VM's ID.
    ///
    /// Context: any.
    ///
    /// ```
    /// # use interp_guard::{Registry, bound::{Bound, Loop}};
    /// # static VMS: Registry<Bound<u32>> = Registry::new();
    /// let mut told = None;
    /// let vm = Loop::new(&VMS, |id| {
    ///     told = Some(id);
    ///     7
    /// })?;
    /// assert_eq!(told, Some(vm.id()));
    /// # Ok::<(), interp_guard::bound::StartError>(())
    /// ```
    pub fn id(&self) -> InterpreterId {
        self.id
    }

    /// The VM's queue, for signal handlers.
    ///
    /// Context: any; `push` is for handlers.
    ///
    /// ```
    /// use interp_guard::{Guard, Registry, bound::{Bound, Loop}, signal};
    ///
    /// static VMS: Registry<Bound<u32>> = Registry::new();
    /// let mut vm = Loop::new(&VMS, |_id| 0)?;
    /// let interrupt = |guard: &Guard<'_, Bound<u32>>, _| guard.with(|vm| *vm += 1).expect("its thread");
    /// let handler = signal::on_signal(vm.queue(), libc::SIGUSR1, vm.id(), interrupt, 0)?;
    /// signal_hook::low_level::raise(libc::SIGUSR1)?;
    /// vm.turn();
    /// assert_eq!(vm.with(|vm| *vm), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn queue(&self) -> &PendingQueue<'static, Bound<V>> {
        &self.queue
    }

    /// Calls `f` with the VM.
    ///
    /// Context: normal; takes as long as `f` does.
    ///
    /// # Panics
    /// If `f` does. If this thread is inside a [`Guard::with`](crate::Guard::with) of the VM.
    ///
    /// ```
    /// # use interp_guard::{Registry, bound::{Bound, Loop}};
    /// # static VMS: Registry<Bound<u32>> = Registry::new();
    /// let mut vm = Loop::new(&VMS, |_id| 1)?;
    /// vm.with(|vm| *vm += 1);
    /// assert_eq!(vm.with(|vm| *vm), 2);
    /// # Ok::<(), interp_guard::bound::StartError>(())
    /// ```
    #[track_caller]
    pub fn with<R>(&mut self, f: impl FnOnce(&mut V) -> R) -> R {
        f(&mut self.vm.try_borrow_mut().expect("this thread is inside a function that has the VM"))
    }

    /// Runs what waits, those that are sent meanwhile not included, and says whether to go on. `Break`: the interpreter
    /// has been finalized, and its [`Bound`] was dropped. Nothing will be sent any more.
    ///
    /// Context: normal; takes as long as the jobs do.
    ///
    /// ```
    /// # use interp_guard::{Registry, bound::{Bound, Loop}};
    /// # static VMS: Registry<Bound<u32>> = Registry::new();
    /// let mut vm = Loop::new(&VMS, |_id| 0)?;
    /// VMS.post(vm.id(), |vm| *vm += 1).expect("there is room");
    /// assert!(vm.turn().is_continue());
    /// assert_eq!(vm.with(|vm| *vm), 1);
    /// drop(VMS.finalize(vm.id(), None)?);
    /// assert!(vm.turn().is_break());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn turn(&mut self) -> ControlFlow<()> {
        self.queue.run_pending();
        self.end.jobs.drop_discarded(|| self.queue.is_empty());
        match self.end.jobs.is_to_stop() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Takes turns until it is told to stop, and gives the VM back: for a thread that does nothing else.
    ///
    /// Context: normal; blocks.
    ///
    /// # Errors
    /// The system refuses to wait for the descriptor, as it does where `RLIMIT_NOFILE` has become 0, or somebody closed
    /// it. What waits is dropped, as by the drop.
    ///
    /// ```
    /// # use interp_guard::{Registry, bound::{Bound, Loop}};
    /// # static VMS: Registry<Bound<u32>> = Registry::new();
    /// let vm = Loop::new(&VMS, |_id| 6)?;
    /// let id = vm.id();
    /// let other = std::thread::spawn(move || {
    ///     VMS.post(id, |vm| *vm += 1).expect("there is room");
    ///     drop(VMS.finalize(id, None).expect("it is served"));
    /// });
    /// assert_eq!(vm.run()?, 7);
    /// # other.join().unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run(mut self) -> io::Result<V> {
        let serving = self.queue.serve();
        while self.turn().is_continue() {
            // With no descriptor besides the queue's: a child that is forked meanwhile would be left with it.
            let mut events = [PollFd::new(self.queue.as_fd(), PollFlags::POLLIN)];
            match poll(&mut events, PollTimeout::from(LOOK)) {
                Err(Errno::EINTR) => {} // a signal that is let in
                Err(why) => return Err(why.into()),
                Ok(_) if events[0].revents().is_some_and(|event| event.contains(PollFlags::POLLNVAL)) => {
                    return Err(Errno::EBADF.into()); // somebody closed it
                }
                Ok(_) => {}
            }
        }
        drop(serving);
        Ok(self.into_inner())
    }

    /// The VM. What waits for it is dropped.
    ///
    /// Context: normal.
    ///
    /// # Panics
    /// Inside a [`Guard::with`](crate::Guard::with) of the VM.
    ///
    /// ```
    /// # use interp_guard::{Registry, bound::{Bound, Loop, CallError, Refused}};
    /// # static VMS: Registry<Bound<u32>> = Registry::new();
    /// let vm = Loop::new(&VMS, |_id| 7)?;
    /// let id = vm.id();
    /// assert_eq!(vm.into_inner(), 7);
    /// let refused = VMS.call(id, |vm| *vm).unwrap_err();
    /// assert!(matches!(refused, CallError::Refused(Refused::Ended)));
    /// # Ok::<(), interp_guard::bound::StartError>(())
    /// ```
    #[track_caller]
    pub fn into_inner(self) -> V {
        let Self { end, vm, .. } = self;
        drop(end);
        let vm = Rc::try_unwrap(vm).ok().expect("this thread is inside a function that has the VM");
        vm.into_inner()
    }
}

/// How long a thread waits at a time, in milliseconds: of what somebody threw away, no descriptor tells.
const LOOK: u16 = 1_000;

fn without_bound<V>(refused: RegisterError<Option<Bound<V>>>) -> RegisterError<()> {
    match refused {
        RegisterError::RegistryFull(_) => RegisterError::RegistryFull(()),
        RegisterError::DuplicateId(_) => RegisterError::DuplicateId(()),
        RegisterError::RetiredId(_) => RegisterError::RetiredId(()),
        RegisterError::ShuttingDown(_) => RegisterError::ShuttingDown(()),
        RegisterError::Unavailable(_, why) => RegisterError::Unavailable((), why),
    }
}

impl<V: 'static> AsFd for Loop<V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

impl<V: 'static> AsRawFd for Loop<V> {
    fn as_raw_fd(&self) -> RawFd {
        self.queue.as_raw_fd()
    }
}

impl<V: 'static> fmt::Debug for Loop<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loop").field("id", &self.id).finish_non_exhaustive()
    }
}
