//! The VMs of the calling thread.

use super::error::Refused;
use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;

thread_local! {
    /// By the number of its `Bound`.
    static VMS: RefCell<Vec<(u64, Rc<dyn Any>)>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn add<V: 'static>(number: u64, vm: Rc<RefCell<V>>) {
    VMS.with_borrow_mut(|vms| vms.push((number, vm)));
}

/// On its thread. When that ends, there is nothing to remove any more.
pub(super) fn remove(number: u64) {
    let at = |vms: &RefCell<Vec<(u64, _)>>| {
        let mut vms = vms.borrow_mut();
        vms.iter().position(|vm| vm.0 == number).map(|at| vms.swap_remove(at))
    };
    drop(VMS.try_with(at)); // what it returns is dropped with nothing borrowed
}

fn find(number: u64) -> Option<Rc<dyn Any>> {
    let find = |vms: &RefCell<Vec<(u64, Rc<dyn Any>)>>| {
        vms.borrow().iter().find(|vm| vm.0 == number).map(|vm| vm.1.clone())
    };
    VMS.try_with(find).ok().flatten()
}

pub(super) fn is_here(number: u64) -> bool {
    find(number).is_some()
}

/// Calls `f` with the VM that has this number.
///
/// # Errors
/// [`Refused::Elsewhere`], [`Refused::Lent`].
pub(super) fn with<V: 'static, R>(number: u64, f: impl FnOnce(&mut V) -> R) -> Result<R, Refused> {
    let vm = find(number).ok_or(Refused::Elsewhere)?;
    let Some(vm) = vm.downcast_ref::<RefCell<V>>() else { unreachable!("a number is of one VM") };
    let mut vm = vm.try_borrow_mut().map_err(|_| Refused::Lent)?;
    Ok(f(&mut vm))
}
