// May import: processes, registry, signal_safe, thread_state, threads, unwind.
//! Pending calls: work that a signal handler leaves for a normal thread to run.
//!
//! A handler cannot run code of an interpreter. It can look the interpreter up and leave the guard, a function and a
//! word of data in a [`PendingQueue`]; a normal thread then calls the function with the guard. The guard keeps the
//! interpreter until the call has ended.
//!
//! Who runs the calls: a [`Worker`], or the program's own event loop, which polls the queue's descriptor and calls
//! [`run_pending`](PendingQueue::run_pending) when it is readable.
//!
//! A queue does not block its interpreters' finalizers. Closing an interpreter wakes whoever serves the queue; a drain
//! runs itself what only its own thread would run; and where nobody serves the queue, a drain's report names it. `finalize` from
//! inside a pending call *of that interpreter* could never end, and says so at once:
//! [`WouldDeadlock`](crate::FinalizeError::WouldDeadlock).
//!
//! # An event loop of one's own
//!
//! A queue is its loop's: the thread's that called `run_pending` last. The loop may end with the interpreter on the same thread.
//! A call that a signal leaves after the loop's last turn, or while the drain waits, is run by the drain, on that thread:
//!
//! ```
//! use interp_guard::{Registry, pending::PendingQueue};
//!
//! let registry = Registry::new();
//! let id = registry.register("main").unwrap();
//! let queue = PendingQueue::new(&registry)?;
//! queue.run_pending(); // from here on the queue is this thread's
//! let running = true;
//! while running {
//!     // poll(queue.as_fd(), and the loop's other descriptors), then
//!     queue.run_pending();
//!     # break;
//! }
//! queue.push(registry.lookup(id)?, |guard, _| println!("{} is told late", **guard), 0).unwrap(); // by a handler
//! registry.finalize(id, None).unwrap(); // runs it
//! assert_eq!(queue.ran().calls, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The rules, for a queue in which calls of the interpreter wait and that no worker and no `run_pending` in progress serves:
//!
//! | the thread that ran its calls last | a drain that may wait |
//! |---|---|
//! | is the one that drains, or has ended | runs the calls of this interpreter |
//! | is another one, and lives | leaves them to it, and looks again whether it does |
//! | there is none yet | leaves them to whoever will, until its deadline; without one, it runs them if its thread made the queue, or the one that did has ended |
//!
//! The kernel says which thread has ended. If it has given the thread's ID to another one since, or if it was the main thread,
//! `procfs` says so. Where that is not mounted, or no descriptor is left to ask it, such a thread seems to live.
//!
//! Whether somebody will come to serve a queue that nobody has served yet, no drain can know. A loop that calls `run_pending` only
//! when the descriptor is readable has not served it before the first call. So it calls `run_pending` once before its first turn:
//! from then on the queue is its own, whoever made it. Else a drain on its thread waits until the deadline, and reports the
//! queue as one that nobody serves; without a deadline, it waits for ever while another thread that made the queue lives.
//!
//! Nor does a drain know what other threads wait for. Without a deadline, two kinds of it never end:
//!
//! - Two loops, each draining an interpreter for which a call waits in the other's queue. Each leaves it to the other.
//! - A drain of an interpreter whose last guard is held by a call of another interpreter, as its data say, that waits for this
//!   thread. A drain runs calls of its own interpreter only. Run the queue first, or end the other interpreter first.
//!
//! A drain with a timeout of zero only looks: a loop that ends an interpreter by such drains goes on serving its queue.
//! Before each call a drain looks at its deadline and asks its interrupt check. Calls run in a drain as in `run_pending`, with no
//! lock held: a lock of the program's own that they take is not to be held around `finalize`.
//!
//! ```
//! use interp_guard::{Registry, pending::PendingQueue};
//!
//! static INTERPRETERS: Registry<String> = Registry::new();
//!
//! let id = INTERPRETERS.register("main".into())?;
//! let queue = PendingQueue::new(&INTERPRETERS)?;
//! // In a handler:
//! if let Ok(guard) = INTERPRETERS.lookup(id) {
//!     let _ = queue.push(guard, |guard, data| println!("{} got {data}", **guard), 10);
//! }
//! // In an event loop:
//! assert_eq!(queue.run_pending().calls, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attached;
mod call;
mod draining;
mod error;
mod keeper;
mod options;
mod pending_queue;
mod queue;
mod running;
mod typed;
mod worker;
mod worker_options;

pub use crate::registry::queues::Waiting;
pub use attached::attached;
pub use call::{Call, PendingCall};
pub use error::{PushError, QueueError};
pub use options::QueueOptions;
pub use pending_queue::PendingQueue;
pub use typed::Ran;
pub use worker::Worker;
pub use worker_options::WorkerOptions;

pub(crate) use draining::{Left, run_left, run_own};
pub(crate) use running::this_thread_runs_a_call_of;
