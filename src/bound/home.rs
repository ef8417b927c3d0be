//! The VMs of the calling thread.

use super::error::Refused;
use std::any::Any;
use std::cell::RefCell;
use std::mem::{self, ManuallyDrop};
use std::rc::Rc;

type Vms = Vec<(u64, Rc<dyn Any>)>;

thread_local! {
    /// By the number of its `Bound`. Not dropped when the thread ends: destructors of other thread-locals may have a
    /// loop still, or make one, after that.
    static VMS: RefCell<ManuallyDrop<Vms>> = const { RefCell::new(ManuallyDrop::new(Vec::new())) };
}

pub(super) fn add<V: 'static>(number: u64, vm: Rc<RefCell<V>>) {
    VMS.with_borrow_mut(|vms| vms.push((number, vm)));
}

/// On its thread. The last one takes the list's memory along.
pub(super) fn remove(number: u64) {
    let (vm, list) = VMS.with_borrow_mut(|vms| {
        let at = vms.iter().position(|vm| vm.0 == number);
        let vm = at.map(|at| vms.swap_remove(at));
        (vm, vms.is_empty().then(|| mem::take(&mut **vms)))
    });
    drop((vm, list)); // with nothing borrowed
}

fn find(number: u64) -> Option<Rc<dyn Any>> {
    VMS.with_borrow(|vms| vms.iter().find(|vm| vm.0 == number).map(|vm| vm.1.clone()))
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
