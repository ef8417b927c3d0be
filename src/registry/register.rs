//! Registering interpreters, and naming the main one.

use super::book::Book;
use super::error::RegisterError;
use super::set::Registry;
use crate::events;
use crate::signal_safe::LookupError;
use crate::signal_safe::word::InterpreterId;
use std::mem::ManuallyDrop;

/// From normal context. These may block, allocate, and take the registry's mutex.
impl<T: Send + Sync + 'static> Registry<T> {
    /// Registers an interpreter under a fresh ID.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// [`RegisterError`], with the interpreter in it. Nothing changed.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new();
    /// let first = registry.register("first")?;
    /// let second = registry.register("second")?;
    /// assert_ne!(first, second);
    /// # Ok::<(), interp_guard::RegisterError<&str>>(())
    /// ```
    pub fn register(&self, interpreter: T) -> Result<InterpreterId, RegisterError<T>> {
        self.insert(None, None, interpreter)
    }

    /// As [`register`](Self::register), and gives the interpreter a name: what reports call it besides its ID. An empty
    /// name is none.
    ///
    /// Names are for people. Several interpreters may have the same one, and nothing is looked up by it. It goes with
    /// the interpreter.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # use std::time::Duration;
    /// let registry = Registry::new();
    /// let id = registry.register_named("mail", "an interpreter").unwrap();
    /// let guard = registry.lookup(id)?;
    /// let late = registry.finalize(id, Some(Duration::ZERO)).unwrap_err();
    /// assert!(late.to_string().contains(r#"interpreter 0 "mail": 1 guard is out"#));
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    pub fn register_named(
        &self,
        name: impl Into<String>,
        interpreter: T,
    ) -> Result<InterpreterId, RegisterError<T>> {
        self.insert(None, some(name), interpreter)
    }

    /// Registers an interpreter under an ID of the caller's choice.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// [`RegisterError`], with the interpreter in it. Nothing changed.
    ///
    /// ```
    /// # use interp_guard::{InterpreterId, Registry};
    /// let registry = Registry::new();
    /// let seven = InterpreterId::try_from(7)?;
    /// registry.register_with_id(seven, "seven").unwrap();
    /// let refused = registry.register_with_id(seven, "another").unwrap_err();
    /// assert_eq!(refused.into_inner(), "another");
    /// # Ok::<(), interp_guard::InvalidId>(())
    /// ```
    pub fn register_with_id(&self, id: InterpreterId, interpreter: T) -> Result<(), RegisterError<T>> {
        self.insert(Some(id), None, interpreter).map(drop)
    }

    /// Registers an interpreter that has to know its ID: `make` is given a fresh one and makes the interpreter.
    ///
    /// Nobody finds the interpreter before `make` has returned: until then a lookup of the ID says
    /// [`NotFound`](LookupError::NotFound). `make` is called with no lock held, and may use the registry. It may take
    /// long: nobody waits for it.
    ///
    /// The place is taken first, so that a registry which is full is known to be so before anything is made. The ID is
    /// used up from then on, since `make` may have told it to others. If `make` panics, or what it made is refused, the
    /// place is given back and the ID is retired.
    ///
    /// Context: normal; takes as long as `make` does.
    ///
    /// # Errors
    /// [`RegisterError`]. There is no interpreter in it (`None`) where `make` was not called, and nothing changed.
    /// There is one where [`finalize_all`](Self::finalize_all) has begun while it was made:
    /// [`RegisterError::ShuttingDown`].
    ///
    /// # Panics
    /// If `make` does. Nothing is registered.
    ///
    /// ```
    /// # use interp_guard::{InterpreterId, Registry};
    /// struct Interpreter { id: InterpreterId }
    ///
    /// let registry = Registry::new();
    /// let id = registry.register_with(|id| Interpreter { id })?;
    /// assert_eq!(registry.lookup(id)?.id, id);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn register_with(
        &self,
        make: impl FnOnce(InterpreterId) -> T,
    ) -> Result<InterpreterId, RegisterError<Option<T>>> {
        if let Err(why) = self.be_known() {
            return Err(RegisterError::Unavailable(None, why));
        }
        let reserved = Reserved { id: self.reserve()?, registry: self };
        let interpreter = make(reserved.id);
        let id = self.insert_reserved(reserved, interpreter)?;
        events::registered(id, None);
        Ok(id)
    }

    fn insert_reserved(
        &self,
        reserved: Reserved<'_, T>,
        interpreter: T,
    ) -> Result<InterpreterId, RegisterError<Option<T>>> {
        let mut book = self.lock();
        if self.is_shutting_down() {
            return Err(RegisterError::ShuttingDown(Some(interpreter)));
        }
        let Some(book) = &mut *book else { unreachable!("set up by the caller, once and for all") };
        let id = ManuallyDrop::new(reserved).id;
        book.unreserve(id);
        // SAFETY: (1) the mutex is held; (2) the ID was fresh when it was reserved, and nobody else is given one that
        // was.
        unsafe { self.publish(book, id, false, None, interpreter) }
            .map_err(|interpreter| RegisterError::RegistryFull(Some(interpreter)))?;
        Ok(id)
    }

    fn reserve(&self) -> Result<InterpreterId, RegisterError<Option<T>>> {
        let mut book = self.lock();
        if self.is_shutting_down() {
            return Err(RegisterError::ShuttingDown(None));
        }
        let Some(book) = &mut *book else { unreachable!("set up by the caller, once and for all") };
        if book.taken() >= self.capacity() {
            return Err(RegisterError::RegistryFull(None));
        }
        book.reserve().ok_or(RegisterError::RetiredId(None)) // all 2^63 - 1 of them
    }

    fn insert(
        &self,
        asked: Option<InterpreterId>,
        name: Option<String>,
        interpreter: T,
    ) -> Result<InterpreterId, RegisterError<T>> {
        let called = if events::ON { name.clone() } else { None };
        let id = self.insert_untold(asked, name, interpreter)?;
        events::registered(id, called.as_deref());
        Ok(id)
    }

    fn insert_untold(
        &self,
        asked: Option<InterpreterId>,
        name: Option<String>,
        interpreter: T,
    ) -> Result<InterpreterId, RegisterError<T>> {
        if let Err(why) = self.be_known() {
            return Err(RegisterError::Unavailable(interpreter, why));
        }
        let mut book = self.lock();
        if self.is_shutting_down() {
            return Err(RegisterError::ShuttingDown(interpreter));
        }
        let Some(book) = &mut *book else { unreachable!("set up above, once and for all") };
        if let Some(id) = asked.filter(|&id| book.was_used(id)) {
            return Err(match book.is_taken(id) {
                true => RegisterError::DuplicateId(interpreter),
                false => RegisterError::RetiredId(interpreter),
            });
        }
        if book.taken() >= self.capacity() {
            return Err(RegisterError::RegistryFull(interpreter));
        }
        let Some(id) = asked.or_else(|| book.fresh_id()) else {
            return Err(RegisterError::RetiredId(interpreter)); // all 2^63 - 1 of them
        };
        // SAFETY: (1) the mutex is held; (2) `id` is in the book of used IDs neither as live nor as retired.
        unsafe { self.publish(book, id, asked.is_none(), name, interpreter) }
            .map_err(RegisterError::RegistryFull)?;
        Ok(id)
    }

    /// Puts an interpreter into the table and the book. From here on lookups find it. `Err`: there is no room in the
    /// table.
    ///
    /// # Safety
    /// 1. The mutex is held: `book` is this registry's.
    /// 2. `id` was never in the table.
    unsafe fn publish(
        &self,
        book: &mut Book,
        id: InterpreterId,
        fresh: bool,
        name: Option<String>,
        interpreter: T,
    ) -> Result<(), T> {
        let payload = Box::into_raw(Box::new(interpreter));
        // SAFETY: (1) and (2) are the caller's promises.
        let Some(slot) = (unsafe { self.table().insert(id, payload.cast()) }) else {
            // SAFETY: `payload` was boxed above and the table did not take it.
            return Err(unsafe { *Box::from_raw(payload) });
        };
        if book.entries.is_empty() {
            self.table().set_main(Some(id));
        }
        book.enter(id, slot, fresh, name);
        Ok(())
    }

    /// Names the main interpreter.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// [`LookupError::NotFound`], or [`LookupError::Finalizing`] if it is closing. Nothing changed.
    ///
    /// ```
    /// # use interp_guard::{InterpreterId, LookupError, Registry};
    /// let registry: Registry<String> = Registry::new();
    /// let unknown = InterpreterId::try_from(7)?;
    /// assert_eq!(registry.set_main(unknown), Err(LookupError::NotFound));
    /// # Ok::<(), interp_guard::InvalidId>(())
    /// ```
    pub fn set_main(&self, id: InterpreterId) -> Result<(), LookupError> {
        let book = self.lock();
        let entry = book.as_ref().and_then(|book| book.entries.get(&id)).ok_or(LookupError::NotFound)?;
        if self.table().is_closing(entry.slot) {
            return Err(LookupError::Finalizing);
        }
        self.table().set_main(Some(id));
        Ok(())
    }

    /// Gives an interpreter a name, live or closing, in place of the one that it has: see
    /// [`register_named`](Self::register_named). An empty name is none.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// [`LookupError::NotFound`]. Nothing changed.
    ///
    /// ```
    /// # use interp_guard::{InterpreterId, Registry};
    /// let registry = Registry::new();
    /// let seven = InterpreterId::try_from(7)?;
    /// registry.register_with_id(seven, "an interpreter").unwrap();
    /// registry.set_name(seven, "mail")?;
    /// assert_eq!(registry.name(seven).as_deref(), Some("mail"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_name(&self, id: InterpreterId, name: impl Into<String>) -> Result<(), LookupError> {
        let name = some(name);
        let mut book = self.lock();
        let entry = book.as_mut().and_then(|book| book.entries.get_mut(&id)).ok_or(LookupError::NotFound)?;
        entry.name = name;
        Ok(())
    }
}

/// A name, unless it is empty.
fn some(name: impl Into<String>) -> Option<String> {
    Some(name.into()).filter(|name| !name.is_empty())
}

/// A place that is taken for an interpreter which is being made. Dropped, it is given back.
struct Reserved<'r, T: Send + Sync + 'static> {
    registry: &'r Registry<T>,
    id: InterpreterId,
}

impl<T: Send + Sync + 'static> Drop for Reserved<'_, T> {
    fn drop(&mut self) {
        if let Some(book) = self.registry.lock().as_mut() {
            book.unreserve(self.id);
        }
    }
}
