//! Cold: what an operation costs when nothing of its data is in a cache.
//!
//! Before each single operation every present line of the process's heap and anonymous mappings is flushed,
//! the tables, counters and maps of all candidates among them; stacks, thread-local data, globals and code stay. The
//! time is that of one operation between two serialised time stamps, less the median for a candidate that does nothing.

use super::arch::{flush, flushed};
use super::clock::{tick_ns, ticks};
use super::measure::Summary;
use std::fs::File;
use std::os::unix::fs::FileExt;

const LINE: usize = 64;
const PAGE: usize = 4096;

/// The pages of the heap and of anonymous mappings that are present and hold no stack or thread-local data.
fn data_pages() -> Vec<usize> {
    thread_local!(static OWN: u8 = const { 0 });
    let local = 0_u8;
    // Where this thread's stack and its thread-local data are.
    let private = [&raw const local as usize, OWN.with(|own| std::ptr::from_ref(own) as usize)];
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc/self/maps");
    let present = File::open("/proc/self/pagemap").expect("/proc/self/pagemap");
    let mut pages = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (Some(range), Some(mode)) = (fields.next(), fields.next()) else { continue };
        let name = fields.nth(3).unwrap_or("");
        let address = |text: &str| usize::from_str_radix(text, 16).expect("an address");
        let Some((from, to)) = range.split_once('-').map(|(from, to)| (address(from), address(to))) else {
            continue;
        };
        let holds_private = private.iter().any(|at| (from..to).contains(at));
        if !mode.starts_with("rw-p") || !(name.is_empty() || name == "[heap]") || holds_private {
            continue;
        }
        let mut entries = vec![0_u8; (to - from) / PAGE * 8];
        present.read_exact_at(&mut entries, (from / PAGE * 8) as u64).expect("/proc/self/pagemap");
        let is_present = |entry: &[u8]| entry[7] & 0x80 != 0;
        pages.extend(
            (from..to)
                .step_by(PAGE)
                .zip(entries.chunks(8))
                .filter(|(_, e)| is_present(e))
                .map(|(page, _)| page),
        );
    }
    pages
}

fn flush_all(pages: &[usize]) {
    for &page in pages {
        for line in (page..page + PAGE).step_by(LINE) {
            // SAFETY: the page is mapped.
            unsafe { flush(line as *const u8) };
        }
    }
    flushed();
}

/// The median time of one operation of each candidate, flushed before every single one, in nanoseconds. The first
/// candidate does nothing; its time is taken off and not returned.
pub fn times(rounds: usize, operations: &[&dyn Fn()]) -> Vec<Summary> {
    let pages = data_pages();
    let mut times = vec![Vec::with_capacity(rounds); operations.len()];
    for _ in 0..rounds {
        for (operation, times) in operations.iter().zip(&mut times) {
            // Twice warm first: code, translations and branch predictions are not what is asked about.
            operation();
            operation();
            flush_all(&pages);
            let start = ticks();
            operation();
            times.push((ticks() - start) as f64 * tick_ns());
        }
    }
    let mut nothing = times.remove(0);
    let nothing = Summary::of(&mut nothing).ns;
    times
        .iter_mut()
        .map(|times| {
            times.iter_mut().for_each(|time| *time -= nothing);
            Summary::of(times)
        })
        .collect()
}
