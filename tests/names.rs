//! Interpreters with names: given at the registration or later, shown by every report, gone with the interpreter.
#![allow(missing_docs)]

use interp_guard::{InterpreterId, LookupError, RegisterError, Registry};
use std::time::Duration;

fn id(number: i64) -> InterpreterId {
    InterpreterId::try_from(number).expect("in range")
}

/// The first line of a report.
fn first_line(report: &impl ToString) -> String {
    report.to_string().lines().next().expect("a line").to_owned()
}

#[test]
fn every_report_has_the_name() {
    let registry = Registry::new().ledger(true);
    let mail = registry.register_named("mail", 1).expect("registered");
    let guard = registry.lookup(mail).expect("live");
    assert_eq!(registry.name(mail).as_deref(), Some("mail"));
    let holders = registry.holders(mail).expect("registered");
    assert_eq!(
        (holders.name(), holders.summary()),
        (Some("mail"), "interpreter 0 \"mail\": 1 guard is out".into())
    );
    let another = guard.clone();
    assert_eq!(
        registry.holders(mail).expect("registered").summary(),
        "interpreter 0 \"mail\": 2 guards are out"
    );
    drop(another);

    let late = registry.finalize(mail, Some(Duration::ZERO)).expect_err("a guard is out");
    let line = first_line(&late);
    assert!(line.starts_with("the drain timed out: interpreter 0 \"mail\": 1 guard is out after "), "{line}");
    assert!(format!("{late:?}").contains("mail"), "{late:?}");
    drop(late);
    let [(_, Err(late))] = &registry.finalize_all(Some(Duration::ZERO))[..] else { panic!("a guard is out") };
    assert!(first_line(late).contains("interpreter 0 \"mail\": 1 guard is out"), "{late}");
    drop(guard);
}

#[test]
fn the_name_is_there_when_the_report_is_made_and_stays_in_it() {
    let registry = Registry::new();
    let mail = registry.register_named("mail", 1).expect("registered");
    let guard = registry.lookup(mail).expect("live");
    let closing = registry.close(mail).expect("live");
    registry.set_name(mail, "news").expect("closing, and there");
    let late = closing.drain(Some(Duration::ZERO)).expect_err("a guard is out");
    registry.set_name(mail, "sports").expect("closing, and there");
    assert_eq!(late.undrained().holders().name(), Some("news"));
    drop(guard);
    assert!(late.into_closing().drain(None).is_ok());
}

#[test]
fn somebody_elses_drain_is_told_by_name() {
    let registry = Registry::new();
    let mail = registry.register_named("mail", 1).expect("registered");
    let guard = registry.lookup(mail).expect("live");
    let closing = match registry.finalize(mail, Some(Duration::ZERO)) {
        Err(interp_guard::FinalizeError::Drain(late)) => late.into_undrained(),
        other => panic!("{other:?}"),
    };
    let taken_up = registry.finalize(mail, Some(Duration::ZERO)).expect_err("a guard is out");
    let superseded = closing.into_closing().drain(Some(Duration::ZERO)).expect_err("it owns nothing");
    assert_eq!(superseded.to_string(), "interpreter 0 \"mail\": another caller has taken over the drain");
    drop((taken_up, guard));
}

#[test]
fn names_need_not_differ_and_nothing_is_looked_up_by_them() {
    let registry = Registry::new();
    let both = [1, 2].map(|interpreter| registry.register_named("mail", interpreter).expect("registered"));
    assert_ne!(both[0], both[1]);
    assert_eq!(both.map(|id| registry.name(id)), [Some("mail".to_owned()), Some("mail".to_owned())]);
    assert_eq!(registry.finalize(both[0], None).expect("no guard is out"), 1);
    assert_eq!(registry.name(both[1]).as_deref(), Some("mail"));
}

#[test]
fn a_name_goes_with_its_interpreter() {
    let registry = Registry::new();
    let mail = registry.register_named("mail", 1).expect("registered");
    registry.finalize(mail, None).expect("no guard is out");
    assert_eq!(registry.name(mail), None);
    assert_eq!(registry.set_name(mail, "news"), Err(LookupError::NotFound));
    assert_eq!(registry.set_name(id(7), "news"), Err(LookupError::NotFound));
    let next = registry.register(2).expect("registered");
    assert_eq!(registry.name(next), None);
    let nameless = registry.register_named("", 3).expect("registered");
    assert_eq!(registry.name(nameless), None);
}

#[test]
fn an_id_of_the_callers_choice_is_named_afterwards() {
    let registry = Registry::new();
    registry.register_with_id(id(7), 1).expect("registered");
    assert_eq!(registry.holders(id(7)).expect("registered").summary(), "interpreter 7: 0 guards are out");
    registry.set_name(id(7), "mail").expect("live");
    assert_eq!(registry.name(id(7)).as_deref(), Some("mail"));
    registry.set_name(id(7), "").expect("live");
    assert_eq!(registry.name(id(7)), None);
}

/// A name cannot forge the lines of a report.
#[test]
fn what_is_not_printable_is_escaped() {
    let registry = Registry::new();
    let odd = registry.register_named("mail\"\n\x1b[2J", 1).expect("registered");
    assert_eq!(
        registry.holders(odd).expect("registered").summary(),
        "interpreter 0 \"mail\\\"\\n\\u{1b}[2J\": 0 guards are out"
    );
    assert_eq!(registry.name(odd).as_deref(), Some("mail\"\n\x1b[2J"), "as it was given");
}

#[test]
fn a_refused_registration_hands_the_interpreter_back_and_names_nothing() {
    let registry = Registry::with_capacity(1);
    let mail = registry.register_named("mail", 1).expect("registered");
    let refused = registry.register_named("news", 2).expect_err("full");
    assert!(matches!(refused, RegisterError::RegistryFull(2)), "{refused:?}");
    assert_eq!(registry.name(mail).as_deref(), Some("mail"));
}
