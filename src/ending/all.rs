//! Shutting a whole registry down: close everything, drain everything under one deadline, hand everything out.
//!
//! Every interpreter is closed, under one hold of the mutex and with one heavy fence, before the first is drained: a
//! guard's holder that is waited for can take no new guard of any interpreter meanwhile. Nobody registers meanwhile
//! either, so the list that was made under that hold is complete.

use super::closing::{Claim, Closing, TakeUp};
use super::error::{DrainError, FinalizeError};
use super::on_close::run_on_close;
use super::options::{DrainOptions, Phase, Watch};
use crate::registry::{CloseError, Registry};
use crate::signal_safe::word::InterpreterId;
use std::time::Duration;

type Outcome<'r, T, V = T> = Result<V, FinalizeError<'r, T>>;

/// Shutting down.
impl<T: Send + Sync + 'static> Registry<T> {
    /// Closes every interpreter, then drains all under one deadline, then hands them out: newest registration first,
    /// the main interpreter last.
    ///
    /// While it runs, `register` says [`ShuttingDown`](crate::RegisterError::ShuttingDown); when it has returned, or
    /// unwound, the registry is open again. The answer has every interpreter that was registered when the call began:
    /// by value, or with the reason why not.
    ///
    /// An interpreter whose [`Closing`](crate::Closing) somebody else holds is left to them and not waited for:
    /// [`FinalizeError::AlreadyClosing`], whether they have finished with it by the end or not. If they drop the
    /// `Closing` before the others are drained, the interpreter is drained here.
    ///
    /// What an error holds that the calling thread got from `finalize` or from this is taken up again. To be called detached from
    /// every interpreter: see [`Closing::drain`](crate::Closing::drain), which also says when pending calls are run here.
    ///
    /// Context: normal; blocks, with no lock held.
    ///
    /// # Panics
    /// If a callback of [`on_close`](Self::on_close) panicked, when all of them have run. The interpreters are closed
    /// then, and free to be taken up.
    ///
    /// # Complexity
    /// O(interpreters * CPUs), besides the waiting; one heavy fence in all.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # use std::time::Duration;
    /// let registry = Registry::new();
    /// let main = registry.register("main").unwrap();
    /// let sub = registry.register("sub").unwrap();
    /// let guard = registry.lookup(sub)?;
    /// let mut all = registry.finalize_all(Some(Duration::ZERO)).into_iter();
    /// let (id, outcome) = all.next().unwrap();
    /// assert_eq!(id, sub);
    /// println!("{}", outcome.unwrap_err()); // says who holds it
    /// let (id, outcome) = all.next().unwrap();
    /// assert_eq!((id, outcome.unwrap()), (main, "main"));
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    pub fn finalize_all(&self, timeout: Option<Duration>) -> Vec<(InterpreterId, Outcome<'_, T>)> {
        self.finalize_all_with(DrainOptions::new().timeout(timeout))
    }

    /// [`finalize_all`](Self::finalize_all) with an interrupt check or an observer. An interrupt ends the waiting for
    /// all interpreters; those that no guard holds by then are handed out nonetheless.
    ///
    /// Context: normal; blocks, with no lock held.
    ///
    /// ```
    /// # use interp_guard::{DrainOptions, Phase, Registry};
    /// let registry = Registry::new();
    /// let id = registry.register("main").unwrap();
    /// let mut phases = Vec::new();
    /// registry.finalize_all_with(DrainOptions::new().observe(|phase| phases.push(phase)));
    /// assert_eq!(phases, [Phase::Closed { interpreters: 1 }, Phase::Drained(id), Phase::Finalized(id)]);
    /// ```
    pub fn finalize_all_with<'r>(
        &'r self,
        options: DrainOptions<'_>,
    ) -> Vec<(InterpreterId, Outcome<'r, T>)> {
        let mut watch = options.start();
        let _shut = Shut::new(self);
        let closings = self.close_all();
        watch.tell(Phase::Closed { interpreters: closings.len() });
        let drained =
            closings.into_iter().map(|(id, closing)| (id, closing.map(|closing| drain(closing, &mut watch))));
        let mut drained: Vec<_> = drained.collect();
        // Those of somebody else last: until now they could come free.
        for (id, theirs) in drained.iter_mut().filter(|(_, outcome)| outcome.is_none()) {
            *theirs = Some(match Closing::begin(self, *id, TakeUp::OrOwn) {
                Ok(closing) => drain(closing, &mut watch),
                Err(CloseError::NotFound | CloseError::AlreadyClosing) => {
                    watch.tell(Phase::NotDrained(*id));
                    Err(FinalizeError::AlreadyClosing)
                }
            });
        }
        let mut hand_out =
            |closing: Closing<'r, T>| closing.hand_over(&mut watch).map_err(DrainError::for_finalize);
        drained.into_iter().filter_map(|(id, outcome)| Some((id, outcome?.and_then(&mut hand_out)))).collect()
    }

    /// Closes what is not closed yet and takes up what nobody holds, in the order in which to hand out. `None`: somebody
    /// else holds it.
    fn close_all(&self) -> Vec<(InterpreterId, Option<Closing<'_, T>>)> {
        let mut claimed = {
            let mut book = self.lock();
            let Some(book) = book.as_mut() else { return Vec::new() };
            let mut order: Vec<_> =
                book.entries.iter().map(|(&id, entry)| (id, entry.registration)).collect();
            let main = self.main();
            order.sort_unstable_by_key(|&(id, registration)| {
                (main == Some(id), std::cmp::Reverse(registration))
            });
            let claim = |(id, _)| (id, Closing::claim(self, book, id, TakeUp::OrOwn).ok());
            order.into_iter().map(claim).collect::<Vec<_>>()
        };
        let fenced = self.table().heavy_fence();
        let mut callbacks = Vec::new();
        for Claim { closing, on_close, was_live } in
            claimed.iter_mut().filter_map(|(_, claim)| claim.as_mut())
        {
            closing.fenced = fenced;
            callbacks.append(on_close);
            if *was_live {
                closing.tell_closed();
            }
        }
        let closings =
            claimed.into_iter().map(|(id, claim)| (id, claim.map(|claim| claim.closing))).collect();
        run_on_close(callbacks);
        closings
    }
}

/// Waits for one interpreter, as long as the watch allows for all.
fn drain<'r, T: Send + Sync + 'static>(
    closing: Closing<'r, T>,
    watch: &mut Watch<'_>,
) -> Outcome<'r, T, Closing<'r, T>> {
    let id = closing.id();
    let drained = closing.until_drained(watch);
    watch.tell(if drained.is_ok() { Phase::Drained(id) } else { Phase::NotDrained(id) });
    drained.map_err(DrainError::for_finalize)
}

/// While one exists, nothing is registered.
struct Shut<'r, T: Send + Sync + 'static> {
    registry: &'r Registry<T>,
    /// The fork generation in which it was counted: a child starts from zero.
    generation: u32,
}

impl<'r, T: Send + Sync + 'static> Shut<'r, T> {
    fn new(registry: &'r Registry<T>) -> Self {
        registry.change_shutdowns(|count| count + 1);
        Self { registry, generation: registry.table().generation() }
    }
}

impl<T: Send + Sync + 'static> Drop for Shut<'_, T> {
    fn drop(&mut self) {
        if self.generation == self.registry.table().generation() {
            self.registry.change_shutdowns(|count| count - 1);
        }
    }
}
